//! The figures that tidings is to reach, measured on the release binary as a child process and held against bare
//! loops in the same run: `cargo bench`, or `cargo bench -- --quick` in under a minute, or `cargo bench -- fan-out`
//! for the figures of one name.
//!
//! A time is a ratio wherever it can be: absolute times belong to the machine, ratios to the server. What differs
//! is only which of the two programs is measured; client, sockets and bytes on the wire are the same. The rooms:
//!
//! - `client.rs` the load: thousands of streams on one epoll thread, every event counted and in order;
//! - `floor.rs` the bare loops, as a child process of this same program;
//! - `server.rs` a child process under measurement; `probe.rs` what the kernel tells of it;
//! - `fanout.rs`, `paced.rs`, `crowd.rs`, `program.rs` the figures; `figures.rs` medians, noise and the table;
//! - `sys.rs` the system calls that `std` lacks.
//!
//! A missed target is printed and is no failure. A lost event is one, and so is a figure that cannot be had.

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod crowd;
#[cfg(target_os = "linux")]
mod fanout;
#[cfg(target_os = "linux")]
mod figures;
#[cfg(target_os = "linux")]
mod floor;
#[cfg(target_os = "linux")]
mod paced;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod probe;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod sys;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the benchmarks read the kernel's accounts in /proc and load through epoll: they run on Linux only");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("floor") => {
            floor::main(&arguments[1..]);
            std::process::ExitCode::SUCCESS
        }
        _ => plan::run(&arguments),
    }
}
