//! Good input, changed at random, at the three places where bytes of others are read: requests, batches, the command
//! line. Whatever comes, the server answers well or closes, and what is read in one piece is read in many. Some seconds
//! here; `TIDINGS_FUZZ_SECONDS` lengthens it.
#![cfg(unix)]

use crate::support::{Client, InProcess, Message, PATIENCE, Parser, Random, Seed, eventually, seeds};
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidings::{Config, Event, EventType, Request, Response};

/// Runs one case after the other for a second, or for as long as the environment says.
fn each_case(seed: &Seed, mut case: impl FnMut(&mut Random)) {
    let seconds = std::env::var("TIDINGS_FUZZ_SECONDS").map_or(1.0, |seconds| seconds.parse().expect("seconds"));
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut random = seed.random(0);
    let mut cases = 0;
    while Instant::now() < until || cases == 0 {
        case(&mut random);
        cases += 1;
    }
    println!("{cases} cases");
}

/// One of these, with up to five changes: a byte, a piece put in, taken out, said twice, or made very long.
fn mutated(random: &mut Random, good: &[&str], pieces: &[&str]) -> Vec<u8> {
    let mut bytes = random.pick(good).as_bytes().to_vec();
    for _ in 0..random.below(6) {
        let from = random.below(bytes.len() as u64 + 1) as usize;
        let to = (from + random.below(20) as usize).min(bytes.len());
        match random.below(7) {
            0 if from < bytes.len() => bytes[from] = random.below(256) as u8,
            1 => drop(bytes.drain(from..to)),
            2 => {
                let again = bytes[from..to].to_vec();
                let at = random.below(bytes.len() as u64 + 1) as usize;
                bytes.splice(at..at, again);
            }
            3 if random.once_in(20) => {
                let count = random.below(9_000) as usize;
                let byte = *random.pick(b"ax:/%, \r\n");
                bytes.splice(from..from, std::iter::repeat_n(byte, count));
            }
            _ => drop(bytes.splice(from..from, random.pick(pieces).bytes())),
        }
    }
    bytes
}

const REQUESTS: [&str; 9] = [
    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /a%20b?a=b+c&a=%41&token=x HTTP/1.1\r\nHost: localhost:80\r\nCookie: a=b; token=\"x\"\r\nLast-Event-ID: 1-2\r\n\r\n",
    "\r\nPOST http://localhost:80/x HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    "PUT /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n1 \r\n!\r\n0\r\nX: y\r\n\r\n",
    "POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\nnobody reads",
    "POST /x HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nAccess-Control-Request-Method: PUT\r\n\r\n",
    "GET /1 HTTP/1.1\r\nHost: a.localhost\r\n\r\nGET /2 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    "POST /1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1POST /2 HTTP/1.1\r\nHost: localhost\r\n\
     Transfer-Encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

const REQUEST_PIECES: [&str; 44] = [
    "\r\n",
    "\r",
    "\n",
    "\r\n\r\n",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "=",
    "\"",
    "\\",
    "%",
    "%2",
    "%e4%bd",
    "%00",
    "?",
    "&",
    "#",
    "/",
    "//",
    "://",
    "[",
    "]",
    "@",
    "\0",
    "\u{7f}",
    "\u{e4}",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 6, 6\r\n",
    "Content-Length: +5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: close\r\n",
    "X : y\r\n",
    " folded\r\n",
    "chunked",
    "99999999999999999999",
    "ffffffffffffffff\r\n",
    "0\r\n\r\n",
];

/// Tells all that a request says, so that two that were read differently are answered differently.
fn tell(request: &Request) -> Response {
    let said = (request.method(), request.path(), request.query("a"), request.cookie("token"), request.field("x"));
    let meant = (request.last_event_id(), request.has_token("x"), request.field("host"));
    let mut text = format!("{said:?} {meant:?}");
    if request.path() != "/unread" {
        match request.body() {
            Ok(body) => text += &format!(" {:?}", String::from_utf8_lossy(body)),
            Err(refusal) => return refusal,
        }
    }
    Response::text(200, text)
}

/// All that is answered to these bytes, sent in pieces of at most so many, and to the end behind them.
fn answered(server: &InProcess, bytes: &[u8], random: Option<&mut Random>) -> String {
    let mut socket = Client::connect(server.address).socket;
    let is_whole = random.is_none();
    let mut rest = bytes;
    let mut random = random;
    while !rest.is_empty() {
        let length = random.as_mut().map_or(rest.len(), |random| 1 + random.below(rest.len() as u64) as usize);
        let (piece, left) = rest.split_at(length);
        // An error is that of a server which has seen enough, and has said so.
        if socket.write_all(piece).is_err() {
            break;
        }
        rest = left;
        if !is_whole {
            std::thread::yield_now();
        }
    }
    let _ = socket.shutdown(Shutdown::Write);
    let mut answers = Vec::new();
    match socket.read_to_end(&mut answers) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("neither an answer nor an end: {error}"),
    }
    leave(socket);
    String::from_utf8(answers).expect("answers are text")
}

