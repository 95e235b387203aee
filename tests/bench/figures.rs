//! Numbers and their table: medians, percentiles, how far runs lie apart, and one printed line for each figure as
//! soon as it is known.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::probe::Weather;

/// The middle value; of an even count the lower of the two, so that it is always one that was measured.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The smallest value that so many per cent of all values do not exceed.
pub fn percentile(values: &[f64], per_cent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * per_cent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

pub fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// How far the runs lie apart, as a share of their median.
pub fn spread(values: &[f64]) -> f64 {
    (largest(values) - smallest(values)) / median(values)
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The same figure from the server and from the bare loop, one pair for each run.
#[derive(Clone, Default)]
pub struct Pairs {
    pub ours: Vec<f64>,
    pub bare: Vec<f64>,
}

impl Pairs {
    pub fn push(&mut self, ours: f64, bare: f64) {
        self.ours.push(ours);
        self.bare.push(bare);
    }

    /// The median over the runs of the ratio within each run: what drifts from run to run falls out.
    pub fn ratio(&self) -> f64 {
        let ratios: Vec<f64> = self.ours.iter().zip(&self.bare).map(|(ours, bare)| ours / bare).collect();
        median(&ratios)
    }
}

/// Why a measurement is not to be trusted, if so.
pub struct Noise {
    /// How far the runs of the bare loop lie apart. The loop always does the same, so this is the machine's doing.
    pub spread: f64,
    pub weather: Weather,
}

impl Noise {
    const MOST_SPREAD: f64 = 0.15;
    const MOST_STOLEN: f64 = 0.05;
    const MOST_OTHERS: f64 = 0.15;

    pub fn is_too_much(&self) -> bool {
        self.level() > 1.0
    }

    /// The worst of the three as a share of its bound.
    pub fn level(&self) -> f64 {
        let Weather { stolen, others } = self.weather;
        (self.spread / Self::MOST_SPREAD).max(stolen / Self::MOST_STOLEN).max(others / Self::MOST_OTHERS)
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Weather { stolen, others } = self.weather;
        let [spread, stolen, others] = [self.spread, stolen, others].map(|share| share * 100.0);
        write!(f, "runs {spread:.0} % apart, {stolen:.0} % of a processor stolen, {others:.0} % used by others")
    }
}

/// A value with its unit, at a precision that suits its size.
#[derive(Clone, Copy)]
pub struct Value(pub f64, pub &'static str);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Value(value, unit) = *self;
        let digits = match value.abs() {
            size if size >= 100.0 || value.fract() == 0.0 => 0,
            size if size >= 10.0 => 1,
            size if size >= 0.1 => 2,
            _ => 3,
        };
        let text = format!("{value:.digits$} {unit}");
        f.pad(text.trim_end())
    }
}

/// What a figure has to reach.
#[derive(Clone, Copy)]
pub enum Target {
    /// Told for its own sake.
    None,
    /// The ratio to the bare loop, or to what the figure's name says, is at most so much.
    Ratio(f64),
    AtMost(Value),
    AtLeast(Value),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::None => f.pad("-"),
            Target::Ratio(most) => f.pad(&format!("ratio <= {most:.2}")),
            Target::AtMost(most) => f.pad(&format!("<= {most}")),
            Target::AtLeast(least) => f.pad(&format!(">= {least}")),
        }
    }
}

/// One line of the table.
pub struct Figure {
    pub name: String,
    pub target: Target,
    pub ours: Value,
    pub bare: Option<Value>,
    pub ratio: Option<f64>,
    pub noise: Option<Noise>,
}

impl Figure {
    pub fn new(name: impl Into<String>, ours: Value) -> Figure {
        Figure { name: name.into(), target: Target::None, ours, bare: None, ratio: None, noise: None }
    }

    /// The medians of paired runs and their ratio.
    pub fn pairs(name: impl Into<String>, pairs: &Pairs, unit: &'static str) -> Figure {
        let figure = Figure::new(name, Value(median(&pairs.ours), unit));
        Figure { bare: Some(Value(median(&pairs.bare), unit)), ratio: Some(pairs.ratio()), ..figure }
    }

    pub fn target(self, target: Target) -> Figure {
        Figure { target, ..self }
    }

    pub fn noise(self, noise: Noise) -> Figure {
        Figure { noise: Some(noise), ..self }
    }

    fn verdict(&self) -> &'static str {
        let reached = match self.target {
            Target::None => return "",
            Target::Ratio(most) => self.ratio.is_some_and(|ratio| ratio <= most),
            Target::AtMost(most) => self.ours.0 <= most.0,
            Target::AtLeast(least) => self.ours.0 >= least.0,
        };
        let is_noisy = self.noise.as_ref().is_some_and(Noise::is_too_much);
        match (reached, is_noisy) {
            (true, false) => "ok",
            (false, false) => "missed",
            (true, true) => "ok, noisy",
            (false, true) => "missed, noisy",
        }
    }
}

/// The table, printed line by line.
#[derive(Default)]
pub struct Table {
    figures: usize,
    missed: usize,
    noisy: usize,
    delivered: u64,
    /// Figures that could not be had.
    failed: usize,
}

impl Table {
    pub fn head(&self) {
        println!("{:<66} {:>14} {:>11} {:>11} {:>6}", "figure", "to reach", "tidings", "bare loop", "ratio");
    }

    pub fn add(&mut self, figure: Figure) {
        let verdict = figure.verdict();
        let bare = figure.bare.map_or(String::new(), |value| value.to_string());
        let ratio = figure
            .ratio
            .map_or(String::new(), |ratio| format!("{ratio:.digits$}", digits = if ratio < 0.1 { 3 } else { 2 }));
        let Figure { name, target, ours, noise, .. } = figure;
        println!("{name:<66} {target:>14} {ours:>11} {bare:>11} {ratio:>6}  {verdict}");
        self.figures += 1;
        self.missed += usize::from(verdict.starts_with("missed"));
        if let Some(noise) = noise.filter(Noise::is_too_much) {
            self.noisy += 1;
            println!("    not to be trusted: {noise}");
        }
    }

    /// A remark between the lines.
    pub fn note(&self, text: impl fmt::Display) {
        println!("    {text}");
    }

    /// Counts events that arrived as they should. Those that did not are an error of their figure.
    pub fn delivered(&mut self, events: u64) {
        self.delivered += events;
    }

    pub fn failed(&mut self, name: &str, error: &dyn Error) {
        println!("{name}: failed: {error}");
        self.failed += 1;
    }

    pub fn has_failed(&self) -> bool {
        self.failed > 0
    }

    pub fn end(&self, took: Duration) {
        let Table { figures, missed, noisy, delivered, failed } = self;
        let none_lost = if self.has_failed() { "" } else { ", none lost" };
        println!("{figures} figures in {took:.0?}: {missed} missed, {noisy} noisy, {failed} failed");
        println!("{delivered} events counted one by one{none_lost}");
    }
}
