//! The scheduler, seen by a program that embeds the library: closures once and again and again, sequences of events on
//! streams, many at once, ones that panic, block or are cancelled, and clients that leave.
//!
//! Never early holds always. How late something is depends on what else the machine does, so it counts at the best of
//! several runs. The times are taken where the closure or the iterator runs: what a client adds to them is measured by
//! the scenes' tests.

use crate::support::{Client, End, Events, InProcess, at_best, eventually};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidings::{Closed, Config, Event, Response, Scheduler, Server, Stream, Timer};

const PERIOD: Duration = Duration::from_millis(5);

/// A server in this process that has nothing to answer: for its scheduler.
fn idle() -> InProcess {
    InProcess::start(Config::default(), |_| Response::text(404, "nothing is here"))
}

/// Streams that each tell how much time has passed since they were opened, `?count=` times each `?period=` microseconds.
fn ticking() -> InProcess {
    InProcess::start(Config::default(), |request| {
        let number = |name: &str| request.query(name).expect(name).parse::<u64>().expect(name);
        let (period, count) = (Duration::from_micros(number("period")), number("count"));
        Response::stream(move |stream| {
            let opened = Instant::now();
            let events = (0..count).map(move |_| Event::data(opened.elapsed().as_micros().to_string()));
            stream.every(period, events)
        })
    })
}

fn open(server: &InProcess, target: &str) -> Events {
    let mut client = Client::connect(server.address);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let head = client.read_head();
    assert_eq!(head.status, 200);
    Events::new(client, head)
}

fn open_ticks(server: &InProcess, period: Duration, count: usize) -> Events {
    open(server, &format!("/?period={}&count={count}", period.as_micros()))
}

/// When the events came to be, since the opening.
fn ticks_of(events: &mut Events) -> Vec<Duration> {
    events.rest().iter().map(|message| Duration::from_micros(message.data.parse().unwrap())).collect()
}

/// How late each of a stream's ticks is. A tick that is early fails here.
fn latenesses(ticks: &[Duration], period: Duration) -> Vec<Duration> {
    let late = |(tick, at): (u32, &Duration)| {
        // Whole microseconds were told, rounded down.
        let at = *at + Duration::from_micros(1);
        at.checked_sub(period * tick).unwrap_or_else(|| panic!("tick {tick} of {period:?} came after {at:?}"))
    };
    (1..).zip(ticks).map(late).collect()
}

/// How far a sequence leaves the grid on which it began. A period that is left out on a busy machine moves all that
/// follows by a whole one, which is no drift: so what counts is the place within a period, at the best of each stretch.
fn drift_of(ticks: &[Duration], period: Duration, stretch: usize) -> Duration {
    let within = |at: &Duration| Duration::from_nanos((at.as_nanos() % period.as_nanos()) as u64);
    ticks.chunks(stretch).map(|ticks| ticks.iter().map(within).min().unwrap()).max().unwrap()
}

/// Counts the runs of a closure.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits until it has gone on by so many.
    fn goes_on(&self, by: usize) {
        let from = self.get();
        eventually("the timer goes on", || self.get() >= from + by);
    }
}

/// Tells when it is dropped, and with it what holds it.
struct Sentinel(Arc<AtomicBool>);

impl Sentinel {
    fn new() -> (Sentinel, Arc<AtomicBool>) {
        let is_gone = Arc::new(AtomicBool::new(false));
        (Sentinel(is_gone.clone()), is_gone)
    }

