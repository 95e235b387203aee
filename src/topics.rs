//! The topics of a hub: what each keeps, and who is subscribed to it. The hub's lock guards them; this room has none, does
//! no I/O and reads no clock.
//!
//! All of it is bounded by [`History`]: events and bytes of a topic, bytes of all together (the oldest event of any topic
//! goes first), topics, and the memory of what was forgotten.

use crate::error::{Error, Result};
use crate::event::{EventId, Frame};
use crate::outbox::Outbox;
use crate::replay::{Position, ReplayLog};
use crate::stream::Stream;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a hub keeps and takes: the bounds of all that grows in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Events kept for each topic.
    pub events: usize,
    /// Bytes kept for each topic: each event counts what it is on the wire, and 160 for its place.
    pub bytes: usize,
    /// Bytes kept over all topics, counted in the same way. The oldest event goes first.
    pub total_bytes: usize,
    /// Topics. A new one takes the place of the least recently published one that has no subscriber. Those that have
    /// subscribers and were never published to leave a sixteenth of the places (16 at least, half at most) to others:
    /// so whoever may only read neither takes the history of all topics away nor keeps new ones from being published to.
    pub topics: usize,
    /// The largest publish, a batch counted as one, in bytes on the wire. At most half of
    /// [`Config::queue_bytes`](crate::Config::queue_bytes), or it could cut clients that are hardly behind.
    pub publish_bytes: usize,
}

impl Default for History {
    /// 256 events and 1 MiB a topic, 16 MiB over all, 1,024 topics, 128 KiB a publish.
    fn default() -> History {
        History { events: 256, bytes: 1 << 20, total_bytes: 16 << 20, topics: 1024, publish_bytes: 128 << 10 }
    }
}

/// The name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The longest name, in bytes: it is a part of a path and a line in lists.
    pub const MAX_BYTES: usize = 128;

    /// The most topics on one stream: a replay looks at each for every event.
    pub const MAX_ON_A_STREAM: usize = 64;

    /// A name: 1 to 128 bytes, without control characters, `/` and `,`, and neither `.` nor `..`. So it can stand in a
    /// path, and in a list of names.
    ///
    /// # Errors
    ///
    /// If it is not like that.
    pub fn new(name: &str) -> Result<Topic> {
        if name.is_empty() || name.len() > Topic::MAX_BYTES {
            return Err(Error::invalid("a topic name has 1 to 128 bytes"));
        }
        if name == "." || name == ".." || name.chars().any(|c| c.is_control() || c == '/' || c == ',') {
            return Err(Error::invalid("a topic name holds no control character, / or comma, and is not . or .."));
        }
        Ok(Topic(name.into()))
    }

    /// The names of a comma-separated list. One that stands there twice counts once.
    ///
    /// # Errors
    ///
    /// If a name is none, or they are more than [`Topic::MAX_ON_A_STREAM`].
    pub fn list(names: &str) -> Result<Vec<Topic>> {
        let mut topics = Vec::with_capacity(1); // as most lists are
        for name in names.split(',') {
            let topic = Topic::new(name)?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
            if topics.len() > Topic::MAX_ON_A_STREAM {
                return Err(Error::invalid("a stream has at most 64 topics"));
            }
        }
        Ok(topics)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A topic as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Streams that are subscribed to it.
    pub subscribers: usize,
    /// Events that are kept.
    pub events: usize,
    /// The id of the last event, also if it is no longer kept.
    pub newest: Option<EventId>,
}

/// What a hub has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubCounts {
    /// Topics there are.
    pub topics: usize,
    /// Events published.
    pub published: u64,
    /// Events given to streams from the history.
    pub replayed: u64,
    /// Gaps told to streams.
    pub gaps: u64,
}

