//! One's own check in front of a stream: an early return. Here it is a token, by any of the four ways in which clients
//! send one; it could be a session cookie that is looked up.
//!
//! ```text
//! TOKEN=secret cargo run --example auth
//! curl -N -H 'Authorization: Bearer secret' http://127.0.0.1:3000/
//! curl -N 'http://127.0.0.1:3000/?token=secret'
//! curl -i http://127.0.0.1:3000/
//! ```

use std::time::Duration;
use tidings::{Config, Event, Response, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let token = std::env::var("TOKEN").map_err(|_| "set TOKEN to the secret that clients must send")?;
    let server = Server::bind("127.0.0.1:3000", Config::default())?;
    server.stopper().on_signals()?;
    server.run(move |request| {
        if !request.has_token(&token) {
            return Response::text(401, "a token is needed").field("WWW-Authenticate", "Bearer");
        }
        Response::stream(|stream| {
            let secrets = (1..).map(|n| Event::data(format!("secret number {n}")));
            stream.every(Duration::from_secs(1), secrets)
        })
    })?;
    Ok(())
}
