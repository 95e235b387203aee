//! The smallest program: one route, one timed stream.
//!
//! ```text
//! cargo run --example hello
//! curl -N http://127.0.0.1:3000/
//! ```

use std::time::{Duration, SystemTime};
use tidings::{Config, Event, Response, Result, Server, iso8601};

fn main() -> Result<()> {
    let server = Server::bind("127.0.0.1:3000", Config::default())?;
    server.stopper().on_signals()?;
    server.run(|request| match request.path() {
        "/" => Response::stream(|stream| {
            stream.send(&Event::data("hello"))?;
            let times = std::iter::from_fn(|| Some(Event::data(iso8601(SystemTime::now()))));
            stream.every(Duration::from_secs(1), times)
        }),
        _ => Response::text(404, "there is only /"),
    })
}
