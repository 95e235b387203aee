//! What it costs to have many clients at all: memory and CPU of streams on which nothing happens, of streams whose
//! clients do not read, how fast thousands get in, and how soon one that leaves is noticed.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Crowd, Reading, Result};
use crate::figures::{Figure, Noise, Table, Target, Value, largest, median, micros, percentile};
use crate::plan::Plan;
use crate::probe::{self, KernelMemory, Watch};
use crate::server::{Logged, Server};

/// Until threads have gone to sleep and freed what they needed to start, and the kernel has freed its own.
const SETTLE: Duration = Duration::from_secs(2);

/// Memory and CPU of idle streams, at the heartbeat that is the default; then one event for all of them, to see that
/// each is alive.
pub fn idle(plan: &Plan, table: &mut Table) -> Result<()> {
    let streams = plan.idle;
    let empty = probe::kernel_memory()?;
    let bare = {
        let server = Server::bare("fanout")?;
        let mut crowd = Crowd::gather(server.address, streams, |_| "/".into())?;
        crowd.listen(SETTLE, |_| {})?;
        each(empty, probe::kernel_memory()?, streams)
    };
    thread::sleep(SETTLE);

    let empty = probe::kernel_memory()?;
    let server = Server::serve(&[])?;
    let pss = server.pss()?;
    let mut crowd = Crowd::gather(server.address, streams, |_| "/topics/idle".into())?;
    crowd.listen(SETTLE, |_| {})?;
    let user = (server.pss()? - pss) / streams as f64;
    let kernel = each(empty, probe::kernel_memory()?, streams);

    let (watch, cpu) = (Watch::start(&[&server])?, server.cpu()?);
    crowd.listen(plan.idle_window, |_| {})?;
    let spent = (server.cpu()? - cpu).as_secs_f64() * 1e3 / plan.idle_window.as_secs_f64();
    let noise = Noise { spread: 0.0, weather: watch.end(&[&server])? };

    let request = client::publication(server.address, "/topics/idle", "text/plain", "1");
    crowd.publish(&request, streams as u64, Reading::Along, |_| {})?;
    table.delivered(streams as u64);
    let held = streams - crowd.tally().closed;

    let name = |what: &str| format!("{streams} idle streams: {what}");
    table.add(Figure::new(name("held"), Value(held as f64, "")).target(Target::AtLeast(Value(streams as f64, ""))));
    let memory = Figure::new(name("user memory (PSS) of each"), Value(user, "KiB"));
    table.add(memory.target(Target::AtMost(Value(11.0, "KiB"))));
    // A bare stream is a socket at each end and nothing else, so half of it is what the client's end costs here too.
    let client_end = bare.objects / 2.0;
    let sockets = Figure::new(name("kernel objects of each"), Value(kernel.objects - client_end, "KiB"));
    table.add(Figure { bare: Some(Value(client_end, "KiB")), ..sockets });
    table.add(Figure::new(name("kernel stack of each"), Value(kernel.stacks, "KiB")));
    let heartbeats = Figure::new(name("CPU a second, heartbeats included"), Value(spent, "ms"));
    table.add(heartbeats.target(Target::AtMost(Value(10.0, "ms"))).noise(noise));
    Ok(())
}

fn each(before: KernelMemory, after: KernelMemory, streams: usize) -> KernelMemory {
    let each = |before: f64, after: f64| (after - before) / streams as f64;
    KernelMemory {
        stacks: each(before.stacks, after.stacks),
        objects: each(before.objects, after.objects),
        socket_buffers: each(before.socket_buffers, after.socket_buffers),
    }
}

/// Streams whose clients stop reading, so that their queues fill; then they read on, and must miss nothing.
pub fn behind(plan: &Plan, table: &mut Table) -> Result<()> {
    let streams = plan.repeats;
    let shared = fall_behind(streams, |_| "/topics/shared".into(), &["/topics/shared".into()])?;
    let paths: Vec<String> = (0..streams).map(|stream| format!("/topics/own{stream}")).collect();
    let own = fall_behind(streams, |stream| paths[stream].clone(), &paths)?;
    table.delivered(shared.delivered + own.delivered);
    let name = |what: &str| format!("{streams} streams behind: {what}");
    table.add(Figure::new(name("user memory of each, one topic for all"), Value(shared.user, "KiB")));
    table.add(Figure::new(name("user memory of each, a topic for each"), Value(own.user, "KiB")));
    table.add(Figure::new(name("socket buffers of each, both ends"), Value(shared.kernel.socket_buffers, "KiB")));
    table.add(Figure::new(name("CPU a second while nobody reads"), Value(shared.waiting, "ms")));
    table.add(Figure::new(name("CPU per event as they catch up"), Value(shared.catching_up, "us")));
    Ok(())
}

