//! What it costs to hand one event to many: server CPU for each delivered event, and how long the last subscriber
//! waits for it.
//!
//! A closed loop: the next event is published when everybody has the last. The bare loop and tidings take turns in
//! slices of a fraction of a second, so that whatever else the machine does falls on both. On loopback the kernel
//! charges the receiving side's work to the sender; as both have the same client, both carry the same burden.

use std::time::Duration;

use crate::client::{self, Arrival, Crowd, Reading, Result};
use crate::figures::{
    Figure, Noise, Pairs, Table, Target, Value, largest, median, micros, percentile, smallest, spread,
};
use crate::plan::Plan;
use crate::probe::Watch;
use crate::server::Server;
use crate::sys::Processors;

/// Bytes of data in an event, the same as in every figure published for other servers.
const EVENT_BYTES: usize = 64;
/// About what such an event is on the wire, its framing and its id included.
const BARE_FRAME_BYTES: usize = 130;
/// Large enough for a subscriber that does not read to fall behind within a second of load.
const LARGE_EVENT_BYTES: usize = 4_000;
/// Events delivered to one side before it is the other's turn: enough that what the other has put into the caches is
/// soon forgotten, little enough that a disturbance falls on both.
const SLICE: usize = 20_000;
/// Idle streams should add nothing while another server is measured.
const NO_HEARTBEAT: [&str; 2] = ["--heartbeat", "1h"];
/// What counts as "does not grow" and "does not move".
const SAME: f64 = 1.25;

/// A server, its subscribers, and where the numbering of its events stands.
struct Side {
    server: Server,
    crowd: Crowd,
    /// Published to in turn. Every subscriber has all of them.
    paths: Vec<String>,
    event_bytes: usize,
    number: u64,
    heard: Vec<u64>,
    reading: Reading,
}

/// What a few publishes have cost and how long they took.
#[derive(Default)]
struct Cost {
    cpu: Duration,
    deliveries: u64,
    /// From each publish to the last of its arrivals, in microseconds.
    to_last: Vec<f64>,
    /// From each publish to each of its arrivals.
    to_each: Vec<f64>,
}

impl Cost {
    fn per_delivery(&self) -> f64 {
        micros(self.cpu) / self.deliveries as f64
    }

    fn add(&mut self, other: Cost) {
        self.cpu += other.cpu;
        self.deliveries += other.deliveries;
        self.to_last.extend(other.to_last);
        self.to_each.extend(other.to_each);
    }
}

impl Side {
    fn tidings(subscribers: usize, topics: usize) -> Result<Side> {
        let names: Vec<String> = (0..topics).map(|topic| format!("load{topic}")).collect();
        let all = format!("/topics/{}", names.join(","));
        let paths = names.iter().map(|name| format!("/topics/{name}")).collect();
        Side::gather(Server::serve(&NO_HEARTBEAT)?, subscribers, &all, paths, EVENT_BYTES)
    }

    /// The bare loop, with events of so many bytes that a frame is as long as the other side's.
    fn bare(subscribers: usize, frame_bytes: usize) -> Result<Side> {
        let event_bytes = frame_bytes - "data: \n\n".len();
        Side::gather(Server::bare("fanout")?, subscribers, "/", vec!["/".into()], event_bytes)
    }

    fn gather(server: Server, subscribers: usize, all: &str, paths: Vec<String>, event_bytes: usize) -> Result<Side> {
        let crowd = Crowd::gather(server.address, subscribers, |_| all.into())?;
        let mut side =
            Side { server, crowd, paths, event_bytes, number: 0, heard: vec![0; subscribers], reading: Reading::After };
        // The first events find cold caches, and a server that is still busy with opening streams.
        side.publish(20, 1)?;
        Ok(side)
    }

    /// Bytes that one event is on the wire, framing included.
    fn frame_bytes(&mut self) -> Result<usize> {
        let before = self.crowd.tally().bytes;
        let cost = self.publish(1, 1)?;
        Ok(((self.crowd.tally().bytes - before) / cost.deliveries) as usize)
    }

