//! Timed streams: thousands of clocks with a period of their own each, how late their ticks come, whether they
//! drift, and what a tick costs the server.
//!
//! `/demo/clock?interval=` is the endless one among the scenes: as much work for a tick as any of them. A stream's
//! due times are a grid; the server is never early, so the grid is where its earliest tick was, and every other
//! tick's distance to it is its lateness, the client's own included.

use std::time::{Duration, Instant};

use crate::client::{Crowd, Result};
use crate::figures::{
    Figure, Noise, Pairs, Table, Target, Value, largest, median, micros, percentile, smallest, spread,
};
use crate::plan::Plan;
use crate::probe::Watch;
use crate::server::Server;

const PERIOD: Duration = Duration::from_millis(100);
/// Until the opening of the streams is no part of the measurement any more.
const SETTLE: Duration = Duration::from_secs(1);
/// Ticks at each end of a drift measurement, of which the earliest counts: what is late by chance falls out.
const ENDS: usize = 50;

/// All ticks of one stream, as distances in microseconds from a grid that begins with the measurement.
type Ticks = Vec<f64>;

struct Paced {
    period: f64,
    /// Ticks that a stream has at least, unless it skipped some.
    due: usize,
    ticks: Vec<Ticks>,
    cpu: Duration,
    bytes: u64,
}

impl Paced {
    fn count(&self) -> usize {
        self.ticks.iter().map(Vec::len).sum()
    }

    /// A clock that fell behind by a whole period skips a tick, as it should; it happens on a machine that is too
    /// busy for the measurement.
    fn skipped(&self) -> usize {
        self.ticks.iter().map(|ticks| self.due.saturating_sub(ticks.len())).sum()
    }

    fn cpu_per_tick(&self) -> f64 {
        micros(self.cpu) / self.count() as f64
    }

    fn frame_bytes(&self) -> usize {
        self.bytes as usize / self.count().max(1)
    }

    /// Of each tick; a skipped one counts as late by its period.
    fn lateness(&self) -> Vec<f64> {
        let mut late = vec![self.period; self.skipped()];
        for ticks in &self.ticks {
            let grid = smallest(ticks);
            let has_skipped = ticks.len() < self.due;
            late.extend(
                ticks.iter().map(|tick| tick - grid).map(|late| if has_skipped { late % self.period } else { late }),
            );
        }
        late
    }

    /// How far each grid has moved between its first ticks and its last, the farthest of all. Skipping does not
    /// leave the grid.
    fn drift(&self) -> f64 {
        let moved = |ticks: &Ticks| {
            let ends = ENDS.min(ticks.len());
            let moved = smallest(&ticks[ticks.len() - ends..]) - smallest(&ticks[..ends]);
            (moved - (moved / self.period).round() * self.period).abs()
        };
        largest(&self.ticks.iter().map(moved).collect::<Vec<f64>>())
    }
}

fn listen(server: &Server, streams: usize, period: Duration, window: Duration) -> Result<Paced> {
    let path = format!("/demo/clock?interval={}ms", period.as_millis());
    let mut crowd = Crowd::gather(server.address, streams, |_| path.clone())?;
    crowd.listen(SETTLE, |_| {})?;
    let (cpu, bytes, begun) = (server.cpu()?, crowd.tally().bytes, Instant::now());
    let mut ticks = vec![Vec::new(); streams];
    crowd.listen(window, |arrival| {
        let of_stream: &mut Ticks = &mut ticks[arrival.stream];
        let on_grid = period * of_stream.len() as u32;
        of_stream.push(micros(arrival.at - begun) - micros(on_grid));
    })?;
    let (cpu, tally) = (server.cpu()? - cpu, crowd.tally());
    if tally.closed > 0 {
        return Err(format!("{} of {streams} endless streams were closed", tally.closed).into());
    }
    let due = (window.as_secs_f64() / period.as_secs_f64()) as usize - 1;
    Ok(Paced { period: micros(period), due, ticks, cpu, bytes: tally.bytes - bytes })
}

/// Lateness and CPU at each size. The two cannot run side by side, as both would want the processor all the time,
/// so they take turns as a whole.
pub fn sizes(plan: &Plan, table: &mut Table) -> Result<()> {
    for &streams in &plan.paced {
        let measure = || {
            let watch = Watch::start(&[])?;
            let (mut cpu, mut late, mut delivered, mut skipped) = (Pairs::default(), Pairs::default(), 0, 0);
            for _ in 0..plan.runs {
                let ours = listen(&Server::demo()?, streams, PERIOD, plan.paced_window)?;
                let floor = Server::bare_paced(ours.frame_bytes(), PERIOD)?;
                let bare = listen(&floor, streams, PERIOD, plan.paced_window)?;
                cpu.push(ours.cpu_per_tick(), bare.cpu_per_tick());
                late.push(percentile(&ours.lateness(), 99), percentile(&bare.lateness(), 99));
                delivered += ours.count() as u64;
                skipped += ours.skipped();
            }
            let noise = Noise { spread: spread(&cpu.bare), weather: watch.end(&[])? };
            Ok(((cpu, late, delivered, skipped), noise))
        };
        let ((cpu, late, delivered, skipped), noise) = plan.calmly(table, measure)?;
        table.delivered(delivered);
        let name = |what: &str| format!("{streams} clocks at 100 ms: {what}");
        table.add(Figure::pairs(name("CPU per event"), &cpu, "us").target(Target::Ratio(1.25)).noise(noise));
        let millis = Value(median(&late.ours) / 1e3, "ms");
        let figure = Figure::new(name("lateness, 99th percentile"), millis).target(Target::AtMost(Value(5.0, "ms")));
        table.add(Figure { bare: Some(Value(median(&late.bare) / 1e3, "ms")), ..figure });
        note_skipped(table, skipped);
    }
    Ok(())
}

/// How far the clocks are off after many ticks, with the most streams.
pub fn drift(plan: &Plan, table: &mut Table) -> Result<()> {
    let (period, ticks) = plan.drift;
    let streams = plan.paced.last().copied().unwrap_or(100).min(period.as_millis() as usize * 50);
    let window = period * (ticks + ENDS + 1) as u32;
    let measured = listen(&Server::demo()?, streams, period, window)?;
    table.delivered(measured.count() as u64);
    let name = format!("{streams} clocks at {period:?}: drift after {ticks} ticks, the worst");
    let drift = Value(measured.drift() / 1e3, "ms");
    table.add(Figure::new(name, drift).target(Target::AtMost(Value(1.0, "ms"))));
    note_skipped(table, measured.skipped());
    Ok(())
}

fn note_skipped(table: &Table, ticks: usize) {
    if ticks > 0 {
        table.note(format_args!("{ticks} ticks were skipped, the machine being too busy: late by a period each"));
    }
}
