//! The hub: topics that are published to and subscribed to, and that keep some history for those who come back.
//!
//! Two locks. `turn` orders publishers and holds the last position; `topics` is held for microseconds. They are taken in
//! the order turn, topics, an outbox's own. A publish takes the turn, mints positions and encodes; under `topics` it
//! appends to the log and takes a snapshot of the subscribers; then it pushes to each with `topics` free and the turn
//! still taken, which gives every stream the same order.
//!
//! A subscriber reads the logs and joins in one critical section of `topics`. So an event is either in what was read, or
//! the snapshot of its publish has the subscriber: none is missed and none comes twice.

use crate::event::{Event, EventId, Frame};
use crate::json::json_string;
use crate::lock;
use crate::os;
use crate::outbox::{self, Outbox};
use crate::queue::Closed;
use crate::replay::{self, Piece, Position};
use crate::stream::Stream;
use crate::topics::{History, HubCounts, Topic, TopicInfo, Topics};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How many outboxes are asked for before the first of them is written to. A system call leaves little of the caches to
/// its caller, so each outbox has to come from memory; those that are asked for together come together. Without it, an
/// event to 1,000 subscribers takes 5 to 7 % more processor time.
const LOOK_AHEAD: usize = 64;

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The id of the event, of a batch's last one.
    pub id: EventId,
    /// How many events there were.
    pub events: usize,
    /// How many streams they went to.
    pub subscribers: usize,
}

/// Why a hub does not take a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// An event type that begins with `tidings:`, which are the server's own.
    ReservedType,
    /// More bytes than [`History::publish_bytes`].
    TooLarge,
    /// [`History::topics`] are there, and each has a subscriber.
    TooManyTopics,
    /// A batch of nothing.
    NoEvent,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::ReservedType => "an event type that begins with tidings: is the server's own",
            Refused::TooLarge => "the event is larger than one publish may be",
            Refused::TooManyTopics => "there are as many topics as there may be, each with a subscriber",
            Refused::NoEvent => "there is no event in it",
        })
    }
}

impl std::error::Error for Refused {}

/// Topics to publish and subscribe to. Clones are the same hub.
///
/// ```
/// use tidings::{Event, History, Hub, Topic};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = Hub::new(History::default());
/// let news = Topic::new("news")?;
/// let receipt = hub.publish(&news, &Event::data("hello"))?;
/// assert_eq!((receipt.events, receipt.subscribers), (1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    history: History,
    /// The position before the first event of this run.
    start: Position,
    /// Orders publishers, and guards the last position. Held while one event goes out to everybody: some 50 ms with
    /// 10,000 subscribers.
    turn: Mutex<Position>,
    /// Guards the topics. Taken after `turn`, and never held over a write.
    topics: Mutex<Topics>,
}

/// What a follower gets beyond the history.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Live,
    End,
}

impl Hub {
    /// An empty hub.
    pub fn new(history: History) -> Hub {
        // 48 random bits leave room for more events than can ever be published.
        let start = Position { n: os::random() >> 16, ms: unix_ms() };
        let topics = Topics::new(history, start);
        Hub { inner: Arc::new(Inner { history, start, turn: Mutex::new(start), topics: Mutex::new(topics) }) }
    }

    /// Publishes an event to all who are subscribed to the topic, and keeps it. Its own id, if it has one, gives way to
    /// the hub's.
    ///
    /// It waits for no client, but for its turn: for the publish before it, which may take some 50 ms with 10,000
    /// subscribers.
    ///
    /// # Errors
    ///
    /// If the hub does not take it: see [`Refused`]. Nothing was published then.
    pub fn publish(&self, topic: &Topic, event: &Event) -> Result<Receipt, Refused> {
        self.publish_all(topic, std::slice::from_ref(event))
    }

