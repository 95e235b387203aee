//! Resuming: a client that comes back misses nothing and gets nothing twice, and what cannot be given is told.
//!
//! First what the contract says of ids, positions and gaps, one promise a test. Then the race: publishers, and
//! subscribers that leave and come back at random moments, held against the list of all that was published.

use crate::support::{
    Client, End, Events, InProcess, Message, PATIENCE, Random, Seed, Tidings, eventually, json_member, seeds,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidings::{Closed, Config, Event, History, Hub, Topic};

/// An id, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    n: u64,
    ms: u64,
}

impl Id {
    fn of(text: &str) -> Id {
        let (ms, n) = text.split_once('-').unwrap_or_else(|| panic!("no id of the hub's: {text:?}"));
        Id { n: n.parse().unwrap(), ms: ms.parse().unwrap() }
    }

    fn plus(self, events: u64) -> String {
        format!("{}-{}", self.ms, self.n + events)
    }
}

fn serve(options: &[&str]) -> Tidings {
    Tidings::start(&[&["serve"], options].concat())
}

/// What comes before and up to `tidings:open`, as `type data`; that one itself is left out, and its position checked.
fn before_open(events: &mut Events) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let message = events.expect_next();
        if message.event == "tidings:open" {
            let position = json_member(&message.data, "position");
            assert_eq!(message.data, format!(r#"{{"position":"{position}"}}"#));
            assert_eq!(message.last_event_id, position);
            return lines;
        }
        lines.push(line(&message));
    }
}

fn line(message: &Message) -> String {
    match &message.event[..] {
        "message" => message.data.clone(),
        event => format!("{event} {}", message.data),
    }
}

fn gap(asked: &str, oldest: Option<&str>, newest: &str) -> String {
    let oldest = oldest.map_or("null".to_owned(), |id| format!("\"{id}\""));
    format!(r#"tidings:gap {{"asked":"{asked}","oldest":{oldest},"newest":"{newest}"}}"#)
}

/// What a stream that resumes at this id gets before `tidings:open`.
fn resumed(server: &Tidings, path: &str, after: &str) -> Vec<String> {
    before_open(&mut server.subscribe_with(path, &format!("Last-Event-ID: {after}\r\n")))
}

/// The same of a poll, until its end.
fn polled(server: &Tidings, path: &str, after: &str) -> Vec<String> {
    let mut events = server.subscribe_with(&format!("{path}?poll=1"), &format!("Last-Event-ID: {after}\r\n"));
    let lines = events.rest().iter().map(line).collect();
    assert_eq!(events.end, Some(End::Finished));
    lines
}

/// The position that a new stream of these topics is given.
fn position(server: &Tidings, path: &str) -> String {
    let open = server.subscribe(path).expect_next();
    assert_eq!(open.event, "tidings:open");
    eventually("the stream has left its topics", || !server.get("/topics").1.contains("\"subscribers\":1"));
    open.last_event_id
}

fn publish_each<'a>(server: &Tidings, path: &str, texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    texts.into_iter().map(|text| server.publish(path, text)).collect()
}

#[test]
fn resumes_after_the_last_event_id() {
    let server = serve(&[]);
    let ids = publish_each(&server, "/topics/a", ["one", "two", "three"]);
    assert_eq!(resumed(&server, "/topics/a", &ids[0]), ["two", "three"]);
    assert_eq!(resumed(&server, "/topics/a", &ids[2]), [""; 0]);
    let mut events = server.subscribe_with("/topics/a", &format!("Last-Event-ID: {}\r\n", ids[1]));
    assert_eq!(before_open(&mut events), ["three"]);
    let id = server.publish("/topics/a", "live");
    let message = events.expect_next();
    assert_eq!((&message.data[..], &message.last_event_id), ("live", &id));
}

#[test]
fn the_field_comes_before_the_parameters_and_an_empty_one_counts_as_absent() {
    let server = serve(&[]);
    let ids = publish_each(&server, "/topics/a", ["one", "two", "three", "four"]);
    let with_ids = |text: &str| {
        let numbered = ids.iter().enumerate();
        numbered.fold(text.to_owned(), |text, (at, id)| text.replace(&format!("ID{}", at + 1), id))
    };
    for (query, fields, expected) in [
        ("", "", ""),
        ("", "Last-Event-ID: ID1\r\n", "two three four"),
        ("", "last-event-id: ID2\r\n", "three four"),
        ("?lastEventId=ID2", "", "three four"),
        ("?last_event_id=ID3", "", "four"),
        ("?lastEventId=ID2&last_event_id=ID3", "Last-Event-ID: ID1\r\n", "two three four"),
        ("?last_event_id=ID3&lastEventId=ID2", "", "three four"),
        ("?lastEventId=ID1&lastEventId=ID3", "", "four"),
        ("?last_event_id=ID1&last_event_id=ID3", "", "four"),
        ("?lastEventId=ID2", "Last-Event-ID:\r\n", "three four"),
        ("?lastEventId=ID2", "Last-Event-ID:  \r\n", "three four"),
        ("?lastEventId=&last_event_id=ID3", "Last-Event-ID:\r\n", "four"),
        ("?lastEventId=&last_event_id=", "Last-Event-ID:\r\n", ""),
        ("?lastEventId", "", ""),
        ("?lasteventid=ID1", "", ""),
        ("?lastEventId=earliest", "Last-Event-ID: ID3\r\n", "four"),
        ("?lastEventId=earliest", "", "one two three four"),
        ("", "Last-Event-ID: earliest\r\n", "one two three four"),
    ] {
        let mut events = server.subscribe_with(&with_ids(&format!("/topics/a{query}")), &with_ids(fields));
        assert_eq!(before_open(&mut events).join(" "), expected, "{query} {fields}");
    }
}

