//! A hub that another thread feeds: everybody who is subscribed gets the same events, and who comes back after a cut
//! gets what they missed.
//!
//! ```text
//! cargo run --example broadcast
//! curl -N http://127.0.0.1:3000/
//! curl -N -H 'Last-Event-ID: earliest' http://127.0.0.1:3000/
//! ```

use std::time::Duration;
use tidings::{Config, Event, History, Hub, Response, Result, Server, Topic};

fn main() -> Result<()> {
    let server = Server::bind("127.0.0.1:3000", Config::default())?;
    server.stopper().on_signals()?;

    let hub = Hub::new(History::default());
    let primes = Topic::new("primes")?;

    let (publisher, topic) = (hub.clone(), primes.clone());
    std::thread::spawn(move || {
        for prime in (2u64..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)) {
            if let Err(refused) = publisher.publish(&topic, &Event::data(prime.to_string())) {
                return eprintln!("{prime}: {refused}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    });

    server.run(move |request| {
        let (hub, topics, after) = (hub.clone(), [primes.clone()], request.last_event_id());
        Response::stream(move |stream| hub.subscribe(stream, &topics, after.as_deref()))
    })
}
