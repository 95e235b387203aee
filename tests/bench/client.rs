//! The load: thousands of open streams on one thread, and the publisher beside them.
//!
//! Everything that a server sends is read as a browser would read it (head, chunks, lines), and every event carries
//! a number, so that a lost, doubled or reordered event is seen and not averaged away. One thread does both
//! publishing and reading: on two cores, one is left to the server.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::str;
use std::time::{Duration, Instant};

use crate::sys::{self, Epoll, Ready};

pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Unanswered connections at any time while a crowd gathers: below the queue of 128 that `std` asks a listener to
/// keep, which is what the bare loops have.
const WAVE: usize = 100;
/// With no byte from anybody for so long, what is missing is taken as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// When the subscribers' sockets are read during a publish.
#[derive(Clone, Copy)]
pub enum Reading {
    /// As the events come, like clients in the world: what latency is measured with. Some of the server's writes then
    /// wake the client and some find it awake; which, and at what cost, is up to the scheduler.
    Along,
    /// When the publisher has its answer, so that no write wakes anybody: what CPU is measured with.
    After,
}

/// Streams of one server, and one connection that publishes to it.
pub struct Crowd {
    epoll: Epoll,
    address: SocketAddrV4,
    streams: Vec<Stream>,
    publisher: Option<TcpStream>,
    buffer: Vec<u8>,
    answered: usize,
    tally: Tally,
}

/// What has arrived so far, over all streams.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Events with a number (see [`Reader`]).
    pub events: u64,
    /// All bytes, heads and chunk framing included.
    pub bytes: u64,
    /// Streams that the server ended or refused.
    pub closed: usize,
}

/// An event as it arrives: on which stream, its number, and the time of the read that brought it.
#[derive(Clone, Copy)]
pub struct Arrival {
    pub stream: usize,
    pub number: u64,
    pub at: Instant,
}

struct Stream {
    socket: TcpStream,
    request: Option<Vec<u8>>,
    reader: Reader,
    begun: Instant,
    first_byte: Option<Duration>,
    open: bool,
}

impl Crowd {
    /// Opens `count` streams a wave at a time, and returns when each of them was answered `200`.
    pub fn gather(address: SocketAddrV4, count: usize, path: impl Fn(usize) -> String) -> Result<Crowd> {
        Crowd::connect(address, count, WAVE, path)
    }

    /// Opens `count` streams all at once.
    pub fn rush(address: SocketAddrV4, count: usize, path: impl Fn(usize) -> String) -> Result<Crowd> {
        Crowd::connect(address, count, count, path)
    }

    fn connect(address: SocketAddrV4, count: usize, wave: usize, path: impl Fn(usize) -> String) -> Result<Crowd> {
        let mut crowd = Crowd {
            epoll: Epoll::new()?,
            address,
            streams: Vec::with_capacity(count),
            publisher: None,
            buffer: vec![0; 1 << 16],
            answered: 0,
            tally: Tally::default(),
        };
        let mut last = Instant::now();
        while crowd.answered < count {
            while crowd.streams.len() < count.min(crowd.answered + wave) {
                let request = subscription(address, &path(crowd.streams.len()));
                crowd.add(request.into_bytes())?;
            }
            let before = crowd.tally.bytes;
            crowd.turn(Duration::from_millis(100), |_| {})?;
            if crowd.tally.closed > 0 {
                return Err(format!("{} of {count} streams were refused or closed", crowd.tally.closed).into());
            }
            if crowd.tally.bytes > before {
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                return Err(format!("only {} of {count} streams were answered", crowd.answered).into());
            }
        }
        Ok(crowd)
    }

