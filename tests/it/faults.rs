//! Bad luck: resets, half-closed sockets, clients that vanish, threads that run out, handlers that panic, a clock that
//! jumps back. Each is made to happen; afterwards the server is what it was. (What clients send that is wrong or too much
//! is in `limits`, standard streams that are closed or full in `cli`, readers that stall in `slow_subscriber`.)

use crate::support::{Client, End, Events, InProcess, PATIENCE, at_best, eventually};
use std::cell::Cell;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tidings::{Closed, Config, Event, History, Hub, Request, Response, Topic};

const OK: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The panics that are wanted say so, for whoever reads the output.
const WANTED: &str = "a panic that is wanted";

/// A destructor that panics, at any time.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("{WANTED}");
        }
    }
}

/// Panics with a payload whose destructor panics as well.
fn panic_twice() {
    std::panic::panic_any(PanicsOnDrop)
}

/// Panics wherever a path says so.
fn panics_at(request: &Request) -> Response {
    let path = request.path().to_owned();
    match &path[..] {
        "/before" => panic!("{WANTED}"),
        "/before/twice" => panic_twice(),
        "/body" => {
            let _ = request.body();
            panic!("{WANTED}")
        }
        "/dropped" => {
            let held = PanicsOnDrop;
            return Response::stream(move |stream| {
                let _held = &held;
                stream.send(&Event::data("sent"))
            });
        }
        "/ok" => return Response::text(200, "ok"),
        _ => {}
    }
    Response::stream(move |stream| {
        stream.send(&Event::data("sent"))?;
        let is = |what: &'static str| path == what;
        match &path[..] {
            "/open" => panic!("{WANTED}"),
            "/open/twice" => panic_twice(),
            "/open/held" => {
                // Somebody else holds the stream as well, which must not keep it.
                let held = stream.clone();
                std::thread::spawn(move || {
                    while held.send(&Event::comment("")).is_ok() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                panic!("{WANTED}");
            }
            _ => {}
        }
        let first_panics = is("/first");
        let second_panics = is("/second");
        let twice = is("/second/twice");
        let hint_panics = is("/hint");
        let drop_panics = is("/iterator/dropped");
        let events = Panicky { sent: 0, first_panics, second_panics, twice, hint_panics, _held: None };
        stream.every(Duration::from_millis(1), Panicky { _held: drop_panics.then(|| PanicsOnDrop), ..events })
    })
}

/// Two events, and a panic somewhere.
struct Panicky {
    sent: usize,
    first_panics: bool,
    second_panics: bool,
    twice: bool,
    hint_panics: bool,
    _held: Option<PanicsOnDrop>,
}

impl Iterator for Panicky {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.sent += 1;
        assert!(!(self.first_panics && self.sent == 1), "{WANTED}");
        assert!(!(self.second_panics && self.sent == 2), "{WANTED}");
        if self.twice && self.sent == 2 {
            panic_twice();
        }
        (self.sent <= 2).then(|| Event::data("timed"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        assert!(!self.hint_panics, "{WANTED}");
        (0, None)
    }
}

#[test]
fn a_handler_that_panics_is_answered_with_500_and_its_connection_goes_on() {
    let server = InProcess::start(Config::default(), panics_at);
    let mut client = Client::connect(server.address);
    for path in ["/before", "/before/twice", "/body", "/before"] {
        for _ in 0..3 {
            client.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"));
            let head = client.read_head();
            assert_eq!((head.status, client.read_body(&head).lines().count()), (500, 1), "{path}");
            if head.field("Connection") == Some("close") {
                assert!(client.is_closed()); // a body that nobody has read stands in the way of the next request
                client = Client::connect(server.address);
            }
            client.send("GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let head = client.read_head();
            assert_eq!((head.status, &client.read_body(&head)[..]), (200, "ok\n"));
        }
    }
}

#[test]
fn a_panic_of_a_stream_ends_it_without_a_last_chunk_and_no_other() {
    let server = InProcess::start(Config::default(), panics_at);
    let mut panicked = 0;
    for (path, data) in [
        ("/open", &["sent"][..]),
        ("/open/twice", &["sent"]),
        ("/open/held", &["sent"]),
        ("/first", &["sent"]),
        ("/second", &["sent", "timed"]),
        ("/second/twice", &["sent", "timed"]),
        ("/hint", &["sent", "timed"]),
    ] {
        let mut well = Events::open(server.address, "/well", "");
        let mut events = Events::open(server.address, path, "");
        assert_eq!(events.rest().into_iter().map(|message| message.data).collect::<Vec<_>>(), data, "{path}");
        assert_eq!(events.end, Some(End::Broken), "{path}");
        panicked += 1;
        eventually("it is counted", || server.closed_as(Closed::Panicked) == panicked);
        assert_eq!((well.rest().len(), well.end), (3, Some(End::Finished)), "beside {path}");
    }
    eventually("all are over", || server.monitor.counts().streams == 0);
}

/// The stream is through when its closure or iterator goes: how it ends is open, that all goes on is not.
#[test]
fn a_destructor_that_panics_harms_no_more_than_its_stream() {
    let server = InProcess::start(Config::default(), panics_at);
    for path in ["/dropped", "/iterator/dropped"] {
        for _ in 0..3 {
            let mut events = Events::open(server.address, path, "");
            assert_eq!(events.expect_next().data, "sent");
            events.rest();
            let mut well = Events::open(server.address, "/well", "");
            assert_eq!((well.rest().len(), well.end), (3, Some(End::Finished)), "after {path}");
        }
    }
    eventually("all are over", || server.monitor.counts().streams == 0);
    eventually("no connection is left", || server.monitor.counts().connections == 0);
}

#[test]
fn a_log_that_panics_loses_that_line_alone() {
    use std::sync::Mutex;
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    fn log(line: &str) {
        assert!(!line.contains("/panics"), "{WANTED}");
        LINES.lock().unwrap().push(line.to_owned());
    }
    let config = Config { log: Some(log), ..Config::default() };
    let server = InProcess::start(config, |_| Response::stream(|stream| stream.send(&Event::data("sent"))));
    for path in ["/panics", "/a", "/panics", "/b"] {
        assert_eq!(Events::open(server.address, path, "").rest().len(), 1);
    }
    let has = |part: &str| LINES.lock().unwrap().iter().any(|line| line.contains(part));
    eventually("what comes after a panic is logged", || has(" /b ended"));
    assert!(has(" /a ended"));
}

/// Where a stack ends cannot be counted from where a thread begins: the program's thread-local variables take a part of
/// the same memory. What is given back of a stack must not be theirs, nor another thread's stack.
#[test]
fn large_thread_local_variables_outlive_a_stream() {
    const BYTES: usize = 64 * 1024;
    thread_local! {
        static LARGE: [Cell<u8>; BYTES] = const { [const { Cell::new(0) }; BYTES] };
    }
    // Where it is: a copy would take as much again of what is left of the stack.
    fn fill(with: u8) {
        LARGE.with(|large| large.iter().for_each(|byte| byte.set(with)));
    }
    fn is_filled(with: u8) -> bool {
        LARGE.with(|large| large.iter().all(|byte| byte.get() == with))
    }
    #[inline(never)]
    fn deep(depth: usize) -> usize {
        let page = std::hint::black_box([depth as u8; 1024]);
        if depth == 0 { 0 } else { deep(depth - 1) + usize::from(page[7]) }
    }
    let server = InProcess::start(Config::default(), |request| {
        let with: u8 = request.query("with").unwrap().parse().unwrap();
        if request.path() == "/check" {
            return Response::text(200, is_filled(with).to_string());
        }
        fill(with);
        Response::stream(move |stream| {
            deep(8);
            // The end comes later, from another thread, when this one has given its stack back.
            stream.every(Duration::from_millis(20), [Event::data(is_filled(with).to_string())])
        })
    });
    let mut clients: Vec<_> = (1..40).map(|with: u8| (with, Client::connect(server.address))).collect();
    for _ in 0..2 {
        for (with, client) in &mut clients {
            client.send(format!("GET /fill?with={with} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        }
        for (with, client) in &mut clients {
            let head = client.read_head();
            assert!(client.read_body(&head).contains("data: true\n"));
            client.send(format!("GET /check?with={with} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            let head = client.read_head();
            assert_eq!(client.read_body(&head), "true\n", "what was {with} is something else");
        }
    }
}

/// The dead one is not cut: there is room for all that it does not read. It is dead all along, and costs nobody a thing.
#[test]
fn one_dead_reader_for_whom_all_is_kept_delays_no_other_stream() {
    const EVENTS: usize = 300;
    const BYTES: usize = 100_000;
    const LIVE: usize = 3;
    let hub = Hub::new(History { publish_bytes: 1 << 20, ..History::default() });
    let server = InProcess::with_hub(&hub, Config { queue_bytes: 64 << 20, ..Config::default() });
    let topic = Topic::new("a").unwrap();
    let event = Event::data("x".repeat(BYTES));
    // All of an event has come: its last byte has.
    let open = || {
        let mut events = Events::open(server.address, "/topics/a", "");
        assert_eq!(events.expect_next().event, "tidings:open");
        events
    };
    at_best("the latest of 300 events of 100 KB beside a dead reader", Duration::from_millis(200), || {
        let stalled = server.closed_as(Closed::Stalled);
        let dead = open();
        let (sender, receiver) = channel();
        let latest = std::thread::scope(|scope| {
            for _ in 0..LIVE {
                let (mut live, sender) = (open(), sender.clone());
                scope.spawn(move || {
                    for _ in 0..EVENTS {
                        let chunk = live.client.read_chunk().expect("an event");
                        assert!(chunk.len() > BYTES);
                        sender.send(()).unwrap();
                    }
                });
            }
            let one = || {
                let begin = Instant::now();
                hub.publish(&topic, &event).unwrap();
                (0..LIVE).for_each(|_| receiver.recv_timeout(PATIENCE).expect("it comes"));
                begin.elapsed()
            };
            (0..EVENTS).map(|_| one()).max().unwrap()
        });
        assert_eq!(server.closed_as(Closed::Behind), 0);
        // On a machine so busy that this took over ten seconds the dead one was cut after all: such a run does not count.
        let was_there = server.closed_as(Closed::Stalled) == stalled;
        drop(dead);
        eventually("all have left", || server.monitor.counts().streams == 0);
        if was_there { latest } else { Duration::MAX }
    });
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use crate::support::Tidings;
    use crate::system::{cpu_time, descriptors, reset, take_little, threads};
    use std::net::{Shutdown, SocketAddr};
    use std::os::unix::process::CommandExt;
    use std::path::PathBuf;
    use std::process::Command;

    /// A connection in one of the states that it can be in, at its client's end.
    fn in_state(server: &Tidings, state: &str) -> Client {
        let mut client = Client::connect(server.address);
        let post = |fields: &str| format!("POST /topics/posted HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        match state {
            "nothing sent" => {}
            "half a head" => client.send("GET /healthz HTTP/1.1\r\nHost: loc"),
            "half a body" => client.send(post("Content-Length: 9\r\n") + "half"),
            "half a chunk" => client.send(post("Transfer-Encoding: chunked\r\n") + "9\r\nhalf"),
            "told to go on" => {
                client.send(post("Content-Length: 9\r\nExpect: 100-continue\r\n"));
                client.read_through(b"\r\n\r\n").expect("100");
            }
            "an answer unread" => client.send(OK),
            "many answers unread" => client.send(OK.repeat(20)),
            "between requests" => {
                client.send(OK);
                let head = client.read_head();
                client.read_body(&head);
            }
            "refused and sending" => {
                client.send(post("Content-Length: 99999999\r\n"));
                client.send(vec![b'x'; 20_000]);
            }
            "a stream not awaited" => client.send(get("/topics/quiet")),
            "an idle stream" => {
                client.send(get("/topics/quiet"));
                client.read_through(b"tidings:open").expect("it opens");
            }
            "a busy stream" => {
                client.send(get("/topics/busy"));
                client.read_through(b"tidings:open").expect("it opens");
            }
            "a full queue" => {
                take_little(&client.socket);
                client.send(get("/topics/busy"));
                client.read_through(b"tidings:open").expect("it opens");
                // Until the kernel takes no more: what is published every few milliseconds, 8 KB each, goes on queueing.
                std::thread::sleep(Duration::from_millis(150));
            }
            "a replay" => {
                take_little(&client.socket);
                client.send(get("/topics/kept?lastEventId=earliest"));
                client.read_through(b"data: ").expect("it begins");
            }
            "a poll" => {
                take_little(&client.socket);
                client.send(get("/topics/kept?poll=1"));
                client.read_through(b"data: ").expect("it begins");
            }
            "after a stream" => {
                client.send(get("/topics/kept?limit=1&lastEventId=earliest"));
                client.read_through(b"\r\n0\r\n\r\n").expect("it ends");
            }
            other => panic!("what is {other}?"),
        }
        client
    }

    const STATES: [&str; 16] = [
        "nothing sent",
        "half a head",
        "half a body",
        "half a chunk",
        "told to go on",
        "an answer unread",
        "many answers unread",
        "between requests",
        "refused and sending",
        "a stream not awaited",
        "an idle stream",
        "a busy stream",
        "a full queue",
        "a replay",
        "a poll",
        "after a stream",
    ];

    /// Brings connections into every state, and ends them all in this way. Afterwards no thread, descriptor or stream is
    /// left, and who has listened meanwhile has missed nothing.
    fn ends_in_every_state(end: fn(Client, &str)) {
        const EACH: usize = 3;
        let server = Tidings::start(&["serve", "--queue-bytes", "64KiB"]);
        for n in 0..200 {
            server.publish("/topics/kept", &format!("{n} {}", "x".repeat(10_000)));
        }
        let mut listener = server.watch("/topics/busy");
        let (has_ended, ended) = channel::<()>();
        std::thread::scope(|scope| {
            let server = &server;
            let publisher = scope.spawn(move || {
                let mut published = 0;
                while ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    server.publish("/topics/busy", &format!("{published} {}", "y".repeat(8_000)));
                    published += 1;
                    std::thread::sleep(Duration::from_millis(3));
                }
                server.publish("/topics/busy", "the last");
                published
            });
            let heard = scope.spawn(|| {
                let mut heard = 0;
                loop {
                    let message = listener.expect_next();
                    if message.data == "the last" {
                        return heard;
                    }
                    assert!(message.data.starts_with(&format!("{heard} ")), "{heard} is {:.20}", message.data);
                    heard += 1;
                }
            });
            for state in STATES {
                let clients: Vec<_> = (0..EACH).map(|_| in_state(server, state)).collect();
                clients.into_iter().for_each(|client| end(client, state));
                // The listener's stream, and the connections of the publisher, come and go.
                eventually(&format!("all is over after {state}"), || server.metric("tidings_streams") == 1.0);
            }
            drop(has_ended);
            assert_eq!(publisher.join().unwrap(), heard.join().unwrap());
        });
        // Each has opened its streams, and whoever did not read was cut by one or the other.
        let over = |reason: &str| server.metric(&format!("tidings_disconnects_total{{reason=\"{reason}\"}}")) as usize;
        assert_eq!(over("left") + over("behind") + over("ended"), 7 * EACH, "{}", server.log());
        assert!(over("left") >= 3 * EACH && over("ended") >= EACH);
        assert_eq!(over("panicked"), 0);
        drop(listener);
        let alone = Client::connect(server.address);
        let fresh = Tidings::start(&["serve", "--queue-bytes", "64KiB"]);
        let _alone_too = Client::connect(fresh.address);
        eventually("its thread is there", || threads(fresh.pid()) == 5);
        eventually("no thread is left", || threads(server.pid()) == threads(fresh.pid()));
        eventually("no descriptor is left", || descriptors(server.pid()) == descriptors(fresh.pid()));
        drop(alone);
        assert_eq!(server.get("/healthz").0, 200);
    }

    #[test]
    fn a_reset_in_any_state_leaves_nothing_behind() {
        ends_in_every_state(|client, _| reset(client.socket));
    }

    /// The other end's kernel has what it needs to tell that nobody is there; what it still gets is answered by a reset.
    #[test]
    fn a_close_in_any_state_leaves_nothing_behind() {
        ends_in_every_state(|client, _| drop(client));
    }

    /// Nothing more will come, but the client still reads. What was asked for is answered, if all of it has come; a
    /// stream is left, because nobody tells by this whether anybody still listens.
    #[test]
    fn a_half_closed_connection_in_any_state_leaves_nothing_behind() {
        ends_in_every_state(|mut client, state| {
            client.socket.shutdown(Shutdown::Write).unwrap();
            // A kernel that may keep little for its reader takes its time, which is not what this is about.
            if !["a full queue", "a replay", "a poll"].contains(&state) {
                client.read_to_end();
            }
        });
    }

    #[test]
    fn a_stream_whose_client_shuts_its_side_is_left_without_a_last_chunk() {
        let server = Tidings::start(&["serve"]);
        let mut events = server.watch("/topics/a");
        events.client.socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!((events.rest(), events.end), (vec![], Some(End::Broken)));
        server.log_line_with(" /topics/a left after ");
        // With the request in the same packet as well.
        let mut client = Client::connect(server.address);
        client.send("GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.socket.shutdown(Shutdown::Write).unwrap();
        let head = client.read_head();
        let mut events = Events::new(client, head);
        assert!(events.rest().len() <= 1);
        assert_eq!(events.end, Some(End::Broken));
    }

    /// A user of this number is nobody's else, so that the threads counted are the server's alone; the superuser's are
    /// not bounded.
    #[test]
    #[ignore = "needs the superuser, to run the server as a user without one thread to spare"]
    fn out_of_threads_it_waits_and_goes_on() {
        const USER: u32 = 64_913;
        const PLACES: usize = 5;
        // Where that user may read it.
        let folder = Folder::new("threads");
        let program = folder.0.join("tidings");
        std::fs::copy(env!("CARGO_BIN_EXE_tidings"), &program).unwrap();
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", "127.0.0.1:0"]).uid(USER).gid(USER);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped()).env_clear();
        let mut server = Tidings::start_command(command);
        let mut stream = server.watch("/topics/a");

        let before = descriptors(server.pid());
        let bound = threads(server.pid()) + PLACES;
        let mut limit = Command::new("prlimit"); // by the same user, who may lower what is its own
        limit.args([&format!("--nproc={bound}:{bound}"), "--pid", &server.pid().to_string()]).uid(USER).gid(USER);
        assert!(limit.status().expect("prlimit runs").success());
        let mut served: Vec<_> = (0..PLACES).map(|_| Client::connect(server.address)).collect();
        for client in &mut served {
            client.send(OK);
            assert_eq!(client.read_head().status, 200);
            assert_eq!(client.read_exactly(3), b"ok\n");
        }
        // The one for which there was no thread is closed unanswered.
        let begun = Instant::now();
        let mut refused = 0;
        let cpu = cpu_time(server.pid());
        while begun.elapsed() < Duration::from_secs(1) {
            let mut client = Client::connect(server.address);
            assert!(client.is_closed());
            refused += 1;
        }
        assert!((1..=20).contains(&refused), "{refused} in a second: it is to pause between them");
        let cpu = cpu_time(server.pid()) - cpu;
        assert!(cpu < Duration::from_millis(300), "it was busy for {cpu:?} of a second");
        assert_eq!(server.log().matches("accepting waits").count(), 1, "{}", server.log());

        // Those who are here are served, by whoever is here.
        served[0].send("POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(served[0].read_head().status, 200);
        assert_eq!(stream.expect_next().data, "hi");
        drop(served);
        eventually("there is room again", || {
            let mut client = Client::connect(server.address);
            client.send(OK);
            client.read_through(b"\r\n").is_some_and(|line| line.starts_with(b"HTTP/1.1 200"))
        });
        eventually("nothing is left of those refused", || descriptors(server.pid()) == before);
        server.signal("TERM");
        assert!(server.wait().success());
    }

    /// A directory that every user may enter, gone on drop.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tidings-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A library to start a program with: each look at the clock sees one hour less than the one before, and each tenth
    /// the time as it is.
    const JUMPING_CLOCK: &str = r#"
        use std::ffi::{c_char, c_int, c_long, c_void};
        use std::sync::atomic::{AtomicU32, Ordering};

        unsafe extern "C" {
            fn dlsym(after: *mut c_void, name: *const c_char) -> *mut c_void;
        }
        static LOOKS: AtomicU32 = AtomicU32::new(0);

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut [c_long; 2]) -> c_int {
            const RTLD_NEXT: isize = -1;
            const CLOCK_REALTIME: c_int = 0;
            unsafe {
                let real = dlsym(RTLD_NEXT as *mut c_void, c"clock_gettime".as_ptr());
                let real: extern "C" fn(c_int, *mut [c_long; 2]) -> c_int = std::mem::transmute(real);
                let outcome = real(clock, time);
                if clock == CLOCK_REALTIME {
                    let hours = LOOKS.fetch_add(1, Ordering::Relaxed) % 10;
                    (*time)[0] -= hours as c_long * 3600;
                }
                outcome
            }
        }
    "#;

    /// The number and the time in an id.
    fn parts(id: &str) -> (u64, u64) {
        let (ms, n) = id.split_once('-').expect("an id");
        (n.parse().unwrap(), ms.parse().unwrap())
    }

    #[test]
    fn a_clock_that_jumps_back_takes_no_id_with_it() {
        const EVENTS: usize = 60;
        let folder = Folder::new("clock");
        let (source, library) = (folder.0.join("clock.rs"), folder.0.join("libclock.so"));
        std::fs::write(&source, JUMPING_CLOCK).unwrap();
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        rustc.args(["--crate-type", "cdylib", "--edition", "2024", "-o"]).args([&library, &source]);
        assert!(rustc.status().expect("rustc runs").success());
        let mut command = Tidings::command(&["serve"]);
        command.env("LD_PRELOAD", &library);
        let server = Tidings::start_command(command);

        // The same as in a `Date`, where it can be seen that the clock does jump.
        let dates: Vec<_> = (0..20)
            .map(|_| {
                let mut client = Client::connect(server.address);
                client.send(OK);
                let date = client.read_head().field("Date").unwrap().to_owned();
                date[17..19].parse::<u8>().unwrap()
            })
            .collect();
        assert!(dates.windows(2).filter(|hours| hours[0] != hours[1]).count() > 10, "it stands still: {dates:?}");

        let mut live = server.subscribe("/topics/a");
        let mut last = parts(&live.expect_next().last_event_id);
        let ids: Vec<_> = (0..EVENTS).map(|n| server.publish("/topics/a", &n.to_string())).collect();
        for (n, id) in ids.iter().enumerate() {
            let (at, before) = (parts(id), last);
            assert_eq!(at.0, before.0 + 1, "{id}");
            assert!(at.1 >= before.1, "{id} is of before {before:?}");
            last = at;
            let message = live.expect_next();
            assert_eq!((&message.last_event_id, message.data), (id, n.to_string()));
        }
        for n in [0, 7, EVENTS - 1] {
            let mut resumed = server.subscribe_with("/topics/a", &format!("Last-Event-ID: {}\r\n", ids[n]));
            let rest: Vec<_> = (n + 1..EVENTS).map(|n| n.to_string()).collect();
            assert_eq!(resumed.take_data(EVENTS - 1 - n), rest);
            assert_eq!(resumed.expect_next().event, "tidings:open");
        }
    }

    /// Runs ip(8) with these words.
    fn ip(words: &str) {
        let status = Command::new("ip").args(words.split(' ')).status();
        assert!(status.expect("ip runs").success(), "ip {words}");
    }

    /// Connections to this address from another network, which `vanish` cuts off without a packet.
    struct Faraway {
        connected: std::sync::mpsc::Receiver<Client>,
        vanish: std::sync::mpsc::Sender<()>,
    }

    /// This thread leaves the network of the tests for one of two machines, whose other is away. A client is one of
    /// these requests, sent from there.
    fn faraway(server: impl FnOnce() -> Tidings, requests: &'static [&'static str]) -> (Tidings, Faraway) {
        crate::system::leave_the_network();
        let (is_there, there) = channel();
        let (begin, begun) = channel::<SocketAddr>();
        let (connect, connected) = channel();
        let (vanish, vanished) = channel();
        std::thread::spawn(move || {
            crate::system::leave_the_network();
            let own = std::fs::read_link("/proc/thread-self").unwrap();
            is_there.send(own.file_name().unwrap().to_str().unwrap().to_owned()).unwrap();
            let Ok(address) = begun.recv() else { return };
            ip("addr add 198.51.100.2/24 dev there");
            ip("link set there up");
            for request in requests {
                let mut client = Client::connect(address);
                client.send(request);
                connect.send(client).unwrap();
            }
            vanished.recv().unwrap();
            // Packets still come, and none goes back.
            ip("route add blackhole 198.51.100.1");
            let _ = vanished.recv(); // this network lives as long as this thread
        });
        ip("link set lo up");
        ip(&format!("link add here type veth peer name there netns {}", there.recv().unwrap()));
        ip("addr add 198.51.100.1/24 dev here");
        ip("link set here up");
        let server = server();
        begin.send(server.address).unwrap();
        (server, Faraway { connected, vanish })
    }

    /// All who vanish are watched together, in a minute.
    #[test]
    #[ignore = "takes a minute; needs the superuser, for networks of its own"]
    fn a_client_that_vanishes_is_found_within_a_minute() {
        const IDLE: &str = "GET /topics/idle HTTP/1.1\r\nHost: localhost\r\n\r\n";
        const BUSY: &str = "GET /topics/busy HTTP/1.1\r\nHost: localhost\r\n\r\n";
        const FULL: &str = "GET /topics/full HTTP/1.1\r\nHost: localhost\r\n\r\n";
        // A thread of its own, because it leaves the network of the others.
        std::thread::spawn(|| {
            let start = || Tidings::start(&["serve", "--open", "--listen", "198.51.100.1:0", "--queue-bytes", "1MiB"]);
            let (server, faraway) = faraway(start, &[IDLE, BUSY, FULL, OK]);
            let mut clients: Vec<_> = (0..4).map(|_| faraway.connected.recv_timeout(PATIENCE).unwrap()).collect();
            clients.iter_mut().for_each(|client| assert_eq!(client.read_head().status, 200));
            let mut near = server.watch("/topics/busy");
            server.publish("/topics/busy", "0");
            for client in &mut clients[..2] {
                client.read_through(b"tidings:open").unwrap();
            }

            faraway.vanish.send(()).unwrap();
            let begun = Instant::now();
            // Four from far away, the near one, and whoever asks.
            let (mut published, mut connections) = (0, 6.0);
            let mut found = Vec::new();
            while begun.elapsed() < Duration::from_secs(75) && connections > 2.0 {
                // As little as not to fill a queue, and as much as to fill one.
                server.publish("/topics/busy", &published.to_string());
                server.publish("/topics/full", &"x".repeat(50_000));
                published += 1;
                std::thread::sleep(Duration::from_millis(500));
                let now = server.metric("tidings_connections");
                if now < connections {
                    found.push((connections - now, begun.elapsed()));
                    connections = now;
                }
            }
            let log = server.log();
            let line =
                |topic: &str| log.lines().find(|line| line.contains(topic) && !line.ends_with("opened")).unwrap();
            let seconds = |topic: &str| {
                let after = line(topic).split(" after ").nth(1).unwrap();
                after.split('s').next().unwrap().parse::<f64>().unwrap()
            };
            // The one whose queue fills is cut as soon as it is full, or has taken nothing for ten seconds.
            assert!(line("/full").contains(" behind ") || line("/full").contains(" stalled "), "{}", line("/full"));
            assert!(seconds("/full") < 20.0, "{}", line("/full"));
            // The others have taken all, so it shows in that nothing is acknowledged for 30 s: of an event, or of the
            // first heartbeat.
            for (topic, least, most) in [("/busy", 29.0, 45.0), ("/idle", 29.0, 62.0)] {
                assert!(line(topic).contains(" stalled "), "{}", line(topic));
                assert!((least..most).contains(&seconds(topic)), "{}", line(topic));
            }
            assert!(connections <= 2.0, "{connections} are still there after 75 s: {found:?}");
            let mut heard = near.take_data(published + 1);
            assert_eq!(heard.remove(0), "0");
            assert!(heard.into_iter().eq((0..published).map(|n| n.to_string())), "one who stayed missed one");
        })
        .join()
        .unwrap();
    }
}