    /// Publishes so many times, `batch` events each time.
    fn publish(&mut self, times: usize, batch: usize) -> Result<Cost> {
        let mut cost = Cost::default();
        let before = self.server.cpu()?;
        for _ in 0..times {
            self.publish_once(batch, &mut cost)?;
        }
        cost.cpu = self.server.cpu()? - before;
        Ok(cost)
    }

    fn publish_once(&mut self, batch: usize, cost: &mut Cost) -> Result<()> {
        let path = &self.paths[self.number as usize % self.paths.len()];
        let numbers = self.number + 1..=self.number + batch as u64;
        let request = match batch {
            1 => {
                let body = event(*numbers.start(), self.event_bytes);
                client::publication(self.server.address, path, "text/plain", &body)
            }
            _ => {
                let blocks = numbers.clone().map(|number| format!("data: {}\n\n", event(number, self.event_bytes)));
                client::publication(self.server.address, path, "text/event-stream", &blocks.collect::<String>())
            }
        };
        let due = (self.crowd.len() * batch) as u64;
        let heard = &mut self.heard;
        let mut astray = 0;
        let begun = std::time::Instant::now();
        let arrived = |Arrival { stream, number, at }| {
            astray += u64::from(number != heard[stream] + 1);
            heard[stream] = number;
            cost.to_each.push(micros(at - begun));
        };
        let to_last = self.crowd.publish(&request, self.crowd.tally().events + due, self.reading, arrived)?;
        if astray > 0 {
            return Err(format!("{astray} of {due} events came twice, out of order, or after a gap").into());
        }
        cost.to_last.push(micros(to_last));
        cost.deliveries += due;
        self.number = *numbers.end();
        Ok(())
    }
}

/// The data of an event: its number, and then nothing of interest up to so many bytes.
fn event(number: u64, bytes: usize) -> String {
    format!("{number:010} {:x<1$}", "", bytes.saturating_sub(11))
}

/// Two sides in turn, slice by slice.
fn interleave(plan: &Plan, ours: &mut Side, bare: &mut Side) -> Result<(Cost, Cost)> {
    let times = SLICE.div_ceil(ours.crowd.len());
    let mut costs = (Cost::default(), Cost::default());
    for _ in 0..plan.slices {
        costs.1.add(bare.publish(times, 1)?);
        costs.0.add(ours.publish(times, 1)?);
    }
    Ok(costs)
}

/// What the interleaved runs of two sides have shown.
#[derive(Default)]
struct Compared {
    cpu: Pairs,
    /// Publish to last subscriber: medians and 99th percentiles of the runs.
    middle: Pairs,
    late: Pairs,
    delivered: u64,
}

fn compare(plan: &Plan, ours: &mut Side, bare: &mut Side, reading: Reading) -> Result<(Compared, Noise)> {
    (ours.reading, bare.reading) = (reading, reading);
    let watch = Watch::start(&[&ours.server, &bare.server])?;
    let mut compared = Compared::default();
    for _ in 0..plan.runs {
        let (our, floor) = interleave(plan, ours, bare)?;
        compared.cpu.push(our.per_delivery(), floor.per_delivery());
        compared.middle.push(median(&our.to_last), median(&floor.to_last));
        compared.late.push(percentile(&our.to_last, 99), percentile(&floor.to_last, 99));
        compared.delivered += our.deliveries;
    }
    let weather = watch.end(&[&ours.server, &bare.server])?;
    let noise = Noise { spread: spread(&compared.cpu.bare), weather };
    Ok((compared, noise))
}

fn compare_with_bare(plan: &Plan, subscribers: usize, topics: usize, reading: Reading) -> Result<(Compared, Noise)> {
    let _processor = OneProcessor::keep_for(reading)?;
    let mut ours = Side::tidings(subscribers, topics)?;
    let frame_bytes = ours.frame_bytes()?;
    let mut bare = Side::bare(subscribers, frame_bytes)?;
    compare(plan, &mut ours, &mut bare, reading)
}