struct Behind {
    user: f64,
    kernel: KernelMemory,
    /// Milliseconds of CPU a second, of all together.
    waiting: f64,
    /// Microseconds of CPU for each event that was queued.
    catching_up: f64,
    delivered: u64,
}

fn fall_behind(streams: usize, path: impl Fn(usize) -> String, topics: &[String]) -> Result<Behind> {
    // As many bytes as the default queue holds. The kernel takes the first part of them, so no stream is cut.
    let (events, event_bytes) = (240, 1_000);
    let window = Duration::from_secs(3);
    let server = Server::serve(&["--heartbeat", "1h"])?;
    let mut crowd = Crowd::gather(server.address, streams, path)?;
    let mut publisher = Crowd::gather(server.address, 0, |_| String::new())?;
    crowd.listen(Duration::from_millis(500), |_| {})?;
    let (user, kernel) = (server.pss()?, probe::kernel_memory()?);
    for number in 1..=events {
        let body = format!("{number:<event_bytes$}");
        for topic in topics {
            let request = client::publication(server.address, topic, "text/plain", &body);
            publisher.publish(&request, 0, Reading::Along, |_| {})?;
        }
    }
    let cpu = server.cpu()?;
    thread::sleep(window);
    let waiting = (server.cpu()? - cpu).as_secs_f64() * 1e3 / window.as_secs_f64();
    let user = (server.pss()? - user) / streams as f64;
    let kernel = each(kernel, probe::kernel_memory()?, streams);

    let delivered = (streams * events) as u64;
    let mut heard = vec![0; streams];
    let mut astray = 0;
    let cpu = server.cpu()?;
    crowd.await_events(delivered, |arrival| {
        heard[arrival.stream] += 1;
        astray += usize::from(arrival.number != heard[arrival.stream]);
    })?;
    if astray > 0 {
        return Err(format!("{astray} of {delivered} events came twice, out of order, or after a gap").into());
    }
    let catching_up = micros(server.cpu()? - cpu) / delivered as f64;
    Ok(Behind { user, kernel, waiting, catching_up, delivered })
}

/// From a client's close to the log line that tells of it, read as it is written.
pub fn closed(plan: &Plan, table: &mut Table) -> Result<()> {
    let server = Server::logged()?;
    let log = server.log.as_ref().ok_or("the log is piped")?;
    let _others = Crowd::gather(server.address, plan.idle.min(1_000), |_| "/topics/others".into())?;
    let mut times = Vec::new();
    for _ in 0..plan.repeats {
        let client = client::stall(server.address, "/topics/leaving")?;
        let name = client.local_addr()?.to_string();
        await_line(log, &name)?;
        // Asleep by now, as a stream is most of the time.
        thread::sleep(Duration::from_millis(5));
        let begun = Instant::now();
        drop::<TcpStream>(client);
        times.push(micros(await_line(log, &name)? - begun) / 1e3);
    }
    let figure = |what: &str, millis: f64| Figure::new(format!("a closed client noticed, {what}"), Value(millis, "ms"));
    table.add(figure("median", median(&times)));
    table.add(figure("the latest", largest(&times)).target(Target::AtMost(Value(50.0, "ms"))));
    Ok(())
}

/// When the next line came that names the peer.
fn await_line(log: &std::sync::mpsc::Receiver<Logged>, peer: &str) -> Result<Instant> {
    loop {
        let Logged { at, line } = log.recv_timeout(Duration::from_secs(5))?;
        // A port may be the beginning of a longer one.
        let follows = line.split(peer).nth(1).map(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()));
        if follows == Some(true) {
            return Ok(at);
        }
    }
}

/// Thousands of clients connect at once, as they do after a restart: each from its connect to its first byte.
pub fn rush(plan: &Plan, table: &mut Table) -> Result<()> {
    let clients = plan.rush;
    let measure = || {
        let server = Server::serve(&[])?;
        let watch = Watch::start(&[&server])?;
        let crowd = Crowd::rush(server.address, clients, |_| "/topics/rush".into())?;
        let times: Vec<f64> = crowd.first_bytes().map(|time| micros(time) / 1e3).collect();
        Ok((times, Noise { spread: 0.0, weather: watch.end(&[&server])? }))
    };
    let (times, noise) = plan.calmly(table, measure)?;
    let name = |what: &str| format!("{clients} clients connect at once: first byte, {what}");
    table.add(Figure::new(name("median"), Value(median(&times), "ms")));
    table.add(Figure::new(name("99th percentile"), Value(percentile(&times, 99), "ms")));
    let last = Figure::new(name("the last"), Value(largest(&times), "ms"));
    table.add(last.target(Target::AtMost(Value(2_000.0, "ms"))).noise(noise));
    Ok(())
}