    /// Publishes a batch: every stream gets it in one write. Each event has an id of its own.
    ///
    /// # Errors
    ///
    /// As [`Hub::publish`]. One event that is refused refuses all.
    pub fn publish_all(&self, topic: &Topic, events: &[Event]) -> Result<Receipt, Refused> {
        if events.is_empty() {
            return Err(Refused::NoEvent);
        }
        if events.iter().any(Event::has_reserved_type) {
            return Err(Refused::ReservedType);
        }
        if self.is_surely_too_large(events) {
            return Err(Refused::TooLarge);
        }
        let mut turn = lock::lock(&self.inner.turn);
        let ms = unix_ms().max(turn.ms); // a clock that was set back must not take the ids with it
        let positions = (turn.n + 1..).map(|n| Position { n, ms });
        let (kept, frames): (Vec<_>, Vec<_>) = positions
            .zip(events)
            .map(|(position, event)| {
                let frame = Arc::new(Frame::with_id(event, &position.text()));
                ((position, frame.clone()), frame)
            })
            .unzip();
        let joined = if let [one] = &frames[..] { one.clone() } else { Arc::new(Frame::joined(&frames)) };
        if joined.chunked().len() > self.inner.history.publish_bytes {
            return Err(Refused::TooLarge);
        }
        let last = Position { n: turn.n + events.len() as u64, ms };
        let subscribers = self.inner.topics().append(topic, kept).ok_or(Refused::TooManyTopics)?;
        *turn = last;
        let now = Instant::now();
        for some in subscribers.chunks(LOOK_AHEAD) {
            some.iter().for_each(|outbox| outbox.prefetch());
            for outbox in some {
                let _ = outbox.push_batch(&joined, &frames, now); // one that is over is no concern of the publisher's
            }
        }
        Ok(Receipt { id: last.id(), events: events.len(), subscribers: subscribers.len() })
    }

    /// Spares all others the wait while a batch is encoded only to be refused. What was not found here is found then.
    fn is_surely_too_large(&self, events: &[Event]) -> bool {
        if events.len() == 1 {
            return false;
        }
        let id = self.inner.start.text(); // no later id is shorter
        let least: usize = events.iter().map(|event| event.least_length(Some(&id))).sum();
        least > self.inner.history.publish_bytes
    }

    /// Gives a stream all events of these topics from now on, until one of the two goes.
    ///
    /// `after` is where the client stands: the id of the last event it has (from
    /// [`Request::last_event_id`](crate::Request::last_event_id)), or `earliest` for all that is kept. What it missed
    /// comes first, as far as it is kept, in pieces that this call waits for; call it on the stream's own thread, as
    /// [`Response::stream`](crate::Response::stream) does. If something cannot be given, the client is told:
    ///
    /// ```text
    /// event: tidings:gap
    /// data: {"asked":"1-1","oldest":"1763712000000-8","newest":"1763712000000-9"}
    /// ```
    ///
    /// The first live event follows this one, whose id is a place to resume from even if no other ever comes:
    ///
    /// ```text
    /// event: tidings:open
    /// id: 1763712000000-9
    /// data: {"position":"1763712000000-9"}
    /// ```
    ///
    /// A handler that gives topics to all who ask:
    ///
    /// ```
    /// use tidings::{Hub, Request, Response, Topic};
    ///
    /// fn answer(hub: &Hub, topics: &[Topic], request: &Request) -> Response {
    ///     let (hub, topics, after) = (hub.clone(), topics.to_vec(), request.last_event_id());
    ///     Response::stream(move |stream| hub.subscribe(stream, &topics, after.as_deref()))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Why the stream is over. [`Closed::Full`]: there is no room for these topics; the client has been told to come
    /// back later.
    pub fn subscribe(&self, stream: Stream, topics: &[Topic], after: Option<&str>) -> Result<(), Closed> {
        self.follow(stream, topics, after, Then::Live)
    }

    /// Gives a stream what is kept of these topics (after `after`, as [`Hub::subscribe`]; without it, all), then ends it.
    ///
    /// # Errors
    ///
    /// Why the stream is over before that.
    pub fn replay(&self, stream: Stream, topics: &[Topic], after: Option<&str>) -> Result<(), Closed> {
        self.follow(stream, topics, after.or(Some(EARLIEST)), Then::End)
    }