/// Leaves nothing that waits in the system for a minute: there are too many of these.
fn leave(socket: TcpStream) {
    #[cfg(target_os = "linux")]
    crate::system::reset(socket);
    #[cfg(not(target_os = "linux"))]
    drop(socket);
}

/// Takes answers apart, which must be well-formed and no 500, and gives them back without what is another each time: the
/// date, and whether a client that waits was told to go on.
fn well_formed(mut answers: &str) -> Vec<String> {
    let mut all = Vec::new();
    while !answers.is_empty() {
        let (head, rest) = answers.split_once("\r\n\r\n").expect("a whole head");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let (code, words) = status.split_once(' ').expect("a code and words");
        assert!(code.len() == 3 && code != "500" && !words.is_empty(), "{status}");
        answers = rest;
        if code == "100" {
            continue;
        }
        let mut length = None;
        let mut kept = vec![status];
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a name and a value");
            assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{line}");
            assert!(!value.contains(['\r', '\n', '\0']), "{line}");
            match name {
                "Date" => {}
                "Content-Length" => assert_eq!(length.replace(value.parse::<usize>().unwrap()), None, "{head}"),
                _ => kept.push(line),
            }
        }
        let (body, rest) = rest.split_at(length.unwrap_or(0));
        answers = rest;
        kept.push(body);
        all.push(kept.join("\n"));
        let closes = kept.contains(&"Connection: close");
        assert!(!closes || answers.is_empty(), "there is more behind the last: {answers}");
    }
    all
}

#[test]
fn any_request_is_answered_well_and_the_same_in_pieces() {
    for seed in seeds() {
        let server = InProcess::start(Config { max_body: 10_000, ..Config::default() }, tell);
        let (mut taken, mut refused, mut closed) = (0, 0, 0);
        each_case(&seed, |random| {
            let bytes = mutated(random, &REQUESTS, &REQUEST_PIECES);
            if bytes.windows(5).any(|window| window == b"HEAD ") {
                return; // whose answer has no body, which cannot be told from the answer
            }
            let whole = well_formed(&answered(&server, &bytes, None));
            let pieces = well_formed(&answered(&server, &bytes, Some(random)));
            assert_eq!(whole, pieces, "of {:?}", String::from_utf8_lossy(&bytes));
            for answer in &whole {
                match &answer[..1] {
                    "2" => taken += 1,
                    _ => refused += 1,
                }
            }
            closed += usize::from(whole.is_empty());
        });
        println!("{taken} taken, {refused} refused, {closed} not even begun");
        assert!(taken > 0 && refused > 0);
        eventually("nobody is left", || server.monitor.counts().connections == 0);
    }
}

const STREAMS: [&str; 5] = [
    "data: a\n\n",
    "event: note\ndata: one\ndata: two\n\nevent: other\nid: 7\nretry: 10\ndata:x\n\n",
    ": comment\r\n\r\ndata\r\n\r\ndata:  b\r\rdata: c\r",
    "\u{feff}data: 你好\nid: 1\n\ndata: 😀",
    "event: a\nevent: b\ndata: x\n\nevent: note\n\ndata: y\nunknown: z\n\n",
];

const STREAM_PIECES: [&str; 24] = [
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\r",
    "\n\r",
    " ",
    "  ",
    ":",
    ": ",
    "data: ",
    "data",
    "data:",
    "event: ",
    "event:x\n",
    "id: 1\n",
    "retry: 5\n",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "é",
    "😀",
    "tidings:",
    "x",
];

