//! What is on its way to one client: frames in order, and the writes that take them to the socket. The only code that
//! writes to a streaming socket.
//!
//! A [`Queue`] has no lock and no thread: its outbox guards it, and says when to write. Every write is non-blocking. Once
//! the tail is queued nothing more is taken (*ending*); when it is out, or when something goes wrong, the queue is
//! *closed* and holds neither frames nor socket.

use crate::event::{FRAME_OVERHEAD, Frame};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

/// The most that is written under one hold of the lock, so that a publisher never waits longer than for such a copy.
const WRITE_AT_ONCE: usize = 64 * 1024;

/// Slices for one `writev(2)`: enough for 64 KiB of small events to leave in a few calls, and half a page of stack.
const SLICES: usize = 128;

/// Why a stream is over. Also the words of the log and of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It came to its end: the last `Stream` was dropped, or its number of events was reached.
    Ended,
    /// The client closed the connection, or the network broke it.
    Left,
    /// The client fell further behind than its queue holds.
    Behind,
    /// The client accepted no byte for 10 s, or acknowledged none for 30 s.
    Stalled,
    /// There was no room: for another stream, topic or timer.
    Full,
    /// The client sent more than 8 KiB onto an open stream.
    Flooded,
    /// Code of this stream panicked.
    Panicked,
    /// The server stopped.
    Stopped,
}

impl Closed {
    pub(crate) const ALL: [Closed; 8] = [
        Closed::Ended,
        Closed::Left,
        Closed::Behind,
        Closed::Stalled,
        Closed::Full,
        Closed::Flooded,
        Closed::Panicked,
        Closed::Stopped,
    ];
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Closed::Ended => "ended",
            Closed::Left => "left",
            Closed::Behind => "behind",
            Closed::Stalled => "stalled",
            Closed::Full => "full",
            Closed::Flooded => "flooded",
            Closed::Panicked => "panicked",
            Closed::Stopped => "stopped",
        })
    }
}

impl std::error::Error for Closed {}

/// What left through an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Events handed to the kernel whole.
    pub(crate) events: u64,
    /// Bytes, heads and chunk framing included.
    pub(crate) bytes: u64,
}

/// How the connection carries the stream: which of a frame's two forms is written, and what follows the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// HTTP/1.1 that stays open after the last chunk.
    Persistent,
    /// HTTP/1.1 whose client asked to close afterwards.
    Chunked,
    /// HTTP/1.0: the end of the connection is the end of the stream.
    Bare,
}

/// A client's frames, and its socket. An outbox guards it.
pub(crate) struct Queue {
    /// Taken out at the close, so that a `Stream` which somebody still holds keeps no descriptor.
    socket: Option<Arc<TcpStream>>,
    carrier: Carrier,
    /// What is not yet written, in order; `written` bytes of the first frame are.
    frames: VecDeque<Arc<Frame>>,
    written: usize,
    /// Bytes not yet written, and how many there may be, [`FRAME_OVERHEAD`] for each frame included, before the client
    /// is too far behind.
    bytes: usize,
    max_bytes: usize,
    /// Somebody has taken it on to write what is queued: the drainer, or the connection's thread during a replay. Until
    /// they are through, others only queue.
    pub(crate) is_behind: bool,
    /// Set with the tail: what the queue closes with once it is drained.
    ending: Option<Closed>,
    closed: Option<Closed>,
    /// Events until the end, where that is bounded.
    remaining: Option<u64>,
    /// When bytes were last accepted: heartbeats and the stall limit count from here.
    progress: Instant,
    totals: Totals,
}

/// What became of a queue after a write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Nothing is left, or nothing can be written any more.
    Empty,
    /// The kernel takes no more for now, or enough was written at once.
    Behind,
}

impl Carrier {
    pub(crate) fn bytes_of(self, frame: &Frame) -> &[u8] {
        match self {
            Carrier::Persistent | Carrier::Chunked => frame.chunked(),
            Carrier::Bare => frame.bare(),
        }
    }
}