#[test]
fn a_new_stream_begins_with_a_place_to_resume_from_and_no_history() {
    let server = serve(&[]);
    server.publish("/topics/a", "before");
    let mut events = server.subscribe("/topics/a");
    let first = events.client.read_chunk().unwrap();
    assert_eq!(String::from_utf8(first).unwrap(), "retry: 3000\n\n");
    let open = String::from_utf8(events.client.read_chunk().unwrap()).unwrap();
    let id = open.strip_prefix("event: tidings:open\nid: ").and_then(|rest| rest.split('\n').next()).unwrap();
    assert_eq!(open, format!("event: tidings:open\nid: {id}\ndata: {{\"position\":\"{id}\"}}\n\n"));
    server.publish("/topics/a", "after");
    assert_eq!(events.expect_next().data, "after");
    drop(events);
    assert_eq!(resumed(&server, "/topics/a", id), ["after"]);
}

#[test]
fn a_stream_that_resumes_gets_no_id_before_its_replay() {
    let server = serve(&[]);
    let ids = publish_each(&server, "/topics/a", ["one", "two"]);
    let mut events = server.subscribe_with("/topics/a", &format!("Last-Event-ID: {}\r\n", ids[0]));
    let expected = format!(
        "retry: 3000\n\nid: {id}\ndata: two\n\nevent: tidings:open\nid: {id}\ndata: {{\"position\":\"{id}\"}}\n\n",
        id = ids[1]
    );
    let mut got = String::new();
    while got.len() < expected.len() {
        got.push_str(&String::from_utf8(events.client.read_chunk().unwrap()).unwrap());
    }
    assert_eq!(got, expected);
}

#[test]
fn one_id_resumes_several_topics() {
    let server = serve(&[]);
    let mut ids = Vec::new();
    for (topic, text) in [("a", "a1"), ("b", "b1"), ("c", "c1"), ("b", "b2"), ("c", "c2"), ("a", "a2"), ("b", "b3")] {
        ids.push(server.publish(&format!("/topics/{topic}"), text));
    }
    for (at, expected) in [(0, "b1 b2 a2 b3"), (2, "b2 a2 b3"), (3, "a2 b3"), (4, "a2 b3"), (6, "")] {
        assert_eq!(resumed(&server, "/topics/b,a", &ids[at]).join(" "), expected, "after {at}");
    }
    assert_eq!(resumed(&server, "/topics/c,b,a", &ids[1]).join(" "), "c1 b2 c2 a2 b3");
    let mut events = server.subscribe_with("/topics/a,b,c", &format!("Last-Event-ID: {}\r\n", ids[4]));
    assert_eq!(before_open(&mut events).join(" "), "a2 b3");
    let live: Vec<_> = ["c", "a", "b"].map(|topic| server.publish(&format!("/topics/{topic}"), topic)).into();
    let got: Vec<_> = (0..3).map(|_| events.expect_next().last_event_id).collect();
    assert_eq!(got, live);
}

#[test]
fn an_id_from_nowhere_is_told_as_a_gap_and_all_that_is_kept_follows() {
    let server = serve(&[]);
    let ids = publish_each(&server, "/topics/a", ["one", "two"]);
    let newest = Id::of(&ids[1]);
    server.publish("/topics/b", "elsewhere");
    let beyond = newest.plus(1_000_000);
    let hub_newest = newest.plus(1);
    for unknown in [
        &beyond[..],
        &format!("{}-{}", newest.ms + 3_600_000, newest.n),
        &format!("{}-{}", newest.ms - 3_600_000, newest.n),
        &format!("{}-1", newest.ms),
        "1-1",
        "0-0",
        "7",
        "-",
        "earlier",
        "EARLIEST",
        "close",
        "1-2-3",
        "+1-1",
        "18446744073709551616-1",
    ] {
        let told = resumed(&server, "/topics/a", unknown);
        // The clock of the other event may have gone on by a millisecond, so the newest is compared by its number.
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(json_member(&told[0], "asked"), unknown);
        assert_eq!(json_member(&told[0], "oldest"), ids[0]);
        assert_eq!(Id::of(json_member(&told[0], "newest")).n, Id::of(&hub_newest).n);
        assert_eq!(told[1..], ["one", "two"]);
    }
    assert_eq!(server.metric("tidings_gaps_total"), 14.0);
    assert_eq!(server.metric("tidings_events_replayed_total"), 28.0);
}

#[test]
fn an_id_of_another_run_is_told_as_a_gap() {
    let before = serve(&[]);
    let ids = publish_each(&before, "/topics/a", ["one", "two"]);
    let quiet = position(&before, "/topics/quiet");
    drop(before);
    let server = serve(&[]);
    let start = position(&server, "/topics/a");
    assert_eq!(resumed(&server, "/topics/a", &ids[0]), [gap(&ids[0], None, &start)]);
    assert_eq!(resumed(&server, "/topics/quiet", &quiet), [gap(&quiet, None, &start)]);
    let fresh = server.publish("/topics/a", "fresh");
    assert_eq!(resumed(&server, "/topics/a", &ids[1]), [gap(&ids[1], Some(&fresh), &fresh), "fresh".to_owned()]);
}

