//! One thread's life: from the request head, through the answer, to the close.
//!
//! The socket is non-blocking; this thread waits in `os::wait` with a deadline for everything: a head, a body, a write.
//! So a client that dawdles costs one sleeping thread, and only for so long. A request that opens a stream turns the
//! thread into the stream's watchman: it sleeps until the client says something, leaves, or is owed a heartbeat. What is
//! sent to a stream goes through its outbox, never through this room.

use crate::access::Access;
use crate::body::ChunkedBody;
use crate::date::http_date;
use crate::event::{Event, Frame};
use crate::head::{self, BadRequest, BodyLength, Head, Parsed, Version};
use crate::log::Log;
use crate::os::{self, Interest};
use crate::outbox::{Drainer, Outbox, STALL_LIMIT, refusal_retry};
use crate::queue::{Carrier, Closed, Queue};
use crate::request::Request;
use crate::response::{Body, Field, Fields, Framing, Open, Response, encode_head};
use crate::roster::Seat;
use crate::scheduler::Scheduler;
use crate::shield::shielded;
use crate::stream::Stream;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// From the first byte of a head (of a new connection: from its start) to its last. Slow heads are an old way to take all
/// of a server's connections.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// From the end of the head to the end of the body.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// How long a persistent connection may wait for its next request. nginx keeps its own side for 60 s, and whoever closes
/// first must be the client: a request that crosses with a close is lost.
const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// What is read and dropped before a close, so that an answer is not lost to the reset that unread bytes would cause.
const LINGER_LIMIT: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// What a client may send onto an open stream: some requests ahead of time, which HTTP/1.1 calls pipelining and which
/// are answered when the stream has ended.
const MAX_PIPELINED: usize = 8 * 1024;

/// A clean end does not wake this thread; the client's next request does. One that is here already cannot, so with bytes
/// in hand the thread looks this often whether the stream is over.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How much of a path the log gets: any one topic whole, percent-encoded as it may be. Each open stream keeps as much.
const LOGGED_PATH: usize = 400;

/// Bytes asked for in one read.
const READ: usize = 2 * 1024;

/// How long an answer may make no progress before each look at the clock.
const WRITE_LOOK: Duration = Duration::from_secs(1);

/// What all connections of a server share.
pub(crate) struct Context {
    pub(crate) access: Access,
    pub(crate) heartbeat: Duration,
    pub(crate) queue_bytes: usize,
    pub(crate) max_body: usize,
    pub(crate) listener: IpAddr,
    pub(crate) scheduler: Scheduler,
    pub(crate) drainer: Arc<Drainer>,
    pub(crate) log: Log,
    /// What every stream begins with: its reconnection time.
    pub(crate) first: Arc<Frame>,
    /// The comment on idle streams.
    pub(crate) comment: Arc<Frame>,
    pub(crate) answer: Box<dyn Fn(&Request) -> Response + Send + Sync>,
}

/// Serves a connection until it is over. This is all that its thread does.
pub(crate) fn serve(context: &Context, seat: Seat, socket: Arc<TcpStream>, peer: SocketAddr) {
    let wire = Wire { socket, buffer: Vec::new(), has_unread_body: false };
    let mut connection = Connection { context, seat, wire, peer };
    let mut deadline = Instant::now() + HEAD_LIMIT;
    while connection.exchange(deadline) == After::KeepOpen && connection.seat.wait_for_request() {
        deadline = Instant::now() + IDLE_LIMIT;
    }
}

struct Connection<'a> {
    context: &'a Context,
    seat: Seat,
    wire: Wire,
    peer: SocketAddr,
}

/// What becomes of the connection after an exchange.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    KeepOpen,
    Close,
}

/// What of a request its answer's form depends on, kept while the request itself goes.
struct Form {
    version: Version,
    is_head: bool,
    wants_event_stream: bool,
    keep_alive: bool,
}