/// While it lasts, the client and the servers started from now on share one processor. As long as the client reads
/// only after the server has written, they never want it at the same time; and no side is luckier than the other
/// with what else runs beside it.
struct OneProcessor(Processors);

impl OneProcessor {
    fn keep() -> Result<OneProcessor> {
        let allowed = Processors::allowed()?;
        allowed.last().keep_to()?;
        Ok(OneProcessor(allowed))
    }

    fn keep_for(reading: Reading) -> Result<Option<OneProcessor>> {
        match reading {
            Reading::After => OneProcessor::keep().map(Some),
            Reading::Along => Ok(None),
        }
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        let _ = self.0.keep_to();
    }
}

/// CPU for each delivered event over the bare loop, and the latency of the last subscriber.
pub fn sizes(plan: &Plan, table: &mut Table) -> Result<()> {
    for &subscribers in &plan.fan_out {
        let name = |what: &str| format!("fan-out to {subscribers}: {what}");
        let measure = |reading| compare_with_bare(plan, subscribers, 1, reading);
        let (after, noise) = plan.calmly(table, || measure(Reading::After))?;
        let figure = Figure::pairs(name("CPU per delivered event"), &after.cpu, "us");
        table.add(figure.target(Target::Ratio(1.10)).noise(noise));
        let (along, noise) = plan.calmly(table, || measure(Reading::Along))?;
        table.add(Figure::pairs(name("the same, clients reading along"), &along.cpu, "us").noise(noise));
        table.add(Figure::pairs(name("publish to last subscriber, median"), &along.middle, "us"));
        table.add(Figure::pairs(name("publish to last subscriber, 99th percentile"), &along.late, "us"));
        table.delivered(after.delivered + along.delivered);
    }
    Ok(())
}

/// The bare loop against itself: how much of a ratio is the method's own.
pub fn null(plan: &Plan, table: &mut Table) -> Result<()> {
    let subscribers = 1_000;
    let (compared, noise) = plan.calmly(table, || {
        let _processor = OneProcessor::keep()?;
        let mut sides = (Side::bare(subscribers, 130)?, Side::bare(subscribers, 130)?);
        compare(plan, &mut sides.0, &mut sides.1, Reading::After)
    })?;
    let name = format!("the bare loop as if it were tidings, {subscribers} subscribers");
    table.add(Figure::pairs(name, &compared.cpu, "us").noise(noise));
    Ok(())
}

pub fn ten_topics(plan: &Plan, table: &mut Table) -> Result<()> {
    let (subscribers, topics) = (1_000, 10);
    let (compared, noise) = plan.calmly(table, || compare_with_bare(plan, subscribers, topics, Reading::After))?;
    let name = format!("fan-out to {subscribers}, {topics} topics each: CPU per delivered event");
    table.delivered(compared.delivered);
    table.add(Figure::pairs(name, &compared.cpu, "us").target(Target::Ratio(1.10)).noise(noise));
    Ok(())
}

/// A hundred events published together against as many one at a time, on one server.
pub fn batch(plan: &Plan, table: &mut Table) -> Result<()> {
    let (subscribers, batch) = (1_000, 100);
    let measure = || {
        let _processor = OneProcessor::keep()?;
        let mut side = Side::tidings(subscribers, 1)?;
        let watch = Watch::start(&[&side.server])?;
        let (mut together, mut alone, mut delivered) = (Vec::new(), Vec::new(), 0);
        for _ in 0..plan.runs {
            let publishes = plan.slices * SLICE / subscribers;
            let (one, many) = (side.publish(publishes, 1)?, side.publish(publishes.div_ceil(4), batch)?);
            alone.push(one.per_delivery());
            together.push(many.per_delivery());
            delivered += one.deliveries + many.deliveries;
        }
        let noise = Noise { spread: spread(&alone), weather: watch.end(&[&side.server])? };
        Ok(((Pairs { ours: together, bare: alone }, delivered), noise))
    };
    let ((pairs, delivered), noise) = plan.calmly(table, measure)?;
    table.delivered(delivered);
    let name = format!("a batch of {batch} to {subscribers}: CPU per event over one at a time");
    table.add(Figure::pairs(name, &pairs, "us").target(Target::Ratio(0.03)).noise(noise));
    Ok(())
}