    fn add(&mut self, request: Vec<u8>) -> io::Result<()> {
        let begun = Instant::now();
        let socket = sys::start_connect(self.address)?;
        self.epoll.add(&socket, self.streams.len() as u64)?;
        let reader = Reader::new();
        self.streams.push(Stream { socket, request: Some(request), reader, begun, first_byte: None, open: true });
        Ok(())
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// From the start of the connect to the first byte of the answer, for each stream.
    pub fn first_bytes(&self) -> impl Iterator<Item = Duration> {
        self.streams.iter().filter_map(|stream| stream.first_byte)
    }

    /// Reads whatever comes within `time`.
    pub fn listen(&mut self, time: Duration, mut arrived: impl FnMut(Arrival)) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left.min(Duration::from_millis(20)), &mut arrived)?;
        }
    }

    /// Reads until `events` have arrived in all. Those that are still missing when nothing has come for a long time
    /// are lost, which is an error.
    pub fn await_events(&mut self, events: u64, mut arrived: impl FnMut(Arrival)) -> Result<()> {
        let mut last = (Instant::now(), self.tally.bytes);
        while self.tally.events < events {
            self.turn(Duration::from_millis(100), &mut arrived)?;
            if self.tally.bytes > last.1 {
                last = (Instant::now(), self.tally.bytes);
            } else if last.0.elapsed() > PATIENCE {
                let Tally { events: arrived, closed, .. } = self.tally;
                return Err(format!("{} events were lost ({closed} streams were closed)", events - arrived).into());
            }
        }
        Ok(())
    }

    /// Publishes and reads until the answer is there and `events` have arrived in all (the closed loop: nothing is
    /// published before everybody has the last). Returns the time from the first byte of the request to the last
    /// of the events.
    pub fn publish(
        &mut self,
        request: &[u8],
        events: u64,
        reading: Reading,
        mut arrived: impl FnMut(Arrival),
    ) -> Result<Duration> {
        let mut publisher = match self.publisher.take() {
            Some(publisher) => publisher,
            None => self.connect_publisher()?,
        };
        let begun = Instant::now();
        publisher.write_all(request)?;
        if let Reading::After = reading {
            self.await_answer(&mut publisher)?;
        }
        let mut last = begun;
        self.await_events(events, |arrival| {
            last = arrival.at;
            arrived(arrival);
        })?;
        if let Reading::Along = reading {
            self.await_answer(&mut publisher)?;
        }
        self.publisher = Some(publisher);
        Ok(last - begun)
    }

    fn connect_publisher(&self) -> Result<TcpStream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Anything but `200` is an error.
    fn await_answer(&mut self, publisher: &mut TcpStream) -> Result<()> {
        let mut answer = Vec::new();
        loop {
            match publisher.read(&mut self.buffer)? {
                0 => return Err("the publishing connection was closed".into()),
                count => answer.extend_from_slice(&self.buffer[..count]),
            }
            match split_head(&answer) {
                Some((head, body)) if body.len() < content_length(head) => {}
                Some((head, _)) if head.starts_with("HTTP/1.1 200") => return Ok(()),
                Some(_) => return Err(format!("publishing: {}", String::from_utf8_lossy(&answer)).into()),
                None => {}
            }
        }
    }

    /// One wait, and one read of each socket that is ready.
    fn turn(&mut self, time: Duration, mut arrived: impl FnMut(Arrival)) -> Result<()> {
        for index in 0..self.epoll.wait(time)? {
            self.read(self.epoll.ready(index), &mut arrived)?;
        }
        Ok(())
    }

    fn read(&mut self, ready: Ready, arrived: &mut impl FnMut(Arrival)) -> Result<()> {
        let stream = &mut self.streams[ready.token as usize];
        if !stream.open {
            return Ok(());
        }
        if let Some(request) = stream.request.take_if(|_| ready.writable) {
            stream.socket.write_all(&request)?; // far smaller than the socket's buffer
        }
        loop {
            let count = match stream.socket.read(&mut self.buffer) {
                Ok(0) => 0,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => 0,
            };
            if count == 0 {
                stream.open = false;
                self.tally.closed += 1;
                return Ok(());
            }
            let at = Instant::now();
            if stream.first_byte.is_none() {
                stream.first_byte = Some(at - stream.begun);
            }
            self.tally.bytes += count as u64;
            let was_answered = stream.reader.is_answered();
            stream.reader.read(&self.buffer[..count], |number| {
                self.tally.events += 1;
                arrived(Arrival { stream: ready.token as usize, number, at });
            });
            if stream.reader.is_refused() {
                let answer = String::from_utf8_lossy(&self.buffer[..count]);
                return Err(format!("refused: {}", answer.lines().next().unwrap_or_default()).into());
            }
            self.answered += usize::from(!was_answered && stream.reader.is_answered());
            if count < self.buffer.len() && !ready.closed {
                return Ok(());
            }
        }
    }
}

