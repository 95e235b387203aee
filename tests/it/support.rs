//! What the tests share: a server as a child process, a client that speaks raw bytes, and a reader that parses event
//! streams as WHATWG HTML 9.2.6 says, written from the standard and not from the server.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The most that any single read or wait may take. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The most that a connection of a test may take from its beginning: heartbeats keep a stream from being silent, and a
/// test that waits on it in vain from ending.
const LIFETIME: Duration = Duration::from_secs(120);

/// Waits until `holds`, or fails with `what`.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "did not come about: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts a lateness. How late something is depends on what else the machine does, so the best of several runs counts;
/// the first that is good enough is the last.
pub fn at_best(what: &str, limit: Duration, mut run: impl FnMut() -> Duration) {
    const RUNS: usize = 50;
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        best = best.min(run());
        if best <= limit {
            return;
        }
    }
    panic!("{what}: {best:?} at the best of {RUNS} runs, not {limit:?}");
}

/// The binary as a child process. It is killed on drop.
pub struct Tidings {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Tidings {
    /// Starts it with these arguments and waits until it listens. `--listen 127.0.0.1:0` is added where there is none.
    pub fn start(arguments: &[&str]) -> Tidings {
        Tidings::start_command(Tidings::command(arguments))
    }

    /// The command that [`Tidings::start`] runs, to be changed: environment, standard input.
    pub fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("TIDINGS_PUBLISH_TOKEN").env_remove("TIDINGS_SUBSCRIBE_TOKEN");
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command
    }

