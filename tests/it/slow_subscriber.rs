//! One slow reader is nobody else's trouble: it is cut when it falls too far behind or takes nothing at all, and nobody
//! waits for it. A reader that is slow and goes on gets everything in order, and memory stays within its bounds.

use crate::support::{Client, End, Events, InProcess, PATIENCE, Random, Tidings, eventually, json_member, seeds};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tidings::{Closed, Config, Event, History, Hub, Request, Response, Topic};

/// What stalls in the server may last ten seconds. Whoever waited for one would show at this.
const LATE: Duration = Duration::from_secs(5);

/// The data of the n-th event: its number, and so many bytes that tell it from others.
fn numbered(n: usize, bytes: usize) -> String {
    let letter = char::from(b'a' + (n % 26) as u8);
    format!("{n} {}", letter.to_string().repeat(bytes))
}

/// The data of the next event, without the parser, which goes byte by byte and is too slow for megabytes. Events only.
fn next_data(client: &mut Client) -> Option<String> {
    let chunk = client.try_read_chunk().ok()??;
    let block = String::from_utf8(chunk).unwrap();
    let data = block.split_once("data: ").map(|(_, data)| data.strip_suffix("\n\n").expect("a whole block").to_owned());
    Some(data.expect("an event"))
}

/// A stream of the topic that is open: its first two chunks, the reconnection time and `tidings:open`, have come.
fn opened(events: Events) -> (Client, String) {
    let mut events = events;
    assert_eq!(events.client.read_chunk().unwrap(), b"retry: 3000\n\n");
    let open = String::from_utf8(events.client.read_chunk().unwrap()).unwrap();
    (events.client, json_member(&open, "position").to_owned())
}

#[test]
fn one_dead_reader_delays_no_other_stream_and_comes_back() {
    const EVENTS: usize = 300;
    const LIVE: usize = 4;
    let server = Tidings::start(&["serve", "--max-body", "128KiB"]);
    let (mut dead, mut last) = opened(server.subscribe("/topics/a"));
    let (got, has_got) = channel();
    std::thread::scope(|scope| {
        for _ in 0..LIVE {
            let (mut live, got) = (opened(server.subscribe("/topics/a")).0, got.clone());
            scope.spawn(move || {
                for n in 0..EVENTS {
                    assert_eq!(next_data(&mut live), Some(numbered(n, 100_000)));
                    got.send(n).unwrap();
                }
            });
        }
        // One at a time, so that nobody who reads is behind, and whoever waits for the dead one is seen.
        for n in 0..EVENTS {
            let begin = Instant::now();
            server.publish("/topics/a", &numbered(n, 100_000));
            for _ in 0..LIVE {
                assert_eq!(has_got.recv_timeout(PATIENCE), Ok(n));
            }
            assert!(begin.elapsed() < LATE, "event {n} took {:?}", begin.elapsed());
        }
    });
    let line = server.log_line_with(" behind after ");
    assert!(line.contains(" /topics/a behind after "), "{line}");
    assert_eq!(server.metric("tidings_disconnects_total{reason=\"behind\"}"), 1.0);
    assert_eq!(server.metric("tidings_disconnects_total{reason=\"stalled\"}"), 0.0);

    // What it has of the stream is whole and in order, and ends without a last chunk.
    let mut next = 0;
    loop {
        match dead.try_read_chunk() {
            Ok(chunk) => {
                let block = String::from_utf8(chunk.expect("a cut has no last chunk")).unwrap();
                assert!(block.ends_with(&format!("data: {}\n\n", numbered(next, 100_000))));
                last = block.strip_prefix("id: ").and_then(|rest| rest.split('\n').next()).unwrap().to_owned();
                next += 1;
            }
            Err(()) => break,
        }
    }
    assert!(next < EVENTS / 2, "{next} events were kept for one who reads nothing");

    // The history has room for ten of these: a gap, and those.
    let mut back = server.subscribe_with("/topics/a", &format!("Last-Event-ID: {last}\r\n"));
    let gap = back.expect_next();
    assert_eq!((&gap.event[..], json_member(&gap.data, "asked")), ("tidings:gap", &last[..]));
    for n in EVENTS - 10..EVENTS {
        let message = back.expect_next();
        assert!(message.data == numbered(n, 100_000), "{n} is {:.20}", message.data);
        assert!(n > EVENTS - 10 || json_member(&gap.data, "oldest") == message.last_event_id);
    }
    assert_eq!(back.expect_next().event, "tidings:open");
}

