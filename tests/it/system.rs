//! What the tests ask of Linux beyond what `std` gives: what a process of theirs uses, and to bound that.
#![cfg(target_os = "linux")]

use std::process::Command;
use std::time::Duration;

/// How many threads a process has.
pub fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// How many files a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// How long a process has been on a processor.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which stands in parentheses and may hold anything: the twelfth and thirteenth are user and system,
    // in hundredths of a second.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Sets a limit of a process that runs, by the name of its option of prlimit(1), to `soft:hard`.
pub fn limit(pid: u32, what: &str, bounds: &str) {
    let status = Command::new("prlimit").args([&format!("--{what}={bounds}"), "--pid", &pid.to_string()]).status();
    assert!(status.expect("prlimit runs").success());
}