    pub fn start_command(mut command: Command) -> Tidings {
        let mut child = command.spawn().expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            let log = log.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            });
        }
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the first line");
        // The rest is read and dropped, so that the child never waits for this pipe.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let address = line.trim().strip_prefix("listening on http://").map(|address| address.parse());
        let Some(Ok(address)) = address else {
            let _ = child.kill();
            panic!("the first line was {line:?}, the log {:?}", log.lock().unwrap());
        };
        Tidings { child, address, log }
    }

    /// Its port, at a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if that was piped.
    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("stdin is piped")
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has a line with this in it, and returns that line.
    pub fn log_line_with(&self, part: &str) -> String {
        let mut found = None;
        eventually(&format!("a log line with {part:?} in {:?}", self.log()), || {
            found = self.log().lines().find(|line| line.contains(part)).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    /// Sends a signal by its name, as `kill` takes it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it did not end; its log: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The value of a metric, given as it stands in the text: its name, or its name with labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").1;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }

    /// A plain `GET` on a connection of its own: the status and the body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// A `POST` on a connection of its own.
    pub fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.post_with(path, "", body)
    }

    /// The same with further field lines, each with its CRLF.
    pub fn post_with(&self, path: &str, fields: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.request(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// Publishes, which must succeed, and returns the id.
    pub fn publish(&self, path: &str, data: &str) -> String {
        let (status, body) = self.post(path, data);
        assert_eq!(status, 200, "{path}: {body}");
        json_member(&body, "id").to_owned()
    }

    /// These bytes on a connection of its own: the status and the body of the answer.
    pub fn request(&self, bytes: &str) -> (u16, String) {
        let mut client = Client::connect(self.address);
        client.send(bytes);
        let head = client.read_head();
        (head.status, client.read_body(&head))
    }

    /// Opens an event stream.
    pub fn subscribe(&self, path: &str) -> Events {
        self.subscribe_with(path, "")
    }

    /// Subscribes to topics, and returns when what is published from now on comes.
    pub fn watch(&self, path: &str) -> Events {
        let mut events = self.subscribe(path);
        assert_eq!(events.expect_next().event, "tidings:open");
        events
    }

    /// Opens an event stream with further field lines, each with its CRLF.
    pub fn subscribe_with(&self, path: &str, fields: &str) -> Events {
        Events::open(self.address, path, fields)
    }
}

impl Drop for Tidings {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text of a member of a JSON object, where it holds no escapes. Empty if there is no such text.
pub fn json_member<'a>(json: &'a str, name: &str) -> &'a str {
    let value = json.split_once(&format!("\"{name}\":\"")).map(|(_, rest)| rest);
    value.and_then(|value| value.split('"').next()).unwrap_or_default()
}

/// A `tidings::Server` in the test's own process, for what only a user of the library can do. It is stopped on drop.
pub struct InProcess {
    pub address: SocketAddr,
    pub scheduler: tidings::Scheduler,
    pub monitor: tidings::Monitor,
    stopper: tidings::Stopper,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl InProcess {
    pub fn start(
        config: tidings::Config,
        answer: impl Fn(&tidings::Request) -> tidings::Response + Send + Sync + 'static,
    ) -> InProcess {
        let server = tidings::Server::bind("127.0.0.1:0", config).expect("a free port");
        let (address, scheduler) = (server.local_addr(), server.scheduler());
        let (monitor, stopper) = (server.monitor(), server.stopper());
        let thread = std::thread::spawn(move || server.run(answer).expect("it serves"));
        InProcess { address, scheduler, monitor, stopper, thread: Some(thread) }
    }

    /// A hub over HTTP: `GET /topics/a,b` subscribes, `POST /topics/a` publishes the batch that is its body.
    pub fn with_hub(hub: &tidings::Hub, config: tidings::Config) -> InProcess {
        use tidings::{Event, Response, Topic};
        let hub = hub.clone();
        InProcess::start(config, move |request| {
            let topics = Topic::list(request.path().strip_prefix("/topics/").unwrap_or_default());
            let Ok(topics) = topics else { return Response::text(404, "only /topics/ is here") };
            let hub = hub.clone();
            if request.method() == "GET" {
                let after = request.last_event_id();
                return Response::stream(move |stream| hub.subscribe(stream, &topics, after.as_deref()));
            }
            let text = match request.body() {
                Ok(body) => String::from_utf8_lossy(body).into_owned(),
                Err(refusal) => return refusal,
            };
            match hub.publish_all(&topics[0], &Event::parse(&text).expect("a batch")) {
                Ok(receipt) => Response::text(200, format!(r#"{{"id":"{}"}}"#, receipt.id)),
                Err(refused) => Response::text(503, refused.to_string()),
            }
        })
    }

    /// How many streams were over for this reason.
    pub fn closed_as(&self, reason: tidings::Closed) -> u64 {
        self.monitor.counts().disconnects.iter().filter(|(closed, _)| *closed == reason).map(|(_, count)| count).sum()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.stopper.stop();
        let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) else { return };
        eventually("the server stops", || thread.is_finished());
        thread.join().expect("the server did not panic");
    }
}

/// The seed of a test that does things at random. It is printed if the test fails.
pub struct Seed(u64);

/// The seeds of a test's runs: one from the clock, or `TIDINGS_SEED`; `TIDINGS_RUNS` of them.
pub fn seeds() -> impl Iterator<Item = Seed> {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let first = number("TIDINGS_SEED").unwrap_or_else(clock);
    (0..number("TIDINGS_RUNS").unwrap_or(1)).map(move |run| Seed(first.wrapping_add(run)))
}

impl Seed {
    /// The numbers of one of the test's threads.
    pub fn random(&self, thread: u64) -> Random {
        Random::new(self.0 ^ thread.wrapping_mul(0xa076_1d64_78bd_642f))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("TIDINGS_SEED={} repeats this", self.0);
        }
    }
}

/// Random numbers from a seed: splitmix64.
pub struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A response head.
pub struct Head {
    pub status: u16,
    /// As it came, without the empty line.
    pub text: String,
}

impl Head {
    /// The value of the first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.text.split("\r\n").skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// A client that speaks raw bytes.
pub struct Client {
    pub socket: TcpStream,
    /// What came and was not yet asked for.
    buffer: Vec<u8>,
    /// How many bytes came.
    pub received: u64,
    connected: Instant,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).expect("it listens"))
    }

    fn over(socket: TcpStream) -> Client {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Client { socket, buffer: Vec::new(), received: 0, connected: Instant::now() }
    }

    /// Connects from an address of this machine that is none of loopback, to a server that listens on loopback. Linux
    /// routes that without a packet leaving the machine; std has no way to bind before it connects. None on a machine
    /// that has only loopback.
    #[cfg(target_os = "linux")]
    pub fn connect_from_beyond_loopback(address: SocketAddr) -> Option<Client> {
        use std::net::{IpAddr, UdpSocket};
        use std::os::fd::FromRawFd;
        unsafe extern "C" {
            fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
            fn bind(socket: i32, address: *const [u8; 16], length: u32) -> i32;
            fn connect(socket: i32, address: *const [u8; 16], length: u32) -> i32;
        }
        // Where a packet to a network for examples would go out; none is sent.
        let route = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("203.0.113.1:9")?;
            socket.local_addr()
        });
        let (IpAddr::V4(from), IpAddr::V4(to)) = (route.ok()?.ip(), address.ip()) else { return None };
        // AF_INET in the machine's order, port and address in the network's, eight bytes unused.
        let bytes = |ip: std::net::Ipv4Addr, port: u16| -> [u8; 16] {
            let parts = [&2u16.to_ne_bytes()[..], &port.to_be_bytes(), &ip.octets(), &[0; 8]].concat();
            parts.try_into().unwrap()
        };
        // SAFETY: each call takes numbers and a pointer to 16 bytes that outlive it; the descriptor is the stream's alone.
        let socket = unsafe {
            let descriptor = socket(2, 1, 0); // AF_INET, SOCK_STREAM
            assert!(descriptor >= 0, "a socket");
            let socket = TcpStream::from_raw_fd(descriptor);
            assert_eq!(bind(descriptor, &bytes(from, 0), 16), 0, "bind to {from}");
            assert_eq!(connect(descriptor, &bytes(to, address.port()), 16), 0, "connect from {from}");
            socket
        };
        Some(Client::over(socket))
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Begins its lifetime anew: for a test that is meant to last.
    pub fn renew(&mut self) {
        self.connected = Instant::now();
    }

    /// Reads once. `false` at the end, also at one by a reset.
    fn fill(&mut self) -> bool {
        assert!(self.connected.elapsed() < LIFETIME, "in vain; left: {:?}", String::from_utf8_lossy(&self.buffer));
        let mut bytes = [0; 16 * 1024];
        match self.socket.read(&mut bytes) {
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                self.received += n as u64;
                n > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            // A read with a time limit is not taken up again by the system when the process was stopped for a while.
            Err(error) if error.kind() == ErrorKind::Interrupted => self.fill(),
            Err(error) => panic!("{error}; so far: {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    /// What one read gives: of a server that writes once, all of that.
    pub fn read_once(&mut self) -> Vec<u8> {
        assert!(!self.buffer.is_empty() || self.fill(), "the server closed");
        std::mem::take(&mut self.buffer)
    }

    /// Exactly so many bytes.
    pub fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.fill(), "the end came after {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..length).collect()
    }

    /// All up to and with this; None if the end comes first (what is there stays).
    pub fn read_through(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].windows(mark.len()).position(|window| window == mark) {
                return Some(self.buffer.drain(..from + at + mark.len()).collect());
            }
            from = self.buffer.len().saturating_sub(mark.len() - 1);
            if !self.fill() {
                return None;
            }
        }
    }

    /// All until the server closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the server has closed; waits for that, and takes no byte before it.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill()
    }

    pub fn read_head(&mut self) -> Head {
        let Some(bytes) = self.read_through(b"\r\n\r\n") else {
            panic!("no head in {:?}", String::from_utf8_lossy(&self.buffer));
        };
        let text = String::from_utf8(bytes).expect("a head is text").trim_end().to_owned();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok());
        Head { status: status.unwrap_or_else(|| panic!("no status line: {text}")), text }
    }

    /// The body, by its framing.
    pub fn read_body(&mut self, head: &Head) -> String {
        let bytes = if let Some(length) = head.field("Content-Length") {
            self.read_exactly(length.parse().unwrap())
        } else if head.field("Transfer-Encoding").is_some() {
            let mut body = Vec::new();
            while let Some(chunk) = self.read_chunk() {
                body.extend(chunk);
            }
            body
        } else if head.status == 204 {
            Vec::new()
        } else {
            self.read_to_end()
        };
        String::from_utf8(bytes).expect("a body is text")
    }

    /// The data of the next chunk; none for the last chunk. Fails at anything that is not a chunk.
    pub fn read_chunk(&mut self) -> Option<Vec<u8>> {
        self.try_read_chunk().expect("a chunked body ends with its last chunk")
    }

    /// As [`Client::read_chunk`]; `Err` if the connection ends without a last chunk.
    pub fn try_read_chunk(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let size = self.read_through(b"\r\n").ok_or(())?;
        let size = std::str::from_utf8(&size[..size.len() - 2]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
        while self.buffer.len() < size + 2 {
            if !self.fill() {
                return Err(());
            }
        }
        let data: Vec<u8> = self.buffer.drain(..size).collect();
        assert_eq!(self.buffer.drain(..2).collect::<Vec<_>>(), b"\r\n", "a chunk's end");
        Ok((size > 0).then_some(data))
    }
}