#[test]
fn an_id_that_was_asked_for_is_told_back_as_json_and_cut_to_128_bytes() {
    let server = serve(&[]);
    let newest = server.publish("/topics/a", "x");
    let long = "x".repeat(500);
    let accents = "%C3%A9".repeat(100);
    for (asked, told) in [
        ("a%22b%5Cc%0A%00", r#"a\"b\\c\n\u0000"#),
        (&long[..], &long[..128]),
        (&format!("x{accents}"), &format!("x{}", "é".repeat(63))),
        ("%FF", "\u{fffd}"),
    ] {
        let mut events = server.subscribe(&format!("/topics/a?lastEventId={asked}"));
        assert_eq!(before_open(&mut events), [gap(told, Some(&newest), &newest), "x".to_owned()], "{asked}");
    }
}

#[test]
fn what_was_evicted_by_count_is_told_as_a_gap() {
    let server = serve(&["--history", "3"]);
    let ids = publish_each(&server, "/topics/a", ["1", "2", "3", "4", "5"]);
    let told = |asked: &str| {
        let mut told = vec![gap(asked, Some(&ids[2]), &ids[4])];
        told.extend(["3", "4", "5"].map(str::to_owned));
        told
    };
    assert_eq!(resumed(&server, "/topics/a", &ids[0]), told(&ids[0]));
    assert_eq!(resumed(&server, "/topics/a", &ids[1]), ["3", "4", "5"], "it has all that is gone");
    assert_eq!(resumed(&server, "/topics/a", &ids[3]), ["5"]);
    assert_eq!(resumed(&server, "/topics/a", "earliest"), ["3", "4", "5"], "earliest never gaps");
    // The same without the live part.
    assert_eq!(polled(&server, "/topics/a", &ids[0]), told(&ids[0]));
    // A gap moves no client's last event ID.
    let mut events = server.subscribe_with("/topics/a", &format!("Last-Event-ID: {}\r\n", ids[0]));
    assert_eq!(events.expect_next().last_event_id, "");
}

#[test]
fn what_was_evicted_by_bytes_is_told_as_a_gap() {
    // Room for two events of 1,000 bytes, each with 160 for its place.
    let server = serve(&["--history-bytes", "2500"]);
    let big = "x".repeat(1000);
    let ids = publish_each(&server, "/topics/a", ["small", &big, &big, &big]);
    let told = resumed(&server, "/topics/a", &ids[0]);
    assert_eq!(told, [gap(&ids[0], Some(&ids[2]), &ids[3]), big.clone(), big.clone()]);
    assert_eq!(resumed(&server, "/topics/a", &ids[1]), [big.clone(), big]);
}

#[test]
fn what_was_evicted_by_the_bytes_of_all_topics_is_told_as_a_gap_there_and_only_there() {
    let server = serve(&["--history-total", "5000"]);
    let big = "x".repeat(1000);
    let a = publish_each(&server, "/topics/a", [&big[..], &big]);
    let b = publish_each(&server, "/topics/b", [&big[..], &big]);
    assert_eq!(resumed(&server, "/topics/a", &a[0]).len(), 1);
    let c = publish_each(&server, "/topics/c", [&big[..], &big]);
    // The oldest of all went first: both of a, so that nothing is left of it.
    assert_eq!(resumed(&server, "/topics/a", &a[0]), [gap(&a[0], None, &c[1])]);
    assert_eq!(resumed(&server, "/topics/a", &a[1]), [""; 0]);
    assert_eq!(resumed(&server, "/topics/b", &b[0]), std::slice::from_ref(&big));
    assert_eq!(resumed(&server, "/topics/b", &a[1]), [big.clone(), big.clone()]);
    let of_both = resumed(&server, "/topics/a,b", &a[0]);
    assert_eq!(of_both, [gap(&a[0], Some(&b[0]), &c[1]), big.clone(), big]);
}

#[test]
fn a_forgotten_topic_is_told_as_a_gap() {
    let server = serve(&["--max-topics", "2"]);
    let start = position(&server, "/topics/a");
    let a = publish_each(&server, "/topics/a", ["a1", "a2"]);
    server.publish("/topics/b", "b");
    let c = server.publish("/topics/c", "c"); // in the place of a
    assert_eq!(server.metric("tidings_topics"), 2.0);
    // Polled, because a stream that stays would make the topic anew.
    assert_eq!(polled(&server, "/topics/a", &a[1]), [""; 0]);
    for asked in [&start, &a[0]] {
        assert_eq!(polled(&server, "/topics/a", asked), [gap(asked, None, &c)]);
    }
    // It is not lost from memory when the topic is made anew.
    let a3 = server.publish("/topics/a", "a3");
    assert_eq!(resumed(&server, "/topics/a", &a[0]), [gap(&a[0], Some(&a3), &a3), "a3".to_owned()]);
    assert_eq!(resumed(&server, "/topics/a", &a[1]), ["a3"]);
    // Nothing kept at all is the same as forgotten.
    let server = serve(&["--history", "0"]);
    let ids = publish_each(&server, "/topics/a", ["1", "2"]);
    assert_eq!(resumed(&server, "/topics/a", &ids[0]), [gap(&ids[0], None, &ids[1])]);
    assert_eq!(resumed(&server, "/topics/a", &ids[1]), [""; 0]);
    assert_eq!(resumed(&server, "/topics/a", "earliest"), [""; 0]);
}

#[test]
fn nothing_is_told_where_nothing_was_lost() {
    let server = serve(&["--history", "2", "--history-total", "100000"]);
    let quiet = position(&server, "/topics/quiet");
    let both = position(&server, "/topics/quiet,kept");
    let kept = publish_each(&server, "/topics/kept", ["k1", "k2"]);
    let loud = publish_each(&server, "/topics/loud", (0..50).map(|_| "loud"));
    assert_eq!(resumed(&server, "/topics/quiet", &quiet), [""; 0], "a quiet topic");
    assert_eq!(resumed(&server, "/topics/quiet", &loud[0]), [""; 0], "an id of another topic");
    assert_eq!(resumed(&server, "/topics/quiet,kept", &both), ["k1", "k2"], "another topic's events were evicted");
    assert_eq!(resumed(&server, "/topics/kept", &kept[0]), ["k2"]);
    assert_eq!(resumed(&server, "/topics/loud", &loud[47]), ["loud", "loud"], "what was evicted is known");
    let quiet = position(&server, "/topics/quiet");
    let id = server.publish("/topics/quiet", "at last");
    assert_eq!(resumed(&server, "/topics/quiet", &quiet), ["at last"]);
    assert_eq!(resumed(&server, "/topics/quiet", &id), [""; 0]);
    assert_eq!(server.metric("tidings_gaps_total"), 0.0);
}

/// A hub over HTTP in this process, for streams with so long a queue.
fn hub_server(hub: &Hub, queue_bytes: usize) -> InProcess {
    InProcess::with_hub(hub, Config { queue_bytes, ..Config::default() })
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

#[test]
fn a_replay_larger_than_the_queue_comes_in_pieces_and_the_live_events_follow() {
    let hub = Hub::new(History { events: 10_000, bytes: 64 << 20, total_bytes: 64 << 20, ..History::default() });
    let server = hub_server(&hub, 16 * 1024);
    let (a, b) = (topic("a"), topic("b"));
    let padding = "x".repeat(3_000);
    let publish = |n: usize| {
        let receipt = hub.publish(if n % 3 == 0 { &a } else { &b }, &Event::data(format!("{n} {padding}"))).unwrap();
        receipt.id.to_string()
    };
    let first = publish(0);
    (1..2_000).for_each(|n| drop(publish(n)));
    let mut events = Events::open(server.address, "/topics/a,b", &format!("Last-Event-ID: {first}\r\n"));
    // Published while the client has read nothing yet: by far too much for its queue, if that were where it went.
    (2_000..2_100).for_each(|n| drop(publish(n)));
    let mut expected = 1;
    let mut has_opened = false;
    while expected < 2_100 {
        let message = events.expect_next();
        match &message.event[..] {
            "tidings:open" => has_opened = true,
            event => {
                assert_eq!((event, message.data.split(' ').next()), ("message", Some(&expected.to_string()[..])));
                expected += 1;
            }
        }
    }
    assert!(has_opened || events.expect_next().event == "tidings:open");
    publish(2_100);
    assert!(events.expect_next().data.starts_with("2100 "));
}

#[test]
fn what_is_evicted_while_a_long_replay_runs_is_told_in_the_middle() {
    const KEPT: usize = 100;
    let hub = Hub::new(History { events: KEPT, bytes: 64 << 20, total_bytes: 64 << 20, ..History::default() });
    let server = hub_server(&hub, 64 * 1024);
    let padding = "x".repeat(50_000);
    let publish = |n: usize| hub.publish(&topic("a"), &Event::data(format!("{n} {padding}"))).unwrap().id.to_string();
    for asked in [None, Some("earliest")] {
        let ids: Vec<_> = (0..KEPT).map(publish).collect();
        let before = hub.counts();
        let asked = asked.map_or(ids[0].clone(), str::to_owned);
        let mut events = Events::open(server.address, "/topics/a", &format!("Last-Event-ID: {asked}\r\n"));
        // Five megabytes do not fit into the kernel: once the replay has begun, it waits for this client.
        eventually("the first piece", || hub.counts().replayed > before.replayed);
        let all: Vec<_> = ids.into_iter().chain((KEPT..2 * KEPT).map(publish)).collect();
        let mut subscriber =
            Subscriber { topics: vec![0], last_id: asked.clone(), seen: vec![], visits: 0, random: Random::new(0) };
        subscriber.seen.push(Seen::Came(asked));
        while !matches!(subscriber.seen.last(), Some(Seen::Open(_))) {
            subscriber.note(events.expect_next());
        }
        let truth = all.iter().enumerate().map(|(n, id)| (Id::of(id).n, (0, format!("{n} {padding}")))).collect();
        check(&truth, &[0], &subscriber.seen, true);
        assert!(matches!(subscriber.seen[1], Seen::Event(..)), "what could still be given came first");
        let gaps = subscriber.seen.iter().filter(|seen| matches!(seen, Seen::Gap { .. })).count();
        assert_eq!(hub.counts().gaps, before.gaps + gaps as u64);
        assert!(gaps > 0, "a gap was told");
        let events = subscriber.seen.iter().filter(|seen| matches!(seen, Seen::Event(..))).count();
        assert!((KEPT..2 * KEPT - 1).contains(&events), "{events} of {}", 2 * KEPT);
    }
}

#[test]
fn a_limit_counts_replayed_events_and_neither_gap_nor_open() {
    let server = serve(&["--history", "3"]);
    let ids = publish_each(&server, "/topics/a", ["1", "2", "3", "4"]);
    let mut events = server.subscribe_with("/topics/a?limit=2", &format!("Last-Event-ID: {}\r\n", ids[1]));
    assert_eq!(events.take_data(2), ["3", "4"]);
    assert_eq!((events.rest(), events.end), (vec![], Some(End::Finished)));
    let mut events = server.subscribe_with("/topics/a?limit=4", "Last-Event-ID: nowhere\r\n");
    assert_eq!(events.expect_next().event, "tidings:gap");
    assert_eq!(events.take_data(3), ["2", "3", "4"]);
    assert_eq!(events.expect_next().event, "tidings:open");
    server.publish("/topics/a", "5");
    assert_eq!(events.expect_next().data, "5");
    assert_eq!((events.rest(), events.end), (vec![], Some(End::Finished)));
}

#[test]
fn a_client_that_was_cut_as_too_slow_comes_back_and_misses_nothing() {
    let server =
        serve(&["--queue-bytes", "64KiB", "--history", "1000", "--history-bytes", "64MiB", "--history-total", "64MiB"]);
    let mut events = server.subscribe("/topics/a");
    let mut last = events.expect_next().last_event_id;
    let padding = "x".repeat(20_000);
    let ids: Vec<_> = (0..500).map(|n| server.publish("/topics/a", &format!("{n} {padding}"))).collect();
    let line = server.log_line_with(" behind ");
    assert!(line.contains("/topics/a behind after "), "{line}");
    assert_eq!(server.metric("tidings_disconnects_total{reason=\"behind\"}"), 1.0);
    let mut got = Vec::new();
    for message in events.rest() {
        last = message.last_event_id.clone();
        got.push(message);
    }
    assert_eq!(events.end, Some(End::Broken), "a cut has no last chunk");
    assert!(got.len() < 500);
    let mut events = server.subscribe_with("/topics/a", &format!("Last-Event-ID: {last}\r\n"));
    while got.len() < 500 {
        got.push(events.expect_next());
    }
    assert_eq!(events.expect_next().event, "tidings:open");
    assert!(got.iter().map(|message| &message.last_event_id).eq(&ids));
    for (n, message) in got.iter().enumerate() {
        assert_eq!(message.data, format!("{n} {padding}"));
    }
}

/// A clock that is set back cannot be had in a test without setting everybody's. What is seen here is what that rests
/// on: the time in an id is the larger one of the clock's and the last id's, so that it never falls, however many
/// publish.
#[test]
fn ids_rise_by_one_over_all_topics_and_their_time_never_falls() {
    let hub = Hub::new(History::default());
    let ids = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (hub, ids) = (&hub, &ids);
            scope.spawn(move || {
                let topic = topic(&format!("topic {}", thread % 3));
                for n in 0..2_000 {
                    let batch = vec![Event::data("x"); 1 + n % 3];
                    let receipt = hub.publish_all(&topic, &batch).unwrap();
                    ids.lock().unwrap().push((Id::of(receipt.id.as_str()), batch.len() as u64));
                }
            });
        }
    });
    let mut ids = ids.into_inner().unwrap();
    ids.sort_unstable();
    for pair in ids.windows(2) {
        let [(before, _), (id, events)] = pair else { unreachable!() };
        assert_eq!(id.n, before.n + events, "{pair:?}");
        assert!(id.ms >= before.ms, "{pair:?}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let last = ids.last().unwrap().0;
    assert!(last.ms <= now && now - last.ms < 60_000, "{last:?} at {now}");
    assert!(ids[0].0.n < 1 << 49, "it began below 2^48");
}

// The race.

const TOPICS: [&str; 3] = ["a", "b", "c"];

/// How a race is run.
struct Race {
    /// So long, and until each subscriber has come five times.
    lasts: Duration,
    /// And until one that reads nothing was cut as too slow.
    needs_a_cut: bool,
    history: History,
    queue_bytes: usize,
    subscribers: u64,
    /// The most topics on one connection.
    most_topics: u64,
    /// The longest data.
    padding: u64,
}

const LARGE: History =
    History { events: 1_000_000, bytes: 1 << 30, total_bytes: 1 << 30, topics: 1024, publish_bytes: 128 << 10 };

/// What one subscriber saw, in order.
#[derive(Debug)]
enum Seen {
    /// It came (back), with this for its last event ID.
    Came(String),
    Open(Id),
    Event(Id, String),
    Gap {
        asked: String,
        oldest: Option<Id>,
        newest: Id,
    },
}

/// All that was published: by its number, the topic and the data.
type Truth = BTreeMap<u64, (usize, String)>;

/// What a race was, for what is to be said of it as a whole.
struct Outcome {
    gaps: u64,
    cut: u64,
    resumed: usize,
}

impl Race {
    fn run(&self, seed: &Seed) -> Outcome {
        let hub = Hub::new(self.history);
        let server = hub_server(&hub, self.queue_bytes);
        let until = Instant::now() + self.lasts;
        let (is_calm, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let (truth, seen) = std::thread::scope(|scope| {
            let (hub, server, is_calm, is_over) = (&hub, &server, &is_calm, &is_over);
            let over = Over(is_over);
            let publishers: Vec<_> = (0..4)
                .map(|number| {
                    let (padding, random) = (self.padding, seed.random(number));
                    let mut publisher = Publisher { number, said: 0, padding, is_calm, is_over, random };
                    scope.spawn(move || match number % 2 {
                        0 => publisher.by_library(hub),
                        _ => publisher.by_http(server),
                    })
                })
                .collect();
            let subscribers: Vec<_> = (0..self.subscribers)
                .map(|number| {
                    let subscriber = Subscriber::new(number, self.most_topics, seed.random(100 + number));
                    scope.spawn(move || subscriber.run(server, until))
                })
                .collect();
            if self.needs_a_cut {
                let _reads_nothing = Events::open(server.address, "/topics/a,b,c", "");
                eventually("a cut", || server.closed_as(Closed::Behind) > 0);
            }
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            is_calm.store(true, Ordering::SeqCst);
            let seen: Vec<_> = subscribers.into_iter().map(|thread| thread.join()).collect();
            drop(over);
            let truth: Truth = publishers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            (truth, seen.into_iter().map(|seen| seen.expect("a subscriber")).collect::<Vec<_>>())
        });
        let first = *truth.keys().next().expect("something was published");
        let is_without_a_hole = truth.keys().copied().eq(first..first + truth.len() as u64);
        assert!(is_without_a_hole, "numbers rise by one with every event");
        assert_eq!(hub.counts().published, truth.len() as u64);
        // Each id is the same text on every stream.
        let mut times = BTreeMap::new();
        for (topics, seen) in &seen {
            check(&truth, topics, seen, self.history.topics >= TOPICS.len());
            for event in seen {
                if let Seen::Event(id, _) = event {
                    assert_eq!(*times.entry(id.n).or_insert(id.ms), id.ms, "an id is the same on every stream");
                }
            }
        }
        assert!(times.values().is_sorted(), "the time in the ids never falls");
        let came = |seen: &[Seen]| seen.iter().filter(|seen| matches!(seen, Seen::Came(_))).count() - 1;
        Outcome {
            gaps: hub.counts().gaps,
            cut: server.closed_as(Closed::Behind),
            resumed: seen.iter().map(|(_, seen)| came(seen)).sum(),
        }
    }
}

/// Ends the publishers, also when the race ends by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Holds what a subscriber of these topics saw against the truth: each event once and in order, and what is missing
/// covered by a gap that was told at that place. With `is_exact`, no gap is told where nothing is missing.
fn check(truth: &Truth, topics: &[usize], seen: &[Seen], is_exact: bool) {
    let mut ledger =
        Ledger { truth, topics, last: None, last_id: String::new(), is_live: false, gap: None, rows: vec![] };
    for event in seen {
        match event {
            Seen::Came(asked) => ledger.come(asked),
            Seen::Gap { asked, oldest, newest } => ledger.gap(asked, *oldest, *newest),
            Seen::Event(id, data) => ledger.event(*id, data),
            Seen::Open(id) => ledger.open(*id),
        }
    }
    assert!(ledger.is_live, "it ends with an open stream");
    let got: BTreeSet<_> =
        seen.iter().filter_map(|seen| if let Seen::Event(id, _) = seen { Some(id.n) } else { None }).collect();
    for event in seen {
        let Seen::Gap { asked, newest, .. } = event else { continue };
        let from = if asked.contains('-') { Id::of(asked).n } else { 0 };
        let mut after = truth.range(from + 1..=newest.n);
        let is_true = after.any(|(n, (topic, _))| topics.contains(topic) && !got.contains(n));
        assert!(is_true || !is_exact, "nothing is missing: {event:?}");
    }
}

/// Where a subscriber stands.
struct Ledger<'a> {
    truth: &'a Truth,
    topics: &'a [usize],
    /// Its place in the order, once it has one: the last event ID.
    last: Option<u64>,
    last_id: String,
    is_live: bool,
    /// The last gap of this connection, until what it says is the oldest has come.
    gap: Option<Option<Id>>,
    /// By topic.
    rows: Vec<Row>,
}

/// What is known of one of its topics.
#[derive(Clone, Copy)]
struct Row {
    topic: usize,
    /// Up to here each event has come, or was told to be missing.
    until: u64,
    /// Up to here events that are missing were told to be. The first of the topic that comes ends this: what is lost of
    /// a topic is always its oldest.
    told: u64,
}

impl Ledger<'_> {
    fn come(&mut self, asked: &str) {
        // What it did not get before its last event ID it will never get.
        if let Some(last) = self.last {
            self.rows.clone().iter().for_each(|row| self.account(row.topic, last));
        }
        self.rows.iter_mut().for_each(|row| row.told = 0);
        self.last_id = asked.to_owned();
        (self.gap, self.is_live) = (None, false);
    }

    fn gap(&mut self, asked: &str, oldest: Option<Id>, newest: Id) {
        assert!(self.gap.is_none() && !self.is_live, "a gap in the wrong place: {asked} {newest:?}");
        assert_eq!(asked, self.last_id);
        assert!(Some(newest.n) >= self.last);
        self.gap = Some(oldest);
        self.rows.iter_mut().for_each(|row| row.told = newest.n);
    }

    fn event(&mut self, id: Id, data: &str) {
        assert!(Some(id.n) > self.last, "{id:?} after {:?}", self.last);
        let (topic, text) = self.truth.get(&id.n).unwrap_or_else(|| panic!("{id:?} was never published"));
        assert!(self.topics.contains(topic) && text == data, "{id:?} is {text:?}, not {data:?}");
        if let Some(oldest) = self.gap.take() {
            assert_eq!(oldest, Some(id), "the oldest is what follows");
        }
        self.advance(id, id.n - 1);
        self.account(*topic, id.n - 1);
        *self.row(*topic) = Row { topic: *topic, until: id.n, told: 0 };
    }

    fn open(&mut self, id: Id) {
        assert!(!self.is_live, "open twice");
        assert!(Some(id.n) >= self.last, "open at {id:?} after {:?}", self.last);
        assert!(self.gap.take().flatten().is_none(), "the oldest did not follow");
        self.is_live = true;
        self.advance(id, id.n);
        self.rows.clone().iter().for_each(|row| self.account(row.topic, id.n));
        self.rows.iter_mut().for_each(|row| row.told = 0);
    }

    /// Goes on to this id. If it is the first, what was up to `begin` was not asked for.
    fn advance(&mut self, to: Id, begin: u64) {
        if self.last.is_none() {
            // Who asked for all that is kept is told of no gap in front of the first event of each topic.
            let told = if self.last_id == "earliest" { u64::MAX } else { 0 };
            let begun = |topic: &usize| Row { topic: *topic, until: begin, told };
            self.rows = self.topics.iter().map(begun).collect();
        }
        self.last = Some(to.n);
        self.last_id = format!("{}-{}", to.ms, to.n);
    }

    fn row(&mut self, topic: usize) -> &mut Row {
        self.rows.iter_mut().find(|row| row.topic == topic).expect("one of its topics")
    }

    /// Every event of the topic up to and with this was told to be missing, or has come.
    fn account(&mut self, topic: usize, to: u64) {
        let Row { until, told, .. } = *self.row(topic);
        let told = until.max(told);
        if told < to {
            let of_topic = self.truth.range(told + 1..=to).filter(|(_, (of, _))| *of == topic);
            let untold: Vec<_> = of_topic.map(|(n, _)| *n).collect();
            assert!(untold.is_empty(), "lost without a word up to {to}: {untold:?}");
        }
        self.row(topic).until = until.max(to);
    }
}