    /// Something to call, so that a closure captures the sentinel whole.
    fn touch(&self) {}
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Streams of which each is given a sentinel to hold, and what tells that it is gone.
fn guarded(open: fn(Stream, Sentinel) -> Result<(), Closed>) -> (InProcess, Receiver<Arc<AtomicBool>>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let server = InProcess::start(Config::default(), move |_| {
        let (sentinel, is_gone) = Sentinel::new();
        sender.lock().unwrap().send(is_gone).unwrap();
        Response::stream(move |stream| open(stream, sentinel))
    });
    (server, receiver)
}

/// Waits until no timer runs any more: none in a time in which each of these tests' timers would have run.
fn expect_silence(server: &InProcess) {
    eventually("no timer runs", || {
        let runs = || server.monitor.counts().lateness.count;
        let before = runs();
        std::thread::sleep(20 * PERIOD);
        runs() == before
    });
}

#[test]
fn many_timed_streams_run_side_by_side_none_early_and_in_time_at_best() {
    let server = ticking();
    const STREAMS: u32 = 100;
    at_best("the 99th percentile of all ticks", Duration::from_millis(20), || {
        // No two of the same pace, so that they meet in ever other ways.
        let paces = (0..STREAMS).map(|n| Duration::from_micros(10_000 + 100 * u64::from(n)));
        let mut open: Vec<_> = paces.map(|pace| (pace, open_ticks(&server, pace, 20))).collect();
        let mut late = Vec::new();
        for (pace, events) in &mut open {
            let ticks = ticks_of(events);
            assert_eq!((ticks.len(), events.end), (20, Some(End::Finished)), "no tick is lost");
            late.extend(latenesses(&ticks, *pace));
        }
        late.sort_unstable();
        late[late.len() * 99 / 100]
    });
    eventually("all streams are over", || server.monitor.counts().streams == 0);
    assert_eq!(
        server.monitor.counts().disconnects.iter().map(|(_, n)| n).sum::<u64>(),
        server.closed_as(Closed::Ended)
    );
    expect_silence(&server);
}

#[test]
fn a_stream_does_not_drift_over_300_ticks() {
    let server = ticking();
    at_best("the way from the grid", Duration::from_millis(1), || {
        // As many as the rest of a small machine's load: they drift together or not at all.
        let mut all = [(); 4].map(|()| open_ticks(&server, PERIOD, 300));
        let drifts = all.iter_mut().map(|events| {
            let ticks = ticks_of(events);
            latenesses(&ticks, PERIOD);
            drift_of(&ticks, PERIOD, 20)
        });
        drifts.max().unwrap()
    });
}

#[test]
fn a_closure_does_not_drift_over_300_ticks() {
    let server = idle();
    at_best("the way from the grid", Duration::from_millis(1), || {
        let (sender, ticks) = mpsc::channel();
        let begun = Instant::now();
        let _timer = server.scheduler.every(PERIOD, move || _ = sender.send(begun.elapsed())).unwrap();
        let ticks: Vec<_> = (0..300).map(|_| next(&ticks)).collect();
        latenesses(&ticks, PERIOD);
        drift_of(&ticks, PERIOD, 20)
    });
}

/// What a timer sends, which must come.
fn next<T>(from: &Receiver<T>) -> T {
    from.recv_timeout(crate::support::PATIENCE).expect("the timer runs")
}

#[test]
fn a_stream_that_many_share_keeps_all_its_timers() {
    // Three sequences on one stream: it lasts as long as the longest.
    let server = InProcess::start(Config::default(), |_| {
        Response::stream(|stream| {
            for (name, count) in [("a", 5), ("b", 10)] {
                stream.clone().every(PERIOD, (0..count).map(move |n| Event::data(format!("{name}{n}"))))?;
            }
            stream.every(2 * PERIOD, (0..10).map(|n| Event::data(format!("c{n}"))))
        })
    });
    let mut events = open(&server, "/");
    let texts: Vec<_> = events.rest().into_iter().map(|message| message.data).collect();
    assert_eq!((texts.len(), events.end), (25, Some(End::Finished)));
    assert_eq!(texts.last().unwrap(), "c9");
    for (name, count) in [("a", 5), ("b", 10), ("c", 10)] {
        let of_one: Vec<_> = texts.iter().filter(|text| text.starts_with(name)).cloned().collect();
        assert_eq!(of_one, (0..count).map(|n| format!("{name}{n}")).collect::<Vec<_>>());
    }
}

#[test]
fn a_stream_whose_client_left_gives_back_its_timer_and_what_it_holds() {
    let (server, receiver) = guarded(|stream, sentinel| {
        let ticks = std::iter::repeat_with(move || {
            sentinel.touch();
            Event::data("tick")
        });
        stream.every(PERIOD, ticks)
    });
    let mut all: Vec<_> = (0..20).map(|_| open(&server, "/")).collect();
    all.iter_mut().for_each(|events| drop(events.expect_next()));
    let sentinels: Vec<_> = receiver.try_iter().collect();
    assert_eq!(sentinels.len(), 20);
    // Half of them, one after the other: each takes its own and no other's.
    for n in 0..10 {
        drop(all.remove(0));
        eventually("the iterator is dropped", || sentinels[n].load(Ordering::SeqCst));
        assert!(!sentinels[n + 1..].iter().any(|is_gone| is_gone.load(Ordering::SeqCst)));
    }
    all.iter_mut().for_each(|events| drop(events.take_data(3)));
    drop(all);
    eventually("all are dropped", || sentinels.iter().all(|is_gone| is_gone.load(Ordering::SeqCst)));
    eventually("all are counted", || server.closed_as(Closed::Left) == 20);
    expect_silence(&server);
}

/// A client that leaves is noticed without the help of the timer's next write.
#[test]
fn a_slow_timer_goes_with_its_client_and_not_at_its_next_run() {
    let (server, receiver) = guarded(|stream, sentinel| {
        stream.send(&Event::data("hello"))?;
        let nothing = std::iter::from_fn(move || {
            sentinel.touch();
            None
        });
        stream.every(Duration::from_secs(3600), nothing)
    });
    at_best("the timer's end", Duration::from_millis(50), || {
        let mut events = open(&server, "/");
        events.expect_next();
        let is_gone = receiver.recv().unwrap();
        let left = Instant::now();
        drop(events);
        eventually("the iterator is dropped", || is_gone.load(Ordering::SeqCst));
        left.elapsed()
    });
}

#[test]
fn once_runs_once_never_early_and_in_time_at_best() {
    let server = idle();
    at_best("a closure", Duration::from_millis(5), || {
        let (sender, ran) = mpsc::channel();
        let asked = Instant::now();
        let _timer = server.scheduler.once(Duration::from_millis(20), move || sender.send(asked.elapsed()).unwrap());
        let at = next(&ran);
        assert!(at >= Duration::from_millis(20), "{at:?} is early");
        // The closure is gone with its run, and its sender with it.
        assert_eq!(ran.recv_timeout(crate::support::PATIENCE), Err(RecvTimeoutError::Disconnected));
        at - Duration::from_millis(20)
    });
    // No delay is soon, and not on the caller's own thread.
    let (sender, ran) = mpsc::channel();
    server.scheduler.once(Duration::ZERO, move || sender.send(std::thread::current().id()).unwrap()).unwrap().detach();
    assert_ne!(next(&ran), std::thread::current().id());
}

#[test]
fn every_runs_first_after_one_period_and_never_early() {
    let server = idle();
    let (sender, ran) = mpsc::channel();
    let asked = Instant::now();
    let _timer = server.scheduler.every(Duration::from_millis(30), move || _ = sender.send(asked.elapsed())).unwrap();
    for n in 1..=5 {
        let at = next(&ran);
        assert!(at >= n * Duration::from_millis(30), "run {n} after {at:?}");
    }
}

#[test]
fn timers_run_in_the_order_in_which_they_are_due() {
    let server = idle();
    let (sender, ran) = mpsc::channel();
    let delays = [60, 20, 50, 10, 40, 30];
    let timers: Vec<_> = delays
        .iter()
        .map(|delay| {
            let sender = sender.clone();
            let delay = *delay;
            server.scheduler.once(Duration::from_millis(delay), move || sender.send(delay).unwrap()).unwrap()
        })
        .collect();
    let order: Vec<_> = delays.iter().map(|_| next(&ran)).collect();
    assert_eq!(order, [10, 20, 30, 40, 50, 60]);
    drop(timers);
}

#[test]
fn a_dropped_timer_is_cancelled_and_a_detached_one_goes_on() {
    let server = idle();
    let (cancelled, detached, kept) = (Counter::default(), Counter::default(), Counter::default());
    let count = |counter: &Counter| {
        let counter = counter.clone();
        move || counter.add()
    };
    let timer = server.scheduler.every(PERIOD, count(&cancelled)).unwrap();
    server.scheduler.every(PERIOD, count(&detached)).unwrap().detach();
    let _kept = server.scheduler.every(PERIOD, count(&kept)).unwrap();
    let (sentinel, is_gone) = Sentinel::new();
    let once = server.scheduler.once(Duration::from_millis(50), move || {
        sentinel.touch();
        panic!("it was cancelled");
    });
    cancelled.goes_on(3);

    drop(once);
    assert!(is_gone.load(Ordering::SeqCst), "what it holds is dropped with it");
    drop(timer);
    let at_most = cancelled.get() + 1; // a run that has begun may finish
    detached.goes_on(20);
    kept.goes_on(20);
    assert!(cancelled.get() <= at_most, "it ran on");
}

#[test]
fn a_closure_may_cancel_its_own_timer_and_others_and_start_new_ones() {
    let server = idle();
    let (own, other) = (Arc::new(Mutex::new(None::<Timer>)), Arc::new(Mutex::new(None::<Timer>)));
    let (own_runs, other_runs, new_runs) = (Counter::default(), Counter::default(), Counter::default());
    let counter = other_runs.clone();
    *other.lock().unwrap() = Some(server.scheduler.every(PERIOD, move || counter.add()).unwrap());
    other_runs.goes_on(1);

    let (holder, counter, fresh, scheduler) =
        (own.clone(), own_runs.clone(), new_runs.clone(), server.scheduler.clone());
    let mut held = own.lock().unwrap(); // so that the closure finds its timer there
    *held = Some(
        server
            .scheduler
            .every(PERIOD, move || {
                counter.add();
                drop(holder.lock().unwrap().take());
                drop(other.lock().unwrap().take());
                let fresh = fresh.clone();
                scheduler.every(PERIOD, move || fresh.add()).unwrap().detach();
            })
            .unwrap(),
    );
    drop(held);
    new_runs.goes_on(1);
    let others = other_runs.get();
    new_runs.goes_on(20);
    assert_eq!((own_runs.get(), other_runs.get()), (1, others));
}

#[test]
fn a_closure_that_panics_harms_no_other_and_is_dropped() {
    let server = InProcess::start(Config::default(), |request| {
        let panics = request.path() == "/panics";
        Response::stream(move |stream| {
            stream.every(
                PERIOD,
                (0..20).map(move |n| {
                    assert!(!panics || n < 3, "a panic that is wanted");
                    Event::data(n.to_string())
                }),
            )
        })
    });
    let counter = Counter::default();
    let counting = counter.clone();
    let _timer = server.scheduler.every(PERIOD, move || counting.add()).unwrap();
    let mut well = open(&server, "/well");

    // Closures, an iterator on a stream, and a destructor.
    let (sentinel, is_gone) = Sentinel::new();
    let panicking = server.scheduler.every(PERIOD, move || {
        sentinel.touch();
        panic!("a panic that is wanted");
    });
    server.scheduler.once(PERIOD, || panic!("a panic that is wanted")).unwrap().detach();
    let held = PanicsOnDrop;
    server.scheduler.once(PERIOD, move || drop(held)).unwrap().detach();
    let held = PanicsOnDrop;
    server.scheduler.once(PERIOD, move || _ = &held).unwrap().detach();
    let mut broken = open(&server, "/panics");

    assert_eq!(broken.take_data(3), ["0", "1", "2"]);
    assert_eq!((broken.next(), broken.end), (None, Some(End::Broken)), "a stream that panicked gets no last chunk");
    eventually("it is counted as such", || server.closed_as(Closed::Panicked) == 1);
    eventually("the closure is dropped", || is_gone.load(Ordering::SeqCst));
    drop(panicking);
    let rest: Vec<_> = well.rest().into_iter().map(|message| message.data).collect();
    assert_eq!(rest, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(well.end, Some(End::Finished));
    counter.goes_on(20);
    assert!(open(&server, "/well").next().is_some(), "and new ones are taken");
}

/// The last event was sent, but the stream's own code has not come to a good end.
#[test]
fn a_stream_whose_iterator_panics_as_it_goes_gets_no_last_chunk() {
    let server = InProcess::start(Config::default(), |_| {
        let held = PanicsOnDrop;
        let events = (0..3).map(move |n| {
            let _ = &held;
            Event::data(n.to_string())
        });
        Response::stream(|stream| stream.every(PERIOD, events))
    });
    let mut broken = open(&server, "/");
    assert_eq!(broken.take_data(3), ["0", "1", "2"]);
    assert_eq!((broken.next(), broken.end), (None, Some(End::Broken)));
    eventually("it is counted as such", || server.closed_as(Closed::Panicked) == 1);
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a panic that is wanted");
        }
    }
}