/// All topics there are.
pub(crate) struct Topics {
    history: History,
    entries: HashMap<Topic, Entry>,
    /// The oldest kept event of each topic that keeps any: the first of these goes when all together are too much.
    oldest: BTreeMap<Position, Topic>,
    /// The bytes of all logs.
    bytes: usize,
    /// The newest event of each topic that was forgotten. When these get too many they become one `forgotten_until`.
    forgotten: HashMap<Topic, Position>,
    forgotten_until: Option<Position>,
    /// The last position that subscribers may know of.
    pub(crate) newest: Position,
    pub(crate) counts: HubCounts,
}

/// A snapshot of who is subscribed.
pub(crate) type Subscribers = Arc<Vec<Arc<Outbox>>>;

struct Entry {
    log: ReplayLog,
    /// What publishers take their snapshots of. Changed in place while nobody holds one.
    outboxes: Subscribers,
    /// The streams of `outboxes`, in the same order: holding them keeps them open.
    streams: Vec<Stream>,
    newest: Option<Position>,
}

impl Topics {
    /// No topics yet, and no event after `start`.
    pub(crate) fn new(history: History, start: Position) -> Topics {
        Topics {
            history,
            entries: HashMap::new(),
            oldest: BTreeMap::new(),
            bytes: 0,
            forgotten: HashMap::new(),
            forgotten_until: None,
            newest: start,
            counts: HubCounts::default(),
        }
    }

    /// Appends to a topic's log, and returns who is to get it; none if there is no room for the topic.
    pub(crate) fn append(&mut self, topic: &Topic, events: Vec<(Position, Arc<Frame>)>) -> Option<Subscribers> {
        if !self.has_room_for(std::slice::from_ref(topic)) {
            return None;
        }
        self.counts.published += events.len() as u64;
        let entry = self.entry(topic);
        let outboxes = entry.outboxes.clone();
        if let Some((last, _)) = events.last() {
            entry.newest = Some(*last);
            self.newest = *last;
        }
        let history = self.history;
        self.change_log(topic, |log| {
            events.into_iter().for_each(|(position, frame)| log.append(position, frame));
            while log.len() > history.events || log.bytes() > history.bytes {
                log.evict();
            }
        });
        while self.bytes > history.total_bytes {
            let Some((_, oldest)) = self.oldest.first_key_value() else { break };
            let oldest = oldest.clone();
            self.change_log(&oldest, ReplayLog::evict);
            self.forget_if_idle(&oldest);
        }
        self.forget_if_idle(topic);
        Some(outboxes)
    }

    /// Changes a log, and with it what is known of all logs.
    fn change_log(&mut self, topic: &Topic, change: impl FnOnce(&mut ReplayLog)) {
        let Some(Entry { log, .. }) = self.entries.get_mut(topic) else { return };
        let (bytes, oldest) = (log.bytes(), log.oldest());
        change(log);
        self.bytes = self.bytes - bytes + log.bytes();
        if oldest != log.oldest() {
            oldest.map(|position| self.oldest.remove(&position));
            log.oldest().map(|position| self.oldest.insert(position, topic.clone()));
        }
    }

    /// Whether these topics are there, or can be made: without the idle ones that would give way.
    pub(crate) fn has_room_for(&self, topics: &[Topic]) -> bool {
        let fresh = topics.iter().filter(|topic| !self.entries.contains_key(topic)).count();
        if self.entries.len() + fresh <= self.history.topics {
            return true;
        }
        let busy = self.entries.iter().filter(|(topic, entry)| !entry.streams.is_empty() || topics.contains(topic));
        busy.count() + fresh <= self.history.topics
    }

    /// Whether a stream can have these topics. Names cost a reader nothing, so new ones do not get every place.
    pub(crate) fn has_room_for_stream(&self, topics: &[Topic]) -> bool {
        let fresh = topics.iter().filter(|topic| !self.entries.contains_key(topic)).count();
        let unpublished = || self.entries.values().filter(|entry| entry.newest.is_none()).count();
        let places = self.history.topics;
        let most = places - 16.max(places / 16).min(places / 2);
        fresh == 0 || (unpublished() + fresh <= most && self.has_room_for(topics))
    }