/// One subscriber among many stops reading, falls behind, and is cut. The others should not be able to tell.
pub fn stalled(plan: &Plan, table: &mut Table) -> Result<()> {
    let subscribers = 1_000;
    // More than a queue and the kernel's buffers hold, so that all of it is seen: direct, behind, cut.
    let publishes = 160;
    let measure = || {
        let mut side = Side::tidings(subscribers, 1)?;
        (side.event_bytes, side.reading) = (LARGE_EVENT_BYTES, Reading::Along);
        side.publish(publishes / 4, 1)?;
        let watch = Watch::start(&[&side.server])?;
        let (mut pairs, mut quiet, mut delivered) = (Pairs::default(), Vec::new(), 0);
        for _ in 0..plan.runs {
            let without = side.publish(publishes, 1)?;
            let stalled = client::stall(side.server.address, &side.paths[0])?;
            let with = side.publish(publishes, 1)?;
            drop(stalled);
            pairs.push(percentile(&with.to_each, 99), percentile(&without.to_each, 99));
            quiet.push(median(&without.to_each));
            delivered += with.deliveries + without.deliveries;
        }
        let noise = Noise { spread: spread(&quiet), weather: watch.end(&[&side.server])? };
        Ok(((pairs, delivered, side.server.metric("tidings_disconnects_total{reason=\"behind\"}")?), noise))
    };
    let ((pairs, delivered, cut), noise) = plan.calmly(table, measure)?;
    table.delivered(delivered);
    let name = format!("one stalled among {subscribers}: the others' latency, p99, over without");
    table.add(Figure::pairs(name, &pairs, "us").target(Target::Ratio(SAME)).noise(noise));
    table.note(format_args!(
        "{cut} of {} stalled subscribers fell too far behind and were cut, as they should be",
        plan.runs
    ));
    Ok(())
}

/// Whether an event costs more when many get it. Servers of all sizes run at once and take turns.
pub fn growth(plan: &Plan, table: &mut Table) -> Result<()> {
    let grow = |bare: Option<usize>| -> Result<Vec<f64>> {
        let _processor = OneProcessor::keep()?;
        let mut sides = Vec::new();
        for &subscribers in &plan.growth {
            sides.push(match bare {
                Some(frame_bytes) => Side::bare(subscribers, frame_bytes)?,
                None => Side::tidings(subscribers, 1)?,
            });
        }
        let mut runs = vec![Vec::new(); sides.len()];
        for _ in 0..plan.runs {
            let mut costs: Vec<Cost> = sides.iter().map(|_| Cost::default()).collect();
            for _ in 0..plan.slices {
                for (side, cost) in sides.iter_mut().zip(&mut costs) {
                    cost.add(side.publish(SLICE.div_ceil(side.crowd.len()), 1)?);
                }
            }
            for (cost, run) in costs.iter().zip(&mut runs) {
                run.push(cost.per_delivery());
            }
        }
        Ok(runs.iter().map(|run| median(run)).collect())
    };
    let ours = grow(None)?;
    let bare = grow(Some(BARE_FRAME_BYTES))?;
    for ((subscribers, ours), bare) in plan.growth.iter().zip(&ours).zip(&bare) {
        let name = format!("growth: CPU per delivered event at {subscribers}");
        let pairs = Pairs { ours: vec![*ours], bare: vec![*bare] };
        table.add(Figure::pairs(name, &pairs, "us"));
    }
    // A bare write grows dearer by itself until its sockets have outgrown the caches, so what counts is growth over that.
    let flat = |costs: &[f64]| largest(costs) / smallest(costs);
    let (ours, bare) = (flat(&ours), flat(&bare));
    let name = format!("growth: the dearest of {:?} over the cheapest", plan.growth);
    let figure = Figure::new(name, Value(ours, "")).target(Target::Ratio(SAME));
    table.add(Figure { bare: Some(Value(bare, "")), ratio: Some(ours / bare), ..figure });
    Ok(())
}

