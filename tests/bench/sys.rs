//! The system calls that the load needs and `std` does not have: epoll, a connect that does not wait, the limit of
//! open files, the CPU clock of another process, and two that tie a child to its parent and to a processor. Nothing
//! else in the benchmarks is `unsafe`.
//!
//! Written by hand for Linux, because a benchmark must not bring a dependency either. The numbers are those of
//! x86, Arm, RISC-V, POWER and s390x; the two that MIPS counts differently are told apart below.

use std::ffi::{c_int, c_long, c_uint, c_ulong};
use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

const MIPS: bool = cfg!(any(target_arch = "mips", target_arch = "mips64"));
const AF_INET: c_int = 2;
const SOCK_STREAM: c_int = if MIPS { 2 } else { 1 };
const RLIMIT_NOFILE: c_int = if MIPS { 5 } else { 7 };
const CLOEXEC: c_int = 0o2000000;
const EPOLL_CTL_ADD: c_int = 1;
const EPOLLIN: u32 = 0x1;
const EPOLLOUT: u32 = 0x4;
const EPOLLRDHUP: u32 = 0x2000;
const EPOLLET: u32 = 1 << 31;
const PR_SET_PDEATHSIG: c_int = 1;
const SIGKILL: c_ulong = 9;
const EINPROGRESS: i32 = if MIPS { 150 } else { 115 };

/// `struct epoll_event`, which is packed on x86-64 alone.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
struct EpollEvent {
    events: u32,
    token: u64,
}

/// `struct sockaddr_in`; port and address in network order.
#[repr(C)]
struct SocketAddress {
    family: u16,
    port: [u8; 2],
    address: [u8; 4],
    zero: [u8; 8],
}

/// `cpu_set_t`: 1,024 processors, a bit each.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Processors([c_ulong; 128 / size_of::<c_ulong>()]);

#[repr(C)]
struct Limit {
    soft: c_ulong,
    hard: c_ulong,
}

#[repr(C)]
struct Timespec {
    seconds: c_long,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, operation: c_int, file: c_int, event: *mut EpollEvent) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut EpollEvent, room: c_int, milliseconds: c_int) -> c_int;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(socket: c_int, address: *const SocketAddress, length: c_uint) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn clock_getcpuclockid(pid: c_int, clock: *mut c_int) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
    fn sched_getaffinity(pid: c_int, size: usize, processors: *mut Processors) -> c_int;
    fn sched_setaffinity(pid: c_int, size: usize, processors: *const Processors) -> c_int;
    fn prctl(option: c_int, argument: c_ulong) -> c_int;
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An edge-triggered epoll: a socket is told of once for each arrival, so a reader that reads until it gets less
/// than it asked for pays one call for a wake-up and one for a socket.
pub struct Epoll {
    epoll: OwnedFd,
    ready: Vec<EpollEvent>,
}

