//! A job's progress on a page. The job runs on a thread of its own, holds the stream while it works and stops when
//! nobody watches any more; when it is through, the stream ends and the page closes its EventSource.
//!
//! ```text
//! cargo run --example progress
//! open http://127.0.0.1:3000/ in a browser, or: curl -N http://127.0.0.1:3000/job
//! ```

use std::time::Duration;
use tidings::{Closed, Config, Event, EventType, Response, Result, Server, Stream};

const PAGE: &str = r#"<!doctype html><title>progress</title><progress max=100 value=0></progress> <output></output><script>
const job = new EventSource("/job"), bar = document.querySelector("progress"), text = document.querySelector("output");
job.onmessage = event => { bar.value = event.data; text.value = event.data + " %"; };
job.addEventListener("done", event => { job.close(); text.value = event.data; });
</script>"#;

fn main() -> Result<()> {
    let server = Server::bind("127.0.0.1:3000", Config::default())?;
    server.stopper().on_signals()?;
    let done = EventType::new("done")?;
    server.run(move |request| match request.path() {
        "/" => Response::bytes(200, "text/html; charset=utf-8", PAGE),
        "/job" => {
            let done = done.clone();
            Response::stream(move |stream| {
                std::thread::spawn(move || match work(&stream, done) {
                    Ok(()) => println!("the job is done"),
                    Err(closed) => println!("the job was given up: the client {closed}"),
                });
                Ok(())
            })
        }
        _ => Response::text(404, "there are / and /job"),
    })
}

fn work(stream: &Stream, done: EventType) -> Result<(), Closed> {
    for percent in 0..=100 {
        stream.send(&Event::data(percent.to_string()))?;
        std::thread::sleep(Duration::from_millis(50)); // here would be the work
    }
    stream.send(&Event::data("all done").with_type(done))
}