    /// The topics, in the order of their names.
    pub fn topics(&self) -> Vec<TopicInfo> {
        let mut topics = self.inner.topics().infos();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    /// What it has done so far.
    pub fn counts(&self) -> HubCounts {
        let topics = self.inner.topics();
        HubCounts { topics: topics.len(), ..topics.counts }
    }

    fn follow(&self, stream: Stream, topics: &[Topic], after: Option<&str>, then: Then) -> Result<(), Closed> {
        let outbox = stream.outbox().clone();
        let max_bytes = outbox.max_bytes() / 2; // the other half is for what is published meanwhile
        let mut all = self.inner.topics();
        let mut reader = Reader::new(topics, after, &self.inner, &all);
        loop {
            let (frames, is_all) = reader.read(&mut all, max_bytes);
            if is_all && then == Then::Live {
                if !all.has_room_for_stream(&reader.topics) {
                    drop(all);
                    return Err(refuse(&outbox));
                }
                let position = all.newest.text();
                let data = ["{\"position\":\"", &position, "\"}"].concat();
                let open = Frame::announcement("open", Some(&position), data);
                outbox.enqueue(frames.into_iter().chain([Arc::new(open)]))?;
                let topics = all.join(&reader.topics, &stream);
                drop(all);
                let key = Arc::as_ptr(&outbox) as usize;
                outbox.attach(Box::new(Subscription { hub: Arc::downgrade(&self.inner), topics, key }));
                outbox.flush();
                return Ok(());
            }
            drop(all);
            outbox.push_and_wait(frames)?;
            if is_all {
                return Ok(()); // the stream is dropped here, which ends it
            }
            all = self.inner.topics();
        }
    }
}

/// What `after` says for all that is kept.
const EARLIEST: &str = "earliest";

/// How much of an id that was asked for is told back.
const MAX_ASKED: usize = 128;

/// A follower's way through the logs.
struct Reader {
    topics: Vec<Topic>,
    /// Everything after this is still to be read; without it, all that is kept.
    position: Option<Position>,
    /// The id that was asked for and is of no use.
    unknown: Option<String>,
}

impl Reader {
    fn new(topics: &[Topic], after: Option<&str>, hub: &Inner, all: &Topics) -> Reader {
        let mut reader = Reader { topics: topics.to_vec(), position: None, unknown: None };
        reader.topics.sort_unstable();
        reader.topics.dedup();
        match after {
            None => reader.position = Some(all.newest),
            Some(EARLIEST) => {}
            Some(id) => match Position::parse(id).filter(|at| hub.is_of_this_run(*at, all.newest)) {
                Some(position) => reader.position = Some(position),
                None => reader.unknown = Some(truncated(id, MAX_ASKED).to_owned()),
            },
        }
        reader
    }

