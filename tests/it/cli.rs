//! The command line: what each option does by default and when it is given, what wrong words are answered with, standard
//! input as a source, and the three standard streams being closed or full.
//!
//! Defaults that would take too long to be seen (a heartbeat after 15 s) are read from the library's own.

use crate::readers::Json;
use crate::support::{Client, End, Events, Tidings, eventually};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn serve(options: &[&str]) -> Tidings {
    Tidings::start(&[&["serve"], options].concat())
}

/// What came of a run that ends by itself.
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A process that is killed when the test is over.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a server, and reads its first two lines: where it listens, and what it has room for.
    pub fn start(mut command: Command) -> (Running, SocketAddr, String) {
        let mut running = Running(command.spawn().unwrap());
        let mut stdout = BufReader::new(running.0.stdout.take().expect("stdout is piped"));
        let (mut first, mut second) = (String::new(), String::new());
        stdout.read_line(&mut first).unwrap();
        stdout.read_line(&mut second).unwrap();
        let address = first.trim_end().strip_prefix("listening on http://").expect(&first).parse().expect(&first);
        (running, address, second)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it has ended, and returns its code.
    fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("it ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// Tells it to stop, and waits until it has.
    fn stop(&mut self) -> Option<i32> {
        let status = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
        self.wait()
    }
}

/// Runs the binary with exactly these words, to its end. One that serves instead is killed, and the test fails.
fn run(words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(words).env_remove("TIDINGS_PUBLISH_TOKEN").env_remove("TIDINGS_SUBSCRIBE_TOKEN");
    run_command(command)
}

pub fn run_command(mut command: Command) -> Outcome {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut running = Running(child);
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let code = running.wait();
    // Some lines at the most, which fit into the pipes: they could wait for the end.
    running.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Outcome { code, stdout, stderr }
}

/// Holds an outcome to a refusal: the code, nothing on standard output, one line that has all these parts.
pub fn expect_refusal(outcome: &Outcome, code: i32, parts: &[&str]) {
    let Outcome { stdout, stderr, .. } = outcome;
    assert_eq!((outcome.code, &stdout[..]), (Some(code), ""), "{parts:?}: {stderr}");
    assert!(stderr.starts_with("tidings: ") && stderr.ends_with('\n') && stderr.lines().count() == 1, "{stderr:?}");
    assert!(parts.iter().all(|part| stderr.contains(part)), "{parts:?} in {stderr}");
}

/// A file of this test's own, removed when the test is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(content: &[u8]) -> Scratch {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tidings-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).unwrap();
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// All that is kept of a topic.
fn kept(server: &Tidings, path: &str) -> Vec<String> {
    let mut events = server.subscribe(&format!("{path}?poll=1"));
    let data = events.rest().into_iter().map(|message| message.data).collect();
    assert_eq!(events.end, Some(End::Finished));
    data
}

fn status_with(server: &Tidings, method: &str, path: &str, fields: &str) -> (u16, String) {
    let mut client = Client::connect(server.address);
    client.send(format!("{method} {path} HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n"));
    let head = client.read_head();
    let is_stream = head.field("Transfer-Encoding").is_some();
    (head.status, if is_stream { String::new() } else { client.read_body(&head) })
}

#[test]
fn help_fits_a_small_terminal_and_names_every_option_with_its_default() {
    for words in [&["--help"][..], &["serve", "--help"], &["--quiet", "--help"]] {
        let Outcome { code, stdout, stderr } = run(words);
        assert_eq!((code, &stderr[..]), (Some(0), ""));
        // The prompt takes a line as well.
        assert!(stdout.lines().count() < 24 && stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
        for (option, default) in [
            ("--listen ADDR:PORT", "127.0.0.1:3000"),
            ("--stdin TOPIC", ""),
            ("--heartbeat D", "15s"),
            ("--retry D", "3s"),
            ("--history N", "256"),
            ("--history-bytes B", "1MiB"),
            ("--history-total B", "16MiB"),
            ("--queue-bytes B", "256KiB"),
            ("--max-connections N", "1024"),
            ("--max-per-address N", "off"),
            ("--max-topics N", "1024"),
            ("--max-body B", "64KiB"),
            ("--allow-origin O", ""),
            ("--allow-host H", ""),
            ("--publish-token-file F", "open"),
            ("--subscribe-token-file F", "open"),
            ("--open", ""),
            ("--quiet", ""),
            ("--help", ""),
            ("--version", ""),
        ] {
            let line =
                stdout.lines().find(|line| line.split_once(option).is_some_and(|(_, rest)| !rest.starts_with('-')));
            assert!(line.is_some_and(|line| line.contains(default)), "{option} {default}: {line:?}");
        }
        for word in ["demo", "serve", "TIDINGS_PUBLISH_TOKEN", "TIDINGS_SUBSCRIBE_TOKEN", "500ms", "64KiB"] {
            assert!(stdout.contains(word), "{word}");
        }
    }
}

#[test]
fn version_is_one_line() {
    let Outcome { code, stdout, stderr } = run(&["--version"]);
    assert_eq!((code, &stderr[..]), (Some(0), ""));
    assert_eq!(stdout, format!("tidings {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn defaults_are_those_of_the_help() {
    let (config, history) = (tidings::Config::default(), tidings::History::default());
    assert_eq!((config.heartbeat, config.retry), (Duration::from_secs(15), Duration::from_secs(3)));
    assert_eq!((config.queue_bytes, config.max_body), (256 << 10, 64 << 10));
    assert_eq!((config.max_connections, config.max_per_address), (1024, None));
    assert_eq!((history.events, history.bytes, history.total_bytes, history.topics), (256, 1 << 20, 16 << 20, 1024));
}

#[test]
fn wrong_words_are_answered_in_one_line_that_says_what_to_write() {
    for (words, parts) in [
        (&["watch"][..], &["\"watch\"", "write demo or serve"][..]),
        (&["serve", "demo"], &["write demo or serve once"]),
        (&["--verbose"], &["\"--verbose\"", "--help"]),
        (&["-x"], &["\"-x\"", "--help"]),
        (&[""], &["write demo or serve"]),
        (&["serve", "--listen"], &["--listen wants an address and a port, such as 127.0.0.1:3000"]),
        (&["--listen", "3000"], &["--listen wants an address and a port", "\"3000\""]),
        (&["--listen", "127.0.0.1:99999"], &["--listen wants", "\"127.0.0.1:99999\""]),
        (&["--stdin", "a/b"], &["--stdin wants one topic", "\"a/b\""]),
        (&["--stdin", "a,b"], &["--stdin wants one topic", "\"a,b\""]),
        (&["--stdin", "two\nlines"], &["--stdin wants one topic", "two\\nlines"]),
        (&["--heartbeat", "15"], &["--heartbeat wants a duration", "such as 15s", "\"15\""]),
        (&["--heartbeat", "0s"], &["--heartbeat wants a duration"]),
        (&["--retry", "--quiet"], &["--retry wants a duration", "such as 3s", "no value"]),
        (&["--retry", "soon"], &["--retry wants a duration", "\"soon\""]),
        (&["--history", "-1"], &["--history wants a number", "such as 256"]),
        (&["--history-bytes", "1MB"], &["--history-bytes wants a size", "such as 1MiB", "\"1MB\""]),
        (&["--history-total", ""], &["--history-total wants a size", "such as 16MiB"]),
        (&["--queue-bytes", "1"], &["--queue-bytes wants a size", "such as 256KiB"]),
        (&["--max-connections", "0"], &["--max-connections wants a number", "such as 1024"]),
        (&["--max-connections", "many"], &["--max-connections wants a number", "\"many\""]),
        (&["--max-per-address", "0"], &["--max-per-address wants a number"]),
        (&["--max-topics", "0"], &["--max-topics wants a number", "such as 1024"]),
        (&["--max-body", "1TiB"], &["--max-body wants a size", "such as 64KiB"]),
        (&["--allow-origin", "example.org"], &["--allow-origin wants an origin", "such as https://example.org", "*"]),
        (&["--allow-host", "http://a"], &["--allow-host wants a host name", "such as", "*"]),
        (&["--publish-token-file"], &["--publish-token-file wants a file"]),
        (&["--subscribe-token-file", ""], &["--subscribe-token-file wants a file"]),
        (&["--open=yes"], &["--open takes no value"]),
        (&["--quiet=no"], &["--quiet takes no value"]),
    ] {
        // Should it serve after all, then on a port that is free.
        let outcome = run(&[&["--listen", "127.0.0.1:0"], words].concat());
        expect_refusal(&outcome, 2, parts);
    }
}

#[cfg(unix)]
#[test]
fn words_that_are_not_utf_8_are_refused_like_others() {
    use std::os::unix::ffi::OsStrExt;
    for words in [&[&b"\xff"[..]][..], &[b"--stdin", b"\xff"], &[b"--listen", b"\xff:0"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(words.iter().map(|word| std::ffi::OsStr::from_bytes(word)));
        expect_refusal(&run_command(command), 2, &["UTF-8"]);
    }
}

#[test]
fn it_listens_on_loopback_port_3000_if_not_told_otherwise() {
    // Somebody has that port now: this test, or whoever had it before.
    let _taken = TcpListener::bind("127.0.0.1:3000");
    expect_refusal(&run(&[]), 1, &["bind 127.0.0.1:3000", "use"]);
}

#[test]
fn an_address_that_cannot_be_bound_ends_with_1_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    expect_refusal(&run(&["serve", "--listen", &address]), 1, &["bind", &address, "another port"]);
    // A network for examples is nobody's.
    expect_refusal(&run(&["serve", "--listen", "203.0.113.1:0", "--open"]), 1, &["bind", "203.0.113.1:0"]);
    expect_refusal(&run(&["serve", "--listen", "name.invalid:0", "--open"]), 1, &["bind", "name.invalid:0"]);
}

#[test]
fn listen_takes_a_port_an_address_or_a_name() {
    for listen in ["127.0.0.1:0", "localhost:0"] {
        let server = Tidings::start(&["serve", "--listen", listen]);
        assert!(server.address.ip().is_loopback() && server.address.port() != 0, "{listen}: {}", server.address);
        assert_eq!(server.get("/healthz").0, 200);
    }
    // All of 127.0.0.0/8 is loopback on Linux: an address of this process's own, on which no port is taken.
    if cfg!(target_os = "linux") {
        let [.., b, c] = std::process::id().to_be_bytes();
        let listen = format!("127.77.{b}.{c}:3000");
        let server = Tidings::start(&["serve", "--listen", &listen]);
        assert_eq!((server.address.to_string(), server.get("/healthz").0), (listen, 200));
    }
    // Of repeated ones the last counts.
    let server = serve(&["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:0"]);
    assert_ne!(server.address.port(), 1);
    // Where the machine has IPv6, so has the server; and else it says so.
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => assert_eq!(serve(&["--listen=[::1]:0"]).get("/healthz").1, "ok\n"),
        Err(_) => expect_refusal(&run(&["--listen=[::1]:0"]), 1, &["bind [::1]:0"]),
    }
}

#[test]
fn beyond_loopback_publishing_is_opened_or_closed_on_purpose() {
    let token = Scratch::new(b"secret\n");
    for listen in ["0.0.0.0:0", "[::]:0", "203.0.113.1:0", "[::ffff:203.0.113.1]:0"] {
        for mode in ["demo", "serve"] {
            let words = [mode, "--listen", listen];
            expect_refusal(&run(&words), 2, &["--open", "--publish-token-file", listen]);
            // A token for reading closes nothing to publishers.
            let words = [&words[..], &["--subscribe-token-file", token.path()]].concat();
            expect_refusal(&run(&words), 2, &["--open", "--publish-token-file"]);
        }
    }
    // Either lets it go on, here to an address that cannot be bound: nothing is opened to a network by this test.
    let listen = "203.0.113.1:0";
    for options in [&["--open"][..], &["--publish-token-file", token.path()]] {
        expect_refusal(&run(&[&["--listen", listen], options].concat()), 1, &["bind", listen]);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["--listen", listen]).env("TIDINGS_PUBLISH_TOKEN", "secret");
    expect_refusal(&run_command(command), 1, &["bind", listen]);
    // On loopback there is nothing to be told.
    for listen in ["127.0.0.1:0", "localhost:0"] {
        assert_eq!(Tidings::start(&["--listen", listen]).post("/topics/a", "x").0, 200, "{listen}");
    }
}

#[test]
fn demo_is_the_default_mode() {
    for (words, has_scenes) in [(&[][..], true), (&["demo"], true), (&["serve"], false)] {
        let server = Tidings::start(words);
        assert_eq!(server.get("/demo/typewriter?lastEventId=9999").0 == 204, has_scenes, "{words:?}");
        assert_eq!(server.post("/topics/a", "x").0, 200, "{words:?}: both are hubs");
    }
}

#[test]
fn heartbeat_is_how_often_an_idle_stream_gets_a_comment() {
    let server = serve(&["--heartbeat", "250ms"]);
    let opened = Instant::now();
    let mut events = server.subscribe("/topics/a");
    while events.parser.comments.len() < 2 {
        let chunk = events.client.read_chunk().unwrap();
        events.parser.feed(&chunk);
    }
    assert!(opened.elapsed() >= Duration::from_millis(500), "{:?}", opened.elapsed());
}

#[test]
fn retry_is_the_reconnection_time_that_clients_are_told() {
    for (options, retry) in [(&[][..], 3000), (&["--retry", "500ms"], 500), (&["--retry=2m"], 120_000)] {
        let mut events = serve(options).subscribe("/topics/a");
        events.expect_next();
        assert_eq!(events.parser.retry, Some(retry));
    }
}

#[test]
fn history_is_how_many_events_a_topic_keeps() {
    for (options, count) in [(&[][..], 256), (&["--history", "3"], 3), (&["--history", "0"], 0)] {
        let server = serve(options);
        let batch: String = (0..300).map(|n| format!("data: {n}\n\n")).collect();
        for topic in ["a", "b"] {
            server.post_with(&format!("/topics/{topic}"), "Content-Type: text/event-stream\r\n", &batch);
            let last: Vec<_> = (300 - count..300).map(|n| n.to_string()).collect();
            assert_eq!(kept(&server, &format!("/topics/{topic}")), last, "{options:?}");
        }
    }
}

/// What is left of `topics` in turn, after 100 texts of 1,000 bytes to each, in events.
fn left_of(options: &[&str], topics: &[&str]) -> Vec<usize> {
    let server = serve(options);
    for n in 0..100 {
        topics.iter().for_each(|topic| drop(server.publish(&format!("/topics/{topic}"), &format!("{n:01000}"))));
    }
    let left = |topic: &&str| {
        let texts = kept(&server, &format!("/topics/{topic}"));
        let newest: Vec<_> = (100 - texts.len()..100).map(|n| format!("{n:01000}")).collect();
        assert_eq!(texts, newest, "the oldest go first");
        texts.len()
    };
    topics.iter().map(left).collect()
}

#[test]
fn history_bytes_is_how_much_a_topic_keeps() {
    assert_eq!(left_of(&[], &["a"]), [100]);
    // Each takes its 1,000 bytes, and what it is wrapped in: less than 300 more.
    let [left] = left_of(&["--history-bytes", "20KiB"], &["a"])[..] else { panic!() };
    assert!((15..=20).contains(&left), "{left}");
}

#[test]
fn history_total_is_how_much_all_topics_keep() {
    let left = left_of(&["--history-total", "40KiB"], &["a", "b"]);
    // They were published in turn, so what is left is shared.
    assert!((30..=40).contains(&left.iter().sum::<usize>()) && left[0].abs_diff(left[1]) <= 1, "{left:?}");
    assert_eq!(left_of(&["--history-total", "1MiB"], &["a", "b"]), [100, 100]);
}

#[test]
fn half_of_queue_bytes_is_the_largest_publish() {
    for (options, most) in
        [(&["--max-body=1MiB"][..], 128 << 10), (&["--max-body=1MiB", "--queue-bytes=8KiB"], 4 << 10)]
    {
        let server = serve(options);
        assert_eq!(server.post("/topics/a", &"x".repeat(most - 100)).0, 200);
        let (status, line) = server.post("/topics/a", &"x".repeat(most));
        assert!(status == 413 && line.contains("--queue-bytes") && line.lines().count() == 1, "{status} {line}");
    }
}

#[test]
fn max_connections_bounds_connections_and_is_told_at_the_start() {
    let (_running, address, room) = Running::start(Tidings::command(&["serve", "--max-connections", "4"]));
    assert!(room.starts_with("room for 4 clients (--max-connections)"), "{room}");

    // Streams leave some to others; one more is told to come back, in the way that an EventSource understands.
    let open = || {
        let mut client = Client::connect(address);
        client.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        let head = client.read_head();
        (client, head)
    };
    let taken = [open(), open()];
    assert!(taken.iter().all(|(_, head)| head.field("Transfer-Encoding").is_some()));
    let (mut client, head) = open();
    let refusal = client.read_body(&head);
    assert!(head.status == 200 && refusal.starts_with(": full\n") && refusal.contains("retry: "), "{refusal}");
}

#[test]
fn more_connections_than_the_box_holds_are_refused_with_what_would_fit() {
    // On a machine that tells nothing of its limits, nothing is refused; Linux tells.
    if Path::new("/proc/self/limits").exists() {
        let outcome = run(&["--listen", "127.0.0.1:0", "--max-connections", "1000000"]);
        expect_refusal(&outcome, 2, &["--max-connections 1000000", "write at most "]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn max_per_address_bounds_an_address_and_exempts_loopback() {
    for (options, most) in [(&[][..], None), (&["--max-per-address", "2"], Some(2))] {
        let server = serve(options);
        let _near: Vec<_> = (0..5).map(|_| server.subscribe("/topics/a")).collect();
        let mut far = Vec::new();
        for n in 0..4 {
            let Some(mut client) = Client::connect_from_beyond_loopback(server.address) else { return };
            client.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n");
            if most.is_none_or(|most| n < most) {
                assert_eq!(client.read_head().status, 200, "{n}");
            } else {
                assert!(client.is_closed(), "{n}");
            }
            far.push(client);
        }
    }
}

#[test]
fn max_topics_bounds_topics_and_the_least_recently_published_goes() {
    let names = |server: &Tidings| -> Vec<String> {
        let topics = Json::parse(&server.get("/topics").1);
        topics.list().iter().map(|topic| topic.member("name").text().to_owned()).collect()
    };
    let server = serve(&["--max-topics", "2"]);
    for topic in ["a", "b", "a", "c"] {
        server.publish(&format!("/topics/{topic}"), "x");
    }
    assert_eq!(names(&server), ["a", "c"]);
    // With subscribers they stay, and there is no room.
    let mut watching = server.subscribe("/topics/a,c");
    watching.expect_next();
    let (status, line) = server.post("/topics/d", "x");
    assert!(status == 503 && line.contains("--max-topics") && line.lines().count() == 1, "{status} {line}");
    assert_eq!(names(&server), ["a", "c"]);
}

#[test]
fn max_body_is_the_longest_body() {
    for (options, most) in [(&[][..], 64 << 10), (&["--max-body", "10"], 10), (&["--max-body=100KiB"], 100 << 10)] {
        let server = serve(options);
        assert_eq!(server.post("/topics/a", &"x".repeat(most)).0, 200, "{most}");
        let (status, line) = server.post("/topics/a", &"x".repeat(most + 1));
        assert!(status == 413 && line.contains("--max-body") && line.lines().count() == 1, "{status} {line}");
    }
}

#[test]
fn allow_origin_lets_pages_of_that_origin_in() {
    let from = |origin: &str| format!("Host: localhost\r\nOrigin: {origin}\r\nSec-Fetch-Site: cross-site\r\n");
    let (one, two, other) = (from("https://one.example"), from("https://two.example"), from("https://other.example"));
    let server = serve(&[]);
    for method in ["GET", "POST"] {
        let (status, line) = status_with(&server, method, "/topics/a", &one);
        assert!(status == 403 && line.contains("--allow-origin"), "{method}: {status} {line}");
    }
    let server = serve(&["--allow-origin", "https://one.example", "--allow-origin=https://two.example"]);
    for method in ["GET", "POST"] {
        assert_eq!(
            [&one, &two, &other].map(|fields| status_with(&server, method, "/topics/a", fields).0),
            [200, 200, 403]
        );
    }
    let server = serve(&["--allow-origin", "*"]);
    assert_eq!(status_with(&server, "GET", "/topics/a", &other).0, 200);
    assert_eq!(status_with(&server, "POST", "/topics/a", &other).0, 403, "* is for reading only");
}

#[test]
fn allow_host_lets_the_server_be_known_by_that_name() {
    let status = |server: &Tidings, host: &str| status_with(server, "GET", "/healthz", &format!("Host: {host}\r\n"));
    let server = serve(&[]);
    let (code, line) = status(&server, "box.example");
    assert!(code == 421 && line.contains("--allow-host") && line.lines().count() == 1, "{code} {line}");
    let server = serve(&["--allow-host", "box.example", "--allow-host=other.example"]);
    for (host, code) in [("box.example", 200), ("Box.Example:8080", 200), ("other.example", 200), ("x.example", 421)] {
        assert_eq!(status(&server, host).0, code, "{host}");
    }
    assert_eq!(status(&serve(&["--allow-host", "*"]), "whatever.example").0, 200);
}

/// How publishing and reading are answered, without a token and with this one.
fn statuses(server: &Tidings, token: &str) -> [u16; 4] {
    let with = format!("Host: localhost\r\ntoken: {token}\r\n");
    let ask = |method, fields: &str| status_with(server, method, "/topics/a", fields).0;
    let without = "Host: localhost\r\n";
    [ask("POST", without), ask("GET", without), ask("POST", &with), ask("GET", &with)]
}

#[test]
fn tokens_are_taken_from_files_and_from_the_environment() {
    assert_eq!(statuses(&serve(&[]), "secret"), [200; 4], "open, if not told otherwise");
    for content in [&b"secret"[..], b"secret\n", b"secret\r\n", b"secret\nand what else is in the file\n"] {
        let file = Scratch::new(content);
        assert_eq!(statuses(&serve(&["--publish-token-file", file.path()]), "secret"), [401, 200, 200, 200]);
        assert_eq!(statuses(&serve(&["--subscribe-token-file", file.path()]), "secret"), [200, 401, 200, 200]);
    }
    for (variable, expected) in
        [("TIDINGS_PUBLISH_TOKEN", [401, 200, 200, 200]), ("TIDINGS_SUBSCRIBE_TOKEN", [200, 401, 200, 200])]
    {
        let mut command = Tidings::command(&["serve"]);
        command.env(variable, "secret");
        let server = Tidings::start_command(command);
        assert_eq!(statuses(&server, "secret"), expected, "{variable}");
        assert_eq!(statuses(&server, "other")[2..].iter().filter(|status| **status == 401).count(), 1);
    }
    // Both, each its own.
    let (publish, subscribe) = (Scratch::new(b"p\n"), Scratch::new(b"s\n"));
    let files = ["--publish-token-file", publish.path(), "--subscribe-token-file", subscribe.path()];
    let server = serve(&files);
    assert_eq!((statuses(&server, "p"), statuses(&server, "s")), ([401, 401, 200, 401], [401, 401, 401, 200]));
}

#[test]
fn a_token_that_is_empty_or_cannot_be_read_or_sent_is_refused() {
    let missing = std::env::temp_dir().join("tidings-cli-no-such-file");
    let folder = std::env::temp_dir();
    let files = [&b""[..], b"\n", b"\r\n", b"two words\n", b"\xff\n", &[b'x'; 5000]].map(Scratch::new);
    let paths = files.iter().map(Scratch::path).chain([missing.to_str().unwrap(), folder.to_str().unwrap()]);
    for path in paths {
        for option in ["--publish-token-file", "--subscribe-token-file"] {
            expect_refusal(&run(&["--listen", "127.0.0.1:0", option, path]), 2, &["token", path]);
        }
    }
    for variable in ["TIDINGS_PUBLISH_TOKEN", "TIDINGS_SUBSCRIBE_TOKEN"] {
        for value in ["", "two words"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
            command.args(["--listen", "127.0.0.1:0"]).env(variable, value);
            let outcome = run_command(command);
            expect_refusal(&outcome, 2, &[variable]);
            assert!(value.is_empty() || !outcome.stderr.contains(value), "it shows the token: {}", outcome.stderr);
        }
    }
}

#[test]
fn quiet_has_no_log() {
    for (options, has_log) in [(&["serve"][..], true), (&["serve", "--quiet"], false)] {
        let mut command = Tidings::command(options);
        command.args(["--stdin", "in"]); // whose end is told as well
        let (mut running, address, _) = Running::start(command);
        let mut client = Client::connect(address);
        client.send("GET /topics/a?poll=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = client.read_head();
        client.read_body(&head);
        client.send("POST /topics/a?delay=1h HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(client.read_head().status, 202);
        assert_eq!(running.stop(), Some(0));
        let mut log = String::new();
        running.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        for part in ["/topics/a opened", "/topics/a ended", "delayed"] {
            assert_eq!(log.contains(part), has_log, "{part}: {log}");
        }
        assert!(has_log || log.is_empty(), "{log}");
    }
}

/// A server whose standard input the test writes.
fn with_stdin(options: &[&str]) -> Tidings {
    let mut command = Tidings::command(&[&["serve", "--stdin", "in"], options].concat());
    command.stdin(Stdio::piped());
    Tidings::start_command(command)
}

#[test]
fn each_line_of_standard_input_is_published_and_the_server_serves_on_after_its_end() {
    let mut server = with_stdin(&[]);
    let mut stdin = server.stdin();
    let mut events = server.watch("/topics/in");
    // A line goes out when it is whole, not when the input ends.
    stdin.write_all(b"one\ntw").unwrap();
    let one = events.expect_next();
    assert_eq!((&one.event[..], &one.data[..]), ("message", "one"));
    stdin.write_all("o\r\n\n 你好\t: \n".as_bytes()).unwrap();
    assert_eq!(events.take_data(3), ["two", "", " 你好\t: "]);
    stdin.write_all(b"the last has no line end").unwrap();
    drop(stdin);
    assert_eq!(events.take_data(1), ["the last has no line end"]);
    server.log_line_with("standard input has ended");
    assert_eq!(server.get("/healthz").0, 200);
    server.publish("/topics/in", "others may publish there as well");
    assert_eq!(events.take_data(1), ["others may publish there as well"]);
}

#[test]
fn an_over_long_line_is_told_and_cut_at_a_character() {
    let mut server = with_stdin(&["--max-body", "10"]);
    let lines = ["0123456789", "0123456789a", "12345678你", "0123456789\r", &"é".repeat(100_000), "after"];
    let mut stdin = server.stdin();
    lines.iter().for_each(|line| stdin.write_all(format!("{line}\n").as_bytes()).unwrap());
    stdin.write_all("987654321🎉".as_bytes()).unwrap();
    drop(stdin);
    server.log_line_with("standard input has ended");
    let texts = ["0123456789", "0123456789", "12345678", "0123456789", "ééééé", "after", "987654321"];
    assert_eq!(kept(&server, "/topics/in"), texts);
    for bytes in ["11 bytes", "200000 bytes", "13 bytes"] {
        let line = server.log_line_with(bytes);
        assert!(line.contains("standard input") && line.contains("--max-body"), "{line}");
    }
    assert_eq!(server.log().matches("--max-body").count(), 4, "{}", server.log());
}

#[test]
fn the_longest_line_is_that_of_the_longest_body() {
    let mut server = with_stdin(&[]);
    let mut stdin = server.stdin();
    writeln!(stdin, "{}", "x".repeat(64 << 10)).unwrap();
    writeln!(stdin, "{}", "y".repeat((64 << 10) + 1)).unwrap();
    drop(stdin);
    server.log_line_with("standard input has ended");
    assert_eq!(kept(&server, "/topics/in"), ["x", "y"].map(|c| c.repeat(64 << 10)));
    assert_eq!(server.log().matches("was cut").count(), 1);
}

#[test]
fn bytes_that_are_not_utf_8_are_replaced() {
    let mut server = with_stdin(&[]);
    let mut stdin = server.stdin();
    stdin.write_all(b"a\xffb\ncut \xe4\xbd\n\xc3\xa9\0\n\xed\xa0\x80\n").unwrap();
    drop(stdin);
    server.log_line_with("standard input has ended");
    // The surrogate is three bytes that are none of UTF-8.
    assert_eq!(kept(&server, "/topics/in"), ["a\u{fffd}b", "cut \u{fffd}", "é\0", "\u{fffd}\u{fffd}\u{fffd}"]);
}

#[test]
fn standard_input_is_left_alone_if_not_asked_for() {
    let mut command = Tidings::command(&["serve"]);
    command.stdin(Stdio::piped());
    let mut server = Tidings::start_command(command);
    let mut stdin = server.stdin();
    stdin.write_all(b"one\n").unwrap();
    drop(stdin);
    assert_eq!(server.get("/topics").1, "[]\n");
    assert!(!server.log().contains("standard input"), "{}", server.log());
}

#[test]
fn a_standard_input_that_cannot_be_read_ends_nothing() {
    let mut command = Tidings::command(&["serve", "--stdin", "in"]);
    command.stdin(fs::File::open(std::env::temp_dir()).unwrap()); // a folder
    let server = Tidings::start_command(command);
    server.log_line_with("standard input");
    assert_eq!(server.post("/topics/in", "x").0, 200);
}

#[test]
fn the_first_lines_of_standard_output_are_flushed_at_once() {
    // A file, because to a terminal each line goes at once anyway.
    let file = Scratch::new(b"");
    let mut command = Tidings::command(&["serve"]);
    command.stdout(fs::File::create(&file.0).unwrap()).stderr(Stdio::null());
    let _running = Running(command.spawn().unwrap());
    let mut text = String::new();
    eventually("two lines", || {
        text = fs::read_to_string(&file.0).unwrap();
        text.lines().count() == 2 && text.ends_with('\n')
    });
    let lines: Vec<_> = text.lines().collect();
    let address: SocketAddr = lines[0].strip_prefix("listening on http://").unwrap().parse().unwrap();
    assert_ne!(address.port(), 0);
    // Which limit bounds this box, and for how many clients there is room.
    let words: Vec<_> = lines[1].split(' ').collect();
    assert!(words[..2] == ["room", "for"] && words[2].parse::<u32>().is_ok() && words[3] == "clients", "{text}");
    if Path::new("/proc/self/limits").exists() {
        let limits = ["open files", "threads", "memory"];
        assert!(lines[1].contains("bounded by ") && limits.iter().any(|limit| lines[1].contains(limit)), "{text}");
    }
    let mut client = Client::connect(address);
    client.send("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
}

/// Where a server listens whose standard output cannot be read: the kernel tells which socket is whose.
#[cfg(target_os = "linux")]
fn address_of(child: &Child) -> SocketAddr {
    let mut found = None;
    eventually("it listens", || {
        let files = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
        let sockets: Vec<_> = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        found = table.lines().skip(1).find_map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let is_listening = columns[3] == "0A";
            let is_its_own = sockets.iter().any(|link| link.as_os_str() == &format!("socket:[{}]", columns[9])[..]);
            let port = u16::from_str_radix(columns[1].split_once(':')?.1, 16).ok()?;
            (is_listening && is_its_own).then(|| SocketAddr::from(([127, 0, 0, 1], port)))
        });
        found.is_some()
    });
    found.unwrap()
}

/// It is still there, and does all that it did.
fn expect_service(child: &mut Child, address: SocketAddr) {
    for _ in 0..3 {
        let mut client = Client::connect(address);
        client.send("GET /topics/a?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = client.read_head();
        let mut events = Events::new(client, head);
        assert_eq!(events.expect_next().event, "tidings:open");
        let mut publisher = Client::connect(address);
        publisher.send("POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(publisher.read_head().status, 200);
        assert_eq!(events.rest().len(), 1);
        // Its line is in the log by then, or was lost.
        let mut asker = Client::connect(address);
        asker.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(asker.read_head().status, 200);
    }
    assert!(child.try_wait().unwrap().is_none(), "it ended");
}

/// A pipe that nobody reads any more: its reader has ended.
#[cfg(target_os = "linux")]
fn closed_pipe() -> Stdio {
    let mut reader = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let pipe = reader.stdin.take().unwrap();
    assert!(reader.wait().unwrap().success());
    pipe.into()
}

#[cfg(target_os = "linux")]
#[test]
fn standard_streams_that_are_closed_or_full_end_nothing() {
    let open: fn() -> Stdio = Stdio::null;
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    for (what, stdout, stderr) in [
        ("stdout full", full as fn() -> Stdio, open),
        ("stderr full", open, full),
        ("both full", full, full),
        ("stdout closed", closed_pipe, open),
        ("stderr closed", open, closed_pipe),
        ("both closed", closed_pipe, closed_pipe),
    ] {
        let mut command = Tidings::command(&["serve", "--stdin", "in"]);
        command.stdout(stdout()).stderr(stderr());
        let mut running = Running(command.spawn().unwrap());
        let address = address_of(&running.0);
        expect_service(&mut running.0, address);
        // It can be told to stop as well, and does so without an error.
        assert_eq!(running.stop(), Some(0), "{what}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_standard_streams_at_all_end_nothing() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" serve --listen 127.0.0.1:0 --stdin in <&- >&- 2>&-", env!("CARGO_BIN_EXE_tidings")]);
    shell.env_remove("TIDINGS_PUBLISH_TOKEN").env_remove("TIDINGS_SUBSCRIBE_TOKEN");
    let mut running = Running(shell.spawn().unwrap());
    let address = address_of(&running.0);
    expect_service(&mut running.0, address);
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up_and_its_lost_lines_are_counted() {
    let mut command = Tidings::command(&["demo", "--stdin", "in", "--max-body", "10", "--max-topics", "1"]);
    command.stdin(Stdio::piped());
    let (mut running, address, _) = Running::start(command);

    // Many more lines than the pipe and the queue hold, by streams, by standard input and by the scheduler.
    let mut watching = Client::connect(address);
    watching.send("GET /topics/in HTTP/1.1\r\nHost: localhost\r\n\r\n");
    watching.read_head();
    // It reads, because one that is cut for being behind leaves the place of its topic to the other.
    std::thread::spawn(move || watching.read_to_end());
    let mut stdin = running.0.stdin.take().unwrap();
    (0..3000).for_each(|_| stdin.write_all(b"a line that is too long, which is told\n").unwrap());
    stdin.write_all(b"the last\n").unwrap();
    let mut client = Client::connect(address);
    let long = ["x"; 64].join(","); // one topic, said often
    for _ in 0..1000 {
        client.send(format!("GET /topics/in,{long}?poll=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.read_head();
        client.read_body(&head);
        // Refused when it is due, because the one topic there may be has a subscriber.
        client.send("POST /topics/other?delay=0ms HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
        let head = client.read_head();
        client.read_body(&head);
    }
    let mut clock = Client::connect(address);
    clock.send("GET /demo/clock?interval=1ms HTTP/1.1\r\nHost: localhost\r\n\r\n");
    clock.read_head();
    (0..20).for_each(|_| drop(clock.read_chunk().expect("time goes on")));
    eventually("standard input is read to its end", || {
        client.send("GET /topics/in?poll=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = client.read_head();
        client.read_body(&head).contains("data: the last\n")
    });
    drop((clock, client, stdin));

    // Read again, the log tells how much of it is missing.
    let stderr = BufReader::new(running.0.stderr.take().unwrap());
    let lost = std::thread::spawn(move || {
        let mut lines = stderr.lines().map_while(Result::ok);
        let line = lines.find(|line| line.ends_with(" lines of this log were lost"));
        line.and_then(|line| line.split(' ').next()?.parse::<u64>().ok())
    });
    eventually("the lost lines are told", || lost.is_finished());
    assert!(lost.join().unwrap().is_some_and(|lost| lost > 0));
}
