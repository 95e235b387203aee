//! The bounds of section 8 of the contract: each is met for real, from both sides, and what happens then is what was
//! promised. How a head is read is the matter of `framing`; here it is how much, how long and how many.

use crate::support::{Client, End, Events, InProcess, PATIENCE, Parser, Tidings, eventually};
#[cfg(target_os = "linux")]
use crate::system;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tidings::{Access, Config, History, Hub, Response};

/// A server whose every answer is `ok`, once the body is there.
fn ok_server(config: Config) -> InProcess {
    InProcess::start(config, |request| request.body().err().unwrap_or_else(|| Response::text(200, "ok")))
}

/// Both that server and the binary answer it with `ok`.
const OK: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A head of exactly so many bytes, by a field as long as it takes.
fn head_of(bytes: usize) -> String {
    let frame = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \r\n\r\n".len();
    format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(bytes - frame))
}

/// Sends, and expects this status and then the end of the connection, or that it stays.
fn expect(server: &Tidings, request: impl AsRef<[u8]>, status: u16) {
    let mut client = Client::connect(server.address);
    client.send(request);
    let head = client.read_head();
    assert_eq!(head.status, status, "{}", head.text);
    let text = client.read_body(&head);
    if status < 400 || status == 404 {
        client.send(OK);
        assert_eq!(client.read_head().status, 200, "the connection goes on");
    } else {
        assert_eq!(head.field("Connection"), Some("close"));
        assert_eq!(text.lines().count(), 1, "one line says what is wrong: {text}");
        assert!(client.is_closed());
    }
}

#[test]
fn a_head_is_at_most_8_kib() {
    let server = Tidings::start(&["serve"]);
    expect(&server, head_of(8 * 1024), 200);
    expect(&server, head_of(8 * 1024 + 1), 431);
    expect(&server, head_of(100 * 1024), 431);
    // It needs not end to be refused.
    expect(&server, &head_of(9 * 1024)[..8 * 1024], 431);
}

#[test]
fn a_target_is_at_most_4_kib() {
    let server = Tidings::start(&["serve"]);
    let request = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(length - 1));
    expect(&server, request(4 * 1024), 404);
    expect(&server, request(4 * 1024 + 1), 414);
    expect(&server, request(7 * 1024), 414);
}

#[test]
fn a_head_has_at_most_64_fields() {
    let server = Tidings::start(&["serve"]);
    let request =
        |fields: usize| format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(fields - 1));
    expect(&server, request(64), 200);
    expect(&server, request(65), 431);
}