impl Connection<'_> {
    /// One request and its answer.
    fn exchange(&mut self, deadline: Instant) -> After {
        let head = match self.wire.read_head(deadline) {
            Ok(Some(head)) => head,
            Ok(None) => return After::Close,
            Err(bad) => return self.refuse(bad),
        };
        let may_stay = self.seat.take_request();
        let form = Form {
            version: head.version(),
            is_head: head.is_head(),
            wants_event_stream: head.wants_event_stream(),
            keep_alive: head.keep_alive() && may_stay && !self.seat.is_crowded,
        };
        self.wire.has_unread_body = head.body_length() != BodyLength::None;
        let path = logged(head.raw_path());
        let response = self.answer(head, &form);
        let form = Form { keep_alive: form.keep_alive && !self.wire.has_unread_body, ..form };
        match response.body {
            Body::Stream(open) if !form.is_head => self.stream(response.status, response.fields, &form, path, open),
            body => self.write(Response { body, ..response }, &form),
        }
    }

    /// What the request is answered with: by the handler, if everything before it agrees.
    fn answer(&mut self, head: Head, form: &Form) -> Response {
        let Connection { context, seat, wire, peer } = self;
        let length = head.body_length();
        let expects_continue = head.expects_continue();
        let read_body = || wire.read_body(length, context.max_body, expects_continue);
        let request = Request::new(head, *peer, Box::new(read_body));
        let response = if seat.is_crowded {
            full(form.wants_event_stream)
        } else if let Err(refusal) = context.access.check_host(request.head(), context.listener) {
            refusal
        } else {
            let answered = shielded(|| (context.answer)(&request));
            answered.unwrap_or_else(|| Response::text(500, "the handler of this request panicked"))
        };
        context.access.with_cors(response, &request)
    }

    /// Answers what was no request. The connection is over: where the next one would begin cannot be known.
    fn refuse(&mut self, bad: BadRequest) -> After {
        if bad == BadRequest::Tls {
            self.context.log.line(format_args!("{} spoke TLS to the plain port", self.peer));
        }
        let form = Form { version: Version::Http11, is_head: false, wants_event_stream: false, keep_alive: false };
        self.write(Response::text(bad.status(), bad.text()), &form)
    }

    /// Writes an answer whole; to `HEAD` its head alone, and where that is a stream's, `open` goes unused.
    fn write(&mut self, response: Response, form: &Form) -> After {
        let (framing, body) = match response.body {
            Body::Bytes(body) => (Framing::Length(body.len()), body),
            Body::Stream(_) => (form.stream_framing(), Vec::new()),
        };
        let date = http_date(SystemTime::now());
        let mut bytes = encode_head(Vec::new(), response.status, &response.fields, framing, &date, form.keep_alive);
        if !form.is_head {
            bytes.reserve_exact(body.len());
            bytes.extend_from_slice(&body);
        }
        drop(body); // a client that reads slowly makes the server hold its answer, and once is enough
        if self.wire.write_all(&bytes, || self.seat.wait_for_client()).is_err() {
            return After::Close;
        }
        if form.keep_alive {
            return After::KeepOpen;
        }
        self.wire.linger();
        After::Close
    }

    /// Opens a stream and watches over it until it is over.
    fn stream(&mut self, status: u16, fields: Fields, form: &Form, path: Box<str>, open: Open) -> After {
        let context = self.context;
        let carrier = match (form.version, form.keep_alive) {
            (Version::Http11, true) => Carrier::Persistent,
            (Version::Http11, false) => Carrier::Chunked,
            (Version::Http10, _) => Carrier::Bare,
        };
        // This thread may sleep here for weeks, and what it has freed stays in its allocator's cache: so from here on, and
        // wherever a stream is opened, blocks of memory are few and not made larger by and by. The buffer that the request
        // came in carries the head out.
        let buffer = self.wire.take_empty_buffer();
        let now = SystemTime::now();
        let head = encode_head(buffer, status, &fields, form.stream_framing(), &http_date(now), form.keep_alive);
        let socket = self.wire.socket.clone();
        let queue = Queue::new(socket, carrier, head, context.first.clone(), context.queue_bytes);
        let outbox = Outbox::new(queue, context.drainer.clone());
        let Some(guard) = self.seat.open_stream(&outbox, &context.log, self.peer, path) else {
            drop(open);
            return self.refuse_stream(&fields, form);
        };
        outbox.attach(Box::new(guard));
        let stream = Stream::new(outbox.clone(), context.scheduler.clone());
        // What `open` returns is why the stream is over, which the outbox knows.
        if shielded(|| open(stream)).is_none() {
            outbox.cut(Closed::Panicked);
        }
        outbox.flush();
        drop(fields);
        self.watch(&outbox);
        outbox.settle();
        match outbox.closed() {
            Some(Closed::Ended) if carrier == Carrier::Persistent => After::KeepOpen,
            _ => After::Close,
        }
    }

    /// Says that there is no room. The answer's own fields that let another origin read it stay.
    fn refuse_stream(&mut self, fields: &[Field], form: &Form) -> After {
        let mut response = full(form.wants_event_stream);
        let kept = fields.iter().filter(|(name, _)| name.starts_with("Access-Control-") || *name == "Vary");
        response.fields.to_mut().extend(kept.cloned());
        self.write(response, form)
    }

    /// Sleeps beside an open stream, until it is closed: by the end of what the client sends, which is how one that
    /// leaves is noticed at once; or by somebody else, whose cut ends the sleep.
    fn watch(&mut self, outbox: &Arc<Outbox>) {
        os::trim_stack();
        while outbox.closed().is_none() {
            let mut until = outbox.heartbeat(&self.context.comment, self.context.heartbeat);
            if !self.wire.buffer.is_empty() {
                until = until.min(Instant::now() + LOOK_AGAIN);
            }
            match self.wire.fill(until) {
                Ok(Filled::Bytes) if self.wire.buffer.len() > MAX_PIPELINED => outbox.cut(Closed::Flooded),
                Ok(Filled::Bytes | Filled::Late) => {}
                Ok(Filled::End) => outbox.cut(Closed::Left),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => outbox.cut(Closed::Stalled),
                Err(_) => outbox.cut(Closed::Left),
            }
        }
    }
}

