//! One connection's way out, and the drainer: the one thread that goes on where a client was too slow for a write at
//! once.
//!
//! Whoever has something to say pushes it, from any thread. If nothing is queued, one non-blocking write is tried at
//! once, under the outbox's own short lock: a message to a client that keeps up costs one system call and no context
//! switch. What does not fit is queued, and the outbox is *behind*: the drainer polls its socket and writes on. The
//! queue is bounded; a client that falls further behind is cut, and told so by the missing last chunk.
//!
//! This room never waits for a client on a publisher's thread, knows neither hub nor scheduler (what is to go away with
//! the stream is attached as a guard), and drops no guard under a lock. After the close [`Outbox::settle`] drops them, on
//! the connection's thread or the drainer's, whichever gets there first.

use crate::event::Frame;
use crate::lock;
use crate::os::{self, Bell, Interest, Poller};
use crate::queue::{Closed, Drained, Queue, Totals};
use crate::shield::shielded;
use std::hint::black_box;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// How long a socket may accept not one byte before its client is cut.
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(10);

/// How long the drainer trusts `poll`. On slow readers POLLOUT was seen to stay away for 25 s while writes went through,
/// so a write is tried this often whatever `poll` says.
const TRY_ANYWAY: Duration = Duration::from_secs(1);

/// When a refused client is to come back: spread over 2 to 10 s, so that not all of them come at once.
pub(crate) fn refusal_retry() -> Duration {
    Duration::from_millis(2_000 + os::random() % 8_001)
}

pub(crate) struct Outbox {
    /// Guards all that changes. Held for one system call at the most; nobody waits on it for a client, because every
    /// write under it is non-blocking.
    state: Mutex<State>,
    /// How many `Stream`s there are. The last one to go ends the stream.
    pub(crate) holders: AtomicUsize,
    drainer: Arc<Drainer>,
    /// The queue's, for [`Outbox::prefetch`] alone: weak, so that a closed one is let go.
    socket: Weak<TcpStream>,
}

struct State {
    queue: Queue,
    /// What goes away with the stream: timers, subscriptions, its line on the roster.
    guards: Vec<Box<dyn Send>>,
}

impl Outbox {
    /// Nothing is written until the first push or [`Outbox::flush`], so that a replay can be put behind the head and all
    /// leave in one write.
    pub(crate) fn new(queue: Queue, drainer: Arc<Drainer>) -> Arc<Outbox> {
        let socket = queue.socket().map_or_else(Weak::new, |socket| Arc::downgrade(&socket));
        let state = State { queue, guards: Vec::with_capacity(2) }; // its line on the roster; a subscription or a timer
        Arc::new(Outbox { state: Mutex::new(state), holders: AtomicUsize::new(0), drainer, socket })
    }

    /// Has the processor fetch what a push will need: this, and the socket's descriptor, beside which a count stands. (The
    /// count is read because that takes no second function; to prefetch the address was no better.)
    pub(crate) fn prefetch(&self) {
        os::prefetch(self);
        black_box(self.socket.strong_count());
    }

    pub(crate) fn max_bytes(&self) -> usize {
        self.lock().queue.max_bytes()
    }

    /// Sends a frame, or queues it. `now` comes from the caller, who sends to many.
    ///
    /// # Errors
    ///
    /// Why the stream takes no more. A client too far behind is cut by this very call.
    pub(crate) fn push(self: &Arc<Self>, frame: &Arc<Frame>, now: Instant) -> Result<(), Closed> {
        let mut state = self.lock();
        let outcome = state.queue.push(frame, now);
        self.hand_over(state);
        outcome
    }