/// The resident memory of a process, in bytes.
#[cfg(target_os = "linux")]
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn memory_stays_bounded_with_many_dead_readers() {
    const TOPICS: usize = 40;
    let server = Tidings::start(&["serve", "--max-body", "128KiB"]);
    // Each has a topic of its own, so that no two queues share their events.
    let dead: Vec<_> = (0..TOPICS).map(|n| opened(server.subscribe(&format!("/topics/{n}")))).collect();
    let before = resident(server.pid());
    let mut most = before;
    for round in 0..15 {
        for n in 0..TOPICS {
            server.publish(&format!("/topics/{n}"), &numbered(round, 100_000));
        }
        most = most.max(resident(server.pid()));
    }
    eventually("all are cut", || server.metric("tidings_disconnects_total{reason=\"behind\"}") == TOPICS as f64);
    // Sixty megabytes were published. 16 MiB of history, 256 KiB for each of the queues, and as much again for what the
    // allocator does not give back.
    let bound = (2 * (16 + TOPICS as u64 / 4)) << 20;
    assert!(most - before < bound, "{} KiB grew by {} KiB", before / 1024, (most - before) / 1024);
    drop(dead);
}

/// Takes thirteen seconds, because the limit is ten: all that need so long are watched together.
#[test]
fn a_reader_is_cut_when_nothing_is_taken_for_ten_seconds_and_not_for_being_slow() {
    const EVENTS: usize = 80;
    let server = Tidings::start(&["serve", "--queue-bytes", "64MiB", "--max-body", "128KiB"]);
    let path = "/topics/a";
    let (mut stalled, _) = opened(server.subscribe(path));
    let (mut slow, _) = opened(server.subscribe(path));
    let (mut napping, _) = opened(server.subscribe(path));
    let begin = Instant::now();
    for n in 0..EVENTS {
        server.publish(path, &numbered(n, 100_000));
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It takes some every now and then, for longer than the limit; then all the rest.
            let mut n = 0;
            while begin.elapsed() < Duration::from_secs(13) {
                assert_eq!(next_data(&mut slow), Some(numbered(n, 100_000)));
                n += 1;
                std::thread::sleep(Duration::from_millis(500));
            }
            assert!(n < EVENTS / 2, "it was not slow");
            (n..EVENTS).for_each(|n| assert_eq!(next_data(&mut slow), Some(numbered(n, 100_000))));
        });
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(5).saturating_sub(begin.elapsed()));
            (0..EVENTS).for_each(|n| assert_eq!(next_data(&mut napping), Some(numbered(n, 100_000))));
        });
        let line = server.log_line_with(" stalled after ");
        assert!(begin.elapsed() >= Duration::from_secs(10), "cut after {:?} already", begin.elapsed());
        let seconds = line.split(" stalled after ").nth(1).and_then(|rest| rest.split('s').next()).unwrap();
        assert!((10.0..=18.0).contains(&seconds.parse::<f64>().unwrap()), "{line}");
    });
    // What the stalled one was sent is whole as far as it goes, and has no last chunk.
    let mut n = 0;
    while let Ok(chunk) = stalled.try_read_chunk() {
        assert!(chunk.expect("a cut has no last chunk").ends_with(format!("{}\n\n", numbered(n, 100_000)).as_bytes()));
        n += 1;
    }
    assert!(n < EVENTS);
    assert_eq!(server.metric("tidings_disconnects_total{reason=\"stalled\"}"), 1.0);
    assert_eq!(server.metric("tidings_disconnects_total{reason=\"behind\"}"), 0.0);
}