impl Form {
    fn stream_framing(&self) -> Framing {
        match self.version {
            Version::Http11 => Framing::Chunked,
            Version::Http10 => Framing::UntilClose,
        }
    }
}

/// The beginning of a path, which is ASCII.
fn logged(path: &str) -> Box<str> {
    match path.get(..LOGGED_PATH) {
        Some(beginning) if path.len() > LOGGED_PATH => format!("{beginning}...").into(),
        _ => path.into(),
    }
}

/// There is no room. An EventSource never comes back from an error, so it gets a stream that ends and says when to try
/// again; everybody else gets a 503.
fn full(wants_event_stream: bool) -> Response {
    let retry = refusal_retry();
    if wants_event_stream {
        let refusal = Frame::event(&Event::comment("full").with_retry(retry));
        Response::bytes(200, "text/event-stream; charset=utf-8", refusal.bare()).field("Cache-Control", "no-store")
    } else {
        Response::text(503, "all connections are taken; see --max-connections")
            .field("Retry-After", retry.as_secs().to_string())
    }
}

/// The connection's bytes.
struct Wire {
    socket: Arc<TcpStream>,
    /// What has come and is not yet used: at most the longest head or body, and one read.
    buffer: Vec<u8>,
    /// A body was announced and nobody has read it whole.
    has_unread_body: bool,
}

/// What came of waiting for bytes.
enum Filled {
    Bytes,
    End,
    Late,
}

impl Wire {
    /// The buffer's memory, unless there are bytes in it.
    fn take_empty_buffer(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() { std::mem::take(&mut self.buffer) } else { Vec::new() }
    }

