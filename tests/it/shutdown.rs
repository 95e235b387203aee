//! The end of a server: on SIGINT and SIGTERM, by its `Stopper`, or dropped before it served. Whatever its clients are at,
//! streams end well if they can, and within two seconds all is over: no thread, no file and no port is left.
//!
//! That closed or full standard streams change nothing about it is seen to in `cli`, what the log then says of delayed
//! publishes in `stream`, and what becomes of timers in `schedule`.

use crate::support::{Client, End, Events, PATIENCE, Tidings, at_best, eventually};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidings::{Closed, Config, Event, Request, Response, Server};

/// The most that an end may take, whatever is left.
const LIMIT: Duration = Duration::from_secs(2);

/// An end for which nothing has to be waited for.
const AT_ONCE: Duration = Duration::from_millis(600);

const OK: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

const PUBLISH: &str = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n";

/// A client that has sent this.
fn client(address: SocketAddr, bytes: &str) -> Client {
    let mut client = Client::connect(address);
    client.send(bytes);
    client
}

/// A client that is known to be in the middle of its body.
fn publisher(address: SocketAddr) -> Client {
    let mut client = client(address, &PUBLISH.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
    assert_eq!(client.read_head().status, 100);
    client.send("hello");
    client
}

/// Waits until nobody listens there. (A process that is just being started still has all files of the one that starts it.)
fn nobody_listens(address: SocketAddr) {
    eventually("nobody listens", || TcpStream::connect(address).is_err());
}

/// Sends a signal, and says how long the server took to its end, which must be without an error.
fn stop(server: &mut Tidings, signal: &str) -> Duration {
    let begun = Instant::now();
    server.signal(signal);
    assert_eq!(server.wait().code(), Some(0), "SIG{signal}; its log: {}", server.log());
    begun.elapsed()
}

/// When a stream that was told of the end is to come back.
fn told_to_return(events: &Events) -> u64 {
    let retry = events.parser.retry.unwrap();
    assert!((1_000..=5_000).contains(&retry), "{retry}");
    retry
}

#[test]
fn it_stops_at_once_when_nobody_is_served() {
    for signal in ["TERM", "INT"] {
        at_best(signal, AT_ONCE, || {
            let mut server = Tidings::start(&["serve"]);
            let mut silent = Client::connect(server.address);
            let mut persistent = client(server.address, OK);
            assert_eq!(persistent.read_head().status, 200);
            assert_eq!(persistent.read_exactly(3), b"ok\n");
            let mut half_a_head = client(server.address, "GET /healthz HTTP/1.1\r\nHo");
            let took = stop(&mut server, signal);
            for client in [&mut silent, &mut persistent, &mut half_a_head] {
                assert!(client.is_closed(), "there was nothing to say to it");
            }
            took
        });
    }
}

#[test]
fn streams_end_with_a_reconnection_time_of_their_own_in_the_last_chunk() {
    for signal in ["TERM", "INT"] {
        at_best(signal, LIMIT, || {
            let mut server = Tidings::start(&["serve"]);
            let mut streams: Vec<_> = (0..30).map(|_| server.watch("/topics/a")).collect();
            let closing = server.subscribe_with("/topics/a", "Connection: close\r\n");
            let bare = Events::open_as("HTTP/1.0", server.address, "/topics/a", "");
            let id = server.publish("/topics/a", "the last");
            let took = stop(&mut server, signal);

            let chunk = streams[0].client.read_chunk().expect("the event");
            streams[0].parser.feed(&chunk);
            let last = String::from_utf8(streams[0].client.read_chunk().expect("a last word")).unwrap();
            assert!(last.starts_with("retry: ") && last.ends_with("\n\n") && last.lines().count() == 2, "{last:?}");
            assert_eq!(streams[0].client.read_to_end(), b"0\r\n\r\n");
            for mut events in streams.drain(1..).chain([closing, bare]) {
                let data: Vec<_> = events.rest().into_iter().filter(|message| message.event == "message").collect();
                assert_eq!((data.len(), &data[0].data[..]), (1, "the last"));
                assert_eq!(events.end, Some(End::Finished));
                assert_eq!(events.parser.last_event_id, id, "the end has no id");
                told_to_return(&events);
            }
            took
        });
    }
}

#[test]
fn streams_do_not_all_come_back_together() {
    let mut server = Tidings::start(&["serve"]);
    let streams: Vec<_> = (0..100).map(|_| server.watch("/topics/a")).collect();
    stop(&mut server, "TERM");
    let mut seconds = [0; 4];
    for mut events in streams {
        assert_eq!(events.next(), None);
        seconds[(told_to_return(&events) as usize - 1_000).min(3_999) / 1_000] += 1;
    }
    // 25 each, give or take: below 5 is what chance does once in a hundred thousand times.
    assert!(seconds.iter().all(|count| *count >= 5), "{seconds:?}");
}

#[test]
fn what_is_queued_is_handed_out_first() {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        at_best(version, LIMIT, || {
            let mut server = Tidings::start(&["serve", "--heartbeat", "1h"]);
            let mut events = Events::open_as(version, server.address, "/topics/a", "");
            assert_eq!(events.expect_next().event, "tidings:open");
            let data: Vec<_> = (0..23).map(|n| format!("{n} {}", "x".repeat(10_000))).collect();
            data.iter().for_each(|data| drop(server.publish("/topics/a", data)));
            let sent = server.metric("tidings_sent_bytes_total");
            assert!(sent < 200_000.0, "nothing is queued: {sent} bytes were taken already");

            let begun = Instant::now();
            server.signal("TERM");
            assert_eq!(events.take_data(data.len()), data);
            assert_eq!((events.next(), events.end), (None, Some(End::Finished)));
            told_to_return(&events);
            assert_eq!(server.wait().code(), Some(0));
            begun.elapsed()
        });
    }
}