#[test]
fn readers_that_stall_and_go_on_get_everything_in_order() {
    for seed in seeds() {
        let hub = Hub::new(History { publish_bytes: 1 << 20, ..History::default() });
        let server = InProcess::with_hub(&hub, Config { queue_bytes: 64 << 20, ..Config::default() });
        let topic = Topic::new("a").unwrap();
        let mut random = seed.random(0);
        let mut size = || {
            let most = *random.pick(&[100, 1_000, 60_000]);
            random.below(most) as usize
        };
        let sizes: Vec<_> = (0..500).map(|_| size()).collect();
        let until = Instant::now() + Duration::from_millis(800);
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let (sizes, random) = (&sizes, seed.random(1 + reader));
                let version = if reader == 0 { "HTTP/1.0" } else { "HTTP/1.1" };
                let mut events = Events::open_as(version, server.address, "/topics/a", "");
                assert_eq!(events.expect_next().event, "tidings:open");
                scope.spawn(move || read_by_fits(events, random, sizes, until));
            }
            for (n, bytes) in sizes.iter().enumerate() {
                hub.publish(&topic, &Event::data(numbered(n, *bytes))).unwrap();
                if random.once_in(10) {
                    std::thread::sleep(Duration::from_micros(random.below(10_000)));
                }
            }
        });
        assert_eq!(server.closed_as(Closed::Behind) + server.closed_as(Closed::Stalled), 0);
    }
}

/// Reads all of them, and until then pauses at random.
fn read_by_fits(mut events: Events, mut random: Random, sizes: &[usize], until: Instant) {
    for (n, bytes) in sizes.iter().enumerate() {
        let message = events.expect_next();
        assert!(message.data == numbered(n, *bytes), "{n} is {:.20}", message.data);
        if random.once_in(20) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(random.below(100)));
        }
    }
}

/// A client that has just come is not behind: the head waits in its queue for company, not for the client.
#[test]
fn the_first_event_may_be_larger_than_the_queue() {
    let answer = |request: &Request| {
        let count = request.query("count").and_then(|count| count.parse::<usize>().ok()).unwrap();
        Response::stream(move |stream| (0..count).try_for_each(|n| stream.send(&Event::data(numbered(n, 6_000)))))
    };
    let server = InProcess::start(Config { queue_bytes: 4 * 1024, ..Config::default() }, answer);
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        for count in 1..4 {
            let mut events = Events::open_as(version, server.address, &format!("/?count={count}"), "");
            assert_eq!(events.take_data(count), (0..count).map(|n| numbered(n, 6_000)).collect::<Vec<_>>());
            assert_eq!((events.rest(), events.end), (vec![], Some(End::Finished)));
        }
    }
}

#[test]
fn a_cut_in_the_middle_of_an_event_is_seen_as_one() {
    let hub = Hub::new(History { publish_bytes: 1 << 20, ..History::default() });
    let server = InProcess::with_hub(&hub, Config { queue_bytes: 1 << 20, ..Config::default() });
    let topic = Topic::new("a").unwrap();
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut events = Events::open_as(version, server.address, "/topics/a", "");
        assert_eq!(events.expect_next().event, "tidings:open");
        let cut = server.closed_as(Closed::Behind);
        let event = Event::data("x".repeat(400_000));
        eventually("a cut", || {
            hub.publish(&topic, &event).unwrap();
            server.closed_as(Closed::Behind) > cut
        });
        // Events that came whole are dispatched; the torn one is not.
        assert!(events.rest().iter().all(|message| message.data.len() == 400_000));
        assert_eq!(events.end, Some(if version == "HTTP/1.1" { End::Broken } else { End::Finished }));
    }
}