    /// The next piece, and whether it is the last. A gap is told before what follows it.
    fn read(&mut self, all: &mut Topics, max_bytes: usize) -> (Vec<Arc<Frame>>, bool) {
        let logs = all.logs(&self.topics);
        let Piece { mut frames, first, last, is_all } = replay::merge(&logs, self.position, max_bytes);
        all.counts.replayed += frames.len() as u64;
        let asked = self.unknown.take().or_else(|| {
            let position = self.position?;
            self.topics.iter().any(|topic| all.has_lost(topic, position)).then(|| position.text())
        });
        if let Some(asked) = asked {
            all.counts.gaps += 1;
            frames.insert(0, Arc::new(Frame::announcement("gap", None, gap_json(&asked, first, all.newest))));
        }
        self.position = last.or(self.position);
        (frames, is_all)
    }
}

fn gap_json(asked: &str, oldest: Option<Position>, newest: Position) -> String {
    let oldest = oldest.map_or("null".into(), |position| format!("\"{position}\""));
    format!(r#"{{"asked":{},"oldest":{oldest},"newest":"{newest}"}}"#, json_string(asked))
}

/// The beginning of a text, at most so many bytes, cut between characters.
fn truncated(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Ends a stream for which there is no room: as a success that says when to try again, because an EventSource never
/// comes back from an error.
fn refuse(to: &Arc<Outbox>) -> Closed {
    let comment = Event::comment("full").with_retry(outbox::refusal_retry());
    let _ = to.push(&Arc::new(Frame::event(&comment)), Instant::now()); // one that is over needs no refusal
    to.finish(Frame::tail(None), Closed::Full);
    Closed::Full
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Inner {
    fn topics(&self) -> MutexGuard<'_, Topics> {
        lock::lock(&self.topics)
    }

    fn is_of_this_run(&self, position: Position, newest: Position) -> bool {
        (self.start.n..=newest.n).contains(&position.n) && (self.start.ms..=newest.ms).contains(&position.ms)
    }
}

/// A stream's guard: takes it out of its topics at its close.
struct Subscription {
    hub: Weak<Inner>,
    topics: Vec<Topic>,
    /// The address of the outbox, which lives as long as its guards.
    key: usize,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let mut topics = hub.topics();
        let streams: Vec<_> = self.topics.iter().filter_map(|topic| topics.leave(topic, self.key)).collect();
        drop(topics);
        drop(streams);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::race;
    use crate::outbox::Drainer;
    use crate::queue::{Carrier, Queue};
    use crate::scheduler::Scheduler;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    const TOPICS: [&str; 3] = ["a", "b", "c"];

    struct Race {
        hub: Hub,
        drainer: Arc<Drainer>,
        scheduler: Scheduler,
        is_over: AtomicBool,
    }

    /// Subscribers come, leave at random and come back, while each topic is published to. Every event of the topics asked
    /// for comes once and in order, from the history or live, and nothing is left of those who left.
    #[test]
    fn none_is_missed_and_none_comes_twice_whoever_dawdles() {
        race::run(|| {
            let history = History { events: 100_000, bytes: 64 << 20, total_bytes: 64 << 20, ..History::default() };
            let race = &Race {
                hub: Hub::new(history),
                drainer: Drainer::start().unwrap(),
                scheduler: Scheduler::start().unwrap(),
                is_over: AtomicBool::new(false),
            };
            let published: u64 = std::thread::scope(|scope| {
                let publishers = TOPICS.map(|topic| scope.spawn(move || race.publish(topic)));
                let subscribers = [1, 2, 3, 3].map(|topics| scope.spawn(move || race.subscribe(&TOPICS[..topics])));
                let subscribers = subscribers.map(|subscriber| subscriber.join());
                race.is_over.store(true, Ordering::SeqCst);
                assert!(subscribers.iter().all(Result::is_ok));
                publishers.map(|publisher| publisher.join().unwrap()).iter().sum()
            });
            assert_eq!(race.hub.counts().published, published);
            assert!(race.hub.topics().iter().all(|topic| topic.subscribers == 0));
            race.drainer.stop();
            race.scheduler.stop();
        });
    }

    impl Race {
        /// Publishes numbers, some at a time, and returns how many.
        fn publish(&self, topic: &str) -> u64 {
            let name = Topic::new(topic).unwrap();
            let mut next = 0;
            while !self.is_over.load(Ordering::SeqCst) {
                let count = 1 + race::random(3);
                let events: Vec<_> = (next..next + count).map(|n| Event::data(format!("{topic} {n}"))).collect();
                assert_eq!(self.hub.publish_all(&name, &events).unwrap().events, events.len());
                next += count;
                std::thread::sleep(Duration::from_micros(race::random(500)));
            }
            next
        }

        /// Comes some times, each time from where it was.
        fn subscribe(&self, names: &[&str]) {
            let topics: Vec<_> = names.iter().map(|name| Topic::new(name).unwrap()).collect();
            let (mut next, mut last) = ([0; TOPICS.len()], (0, "earliest".to_owned()));
            for _ in 0..12 {
                for block in self.visit(&topics, &last.1).split_inclusive("\n\n").skip(1) {
                    let Some(block) = block.strip_suffix("\n\n") else { break }; // it left in the middle
                    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                    let id = field("id: ");
                    let position = Position::parse(id).unwrap();
                    let is_open = block.starts_with("event: tidings:open\n");
                    assert!(position.n > last.0 || (is_open && position.n >= last.0), "{block} after {last:?}");
                    last = (position.n, id.to_owned());
                    if is_open {
                        continue;
                    }
                    let (topic, n) = field("data: ").split_once(' ').unwrap();
                    let topic = names.iter().position(|name| *name == topic).expect("a topic asked for");
                    assert_eq!(n, next[topic].to_string(), "of {}", names[topic]);
                    next[topic] += 1;
                }
            }
            assert!(last.0 > 0, "it has seen nothing");
        }

        /// All that one connection gets, which is cut after a while.
        fn visit(&self, topics: &[Topic], after: &str) -> String {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let socket = Arc::new(listener.accept().unwrap().0);
            os::prepare(&socket).unwrap();
            let first = Arc::new(Frame::event(&Event::comment("hi")));
            let queue = Queue::new(socket, Carrier::Bare, Vec::new(), first, 1 << 20);
            let outbox = Outbox::new(queue, self.drainer.clone());
            let stream = Stream::new(outbox.clone(), self.scheduler.clone());
            self.hub.subscribe(stream, topics, Some(after)).unwrap();
            std::thread::sleep(Duration::from_micros(race::random(5_000)));
            outbox.cut(Closed::Left);
            outbox.settle();
            let mut got = String::new();
            client.read_to_string(&mut got).unwrap();
            got
        }
    }
}
