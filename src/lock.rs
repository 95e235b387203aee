//! One function: how this crate takes a lock. One that is poisoned is taken over, because what it guards is whole
//! between any two lines that could panic; so one panic never stops the hub.
//!
//! In the unit tests' races whoever takes a lock dawdles at random, before it and with it in hand: that is where one
//! thread can come between two steps of another.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock, poisoned or not.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(test)]
    race::dawdle();
    let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    #[cfg(test)]
    race::dawdle();
    guard
}

#[cfg(test)]
pub(crate) mod race {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    static RACES: AtomicUsize = AtomicUsize::new(0);
    /// Threads that have a seed.
    static SEEDED: AtomicUsize = AtomicUsize::new(0); // not every processor has 64 bits of these

    thread_local! {
        static RANDOM: Cell<u64> = Cell::new((SEEDED.fetch_add(1, Ordering::Relaxed) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }

    /// A number of the thread's own, from 0 to below `end`.
    pub(crate) fn random(end: u64) -> u64 {
        RANDOM.set(RANDOM.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        (RANDOM.get() >> 33) % end
    }

    /// Runs a race, with dawdling: a few times, or as often as `TIDINGS_RUNS` says.
    pub(crate) fn run(race: impl Fn()) {
        struct Over;
        impl Drop for Over {
            fn drop(&mut self) {
                RACES.fetch_sub(1, Ordering::Relaxed);
            }
        }
        RACES.fetch_add(1, Ordering::Relaxed);
        let _over = Over;
        let runs = std::env::var("TIDINGS_RUNS").map_or(3, |runs| runs.parse().expect("a number"));
        (0..runs).for_each(|_| race());
    }

    /// One time in eight it lets others go first, one time in thirty-two for long.
    pub(super) fn dawdle() {
        if RACES.load(Ordering::Relaxed) == 0 {
            return;
        }
        match random(32) {
            0 => std::thread::sleep(Duration::from_micros(random(300))),
            1..=3 => std::thread::yield_now(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poisoned_lock_is_taken_over() {
        let mutex = Mutex::new(7);
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _guard = lock(&mutex);
                    panic!("with the lock in hand");
                })
                .join()
        });
        assert!(panicked.is_err() && mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 7);
    }
}
