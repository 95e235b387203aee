//! What a small box needs of the library, in one process and with nothing but `std`: many streams, the socket options
//! that keep them honest, resuming, a clean stop.
//!
//! This file names no other file of the tests, so that it also compiles by itself, `rustc --test small_box.rs --extern
//! tidings=…`. That is how it is run on processors that are only emulated, where no registry and no cargo is at hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidings::{Config, Event, History, Hub, Monitor, Response, Server, Stopper, Topic};

/// The most that a read or a wait may take: an emulated processor is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Enough to be many for a box with 64 MiB of memory.
const STREAMS: usize = 200;

/// A server whose every path is one topic. It stops when dropped.
struct Served {
    address: SocketAddr,
    hub: Hub,
    topic: Topic,
    monitor: Monitor,
    stopper: Stopper,
    thread: Option<JoinHandle<tidings::Result<()>>>,
}

impl Served {
    fn start() -> Served {
        let server = Server::bind("127.0.0.1:0", Config::default()).unwrap();
        let (hub, topic) = (Hub::new(History::default()), Topic::new("box").unwrap());
        let (shared_hub, shared_topic) = (hub.clone(), topic.clone());
        let (address, monitor, stopper) = (server.local_addr(), server.monitor(), server.stopper());
        let thread = std::thread::spawn(move || {
            server.run(move |request| {
                let (hub, topic, after) = (shared_hub.clone(), shared_topic.clone(), request.last_event_id());
                Response::stream(move |stream| hub.subscribe(stream, &[topic], after.as_deref()))
            })
        });
        Served { address, hub, topic, monitor, stopper, thread: Some(thread) }
    }

    fn publish(&self, text: &str) {
        self.hub.publish(&self.topic, &Event::data(text)).unwrap();
    }

    /// Opens a stream and reads its head. `fields` are further field lines, each with its CRLF.
    fn subscribe(&self, fields: &str) -> Reader {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").unwrap();
        let mut reader = Reader(BufReader::new(socket));
        assert_eq!(reader.line(), "HTTP/1.1 200 OK");
        while !reader.line().is_empty() {}
        reader
    }

    /// Waits until so many streams are open.
    fn holds(&self, streams: usize) {
        eventually(streams, || self.monitor.counts().streams);
    }
}

/// Waits until a count is what it should be.
fn eventually(expected: usize, count: impl Fn() -> usize) {
    let until = Instant::now() + PATIENCE;
    while count() != expected {
        assert!(Instant::now() < until, "{} instead of {expected}", count());
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client's end of a stream, line by line. The chunks' own lines are passed over by whoever looks for a field.
struct Reader(BufReader<TcpStream>);

impl Reader {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the stream ended at {line:?}");
        line.trim_end().to_owned()
    }

    /// The value of the next field of this name.
    fn next(&mut self, field: &str) -> String {
        loop {
            if let Some(value) = self.line().strip_prefix(field).and_then(|rest| rest.strip_prefix(": ")) {
                return value.to_owned();
            }
        }
    }

    /// Passes over the `tidings:open` that stands before the live events.
    fn open(mut self) -> Reader {
        assert_eq!(self.next("event"), "tidings:open");
        self.next("data");
        self
    }
}

#[test]
fn gives_200_streams_every_event_and_notices_who_left() {
    let served = Served::start();
    let mut readers: Vec<_> = (0..STREAMS).map(|_| served.subscribe("").open()).collect();
    served.holds(STREAMS);
    for text in ["one", "two", "three"] {
        served.publish(text);
    }
    for reader in &mut readers {
        assert_eq!([reader.next("data"), reader.next("data"), reader.next("data")], ["one", "two", "three"]);
    }
    readers.truncate(STREAMS / 2);
    served.holds(STREAMS / 2);
    served.publish("four");
    for reader in &mut readers {
        assert_eq!(reader.next("data"), "four");
    }
    // The count of an event may come a moment after the event.
    eventually(3 * STREAMS + STREAMS / 2, || served.monitor.counts().delivered as usize);
}

#[test]
fn resumes_after_the_last_event_id_of_a_stream_that_was_cut() {
    let served = Served::start();
    let mut reader = served.subscribe("").open();
    for text in ["one", "two", "three"] {
        served.publish(text);
    }
    let id = reader.next("id");
    assert_eq!(reader.next("data"), "one");
    drop(reader);

    let mut reader = served.subscribe(&format!("Last-Event-ID: {id}\r\n"));
    assert_eq!([reader.next("data"), reader.next("data")], ["two", "three"]);
    let mut reader = reader.open();
    served.publish("four");
    assert_eq!(reader.next("data"), "four");
}

#[test]
fn stops_within_two_seconds_and_ends_every_stream_cleanly() {
    let mut served = Served::start();
    let readers: Vec<_> = (0..STREAMS).map(|_| served.subscribe("").open()).collect();
    served.publish("the last");
    let began = Instant::now();
    served.stopper.stop();
    served.thread.take().unwrap().join().unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for mut reader in readers {
        let mut rest = String::new();
        reader.0.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: the last\n"), "{rest:?}");
        assert!(rest.contains("retry: "), "{rest:?}");
        assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest:?}");
    }
}