struct Publisher<'a> {
    number: u64,
    said: u64,
    padding: u64,
    /// Set when there is only to be enough to wait for: a slow machine must come to its end, too.
    is_calm: &'a AtomicBool,
    is_over: &'a AtomicBool,
    random: Random,
}

/// What a publisher published, by number.
type Published = Vec<(u64, (usize, String))>;

impl Publisher<'_> {
    fn by_library(&mut self, hub: &Hub) -> Published {
        let topics = TOPICS.map(topic);
        let mut published = Vec::new();
        while !self.is_over.load(Ordering::SeqCst) {
            let (to, texts) = self.next();
            let events: Vec<_> = texts.iter().map(Event::data).collect();
            let receipt = if let [one] = &events[..] {
                hub.publish(&topics[to], one)
            } else {
                hub.publish_all(&topics[to], &events)
            };
            // One topic too many for now is refused, which is no event.
            if let Ok(receipt) = receipt {
                assert_eq!(receipt.events, events.len());
                note(&mut published, receipt.id.as_str(), to, texts);
            }
        }
        published
    }

    fn by_http(&mut self, server: &InProcess) -> Published {
        let mut published = Vec::new();
        let mut client = Client::connect(server.address);
        while !self.is_over.load(Ordering::SeqCst) {
            let (to, texts) = self.next();
            let body: String = texts.iter().map(|text| format!("data: {text}\n\n")).collect();
            let (topic, length) = (TOPICS[to], body.len());
            client.send(format!(
                "POST /topics/{topic} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            let head = client.read_head();
            let body = client.read_body(&head);
            if head.status == 200 {
                note(&mut published, json_member(&body, "id"), to, texts);
            }
        }
        published
    }

    /// To which topic, and what: mostly one event, sometimes a batch. Pauses now and then.
    fn next(&mut self) -> (usize, Vec<String>) {
        let is_calm = self.is_calm.load(Ordering::SeqCst);
        if is_calm || self.random.once_in(3) {
            std::thread::sleep(Duration::from_micros(self.random.below(if is_calm { 20_000 } else { 8_000 })));
        }
        let to = self.random.below(TOPICS.len() as u64) as usize;
        let count = if self.random.once_in(5) { 1 + self.random.below(10) } else { 1 };
        let texts = (0..count).map(|_| {
            self.said += 1;
            format!("{}:{}:{}", self.number, self.said, "x".repeat(self.random.below(self.padding) as usize))
        });
        (to, texts.collect())
    }
}

/// Writes down a publish whose last id this is.
fn note(published: &mut Published, last: &str, topic: usize, texts: Vec<String>) {
    let first = Id::of(last).n + 1 - texts.len() as u64;
    published.extend((first..).zip(texts).map(|(n, text)| (n, (topic, text))));
}

struct Subscriber {
    topics: Vec<usize>,
    last_id: String,
    seen: Vec<Seen>,
    /// How often it still comes at the least.
    visits: u32,
    random: Random,
}

impl Subscriber {
    /// With one topic or several, and from now on or from the beginning.
    fn new(number: u64, most_topics: u64, mut random: Random) -> Subscriber {
        let first = random.below(TOPICS.len() as u64);
        let count = 1 + number % most_topics;
        let topics = (first..first + count).map(|topic| topic as usize % TOPICS.len()).collect();
        let last_id = if random.once_in(3) { "earliest".to_owned() } else { String::new() };
        Subscriber { topics, last_id, seen: Vec::new(), visits: 5, random }
    }

    /// Comes and leaves until the time is over, then comes once more and stays until it has all there is.
    fn run(mut self, server: &InProcess, until: Instant) -> (Vec<usize>, Vec<Seen>) {
        let patience = until.max(Instant::now()) + PATIENCE;
        while !self.come(server, until) {
            assert!(Instant::now() < patience, "it is not let in any more");
        }
        (self.topics, self.seen)
    }

    /// One connection. True if it was the last one.
    fn come(&mut self, server: &InProcess, until: Instant) -> bool {
        let names: Vec<_> = self.topics.iter().map(|topic| TOPICS[*topic]).collect();
        let path = format!("/topics/{}", names.join(","));
        let (path, field) = match self.random.below(3) {
            0 => (format!("{path}?lastEventId={}", self.last_id), String::new()),
            1 => (format!("{path}?last_event_id={}", self.last_id), String::new()),
            _ => (path, format!("Last-Event-ID: {}\r\n", self.last_id)),
        };
        if self.random.once_in(20) {
            // It leaves before it has read a thing.
            Client::connect(server.address).send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"));
            return false;
        }
        let version = self.random.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]);
        let is_last = self.visits == 0 && Instant::now() >= until;
        self.visits = self.visits.saturating_sub(1);
        let most = *self.random.pick(&[40, 40, 40, 400]);
        let mut left = self.random.below(most);
        let mut events = Events::open_as(version, server.address, &path, &field);
        self.seen.push(Seen::Came(self.last_id.clone()));
        while let Some(message) = events.next() {
            let is_open = message.event == "tidings:open";
            self.note(message);
            if is_last && is_open {
                return true;
            }
            if !is_last && (left == 0 || Instant::now() >= until) {
                drop(events);
                std::thread::sleep(Duration::from_micros(self.random.below(10_000)));
                return false;
            }
            left = left.saturating_sub(1);
            if self.random.once_in(50) {
                std::thread::sleep(Duration::from_micros(self.random.below(5_000)));
            } else if self.random.once_in(500) {
                std::thread::sleep(Duration::from_millis(150)); // long enough to fall behind, where that is possible
            }
        }
        false
    }

    fn note(&mut self, message: Message) {
        let id = || Id::of(&message.last_event_id);
        match &message.event[..] {
            "message" => self.seen.push(Seen::Event(id(), message.data.clone())),
            "tidings:open" => self.seen.push(Seen::Open(id())),
            "tidings:gap" => {
                let member = |name| json_member(&message.data, name);
                let oldest = Some(member("oldest")).filter(|id| !id.is_empty()).map(Id::of);
                assert!(oldest.is_some() || message.data.contains("\"oldest\":null"), "{}", message.data);
                let newest = Id::of(member("newest"));
                return self.seen.push(Seen::Gap { asked: member("asked").to_owned(), oldest, newest });
            }
            other => panic!("what is {other}?"),
        }
        self.last_id = message.last_event_id;
    }
}

