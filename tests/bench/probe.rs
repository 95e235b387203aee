//! What the kernel tells: memory of a process, memory of its own, and who else was busy. Nothing here is taken from
//! the server's word.

use std::fs;
use std::time::Duration;

use crate::client::Result;
use crate::server::Server;
use crate::sys;

/// Memory in KiB, as `/proc` counts it.
pub type Kib = f64;

/// The unit in which sockets are accounted for, nearly everywhere.
const PAGE: Kib = 4.0;

pub fn pss(pid: u32) -> Result<Kib> {
    field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?, "Pss:")
}

/// Kernel memory of the whole machine that grows with connections and threads. A figure is the difference of two.
#[derive(Clone, Copy)]
pub struct KernelMemory {
    /// Kernel stacks of threads.
    pub stacks: Kib,
    /// Small objects (sockets, tasks, epoll entries) that cannot be given back, and page tables.
    pub objects: Kib,
    /// What lies in the buffers of TCP sockets.
    pub socket_buffers: Kib,
}

pub fn kernel_memory() -> Result<KernelMemory> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let objects = field(&text, "SUnreclaim:")? + field(&text, "PageTables:")?;
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let pages = sockets.lines().find_map(|line| line.strip_prefix("TCP:")?.split(" mem ").nth(1)?.parse().ok());
    let socket_buffers = pages.unwrap_or(0.0) * PAGE;
    Ok(KernelMemory { stacks: field(&text, "KernelStack:")?, objects, socket_buffers })
}

fn field(text: &str, name: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| format!("no {name} in /proc").into())
}

/// How quiet the machine was while something was measured: what the host took away, and what other processes ran,
/// both as a share of one processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub stolen: f64,
    pub others: f64,
}

/// Watches from its creation on.
pub struct Watch {
    machine: Machine,
    ours: Duration,
}

/// Since the start of the machine, all processors together.
struct Machine {
    busy: Duration,
    stolen: Duration,
    passed: Duration,
}

impl Watch {
    /// `children` are the servers that run now; those that were started and stopped in between count as well.
    pub fn start(children: &[&Server]) -> Result<Watch> {
        Ok(Watch { machine: machine()?, ours: ours(children)? })
    }

    pub fn end(&self, children: &[&Server]) -> Result<Weather> {
        let (now, ours) = (machine()?, ours(children)?);
        let passed = (now.passed - self.machine.passed).as_secs_f64().max(0.01);
        let busy = (now.busy - self.machine.busy).as_secs_f64();
        Ok(Weather {
            stolen: (now.stolen - self.machine.stolen).as_secs_f64() / passed,
            others: (busy - ours.saturating_sub(self.ours).as_secs_f64()).max(0.0) / passed,
        })
    }
}

/// `/proc` counts in hundredths of a second wherever Linux runs (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

fn machine() -> Result<Machine> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks =
        |line: &str| -> Vec<u32> { line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect() };
    let all = ticks(stat.lines().next().unwrap_or_default());
    let uptime = fs::read_to_string("/proc/uptime")?;
    let passed: f64 = uptime.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let at = |index: usize| all.get(index).copied().unwrap_or(0);
    Ok(Machine {
        busy: TICK * (at(0) + at(1) + at(2) + at(5) + at(6)),
        stolen: TICK * at(7),
        passed: Duration::from_secs_f64(passed),
    })
}

/// This process, the children it has waited for, and those that run.
fn ours(children: &[&Server]) -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let waited: u32 = after_name.split_whitespace().skip(13).take(2).filter_map(|word| word.parse::<u32>().ok()).sum();
    let mut sum = sys::cpu_time(std::process::id())? + TICK * waited;
    for child in children {
        sum += child.cpu()?;
    }
    Ok(sum)
}
