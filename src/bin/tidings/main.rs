//! The program: from the command line to a server that runs. It uses the library's public API and nothing else of it,
//! so it is also the example of a whole program.
//!
//! What a user did wrong is told in one line and ends with 2; what the system does not give, with 1. Once the server
//! runs, nothing that happens to the three standard streams ends it: `println!` would panic on a closed pipe, so it is
//! not used.

mod arguments;
mod capacity;
mod demo;
mod serve;
mod stdin;

use arguments::{Command, Options};
use capacity::Capacity;
use serve::{Delayed, Site, Tokens};
use std::error::Error as _;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;
use tidings::{Config, Hub, Server};

/// The longest token: no longer than fits a head with everything else that browsers put there.
const MAX_TOKEN: u64 = 1024;

/// How long the process waits for the last line of its log: what is left of the 2 s in which a signal ends it.
const LAST_LINE_LIMIT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    tidings::use_one_heap();
    let outcome = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(arguments::HELP),
        Ok(Command::Version) => print(concat!("tidings ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Run(options)) => run(*options),
        Err(line) => Err(Failure::Usage(line)),
    };
    let (line, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(line)) => (line, 2),
        Err(Failure::System(line)) => (line, 1),
    };
    write_log(&format!("tidings: {line}"));
    ExitCode::from(code)
}

/// Why there is no server, in one line.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The arguments cannot be used.
    Usage(String),
    /// The arguments are fine, but the system does not give what they ask for.
    System(String),
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::System(format!("standard output: {error}")))
}

fn run(mut options: Options) -> Result<(), Failure> {
    let tokens = Tokens {
        publish: token(options.publish_token_file.as_deref(), "TIDINGS_PUBLISH_TOKEN")?,
        subscribe: token(options.subscribe_token_file.as_deref(), "TIDINGS_SUBSCRIBE_TOKEN")?,
    };
    let addresses = resolve(&options.listen)?;
    limit_reach(&mut options, &addresses, &tokens)?;
    let Options { mode, stdin, mut config, history, .. } = options;
    let capacity = capacity::of_this_box();
    config.max_connections = max_connections(options.max_connections, config.max_connections, capacity.as_ref())?;
    config.log = (!options.quiet).then_some(write_log);
    let server = bind(&addresses, &config)?;
    server.stopper().on_signals().map_err(failed)?;
    let hub = Hub::new(history);
    let delayed = Delayed::default();
    let site = Site {
        page: serve::page(mode),
        mode,
        hub: hub.clone(),
        history,
        access: config.access,
        tokens,
        scheduler: server.scheduler(),
        monitor: server.monitor(),
        delayed: delayed.clone(),
        log: server.log(),
        one_batch: serve::OneBatch::default(),
    };
    announce(server.local_addr(), &room(config.max_connections, capacity.as_ref()));
    if let Some(topic) = stdin {
        stdin::start(hub, topic, config.max_body, server.log())
            .map_err(|error| Failure::System(format!("standard input: {error}")))?;
    }
    let outcome = server.run(move |request| site.answer(request));
    // The server's own log has ended with it.
    if let (1.., Some(write)) = (delayed.count(), config.log) {
        write_last(write, format!("delayed publishes dropped: {}", delayed.count()));
    }
    outcome.map_err(failed)
}

/// Beyond loopback, publishing must have been opened or closed on purpose.
fn limit_reach(options: &mut Options, addresses: &[SocketAddr], tokens: &Tokens) -> Result<(), Failure> {
    if addresses.iter().all(|address| address.ip().to_canonical().is_loopback()) {
        return Ok(());
    }
    if tokens.publish.is_none() && !options.open {
        return Err(Failure::Usage(format!(
            "--listen {} lets everybody who reaches it publish: set TIDINGS_PUBLISH_TOKEN or add --publish-token-file F, \
             or --open to allow it",
            options.listen
        )));
    }
    if tokens.publish.is_some() && tokens.subscribe.is_some() {
        // Whoever has no token gets nothing by any name, so any name may be used.
        options.config.access.hosts.push("*".to_owned());
    }
    Ok(())
}

fn failed(error: tidings::Error) -> Failure {
    let system = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let hint = match system.map(io::Error::kind) {
        Some(io::ErrorKind::AddrInUse) => "; another tidings, perhaps: --listen with another port goes beside it",
        _ => "",
    };
    Failure::System(format!("{error}{hint}"))
}

fn resolve(listen: &str) -> Result<Vec<SocketAddr>, Failure> {
    let addresses = listen.to_socket_addrs();
    addresses.map(Iterator::collect).map_err(|error| Failure::System(format!("bind {listen}: {error}")))
}