const RACE: Race = Race {
    lasts: Duration::from_secs(1),
    needs_a_cut: false,
    history: LARGE,
    queue_bytes: 256 << 10,
    subscribers: 12,
    most_topics: 3,
    padding: 200,
};

#[test]
fn every_subscriber_gets_every_event_once_and_in_one_order_however_often_it_leaves_and_resumes() {
    for seed in seeds() {
        let outcome = RACE.run(&seed);
        assert_eq!(outcome.gaps, 0);
        assert!(outcome.resumed >= 4 * 12, "only {} came back", outcome.resumed);
    }
}

#[test]
fn no_event_is_missed_and_none_comes_twice_when_readers_are_cut_as_too_slow() {
    let history = History { publish_bytes: 32 << 10, ..LARGE };
    let race = Race { needs_a_cut: true, history, queue_bytes: 64 << 10, subscribers: 8, padding: 3_000, ..RACE };
    for seed in seeds() {
        let outcome = race.run(&seed);
        assert_eq!(outcome.gaps, 0);
        assert!(outcome.cut > 0);
    }
}

#[test]
fn what_a_small_history_has_lost_is_always_told_and_nothing_comes_twice() {
    for seed in seeds() {
        for history in [
            History { events: 3, ..LARGE },
            History { bytes: 2_000, ..LARGE },
            History { total_bytes: 4_000, ..LARGE },
            History { events: 20, topics: 2, ..LARGE },
        ] {
            let lasts = Duration::from_millis(400);
            let race =
                Race { lasts, history, queue_bytes: 8 << 10, subscribers: 8, most_topics: 2, padding: 300, ..RACE };
            let outcome = race.run(&seed);
            assert!(outcome.gaps > 0, "a history this small must have gaps: {history:?}");
        }
    }
}