#[test]
fn any_batch_is_read_as_an_event_source_would() {
    for seed in seeds() {
        let (mut events, mut refused) = (0, 0);
        each_case(&seed, |random| {
            let text = String::from_utf8_lossy(&mutated(random, &STREAMS, &STREAM_PIECES)).into_owned();
            let mut parser = Parser::default();
            // At random places, which cut characters and line ends in two.
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (piece, left) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
                parser.feed(piece);
                rest = left;
            }
            parser.feed(b"\n\n\n"); // a last block counts, also without its blank line
            let Ok(parsed) = Event::parse(&text) else {
                // One bad type refuses all, also where no event comes of it.
                assert!(text.contains('\0') || text.len() > EventType::MAX_BYTES, "{text:?}");
                refused += 1;
                return;
            };
            let typed = |message: Message| (EventType::new(message.event).expect("a good type"), message.data);
            let expected: Vec<_> = parser.messages.into_iter().map(typed).collect();
            events += parsed.len();
            // Without a type it is a `message`, as for a client.
            let as_client = |(event_type, data): (EventType, String)| {
                let is_message = event_type == EventType::new("message").unwrap();
                let event = Event::data(data);
                (event.clone().with_type(event_type), is_message.then(|| event.with_type(EventType::new("").unwrap())))
            };
            assert_eq!(parsed.len(), expected.len(), "{text:?}");
            for (parsed, expected) in parsed.into_iter().zip(expected.into_iter().map(as_client)) {
                assert!(parsed == expected.0 || Some(&parsed) == expected.1.as_ref(), "{parsed:?} of {text:?}");
            }
        });
        println!("{events} events, {refused} batches refused");
        assert!(events > 0);
    }
}

const WORDS: [&str; 34] = [
    "serve",
    "demo",
    "--stdin",
    "--heartbeat",
    "--retry",
    "--history",
    "--history-bytes",
    "--history-total",
    "--queue-bytes",
    "--max-connections",
    "--max-per-address",
    "--max-topics",
    "--max-body",
    "--allow-origin",
    "--allow-host",
    "--publish-token-file",
    "--subscribe-token-file",
    "--open",
    "--quiet",
    "--help",
    "--version",
    "--listen",
    "--",
    "-h",
    "--history=5",
    "15s",
    "500ms",
    "64KiB",
    "1MiB",
    "0",
    "1024",
    "99999999999999999999",
    "https://example.com",
    "*",
];

const WORD_PIECES: [&str; 18] = [
    "-",
    "--",
    "=",
    " ",
    "\n",
    "\r",
    ",",
    ".",
    ":",
    "0",
    "9999999999",
    "ms",
    "h",
    "KiB",
    "GiB",
    "é",
    "\u{feff}",
    "\u{7f}",
];

/// The address is in use, so that it ends also where all is well.
#[test]
fn any_command_line_ends_with_a_word_and_not_with_a_panic() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    for seed in seeds() {
        let mut statuses = [0; 3];
        each_case(&seed, |random| {
            let mut words: Vec<OsString> = Vec::new();
            for _ in 0..random.below(6) {
                let word = if random.once_in(3) {
                    mutated(random, &WORDS, &WORD_PIECES)
                } else {
                    random.pick(&WORDS).as_bytes().to_vec()
                };
                let zeroless = word.into_iter().filter(|byte| *byte != 0).collect(); // which no argument can hold
                words.push(OsString::from_vec(zeroless));
            }
            // Last, so that it counts: what stands before it may be an address, too.
            let words = words.iter().map(|word| &word[..]).chain(["--listen".as_ref(), listen.as_ref()]);
            let words: Vec<&std::ffi::OsStr> = words.collect();
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
            command.args(&words).env_remove("TIDINGS_PUBLISH_TOKEN").env_remove("TIDINGS_SUBSCRIBE_TOKEN");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let until = Instant::now() + PATIENCE;
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                if Instant::now() > until {
                    let _ = child.kill();
                    panic!("it goes on with {words:?}");
                }
                std::thread::sleep(Duration::from_micros(200));
            };
            let mut told = String::new();
            child.stderr.take().unwrap().read_to_string(&mut told).expect("what is told is text");
            let code = status.code().filter(|code| (0..3).contains(code));
            let code = code.unwrap_or_else(|| panic!("{status} at {words:?}: {told}")) as usize;
            // One line, whatever is in the words.
            assert_eq!(told.lines().count(), usize::from(code > 0), "{code} at {words:?}: {told}");
            statuses[code] += 1;
        });
        println!("{} asked for help, {} may be, {} cannot be", statuses[0], statuses[1], statuses[2]);
        assert!(statuses[1] > 0 && statuses[2] > 0);
    }
}
