//! A program's output as a stream: every client gets a process of its own. One that is silent is not seen to have lost
//! its client: it is killed at the next line for which nobody is there.
//!
//! ```text
//! cargo run --example pipe -- sh -c 'for n in 1 2 3 4 5; do date; sleep 1; done'
//! curl -N http://127.0.0.1:3000/
//! ```

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use tidings::{Config, Event, Response, Server, Stream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let command: Vec<String> = std::env::args().skip(1).collect();
    let [program, arguments @ ..] = &command[..] else { return Err("name a command to run".into()) };
    let (program, arguments) = (program.clone(), arguments.to_vec());
    let server = Server::bind("127.0.0.1:3000", Config::default())?;
    server.stopper().on_signals()?;
    server.run(move |_| match Command::new(&program).args(&arguments).stdout(Stdio::piped()).spawn() {
        Err(error) => Response::text(500, format!("{program}: {error}")),
        Ok(child) => {
            let process = Process(child);
            Response::stream(|stream| {
                // Reading blocks, so it gets a thread of its own: the stream's thread is needed to see the client leave.
                std::thread::spawn(move || forward(process, &stream));
                Ok(())
            })
        }
    })?;
    Ok(())
}

fn forward(mut process: Process, stream: &Stream) {
    let lines = process.0.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
    for line in lines.map_while(Result::ok) {
        if stream.send(&Event::data(line)).is_err() {
            break;
        }
    }
}

/// A child that is killed when it is let go, also by a stream that is never opened: that of a `HEAD`.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}