impl Queue {
    /// A queue starts with the response head and the first chunk in it, so that both leave in one write.
    pub(crate) fn new(socket: Arc<TcpStream>, carrier: Carrier, head: Vec<u8>, first: Arc<Frame>, max: usize) -> Queue {
        let frames = [Arc::new(Frame::head(head)), first];
        Queue {
            bytes: frames.iter().map(|frame| carrier.bytes_of(frame).len()).sum(),
            socket: Some(socket),
            carrier,
            frames: frames.into(),
            written: 0,
            max_bytes: max,
            is_behind: false,
            ending: None,
            closed: None,
            remaining: None,
            progress: Instant::now(),
            totals: Totals::default(),
        }
    }

    pub(crate) fn socket(&self) -> Option<Arc<TcpStream>> {
        self.socket.clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    pub(crate) fn closed(&self) -> Option<Closed> {
        self.closed
    }

    /// Whether it came to its end, not to a cut.
    pub(crate) fn has_ended(&self) -> bool {
        self.closed.is_some() && self.closed == self.ending
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn progress(&self) -> Instant {
        self.progress
    }

    /// How many events may still come, where that is bounded.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// Bounds the events that may still come.
    pub(crate) fn end_after(&mut self, events: u64) {
        self.remaining = Some(events);
        if events == 0 {
            self.end(Frame::tail(None), Closed::Ended, Instant::now());
        }
    }

    /// An error once the stream takes no more.
    pub(crate) fn check(&self) -> Result<(), Closed> {
        self.closed.or(self.ending).map_or(Ok(()), Err)
    }

    /// Writes a frame, or queues it behind what is there. A client that is too far behind for that is cut; an empty
    /// queue takes any frame.
    pub(crate) fn push(&mut self, frame: &Arc<Frame>, now: Instant) -> Result<(), Closed> {
        self.check()?;
        let length = self.carrier.bytes_of(frame).len();
        if !self.has_room_for(length) && !self.is_behind {
            self.write_on(now); // perhaps only the head is in the way, which nobody has tried to write yet
            self.check()?;
        }
        if self.frames.is_empty() {
            self.write_first(frame, now);
        } else if !self.has_room_for(length) {
            self.close(Closed::Behind);
        } else {
            self.enqueue_counted(frame.clone());
            if !self.is_behind {
                self.write_on(now);
            }
        }
        self.check()?;
        if self.reaches_its_end_with(frame.events()) {
            self.end(Frame::tail(None), Closed::Ended, now);
        }
        Ok(())
    }

    /// Whether one more frame, of so many bytes, would still be within the bound.
    fn has_room_for(&self, length: usize) -> bool {
        self.bytes + length + (self.frames.len() + 1) * FRAME_OVERHEAD <= self.max_bytes
    }

    /// The way of nearly every event: nothing is queued, and one write takes it whole.
    fn write_first(&mut self, frame: &Arc<Frame>, now: Instant) {
        let bytes = self.carrier.bytes_of(frame);
        match self.write(&[IoSlice::new(bytes)]) {
            Ok(n) => {
                self.progress = now; // the stall is counted from here, also if nothing was accepted
                self.totals.bytes += n as u64;
                if n == bytes.len() {
                    self.totals.events += frame.events();
                } else {
                    self.bytes = bytes.len() - n;
                    self.written = n;
                    self.frames.push_back(frame.clone());
                }
            }
            Err(reason) => self.close(reason),
        }
    }

    /// Queues a frame and writes nothing.
    pub(crate) fn enqueue(&mut self, frame: Arc<Frame>) -> Result<(), Closed> {
        self.check()?;
        let events = frame.events();
        self.enqueue_counted(frame);
        if self.reaches_its_end_with(events) {
            self.enqueue_tail(Frame::tail(None), Closed::Ended);
        }
        Ok(())
    }

    fn enqueue_counted(&mut self, frame: Arc<Frame>) {
        if self.frames.is_empty() {
            self.progress = Instant::now(); // the stall is counted from here
        }
        self.bytes += self.carrier.bytes_of(&frame).len();
        self.frames.push_back(frame);
    }

    /// Counts events towards the end of a bounded stream.
    fn reaches_its_end_with(&mut self, events: u64) -> bool {
        let Some(remaining) = &mut self.remaining else { return false };
        *remaining = remaining.saturating_sub(events);
        *remaining == 0 && events > 0
    }

    /// Queues the tail, unless the end is there already, and writes as far as it goes.
    pub(crate) fn end(&mut self, tail: Frame, reason: Closed, now: Instant) {
        if self.check().is_ok() {
            self.enqueue_tail(tail, reason);
            if !self.is_behind {
                self.write_on(now);
            }
        }
    }

    fn enqueue_tail(&mut self, tail: Frame, reason: Closed) {
        if reason == Closed::Stopped && self.carrier == Carrier::Persistent {
            self.carrier = Carrier::Chunked; // a server that stops keeps no connection
        }
        self.enqueue_counted(Arc::new(tail));
        self.ending = Some(reason);
    }

    /// Writes the queue, up to [`WRITE_AT_ONCE`], and closes behind a tail that is out.
    pub(crate) fn write_on(&mut self, now: Instant) -> Drained {
        let mut budget = WRITE_AT_ONCE;
        while !self.frames.is_empty() {
            let (offered, outcome) = self.write_slices(budget);
            match outcome {
                Ok(0) if offered > 0 => return Drained::Behind,
                Ok(n) => {
                    self.progress = now;
                    self.advance(n);
                    budget = budget.saturating_sub(n);
                    if !self.frames.is_empty() && (n < offered || budget == 0) {
                        return Drained::Behind;
                    }
                }
                Err(reason) => self.close(reason), // which empties the queue
            }
        }
        self.frames = VecDeque::new(); // gives its memory back
        if let (Some(reason), None) = (self.ending, self.closed) {
            self.close(reason);
        }
        Drained::Empty
    }

    /// One `writev(2)` of the queue's beginning: how much was offered, and what came of it.
    fn write_slices(&self, budget: usize) -> (usize, Result<usize, Closed>) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut count, mut offered) = (0, 0);
        for frame in &self.frames {
            if count == SLICES || offered >= budget {
                break;
            }
            let skipped = if count == 0 { self.written } else { 0 };
            let bytes = &self.carrier.bytes_of(frame)[skipped..];
            slices[count] = IoSlice::new(bytes);
            count += 1;
            offered += bytes.len();
        }
        (offered, self.write(&slices[..count]))
    }

