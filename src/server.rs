//! The server: it binds, accepts, bounds and stops.
//!
//! One thread (the one that calls [`Server::run`]) polls the listener and a bell. Every connection gets a thread of its
//! own with a small stack. Nothing that goes wrong with accepting (no descriptors, no threads, no memory) ends the
//! server: it waits a little and goes on.

use crate::access::Access;
use crate::connection::{self, Context};
use crate::error::{Error, Result};
use crate::event::{Event, Frame};
use crate::log::Log;
use crate::os::{self, Bell, Interest, Poller};
use crate::outbox::Drainer;
use crate::request::Request;
use crate::response::Response;
use crate::roster::{Counts, Roster};
use crate::scheduler::{MAX_DURATION, Scheduler};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A connection's stack. Only touched pages count, so the size matters to the address space alone, which is scarce on
/// 32-bit machines.
const STACK_SIZE: usize = if cfg!(target_pointer_width = "64") { 256 * 1024 } else { 128 * 1024 };

/// How long to wait when the system gives no descriptor, thread or memory. Shorter would be a spin.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// How long streams have to take what is queued for them when the server stops, before they are cut.
const STOP_GRACE: Duration = Duration::from_millis(1200);

/// How long cut connections have to go, and the log to be written. With the above it stays below 2 s.
const STOP_REST: Duration = Duration::from_millis(200);

/// The bounds of a server, and how it behaves. Take the [`Default`] and change what you need.
///
/// ```
/// use std::time::Duration;
/// use tidings::Config;
/// let config = Config { heartbeat: Duration::from_secs(5), ..Config::default() };
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// A stream on which nothing was sent for so long gets a comment: 1 ms at the least, 366 days at the most. Default:
    /// 15 s.
    pub heartbeat: Duration,
    /// The reconnection time that every stream begins with. Default: 3 s.
    pub retry: Duration,
    /// How far one client may fall behind, in bytes, before it is cut: each event counts what it is on the wire, and 160
    /// for its place. Default: 256 KiB.
    pub queue_bytes: usize,
    /// Connections at once. Streams leave a sixteenth of them (16 at least, half at most) to other requests. Default:
    /// 1,024. A thread takes up to four memory maps, and a process that runs out of those is *aborted* by `std`: keep
    /// this at a fifth of `vm.max_map_count` at the most.
    pub max_connections: usize,
    /// Connections at once from one address, loopback exempt. Default: as many as there are.
    pub max_per_address: Option<usize>,
    /// The largest request body, in bytes. Default: 64 KiB.
    pub max_body: usize,
    /// Who may: hosts and origins beyond what is always allowed. Default: none.
    pub access: Access,
    /// Called with each line of the log, on a thread of its own; when it is slow, lines are lost and counted. Default:
    /// no log.
    pub log: Option<fn(&str)>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(3),
            queue_bytes: 256 * 1024,
            max_connections: 1024,
            max_per_address: None,
            max_body: 64 * 1024,
            access: Access::default(),
            log: None,
        }
    }
}

/// A bound server. [`Server::run`] serves.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
    roster: Arc<Roster>,
    threads: Threads,
    stop: Arc<Stop>,
}

/// The threads beside those of the connections. They end with the server, whether it ever served or not.
struct Threads {
    scheduler: Scheduler,
    drainer: Arc<Drainer>,
    log: Log,
}

impl Threads {
    /// Starts all of them, or leaves none.
    fn start(write_log: Option<fn(&str)>) -> io::Result<Threads> {
        let log = Log::start(write_log)?;
        let scheduler = Scheduler::start().inspect_err(|_| log.stop(Duration::ZERO))?;
        let drainer = Drainer::start().inspect_err(|_| {
            scheduler.stop();
            log.stop(Duration::ZERO);
        })?;
        Ok(Threads { scheduler, drainer, log })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.scheduler.stop();
        self.drainer.stop();
        self.log.stop(STOP_REST);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).field("config", &self.config).finish_non_exhaustive()
    }
}

