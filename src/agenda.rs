//! The agenda: all tasks in the order in which they are due. The pure part of the scheduler: it has no thread and is told
//! what time it is, so its tests sleep not once.
//!
//! Tasks stand in one ordered map of (due, sequence number). A repeated task is due again one period after it *was* due,
//! not after it ran, so nothing drifts.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

/// The most tasks that are taken under one hold of the lock.
pub(crate) const BATCH: usize = 256;

/// How many of the last runs the lateness quantiles are about.
const SAMPLES: usize = 512;

/// What a task wants after it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Again,
    Stop,
}

/// A task is told what time it is.
pub(crate) type Run = Box<dyn FnMut(Instant) -> Next + Send>;

pub(crate) struct Task {
    pub(crate) period: Duration,
    pub(crate) run: Run,
}

/// A task that is due and out of the map.
pub(crate) struct Taken {
    pub(crate) id: u64,
    pub(crate) due: Instant,
    pub(crate) task: Task,
}

/// A task that ran. None is left of one that panicked: it is dropped while it unwinds, so that a stream in it knows why.
pub(crate) struct Ran {
    pub(crate) id: u64,
    pub(crate) due: Instant,
    pub(crate) started: Instant,
    pub(crate) after: Option<(Next, Task)>,
}

/// All tasks in the order in which they are due.
#[derive(Default)]
pub(crate) struct Agenda {
    order: BTreeMap<(Instant, u64), Task>,
    /// Where each task stands in `order`; `None` while it runs. An id that is gone from here was cancelled.
    due: HashMap<u64, Option<Instant>, BuildHasherDefault<CountedIds>>,
    next_id: u64,
    pub(crate) is_stopped: bool,
    lateness: Samples,
}

/// Spreads ids that are counted up here. Nobody chooses them, so a hash that withstands an attacker would be wasted:
/// SipHash was some 10 % of the program's instructions for a timed event.
#[derive(Default)]
struct CountedIds(u64);

impl Hasher for CountedIds {
    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15); // 2^64 over the golden ratio: Knuth's multiplicative hash
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are u64")
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32) // the product is good in its upper half, and the map looks at the lower one first
    }
}

impl Agenda {
    pub(crate) fn insert(&mut self, due: Instant, task: Task) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.due.insert(id, Some(due));
        self.order.insert((due, id), task);
        id
    }

    /// How many tasks there are, those included that run.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.order.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes what is due out of the map, up to a batch.
    pub(crate) fn take_due(&mut self, now: Instant, batch: &mut Vec<Taken>) {
        while batch.len() < BATCH {
            let Some(first) = self.order.first_entry().filter(|first| first.key().0 <= now) else { return };
            let ((due, id), task) = first.remove_entry();
            self.due.insert(id, None);
            batch.push(Taken { id, due, task });
        }
    }

    /// Puts back what goes on, and returns what does not, to be dropped behind the lock.
    pub(crate) fn put_back(&mut self, ran: Vec<Ran>) -> Vec<Task> {
        let mut over = Vec::new();
        for Ran { id, due, started, after } in ran {
            self.lateness.add(started - due);
            match after {
                Some((Next::Again, task)) if self.due.contains_key(&id) => {
                    let due = due_again(due, task.period, started);
                    self.due.insert(id, Some(due));
                    self.order.insert((due, id), task);
                }
                after => {
                    self.due.remove(&id);
                    over.extend(after.map(|(_, task)| task));
                }
            }
        }
        over
    }

    pub(crate) fn cancel(&mut self, id: u64) -> Option<Task> {
        let due = self.due.remove(&id)??;
        self.order.remove(&(due, id))
    }

    pub(crate) fn lateness(&self) -> Lateness {
        self.lateness.summary()
    }

    pub(crate) fn stop(&mut self) -> Vec<Task> {
        self.is_stopped = true;
        self.due.clear();
        std::mem::take(&mut self.order).into_values().collect()
    }
}

/// One period after `due`; where that has passed already, the next of the same grid that has not.
fn due_again(due: Instant, period: Duration, now: Instant) -> Instant {
    let next = due + period;
    if next > now {
        return next;
    }
    // A period has at most 366 days, whose nanoseconds fit into 64 bits.
    let over = ((now - due).as_nanos() % period.as_nanos()) as u64;
    now - Duration::from_nanos(over) + period
}

/// How late tasks were run: over all of them, and as quantiles over the last 512.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// How many runs there were.
    pub count: u64,
    /// How late they were, added up.
    pub sum: Duration,
    /// The median of the last runs.
    pub median: Duration,
    /// The 99th percentile of the last runs.
    pub p99: Duration,
}