#[test]
fn a_clock_that_fell_behind_skips_to_its_next_tick_and_a_sequence_loses_no_event() {
    let server = ticking();
    let (sender, ran) = mpsc::channel();
    let mut events = open_ticks(&server, PERIOD, 60);
    let begun = Instant::now();
    let _clock = server.scheduler.every(PERIOD, move || _ = sender.send(begun.elapsed())).unwrap();
    let mut ticks = vec![next(&ran)];
    // A closure that blocks makes all others late.
    let block = Duration::from_millis(100);
    server.scheduler.once(Duration::ZERO, move || std::thread::sleep(block)).unwrap().detach();
    ticks.extend((0..40).map(|_| next(&ran)));
    latenesses(&ticks, PERIOD);
    let span = *ticks.last().unwrap() - ticks[0];
    assert!(span >= PERIOD * 39 + block - 2 * PERIOD, "{span:?} does not show the {block:?} that were missed");
    // What was missed does not come in a rush afterwards.
    let rush = ticks.windows(10).find(|ticks| ticks[9] - ticks[0] < 2 * PERIOD);
    assert!(rush.is_none(), "{rush:?}");

    let ticks = ticks_of(&mut events);
    assert_eq!((ticks.len(), events.end), (60, Some(End::Finished)));
    latenesses(&ticks, PERIOD);
    let lateness = server.monitor.counts().lateness;
    assert!(lateness.sum >= Duration::from_millis(50), "that something blocked shows in the lateness: {lateness:?}");
}

