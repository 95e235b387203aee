//! The agenda: all tasks in the order in which they are due. The pure part of the scheduler: it has no thread and is told
//! what time it is, so its tests sleep not once.
//!
//! Tasks have a place each, and an ordered set tells who is due when. A repeated task is due again one period after it
//! *was* due, not after it ran, so nothing drifts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Nanoseconds: a length of time, or the time since the scheduler began. For each task that is run, many of these are
/// compared; with `Instant` that took some 200 of the program's instructions more.
pub(crate) type Nanos = u64;

/// The most tasks there may be: several for each of the connections that a machine holds.
pub(crate) const MAX_TASKS: usize = 65_536;

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

/// What a task does.
pub(crate) trait Task: Send {
    /// It is told what time it is.
    fn run(&mut self, now: Instant) -> Next;

    /// Has the processor fetch what [`Task::run`] will need: it is run soon, after some others.
    fn prefetch(&self) {}
}

impl<F: FnMut(Instant) -> Next + Send> Task for F {
    fn run(&mut self, now: Instant) -> Next {
        self(now)
    }
}

/// A task that is due. The agenda keeps its place.
pub(crate) struct Taken {
    pub(crate) id: u64,
    pub(crate) due: Nanos,
    pub(crate) task: Box<dyn Task>,
}

/// A task that ran. Nothing is left of one that panicked: it is dropped while it unwinds, so that a stream in it knows
/// why.
pub(crate) struct Ran {
    pub(crate) id: u64,
    pub(crate) due: Nanos,
    pub(crate) started: Nanos,
    pub(crate) after: Option<(Next, Box<dyn Task>)>,
}

/// All tasks in the order in which they are due.
#[derive(Default)]
pub(crate) struct Agenda {
    /// When who is due, for all tasks that do not run. (A heap was no faster, and would keep who was cancelled.)
    order: BTreeSet<(Nanos, u64)>,
    places: Vec<Place>,
    /// Places to be used again.
    free: Vec<usize>,
    /// How many tasks there ever were.
    made: u64,
    pub(crate) is_stopped: bool,
    lateness: Samples,
}

/// Where a task stands from its insertion to its end.
struct Place {
    /// Whose place it is; nobody's if `None`.
    id: Option<u64>,
    due: Nanos,
    period: Nanos,
    /// Taken out while it runs.
    task: Option<Box<dyn Task>>,
}

/// Where the task with this id stands, or stood. An id is the task's number among all that there ever were, then its place:
/// so it is found without a map, where each look was one into cold memory, and never taken for one that had the place
/// before. And tasks that are due together keep the order in which they came.
fn place_of(id: u64) -> usize {
    (id % MAX_TASKS as u64) as usize
}

impl Agenda {
    /// Takes in a task. There must be fewer than [`MAX_TASKS`].
    pub(crate) fn insert(&mut self, due: Nanos, period: Nanos, task: Box<dyn Task>) -> u64 {
        let at = self.free.pop().unwrap_or(self.places.len());
        let id = self.made * MAX_TASKS as u64 + at as u64;
        self.made += 1;
        let place = Place { id: Some(id), due, period, task: Some(task) };
        match self.places.get_mut(at) {
            Some(free) => *free = place,
            None => self.places.push(place),
        }
        self.order.insert((due, id));
        id
    }

    /// How many tasks there are, those included that run.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn next_due(&self) -> Option<Nanos> {
        self.order.first().map(|(due, _)| *due)
    }

    /// Takes what is due, up to a batch.
    pub(crate) fn take_due(&mut self, now: Nanos, batch: &mut Vec<Taken>) {
        while batch.len() < BATCH && self.next_due().is_some_and(|due| due <= now) {
            let Some((due, id)) = self.order.pop_first() else { return };
            let task = self.places[place_of(id)].task.take();
            batch.extend(task.map(|task| Taken { id, due, task }));
        }
    }

    /// Puts back what goes on, and returns what does not, to be dropped behind the lock.
    pub(crate) fn put_back(&mut self, ran: Vec<Ran>) -> Vec<Box<dyn Task>> {
        let mut over = Vec::new();
        for Ran { id, due, started, after } in ran {
            self.lateness.add(started.saturating_sub(due)); // there are clocks that go back
            match (self.find(id), after) {
                (Some(place), Some((Next::Again, task))) => {
                    let due = due_again(due, place.period, started);
                    (place.due, place.task) = (due, Some(task));
                    self.order.insert((due, id));
                }
                (place, after) => {
                    if place.is_some() {
                        self.vacate(id);
                    }
                    over.extend(after.map(|(_, task)| task));
                }
            }
        }
        over
    }

    /// Takes a task out. One that runs is returned by [`Agenda::put_back`].
    pub(crate) fn cancel(&mut self, id: u64) -> Option<Box<dyn Task>> {
        let place = self.find(id)?;
        let (due, task) = (place.due, place.task.take());
        self.order.remove(&(due, id));
        self.vacate(id);
        task
    }

    /// Where a task stands that is not over.
    fn find(&mut self, id: u64) -> Option<&mut Place> {
        self.places.get_mut(place_of(id)).filter(|place| place.id == Some(id))
    }

    fn vacate(&mut self, id: u64) {
        self.places[place_of(id)].id = None;
        self.free.push(place_of(id));
    }

    pub(crate) fn lateness(&self) -> Lateness {
        self.lateness.summary()
    }

    pub(crate) fn stop(&mut self) -> Vec<Box<dyn Task>> {
        let Agenda { lateness, places, .. } = std::mem::take(self);
        (self.is_stopped, self.lateness) = (true, lateness);
        places.into_iter().filter_map(|place| place.task).collect()
    }
}

