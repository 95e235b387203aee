//! The scheduler: one thread that runs things when they are due.
//!
//! What is due and when is known by the [`Agenda`], which this room guards and asks. The thread sleeps until the first task
//! is due, or until 1 ms after its last wake, whichever is later: never early, and tasks that are close to each other share
//! a wake-up. Nothing of a user's (a closure, its destructor) runs under the lock.

use crate::agenda::{Agenda, BATCH, Lateness, MAX_TASKS, Nanos, Next, Ran, Taken, Task};
use crate::error::{Error, Result};
use crate::lock;
use crate::os;
use crate::shield::shielded;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest delay or period. A year is beyond any use and far from where adding it to a time could overflow.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The shortest period, and the least time between two wakes.
const TICK: Duration = Duration::from_millis(1);

/// Runs closures later, or again and again, on the server's one scheduler thread. From
/// [`Server::scheduler`](crate::Server::scheduler).
///
/// A closure that blocks makes the others late: hand long work to a thread of its own. How late they are is told by
/// [`Counts::lateness`](crate::Counts::lateness). A closure that panics is dropped, and nothing else is harmed.
///
/// ```
/// # fn main() -> tidings::Result<()> {
/// # let server = tidings::Server::bind("127.0.0.1:0", tidings::Config::default())?;
/// use std::time::Duration;
/// let scheduler = server.scheduler();
/// scheduler.once(Duration::from_secs(240), || { /* the tea is ready */ })?.detach();
/// let ticking = scheduler.every(Duration::from_secs(1), || { /* the clock ticks */ })?;
/// drop(ticking); // and now it does not
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    /// The agenda's time counts from here.
    began: Instant,
    /// Guards all tasks. The thread waits for `changed`, which tells it of a task that is due earlier than what it
    /// sleeps for, and of the stop.
    agenda: Mutex<Agenda>,
    changed: Condvar,
}

impl Scheduler {
    /// Runs `run` once, after `delay`.
    ///
    /// # Errors
    ///
    /// If the delay is over 366 days, there are 65,536 timers already, or the server has stopped.
    pub fn once(&self, delay: Duration, run: impl FnOnce() + Send + 'static) -> Result<Timer> {
        let mut run = Some(run);
        let task = move |_: Instant| {
            if let Some(run) = run.take() {
                run();
            }
            Next::Stop
        };
        self.add(delay, TICK, Box::new(task))
    }

    /// Runs `run` each `period` (at least 1 ms), the first time after one period. When the machine falls behind, whole
    /// periods are left out.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::once`].
    pub fn every(&self, period: Duration, mut run: impl FnMut() + Send + 'static) -> Result<Timer> {
        let task = move |_: Instant| {
            run();
            Next::Again
        };
        self.repeat(period, Box::new(task))
    }

    pub(crate) fn repeat(&self, period: Duration, task: Box<dyn Task>) -> Result<Timer> {
        let period = period.max(TICK);
        self.add(period, period, task)
    }

    fn add(&self, delay: Duration, period: Duration, task: Box<dyn Task>) -> Result<Timer> {
        if delay > MAX_DURATION {
            return Err(Error::invalid("a delay or a period is at most 366 days"));
        }
        let due = self.shared.since_began(Instant::now()) + nanos(delay);
        let mut agenda = self.shared.lock();
        if agenda.is_stopped || agenda.len() >= MAX_TASKS {
            let rule = if agenda.is_stopped { "the server has stopped" } else { "there are 65,536 timers already" };
            drop(agenda); // `task` is dropped behind the lock
            return Err(Error::invalid(rule));
        }
        let is_first = agenda.next_due().is_none_or(|first| due < first);
        let id = agenda.insert(due, nanos(period), task);
        drop(agenda);
        if is_first {
            self.shared.changed.notify_one();
        }
        Ok(Timer { shared: Some(self.shared.clone()), id })
    }

    /// Starts the thread, which lives until [`Scheduler::stop`].
    pub(crate) fn start() -> io::Result<Scheduler> {
        let shared = Arc::new(Shared { began: Instant::now(), agenda: Mutex::default(), changed: Condvar::new() });
        let own = shared.clone();
        std::thread::Builder::new().name("scheduler".into()).spawn(move || own.run())?;
        Ok(Scheduler { shared })
    }

    /// Drops all tasks and ends the thread.
    pub(crate) fn stop(&self) {
        let left = self.shared.lock().stop();
        self.shared.changed.notify_one();
        left.into_iter().for_each(drop_quietly);
    }

    pub(crate) fn lateness(&self) -> Lateness {
        self.shared.lock().lateness()
    }
}