/// One socket that epoll has told of.
#[derive(Clone, Copy)]
pub struct Ready {
    /// What was given to [`Epoll::add`].
    pub token: u64,
    /// There is room to write; right after connecting, this says that the connection stands.
    pub writable: bool,
    /// The peer has closed: read on to the end, no other edge will come.
    pub closed: bool,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointer is passed, and the descriptor returned is new and owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(checked(epoll_create1(CLOEXEC))?) };
        Ok(Epoll { epoll, ready: vec![EpollEvent { events: 0, token: 0 }; 1024] })
    }

    /// Tells of `socket` from now on, for as long as it is open.
    pub fn add(&self, socket: &TcpStream, token: u64) -> io::Result<()> {
        let mut event = EpollEvent { events: EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, token };
        // SAFETY: both descriptors are open while they are borrowed, and the kernel only reads `event`.
        checked(unsafe { epoll_ctl(self.epoll.as_raw_fd(), EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    /// Waits until something is ready or `time` (counted in whole milliseconds) is over; how many are ready.
    pub fn wait(&mut self, time: Duration) -> io::Result<usize> {
        let room = self.ready.len() as c_int;
        let time = time.as_millis().min(i32::MAX as u128) as c_int;
        // SAFETY: the kernel writes at most `room` entries, which is how many `ready` has.
        match checked(unsafe { epoll_wait(self.epoll.as_raw_fd(), self.ready.as_mut_ptr(), room, time) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other.map(|count| count as usize),
        }
    }

    /// The ready one at `index`, below what [`Epoll::wait`] has just returned.
    pub fn ready(&self, index: usize) -> Ready {
        let EpollEvent { events, token } = self.ready[index];
        Ready { token, writable: events & EPOLLOUT != 0, closed: events & EPOLLRDHUP != 0 }
    }
}

/// Starts to connect and returns at once, with a non-blocking socket: thousands of these really are at once, while
/// `TcpStream::connect` would wait for each handshake (a whole second, when the listener's queue is full).
pub fn start_connect(address: SocketAddrV4) -> io::Result<TcpStream> {
    // SAFETY: no pointer is passed, and the descriptor returned is new and owned by nobody else.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(checked(socket(AF_INET, SOCK_STREAM | CLOEXEC, 0))?) });
    stream.set_nonblocking(true)?;
    let address = SocketAddress {
        family: AF_INET as u16,
        port: address.port().to_be_bytes(),
        address: address.ip().octets(),
        zero: [0; 8],
    };
    // SAFETY: `address` is a whole sockaddr_in, of the length given, and is only read during the call.
    let begun = unsafe { connect(stream.as_raw_fd(), &address, size_of::<SocketAddress>() as c_uint) };
    match checked(begun) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        _ => Ok(stream),
    }
}

/// Raises the limit of open files to `wanted`, or as far as one may; returns where it stands. Children inherit it.
pub fn raise_open_files(wanted: usize) -> io::Result<usize> {
    let mut limit = Limit { soft: 0, hard: 0 };
    // SAFETY: the kernel writes one `struct rlimit`, which `limit` is.
    checked(unsafe { getrlimit(RLIMIT_NOFILE, &mut limit) })?;
    let soft = (wanted as c_ulong).min(limit.hard);
    // SAFETY: `limit` is a whole `struct rlimit` and is only read.
    checked(unsafe { setrlimit(RLIMIT_NOFILE, &Limit { soft, hard: limit.hard }) })?;
    Ok(soft as usize)
}

/// What all threads of a process have run so far, those that have ended included: user and system, to the
/// nanosecond, where `/proc/PID/stat` counts in hundredths of a second.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: the call writes one `clockid_t`, which is an int on Linux.
    let failed = unsafe { clock_getcpuclockid(pid as c_int, &mut clock) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the call writes one `struct timespec`, which `time` is.
    checked(unsafe { clock_gettime(clock, &mut time) })?;
    Ok(Duration::new(time.seconds as u64, time.nanoseconds as u32))
}

/// Has the kernel kill the child when the thread that starts it ends, so that a bench that is stopped by a signal
/// leaves no server behind.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let tie = || {
        // SAFETY: the option takes one number and no pointer.
        checked(unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL) }).map(|_| ())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(tie) }
}

impl Processors {
    const SIZE: usize = size_of::<Processors>();

    /// Those that this thread may run on.
    pub fn allowed() -> io::Result<Processors> {
        let mut processors = Processors([0; 128 / size_of::<c_ulong>()]);
        // SAFETY: the kernel writes at most `SIZE` bytes, which `processors` has.
        checked(unsafe { sched_getaffinity(0, Self::SIZE, &mut processors) })?;
        Ok(processors)
    }

    /// The last of them alone: the first ones serve more interrupts.
    pub fn last(self) -> Processors {
        let mut last = Processors([0; 128 / size_of::<c_ulong>()]);
        if let Some(word) = self.0.iter().rposition(|word| *word != 0) {
            last.0[word] = 1 << self.0[word].ilog2();
        }
        last
    }

    /// Keeps this thread, and the children that it starts from now on, to them.
    pub fn keep_to(&self) -> io::Result<()> {
        // SAFETY: the kernel reads `SIZE` bytes, which `self` has.
        checked(unsafe { sched_setaffinity(0, Self::SIZE, self) }).map(|_| ())
    }
}