/// What ends a server's accept loop: a flag, and the bell that makes it look.
struct Stop {
    is_asked: AtomicBool,
    /// How many signals had come when the first was asked for; unset where none are taken.
    signals_before: OnceLock<usize>,
    bell: Arc<Bell>,
}

impl Server {
    /// Binds to an address; port 0 picks a free one. Raises the process's soft limit of open files to the hard one,
    /// because every connection is a file.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound, or the system gives no thread.
    pub fn bind(address: impl ToSocketAddrs + fmt::Debug, config: Config) -> Result<Server> {
        let listener = TcpListener::bind(&address).map_err(|error| Error::io(format!("bind {address:?}"), error))?;
        let start = |error| Error::io("start the server", error);
        listener.set_nonblocking(true).map_err(start)?;
        let address = listener.local_addr().map_err(start)?;
        // Both make room for more clients; without them there is a working server with less.
        let _ = os::raise_backlog(&listener);
        let _ = os::raise_open_file_limit();
        let bell = Arc::new(Bell::new().map_err(start)?);
        Ok(Server {
            roster: Roster::new(config.max_connections, config.max_per_address),
            threads: Threads::start(config.log).map_err(start)?,
            stop: Arc::new(Stop { is_asked: AtomicBool::new(false), signals_before: OnceLock::new(), bell }),
            listener,
            address,
            config,
        })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The scheduler, which runs until the server stops or is dropped.
    pub fn scheduler(&self) -> Scheduler {
        self.threads.scheduler.clone()
    }

    /// Its log, for lines of one's own.
    pub fn log(&self) -> Log {
        self.threads.log.clone()
    }

    /// A handle to stop it from another thread, or on signals.
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: self.stop.clone() }
    }

    /// A handle to see what it does.
    pub fn monitor(&self) -> Monitor {
        Monitor { roster: self.roster.clone(), scheduler: self.threads.scheduler.clone() }
    }

    /// Serves until it is stopped. `answer` is called with each request, on the thread of its connection; one that
    /// panics is answered with a 500.
    ///
    /// When stopped, it takes no more connections, hands out what is queued, gives each stream a reconnection time
    /// spread over 1 to 5 s, and returns within 2 s, whatever is left.
    ///
    /// # Errors
    ///
    /// None as yet: whatever goes wrong with accepting is waited out.
    pub fn run(self, answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Result<()> {
        let Server { listener, address, config, roster, threads, stop } = self;
        let context = Arc::new(Context {
            access: config.access,
            // Below a millisecond a heartbeat would be a flood, and `Duration::MAX`, for never, is beyond any `Instant`.
            heartbeat: config.heartbeat.clamp(Duration::from_millis(1), MAX_DURATION),
            queue_bytes: config.queue_bytes,
            max_body: config.max_body,
            listener: address.ip(),
            scheduler: threads.scheduler.clone(),
            drainer: threads.drainer.clone(),
            log: threads.log.clone(),
            first: Arc::new(Frame::event(&Event::retry(config.retry))),
            comment: Arc::new(Frame::event(&Event::comment(""))),
            answer: Box::new(answer),
        });
        Accepting { listener: &listener, context: &context, roster: &roster, stop: &stop }.run();
        drop(listener); // from here on connecting is refused
        roster.stop();
        if !roster.wait_until_empty(STOP_GRACE) {
            roster.cut();
            roster.wait_until_empty(STOP_REST);
        }
        drop(threads);
        Ok(())
    }
}

/// The accept loop.
struct Accepting<'a> {
    listener: &'a TcpListener,
    context: &'a Arc<Context>,
    roster: &'a Arc<Roster>,
    stop: &'a Stop,
}