/// What an EventSource would dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub event: String,
    pub data: String,
    pub last_event_id: String,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its last chunk; without chunks, by the close.
    Finished,
    /// In the middle.
    Broken,
}

/// An open event stream, parsed as section 9.2.6 says.
pub struct Events {
    pub client: Client,
    pub head: Head,
    pub parser: Parser,
    pub end: Option<End>,
}

impl Events {
    /// Opens an event stream at an address, with further field lines, each with its CRLF.
    pub fn open(address: SocketAddr, path: &str, fields: &str) -> Events {
        Events::open_as("HTTP/1.1", address, path, fields)
    }

    /// The same in another version of HTTP.
    pub fn open_as(version: &str, address: SocketAddr, path: &str, fields: &str) -> Events {
        let mut client = Client::connect(address);
        client.send(format!("GET {path} {version}\r\nHost: localhost\r\nAccept: text/event-stream\r\n{fields}\r\n"));
        let head = client.read_head();
        assert_eq!(head.status, 200, "{}", head.text);
        Events::new(client, head)
    }

    pub fn new(client: Client, head: Head) -> Events {
        Events { client, head, parser: Parser::default(), end: None }
    }

    /// The next message; none at the end, which is then told by `end`. Heartbeats do not prolong the patience.
    pub fn next(&mut self) -> Option<Message> {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "no message has come");
            if let Some(message) = self.parser.messages.pop_front() {
                return Some(message);
            }
            if self.end.is_some() {
                return None;
            }
            if self.head.field("Transfer-Encoding").is_none() {
                if self.client.buffer.is_empty() && !self.client.fill() {
                    self.end = Some(End::Finished);
                }
                let bytes = std::mem::take(&mut self.client.buffer);
                self.parser.feed(&bytes);
                continue;
            }
            match self.client.try_read_chunk() {
                Ok(Some(bytes)) => self.parser.feed(&bytes),
                Ok(None) => self.end = Some(End::Finished),
                Err(()) => self.end = Some(End::Broken),
            }
        }
    }

    /// The next message, which must come.
    pub fn expect_next(&mut self) -> Message {
        self.next().unwrap_or_else(|| panic!("the stream ended: {:?}", self.end))
    }

    /// The data of the next so many messages.
    pub fn take_data(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.expect_next().data).collect()
    }

    /// All messages until the end.
    pub fn rest(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// The parser of section 9.2.6, byte by byte.
#[derive(Default)]
pub struct Parser {
    pub messages: std::collections::VecDeque<Message>,
    /// The reconnection time last set, in milliseconds.
    pub retry: Option<u64>,
    pub comments: Vec<String>,
    pub last_event_id: String,
    line: Vec<u8>,
    after_cr: bool,
    has_begun: bool,
    data: String,
    event: String,
    id: Option<String>,
}

impl Parser {
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let is_lf_of_crlf = byte == b'\n' && std::mem::take(&mut self.after_cr);
            self.after_cr = byte == b'\r';
            match byte {
                _ if is_lf_of_crlf => {}
                b'\r' | b'\n' => self.end_line(),
                byte => self.line.push(byte),
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let line = if std::mem::replace(&mut self.has_begun, true) {
            &line[..]
        } else {
            line.strip_prefix('\u{feff}').unwrap_or(&line)
        };
        if line.is_empty() {
            return self.dispatch();
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" => self.comments.push(value.to_owned()),
            "event" => self.event = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" if value.bytes().all(|b| b.is_ascii_digit()) => self.retry = value.parse().ok(),
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        if let Some(id) = self.id.take() {
            self.last_event_id = id;
        }
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        data.pop();
        let event = if event.is_empty() { "message".to_owned() } else { event };
        self.messages.push_back(Message { event, data, last_event_id: self.last_event_id.clone() });
    }
}
