//! What the tests ask of Linux beyond what `std` gives: to close by a reset, to take little into a receive buffer, what a
//! process uses, and to bound that. Their `unsafe` stands here.
#![cfg(target_os = "linux")]

use std::ffi::{c_int, c_void};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

/// Linux took over the numbers of the systems it first ran beside: these two have those of IRIX.
const OLD_NUMBERS: bool = cfg!(any(target_arch = "mips", target_arch = "mips64"));
const SOL_SOCKET: c_int = if OLD_NUMBERS { 0xffff } else { 1 };
const SO_LINGER: c_int = if OLD_NUMBERS { 0x80 } else { 13 };
const SO_RCVBUF: c_int = if OLD_NUMBERS { 0x1002 } else { 8 };

unsafe extern "C" {
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> c_int;
    fn unshare(flags: c_int) -> c_int;
}

fn set_option<T>(socket: &TcpStream, name: c_int, value: T) {
    // SAFETY: the pointer is to a live value of the C type, and the length is its own.
    let outcome =
        unsafe { setsockopt(socket.as_raw_fd(), SOL_SOCKET, name, (&raw const value).cast(), size_of::<T>() as u32) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

/// Closes with a reset: what is unread or unsent is gone, and the other end is told so by an error.
pub fn reset(socket: TcpStream) {
    // `struct linger`: on, and for no second.
    set_option(&socket, SO_LINGER, [1 as c_int, 0]);
}

/// Has the kernel take only some kilobytes for a client that does not read, where it would else take megabytes.
pub fn take_little(socket: &TcpStream) {
    set_option(socket, SO_RCVBUF, 4096 as c_int);
}

/// Gives this thread, and what it starts, a network of its own, in which there is nothing. The superuser may.
pub fn leave_the_network() {
    const CLONE_NEWNET: c_int = 0x4000_0000;
    // SAFETY: it takes no pointer, and changes nothing but which network this thread's next sockets belong to.
    let outcome = unsafe { unshare(CLONE_NEWNET) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

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

/// The memory that is a process's own (PSS), in bytes.
pub fn memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
