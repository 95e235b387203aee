//! The roster: who is connected. It gives out seats up to the bounds, knows what each connection is doing so that the
//! right ones can be told to go, and adds up what the streams have sent.
//!
//! One lock, held for a few lines; an outbox's own lock is taken under it, never the other way round. A [`Seat`] and an
//! [`OpenStream`] give themselves back on drop.

use crate::agenda::Lateness;
use crate::event::{Event, Frame};
use crate::lock;
use crate::log::Log;
use crate::os;
use crate::outbox::Outbox;
use crate::queue::{Closed, Totals};
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Connections taken beyond the bound, only to be told so. Further ones are closed unanswered.
const CROWD: usize = 16;

/// How long a client may take over an answer while others are turned away for want of a seat. Somebody who reads a little
/// now and then could otherwise hold every seat, and those kept for publishing and health checks too.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// How many connections streams leave to publishing and health checks: 16 or a sixteenth, whichever is more, but never
/// more than half.
fn reserve(max_connections: usize) -> usize {
    16.max(max_connections / 16).min(max_connections / 2)
}

pub(crate) struct Roster {
    max_connections: usize,
    max_per_address: Option<usize>,
    /// Guards who is connected; `left` tells the one who waits for the last to go.
    members: Mutex<Members>,
    left: Condvar,
}

#[derive(Default)]
struct Members {
    next_id: u64,
    seats: HashMap<u64, Member>,
    /// Open streams, under the ids of their connections.
    streams: HashMap<u64, Arc<Outbox>>,
    is_stopping: bool,
    /// What the streams that are over have sent, and why they are.
    sent: Totals,
    reasons: [u64; Closed::ALL.len()],
}

struct Member {
    address: IpAddr,
    socket: Arc<TcpStream>,
    doing: Doing,
}

/// What a connection is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Request,
    /// Its client does not take the answer as fast as it is written, since then.
    Answer(Instant),
    Stream,
    /// It waits for its first or next request, since then.
    Nothing(Instant),
}

/// What a server counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections there are.
    pub connections: usize,
    /// Streams that are open.
    pub streams: usize,
    /// Events handed to the kernel, over all streams there were.
    pub delivered: u64,
    /// Bytes written to streams, heads and chunk framing included.
    pub sent_bytes: u64,
    /// Streams that are over, by reason.
    pub disconnects: Vec<(Closed, u64)>,
    /// How late the scheduler is.
    pub lateness: Lateness,
}

impl Roster {
    pub(crate) fn new(max_connections: usize, max_per_address: Option<usize>) -> Arc<Roster> {
        Arc::new(Roster { max_connections, max_per_address, members: Mutex::default(), left: Condvar::new() })
    }

    /// A seat for a new connection, or none. When all are taken, the connection that has been idle longest makes room.
    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr, socket: &Arc<TcpStream>) -> Option<Seat> {
        let address = peer.ip().to_canonical();
        let mut members = self.lock();
        if members.is_stopping || self.is_too_many_from(address, &members) {
            return None;
        }
        let mut is_crowded = false;
        if members.seats.len() >= self.max_connections {
            if members.seats.len() >= self.max_connections + CROWD {
                return None;
            }
            is_crowded = !members.send_away_the_longest_idle();
        }
        let id = members.next_id;
        members.next_id += 1;
        // One that is only told so is not idle: it must not make room for the next.
        let doing = if is_crowded { Doing::Request } else { Doing::Nothing(Instant::now()) };
        members.seats.insert(id, Member { address, socket: socket.clone(), doing });
        drop(members);
        Some(Seat { roster: self.clone(), id, is_crowded })
    }

    /// It costs a look at every connection, and only where the option is set. The machine itself is exempt: that is where
    /// a proxy is.
    fn is_too_many_from(&self, address: IpAddr, members: &Members) -> bool {
        let Some(max) = self.max_per_address else { return false };
        !address.is_loopback() && members.seats.values().filter(|member| member.address == address).count() >= max
    }

    /// What there is and has been; how late the scheduler is comes from the caller.
    pub(crate) fn counts(&self, lateness: Lateness) -> Counts {
        let members = self.lock();
        let mut sent = members.sent;
        for outbox in members.streams.values() {
            let totals = outbox.totals();
            sent.events += totals.events;
            sent.bytes += totals.bytes;
        }
        Counts {
            connections: members.seats.len(),
            streams: members.streams.len(),
            delivered: sent.events,
            sent_bytes: sent.bytes,
            disconnects: Closed::ALL.into_iter().zip(members.reasons).collect(),
            lateness,
        }
    }

    /// Takes nobody any more, ends all streams and sends idle connections away. Each stream is given a reconnection time
    /// of its own, spread over 1 to 5 s, so that they do not all come back together.
    pub(crate) fn stop(&self) {
        let mut members = self.lock();
        members.is_stopping = true;
        let streams: Vec<_> = members.streams.values().cloned().collect();
        let idle = members.seats.values().filter(|member| member.idle_since().is_some());
        idle.for_each(Member::send_away);
        drop(members);
        for outbox in streams {
            let retry = Event::retry(Duration::from_millis(1_000 + os::random() % 4_001));
            outbox.finish(Frame::tail(Some(&retry)), Closed::Stopped);
        }
    }

    /// Waits until everybody is gone, and says whether they are.
    pub(crate) fn wait_until_empty(&self, limit: Duration) -> bool {
        let members = self.lock();
        let (members, _) = self
            .left
            .wait_timeout_while(members, limit, |members| !members.seats.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        members.seats.is_empty()
    }

    /// Cuts whoever is still here.
    pub(crate) fn cut(&self) {
        let members = self.lock();
        let streams: Vec<_> = members.streams.values().cloned().collect();
        members.seats.values().for_each(Member::send_away);
        drop(members);
        streams.iter().for_each(|outbox| outbox.cut(Closed::Stopped));
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        lock::lock(&self.members)
    }
}