#[test]
fn lateness_is_counted_for_each_run() {
    let server = idle();
    assert_eq!(server.monitor.counts().lateness, tidings::Lateness::default());
    let counter = Counter::default();
    for _ in 0..300 {
        let counter = counter.clone();
        server.scheduler.once(Duration::from_millis(1), move || counter.add()).unwrap().detach();
    }
    eventually("each is counted", || server.monitor.counts().lateness.count == 300);
    let lateness = server.monitor.counts().lateness;
    assert_eq!(counter.get(), 300);
    assert!(lateness.sum > Duration::ZERO && lateness.median > Duration::ZERO && lateness.p99 >= lateness.median);
    assert!(lateness.p99 <= lateness.sum && lateness.median * 150 <= lateness.sum, "{lateness:?}");
}

#[test]
fn durations_and_the_number_of_timers_are_bounded() {
    let server = idle();
    const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let too_long = [YEAR + Duration::from_nanos(1), Duration::MAX];
    for delay in too_long {
        assert!(server.scheduler.once(delay, || ()).is_err());
        assert!(server.scheduler.every(delay, || ()).is_err());
    }
    let mut timers: Vec<_> = (0..65_536).map(|_| server.scheduler.once(YEAR, || ()).unwrap()).collect();
    let (sentinel, is_gone) = Sentinel::new();
    let refused = server.scheduler.once(YEAR, move || sentinel.touch());
    let error = refused.err().expect("there are 65,536").to_string();
    assert!(is_gone.load(Ordering::SeqCst), "what it would have held is dropped");
    assert!(!error.ends_with('.') && error.lines().count() == 1 && error.contains("timers"), "{error}");
    timers.pop();
    timers.push(server.scheduler.once(YEAR, || ()).expect("one was cancelled"));
    drop(timers);
    let counter = Counter::default();
    let counting = counter.clone();
    let _timer = server.scheduler.every(PERIOD, move || counting.add()).unwrap();
    counter.goes_on(3);
}