#[test]
fn a_request_that_is_under_way_is_answered() {
    let mut server = Tidings::start(&["serve"]);
    let mut events = server.watch("/topics/a");
    let mut publisher = publisher(server.address);
    server.signal("TERM");
    assert_eq!(events.next(), None, "streams end at once");
    publisher.send("world");
    let head = publisher.read_head();
    assert_eq!(head.status, 200);
    assert!(publisher.read_body(&head).contains("\"events\":1"));
    assert!(publisher.is_closed(), "there is no next request");
    assert_eq!(server.wait().code(), Some(0));
}

/// Whatever clients are at, all at once: those who will never be through are cut.
#[test]
fn it_stops_in_time_whatever_is_under_way() {
    let half_a_body = format!("{PUBLISH}hello");
    let in_chunks = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel";
    let poll = "GET /topics/big?poll=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let replay = "GET /topics/big?last_event_id=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for signal in ["TERM", "INT"] {
        at_best(signal, LIMIT, || {
            let mut server = Tidings::start(&["serve", "--history-bytes", "16MiB"]);
            let megabyte = "x".repeat(64 * 1024);
            (0..160).for_each(|_| drop(server.publish("/topics/big", &megabyte)));
            let sent = ["", "GET / HTT", PUBLISH, &half_a_body, in_chunks, poll, replay];
            let clients: Vec<_> = sent.iter().map(|bytes| client(server.address, bytes)).collect();
            // One that reads nothing, and has more waiting for it than the kernel takes.
            let mut behind = server.watch("/topics/a");
            (0..3).for_each(|_| drop(server.publish("/topics/a", &megabyte)));
            let took = stop(&mut server, signal);
            // Cut, or through after all, if the kernel took it: but never taken for whole where a part is missing.
            let events = behind.rest();
            assert_eq!(events.len() == 3, behind.end == Some(End::Finished), "{} events", events.len());
            for (client, bytes) in clients.into_iter().zip(sent).filter(|(_, bytes)| [poll, replay].contains(bytes)) {
                let mut client = client;
                let head = client.read_head();
                assert_eq!(head.status, 200, "{bytes}");
                while let Ok(chunk) = client.try_read_chunk() {
                    assert!(chunk.is_some(), "{bytes}: it ended as if it were whole");
                }
            }
            took
        });
    }
}

#[test]
fn scenes_delayed_publishes_and_standard_input_hold_nothing_up() {
    for signal in ["TERM", "INT"] {
        at_best(signal, AT_ONCE, || {
            let mut command = Tidings::command(&["demo", "--stdin", "lines"]);
            command.stdin(Stdio::piped());
            let mut server = Tidings::start_command(command);
            let stdin = server.stdin(); // open, and nothing comes
            let mut events = server.watch("/topics/a");
            for delay in ["10s", "5m", "24h"] {
                assert_eq!(server.post(&format!("/topics/a?delay={delay}"), "too late").0, 202);
            }
            let scenes = ["typewriter", "records", "words", "clock", "progress"];
            let mut scenes: Vec<_> = scenes.iter().map(|scene| server.subscribe(&format!("/demo/{scene}"))).collect();
            let took = stop(&mut server, signal);
            assert_eq!(events.next(), None, "nothing comes before it is due");
            for scene in &mut scenes {
                scene.rest();
                assert_eq!(scene.end, Some(End::Finished));
            }
            // A scene may have set its own time before; the last word is the server's.
            scenes.iter().chain([&events]).for_each(|events| _ = told_to_return(events));
            drop(stdin);
            took
        });
    }
}

