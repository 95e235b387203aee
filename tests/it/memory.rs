//! Memory is bounded by what the options say. The README gives the sum; here the whole history, every queue and every
//! body are filled at once, then answers and batches each, and the process is measured. The term for the names of topics is
//! in the sum and is not filled.

#![cfg(target_os = "linux")]

use crate::support::{Client, Events, Tidings};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What stands in the README under "Limits".
const SUM: &str = "
    4 MiB + history-total + max-topics x 1 KiB
          + max-connections x (32 KiB + the largest of 1.5 x queue-bytes, 4 x max-body, max-topics x 350 bytes)
";

/// The same, in bytes.
fn sum(history_total: usize, max_topics: usize, max_connections: usize, queue_bytes: usize, max_body: usize) -> usize {
    let largest = [queue_bytes * 3 / 2, max_body * 4, max_topics * 350].into_iter().max().unwrap();
    4 * MIB + history_total + max_topics * KIB + max_connections * (32 * KIB + largest)
}

/// The memory that a process has to itself, in bytes: what its clients and the page cache have is not counted.
fn private(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("Linux tells");
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * KIB
    };
    of("Private_Dirty:") + of("Private_Clean:")
}

const HISTORY: usize = 6 * MIB;
const QUEUE: usize = 128 * KIB;
const BODY: usize = 32 * KIB;
const STREAMS: usize = 32;
const CONNECTIONS: usize = 48;
const BODIES: usize = 12;

/// A server with all of its room taken by streams that are not read, each of a topic of its own.
struct Full {
    server: Tidings,
    stalled: Vec<Events>,
    publisher: Client,
    most: usize,
}

impl Full {
    fn start() -> Full {
        let topics = (2 * STREAMS).to_string(); // streams leave some of them to what is published
        let server = Tidings::start(&[
            "serve",
            "--quiet",
            "--max-connections",
            &CONNECTIONS.to_string(),
            "--max-topics",
            &topics,
            "--queue-bytes",
            &QUEUE.to_string(),
            "--max-body",
            &BODY.to_string(),
            "--history",
            "1000000",
            "--history-bytes",
            &HISTORY.to_string(),
            "--history-total",
            &HISTORY.to_string(),
        ]);
        let stalled = (0..STREAMS).map(|n| server.subscribe(&format!("/topics/{n}"))).collect();
        let publisher = Client::connect(server.address);
        let most = private(server.pid());
        Full { server, stalled, publisher, most }
    }