/// An event stream over HTTP/1.1, as far as the load needs it. An event here is a `data` line whose value begins
/// with digits: the number it was published with, or the year on a clock. Other lines (ids, heartbeats, chunk
/// sizes, `tidings:open`) are passed over. It keeps nothing but its place, so a read may end anywhere.
struct Reader {
    part: Part,
    number: u64,
}

#[derive(Clone, Copy)]
enum Part {
    /// So many bytes of the status line are as they should be.
    Status(u8),
    Refused,
    /// In the head, so many bytes into its end.
    Head(u8),
    /// At the start of a line, so many bytes into `data: `.
    Field(u8),
    /// So many digits into the value.
    Number(u8),
    /// In the rest of an event's line.
    Event,
    /// In the rest of any other line.
    Other,
}

impl Reader {
    const STATUS: &[u8] = b"HTTP/1.1 200";
    const HEAD_END: &[u8] = b"\r\n\r\n";
    const DATA: &[u8] = b"data: ";

    fn new() -> Reader {
        Reader { part: Part::Status(0), number: 0 }
    }

    fn is_answered(&self) -> bool {
        !matches!(self.part, Part::Status(_) | Part::Refused | Part::Head(_))
    }

    fn is_refused(&self) -> bool {
        matches!(self.part, Part::Refused)
    }

    fn read(&mut self, mut bytes: &[u8], mut event: impl FnMut(u64)) {
        while let Some((&byte, rest)) = bytes.split_first() {
            self.part = match self.part {
                Part::Status(at) if byte != Self::STATUS[at as usize] => Part::Refused,
                Part::Status(at) if at as usize + 1 == Self::STATUS.len() => Part::Head(0),
                Part::Status(at) => Part::Status(at + 1),
                Part::Refused => return,
                Part::Head(at) if byte != Self::HEAD_END[at as usize] => Part::Head(u8::from(byte == b'\r')),
                Part::Head(at) if at as usize + 1 == Self::HEAD_END.len() => Part::Field(0),
                Part::Head(at) => Part::Head(at + 1),
                Part::Field(_) if byte == b'\n' => Part::Field(0),
                Part::Field(at) if byte != Self::DATA[at as usize] => Part::Other,
                Part::Field(at) if at as usize + 1 == Self::DATA.len() => {
                    self.number = 0;
                    Part::Number(0)
                }
                Part::Field(at) => Part::Field(at + 1),
                Part::Number(digits) if byte.is_ascii_digit() => {
                    self.number = self.number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
                    Part::Number(digits.saturating_add(1))
                }
                Part::Number(0) if byte != b'\n' => Part::Other,
                Part::Number(0) => Part::Field(0),
                Part::Number(_) | Part::Event | Part::Other => {
                    let counts = !matches!(self.part, Part::Other);
                    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                        self.part = if counts { Part::Event } else { Part::Other };
                        return;
                    };
                    if counts {
                        event(self.number);
                    }
                    self.part = Part::Field(0);
                    bytes = &bytes[end + 1..];
                    continue;
                }
            };
            bytes = rest;
        }
    }
}

fn subscription(address: SocketAddrV4, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n")
}

/// The request that publishes `body`, whose type says whether it is one event or a batch.
pub fn publication(address: SocketAddrV4, path: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One request on a connection of its own, and the body of its answer.
pub fn get(address: SocketAddrV4, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    match split_head(&answer) {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(String::from_utf8_lossy(body).into_owned()),
        _ => Err(format!("{path}: {}", String::from_utf8_lossy(&answer)).into()),
    }
}

/// A subscriber that asks and then never reads. It is lost to the load when it is dropped.
pub fn stall(address: SocketAddrV4, path: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.write_all(subscription(address, path).as_bytes())?;
    // The answer is waited for and left unread, so that the stream is known to stand.
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.peek(&mut [0])?;
    Ok(socket)
}

fn split_head(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|window| window == Reader::HEAD_END)? + 4;
    Some((str::from_utf8(&answer[..end]).ok()?, &answer[end..]))
}

fn content_length(head: &str) -> usize {
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    head.lines().find_map(field).unwrap_or(0)
}
