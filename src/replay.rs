//! What a topic keeps for those who come back: a ring of (position, frame), oldest first, and the memory of what is gone.
//!
//! A pure room: it bounds, merges and tells what was lost, and does no I/O. Frames are shared with the outboxes, so that
//! a replay copies nothing.

use crate::event::{EventId, Frame};
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::Arc;

/// The place of an event in a hub's one order, and as text its id: `<unix-ms>-<n>`.
///
/// `ms` never falls and `n` rises by one with each event of any topic, so `n` alone gives the order; `ms` tells people
/// when it was. `n` begins at a random number, which tells an id of another run from one of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) n: u64,
    pub(crate) ms: u64,
}

impl Position {
    /// The position that this text is, if it is one: digits, a hyphen, digits.
    pub(crate) fn parse(text: &str) -> Option<Position> {
        let number = |digits: &str| {
            let is_plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| is_plain) // `parse` alone would take a sign
        };
        let (ms, n) = text.split_once('-')?;
        Some(Position { n: number(n)?, ms: number(ms)? })
    }

    pub(crate) fn id(self) -> EventId {
        EventId::new(self.text()).expect("digits and a hyphen")
    }

    /// Its text, in one block of memory: see `Connection::stream`.
    pub(crate) fn text(self) -> String {
        let mut text = String::with_capacity(32); // 13 digits, a hyphen and up to 15
        let _ = write!(text, "{self}"); // writing to a String cannot fail
        text
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.n)
    }
}

/// The events that a topic keeps.
pub(crate) struct ReplayLog {
    kept: VecDeque<(Position, Arc<Frame>)>,
    bytes: usize,
    /// The newest event of the topic that is no longer kept.
    lost: Option<Position>,
}

impl ReplayLog {
    /// An empty log of a topic whose events up to `lost` were kept once.
    pub(crate) fn new(lost: Option<Position>) -> ReplayLog {
        ReplayLog { kept: VecDeque::new(), bytes: 0, lost }
    }

    pub(crate) fn append(&mut self, position: Position, frame: Arc<Frame>) {
        self.bytes += frame.cost();
        self.kept.push_back((position, frame));
    }

    /// Evicts the oldest event, if there is one.
    pub(crate) fn evict(&mut self) {
        if let Some((position, frame)) = self.kept.pop_front() {
            self.bytes -= frame.cost();
            self.lost = Some(position);
        }
        if self.kept.is_empty() {
            self.kept = VecDeque::new(); // gives its memory back
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// What its frames take of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn oldest(&self) -> Option<Position> {
        self.kept.front().map(|(position, _)| *position)
    }

    /// The newest event that was ever here and is gone, the kept ones included if the log itself were to go now.
    pub(crate) fn newest_ever(&self) -> Option<Position> {
        self.kept.back().map(|(position, _)| *position).max(self.lost)
    }

    /// Whether somebody who has everything up to `position` missed an event that can no longer be given.
    pub(crate) fn has_lost_after(&self, position: Position) -> bool {
        self.lost > Some(position)
    }

    /// Where the events after `position` begin; all of them without one.
    fn start(&self, position: Option<Position>) -> usize {
        self.kept.partition_point(|(kept, _)| Some(*kept) <= position)
    }
}

/// A stretch of several logs in the order of positions.
pub(crate) struct Piece {
    pub(crate) frames: Vec<Arc<Frame>>,
    /// The first event in it.
    pub(crate) first: Option<Position>,
    /// The last event in it.
    pub(crate) last: Option<Position>,
    /// Whether nothing follows it.
    pub(crate) is_all: bool,
}

/// The next piece of these logs after `position`: at most `max_bytes` of memory, but one event at the least.
///
/// It costs a look at each log for each event. A list of topics has at most 64, and the piece is bounded.
pub(crate) fn merge(logs: &[&ReplayLog], position: Option<Position>, max_bytes: usize) -> Piece {
    let mut rests: Vec<_> = logs.iter().map(|log| log.kept.range(log.start(position)..).peekable()).collect();
    let mut piece = Piece { frames: Vec::new(), first: None, last: None, is_all: true };
    let mut bytes = 0;
    loop {
        let next =
            rests.iter_mut().filter_map(|rest| Some((*rest.peek()?, rest))).min_by_key(|((position, _), _)| *position);
        let Some(((position, frame), rest)) = next else { return piece };
        bytes += frame.cost();
        if bytes > max_bytes && !piece.frames.is_empty() {
            return Piece { is_all: false, ..piece };
        }
        piece.first.get_or_insert(*position);
        piece.last = Some(*position);
        piece.frames.push(frame.clone());
        rest.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn at(n: u64) -> Position {
        Position { n, ms: 1_000 + n / 3 }
    }

    fn log(events: &[u64]) -> ReplayLog {
        let mut log = ReplayLog::new(None);
        events.iter().for_each(|n| log.append(at(*n), Arc::new(Frame::event(&Event::data(n.to_string())))));
        log
    }

    fn texts(piece: &Piece) -> String {
        let text = |frame: &Arc<Frame>| String::from_utf8_lossy(frame.bare()).replace("data: ", "").replace('\n', "");
        piece.frames.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_position_is_digits_hyphen_digits() {
        assert_eq!(Position::parse("17-42"), Some(Position { n: 42, ms: 17 }));
        assert_eq!(Position { n: 42, ms: 17 }.to_string(), "17-42");
        for bad in ["", "-", "1", "1-", "-1", "+1-1", "1-+1", "1-1-1", " 1-1", "1-1 ", "a-b", "99999999999999999999-1"]
        {
            assert_eq!(Position::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn knows_what_it_lost() {
        let mut log = log(&[3, 5, 9]);
        assert!(!log.has_lost_after(at(0)));
        log.evict();
        assert!(log.has_lost_after(at(2)));
        assert!(!log.has_lost_after(at(3)));
        assert_eq!((log.len(), log.oldest(), log.newest_ever()), (2, Some(at(5)), Some(at(9))));
        (0..3).for_each(|_| log.evict());
        assert_eq!((log.len(), log.bytes(), log.oldest(), log.newest_ever()), (0, 0, None, Some(at(9))));
        assert!(ReplayLog::new(Some(at(4))).has_lost_after(at(3)));
    }

    #[test]
    fn merges_logs_in_the_order_of_positions() {
        let (a, b, empty) = (log(&[1, 4, 6]), log(&[2, 3, 7]), log(&[]));
        for (after, expected) in [(None, "1 2 3 4 6 7"), (Some(3), "4 6 7"), (Some(5), "6 7"), (Some(7), "")] {
            let piece = merge(&[&a, &empty, &b], after.map(at), 10_000);
            assert_eq!(texts(&piece), expected);
            assert!(piece.is_all);
        }
    }

    #[test]
    fn pieces_are_bounded_and_join_without_a_seam() {
        let (a, b) = (log(&[1, 4, 6, 8, 9]), log(&[2, 3, 5, 7]));
        let one = a.kept[0].1.cost();
        for max_bytes in [0, one, one + 1, 3 * one] {
            let (mut position, mut all) = (None, Vec::new());
            loop {
                let piece = merge(&[&a, &b], position, max_bytes);
                assert!(piece.frames.len() <= (max_bytes / one).max(1));
                all.push(texts(&piece));
                position = piece.last;
                if piece.is_all {
                    break;
                }
            }
            assert_eq!(all.join(" "), "1 2 3 4 5 6 7 8 9", "{max_bytes}");
        }
    }
}