#[test]
fn a_body_is_at_most_max_body_however_it_is_framed() {
    let server = Tidings::start(&["serve", "--max-body", "1000"]);
    let measured = |length: usize, sent: usize| {
        let body = "x".repeat(sent);
        format!("POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let chunked = |chunks: &[usize]| {
        let chunks: String = chunks.iter().map(|size| format!("{size:x}\r\n{}\r\n", "x".repeat(*size))).collect();
        format!("POST /topics/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    expect(&server, measured(1000, 1000), 200);
    expect(&server, chunked(&[1000]), 200);
    expect(&server, chunked(&[1; 1000]), 200);
    for request in [
        measured(1001, 1001),
        measured(1001, 0),
        measured(usize::MAX, 0),
        chunked(&[1001]),
        chunked(&[999, 2]),
        chunked(&[1; 1001]),
    ] {
        expect(&server, request, 413);
    }
    // The size alone tells, before anything of the chunk is there.
    let announced = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n";
    expect(&server, announced, 413);
    let (_, text) = server.request(announced);
    assert!(text.contains("--max-body"), "the option that would allow it is named: {text}");
}

#[test]
fn chunk_extensions_and_trailers_are_bounded() {
    let server = Tidings::start(&["serve"]);
    let request =
        |body: &str| format!("POST /topics/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    expect(&server, request(&format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(3000))), 200);
    expect(&server, request(&format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(5000))), 431);
    expect(&server, request(&format!("{}0\r\n\r\n", "1;abcdefghi\r\nx\r\n".repeat(500))), 431);
    expect(&server, request(&format!("0\r\nX: {}\r\n\r\n", "x".repeat(3000))), 200);
    expect(&server, request(&format!("0\r\nX: {}\r\n\r\n", "x".repeat(5000))), 431);
    expect(&server, request(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(2000))), 431);
}

/// A client that does not do its part, and what it has got.
struct Dawdler {
    socket: TcpStream,
    kind: Kind,
    begun: Instant,
    got: Vec<u8>,
    closed_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It connects and says nothing.
    Silent,
    /// It sends the beginning of a head, and then nothing.
    StuckHead,
    /// It sends another byte of its head every half a second, which never ends.
    SlowHead,
    /// It sends a head, half of the body, and then nothing.
    StuckBody,
    /// It sends another byte of its body every half a second.
    SlowBody,
    /// The same, in chunks.
    SlowChunks,
}

impl Kind {
    fn beginning(self) -> &'static str {
        match self {
            Kind::Silent => "",
            Kind::StuckHead | Kind::SlowHead => "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
            Kind::StuckBody | Kind::SlowBody => {
                "POST /topics/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf of it"
            }
            Kind::SlowChunks => "POST /topics/slow HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        }
    }

    fn next(self) -> Option<&'static str> {
        match self {
            Kind::Silent | Kind::StuckHead | Kind::StuckBody => None,
            Kind::SlowHead | Kind::SlowBody => Some("x"),
            Kind::SlowChunks => Some("1\r\nx\r\n"),
        }
    }

    fn limit(self) -> Duration {
        match self {
            Kind::Silent | Kind::StuckHead | Kind::SlowHead => Duration::from_secs(10),
            Kind::StuckBody | Kind::SlowBody | Kind::SlowChunks => Duration::from_secs(30),
        }
    }
}

impl Dawdler {
    fn start(address: SocketAddr, kind: Kind) -> Dawdler {
        let begun = Instant::now();
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(kind.beginning().as_bytes()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Dawdler { socket, kind, begun, got: Vec::new(), closed_after: None }
    }

    fn is_here(&self) -> bool {
        self.closed_after.is_none()
    }

    fn look(&mut self) {
        let mut bytes = [0; 1024];
        match self.socket.read(&mut bytes) {
            Ok(0) => self.closed_after = Some(self.begun.elapsed()),
            Ok(n) => self.got.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{:?} lost its answer to {error}", self.kind),
        }
    }
}

/// Has so many of each kind dawdle together, and sees that each is closed on time and told why, and that others are
/// served meanwhile as if nothing was.
fn expect_408(numbers: &[(Kind, usize)]) {
    let server = Tidings::start(&["serve", "--quiet"]);
    let kinds = numbers.iter().flat_map(|(kind, number)| std::iter::repeat_n(*kind, *number));
    let mut dawdlers: Vec<_> = kinds.map(|kind| Dawdler::start(server.address, kind)).collect();
    let mut live = server.watch("/topics/live");
    let mut others = Vec::new();
    let mut next_byte = Instant::now();
    while dawdlers.iter().any(Dawdler::is_here) {
        let is_late =
            |dawdler: &Dawdler| dawdler.is_here() && dawdler.begun.elapsed() > dawdler.kind.limit() + PATIENCE;
        assert!(!dawdlers.iter().any(is_late), "a limit does not hold");
        let is_time = Instant::now() >= next_byte;
        if is_time {
            next_byte += Duration::from_millis(500);
        }
        for dawdler in dawdlers.iter_mut().filter(|dawdler| dawdler.is_here()) {
            if let Some(bytes) = dawdler.kind.next().filter(|_| is_time) {
                let _ = dawdler.socket.write(bytes.as_bytes()); // the server may be through with it
            }
            dawdler.look();
        }
        let begun = Instant::now();
        server.publish("/topics/live", "hello");
        assert_eq!(live.expect_next().data, "hello");
        others.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    for Dawdler { kind, closed_after, got, .. } in &dawdlers {
        let (after, got) = (closed_after.unwrap(), String::from_utf8_lossy(got));
        assert!(after >= kind.limit(), "{kind:?} was closed after {after:?} already");
        match kind {
            Kind::Silent => assert_eq!(got, "", "nothing was asked"),
            _ => assert!(
                got.starts_with("HTTP/1.1 408 ") && got.contains("\r\nConnection: close\r\n"),
                "{kind:?}: {got}"
            ),
        }
    }
    others.sort_unstable();
    let median = others[others.len() / 2];
    assert!(median < Duration::from_millis(500), "others waited for {median:?}");
    assert!(!server.get("/topics").1.contains("slow"), "no part of a body was published");
}

#[test]
fn a_head_has_10_s_and_others_are_served_meanwhile() {
    expect_408(&[(Kind::Silent, 50), (Kind::StuckHead, 150), (Kind::SlowHead, 150)]);
}

#[test]
#[ignore = "a body has 30 s, and this waits for their end"]
fn a_body_has_30_s_and_others_are_served_meanwhile() {
    expect_408(&[(Kind::StuckBody, 50), (Kind::SlowBody, 50), (Kind::SlowChunks, 50)]);
}

#[test]
#[ignore = "an idle connection is kept for 75 s, and so it takes some 140"]
fn an_idle_persistent_connection_is_closed_after_75_s_and_not_before() {
    let server = Tidings::start(&["serve"]);
    let mut idle = Client::connect(server.address);
    let mut used = Client::connect(server.address);
    let begun = Instant::now();
    for client in [&mut idle, &mut used] {
        client.send(OK);
        let head = client.read_head();
        client.read_body(&head);
        client.socket.set_read_timeout(Some(Duration::from_secs(75) + PATIENCE)).unwrap();
    }
    // A proxy that keeps its connections for a minute may use them until then.
    std::thread::sleep(Duration::from_secs(61));
    used.send(OK);
    let head = used.read_head();
    used.read_body(&head);
    let used_at = Instant::now();
    assert!(idle.is_closed());
    assert!(begun.elapsed() >= Duration::from_secs(75), "closed after {:?}", begun.elapsed());
    assert!(used.is_closed());
    assert!(used_at.elapsed() >= Duration::from_secs(75), "closed after {:?}", used_at.elapsed());
}

/// Connections that are there, each with so much sent.
fn seated(server: &InProcess, number: usize, sent: &str) -> Vec<Client> {
    let there = server.monitor.counts().connections;
    let mut clients: Vec<_> = (0..number).map(|_| Client::connect(server.address)).collect();
    clients.iter_mut().for_each(|client| client.send(sent));
    eventually("all are seated", || server.monitor.counts().connections == there + number);
    clients
}

/// Connections that are busy: each is in the middle of a body, and has been told to go on with it.
fn busy(server: &InProcess, number: usize) -> Vec<Client> {
    let sent = "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut clients = seated(server, number, sent);
    clients.iter_mut().for_each(|client| assert_eq!(client.read_head().status, 100));
    clients
}

#[test]
fn when_all_connections_are_taken_others_are_told_so() {
    let server = ok_server(Config { max_connections: 8, ..Config::default() });
    let taken = busy(&server, 8);
    for _ in 0..3 {
        let mut client = Client::connect(server.address);
        client.send(OK);
        let head = client.read_head();
        assert_eq!((head.status, head.field("Connection")), (503, Some("close")));
        let retry: u64 = head.field("Retry-After").unwrap().parse().unwrap();
        assert!((2..=10).contains(&retry), "{retry}");
        let text = client.read_body(&head);
        assert!(text.contains("--max-connections"), "the option that would allow it is named: {text}");
        assert!(client.is_closed());
    }
    assert_refused(&mut refused_stream(server.address, "/"));
    drop(taken);
    eventually("there is room again", || {
        let mut client = Client::connect(server.address);
        client.send(OK);
        client.read_head().status == 200
    });
}

/// Whoever reads a little now and then is never stalled. So the seats kept for publishing and health checks could be had
/// for ever, by clients that open no stream.
#[test]
fn an_answer_that_is_read_for_long_makes_room_when_there_is_no_other() {
    let large = "x".repeat(16 << 20);
    let server = InProcess::start(Config { max_connections: 4, ..Config::default() }, move |request| {
        Response::text(200, if request.path() == "/large" { large.clone() } else { "ok".to_owned() })
    });
    let begun = Instant::now();
    let mut slow = seated(&server, 4, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    loop {
        slow.iter_mut().for_each(|client| assert!(client.socket.read(&mut [0; 4 << 10]).is_ok_and(|n| n > 0)));
        let mut client = Client::connect(server.address);
        client.send(OK);
        if client.read_head().status == 200 {
            break;
        }
        assert!(begun.elapsed() < 3 * PATIENCE, "nobody has made room");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(begun.elapsed() >= Duration::from_secs(10), "after {:?}", begun.elapsed());
}

#[test]
fn beyond_all_that_are_told_so_a_connection_is_closed_unanswered() {
    let server = ok_server(Config { max_connections: 8, ..Config::default() });
    let taken = busy(&server, 8);
    let told = seated(&server, 16, "GET ");
    for _ in 0..5 {
        let mut client = Client::connect(server.address);
        let _ = client.socket.write(OK.as_bytes()); // it may be closed already
        assert_eq!(client.read_to_end(), b"");
    }
    // Those who were here are served nevertheless.
    for (clients, rest, status) in [(taken, "xx", 200), (told, "/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 503)] {
        for mut client in clients {
            client.send(rest);
            assert_eq!(client.read_head().status, status);
        }
    }
    eventually("everybody is gone", || server.monitor.counts().connections == 0);
}

/// Whoever is there only to be told that there is no room has no place that could be given to another.
#[test]
fn one_who_is_to_be_told_so_makes_no_room() {
    let server = ok_server(Config { max_connections: 8, ..Config::default() });
    let _taken = busy(&server, 8);
    let _told = seated(&server, 1, "GET ");
    for _ in 0..20 {
        let mut client = Client::connect(server.address);
        client.send(OK);
        assert_eq!(client.read_head().status, 503);
    }
}

/// A flood finds the seats that there are, and all who have one are answered: nobody's request is thrown away for that of
/// another who has come no earlier.
#[test]
#[cfg(target_os = "linux")]
fn a_flood_past_the_cap_is_served_as_far_as_there_are_seats() {
    const SEATS: usize = 50;
    for _ in 0..5 {
        let server = Tidings::start(&["serve", "--quiet", "--max-connections", &SEATS.to_string()]);
        server.signal("STOP");
        let mut clients: Vec<_> = (0..SEATS * 4).map(|_| Client::connect(server.address)).collect();
        clients.iter_mut().for_each(|client| client.send(OK));
        server.signal("CONT");
        let is_served =
            |client: &mut Client| client.read_through(b"\r\n").is_some_and(|line| line.starts_with(b"HTTP/1.1 200 "));
        let served = clients.iter_mut().map(is_served).filter(|is_served| *is_served).count();
        assert!(served >= SEATS, "only {served} were served");
    }
}

#[test]
fn the_longest_idle_connection_makes_room() {
    let server = ok_server(Config { max_connections: 4, ..Config::default() });
    let ask = |client: &mut Client| {
        client.send(OK);
        let head = client.read_head();
        client.read_body(&head);
        // What comes after the answer, that it counts as idle from then, cannot be seen from here.
        std::thread::sleep(Duration::from_millis(20));
        head.status
    };
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(server.address)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(ask(client), 200));
    assert_eq!(ask(&mut clients[0]), 200);
    // The second has been idle longest now, then the third.
    for longest in [1, 2] {
        let mut fresh = Client::connect(server.address);
        assert_eq!(ask(&mut fresh), 200);
        assert!(clients[longest].is_closed(), "client {longest}");
        clients[longest] = fresh;
    }
    clients.iter_mut().for_each(|client| assert_eq!(ask(client), 200));
}

/// A stream of an EventSource, which is refused.
fn refused_stream(address: SocketAddr, path: &str) -> Events {
    let mut client = Client::connect(address);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"));
    let head = client.read_head();
    Events::new(client, head)
}

/// An EventSource never comes back from an error. So a refusal is a stream that begins well, says when to come back and
/// ends. Returns when that is.
fn assert_refused(refused: &mut Events) -> u64 {
    assert_eq!(refused.head.status, 200, "{}", refused.head.text);
    assert_eq!(refused.head.field("Content-Type"), Some("text/event-stream; charset=utf-8"));
    let mut parser = Parser::default();
    parser.feed(refused.client.read_body(&refused.head).as_bytes());
    assert!(parser.comments.contains(&"full".to_owned()), "{:?}", parser.comments);
    assert!(parser.messages.is_empty());
    let retry = parser.retry.expect("a reconnection time");
    assert!((2_000..=10_000).contains(&retry), "{retry}");
    retry
}

#[test]
fn streams_leave_a_reserve_and_the_refused_come_back_spread_out() {
    // A sixteenth, but 16 at least, and half at the most.
    for (max_connections, streams) in [(320, 300), (64, 48), (20, 10)] {
        let hub = Hub::new(History::default());
        let access = Access { origins: vec!["http://a.example".to_owned()], ..Access::default() };
        let server = InProcess::with_hub(&hub, Config { max_connections, access, ..Config::default() });
        let open: Vec<_> = (0..streams).map(|_| Events::open(server.address, "/topics/a", "")).collect();
        assert_eq!(server.monitor.counts().streams, streams);
        let mut retries: Vec<_> =
            (0..8).map(|_| assert_refused(&mut refused_stream(server.address, "/topics/a"))).collect();
        retries.sort_unstable();
        retries.dedup();
        assert!(retries.len() > 4, "they would all come back together: {retries:?}");
        assert_eq!(server.closed_as(tidings::Closed::Full), 8);

        // A page that is allowed to read is allowed to read this, too.
        let fields = "Accept: text/event-stream\r\nOrigin: http://a.example\r\n";
        let refused = Events::open(server.address, "/topics/a", fields);
        assert_eq!(refused.head.field("Access-Control-Allow-Origin"), Some("http://a.example"));

        // Who is no EventSource is told by the status.
        let mut curl = Client::connect(server.address);
        curl.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n");
        let head = curl.read_head();
        assert_eq!(head.status, 503);
        assert!((2..=10).contains(&head.field("Retry-After").unwrap().parse().unwrap()), "{}", head.text);

        // The reserve is there, and what is published in it arrives.
        let mut publisher = Client::connect(server.address);
        publisher.send("POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\ndata: hi");
        assert_eq!(publisher.read_head().status, 200);
        for mut events in open {
            assert_eq!(events.expect_next().event, "tidings:open");
            assert_eq!(events.expect_next().data, "hi");
        }
        eventually("a stream has room again", || {
            let mut events = refused_stream(server.address, "/topics/a");
            events.head.field("Transfer-Encoding").is_some() && events.expect_next().event == "tidings:open"
        });
    }
}

/// What is not accepted waits in the system's queue, where no answer comes from.
#[cfg(target_os = "linux")]
#[test]
fn out_of_open_files_it_waits_and_goes_on() {
    const PLACES: usize = 5;
    let server = Tidings::start(&["serve"]);
    let files = system::descriptors(server.pid()) + PLACES;
    system::limit(server.pid(), "nofile", &format!("{files}:{files}"));
    let mut served: Vec<_> = (0..PLACES).map(|_| Client::connect(server.address)).collect();
    served.iter_mut().for_each(|client| client.send(OK));
    served.iter_mut().for_each(|client| assert_eq!(client.read_head().status, 200));

    let mut waiting: Vec<_> = (0..3 * PLACES).map(|_| Client::connect(server.address)).collect();
    waiting.iter_mut().for_each(|client| client.send(OK));
    server.log_line_with("accepting waits: ");
    assert_no_spin(&server);
    // A shortage is told once, however long it lasts, and those who are here are served.
    assert_eq!(server.log().matches("accepting waits").count(), 1, "{}", server.log());
    for client in &mut served {
        assert_eq!(client.read_exactly(3), b"ok\n");
        client.send(OK);
        assert_eq!(client.read_head().status, 200);
    }
    drop(served);
    for mut client in waiting {
        assert_eq!(client.read_head().status, 200); // and as it goes, it makes room for the next
    }
}

/// Linux polls no more files at once than a process may have open. With a bound of one, waiting for connections fails; with
/// none, so does the pause.
#[cfg(target_os = "linux")]
#[test]
fn when_waiting_itself_fails_it_pauses_and_goes_on() {
    let mut server = Tidings::start(&["serve"]);
    for (bound, shortages) in [("1:", 1), ("0:", 2)] {
        let mut here = Client::connect(server.address);
        here.send(OK);
        assert_eq!(here.read_head().status, 200);
        system::limit(server.pid(), "nofile", bound);
        let mut waiting = Client::connect(server.address); // which ends the poll that was under way
        waiting.send(OK);
        eventually("the shortage is told", || server.log().matches("accepting waits: ").count() == shortages);
        assert_no_spin(&server);
        if bound == "1:" {
            assert_eq!(here.read_exactly(3), b"ok\n");
            here.send(OK);
            assert_eq!(here.read_head().status, 200, "who is here is served");
        }
        system::limit(server.pid(), "nofile", "100:");
        assert_eq!(waiting.read_head().status, 200);
    }
    // It can be told to stop as well, also where the bell cannot be waited for.
    system::limit(server.pid(), "nofile", "0:");
    Client::connect(server.address);
    server.signal("TERM");
    assert!(server.wait().success());
}

/// A pause ends ten times a second, which is nothing. A spin would take all that the machine gives.
#[cfg(target_os = "linux")]
fn assert_no_spin(server: &Tidings) {
    let before = system::cpu_time(server.pid());
    std::thread::sleep(Duration::from_secs(1));
    let cpu = system::cpu_time(server.pid()) - before;
    assert!(cpu < Duration::from_millis(80), "it was busy for {cpu:?} of a second");
}

/// All until the end, which must not be a reset.
fn read_whole(mut socket: &TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    socket.read_to_end(&mut got).expect("an end that is no reset");
    got
}

#[test]
fn an_answer_is_not_lost_to_a_reset_while_the_client_still_sends() {
    let server = Tidings::start(&["serve", "--max-body", "1000"]);
    let body = vec![b'x'; 200 * 1024];
    let post = |target: &str, field: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n{field}Content-Length: {}\r\n\r\n", body.len())
    };
    for (request, status) in [
        (post("/topics/a", ""), 413),
        (post("/topics/a", "Expect: 100-continue\r\n"), 413),
        (post("/topics/a", "Origin: http://a.example\r\n"), 403),
        (post("/nothing", ""), 404),
        (post("/healthz", ""), 405),
        (post("/topics/a", "Bad Name: x\r\n"), 400),
        (post("/topics/a", "Transfer-Encoding: chunked\r\n"), 400),
        (post("http://a.example/topics/a", ""), 421),
        (post(&format!("/{}", "x".repeat(4096)), ""), 414),
        (post("/topics/a", &format!("X: {}\r\n", "x".repeat(8192))), 431),
        ("\u{16}\u{3}\u{1}".to_owned(), 400),
    ] {
        let client = Client::connect(server.address);
        // The head and the body at once, so that the server answers while most of it is still to be read.
        let whole = [request.as_bytes(), &body].concat();
        (&client.socket).write_all(&whole).unwrap();
        let answer = read_whole(&client.socket);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.60}: {text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{request:.60}: {text}");
    }
}

#[test]
fn a_client_that_sends_on_and_on_after_its_answer_is_cut() {
    let server = Tidings::start(&["serve"]);
    for (pause, piece) in [(Duration::ZERO, 64 * 1024), (Duration::from_millis(100), 1024)] {
        let mut client = Client::connect(server.address);
        client.send("POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n");
        assert_eq!(client.read_head().status, 404);
        let (begun, mut sent) = (Instant::now(), 0);
        while let Ok(length) = client.socket.write(&vec![b'x'; piece]) {
            assert!(begun.elapsed() < PATIENCE, "it may send for ever");
            sent += length;
            std::thread::sleep(pause);
        }
        // 256 KiB are read; the kernels of the two ends take some megabytes.
        assert!(sent < 16 << 20, "{sent} bytes were taken");
    }
    eventually("the connections are gone", || server.metric("tidings_connections") == 1.0);
}

#[test]
fn what_is_sent_onto_an_open_stream_is_kept_up_to_8_kib_and_cut_beyond() {
    let server = Tidings::start(&["serve"]);
    let mut events = server.watch("/topics/a?limit=1");
    let request = head_of(2 * 1024);
    (0..4).for_each(|_| events.client.send(&request));
    server.publish("/topics/a", "x");
    assert_eq!(events.expect_next().data, "x");
    assert_eq!((events.next(), events.end), (None, Some(End::Finished)));
    for _ in 0..4 {
        let head = events.client.read_head();
        assert_eq!((head.status, events.client.read_body(&head)), (200, "ok\n".to_owned()));
    }

    let mut events = server.watch("/topics/a");
    (0..4).for_each(|_| events.client.send(&request));
    server.publish("/topics/a", "still open");
    assert_eq!(events.expect_next().data, "still open");
    events.client.send("x");
    assert_eq!((events.next(), events.end), (None, Some(End::Broken)));
    server.log_line_with(" /topics/a flooded after ");
    assert_eq!(server.metric("tidings_disconnects_total{reason=\"flooded\"}"), 1.0);
}

const EXPECTING: &str = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\n";

#[test]
fn nobody_is_told_to_go_on_who_is_refused_or_does_not_wait() {
    let server = Tidings::start(&["serve", "--max-body", "1000"]);
    for (request, status) in [
        (format!("{EXPECTING}Content-Length: 1001\r\n\r\n"), 413),
        (format!("{EXPECTING}Origin: http://a.example\r\nContent-Length: 5\r\n\r\n"), 403),
        (format!("{EXPECTING}Content-Length: 5\r\n\r\nhello"), 200),
        (format!("{EXPECTING}Content-Length: 0\r\n\r\n"), 200),
        (EXPECTING.replace("1.1", "1.0") + "Content-Length: 5\r\n\r\nhello", 200),
        ("POST /nothing HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n".to_owned(), 421),
        // Expectations that nobody has are not met, and not refused either (RFC 9110, section 10.1.1).
        (EXPECTING.replace("100-Continue", "200-ok") + "Content-Length: 5\r\n\r\nhello", 200),
    ] {
        let mut client = Client::connect(server.address);
        client.send(&request);
        assert_eq!(client.read_head().status, status, "{request}");
    }
}

/// While the server is stopped nobody takes them: the kernel must have room for all of them, or a client would try
/// again after a second.
#[test]
#[cfg(target_os = "linux")]
fn two_thousand_connect_at_once_and_all_are_answered() {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let number = 2_000.min(most);
    drop(ok_server(Config::default())); // which raises this process's limit of open files
    let server = Tidings::start(&["serve", "--quiet", "--max-connections", "2100"]);
    server.signal("STOP");
    let clients: Vec<_> = (0..number)
        .map(|n: usize| {
            let client = TcpStream::connect_timeout(&server.address, Duration::from_millis(900));
            client.unwrap_or_else(|error| panic!("client {n}: {error}"))
        })
        .collect();
    clients.iter().for_each(|mut client| client.write_all(OK.as_bytes()).unwrap());
    server.signal("CONT");
    let begun = Instant::now();
    for mut client in &clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut start = [0; 12];
        client.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    assert_eq!(server.metric("tidings_connections"), number as f64 + 1.0);
    let threads = system::threads(server.pid());
    drop(clients);
    eventually("their threads are gone", || system::threads(server.pid()) + number <= threads);
}

#[test]
fn a_client_that_shuts_its_side_after_the_request_gets_its_answer() {
    let server = Tidings::start(&["serve"]);
    for request in [
        OK.to_owned(),
        "GET /healthz HTTP/1.0\r\n\r\n".to_owned(),
        "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
    ] {
        let client = Client::connect(server.address);
        (&client.socket).write_all(request.as_bytes()).unwrap();
        client.socket.shutdown(Shutdown::Write).unwrap();
        assert!(read_whole(&client.socket).starts_with(b"HTTP/1.1 200 "), "{request}");
    }
}