/// One period after `due`; where that has passed already, the next of the same grid that has not.
fn due_again(due: Nanos, period: Nanos, now: Nanos) -> Nanos {
    let next = due + period;
    if next > now { next } else { now - (now - due) % period + period }
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
    last: Vec<Nanos>,
}

impl Samples {
    fn add(&mut self, lateness: Nanos) {
        if self.last.len() < SAMPLES {
            self.last.push(lateness);
        } else {
            self.last[(self.count % SAMPLES as u64) as usize] = lateness;
        }
        self.count += 1;
        self.sum += Duration::from_nanos(lateness);
    }

    fn summary(&self) -> Lateness {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        let quantile = |percent: usize| sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied();
        Lateness {
            count: self.count,
            sum: self.sum,
            median: Duration::from_nanos(quantile(50).unwrap_or_default()),
            p99: Duration::from_nanos(quantile(99).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::race::random;
    use std::collections::BTreeMap;

    const MS: Nanos = 1_000_000;
    const START: Nanos = 1_234_567_890;

    fn task() -> Box<dyn Task> {
        Box::new(|_: Instant| Next::Again)
    }

    fn take(agenda: &mut Agenda, now: Nanos) -> Vec<Taken> {
        let mut batch = Vec::new();
        agenda.take_due(now, &mut batch);
        batch
    }

    /// As if the task had been run at `started`.
    fn ran(taken: Taken, started: Nanos, next: Next) -> Ran {
        Ran { id: taken.id, due: taken.due, started, after: Some((next, taken.task)) }
    }

    fn is_bare(agenda: &Agenda) -> bool {
        agenda.order.is_empty() && agenda.len() == 0
    }

    #[test]
    fn takes_what_is_due_in_order_and_nothing_early() {
        let mut agenda = Agenda::default();
        let ids = [30, 10, 20, 10].map(|ms| agenda.insert(START + ms * MS, MS, task()));
        assert!(take(&mut agenda, START + 10 * MS - 1).is_empty());
        let due: Vec<_> = take(&mut agenda, START + 20 * MS).iter().map(|taken| taken.id).collect();
        assert_eq!(due, [ids[1], ids[3], ids[2]], "ties in the order in which they were made");
        assert_eq!(agenda.next_due(), Some(START + 30 * MS));
    }

    #[test]
    fn a_lock_covers_one_batch() {
        let mut agenda = Agenda::default();
        (0..BATCH + 1).for_each(|_| {
            agenda.insert(START, MS, task());
        });
        assert_eq!(take(&mut agenda, START).len(), BATCH);
        assert_eq!(take(&mut agenda, START).len(), 1);
    }

    #[test]
    fn periods_do_not_drift_and_whole_ones_are_left_out() {
        for (late, next) in [(0, 100), (1, 100), (99, 100), (100, 200), (101, 200), (250, 300), (1_000, 1_100)] {
            assert_eq!(due_again(START, 100 * MS, START + late * MS), START + next * MS, "{late} ms late");
        }
        // A thousand runs, each some time late: the thousandth is due after exactly a thousand periods.
        let mut due = START;
        for run in 0..1_000 {
            due = due_again(due, 100 * MS, due + (run * 37 % 100) * MS);
        }
        assert_eq!(due, START + 1_000 * 100 * MS);
    }

    #[test]
    fn a_cancelled_task_leaves_nothing_behind() {
        let mut agenda = Agenda::default();
        let waiting = agenda.insert(START + MS, MS, task());
        assert!(agenda.cancel(waiting).is_some());
        assert!(agenda.cancel(waiting).is_none());
        assert!(is_bare(&agenda));
        // Cancelled while it runs: it is not put back.
        let running = agenda.insert(START, MS, task());
        let taken = take(&mut agenda, START).pop().unwrap();
        assert!(agenda.cancel(running).is_none());
        assert_eq!(agenda.put_back(vec![ran(taken, START, Next::Again)]).len(), 1);
        assert!(is_bare(&agenda));
    }

    #[test]
    fn after_the_stop_old_ids_are_nobodys() {
        let mut agenda = Agenda::default();
        let ids = [START, START, START + MS].map(|due| agenda.insert(due, MS, task()));
        let out = take(&mut agenda, START);
        assert_eq!((out.len(), agenda.stop().len()), (2, 1));
        assert!(ids.iter().all(|id| agenda.cancel(*id).is_none()));
        assert_eq!(agenda.put_back(out.into_iter().map(|taken| ran(taken, START, Next::Again)).collect()).len(), 2);
        assert!(is_bare(&agenda) && agenda.is_stopped);
        assert_eq!(agenda.lateness().count, 2);
    }

    #[test]
    fn a_task_that_stops_is_returned_to_be_dropped() {
        let mut agenda = Agenda::default();
        agenda.insert(START, MS, task());
        let taken = take(&mut agenda, START).pop().unwrap();
        assert_eq!(agenda.put_back(vec![ran(taken, START, Next::Stop)]).len(), 1);
        assert!(is_bare(&agenda));
    }

    /// Tasks come, go on, stop, panic and are cancelled at random, also while they run; a plain list says what is due.
    #[test]
    fn no_task_is_mistaken_for_another_that_had_its_place() {
        let (mut agenda, mut list, mut gone) = (Agenda::default(), BTreeMap::new(), Vec::new());
        for now in 0..5_000 {
            for _ in 0..random(3) {
                let (due, period) = (now + random(100), 1 + random(100));
                list.insert(agenda.insert(due, period, task()), (due, period));
            }
            let all: Vec<u64> = list.keys().chain(&gone).copied().collect();
            if let Some(id) = all.get(random(2 * all.len() as u64 + 1) as usize) {
                assert_eq!(agenda.cancel(*id).is_some(), list.remove(id).is_some());
            }
            let mut due: Vec<_> = list.iter().filter(|(_, (due, _))| *due <= now).map(|(id, at)| (at.0, *id)).collect();
            due.sort_unstable();
            let taken = take(&mut agenda, now);
            assert!(taken.iter().map(|taken| (taken.due, taken.id)).eq(due));
            let ran = taken.into_iter().map(|Taken { id, due, task: taken }| {
                let (_, period) = list[&id];
                let (outcome, is_cancelled) = (random(4), random(4) == 0);
                if is_cancelled {
                    assert!(agenda.cancel(id).is_none(), "it runs");
                    let (due, period) = (now + 1 + random(100), 1 + random(100)); // gets its place at once
                    list.insert(agenda.insert(due, period, task()), (due, period));
                }
                if outcome > 1 && !is_cancelled {
                    list.insert(id, (due_again(due, period, now), period));
                } else {
                    list.remove(&id);
                    gone.push(id);
                }
                let after = [None, Some(Next::Stop), Some(Next::Again), Some(Next::Again)][outcome as usize];
                Ran { id, due, started: now, after: after.map(|next| (next, taken)) }
            });
            let ran = ran.collect();
            agenda.put_back(ran);
            assert_eq!(agenda.len(), list.len());
        }
        assert!(gone.len() > 1_000 && agenda.places.len() < gone.len(), "places were used again");
        list.keys().for_each(|id| assert!(agenda.cancel(*id).is_some()));
        assert!(is_bare(&agenda));
    }

    #[test]
    fn lateness_is_summed_over_all_and_ranked_over_the_last() {
        let millis = Duration::from_millis;
        let mut samples = Samples::default();
        (0..1_000).for_each(|_| samples.add(1_000 * MS));
        (1..=512).for_each(|ms| samples.add(ms * MS));
        let summary = samples.summary();
        assert_eq!((summary.count, summary.median, summary.p99), (1_512, millis(256), millis(506)));
        assert_eq!(summary.sum, millis(1_000 * 1_000 + 512 * 513 / 2));
        assert_eq!(Samples::default().summary(), Lateness::default());
    }
}
