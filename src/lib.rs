//! tidings is a Server-Sent Events server with no dependency beyond `std`: it turns anything (a closure, a timer, a
//! program's output, an HTTP POST) into a live stream that any browser can read.
//!
//! # One whole program
//!
//! ```no_run
//! use std::time::{Duration, SystemTime};
//! use tidings::{Config, Event, Response, Server, iso8601};
//!
//! fn main() -> tidings::Result<()> {
//!     let server = Server::bind("127.0.0.1:3000", Config::default())?;
//!     server.run(|request| match request.path() {
//!         "/clock" => Response::stream(|stream| {
//!             let times = std::iter::from_fn(|| Some(Event::data(iso8601(SystemTime::now()))));
//!             stream.every(Duration::from_secs(1), times)
//!         }),
//!         _ => Response::text(404, "there is only /clock"),
//!     })
//! }
//! ```
//!
//! `curl -iN http://127.0.0.1:3000/clock` shows what it answers: a head of lines, an empty line, and then a body that does
//! not end. Each block of it is an event, and an empty line is its end. A page reads it by `new EventSource("/clock")`.
//!
//! ```text
//! HTTP/1.1 200 OK
//! Date: Sat, 21 Nov 2026 08:00:00 GMT
//! X-Content-Type-Options: nosniff
//! Content-Type: text/event-stream; charset=utf-8
//! Cache-Control: no-cache, no-store, no-transform
//! X-Accel-Buffering: no
//! Transfer-Encoding: chunked
//! Connection: keep-alive
//!
//! retry: 3000
//!
//! data: 2026-11-21T08:00:01.000Z
//!
//! data: 2026-11-21T08:00:02.000Z
//! ```
//!
//! For events that go to many, and that come again to those who were away, see [`Hub`]. For what can be set, see
//! [`Config`].
//!
//! # The life of a connection
//!
//! 1. `server.rs`: `Accepting::accept_all` takes it from the listener, `os::prepare` makes its socket non-blocking and
//!    sets its options, `Roster::admit` gives it a seat, and a thread is started for it.
//! 2. `connection.rs`: `serve` is that thread's whole life. `Wire::read_head` waits for bytes and hands them to
//!    `head::parse`, which says *partial*, *complete* or what is wrong with them.
//! 3. `Connection::answer` checks `Host` (`access.rs`) and calls your closure. The body is read when you ask for it
//!    (`body.rs`, if it comes in chunks).
//! 4. An ordinary answer is encoded by `response::encode_head`, written, and the thread waits for the next request.
//! 5. A stream gets an [outbox](Stream): `Connection::stream` puts the head and the first chunk into it and calls your
//!    `open` with a [`Stream`]. Then `Connection::watch` sleeps beside it, to see the client leave and to send heartbeats.
//! 6. However it ends, `Outbox::settle` drops what was attached: timers are cancelled, subscriptions end, a line is logged.
//!
//! # The life of an event
//!
//! 1. [`Hub::publish`] takes its turn, mints a position (`replay.rs`), and encodes the event once, as a chunk
//!    (`event.rs`: `Frame`).
//! 2. `Topics::append` keeps the frame in the topic's `ReplayLog` and takes a snapshot of the subscribers.
//! 3. `Outbox::push_batch` tries one non-blocking write to each, on the publisher's own thread. To a client that keeps
//!    up, that is all there is: one system call, no context switch.
//! 4. What a client does not take is queued, and the one drainer thread (`outbox.rs`: `Drainer`) polls its socket and
//!    writes on. A client that falls too far behind is cut.
//! 5. It comes back with `Last-Event-ID`, and [`Hub::subscribe`] reads the logs from there and joins the live events in one
//!    critical section, so that none is missed and none comes twice.
//!
//! An event of one stream alone ([`Stream::send`], [`Stream::every`]) begins at 3, as `Outbox::push`; a timed one when
//! `scheduler.rs` finds it due.
//!
//! # Invariants
//!
//! 1. Codecs (`event`, `head`, `body`, `request`, `response`, `access`, `replay`, `date`, `json`) do no I/O and read no
//!    clock, nor does `agenda`.
//! 2. Only `queue.rs` writes to a streaming socket. Nobody who publishes ever blocks on a client.
//! 3. Every buffer, queue, map, timer and thread count has a named bound with a reason.
//! 4. `unsafe` stands in `os.rs` alone, each block with its reason.
//! 5. An event is encoded once, however many receive it.
//! 6. No user code runs under a lock, destructors included. A poisoned lock is taken over, so that one panic never stops
//!    the hub.
//!
//! Imports point one way, and a test reads the sources to see that they do:
//! `server -> connection -> stream, outbox, request, response, access, roster -> os`, `hub -> topics -> stream, replay, event`,
//! `stream -> outbox, scheduler, event`, `outbox -> queue, os`, `queue -> event`, `scheduler -> agenda, os`, `os -> number`.
//! Codecs (`request -> head`, `body -> head`) import each other and `error` alone; the one exception is `response`, which
//! names the `Stream` that its closure is given.

#![warn(missing_docs)]

mod access;
mod agenda;
mod body;
mod connection;
mod date;
mod error;
mod event;
mod head;
mod hub;
mod json;
mod lock;
mod log;
mod number;
mod os;
mod outbox;
mod queue;
mod replay;
mod request;
mod response;
mod roster;
mod scheduler;
mod server;
mod shield;
mod stream;
mod topics;

pub use access::Access;
pub use agenda::Lateness;
pub use date::iso8601;
pub use error::{Error, Result};
pub use event::{Event, EventId, EventType};
pub use hub::{Hub, Receipt, Refused};
pub use json::json_string;
pub use log::Log;
pub use os::use_one_heap;
pub use queue::Closed;
pub use request::Request;
pub use response::Response;
pub use roster::Counts;
pub use scheduler::{Scheduler, Timer};
pub use server::{Config, Monitor, Server, Stopper};
pub use stream::Stream;
pub use topics::{History, HubCounts, Topic, TopicInfo};
