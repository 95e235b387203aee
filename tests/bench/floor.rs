//! The bare loops that the server is held against: what it costs to bring the same bytes to the same sockets with
//! nothing around it. No parser to speak of, no queue, no ids, no error handling; no server on this kernel can be
//! much cheaper. They run as a child process of the same program, so that the kernel accounts for them apart.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n";

/// `floor fanout`, `floor in-turn`, or `floor paced BYTES MILLISECONDS`.
pub fn main(arguments: &[String]) {
    let number = |index: usize| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(0);
    thread::spawn(|| {
        // The end of standard input is the end of the bench, however it ended: a loop is never left behind.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    println!("listening on http://{}", listener.local_addr().expect("just bound"));
    match arguments.first().map(String::as_str) {
        Some("paced") => paced(listener, number(1), number(2)),
        Some("in-turn") => fanout(listener, write_to_next),
        Some("fanout") => fanout(listener, write_to_all),
        other => panic!("no bare loop of the name {other:?}"),
    }
}

/// Writes the event of this number to those whose turn it is.
type WriteEvent = fn(&[TcpStream], &[u8], usize);

fn write_to_all(subscribers: &[TcpStream], frame: &[u8], _: usize) {
    for mut socket in subscribers {
        let _ = socket.write(frame);
    }
}

fn write_to_next(subscribers: &[TcpStream], frame: &[u8], number: usize) {
    let _ = (&subscribers[number % subscribers.len()]).write(frame);
}

/// Whoever publishes writes to the sockets. No thread per subscriber.
fn fanout(listener: TcpListener, write_event: WriteEvent) {
    let subscribers: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    for socket in listener.incoming().flatten() {
        let Ok(mut request) = accept(socket) else { continue };
        match body(&mut request) {
            Ok(None) => subscribers.lock().expect("no panic holds it").push(open(request)),
            Ok(Some(first)) => {
                let subscribers = Arc::clone(&subscribers);
                thread::spawn(move || publisher(request, first, &subscribers, write_event));
            }
            Err(_) => {}
        }
    }
}

fn publisher(
    mut request: BufReader<TcpStream>,
    first: Vec<u8>,
    subscribers: &Mutex<Vec<TcpStream>>,
    write_event: WriteEvent,
) {
    let mut next = Some(first);
    for number in 0.. {
        let Some(body) = next else { return };
        let frame = [b"data: ", &body[..], b"\n\n"].concat();
        write_event(&subscribers.lock().expect("no panic holds it"), &frame, number);
        if request.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
            return;
        }
        next = self::body(&mut request).ok().flatten();
    }
}

/// A wheel of as many slots as the period has milliseconds. A stream has its turn in the slot in which it came, so
/// all that fall into one millisecond share a wake-up.
fn paced(listener: TcpListener, frame_bytes: usize, period: usize) {
    let start = Instant::now();
    let slots: Arc<Vec<Mutex<Vec<TcpStream>>>> = Arc::new((0..period).map(|_| Mutex::default()).collect());
    let written = Arc::clone(&slots);
    let frame = ["data: ", &"0".repeat(frame_bytes.saturating_sub(8)), "\n\n"].concat().into_bytes();
    thread::spawn(move || {
        for (tick, slot) in (0..).zip((0..period).cycle()) {
            thread::sleep((start + Duration::from_millis(tick)).saturating_duration_since(Instant::now()));
            for mut socket in written[slot].lock().expect("no panic holds it").iter() {
                let _ = socket.write(&frame);
            }
        }
    });
    for socket in listener.incoming().flatten() {
        let Ok(mut request) = accept(socket) else { continue };
        if body(&mut request).is_ok() {
            let slot = start.elapsed().as_millis() as usize % period;
            slots[slot].lock().expect("no panic holds it").push(open(request));
        }
    }
}

fn accept(socket: TcpStream) -> io::Result<BufReader<TcpStream>> {
    socket.set_nodelay(true)?;
    Ok(BufReader::with_capacity(1024, socket))
}

/// The body of a POST, or nothing for a GET.
fn body(request: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    let mut length = None;
    let mut is_post = false;
    while line != "\r\n" {
        line.clear();
        if request.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        is_post |= line.starts_with("POST");
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().ok();
        }
    }
    let mut body = vec![0; length.unwrap_or(0)];
    request.read_exact(&mut body)?;
    Ok(is_post.then_some(body))
}

fn open(request: BufReader<TcpStream>) -> TcpStream {
    let mut socket = request.into_inner();
    let _ = socket.write_all(HEAD);
    let _ = socket.set_nonblocking(true);
    socket
}