#[test]
fn a_stream_that_is_over_takes_no_timer_and_says_why() {
    let (sender, told) = mpsc::channel();
    let sender = Mutex::new(sender);
    let server = InProcess::start(Config::default(), move |_| {
        let sender = sender.lock().unwrap().clone();
        Response::stream(move |stream| {
            let outcome = stream.end_after(0).every(PERIOD, std::iter::repeat(Event::data("late")));
            sender.send(outcome).unwrap();
            outcome
        })
    });
    assert_eq!(open(&server, "/").rest().len(), 0);
    assert_eq!(next(&told), Err(Closed::Ended));
}

/// `Duration::MAX` is how one says never, and added to the time of the last byte it is no time at all.
#[test]
fn a_heartbeat_may_be_as_far_apart_as_anybody_says() {
    let config = Config { heartbeat: Duration::MAX, ..Config::default() };
    let server = InProcess::start(config, |_| Response::stream(|stream| stream.every(PERIOD, [Event::data("only")])));
    let mut client = Client::connect(server.address);
    // The second is answered only by a thread that has survived the first.
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        while client.read_chunk().is_some() {}
    }
}

/// Without its timer a stream is not what it was to be: it must not look complete.
#[test]
fn a_stream_for_which_there_is_no_timer_gets_no_last_chunk() {
    let server = ticking();
    let all: Vec<_> = (0..65_536).map(|_| server.scheduler.once(Duration::from_secs(3600), || ()).unwrap()).collect();
    let mut client = Client::connect(server.address);
    client.send("GET /?period=5000&count=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = String::from_utf8(client.read_to_end()).unwrap();
    assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    eventually("it is counted as such", || server.closed_as(Closed::Full) == 1);
    drop(all);
    assert_eq!(open_ticks(&server, PERIOD, 1).rest().len(), 1);
}

#[test]
fn a_period_is_at_least_a_millisecond() {
    let server = idle();
    let counter = Counter::default();
    let counting = counter.clone();
    let begun = Instant::now();
    let timer = server.scheduler.every(Duration::ZERO, move || counting.add()).unwrap();
    counter.goes_on(50);
    drop(timer);
    let runs = counter.get() as u32;
    assert!(begun.elapsed() >= (runs - 1) * Duration::from_millis(1), "{runs} runs in {:?}", begun.elapsed());
}

#[test]
fn a_server_that_stops_drops_its_timers_and_takes_no_more() {
    let server = Server::bind("127.0.0.1:0", Config::default()).unwrap();
    let (scheduler, stopper): (Scheduler, _) = (server.scheduler(), server.stopper());
    let counter = Counter::default();
    let counting = counter.clone();
    // It runs from the binding on, whether somebody serves or not.
    let timer = scheduler.every(PERIOD, move || counting.add()).unwrap();
    counter.goes_on(3);
    let (sentinel, is_gone) = Sentinel::new();
    scheduler.once(Duration::from_secs(3600), move || sentinel.touch()).unwrap().detach();

    let thread = std::thread::spawn(move || server.run(|_| Response::text(404, "nothing is here")));
    stopper.stop();
    eventually("it stops", || thread.is_finished());
    thread.join().unwrap().unwrap();
    assert!(is_gone.load(Ordering::SeqCst), "what timers hold is dropped");
    assert!(scheduler.once(PERIOD, || ()).is_err() && scheduler.every(PERIOD, || ()).is_err());
    drop(timer);
    let runs = counter.get();
    std::thread::sleep(20 * PERIOD); // for what must not come
    assert!(counter.get() <= runs + 1, "it runs on");
}
