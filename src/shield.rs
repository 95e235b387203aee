//! One function: the wall between this crate's threads and other people's code. A closure, an iterator or a destructor
//! of a user's may panic, and that must end no more than what it belongs to.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `run` returns, or None if it panicked.
///
/// The payload of the panic is leaked: it is the user's too, and its destructor could panic again. In a program that is
/// built to abort at a panic this wall does not exist.
pub(crate) fn shielded<T>(run: impl FnOnce() -> T) -> Option<T> {
    // Unwind-safe because everything of this crate that a panic can interrupt is either dropped or behind a lock that
    // is taken over when poisoned, and no lock is held over the code of others.
    catch_unwind(AssertUnwindSafe(run)).map_err(std::mem::forget).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stays_inside_and_so_does_that_of_its_payload() {
        struct Payload;
        impl Drop for Payload {
            fn drop(&mut self) {
                panic!("a payload was dropped");
            }
        }
        assert_eq!(shielded(|| 7), Some(7));
        assert_eq!(shielded(|| std::panic::panic_any(Payload)), None::<()>);
    }
}
