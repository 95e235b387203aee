//! Inside a program that has its own main loop: the server runs on a thread beside it and is shut down cleanly when the
//! program is through.
//!
//! ```text
//! cargo run --example embed
//! curl -N http://127.0.0.1:3000/
//! ```

use std::time::{Duration, Instant};
use tidings::{Config, Event, History, Hub, Response, Server, Topic};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config { log: Some(|line| eprintln!("{line}")), ..Config::default() };
    let server = Server::bind("127.0.0.1:3000", config)?;
    let (stopper, monitor) = (server.stopper(), server.monitor());
    let hub = Hub::new(History::default());
    let frames = Topic::new("frames")?;

    let (answering, topics) = (hub.clone(), [frames.clone()]);
    let serving = std::thread::spawn(move || {
        server.run(move |request| {
            let (hub, topics, after) = (answering.clone(), topics.clone(), request.last_event_id());
            Response::stream(move |stream| hub.subscribe(stream, &topics, after.as_deref()))
        })
    });

    // The program's own loop: it owns the main thread and never waits for a client.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        hub.publish(&frames, &Event::data(format!("{:?}", start.elapsed())))?;
        std::thread::sleep(Duration::from_millis(100));
    }

    println!("{} events went out", monitor.counts().delivered);
    stopper.stop();
    serving.join().map_err(|_| "the server's thread panicked")??;
    Ok(())
}
