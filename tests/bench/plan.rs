//! How much is measured: the whole, or the quick form, which is the same figures with fewer streams and shorter
//! windows; and the order in which they are taken.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Result;
use crate::figures::{Noise, Table};
use crate::{crowd, fanout, paced, program, sys};

/// As many open files as the figures are asked for with; 10,000 streams have one descriptor at each end.
const OPEN_FILES: usize = 20_000;
/// Descriptors of this process that are no stream.
const OTHER_FILES: usize = 64;
/// What else ran may be over by then.
const CALM_DOWN: Duration = Duration::from_secs(5);

pub struct Plan {
    /// Interleaved runs of each figure, of which the median counts.
    pub runs: usize,
    /// How often a figure is measured at most, when it was too noisy to trust.
    pub attempts: usize,
    /// Turns that each side takes in a run.
    pub slices: usize,
    /// Subscribers, for the ratio to the bare loop.
    pub fan_out: Vec<usize>,
    /// Subscribers, for how the cost grows.
    pub growth: Vec<usize>,
    /// Streams with a clock each.
    pub paced: Vec<usize>,
    pub paced_window: Duration,
    /// The period and the ticks over which drift is measured.
    pub drift: (Duration, usize),
    pub idle: usize,
    pub idle_window: Duration,
    /// Clients that connect at once.
    pub rush: usize,
    /// Repetitions of what is quick: starts, closed clients.
    pub repeats: usize,
    pub build: Build,
}

/// Whether the clean build is timed; it takes as long as it takes.
#[derive(PartialEq)]
pub enum Build {
    Timed,
    Left,
}

impl Plan {
    fn full() -> Plan {
        Plan {
            runs: 5,
            attempts: 3,
            slices: 8,
            fan_out: vec![100, 1_000, 5_000],
            growth: vec![100, 1_000, 5_000, 10_000],
            paced: vec![100, 1_000, 5_000],
            paced_window: Duration::from_secs(4),
            drift: (Duration::from_millis(100), 1_000),
            idle: 10_000,
            idle_window: Duration::from_secs(45),
            rush: 5_000,
            repeats: 200,
            build: Build::Timed,
        }
    }

    fn quick() -> Plan {
        Plan {
            runs: 3,
            attempts: 1,
            slices: 1,
            fan_out: vec![100, 1_000],
            growth: vec![100, 1_000],
            paced: vec![500],
            paced_window: Duration::from_secs(1),
            drift: (Duration::from_millis(10), 200),
            idle: 1_000,
            idle_window: Duration::from_secs(2),
            rush: 1_000,
            repeats: 20,
            build: Build::Left,
        }
    }

    /// Keeps within the open files that one may have; says so, if that changes anything.
    fn fit(&mut self, open_files: usize, table: &Table) {
        let room = open_files.saturating_sub(OTHER_FILES);
        let before = (self.fan_out.clone(), self.growth.clone(), self.paced.clone(), self.idle, self.rush);
        // Both sides of a comparison are connected at the same time, and so are all sizes of the growth.
        self.fan_out.retain(|size| 2 * size <= room);
        while self.growth.iter().sum::<usize>() > room {
            self.growth.pop();
        }
        self.paced.retain(|size| *size <= room);
        self.idle = self.idle.min(room);
        self.rush = self.rush.min(room);
        if before != (self.fan_out.clone(), self.growth.clone(), self.paced.clone(), self.idle, self.rush) {
            table.note(format_args!("{open_files} open files allowed: the larger sizes are left out or made smaller"));
        }
    }

    /// Measures again while it was too noisy to trust, a bounded number of times; the quietest counts.
    pub fn calmly<T>(&self, table: &Table, mut measure: impl FnMut() -> Result<(T, Noise)>) -> Result<(T, Noise)> {
        let mut quietest = measure()?;
        for _ in 1..self.attempts {
            if !quietest.1.is_too_much() {
                break;
            }
            table.note(format_args!("noisy, measured again: {}", quietest.1));
            thread::sleep(CALM_DOWN);
            let again = measure()?;
            if again.1.level() < quietest.1.level() {
                quietest = again;
            }
        }
        Ok(quietest)
    }
}

type Measure = fn(&Plan, &mut Table) -> Result<()>;

const FIGURES: [(&str, Measure); 15] = [
    ("fan-out", fanout::sizes),
    ("null", fanout::null),
    ("topics", fanout::ten_topics),
    ("batch", fanout::batch),
    ("stalled", fanout::stalled),
    ("growth", fanout::growth),
    ("many-topics", fanout::many_topics),
    ("paced", paced::sizes),
    ("drift", paced::drift),
    ("idle", crowd::idle),
    ("behind", crowd::behind),
    ("closed", crowd::closed),
    ("rush", crowd::rush),
    ("start", program::start),
    ("build", program::build),
];

/// Takes the figures whose names contain one of the words, or all of them. Other options are cargo's own.
///
/// `cargo bench` passes `--bench`. Without it this was started by `cargo test --benches`, which asks whether it
/// runs and not for minutes of figures.
pub fn run(arguments: &[String]) -> ExitCode {
    let has = |option: &str| arguments.iter().any(|argument| argument == option);
    if !has("--bench") && !has("--quick") {
        println!("no figures without --bench or --quick: run cargo bench");
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut table = Table::default();
    let mut plan = if has("--quick") { Plan::quick() } else { Plan::full() };
    match sys::raise_open_files(OPEN_FILES) {
        Ok(open_files) => plan.fit(open_files, &table),
        Err(error) => table.note(format_args!("the limit of open files stays as it is: {error}")),
    }
    let begun = Instant::now();
    table.head();
    for (name, measure) in FIGURES {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            measure(&plan, &mut table).unwrap_or_else(|error| table.failed(name, error.as_ref()));
        }
    }
    table.end(begun.elapsed());
    if table.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