    /// Takes `n` written bytes off the queue.
    fn advance(&mut self, mut n: usize) {
        self.totals.bytes += n as u64;
        self.bytes -= n;
        while let Some(frame) = self.frames.front() {
            let left = self.carrier.bytes_of(frame).len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            self.totals.events += frame.events();
            self.frames.pop_front();
        }
    }

    /// One non-blocking write: how many bytes the kernel took (none is no error), or what the error means.
    fn write(&self, slices: &[IoSlice<'_>]) -> Result<usize, Closed> {
        let Some(socket) = &self.socket else { return Err(Closed::Left) };
        loop {
            let outcome = match slices {
                [one] => (&**socket).write(one),
                several => (&**socket).write_vectored(several),
            };
            match outcome {
                Ok(n) => return Ok(n),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(0),
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::TimedOut => return Err(Closed::Stalled), // TCP_USER_TIMEOUT, or keepalive
                    _ => return Err(Closed::Left),
                },
            }
        }
    }

    /// Closes, once: lets the socket go and wakes the connection's thread. Only the clean end of a persistent connection
    /// leaves it open and asleep: the client's next request will wake it.
    pub(crate) fn close(&mut self, reason: Closed) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(reason);
        self.frames = VecDeque::new();
        self.bytes = 0;
        self.written = 0;
        let is_clean = self.ending == Some(reason);
        if let Some(socket) = self.socket.take() {
            if !(is_clean && self.carrier == Carrier::Persistent) {
                let _ = socket.shutdown(Shutdown::Both); // fails only where the peer has shut it already
            }
        }
    }
}
