//! A server under load, as a child process: started on a port of its own choice, measured through the kernel's
//! account of its process id, and stopped by that id when the guard is dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, str};

use crate::client::{self, Result};
use crate::probe::{self, Kib};
use crate::sys;

/// The program that is measured, built by cargo with the bench profile, which is the release profile.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tidings");

/// More than any figure opens, and the same in all of them.
const MAX_CONNECTIONS: &str = "12000";

pub struct Server {
    child: Child,
    /// Kept open, because a server may be told by a closed pipe that nobody wants its output.
    _output: BufReader<ChildStdout>,
    pub address: SocketAddrV4,
    pub log: Option<Receiver<Logged>>,
}

/// A line of the log and when it was read.
pub struct Logged {
    pub at: Instant,
    pub line: String,
}

impl Server {
    /// `tidings serve`, quiet, with further options.
    pub fn serve(options: &[&str]) -> Result<Server> {
        Server::tidings("serve", &[&["--quiet"], options].concat(), Stdio::null())
    }

    /// `tidings demo`, quiet: the hub and the scenes.
    pub fn demo() -> Result<Server> {
        Server::tidings("demo", &["--quiet"], Stdio::null())
    }

    /// `tidings serve` with its log read line by line.
    pub fn logged() -> Result<Server> {
        let mut server = Server::tidings("serve", &[], Stdio::piped())?;
        server.log = server.child.stderr.take().map(follow);
        Ok(server)
    }

    fn tidings(word: &str, options: &[&str], log: Stdio) -> Result<Server> {
        let mut command = Command::new(PROGRAM);
        command.args([word, "--listen", "127.0.0.1:0", "--max-connections", MAX_CONNECTIONS]).args(options);
        // A token of the caller's environment would turn the load away.
        command.env_remove("TIDINGS_PUBLISH_TOKEN").env_remove("TIDINGS_SUBSCRIBE_TOKEN");
        Server::start(command.stdin(Stdio::null()).stderr(log))
    }

    /// The bare loop of writes: to all for each event (`fanout`), or to one (`in-turn`).
    pub fn bare(word: &str) -> Result<Server> {
        Server::start(Command::new(env::current_exe()?).args(["floor", word]).stdin(Stdio::piped()))
    }

    /// The bare timed loop: `frame_bytes` each `period` on each stream.
    pub fn bare_paced(frame_bytes: usize, period: Duration) -> Result<Server> {
        let words = ["floor".into(), "paced".into(), frame_bytes.to_string(), period.as_millis().to_string()];
        Server::start(Command::new(env::current_exe()?).args(words).stdin(Stdio::piped()))
    }

    fn start(command: &mut Command) -> Result<Server> {
        let mut child = sys::die_with_parent(command).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(child.stdout.take().expect("piped above"));
        let mut line = String::new();
        let read = output.read_line(&mut line);
        match line.trim().strip_prefix("listening on http://").map(str::parse) {
            Some(Ok(address)) => Ok(Server { child, _output: output, address, log: None }),
            _ => {
                let _ = child.kill();
                Err(format!("the server did not start: {:?} {line:?} {read:?}", child.wait()).into())
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has run so far, user and system.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(sys::cpu_time(self.pid())?)
    }

    /// User memory: private pages, and its share of those that it shares.
    pub fn pss(&self) -> Result<Kib> {
        probe::pss(self.pid())
    }

    /// A line of `/metrics`, by everything that stands before its value.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = client::get(self.address, "/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.ok_or_else(|| format!("no {name} among the metrics").into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(log: ChildStderr) -> Receiver<Logged> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(|line| line.ok()) {
            if sender.send(Logged { at: Instant::now(), line }).is_err() {
                return;
            }
        }
    });
    receiver
}