/// Binds to the first address that can be: a name may have several, and only one of them be this box's.
fn bind(addresses: &[SocketAddr], config: &Config) -> Result<Server, Failure> {
    let mut outcome = Err(Failure::System("bind: the name has no address".to_owned()));
    for address in addresses {
        outcome = Server::bind(address, config.clone()).map_err(failed);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// The token from the file, else from the environment, else none.
fn token(file: Option<&Path>, variable: &str) -> Result<Option<String>, Failure> {
    match (file, std::env::var_os(variable)) {
        (Some(file), _) => token_of_file(file).map_err(|why| format!("token file {file:?}: {why}")),
        (None, Some(value)) => token_of_variable(value).map_err(|why| format!("{variable}: {why}")),
        (None, None) => return Ok(None),
    }
    .map(Some)
    .map_err(Failure::Usage)
}

fn token_of_file(file: &Path) -> Result<String, String> {
    let mut line = Vec::new();
    // Two more than a token may have: its line end.
    let mut start = BufReader::new(File::open(file).map_err(|error| error.to_string())?.take(MAX_TOKEN + 2));
    start.read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    checked_token(line.strip_suffix(b"\r").unwrap_or(line))
}

fn token_of_variable(value: OsString) -> Result<String, String> {
    checked_token(value.as_encoded_bytes())
}

/// A token must be able to stand in a header field, or nobody could give it. The text of an error never shows it.
fn checked_token(token: &[u8]) -> Result<String, String> {
    if token.is_empty() {
        return Err("the token is empty: write one, or leave the option and the variable out".to_owned());
    }
    if token.len() as u64 > MAX_TOKEN {
        return Err(format!("the token is too long: write one of at most {MAX_TOKEN} characters"));
    }
    match std::str::from_utf8(token) {
        Ok(token) if token.bytes().all(|b| b.is_ascii_graphic()) => Ok(token.to_owned()),
        _ => {
            Err("the token has a space, a control character or one beyond ASCII: write visible ASCII alone".to_owned())
        }
    }
}

/// As many connections as asked for, if they fit; as many as fit, if nobody asked.
fn max_connections(asked: Option<usize>, default: usize, capacity: Option<&Capacity>) -> Result<usize, Failure> {
    match (asked, capacity) {
        (Some(asked), Some(Capacity { clients, limit })) if asked > *clients => Err(Failure::Usage(format!(
            "--max-connections {asked} does not fit into this box: write at most {clients}, or raise its bound: {limit}"
        ))),
        (Some(asked), _) => Ok(asked),
        (None, Some(capacity)) => Ok(default.min(capacity.clients).max(1)),
        (None, None) => Ok(default),
    }
}

/// For how many clients there is room, and why not for more.
fn room(max_connections: usize, capacity: Option<&Capacity>) -> String {
    let first = format!("room for {max_connections} clients");
    match capacity {
        None => format!("{first} (--max-connections); what this box could hold is not known"),
        Some(Capacity { clients, limit }) if *clients > max_connections => {
            format!("{first} (--max-connections); this box could hold {clients}, bounded by {limit}")
        }
        Some(Capacity { limit, .. }) => format!("{first}, bounded by {limit}"),
    }
}

fn announce(address: SocketAddr, room: &str) {
    let mut out = io::stdout().lock();
    // Whoever started the server may have closed the pipe or filled the disk; it serves all the same.
    let _ = writeln!(out, "listening on http://{address}\n{room}").and_then(|()| out.flush());
}

/// Writes a line to standard error, in one write, so that lines of several processes do not mix. That it cannot be
/// written, to a full disk or a closed pipe, is no reason to end the server, and there is nowhere to tell it.
fn write_log(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Writes the last line of the log, on a thread that is not waited for for long: a pipe that is full and that nobody
/// reads must not keep the process.
fn write_last(write: fn(&str), line: String) {
    let (written, is_written) = mpsc::channel();
    let thread = std::thread::Builder::new().spawn(move || {
        write(&line);
        let _ = written.send(()); // nobody waits for it any more
    });
    if thread.is_ok() {
        let _ = is_written.recv_timeout(LAST_LINE_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capacity::Limit;

    #[test]
    fn a_token_can_stand_in_a_header_field() {
        for (token, is_sound) in [
            (&b"secret"[..], true),
            (b"a:b;c=d\"~!", true),
            (b"", false),
            (b"two words", false),
            (b"tab\t", false),
            ("schl\u{fc}ssel".as_bytes(), false),
            (b"\xff", false),
            (&[b'x'; 1024], true),
            (&[b'x'; 1025], false),
        ] {
            assert_eq!(checked_token(token).is_ok(), is_sound, "{token:?}");
        }
        let error = checked_token(b"pass word").expect_err("a space");
        assert!(!error.contains("pass"), "{error}");
    }

    #[test]
    fn connections_asked_for_must_fit_and_the_default_gives_way() {
        let room_for = |clients| Some(Capacity { clients, limit: Limit::OpenFiles });
        for (asked, capacity, expected) in [
            (Some(10), None, Some(10)),
            (Some(10), room_for(10), Some(10)),
            (Some(11), room_for(10), None),
            (None, None, Some(1024)),
            (None, room_for(5000), Some(1024)),
            (None, room_for(960), Some(960)),
            (None, room_for(0), Some(1)),
        ] {
            assert_eq!(max_connections(asked, 1024, capacity.as_ref()).ok(), expected, "{asked:?} {capacity:?}");
        }
    }

    #[test]
    fn the_room_is_told_with_what_bounds_it() {
        let capacity = Capacity { clients: 960, limit: Limit::OpenFiles };
        assert_eq!(room(960, Some(&capacity)), "room for 960 clients, bounded by open files (ulimit -n)");
        assert_eq!(
            room(100, Some(&capacity)),
            "room for 100 clients (--max-connections); this box could hold 960, bounded by open files (ulimit -n)"
        );
        assert_eq!(room(100, None), "room for 100 clients (--max-connections); what this box could hold is not known");
    }
}