impl Accepting<'_> {
    fn run(&self) {
        let mut poller = Poller::new();
        let mut is_short = false;
        while !self.stop.is_asked() {
            poller.clear();
            poller.add(self.listener, Interest::Read);
            match self.wait(&mut poller, None).and_then(|()| self.accept_all()) {
                Ok(()) => is_short = false,
                Err(shortage) => {
                    if !is_short {
                        self.context.log.line(format_args!("accepting waits: {shortage}")); // once, however long it lasts
                    }
                    is_short = true;
                    self.pause(&mut poller);
                }
            }
        }
    }

    /// Waits a little, on the bell alone: the listener stays ready all the time.
    fn pause(&self, poller: &mut Poller) {
        let until = Instant::now() + SHORTAGE_PAUSE;
        while !self.stop.is_asked() && Instant::now() < until {
            poller.clear();
            let left = until.saturating_duration_since(Instant::now());
            if self.wait(poller, Some(left)).is_err() {
                std::thread::sleep(left); // not even that is to be had, so the bell is heard a little later
            }
        }
    }

    fn wait(&self, poller: &mut Poller, timeout: Option<Duration>) -> io::Result<()> {
        let bell = poller.add(&*self.stop.bell, Interest::Read);
        poller.wait(timeout)?;
        if poller.is_ready(bell) {
            self.stop.bell.clear();
        }
        Ok(())
    }

    /// Takes what has queued up. An error is a shortage, to be waited out.
    fn accept_all(&self) -> io::Result<()> {
        while !self.stop.is_asked() {
            match self.listener.accept() {
                Ok((socket, peer)) => self.seat(socket, peer)?,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // The client gave up while it queued, or a signal came.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Gives a connection its thread. Without a seat it is closed unanswered: an EventSource tries again after that.
    fn seat(&self, socket: TcpStream, peer: SocketAddr) -> io::Result<()> {
        if os::prepare(&socket).is_err() {
            return Ok(()); // the client has gone already
        }
        let socket = Arc::new(socket);
        let Some(seat) = self.roster.admit(peer, &socket) else { return Ok(()) };
        let context = self.context.clone();
        let thread = std::thread::Builder::new().stack_size(STACK_SIZE);
        // The seat is in the closure: where there is no thread, it gives itself back.
        thread.spawn(move || connection::serve(&context, seat, socket, peer)).map(drop)
    }
}

impl Stop {
    fn is_asked(&self) -> bool {
        let is_signalled = self.signals_before.get().is_some_and(|before| os::signals() > *before);
        is_signalled || self.is_asked.load(Ordering::SeqCst)
    }
}

/// Stops a server. Clones stop the same one.
///
/// ```
/// # fn main() -> tidings::Result<()> {
/// # let server = tidings::Server::bind("127.0.0.1:0", tidings::Config::default())?;
/// let stopper = server.stopper();
/// std::thread::spawn(move || stopper.stop()); // when your program is through
/// server.run(|_| tidings::Response::text(200, "hello"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Stopper {
    stop: Arc<Stop>,
}

impl Stopper {
    /// Makes [`Server::run`] return, within 2 s.
    pub fn stop(&self) {
        self.stop.is_asked.store(true, Ordering::SeqCst);
        self.stop.bell.ring();
    }

    /// Stops at SIGINT and SIGTERM; a second signal ends the process at once. Signals are taken only when this is asked
    /// for, and a process has one taker: the last that asked.
    ///
    /// # Errors
    ///
    /// If the system does not let signals be taken.
    pub fn on_signals(&self) -> Result<()> {
        self.stop.signals_before.get_or_init(os::signals);
        os::ring_on_signals(&self.stop.bell).map_err(|error| Error::io("take signals", error))
    }
}

/// Sees what a server does. Clones see the same one.
#[derive(Clone)]
pub struct Monitor {
    roster: Arc<Roster>,
    scheduler: Scheduler,
}

impl Monitor {
    /// What there is and has been. It costs a short lock for each open stream.
    pub fn counts(&self) -> Counts {
        self.roster.counts(self.scheduler.lateness())
    }
}
