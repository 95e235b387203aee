//! [`Stream`]: what a program holds of an open event stream.
//!
//! A stream lasts as long as somebody holds it. A hub and a timer each hold one; dropping the last ends the stream
//! cleanly. So there is no `end` and no flag to keep it open. This room counts the holders and turns events into frames;
//! it never touches a socket.

use crate::agenda::{Next, Task};
use crate::event::{Event, Frame};
use crate::outbox::Outbox;
use crate::queue::Closed;
use crate::scheduler::Scheduler;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// An open event stream to one client. Clone it to send from several places; drop the last one to end it.
///
/// If the last one goes because of a panic, the stream is cut instead: it gets no last chunk, so that the client can tell
/// it from one that came to its end.
pub struct Stream {
    outbox: Arc<Outbox>,
    scheduler: Scheduler,
}

impl Stream {
    pub(crate) fn new(outbox: Arc<Outbox>, scheduler: Scheduler) -> Stream {
        outbox.holders.fetch_add(1, Ordering::Relaxed);
        Stream { outbox, scheduler }
    }

    /// Sends an event. It never blocks: what the client does not take at once is queued.
    ///
    /// # Errors
    ///
    /// Why the stream is over. A client that is more than [`Config::queue_bytes`](crate::Config::queue_bytes) behind is
    /// cut by this call.
    pub fn send(&self, event: &Event) -> Result<(), Closed> {
        self.outbox.push(&Arc::new(Frame::event(event)), Instant::now())
    }

    /// Sends one event each `period`, the first after one period, and ends with the last. The iterator is asked for an
    /// event when that event is due, on the scheduler's thread, so `next` must not block.
    ///
    /// A period is at least 1 ms. If the machine falls behind, whole periods are left out but no event is.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// use tidings::{Event, Response, iso8601};
    /// let clock = std::iter::from_fn(|| Some(Event::data(iso8601(SystemTime::now()))));
    /// let response = Response::stream(|stream| stream.every(Duration::from_secs(1), clock));
    /// # let _ = response;
    /// ```
    ///
    /// # Errors
    ///
    /// If the stream is over already, or the scheduler takes no timer ([`Closed::Full`]: there are 65,536, or the period
    /// is over 366 days), which cuts it.
    pub fn every<I>(self, period: Duration, events: I) -> Result<(), Closed>
    where
        I: IntoIterator<Item = Event>,
        I::IntoIter: Send + 'static,
    {
        let held = self.clone(); // so that a timer refused, and dropped, does not end the stream as if all were well
        let outbox = &held.outbox;
        let scheduler = self.scheduler.clone();
        let timed = Timed { events: events.into_iter(), stream: self };
        match scheduler.repeat(period, Box::new(timed)) {
            Ok(timer) => outbox.attach(Box::new(timer)),
            Err(_) => outbox.cut(Closed::Full),
        }
        outbox.check()
    }

    /// Ends the stream after so many more events. Comments and a hub's `tidings:` announcements do not count.
    pub fn end_after(self, events: u64) -> Stream {
        self.outbox.end_after(events);
        self
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }
}

/// A stream and the events that it is still to get, one at a time.
struct Timed<I> {
    events: I, // goes before the stream does, so that a destructor that panics cuts it
    stream: Stream,
}

impl<I: Iterator<Item = Event> + Send> Task for Timed<I> {
    fn run(&mut self, now: Instant) -> Next {
        let sent = self.events.next().map(|event| self.stream.outbox.push(&Arc::new(Frame::event(&event)), now));
        // An iterator that knows it was the last spares the client a period of waiting for the end.
        let is_last = self.events.size_hint() == (0, Some(0));
        if sent == Some(Ok(())) && !is_last { Next::Again } else { Next::Stop }
    }

    fn prefetch(&self) {
        self.stream.outbox.prefetch();
    }
}

impl Clone for Stream {
    fn clone(&self) -> Stream {
        Stream::new(self.outbox.clone(), self.scheduler.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // AcqRel as in Arc: what other holders did happens before the end.
        if self.outbox.holders.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if std::thread::panicking() {
            self.outbox.cut(Closed::Panicked);
        } else {
            self.outbox.finish(Frame::tail(None), Closed::Ended);
        }
    }
}