#[derive(Default)]
struct Samples {
    count: u64,
    sum: Duration,
    last: Vec<Duration>,
}

impl Samples {
    fn add(&mut self, lateness: Duration) {
        if self.last.len() < SAMPLES {
            self.last.push(lateness);
        } else {
            self.last[(self.count % SAMPLES as u64) as usize] = lateness;
        }
        self.count += 1;
        self.sum += lateness;
    }

    fn summary(&self) -> Lateness {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        let quantile = |percent: usize| sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied();
        Lateness {
            count: self.count,
            sum: self.sum,
            median: quantile(50).unwrap_or_default(),
            p99: quantile(99).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn task(period: Duration) -> Task {
        Task { period, run: Box::new(|_| Next::Again) }
    }

    fn take(agenda: &mut Agenda, now: Instant) -> Vec<Taken> {
        let mut batch = Vec::new();
        agenda.take_due(now, &mut batch);
        batch
    }

    /// As if the task had been run at `started`.
    fn ran(taken: Taken, started: Instant, next: Next) -> Ran {
        Ran { id: taken.id, due: taken.due, started, after: Some((next, taken.task)) }
    }

    #[test]
    fn takes_what_is_due_in_order_and_nothing_early() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        let ids = [30, 10, 20, 10].map(|ms| agenda.insert(start + ms * MS, task(MS)));
        assert!(take(&mut agenda, start + 10 * MS - Duration::from_nanos(1)).is_empty());
        let due: Vec<_> = take(&mut agenda, start + 20 * MS).iter().map(|taken| taken.id).collect();
        assert_eq!(due, [ids[1], ids[3], ids[2]], "ties in the order in which they were made");
        assert_eq!(agenda.next_due(), Some(start + 30 * MS));
    }

    #[test]
    fn a_lock_covers_one_batch() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        (0..BATCH + 1).for_each(|_| {
            agenda.insert(now, task(MS));
        });
        assert_eq!(take(&mut agenda, now).len(), BATCH);
        assert_eq!(take(&mut agenda, now).len(), 1);
    }

    #[test]
    fn periods_do_not_drift_and_whole_ones_are_left_out() {
        let start = Instant::now();
        for (late, next) in [(0, 100), (1, 100), (99, 100), (100, 200), (101, 200), (250, 300), (1_000, 1_100)] {
            assert_eq!(due_again(start, 100 * MS, start + late * MS), start + next * MS, "{late} ms late");
        }
        // A thousand runs, each some time late: the thousandth is due after exactly a thousand periods.
        let mut due = start;
        for run in 0..1_000 {
            due = due_again(due, 100 * MS, due + (run * 37 % 100) * MS);
        }
        assert_eq!(due, start + 1_000 * 100 * MS);
    }

    #[test]
    fn a_cancelled_task_leaves_nothing_behind() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        let waiting = agenda.insert(now + MS, task(MS));
        assert!(agenda.cancel(waiting).is_some());
        assert!(agenda.cancel(waiting).is_none());
        // Cancelled while it runs: it is not put back.
        let running = agenda.insert(now, task(MS));
        let taken = take(&mut agenda, now).pop().unwrap();
        assert!(agenda.cancel(running).is_none());
        assert_eq!(agenda.put_back(vec![ran(taken, now, Next::Again)]).len(), 1);
        assert!(agenda.order.is_empty() && agenda.due.is_empty());
    }

    #[test]
    fn a_task_that_stops_is_returned_to_be_dropped() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        agenda.insert(now, task(MS));
        let taken = take(&mut agenda, now).pop().unwrap();
        assert_eq!(agenda.put_back(vec![ran(taken, now, Next::Stop)]).len(), 1);
        assert!(agenda.order.is_empty() && agenda.due.is_empty());
    }

    #[test]
    fn lateness_is_summed_over_all_and_ranked_over_the_last() {
        let mut samples = Samples::default();
        (0..1_000).for_each(|_| samples.add(1_000 * MS));
        (1..=512).for_each(|ms| samples.add(ms * MS));
        let summary = samples.summary();
        assert_eq!((summary.count, summary.median, summary.p99), (1_512, 256 * MS, 506 * MS));
        assert_eq!(summary.sum, (1_000 * 1_000 + 512 * 513 / 2) * MS);
        assert_eq!(Samples::default().summary(), Lateness::default());
    }
}