    /// Publishes to each of these topics, all on one connection and without waiting in between.
    fn publish(&mut self, topics: &[String], fields: &str, body: &str) {
        for topics in topics.chunks(64) {
            let requests: Vec<_> = topics
                .iter()
                .map(|topic| {
                    format!(
                        "POST /topics/{topic} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    )
                })
                .collect();
            self.publisher.send(requests.concat());
            for _ in topics {
                let head = self.publisher.read_head();
                let answer = self.publisher.read_body(&head);
                assert_eq!(head.status, 200, "{answer}");
            }
        }
        self.most = self.most.max(private(self.server.pid()));
    }

    /// Publishes so many of these events to each topic in turn.
    fn publish_each(&mut self, times: usize, topics: &[String], data: &str) {
        let all: Vec<_> = (0..times).flat_map(|_| topics.iter().cloned()).collect();
        self.publish(&all, "", data);
    }

    /// Replaces the whole history by events that are in no queue, if each counts for `cost` bytes.
    fn replace_history(&mut self, data: &str, cost: usize) {
        let event = format!("data: {data}\n\n");
        let in_a_batch = (BODY / event.len()).min(50 * KIB / (event.len() + 50)).max(1);
        let batches = HISTORY / (in_a_batch * cost) + 1;
        let topics = vec!["quiet".to_owned(); batches];
        self.publish(&topics, "Content-Type: text/event-stream\r\n", &event.repeat(in_a_batch));
    }

    fn sent(&self) -> f64 {
        self.server.metric("tidings_sent_bytes_total")
    }

    /// Whether a stream was cut: its queue was full or, on a busy machine, it was stalled for ten seconds before that.
    fn has_cut(&self) -> bool {
        let count = |why| self.server.metric(&format!("tidings_disconnects_total{{reason=\"{why}\"}}"));
        count("behind") + count("stalled") > 0.0
    }
}

/// Fills everything with events of this many bytes, and returns what the process had at the start and at the most.
fn fill(bytes: usize) -> (usize, usize) {
    let mut full = Full::start();
    let before = full.most;
    let topics: Vec<_> = (0..STREAMS).map(|n| n.to_string()).collect();
    // On the wire an event has some 50 bytes more than its data; with those for its place it counts for 210 more. As many
    // as would fit if only the former counted must not be too many.
    let (data, cost) = ("x".repeat(bytes), bytes + 210);
    full.replace_history(&data, bytes + 50);
    // What the kernel takes is not the server's.
    let mut sent = -1.0;
    while full.sent() != sent {
        sent = full.sent();
        full.publish_each(1, &topics, &"k".repeat(16 * KIB));
    }
    let bodies: Vec<_> = (0..BODIES)
        .map(|_| {
            let mut client = Client::connect(full.server.address);
            let head = format!("POST /topics/quiet HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n\r\n");
            client.send(head + &"b".repeat(BODY - 1));
            client
        })
        .collect();
    let each = (8 * KIB / cost).max(1);
    let mut queued = 0;
    while !full.has_cut() {
        full.publish_each(each, &topics, &data);
        queued += each * cost;
        if queued > QUEUE * 3 / 4 {
            full.replace_history(&data, cost);
        }
    }
    drop((bodies, full.stalled));
    (before, full.most)
}

#[test]
fn memory_is_within_the_sum_that_the_readme_gives() {
    let bound = sum(HISTORY, 2 * STREAMS, CONNECTIONS, QUEUE, BODY);
    // Short events cost more than their bytes, and long ones are in the way when half of one is written.
    for bytes in [1, 30 * KIB] {
        // More than half of what there is to fill is filled; a busy machine may be too slow for that at first.
        let is_full = (0..5).any(|_| {
            let (before, most) = fill(bytes);
            assert!(most < bound, "events of {bytes} bytes: {} KiB, not {}", most / KIB, bound / KIB);
            most - before > (STREAMS * QUEUE + HISTORY) / 2
        });
        assert!(is_full, "with events of {bytes} bytes it was not filled");
    }
}

/// The most memory that a process ever had, in bytes.
fn high_water(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux tells");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * KIB
}

/// Enough for what a connection holds to count for more than what the allocator keeps back.
const MANY: usize = 200;

/// A server with little room for anything else.
fn small(max_topics: &str, queue: &str, body: &str) -> Tidings {
    let topics = ["--max-topics", max_topics, "--history-total", "1MiB"];
    let connections = (MANY + 16).to_string();
    let others = ["--max-connections", &connections, "--queue-bytes", queue, "--max-body", body];
    Tidings::start(&[&["serve", "--quiet"][..], &topics, &others].concat())
}

/// An answer that is long because of the topics, and that nobody reads, is held once for each connection.
#[test]
fn answers_that_are_not_read_are_within_the_sum() {
    const TOPICS: usize = 1024;
    let server = small("1024", "64KiB", "1KiB");
    let mut publisher = Client::connect(server.address);
    for n in 0..TOPICS {
        let name = format!("{}{n:06}", "n".repeat(122)); // twice that in JSON would be what the sum allows for
        let head = format!("POST /topics/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        publisher.send(head);
        let head = publisher.read_head();
        publisher.read_body(&head);
    }
    let before = private(server.pid());
    let clients: Vec<_> = (0..MANY)
        .map(|_| {
            let mut client = Client::connect(server.address);
            client.send("GET /topics HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client
        })
        .collect();
    // Each has the head: so the answer was made, and what the kernel does not take is held.
    for mut client in &mut clients.iter().map(|client| client.socket.try_clone().unwrap()) {
        std::io::Read::read_exact(&mut client, &mut [0; 1]).unwrap();
    }
    let held = private(server.pid()) - before;
    let bound = sum(MIB, TOPICS, MANY + 16, 64 * KIB, KIB);
    assert!(before + held < bound, "{} KiB, not {}", (before + held) / KIB, bound / KIB);
    assert!(held > bound / 4, "{} KiB are held: that proves nothing", held / KIB);
}

/// The events of a batch take far more than its text, so not all batches are read at the same time.
#[test]
fn batches_that_come_together_are_within_the_sum() {
    let server = small("64", "256KiB", "64KiB");
    let batch = "data\n\n".repeat(64 * KIB / 6);
    let (last, rest) = (&batch[batch.len() - 1..], &batch[..batch.len() - 1]);
    let fields = format!("Content-Type: text/event-stream\r\nContent-Length: {}\r\n", batch.len());
    let mut clients: Vec<_> = (0..MANY).map(|_| Client::connect(server.address)).collect();
    for client in &mut clients {
        client.send(format!("POST /topics/a HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{rest}"));
    }
    clients.iter_mut().for_each(|client| client.send(last));
    for client in &mut clients {
        assert_eq!(client.read_head().status, 413, "the ids make it too large");
    }
    let bound = sum(MIB, 64, MANY + 16, 256 * KIB, 64 * KIB);
    let most = high_water(server.pid());
    assert!(most < bound, "{} KiB, not {}", most / KIB, bound / KIB);
}

#[test]
fn the_readme_gives_the_sum_and_what_it_comes_to_at_the_defaults() {
    let readme = include_str!("../../README.md");
    assert!(readme.contains(SUM), "the sum is another");
    let at_defaults = sum(16 * MIB, 1024, 1024, 256 * KIB, 64 * KIB).div_ceil(MIB);
    assert!(readme.contains(&format!("at the defaults it is {at_defaults} MiB")), "{at_defaults} MiB");
}

/// glibc reserves 64 MiB of addresses for each further heap (on 64-bit machines), and a thread that allocates for the first
/// time makes one, as long as there are fewer than it may make.
#[test]
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
fn all_memory_is_in_one_heap() {
    let server = Tidings::start(&["serve", "--quiet"]);
    let _streams: Vec<_> = (0..32).map(|n| server.subscribe(&format!("/topics/{n}"))).collect();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.pid())).expect("Linux tells");
    assert!(maps.contains("[heap]"), "{maps}");
    let is_further_heap = |line: &str| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        rest.starts_with("---p") && address(end) - address(start) > 32 * MIB
    };
    assert!(!maps.lines().any(is_further_heap), "{maps}");
}