/// The numbers are written down here once more, from the kernel's headers: a wrong one in the server must not agree
/// with itself.
#[cfg(target_os = "linux")]
#[test]
fn every_accepted_socket_has_its_options() {
    const MIPS: bool = cfg!(any(target_arch = "mips", target_arch = "mips64"));
    const SOL_SOCKET: i32 = if MIPS { 0xffff } else { 1 };
    const SO_KEEPALIVE: i32 = if MIPS { 8 } else { 9 };
    const IPPROTO_TCP: i32 = 6;
    const TCP_NODELAY: i32 = 1;
    const TCP_KEEPIDLE: i32 = 4;
    const TCP_KEEPINTVL: i32 = 5;
    const TCP_KEEPCNT: i32 = 6;
    const TCP_USER_TIMEOUT: i32 = 18;
    const TCP_NOTSENT_LOWAT: i32 = 25;

    let served = Served::start();
    let reader = served.subscribe("").open();
    let accepted = os::peer_of(reader.0.get_ref());
    for (name, number, expected) in [
        ("TCP_NODELAY", TCP_NODELAY, 1),
        ("TCP_KEEPIDLE", TCP_KEEPIDLE, 30),
        ("TCP_KEEPINTVL", TCP_KEEPINTVL, 10),
        ("TCP_KEEPCNT", TCP_KEEPCNT, 3),
        ("TCP_USER_TIMEOUT", TCP_USER_TIMEOUT, 30_000),
        ("TCP_NOTSENT_LOWAT", TCP_NOTSENT_LOWAT, 16_384),
    ] {
        assert_eq!(os::option(&accepted, IPPROTO_TCP, number), expected, "{name}");
    }
    assert_eq!(os::option(&accepted, SOL_SOCKET, SO_KEEPALIVE), 1, "SO_KEEPALIVE");
    assert!(os::is_nonblocking(&accepted), "O_NONBLOCK");
}

/// What `std` does not give: the server's own socket, found among this process's files, and its options.
#[cfg(target_os = "linux")]
mod os {
    use std::net::TcpStream;
    use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

    unsafe extern "C" {
        fn getsockopt(fd: i32, level: i32, name: i32, value: *mut i32, length: *mut u32) -> i32;
        fn fcntl(fd: i32, command: i32, ...) -> i32;
    }

    /// The other end of a connection inside this process, as a duplicate.
    pub fn peer_of(client: &TcpStream) -> TcpStream {
        let client_address = client.local_addr().unwrap();
        let server_address = client.peer_addr().unwrap();
        let is_other_end = |socket: &TcpStream| {
            socket.peer_addr().ok() == Some(client_address) && socket.local_addr().ok() == Some(server_address)
        };
        let duplicate = |fd: RawFd| {
            // SAFETY: it is borrowed for one dup(2), which fails if nothing is open by this number.
            unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().ok().map(TcpStream::from)
        };
        (3..10_000).filter_map(duplicate).find(is_other_end).expect("the server's end is a file of this process")
    }

    pub fn option(socket: &TcpStream, level: i32, name: i32) -> i32 {
        let (mut value, mut length) = (0, size_of::<i32>() as u32);
        // SAFETY: both pointers are to live values, and the length says how long the first is.
        let outcome = unsafe { getsockopt(socket.as_raw_fd(), level, name, &raw mut value, &raw mut length) };
        assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
        value
    }

    pub fn is_nonblocking(socket: &TcpStream) -> bool {
        const F_GETFL: i32 = 3;
        const O_NONBLOCK: i32 = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 0o200 } else { 0o4000 };
        // SAFETY: F_GETFL reads the flags of an open file and takes no third argument.
        let flags = unsafe { fcntl(socket.as_raw_fd(), F_GETFL) };
        assert!(flags >= 0, "{}", std::io::Error::last_os_error());
        flags & O_NONBLOCK != 0
    }
}