    /// Waits for bytes and reads some.
    fn fill(&mut self, until: Instant) -> io::Result<Filled> {
        loop {
            if !os::wait(&self.socket, Interest::Read, until)? {
                return Ok(Filled::Late);
            }
            let end = self.buffer.len();
            self.buffer.resize(end + READ, 0);
            let outcome = (&*self.socket).read(&mut self.buffer[end..]);
            self.buffer.truncate(end + *outcome.as_ref().unwrap_or(&0));
            match outcome {
                Ok(0) => return Ok(Filled::End),
                Ok(_) => return Ok(Filled::Bytes),
                Err(error) if is_passing(&error) => {
                    if Instant::now() >= until {
                        return Ok(Filled::Late);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next head; none if the client left, or was silent until the deadline. Once its first byte is there, the head
    /// has its own time.
    fn read_head(&mut self, deadline: Instant) -> Result<Option<Head>, BadRequest> {
        let mut until = deadline;
        let mut has_begun = false;
        loop {
            if !has_begun && !self.buffer.is_empty() {
                has_begun = true;
                until = until.min(Instant::now() + HEAD_LIMIT);
            }
            if let Parsed::Complete { head, length } = head::parse(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(Some(head));
            }
            match self.fill(until) {
                Ok(Filled::Bytes) => {}
                Ok(Filled::Late) if has_begun => return Err(BadRequest::HeadLate),
                Ok(Filled::Late | Filled::End) | Err(_) => return Ok(None),
            }
        }
    }

    /// The body, of at most `max` bytes.
    fn read_body(&mut self, length: BodyLength, max: usize, expects_continue: bool) -> Result<Vec<u8>, BadRequest> {
        if let BodyLength::Length(length) = length {
            if length > max as u64 {
                return Err(BadRequest::BodyTooLarge);
            }
        }
        if expects_continue
            && self.buffer.is_empty()
            && self.write_all(b"HTTP/1.1 100 Continue\r\n\r\n", || {}).is_err()
        {
            return Err(BadRequest::BodyCut);
        }
        let until = Instant::now() + BODY_LIMIT;
        let body = match length {
            BodyLength::None => Vec::new(),
            BodyLength::Length(length) => self.read_exactly(length as usize, until)?,
            BodyLength::Chunked => self.read_chunks(ChunkedBody::new(max), until)?,
        };
        self.has_unread_body = false;
        Ok(body)
    }

    fn read_exactly(&mut self, length: usize, until: Instant) -> Result<Vec<u8>, BadRequest> {
        while self.buffer.len() < length {
            self.fill_body(until)?;
        }
        let next = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, next))
    }

    fn read_chunks(&mut self, mut chunks: ChunkedBody, until: Instant) -> Result<Vec<u8>, BadRequest> {
        loop {
            let (used, is_done) = chunks.feed(&self.buffer)?;
            self.buffer.drain(..used);
            if is_done {
                return Ok(chunks.into_body());
            }
            self.fill_body(until)?;
        }
    }

    fn fill_body(&mut self, until: Instant) -> Result<(), BadRequest> {
        match self.fill(until) {
            Ok(Filled::Bytes) => Ok(()),
            Ok(Filled::Late) => Err(BadRequest::BodyLate),
            Ok(Filled::End) | Err(_) => Err(BadRequest::BodyCut),
        }
    }

    /// Writes an ordinary answer, and waits for the client where it must: it is this client's own thread.
    /// `waits` is called once, if it must.
    fn write_all(&self, mut bytes: &[u8], waits: impl FnOnce()) -> io::Result<()> {
        let mut waits = Some(waits);
        let mut progress = Instant::now();
        while !bytes.is_empty() {
            match (&*self.socket).write(bytes) {
                Ok(n) => {
                    bytes = &bytes[n..];
                    progress = Instant::now();
                }
                Err(error) if is_passing(&error) => {
                    if progress.elapsed() >= STALL_LIMIT {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    if let Some(waits) = waits.take() {
                        waits();
                    }
                    os::wait(&self.socket, Interest::Write, Instant::now() + WRITE_LOOK)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more is sent, and drops what the client still sends, until it closes as well. What came to a
    /// closed socket, a rest of a body or a pipelined request, would be answered with a reset, which can overtake the
    /// answer (RFC 9112, section 9.6). Whether something is still under way cannot be known here; a client that has its
    /// answer closes at once, so it costs a round trip.
    fn linger(&mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return; // the client is gone
        }
        let until = Instant::now() + LINGER_LIMIT;
        let mut dropped = 0;
        while dropped < LINGER_BYTES {
            self.buffer.clear();
            match self.fill(until) {
                Ok(Filled::Bytes) => dropped += self.buffer.len(),
                Ok(Filled::End | Filled::Late) | Err(_) => return,
            }
        }
    }
}

/// Whether an operation on a non-blocking socket is to be tried again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