/// A timer's handle: dropping it cancels the timer at once. A run that has begun may finish.
#[must_use = "a dropped timer is cancelled; `detach` lets it go on by itself"]
pub struct Timer {
    shared: Option<Arc<Shared>>,
    id: u64,
}

impl Timer {
    /// Lets the timer go on without a handle, until it has run or the server stops.
    pub fn detach(mut self) {
        self.shared = None;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            let task = shared.lock().cancel(self.id);
            drop(task); // behind the lock
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Agenda> {
        lock::lock(&self.agenda)
    }

    fn run(&self) {
        let mut batch: Vec<Taken> = Vec::with_capacity(BATCH);
        let mut earliest = 0;
        while let Some(now) = self.sleep_until_due(earliest) {
            earliest = now + nanos(TICK);
            loop {
                self.lock().take_due(now, &mut batch);
                if batch.is_empty() {
                    break;
                }
                // First all tasks, then what they refer to: their ways from memory overlap.
                batch.iter().for_each(|taken| os::prefetch(&*taken.task));
                batch.iter().for_each(|taken| taken.task.prefetch());
                let ran: Vec<Ran> = batch.drain(..).map(|taken| self.run_shielded(taken)).collect();
                let over = self.lock().put_back(ran);
                over.into_iter().for_each(drop_quietly);
            }
        }
    }

    /// Runs a task without the lock.
    fn run_shielded(&self, Taken { id, due, mut task }: Taken) -> Ran {
        let now = Instant::now();
        let after = shielded(move || (task.run(now), task));
        Ran { id, due, started: self.since_began(now), after }
    }

    fn since_began(&self, now: Instant) -> Nanos {
        nanos(now - self.began)
    }

    /// Sleeps until a task is due, but not less than until `earliest`. `None` is the stop.
    fn sleep_until_due(&self, earliest: Nanos) -> Option<Nanos> {
        let mut agenda = self.lock();
        loop {
            if agenda.is_stopped {
                return None;
            }
            let now = self.since_began(Instant::now());
            let wake = agenda.next_due().map(|due| due.max(earliest));
            agenda = match wake {
                Some(wake) if wake <= now => return Some(now),
                Some(wake) => {
                    let waited = self.changed.wait_timeout(agenda, Duration::from_nanos(wake - now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(agenda).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

fn nanos(duration: Duration) -> Nanos {
    duration.as_nanos() as Nanos // 584 years: no delay is longer than one of them, and no server runs for so many
}

/// Drops what is left of a task. Its captures may have destructors that panic, and those must not end the thread.
fn drop_quietly(task: Box<dyn Task>) {
    let _ = shielded(|| drop(task));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::race;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn runs_once_and_never_early() {
        let scheduler = Scheduler::start().unwrap();
        let (told, tells) = mpsc::channel();
        // A delay begins within its own call: each is due from the first of these to the second.
        let due = [30, 5, 17].map(|ms| {
            let (told, before) = (told.clone(), Instant::now());
            scheduler.once(ms * MS, move || told.send((ms, Instant::now())).unwrap()).unwrap().detach();
            (ms, before + ms * MS, Instant::now() + ms * MS)
        });
        let ran = [(); 3].map(|()| tells.recv_timeout(Duration::from_secs(10)).unwrap());
        for (ms, earliest, _) in due {
            assert!(ran.iter().any(|(ran, at)| *ran == ms && *at >= earliest), "{ms} ms came early: {ran:?}");
        }
        for pair in ran.windows(2) {
            let [first, second] = [0, 1].map(|at| due.iter().find(|(ms, ..)| *ms == pair[at].0).unwrap());
            assert!(first.1 <= second.2, "{} ms came before {} ms", first.0, second.0);
        }
        scheduler.stop();
        assert!(scheduler.once(MS, || ()).is_err(), "nothing is taken after the stop");
    }

    #[test]
    fn a_dropped_timer_runs_no_more() {
        let scheduler = Scheduler::start().unwrap();
        let (told, tells) = mpsc::channel();
        let timer = scheduler.every(MS, move || told.send(()).unwrap()).unwrap();
        tells.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(timer);
        // The closure, and its sender with it, is gone as soon as a run that had begun is over.
        while tells.recv_timeout(Duration::from_secs(10)) != Err(mpsc::RecvTimeoutError::Disconnected) {}
        scheduler.stop();
    }

    #[test]
    fn a_panic_drops_its_task_and_harms_no_other() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                assert!(std::thread::panicking(), "a destructor that panics by itself");
            }
        }
        let scheduler = Scheduler::start().unwrap();
        let (told, tells) = mpsc::channel();
        let bomb = Bomb;
        scheduler
            .once(MS, move || {
                let _bomb = &bomb;
                panic!("on purpose")
            })
            .unwrap()
            .detach();
        let bomb = Bomb;
        scheduler.once(MS, move || _ = &bomb).unwrap().detach();
        scheduler.once(5 * MS, move || told.send(()).unwrap()).unwrap().detach();
        tells.recv_timeout(Duration::from_secs(10)).unwrap();
        scheduler.stop();
    }

    #[test]
    fn durations_and_their_number_are_bounded() {
        let scheduler = Scheduler::start().unwrap();
        assert!(scheduler.once(MAX_DURATION + MS, || ()).is_err());
        assert!(scheduler.every(Duration::MAX, || ()).is_err());
        let timers: Vec<_> = (0..MAX_TASKS).map(|_| scheduler.once(MAX_DURATION, || ()).unwrap()).collect();
        assert!(scheduler.once(MS, || ()).is_err());
        drop(timers);
        assert!(scheduler.every(Duration::ZERO, || ()).is_ok());
        scheduler.stop();
    }

    /// Many threads make, keep, drop and cancel timers at random while they run; at the end nothing is left.
    #[test]
    fn timers_come_and_go_from_many_threads() {
        race::run(timers_come_and_go);
    }

    fn timers_come_and_go() {
        let scheduler = Scheduler::start().unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (scheduler, runs) = (&scheduler, &runs);
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for _ in 0..1_000 {
                        let runs = runs.clone();
                        let count = move || {
                            runs.fetch_add(1, Ordering::Relaxed);
                        };
                        let period = Duration::from_micros(race::random(3_000));
                        kept.push(match race::random(4) {
                            0 => scheduler.once(period, count).unwrap(),
                            _ => scheduler.every(period, count).unwrap(),
                        });
                        if kept.len() > 50 {
                            drop(kept.swap_remove(race::random(50) as usize));
                        }
                    }
                });
            }
        });
        assert!(runs.load(Ordering::Relaxed) > 0);
        // A run may be under way while its timer is dropped; it is forgotten when it ends.
        let until = Instant::now() + Duration::from_secs(10);
        while scheduler.shared.lock().len() > 0 {
            assert!(Instant::now() < until);
            std::thread::sleep(MS);
        }
        assert_eq!(scheduler.shared.lock().next_due(), None);
        scheduler.stop();
        // What had run is dropped by the thread, behind the lock.
        while Arc::strong_count(&runs) > 1 {
            assert!(Instant::now() < until, "a closure is left");
            std::thread::sleep(MS);
        }
    }

