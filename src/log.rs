//! The log: lines through a bounded queue to a thread of its own, so that nobody ever waits for a disk or a terminal.
//! What does not fit is lost, and counted in the log itself.

use crate::lock;
use crate::shield::shielded;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines on their way: some seconds' worth of a busy server, in 100 KB and, if somebody asks for long paths, half a
/// megabyte.
const LINES: usize = 1024;

/// Room for most lines, in bytes.
const USUAL_LINE: usize = 128;

/// The server's log, for lines of one's own: they go to [`Config::log`](crate::Config::log). From
/// [`Server::log`](crate::Server::log); clones are the same log.
///
/// ```
/// # fn main() -> tidings::Result<()> {
/// # let server = tidings::Server::bind("127.0.0.1:0", tidings::Config::default())?;
/// server.log().line(format_args!("serves {} pages", 7));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Log {
    /// None where nobody reads.
    shared: Option<Arc<Shared>>,
}

struct Shared {
    /// Guards the lines. The thread waits for `changed`, which tells it of a line or of the stop; who stops the log waits
    /// for it too, until the thread is through.
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    queue: VecDeque<String>,
    lost: usize,
    is_stopped: bool,
    is_written: bool,
}

impl Log {
    /// Starts a thread that gives each line to `write`. Without it, lines go nowhere.
    pub(crate) fn start(write: Option<fn(&str)>) -> io::Result<Log> {
        let Some(write) = write else { return Ok(Log { shared: None }) };
        let shared = Arc::new(Shared { lines: Mutex::default(), changed: Condvar::new() });
        let own = shared.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || own.run(write))?;
        Ok(Log { shared: Some(shared) })
    }

    /// Logs a line. It never waits, and `format_args!` costs nothing where nobody reads.
    pub fn line(&self, line: impl fmt::Display) {
        let Some(shared) = &self.shared else { return };
        let mut text = String::with_capacity(USUAL_LINE);
        // Written before the lock is taken, because it is the caller's code. What it could not say is missing.
        let _ = write!(text, "{line}");
        let mut lines = shared.lock();
        if lines.queue.len() < LINES {
            lines.queue.push_back(text);
            shared.changed.notify_all();
        } else {
            lines.lost += 1;
        }
    }

    /// Ends the thread, and waits until all is written, but not for long: a full pipe must not keep the process.
    pub(crate) fn stop(&self, limit: Duration) {
        let Some(shared) = &self.shared else { return };
        let mut lines = shared.lock();
        lines.is_stopped = true;
        shared.changed.notify_all();
        drop(shared.changed.wait_timeout_while(lines, limit, |lines| !lines.is_written));
    }
}

impl Shared {
    fn run(&self, write: fn(&str)) {
        while let Some((line, lost)) = self.next() {
            // Whoever writes may panic, and loses that line alone.
            let _ = shielded(|| {
                if lost > 0 {
                    write(&format!("{lost} lines of this log were lost"));
                }
                write(&line);
            });
        }
    }

    /// Waits for a line, and says how many were lost before it; none after the stop.
    fn next(&self) -> Option<(String, usize)> {
        let waited = self.changed.wait_while(self.lock(), |lines| lines.queue.is_empty() && !lines.is_stopped);
        let mut lines = waited.unwrap_or_else(PoisonError::into_inner);
        let line = lines.queue.pop_front();
        if line.is_none() {
            lines.is_written = true;
            self.changed.notify_all();
        }
        Some((line?, std::mem::take(&mut lines.lost)))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        lock::lock(&self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_blocks_nobody_and_loses_lines_that_are_counted() {
        static GATE: Mutex<()> = Mutex::new(());
        static WRITTEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let gate = GATE.lock().unwrap();
        let log = Log::start(Some(|line| {
            drop(GATE.lock());
            WRITTEN.lock().unwrap().push(line.to_owned());
        }))
        .unwrap();
        // One more than is queued may be with the thread already.
        (0..LINES + 11).for_each(|n| log.line(n));
        log.stop(Duration::from_millis(1)); // does not wait for the gate
        drop(gate);
        log.stop(Duration::from_secs(10));
        let written = WRITTEN.lock().unwrap();
        let lost: Vec<_> = written.iter().filter(|line| line.ends_with("lines of this log were lost")).collect();
        // Once or twice: the thread may come to its first line when some were lost already.
        assert!((1..=2).contains(&lost.len()), "{lost:?}");
        let numbers = lost.iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap());
        assert_eq!(written.len() - lost.len() + numbers.sum::<usize>(), LINES + 11);
    }

    #[test]
    fn nobody_makes_a_line_that_nobody_reads() {
        struct Made;
        impl fmt::Display for Made {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                unreachable!("made for nobody")
            }
        }
        Log::start(None).unwrap().line(Made);
    }
}
