//! The integration tests: one file per promise. Every server listens on a port of its own that the system picks, every
//! read has a time limit, and every process that is started is stopped.

// Counters and matches in loops say more about what a test expects than what these would have in their place.
#![allow(clippy::explicit_counter_loop, clippy::while_let_loop, clippy::double_ended_iterator_last)]

mod support;

mod auth;
mod browser;
mod capacity;
mod cli;
mod faults;
mod framing;
mod fuzz;
mod hub;
mod limits;
mod memory;
mod proxy;
mod readers;
mod resume;
mod round_trip;
mod scenes;
mod schedule;
mod shutdown;
mod slow_subscriber;
mod small_box;
mod soak;
mod stream;
mod system;
mod tidy;
mod vendoring;
mod webdriver;