/// Whether a publish costs more when there are many topics, each with one subscriber. Some of that is no matter of topics:
/// a bare write costs more too, when it goes to another socket than the one before. So it is held against a publish to
/// one topic and what the bare write grew.
pub fn many_topics(plan: &Plan, table: &mut Table) -> Result<()> {
    let topics = 1_000;
    let publishes = 500;
    let measure = || {
        let _processor = OneProcessor::keep()?;
        let mut sides = [Alone::topics(1)?, Alone::bare(1)?, Alone::topics(topics)?, Alone::bare(topics)?];
        let watch = Watch::start(&sides.each_ref().map(|side| &side.server))?;
        let (mut one, mut many, mut grown) = (Pairs::default(), Pairs::default(), Pairs::default());
        for _ in 0..plan.runs {
            let mut cpu = [Duration::ZERO; 4];
            for _ in 0..plan.slices {
                for (side, cpu) in sides.iter_mut().zip(&mut cpu) {
                    *cpu += side.publish(publishes)?;
                }
            }
            let [ours_one, bare_one, ours_many, bare_many] =
                cpu.map(|cpu| micros(cpu) / (plan.slices * publishes) as f64);
            one.push(ours_one, bare_one);
            many.push(ours_many, bare_many);
            grown.push(ours_many, ours_one + bare_many - bare_one);
        }
        let weather = watch.end(&sides.each_ref().map(|side| &side.server))?;
        let noise = Noise { spread: spread(&one.bare).max(spread(&many.bare)), weather };
        Ok(((one, many, grown), noise))
    };
    let ((one, many, grown), noise) = plan.calmly(table, measure)?;
    table.add(Figure::pairs("1 topic: CPU per publish", &one, "us"));
    table.add(Figure::pairs(format!("{topics} topics: CPU per publish"), &many, "us"));
    let name = format!("{topics} topics: CPU per publish over one topic and another socket");
    table.add(Figure::pairs(name, &grown, "us").target(Target::Ratio(SAME)).noise(noise));
    Ok(())
}

/// A server whose events go to one subscriber each, to all of them in turn.
struct Alone {
    server: Server,
    crowd: Crowd,
    paths: Vec<String>,
    event_bytes: usize,
    number: u64,
}

impl Alone {
    /// Each subscriber has a topic of its own.
    fn topics(number: usize) -> Result<Alone> {
        // Topics that nobody has published to yet may not have all places.
        let server = Server::serve(&[&NO_HEARTBEAT[..], &["--max-topics", "2000"]].concat())?;
        Alone::gather(server, (0..number).map(|topic| format!("/topics/t{topic}")).collect(), EVENT_BYTES)
    }

    fn bare(subscribers: usize) -> Result<Alone> {
        Alone::gather(Server::bare("in-turn")?, vec!["/".into(); subscribers], BARE_FRAME_BYTES - "data: \n\n".len())
    }

    fn gather(server: Server, paths: Vec<String>, event_bytes: usize) -> Result<Alone> {
        let crowd = Crowd::gather(server.address, paths.len(), |stream| paths[stream].clone())?;
        let mut alone = Alone { server, crowd, paths, event_bytes, number: 0 };
        alone.publish(alone.paths.len().max(200))?;
        Ok(alone)
    }

    fn publish(&mut self, times: usize) -> Result<Duration> {
        let before = self.server.cpu()?;
        for _ in 0..times {
            let path = &self.paths[self.number as usize % self.paths.len()];
            self.number += 1;
            let body = event(self.number, self.event_bytes);
            let request = client::publication(self.server.address, path, "text/plain", &body);
            let (number, mut right) = (self.number, false);
            self.crowd.publish(&request, number, Reading::After, |arrival| {
                right = arrival.number == number && (path == "/" || *path == self.paths[arrival.stream]);
            })?;
            if !right {
                return Err(format!("event {number} went astray").into());
            }
        }
        Ok(self.server.cpu()? - before)
    }
}