impl Member {
    fn idle_since(&self) -> Option<Instant> {
        match self.doing {
            Doing::Nothing(since) => Some(since),
            Doing::Request | Doing::Answer(_) | Doing::Stream => None,
        }
    }

    /// Its thread, wherever it waits, finds the end of the stream.
    fn send_away(&self) {
        let _ = self.socket.shutdown(Shutdown::Both); // fails only where the peer has done it already
    }
}

impl Members {
    /// Whether there was one to go: if nobody is idle, one that has long been reading its answer. It counts as busy from
    /// now on, so that it is not sent away twice.
    fn send_away_the_longest_idle(&mut self) -> bool {
        let now = Instant::now();
        let turn = |member: &Member| match member.doing {
            Doing::Nothing(since) => Some((0, since)),
            Doing::Answer(since) if now.saturating_duration_since(since) >= ANSWER_PATIENCE => Some((1, since)),
            Doing::Request | Doing::Answer(_) | Doing::Stream => None,
        };
        let may_go = self.seats.values_mut().filter(|member| turn(member).is_some());
        let Some(longest) = may_go.min_by_key(|member| turn(member)) else { return false };
        longest.send_away();
        longest.doing = Doing::Request;
        true
    }
}

/// One connection's place.
pub(crate) struct Seat {
    roster: Arc<Roster>,
    id: u64,
    /// It was taken beyond the bound: all it gets is an answer that says so.
    pub(crate) is_crowded: bool,
}

impl Seat {
    /// Says that the connection waits for a request. `false` if it should not, because the server stops.
    pub(crate) fn wait_for_request(&self) -> bool {
        self.now_doing(Doing::Nothing(Instant::now()))
    }

    /// Says that a request has come. `false` if the connection should close after its answer.
    pub(crate) fn take_request(&self) -> bool {
        self.now_doing(Doing::Request)
    }

    /// Says that the client has not taken its whole answer at once.
    pub(crate) fn wait_for_client(&self) {
        self.now_doing(Doing::Answer(Instant::now()));
    }

    fn now_doing(&self, doing: Doing) -> bool {
        let mut members = self.roster.lock();
        if let Some(member) = members.seats.get_mut(&self.id) {
            member.doing = doing;
        }
        !members.is_stopping
    }

    /// Enters an open stream. None if streams may not have another connection, or the server stops.
    pub(crate) fn open_stream(
        &self,
        outbox: &Arc<Outbox>,
        log: &Log,
        peer: SocketAddr,
        path: Box<str>,
    ) -> Option<OpenStream> {
        let mut members = self.roster.lock();
        let max = self.roster.max_connections - reserve(self.roster.max_connections);
        if members.is_stopping || members.streams.len() >= max {
            members.reasons[Closed::Full as usize] += 1;
            return None;
        }
        members.streams.insert(self.id, outbox.clone());
        if let Some(member) = members.seats.get_mut(&self.id) {
            member.doing = Doing::Stream;
        }
        drop(members);
        log.line(format_args!("{peer} {path} opened"));
        Some(OpenStream {
            roster: self.roster.clone(),
            id: self.id,
            outbox: Arc::downgrade(outbox),
            log: log.clone(),
            peer,
            path,
            opened: Instant::now(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut members = self.roster.lock();
        let member = members.seats.remove(&self.id);
        let is_last = members.seats.is_empty();
        drop(members);
        drop(member); // perhaps the socket's last holder: closed behind the lock
        if is_last {
            self.roster.left.notify_all();
        }
    }
}

/// A stream's guard: takes it off the roster at its close, and logs that.
pub(crate) struct OpenStream {
    roster: Arc<Roster>,
    id: u64,
    outbox: Weak<Outbox>,
    log: Log,
    peer: SocketAddr,
    path: Box<str>,
    opened: Instant,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let Some(outbox) = self.outbox.upgrade() else { return };
        let (sent, reason) = (outbox.totals(), outbox.closed().unwrap_or(Closed::Left));
        let mut members = self.roster.lock();
        members.streams.remove(&self.id);
        members.sent.events += sent.events;
        members.sent.bytes += sent.bytes;
        members.reasons[reason as usize] += 1;
        // Its thread may be at the next request already, or still asleep until that comes.
        if let Some(member) = members.seats.get_mut(&self.id).filter(|member| member.doing == Doing::Stream) {
            member.doing = Doing::Nothing(Instant::now());
        }
        drop(members);
        let tenths = self.opened.elapsed().as_millis() / 100; // floats would cost 10 KiB of program
        let OpenStream { peer, path, .. } = self;
        let (seconds, tenths, events) = (tenths / 10, tenths % 10, sent.events);
        self.log.line(format_args!("{peer} {path} {reason} after {seconds}.{tenths}s, {events} events"));
    }
}