    /// A timer that is kept runs; one that was dropped before it was due does not, nor one that is stopped; each at most
    /// once, and never early. Its closure goes once, whoever gets there first.
    #[test]
    fn whoever_comes_first_a_closure_runs_at_most_once_and_goes_once() {
        race::run(race_for_closures);
    }

    fn race_for_closures() {
        const EACH: usize = 200;
        struct Closure {
            gone: Arc<AtomicUsize>,
            ran: Arc<AtomicUsize>,
        }
        impl Drop for Closure {
            fn drop(&mut self) {
                self.gone.fetch_add(1, Ordering::SeqCst);
            }
        }
        let scheduler = Scheduler::start().unwrap();
        let all: Vec<_> = (0..3 * EACH).map(|_| <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default()).collect();
        let refused = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for own in all.chunks(EACH) {
                let (scheduler, refused) = (&scheduler, &refused);
                scope.spawn(move || {
                    for (gone, ran) in own {
                        let closure = Closure { gone: gone.clone(), ran: ran.clone() };
                        let delay = Duration::from_micros(race::random(2_000));
                        let due = Instant::now() + delay;
                        let run = move || {
                            assert!(Instant::now() >= due, "early");
                            closure.ran.fetch_add(1, Ordering::SeqCst);
                        };
                        match scheduler.once(delay, run) {
                            Ok(timer) if race::random(2) == 0 => drop(timer),
                            Ok(timer) => timer.detach(),
                            Err(_) => _ = refused.fetch_add(1, Ordering::SeqCst),
                        }
                        std::thread::sleep(Duration::from_micros(race::random(50)));
                    }
                });
            }
            // Most of them are through by then, or none is.
            std::thread::sleep(Duration::from_millis(race::random(50)));
            if race::random(3) == 0 {
                scheduler.stop();
            }
        });
        std::thread::sleep(3 * MS);
        scheduler.stop();
        let until = Instant::now() + Duration::from_secs(10);
        while all.iter().any(|(gone, _)| gone.load(Ordering::SeqCst) == 0) {
            assert!(Instant::now() < until, "a closure is left");
            std::thread::sleep(MS);
        }
        std::thread::sleep(3 * MS);
        for (gone, ran) in &all {
            assert_eq!(gone.load(Ordering::SeqCst), 1);
            assert!(ran.load(Ordering::SeqCst) <= 1);
        }
    }
}
