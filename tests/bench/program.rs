//! The program by itself: how large it is, how soon it answers, what it holds while nobody is there, how long it
//! takes to build.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use crate::client::{self, Result};
use crate::figures::{Figure, Noise, Table, Target, Value, median, micros};
use crate::plan::{Build, Plan};
use crate::probe::Watch;
use crate::server::{PROGRAM, Server};

pub fn start(plan: &Plan, table: &mut Table) -> Result<()> {
    let kib = fs::metadata(PROGRAM)?.len() as f64 / 1024.0;
    table.add(Figure::new("release binary", Value(kib, "KiB")).target(Target::AtMost(Value(450.0, "KiB"))));
    let mut times = Vec::new();
    for _ in 0..plan.repeats.div_ceil(10) {
        let begun = Instant::now();
        let server = Server::serve(&[])?;
        client::get(server.address, "/healthz")?;
        times.push(micros(begun.elapsed()) / 1e3);
    }
    table.add(Figure::new("start-up to the first answer, median", Value(median(&times), "ms")));
    let server = Server::serve(&[])?;
    client::get(server.address, "/healthz")?;
    thread::sleep(Duration::from_millis(200));
    let mib = server.pss()? / 1024.0;
    table.add(Figure::new("idle memory (PSS)", Value(mib, "MiB")).target(Target::AtMost(Value(2.0, "MiB"))));
    Ok(())
}

/// A release build from nothing, in a folder of its own, by the cargo that runs this.
pub fn build(plan: &Plan, table: &mut Table) -> Result<()> {
    if plan.build == Build::Left {
        return Ok(());
    }
    let folder = env::temp_dir().join(format!("tidings-bench-{}", process::id()));
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    let measure = || {
        let watch = Watch::start(&[])?;
        let begun = Instant::now();
        let mut command = Command::new(&cargo);
        command.args(["build", "--release"]).env("CARGO_TARGET_DIR", &folder);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let took = begun.elapsed();
        let _ = fs::remove_dir_all(&folder);
        if !status?.success() {
            return Err("cargo build --release failed".into());
        }
        Ok((took, Noise { spread: 0.0, weather: watch.end(&[])? }))
    };
    let (took, noise) = plan.calmly(table, measure)?;
    let figure = Figure::new("clean release build", Value(took.as_secs_f64(), "s"));
    table.add(figure.target(Target::AtMost(Value(10.0, "s"))).noise(noise));
    Ok(())
}