    /// A topic's entry. A new one takes the place of the least recently published idle one when there is no other.
    fn entry(&mut self, topic: &Topic) -> &mut Entry {
        if !self.entries.contains_key(topic) {
            while self.entries.len() >= self.history.topics {
                let idle = self.entries.iter().filter(|(_, entry)| entry.streams.is_empty());
                let Some((least, _)) = idle.min_by_key(|(_, entry)| entry.newest) else { break };
                let least = least.clone();
                self.forget(&least);
            }
        }
        self.entries.entry(topic.clone()).or_insert_with(|| {
            let lost = self.forgotten.remove(topic).or(self.forgotten_until);
            Entry { log: ReplayLog::new(lost), outboxes: Arc::default(), streams: Vec::new(), newest: None }
        })
    }

    fn forget_if_idle(&mut self, topic: &Topic) {
        if self.entries.get(topic).is_some_and(|entry| entry.streams.is_empty() && entry.log.len() == 0) {
            self.forget(topic);
        }
    }

    /// Forgets a topic, but not that its events are lost. That memory is bounded as the topics are; beyond the bound
    /// somebody may be told of a gap in a topic that had none, and nobody the other way round.
    fn forget(&mut self, topic: &Topic) {
        self.change_log(topic, |log| (0..log.len()).for_each(|_| log.evict()));
        let Some(lost) = self.entries.remove(topic).and_then(|entry| entry.log.newest_ever()) else { return };
        if self.forgotten.len() >= self.history.topics {
            self.forgotten_until = self.forgotten.drain().map(|(_, lost)| lost).max().max(self.forgotten_until);
        }
        self.forgotten.insert(topic.clone(), lost);
    }

    /// The logs of those of these topics that are there.
    pub(crate) fn logs(&self, topics: &[Topic]) -> Vec<&ReplayLog> {
        topics.iter().filter_map(|topic| Some(&self.entries.get(topic)?.log)).collect()
    }

    pub(crate) fn infos(&self) -> Vec<TopicInfo> {
        self.entries.iter().map(|(topic, entry)| entry.info(topic)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the topic had an event after `position` that can no longer be given.
    pub(crate) fn has_lost(&self, topic: &Topic, position: Position) -> bool {
        match self.entries.get(topic) {
            Some(entry) => entry.log.has_lost_after(position),
            None => self.forgotten.get(topic).copied().or(self.forgotten_until) > Some(position),
        }
    }

    /// Subscribes a stream to all of these topics, for which there is room. Returns their names as the entries have them, so
    /// that streams share that memory.
    pub(crate) fn join(&mut self, topics: &[Topic], stream: &Stream) -> Vec<Topic> {
        // All that are there first: an entry with a stream in it does not give way to one that is made.
        let (there, fresh): (Vec<_>, Vec<_>) = topics.iter().partition(|topic| self.entries.contains_key(topic));
        for topic in there.into_iter().chain(fresh) {
            let entry = self.entry(topic);
            Arc::make_mut(&mut entry.outboxes).push(stream.outbox().clone());
            entry.streams.push(stream.clone());
        }
        let name = |topic| self.entries.get_key_value(topic).map_or(topic, |(name, _)| name).clone();
        topics.iter().map(name).collect()
    }

    /// Takes a stream out of a topic. It is returned, to be dropped behind the lock.
    pub(crate) fn leave(&mut self, topic: &Topic, key: usize) -> Option<Stream> {
        let entry = self.entries.get_mut(topic)?;
        let at = entry.outboxes.iter().position(|outbox| Arc::as_ptr(outbox) as usize == key)?;
        Arc::make_mut(&mut entry.outboxes).swap_remove(at);
        let stream = entry.streams.swap_remove(at);
        self.forget_if_idle(topic);
        Some(stream)
    }
}

impl Entry {
    fn info(&self, topic: &Topic) -> TopicInfo {
        TopicInfo {
            name: topic.as_str().to_owned(),
            subscribers: self.streams.len(),
            events: self.log.len(),
            newest: self.newest.map(Position::id),
        }
    }
}
