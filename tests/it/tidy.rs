//! The invariants of `lib.rs`, as far as the sources show them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A room of the library: its name, and its code without tests, comments and documentation.
fn rooms() -> BTreeMap<String, String> {
    let mut rooms = BTreeMap::new();
    for entry in fs::read_dir(Path::new(ROOT).join("src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            rooms.insert(name, code_of(&fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(rooms.len() > 10, "the rooms were not found");
    rooms
}

fn code_of(source: &str) -> String {
    let lines =
        source.lines().take_while(|line| !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test"));
    let code = lines.filter(|line| !line.trim_start().starts_with("//"));
    code.map(|line| line.split(" // ").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The rooms that a room names.
fn imports(code: &str) -> Vec<&str> {
    let named = code.split("crate::").skip(1);
    let mut names: Vec<_> =
        named.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Who may name whom. A room that is missing here is a question to be answered here.
const ARROWS: &str = "
    lib:
    error:
    json:
    date:
    lock:
    log: lock shield
    number:
    os: number
    shield:
    event: error
    head:
    body: head
    request: head response
    response: head queue stream
    access: head request response
    replay: event
    agenda:
    scheduler: agenda error lock os shield
    queue: event
    outbox: event lock os queue shield
    stream: agenda event outbox queue scheduler
    topics: error event outbox replay stream
    hub: event json lock os outbox queue replay stream topics
    roster: agenda event lock log os outbox queue
    connection: access body date event head log os outbox queue request response roster scheduler shield stream
    server: access connection error event log os outbox request response roster scheduler
";

#[test]
fn imports_point_one_way() {
    let arrows: BTreeMap<&str, Vec<&str>> = ARROWS
        .lines()
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(room, allowed)| (room, allowed.split_whitespace().collect()))
        .collect();
    for (room, code) in rooms() {
        let allowed = arrows.get(&room[..]).unwrap_or_else(|| panic!("who may {room}.rs name?"));
        for import in imports(&code) {
            assert!(allowed.contains(&import), "{room}.rs names {import}.rs");
        }
    }
}

#[test]
fn codecs_and_the_agenda_do_no_io_and_read_no_clock() {
    let rooms = rooms();
    for room in ["event", "head", "body", "request", "response", "access", "replay", "date", "json", "agenda"] {
        for forbidden in ["std::fs", "TcpStream", "TcpListener", "UdpSocket", "::now()", "thread::", "stdout", "stderr"]
        {
            assert!(!rooms[room].contains(forbidden), "{room}.rs has {forbidden}");
        }
    }
}

#[test]
fn only_the_queue_writes_to_a_streaming_socket() {
    for (room, code) in rooms() {
        let writes = code.contains(".write(") || code.contains(".write_all(") || code.contains(".write_vectored(");
        // os.rs rings bells; connection.rs writes the answers that are no streams.
        assert!(!writes || ["queue", "os", "connection"].contains(&&room[..]), "{room}.rs writes to something");
    }
}

#[test]
fn unsafe_stands_in_os_alone_and_each_has_its_reason() {
    let source = |path: &Path| fs::read_to_string(path).unwrap();
    for path in all_sources(&Path::new(ROOT).join("src")) {
        let text = source(&path);
        if !path.ends_with("src/os.rs") {
            let code = code_of(&text);
            let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
            assert!(!words.iter().any(|word| code.contains(word)), "{path:?} has unsafe in it");
            continue;
        }
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if line.contains("unsafe {") {
                let before = lines[at.saturating_sub(5)..at].join("\n");
                assert!(before.contains("// SAFETY:"), "os.rs:{}: no reason: {line}", at + 1);
            }
        }
    }
}

fn all_sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all_sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_binary_uses_the_public_api_alone() {
    for path in all_sources(&Path::new(ROOT).join("src/bin")) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("#[path") && !text.contains("include!("), "{path:?} reaches around the library");
    }
}

#[test]
fn locks_are_taken_over_when_poisoned() {
    for (room, code) in rooms() {
        assert!(!code.contains(".lock().unwrap()"), "{room}.rs gives up at a poisoned lock");
    }
}

#[test]
fn nothing_is_printed_by_macros_that_panic_on_a_closed_pipe() {
    for path in all_sources(&Path::new(ROOT).join("src")) {
        let code = code_of(&fs::read_to_string(&path).unwrap());
        for forbidden in ["println!", "print!(", "todo!", "unimplemented!", "dbg!"] {
            assert!(!code.contains(forbidden), "{path:?} has {forbidden}");
        }
    }
}

#[test]
fn there_are_no_dependencies() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let section = |name: &str| {
        let (_, rest) = manifest.split_once(&format!("[{name}]\n"))?;
        Some(rest.split("\n[").next()?.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("\n"))
    };
    assert_eq!(section("dependencies").unwrap(), "");
    assert!(section("build-dependencies").is_none());
    let dev = section("dev-dependencies").unwrap();
    assert!(dev.lines().count() == 1 && dev.starts_with("ureq"), "{dev}");
}

#[test]
fn rooms_are_small() {
    for path in all_sources(&Path::new(ROOT).join("src")) {
        let lines = code_of(&fs::read_to_string(&path).unwrap()).lines().count();
        assert!(lines <= 500, "{path:?} has {lines} lines of code");
    }
}

/// What the README's table says of a limit, and the line of the sources that sets it.
const LIMITS: [(&str, &str, &str); 21] = [
    ("head; target; fields | 8 KiB;", "src/head.rs", "MAX_HEAD: usize = 8 * 1024;"),
    ("8 KiB; 4 KiB;", "src/head.rs", "MAX_TARGET: usize = 4 * 1024;"),
    ("4 KiB; 64 |", "src/head.rs", "MAX_FIELDS: usize = 64;"),
    ("64 KiB (`--max-body`)", "src/server.rs", "max_body: 64 * 1024,"),
    ("| 10 s; 30 s; 75 s |", "src/connection.rs", "HEAD_LIMIT: Duration = Duration::from_secs(10);"),
    ("| 10 s; 30 s; 75 s |", "src/connection.rs", "BODY_LIMIT: Duration = Duration::from_secs(30);"),
    ("| 10 s; 30 s; 75 s |", "src/connection.rs", "IDLE_LIMIT: Duration = Duration::from_secs(75);"),
    ("1,024 (`--max-connections`)", "src/server.rs", "max_connections: 1024,"),
    ("256 KiB (`--queue-bytes`)", "src/server.rs", "queue_bytes: 256 * 1024,"),
    ("takes nothing | 10 s |", "src/outbox.rs", "STALL_LIMIT: Duration = Duration::from_secs(10);"),
    ("256 events, 1 MiB (`--history`", "src/topics.rs", "events: 256,"),
    ("256 events, 1 MiB (`--history`", "src/topics.rs", "bytes: 1 << 20,"),
    ("16 MiB (`--history-total`)", "src/topics.rs", "total_bytes: 16 << 20,"),
    ("1,024 (`--max-topics`)", "src/topics.rs", "topics: 1024,"),
    ("(`--max-topics`); 64 |", "src/topics.rs", "MAX_ON_A_STREAM: usize = 64;"),
    ("timers | 65,536 |", "src/agenda.rs", "MAX_TASKS: usize = 65_536;"),
    ("delayed publishes | 1,024, 1 MiB |", "src/bin/tidings/serve.rs", "MAX_DELAYED: usize = 1024;"),
    ("delayed publishes | 1,024, 1 MiB |", "src/bin/tidings/serve.rs", "MAX_DELAYED_BYTES: usize = 1 << 20;"),
    ("onto an open stream | 8 KiB |", "src/connection.rs", "MAX_PIPELINED: usize = 8 * 1024;"),
    ("event type, a topic's name | 128 bytes |", "src/event.rs", "MAX_BYTES: usize = 128;"),
    ("event type, a topic's name | 128 bytes |", "src/topics.rs", "MAX_BYTES: usize = 128;"),
];

#[test]
fn the_limits_in_the_readme_are_those_of_the_code() {
    let read = |path: &str| fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    let readme = read("README.md");
    for (said, path, set) in LIMITS {
        assert!(readme.contains(said), "README.md does not say {said:?}");
        assert!(read(path).contains(set), "{path} has no {set:?}");
    }
    assert!(readme.lines().count() <= 180, "the README has {} lines", readme.lines().count());
}

#[test]
fn functions_are_short() {
    for path in ["src", "tests", "examples"].iter().flat_map(|folder| all_sources(&Path::new(ROOT).join(folder))) {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let (code, indent) = (line.trim_start(), line.len() - line.trim_start().len());
            let is_begin = code.starts_with("fn ") || code.starts_with("pub") && code.contains(" fn ");
            // As rustfmt writes it: the end stands under the beginning, or on the same line.
            let end = format!("{:indent$}}}", "");
            if is_begin && !code.ends_with(['}', ';']) {
                let length =
                    1 + lines[at..].iter().position(|line| *line == end).unwrap_or_else(|| panic!("{path:?}: {line}"));
                assert!(length <= 60, "{path:?}:{}: {length} lines: {line}", at + 1);
            }
        }
    }
}

#[test]
fn no_six_lines_stand_twice() {
    let mut places = BTreeMap::new();
    for path in ["src", "examples"].iter().flat_map(|folder| all_sources(&Path::new(ROOT).join(folder))) {
        let code = code_of(&fs::read_to_string(&path).unwrap());
        // Imports repeat by their nature.
        let lines: Vec<_> = code.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("use ")).collect();
        for (at, six) in lines.windows(6).enumerate() {
            let place = (path.clone(), at);
            if let Some(other) = places.insert(six.join("\n"), place.clone()) {
                panic!("{other:?} and {place:?} have\n{}", six.join("\n"));
            }
        }
    }
    assert!(places.len() > 3000, "the sources were not found");
}
