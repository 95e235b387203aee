//! A child process's output as a stream: every client gets a process of its own, which is killed when the client goes.
//!
//! ```text
//! cargo run --example pipe -- ping -c 5 127.0.0.1
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
        Ok(child) => Response::stream(|stream| {
            // Reading blocks, so it gets a thread of its own: the stream's thread is needed to see the client leave.
            std::thread::spawn(move || forward(child, &stream));
            Ok(())
        }),
    })?;
    Ok(())
}

fn forward(mut child: Child, stream: &Stream) {
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
    for line in lines.map_while(Result::ok) {
        if stream.send(&Event::data(line)).is_err() {
            let _ = child.kill(); // it may have ended by itself
            break;
        }
    }
    let _ = child.wait();
}