    /// Sends a batch: `joined` is all of `each` in one frame. Only a stream that is to end within the batch gets the
    /// single ones.
    pub(crate) fn push_batch(
        self: &Arc<Self>,
        joined: &Arc<Frame>,
        each: &[Arc<Frame>],
        now: Instant,
    ) -> Result<(), Closed> {
        let mut state = self.lock();
        let outcome = if state.queue.remaining().is_some_and(|remaining| remaining < joined.events()) {
            each.iter().try_for_each(|frame| state.queue.push(frame, now))
        } else {
            state.queue.push(joined, now)
        };
        self.hand_over(state);
        outcome
    }

    /// Puts frames into the queue and writes nothing: for the critical section in which a subscriber joins. The caller
    /// bounds them, and calls [`Outbox::flush`] soon after.
    pub(crate) fn enqueue(&self, frames: impl IntoIterator<Item = Arc<Frame>>) -> Result<(), Closed> {
        let mut state = self.lock();
        frames.into_iter().try_for_each(|frame| state.queue.enqueue(frame))
    }

    /// Writes what is queued, as far as it goes.
    pub(crate) fn flush(self: &Arc<Self>) {
        let mut state = self.lock();
        if !state.queue.is_behind {
            state.queue.write_on(Instant::now());
        }
        self.hand_over(state);
    }

    /// Sends frames and waits until the client has them: for the pieces of a long replay, on the connection's own thread.
    pub(crate) fn push_and_wait(&self, frames: impl IntoIterator<Item = Arc<Frame>>) -> Result<(), Closed> {
        self.enqueue(frames)?;
        self.lock().queue.is_behind = true; // this thread is the drainer for as long as it takes
        while self.drain(Instant::now()) == Drained::Behind {
            let Some(socket) = self.socket() else { break };
            // An error is found again, and dealt with, by the next write.
            let _ = os::wait(&socket, Interest::Write, Instant::now() + TRY_ANYWAY);
        }
        self.check()
    }

    /// Ends the stream after so many more events.
    pub(crate) fn end_after(self: &Arc<Self>, events: u64) {
        let mut state = self.lock();
        state.queue.end_after(events);
        if events == 0 {
            self.hand_over(state);
        }
    }

    /// Ends the stream: queues the tail and closes once it is drained. Never after a cut.
    pub(crate) fn finish(self: &Arc<Self>, tail: Frame, reason: Closed) {
        let mut state = self.lock();
        state.queue.end(tail, reason, Instant::now());
        self.hand_over(state);
    }

    /// Closes at once: what is queued is gone, there is no last chunk, and the connection's thread wakes up.
    pub(crate) fn cut(&self, reason: Closed) {
        self.lock().queue.close(reason);
    }

    /// Lets `guard` live until the close. On a stream that is closed already it goes at once.
    pub(crate) fn attach(&self, guard: Box<dyn Send>) {
        let mut state = self.lock();
        if state.queue.closed().is_none() {
            state.guards.push(guard);
        } else {
            drop(state); // the guard is dropped behind the lock
        }
    }

    /// Drops the guards of a closed outbox, behind its lock. Does nothing before the close, nor a second time.
    pub(crate) fn settle(&self) {
        let mut state = self.lock();
        if state.queue.closed().is_some() {
            let guards = std::mem::take(&mut state.guards);
            drop(state);
            drop(guards);
        }
    }

    /// Sends a comment if nothing was sent for `period`, and says when to look again.
    pub(crate) fn heartbeat(self: &Arc<Self>, comment: &Arc<Frame>, period: Duration) -> Instant {
        let now = Instant::now();
        let mut state = self.lock();
        let due = state.queue.progress() + period;
        if due > now {
            return due;
        }
        // A queue that is not empty is the drainer's business: there are bytes on their way, or a stall that it times.
        let outcome = if state.queue.is_empty() { state.queue.push(comment, now) } else { Ok(()) };
        self.hand_over(state);
        if outcome.is_ok() { now + period } else { now }
    }

    /// An error once the stream takes no more.
    pub(crate) fn check(&self) -> Result<(), Closed> {
        self.lock().queue.check()
    }