#[test]
fn connections_that_come_meanwhile_are_answered_or_turned_away() {
    for _ in 0..5 {
        let mut server = Tidings::start(&["serve", "--quiet"]);
        let address = server.address;
        let answered = AtomicUsize::new(0);
        let come_and_go = || {
            // Until it is refused: then nobody listens any more.
            while let Ok(mut socket) = TcpStream::connect(address) {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let request = OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
                let mut answer = String::new();
                // It may be turned away by a reset.
                let _ = socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
                let is_whole = answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n");
                assert!(answer.is_empty() || is_whole, "{answer:?}");
                answered.fetch_add(usize::from(is_whole), Ordering::SeqCst);
            }
        };
        std::thread::scope(|scope| {
            let crowd: Vec<_> = (0..4).map(|_| scope.spawn(come_and_go)).collect();
            eventually("some are answered", || answered.load(Ordering::SeqCst) >= 20);
            stop(&mut server, "TERM");
            eventually("nobody waits", || crowd.iter().all(|thread| thread.is_finished()));
        });
    }
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_it_at_once() {
    use std::os::unix::process::ExitStatusExt;
    for (first, second, number) in [("TERM", "TERM", 15), ("INT", "INT", 2), ("TERM", "INT", 2), ("INT", "TERM", 15)] {
        at_best(&format!("{first}, then {second}"), AT_ONCE, || {
            let mut server = Tidings::start(&["serve"]);
            let _busy = publisher(server.address);
            server.signal(first);
            nobody_listens(server.address);
            let begun = Instant::now();
            server.signal(second);
            let status = server.wait();
            if status.signal() == Some(number) {
                return begun.elapsed();
            }
            assert_eq!(status.code(), Some(0));
            Duration::MAX // it was through before the second came
        });
    }
}

/// Ends that the server closed first stay with the system for a minute or more.
#[test]
fn its_port_can_be_bound_again_at_once() {
    let mut server = Tidings::start(&["serve"]);
    let address = server.address;
    for _ in 0..3 {
        let mut persistent = client(address, OK);
        assert_eq!(persistent.read_head().status, 200);
        let _events = server.watch("/topics/a");
        stop(&mut server, "TERM");
        server = Tidings::start(&["serve", "--listen", &address.to_string()]);
    }
}

/// A pipe that is full stays so: nobody reads what the log says at the end.
#[cfg(unix)]
#[test]
fn a_log_that_nobody_reads_does_not_keep_it() {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;
    at_best("the end", LIMIT, || {
        let (_unread, mut stderr) = UnixStream::pair().unwrap();
        stderr.set_nonblocking(true).unwrap();
        let is_full = |outcome: std::io::Result<usize>| outcome.is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        while !is_full(stderr.write(&[b'\n'; 512])) {}
        while !is_full(stderr.write(b"\n")) {}
        stderr.set_nonblocking(false).unwrap();
        let mut command = Tidings::command(&["serve"]);
        command.stderr(Stdio::from(std::os::fd::OwnedFd::from(stderr)));
        let mut server = Tidings::start_command(command);
        let _events = server.watch("/topics/a");
        assert_eq!(server.post("/topics/a?delay=1h", "of which the log would tell").0, 202);
        stop(&mut server, "TERM")
    });
}

/// A server of this process, and the thread that runs it.
fn run(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> (SocketAddr, tidings::Stopper, Running) {
    let server = Server::bind("127.0.0.1:0", Config::default()).unwrap();
    let (address, stopper) = (server.local_addr(), server.stopper());
    (address, stopper, Running(std::thread::spawn(move || server.run(answer))))
}

struct Running(JoinHandle<tidings::Result<()>>);

impl Running {
    /// How long it takes until `run` returns.
    fn returns(self) -> Duration {
        let begun = Instant::now();
        while !self.0.is_finished() {
            assert!(begun.elapsed() < PATIENCE, "it does not return");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.join().unwrap().unwrap();
        begun.elapsed()
    }
}

/// A handler that stops its own server by the stopper it is sent.
fn stopping(tells: mpsc::Receiver<tidings::Stopper>) -> impl Fn(&Request) -> Response + Send + Sync + 'static {
    let tells = std::sync::Mutex::new(tells);
    move |request| {
        let stopper = tells.lock().unwrap().recv().unwrap();
        if request.path() == "/stream" {
            return Response::stream(move |stream| {
                stream.send(&Event::data("hello"))?;
                stopper.stop();
                std::thread::sleep(Duration::from_millis(50));
                stream.send(&Event::data("perhaps"))
            });
        }
        stopper.stop();
        Response::text(200, "bye")
    }
}

#[test]
fn a_stopper_is_heard_from_another_thread_and_may_be_used_again_and_again() {
    at_best("run returns", AT_ONCE, || {
        let (address, stopper, running) = run(|_| Response::text(200, "ok"));
        assert_eq!(client(address, OK).read_head().status, 200);
        let other = stopper.clone();
        std::thread::spawn(move || (0..3).for_each(|_| other.stop())).join().unwrap();
        stopper.stop();
        let took = running.returns();
        stopper.stop(); // there is nothing left to stop
        nobody_listens(address);
        took
    });
}

#[test]
fn a_stopper_is_heard_from_within_a_handler_whose_answer_arrives() {
    at_best("run returns", LIMIT, || {
        let (tell, tells) = mpsc::channel();
        let (address, stopper, running) = run(stopping(tells));
        tell.send(stopper).unwrap();
        let mut client = client(address, OK);
        let head = client.read_head();
        assert_eq!((head.status, client.read_body(&head)), (200, "bye\n".to_owned()));
        assert!(client.is_closed());
        running.returns()
    });
}

#[test]
fn a_stopper_is_heard_from_within_a_stream_that_then_ends() {
    at_best("run returns", LIMIT, || {
        let (tell, tells) = mpsc::channel();
        let (address, stopper, running) = run(stopping(tells));
        tell.send(stopper).unwrap();
        let mut events = Events::open(address, "/stream", "");
        assert_eq!(events.rest()[0].data, "hello");
        assert_eq!(events.end, Some(End::Finished));
        told_to_return(&events);
        running.returns()
    });
}

#[test]
fn a_stopper_is_heard_from_the_scheduler() {
    at_best("run returns", AT_ONCE, || {
        let server = Server::bind("127.0.0.1:0", Config::default()).unwrap();
        let stopper = server.stopper();
        let timer = server.scheduler().once(Duration::from_millis(20), move || stopper.stop()).unwrap();
        let running = Running(std::thread::spawn(move || server.run(|_| Response::text(200, "ok"))));
        let took = running.returns();
        drop(timer);
        took
    });
}

#[test]
fn a_server_that_was_stopped_before_it_runs_returns_at_once() {
    at_best("run returns", AT_ONCE, || {
        let server = Server::bind("127.0.0.1:0", Config::default()).unwrap();
        let address = server.local_addr();
        server.stopper().stop();
        // It was let in by the system; nobody answers it.
        let mut early = client(address, OK);
        let running = Running(std::thread::spawn(move || server.run(|_| unreachable!("nobody is served"))));
        let took = running.returns();
        assert_eq!(early.read_to_end(), b"");
        took
    });
}

#[test]
fn stopping_one_server_leaves_the_others() {
    let (_, stopper, running) = run(|_| Response::text(200, "one"));
    let (address, other_stopper, other) = run(|_| Response::text(200, "other"));
    stopper.stop();
    running.returns();
    assert_eq!(client(address, OK).read_head().status, 200);
    other_stopper.stop();
    other.returns();
}

#[test]
fn run_returns_in_time_however_long_a_handler_or_its_reader_takes() {
    at_best("run returns", LIMIT, || {
        static IS_OVER: AtomicBool = AtomicBool::new(false);
        IS_OVER.store(false, Ordering::SeqCst);
        let (told, tells) = mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let (address, stopper, running) = run(move |request| {
            told.lock().unwrap().send(()).unwrap();
            if request.path() == "/big" {
                return Response::bytes(200, "text/plain", vec![b'x'; 32 << 20]);
            }
            while !IS_OVER.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Response::text(200, "late")
        });
        let mut stuck = client(address, &OK.replace("/healthz", "/big"));
        let slow = client(address, OK);
        (0..2).for_each(|_| tells.recv_timeout(PATIENCE).unwrap());
        assert_eq!(stuck.read_head().status, 200);
        stopper.stop();
        let took = running.returns();
        IS_OVER.store(true, Ordering::SeqCst);
        assert!(stuck.read_to_end().len() < 32 << 20, "it took all of it after all");
        drop(slow);
        took
    });
}

#[test]
fn a_stream_that_somebody_holds_is_told_that_the_server_stopped() {
    let (told, tells) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let (address, stopper, running) = run(move |_| {
        let told = told.lock().unwrap().clone();
        Response::stream(move |stream| {
            told.send(stream).unwrap();
            Ok(())
        })
    });
    let mut events = Events::open(address, "/", "");
    let stream = tells.recv_timeout(PATIENCE).unwrap();
    stream.send(&Event::data("hello")).unwrap();
    stopper.stop();
    running.returns();
    assert_eq!(stream.send(&Event::data("too late")), Err(Closed::Stopped));
    assert_eq!(events.rest().len(), 1);
    assert_eq!(events.end, Some(End::Finished));
}

/// Has the test run in a process of its own, in which threads, files and signals are its alone, and says whether this
/// is that one.
#[cfg(target_os = "linux")]
fn is_alone(test: &str) -> bool {
    if std::env::var_os("TIDINGS_TEST_ALONE").is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("TIDINGS_TEST_ALONE", "1");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + 2 * PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            let _ = child.kill(); // and then it has not passed
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// Threads and files of this process.
#[cfg(target_os = "linux")]
fn usage() -> (usize, usize) {
    let pid = std::process::id();
    (crate::system::threads(pid), crate::system::descriptors(pid))
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_is_dropped_before_it_runs_leaves_nothing() {
    if !is_alone("shutdown::a_server_that_is_dropped_before_it_runs_leaves_nothing") {
        return;
    }
    let before = usage();
    for _ in 0..20 {
        let server = Server::bind("127.0.0.1:0", Config { log: Some(|_| ()), ..Config::default() }).unwrap();
        let (address, scheduler, log) = (server.local_addr(), server.scheduler(), server.log());
        let (held, is_dropped) = mpsc::channel::<()>();
        scheduler.once(Duration::from_secs(3600), move || drop(held)).unwrap().detach();
        log.line("bound");
        assert!(usage().0 >= before.0 + 3, "the scheduler, the drainer and the log have threads");
        drop(server);
        let outcome = is_dropped.recv_timeout(PATIENCE);
        assert_eq!(outcome, Err(mpsc::RecvTimeoutError::Disconnected), "what timers hold is dropped");
        assert!(scheduler.once(Duration::ZERO, || ()).is_err(), "no timer is taken any more");
        log.line("dropped"); // which goes nowhere
        nobody_listens(address);
    }
    eventually("threads and files are given back", || usage() == before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_has_run_leaves_nothing() {
    if !is_alone("shutdown::a_server_that_has_run_leaves_nothing") {
        return;
    }
    let before = usage();
    for _ in 0..5 {
        let (address, stopper, running) = run(|request| match request.path() {
            "/stream" => {
                Response::stream(|stream| stream.every(Duration::from_millis(1), (0..).map(|_| Event::data("x"))))
            }
            _ => Response::text(200, "ok"),
        });
        let mut streams: Vec<_> = (0..10).map(|_| Events::open(address, "/stream", "")).collect();
        streams.iter_mut().for_each(|events| drop(events.expect_next()));
        let _asked = client(address, OK);
        stopper.stop();
        running.returns();
    }
    eventually("threads and files are given back", || usage() == before);
}

/// A signal is one server's end: who starts another in the same process asks for signals again.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_ended_one_server_does_not_end_the_next() {
    if !is_alone("shutdown::a_signal_that_ended_one_server_does_not_end_the_next") {
        return;
    }
    for signal in ["-TERM", "-INT", "-TERM"] {
        let (address, stopper, running) = run(|_| Response::text(200, "ok"));
        stopper.on_signals().unwrap();
        assert_eq!(client(address, OK).read_head().status, 200);
        std::thread::sleep(Duration::from_millis(50)); // for an end that must not come
        assert_eq!(client(address, OK).read_head().status, 200);
        Command::new("kill").args([signal, &std::process::id().to_string()]).status().unwrap();
        running.returns();
    }
}