    /// Why it is closed, once it is.
    pub(crate) fn closed(&self) -> Option<Closed> {
        self.lock().queue.closed()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.lock().queue.totals()
    }

    fn socket(&self) -> Option<Arc<TcpStream>> {
        self.lock().queue.socket()
    }

    /// The drainer's share: writes on, and closes where the client makes no progress.
    fn drain(&self, now: Instant) -> Drained {
        let queue = &mut self.lock().queue;
        if queue.write_on(now) == Drained::Empty {
            queue.is_behind = false;
            return Drained::Empty;
        }
        if now.saturating_duration_since(queue.progress()) >= STALL_LIMIT {
            queue.close(Closed::Stalled);
            return Drained::Empty;
        }
        Drained::Behind
    }

    /// Lets go of the lock, and gives the drainer what has to be gone on with: a queue that did not drain, or the guards
    /// of a stream that came to its end on this thread. (The thread may be a publisher's, which must run no code of the
    /// guards' owners.) A cut is settled by the connection's thread, which it has woken.
    fn hand_over(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let is_left = !state.queue.is_empty() && !state.queue.is_behind;
        let is_over = state.queue.has_ended() && !state.guards.is_empty();
        if is_left {
            state.queue.is_behind = true;
        }
        drop(state);
        if is_left || is_over {
            self.drainer.take_on(self.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock::lock(&self.state)
    }
}

/// The one thread that writes for clients which were too slow for a write at once.
pub(crate) struct Drainer {
    /// Guards what is on its way to the thread; the bell wakes it.
    inbox: Mutex<Inbox>,
    bell: Bell,
}

#[derive(Default)]
struct Inbox {
    outboxes: Vec<Arc<Outbox>>,
    is_stopped: bool,
}

/// An outbox in the drainer's care.
struct Care {
    outbox: Arc<Outbox>,
    tried: Instant,
}

impl Drainer {
    /// Starts the thread, which lives until [`Drainer::stop`].
    pub(crate) fn start() -> io::Result<Arc<Drainer>> {
        let drainer = Arc::new(Drainer { inbox: Mutex::default(), bell: Bell::new()? });
        let own = drainer.clone();
        std::thread::Builder::new().name("drainer".into()).spawn(move || own.run())?;
        Ok(drainer)
    }

    /// Ends the thread. What is on its way to it is let go: an outbox holds its drainer, and the two would keep each other
    /// for ever.
    pub(crate) fn stop(&self) {
        let mut inbox = self.inbox();
        inbox.is_stopped = true;
        let left = std::mem::take(&mut inbox.outboxes);
        drop(inbox);
        self.bell.ring();
        let _ = shielded(|| drop(left));
    }

    fn take_on(&self, outbox: Arc<Outbox>) {
        let mut inbox = self.inbox();
        if inbox.is_stopped {
            return; // nobody is there to take it; its own thread sees to its end
        }
        inbox.outboxes.push(outbox);
        let is_first = inbox.outboxes.len() == 1;
        drop(inbox);
        if is_first {
            self.bell.ring();
        }
    }

    fn run(&self) {
        let mut cares: Vec<Care> = Vec::new();
        let mut poller = Poller::new();
        loop {
            let mut inbox = self.inbox();
            if inbox.is_stopped {
                return;
            }
            let fresh = std::mem::take(&mut inbox.outboxes);
            drop(inbox);
            let now = Instant::now();
            cares.extend(fresh.into_iter().map(|outbox| Care { outbox, tried: now }));
            self.round(&mut cares, &mut poller);
        }
    }

    /// Waits for any socket to take more (or for the bell) and writes on. What is through with is let go.
    fn round(&self, cares: &mut Vec<Care>, poller: &mut Poller) {
        poller.clear();
        let bell = poller.add(&self.bell, Interest::Read);
        // The sockets are held while they are polled: a closed one's number may be another file's by then. One that is
        // closed already has no entry, and counts as ready.
        let sockets: Vec<_> = cares.iter().map(|care| care.outbox.socket()).collect();
        let entries: Vec<_> =
            sockets.iter().map(|socket| socket.as_ref().map(|socket| poller.add(&**socket, Interest::Write))).collect();
        let is_any_closed = entries.contains(&None);
        let timeout = if is_any_closed { Some(Duration::ZERO) } else { (!cares.is_empty()).then_some(TRY_ANYWAY) };
        if poller.wait(timeout).is_err() {
            std::thread::sleep(Duration::from_millis(10)); // out of kernel memory: nothing to do but go on, slowly
        }
        if poller.is_ready(bell) {
            self.bell.clear();
        }
        let now = Instant::now();
        let mut entry = entries.iter();
        cares.retain_mut(|care| {
            let is_ready = entry.next().copied().flatten().is_none_or(|entry| poller.is_ready(entry));
            if !is_ready && now.saturating_duration_since(care.tried) < TRY_ANYWAY {
                return true;
            }
            care.tried = now;
            care.drain(now) == Drained::Behind
        });
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock::lock(&self.inbox)
    }
}

impl Care {
    fn drain(&self, now: Instant) -> Drained {
        let outcome = self.outbox.drain(now);
        if outcome == Drained::Empty {
            // Guards are dropped here, and may run a destructor of a user's: a panic must not end the drainer.
            let _ = shielded(|| self.outbox.settle());
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, FRAME_OVERHEAD};
    use crate::lock::race;
    use crate::queue::Carrier;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn frame(text: &str) -> Arc<Frame> {
        Arc::new(Frame::event(&Event::data(text)))
    }

    struct Pair {
        client: TcpStream,
        socket: Arc<TcpStream>,
        outbox: Arc<Outbox>,
    }

    /// A client, and an outbox towards it whose first bytes are `HEAD` and an empty comment.
    fn pair(carrier: Carrier, queue_bytes: usize) -> Pair {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let socket = Arc::new(listener.accept().unwrap().0);
        os::prepare(&socket).unwrap();
        let first = Arc::new(Frame::event(&Event::comment("hi")));
        let queue = Queue::new(socket.clone(), carrier, b"HEAD ".to_vec(), first, queue_bytes);
        let outbox = Outbox::new(queue, Drainer::start().unwrap());
        Pair { client, socket, outbox }
    }

    fn read_exactly(client: &mut TcpStream, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    }

    fn read_to_end(client: &mut TcpStream) -> String {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        String::from_utf8(got).unwrap()
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < until, "{what} did not come about");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_drainer_that_stopped_and_its_outboxes_let_go_of_each_other() {
        for is_stopped_before in [true, false] {
            let Pair { outbox, .. } = pair(Carrier::Persistent, 1000);
            let drainer = Arc::downgrade(&outbox.drainer);
            if is_stopped_before {
                outbox.drainer.stop();
            }
            outbox.drainer.take_on(outbox.clone());
            outbox.drainer.stop();
            drop(outbox);
            let until = Instant::now() + Duration::from_secs(10);
            while drainer.strong_count() > 0 {
                assert!(Instant::now() < until, "they keep each other");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn head_replay_and_first_event_leave_in_order() {
        let mut p = pair(Carrier::Persistent, 1000);
        p.outbox.enqueue([frame("replayed")]).unwrap();
        p.outbox.push(&frame("live"), Instant::now()).unwrap();
        read_exactly(&mut p.client, b"HEAD 6\r\n: hi\n\n\r\n10\r\ndata: replayed\n\n\r\nc\r\ndata: live\n\n\r\n");
        assert_eq!(p.outbox.totals().events, 2);
    }

    #[test]
    fn http_1_0_gets_the_same_bytes_without_chunks() {
        let mut p = pair(Carrier::Bare, 1000);
        p.outbox.push(&frame("a"), Instant::now()).unwrap();
        p.outbox.finish(Frame::tail(Some(&Event::retry(Duration::from_secs(1)))), Closed::Ended);
        assert_eq!(read_to_end(&mut p.client), "HEAD : hi\n\ndata: a\n\nretry: 1000\n\n");
    }

    #[test]
    fn a_clean_end_leaves_a_persistent_connection_open() {
        let mut p = pair(Carrier::Persistent, 1000);
        p.outbox.finish(Frame::tail(None), Closed::Ended);
        read_exactly(&mut p.client, b"HEAD 6\r\n: hi\n\n\r\n0\r\n\r\n");
        assert_eq!(p.outbox.closed(), Some(Closed::Ended));
        assert_eq!(p.outbox.push(&frame("late"), Instant::now()), Err(Closed::Ended));
        (&*p.socket).write_all(b"next").unwrap();
        read_exactly(&mut p.client, b"next");
    }

    #[test]
    fn a_stop_closes_a_persistent_connection() {
        let mut p = pair(Carrier::Persistent, 1000);
        p.outbox.finish(Frame::tail(None), Closed::Stopped);
        assert_eq!(read_to_end(&mut p.client), "HEAD 6\r\n: hi\n\n\r\n0\r\n\r\n");
    }

    #[test]
    fn ends_after_its_number_of_events() {
        let mut p = pair(Carrier::Chunked, 1000);
        p.outbox.end_after(3);
        let each = ["a", "b", "c", "d"].map(frame);
        p.outbox.push(&each[0], Instant::now()).unwrap();
        p.outbox.push(&Arc::new(Frame::event(&Event::comment("uncounted"))), Instant::now()).unwrap();
        let outcome = p.outbox.push_batch(&Arc::new(Frame::joined(&each[1..])), &each[1..], Instant::now());
        assert_eq!(outcome, Err(Closed::Ended), "the fourth event comes after the end");
        let got = read_to_end(&mut p.client);
        assert!(got.ends_with("data: b\n\n\r\n9\r\ndata: c\n\n\r\n0\r\n\r\n"), "{got:?}");
    }

    #[test]
    fn the_drainer_writes_on_where_a_write_at_once_did_not_fit() {
        let mut p = pair(Carrier::Bare, 64 << 20);
        let big = frame(&"x".repeat(100_000));
        for _ in 0..300 {
            p.outbox.push(&big, Instant::now()).unwrap();
        }
        p.outbox.finish(Frame::tail(None), Closed::Ended);
        assert_eq!(p.outbox.closed(), None, "thirty megabytes cannot have fitted into the kernel");
        assert_eq!(read_to_end(&mut p.client).matches("data: ").count(), 300);
        assert_eq!(p.outbox.totals().events, 300);
    }

    #[test]
    fn a_client_that_falls_too_far_behind_is_cut_and_the_queue_stays_bounded() {
        let p = pair(Carrier::Persistent, 256 * 1024);
        let big = frame(&"x".repeat(10_000));
        let reason = (0..10_000).find_map(|_| p.outbox.push(&big, Instant::now()).err());
        assert_eq!(reason, Some(Closed::Behind));
        assert_eq!(p.outbox.closed(), Some(Closed::Behind));
        assert!(os::wait(&p.socket, Interest::Read, Instant::now()).unwrap(), "the connection's thread wakes");
        let state = p.outbox.lock();
        assert!(state.queue.is_empty() && state.queue.socket().is_none());
    }

    /// Otherwise a queue of short events would take several times the memory that the bound says.
    #[test]
    fn each_frame_in_the_queue_counts_for_its_place() {
        let p = pair(Carrier::Bare, 20_000);
        p.outbox.lock().queue.is_behind = true; // so that nobody writes
        let short = frame("x"); // nine bytes
        let taken = (0..).take_while(|_| p.outbox.push(&short, Instant::now()).is_ok()).count();
        assert_eq!(taken, (20_000 - 2 * FRAME_OVERHEAD - "HEAD : hi\n\n".len()) / (FRAME_OVERHEAD + 9));
    }

    #[test]
    fn an_empty_queue_takes_any_frame() {
        let mut p = pair(Carrier::Bare, 100);
        p.outbox.flush();
        p.outbox.push(&frame(&"x".repeat(5_000_000)), Instant::now()).unwrap();
        p.outbox.finish(Frame::tail(None), Closed::Ended);
        assert_eq!(read_to_end(&mut p.client).len(), "HEAD : hi\n\ndata: \n\n".len() + 5_000_000);
    }

    #[test]
    fn a_replay_waits_for_the_client() {
        let mut p = pair(Carrier::Bare, 1000);
        let outbox = p.outbox.clone();
        let replay = std::thread::spawn(move || {
            for _ in 0..100 {
                outbox.push_and_wait([frame(&"x".repeat(100_000))]).unwrap();
            }
            outbox.finish(Frame::tail(None), Closed::Ended);
        });
        assert_eq!(read_to_end(&mut p.client).matches("data: ").count(), 100);
        replay.join().unwrap();
    }

    #[test]
    fn guards_are_dropped_once_behind_the_lock_and_at_once_after_the_close() {
        struct Guard(Arc<Outbox>, Arc<AtomicUsize>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.totals(); // deadlocks if the lock is held
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
        let p = pair(Carrier::Persistent, 1000);
        let dropped = Arc::new(AtomicUsize::new(0));
        let guard = || Box::new(Guard(p.outbox.clone(), dropped.clone()));
        p.outbox.attach(guard());
        p.outbox.settle();
        assert_eq!(dropped.load(Ordering::SeqCst), 0, "it is open");
        // A clean end on any thread is settled by the drainer, without the connection's thread.
        p.outbox.finish(Frame::tail(None), Closed::Ended);
        eventually("the drop", || dropped.load(Ordering::SeqCst) == 1);
        p.outbox.attach(guard());
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_heartbeat_comes_only_after_silence() {
        let mut p = pair(Carrier::Bare, 1000);
        let comment = Arc::new(Frame::event(&Event::comment("")));
        let period = Duration::from_millis(50);
        p.outbox.flush();
        let due = p.outbox.heartbeat(&comment, period);
        assert!(due > Instant::now(), "something was just sent");
        std::thread::sleep(due - Instant::now());
        p.outbox.heartbeat(&comment, period);
        read_exactly(&mut p.client, b"HEAD : hi\n\n: \n\n");
    }

    /// Many threads push numbered frames to one outbox whose client reads in fits and starts: each thread's frames come
    /// out in its order, none twice, none torn.
    #[test]
    fn pushes_from_many_threads_keep_each_threads_order() {
        race::run(|| push_from_many_threads(700));
    }

    fn push_from_many_threads(each: usize) {
        const THREADS: usize = 4;
        let mut p = pair(Carrier::Bare, 64 << 20);
        let done = AtomicBool::new(false);
        let got = std::thread::scope(|scope| {
            let pushers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let outbox = &p.outbox;
                    scope.spawn(move || {
                        for n in 0..each {
                            let text = format!("{thread} {n} {}", "x".repeat(n % 700));
                            outbox.push(&frame(&text), Instant::now()).unwrap();
                        }
                    })
                })
                .collect();
            let reader = scope.spawn(|| {
                let (mut got, mut buffer) = (Vec::new(), [0; 3000]);
                loop {
                    match p.client.read(&mut buffer).unwrap() {
                        0 => return String::from_utf8(got).unwrap(),
                        n => got.extend_from_slice(&buffer[..n]),
                    }
                    if got.len() % 5 == 0 && !done.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_micros(300));
                    }
                }
            });
            pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
            p.outbox.finish(Frame::tail(None), Closed::Ended);
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        p.outbox.drainer.stop();
        let mut next = [0; THREADS];
        for event in got.strip_prefix("HEAD : hi\n\n").unwrap().split_terminator("\n\n") {
            let mut words = event.strip_prefix("data: ").expect(event).split(' ');
            let thread: usize = words.next().unwrap().parse().unwrap();
            let n: usize = words.next().unwrap().parse().unwrap();
            assert_eq!((n, words.next().unwrap().len()), (next[thread], n % 700));
            next[thread] += 1;
        }
        assert_eq!(next, [each; THREADS]);
    }

    /// An outbox is pushed to, flushed, given guards, ended and cut from all sides at once. It closes once and for one
    /// reason; each guard goes once; what the client got is whole frames in order, with the last chunk behind them if it
    /// came to its end.
    #[test]
    fn however_it_is_closed_guards_go_once_and_the_client_can_tell() {
        race::run(|| (0..20).for_each(|_| close_from_all_sides()));
    }

    fn close_from_all_sides() {
        struct Guard(Arc<AtomicUsize>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        const GUARDS: usize = 30;
        let mut p = pair(Carrier::Persistent, 20_000);
        let dropped = Arc::new(AtomicUsize::new(0));
        let (outbox, is_cut) = (&p.outbox, race::random(2) == 0);
        let pushed = 1 + race::random(100) as usize;
        let comment = Arc::new(Frame::event(&Event::comment("")));
        let (reason, got) = std::thread::scope(|scope| {
            let pusher = scope.spawn(move || {
                (0..pushed).take_while(|n| outbox.push(&frame(&format!("{n} ")), Instant::now()).is_ok()).count()
            });
            let guard = || Box::new(Guard(dropped.clone()));
            scope.spawn(move || (0..GUARDS).for_each(|_| outbox.attach(guard())));
            scope.spawn(move || (0..20).for_each(|_| _ = outbox.heartbeat(&comment, Duration::from_secs(60))));
            scope.spawn(move || (0..20).for_each(|_| outbox.flush()));
            // The connection's own thread, which settles once.
            let watchman = scope.spawn(move || {
                eventually("the close", || outbox.closed().is_some());
                let reason = outbox.closed().unwrap();
                outbox.settle();
                reason
            });
            let closers: Vec<_> = [Closed::Ended, Closed::Stopped]
                .map(|reason| scope.spawn(move || outbox.finish(Frame::tail(None), reason)))
                .into_iter()
                .chain(is_cut.then(|| scope.spawn(move || outbox.cut(Closed::Left))))
                .collect();
            closers.into_iter().for_each(|closer| closer.join().unwrap());
            let reason = watchman.join().unwrap();
            // A persistent connection outlives the end of a stream.
            let _ = p.socket.shutdown(std::net::Shutdown::Both);
            pusher.join().unwrap();
            (reason, read_to_end(&mut p.client))
        });
        eventually("all guards are gone", || dropped.load(Ordering::SeqCst) == GUARDS);
        assert_eq!(p.outbox.closed(), Some(reason), "it is closed for one reason");
        assert!(p.outbox.lock().queue.is_empty() && p.outbox.lock().guards.is_empty());
        p.outbox.drainer.stop();

        assert!(reason == Closed::Left || got.ends_with("0\r\n\r\n"), "{reason} after {got:?}");
        if got.is_empty() {
            return; // cut before the first write
        }
        let frames = got.strip_prefix("HEAD 6\r\n: hi\n\n\r\n").expect("the head is first");
        let frames = frames.strip_suffix("0\r\n\r\n").unwrap_or(frames);
        let events: Vec<_> = frames.split("data: ").skip(1).map(|rest| rest.split(' ').next().unwrap()).collect();
        assert!(events.iter().enumerate().all(|(n, event)| *event == n.to_string()), "{got:?}");
        assert_eq!(p.outbox.totals().events, events.len() as u64);
    }
}
