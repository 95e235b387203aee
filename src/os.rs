//! The operating system: what `std` does not reach. Socket options, `poll(2)`, signals, the open-file limit, what is
//! advised about memory and caches. All `unsafe` of the crate stands here, each block with its reason, behind functions
//! that are safe to call.
//!
//! There is one door per platform: numbers come from the ladder in `number.rs`, and a system that is not on it gets a
//! working server without the option, never a build error. What is not Unix has no `poll`: there, waiting is a short
//! sleep and another try.

use crate::number;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What to wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Bytes to read, the end of the stream, or an error.
    Read,
    /// Room to write, or an error.
    Write,
}

/// TCP keepalive: a first probe after 30 s of silence, then one every 10 s, three in all. A peer that vanished while
/// nothing was to be sent is found within 60 s.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_PROBES: u32 = 3;

/// How long sent bytes may stay unacknowledged. With a heartbeat every 15 s a vanished peer is found within 60 s.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How many unsent bytes the kernel takes for one socket: enough to keep a fast client busy, and little enough that it
/// does not hide megabytes behind the outbox's own bound.
pub(crate) const NOTSENT_LOWAT: u32 = 16 * 1024;

/// How many connections may wait to be accepted, the backlog; the system cuts it to its own bound (`net.core.somaxconn`
/// on Linux). `std` asks for 128, and when thousands connect at once those that do not fit retry after a second or more.
#[cfg(unix)]
const BACKLOG: i32 = 4096;

/// Waits until the socket is ready or `until` has come, and says whether it is ready.
///
/// Ready may be said too often, never too seldom: the caller tries its non-blocking operation and comes back.
pub(crate) fn wait(socket: &TcpStream, interest: Interest, until: Instant) -> io::Result<bool> {
    loop {
        // A signal or a rounded timeout ends the wait early: look at the clock again.
        if wait_once(socket, interest, until.saturating_duration_since(Instant::now()))? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
    }
}

/// Has glibc keep what all threads allocate in one heap. (It says arena: this is `M_ARENA_MAX`, and what the environment
/// says of it no longer counts.) For a program that is a server and little else, which calls it first in `main`: a heap
/// that a thread has by then stays.
///
/// By default glibc makes up to eight heaps for each processor, and what is free in one is of no use in another. A server,
/// with its many small threads, has up to twice the memory that it needs after a busy day, and an event to many costs
/// more. It holds for the whole process and cannot be undone. With another C library it does nothing.
pub fn use_one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unix::use_one_heap();
}

/// The most of one value that is fetched ahead: an outbox whole, and of a closure that holds an array the beginning.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const MOST_FETCHED: usize = 512;

/// Has the processor bring a value into its caches while the program goes on.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) fn prefetch<T: ?Sized>(value: &T) {
    let size = size_of_val(value).min(MOST_FETCHED);
    let first = std::ptr::from_ref(value).cast::<i8>();
    // One byte in each 64, which is the shortest line of these processors, and the last: a value may begin amid a line.
    for offset in (0..size).step_by(64).chain([size.saturating_sub(1)]) {
        let byte = first.wrapping_add(offset);
        // SAFETY: a prefetch is a hint. It gives the program nothing to see and does not fault, whatever the address.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(byte);
            #[cfg(target_arch = "aarch64")]
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) byte, options(nostack, preserves_flags, readonly));
        }
    }
}

/// Other processors do without: they fetch when it is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn prefetch<T: ?Sized>(_: &T) {}

/// A random number from the only source that `std` opens: the seed of its hash maps. For ids and for spreading clients,
/// not for secrets.
pub(crate) fn random() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::ffi::{c_int, c_short, c_void};
    use std::io::{Read, Write};
    #[cfg(target_os = "linux")]
    use std::ops::Range;
    use std::os::fd::{AsFd, AsRawFd, RawFd};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

    /// `struct pollfd`, the same on every Unix.
    #[repr(C)]
    struct PollFd {
        fd: RawFd,
        events: c_short,
        revents: c_short,
    }

    const POLLIN: c_short = 1;
    const POLLOUT: c_short = 4;

    impl PollFd {
        fn new(file: &impl AsFd, interest: Interest) -> PollFd {
            let events = match interest {
                Interest::Read => POLLIN,
                Interest::Write => POLLOUT,
            };
            PollFd { fd: file.as_fd().as_raw_fd(), events, revents: 0 }
        }
    }

    /// `nfds_t`.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    type Count = std::ffi::c_ulong;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    type Count = std::ffi::c_uint;

    /// `rlim_t`: 64 bits everywhere but in the classic interfaces of glibc, uClibc and Android on 32-bit machines.
    #[cfg(any(target_os = "android", all(target_os = "linux", any(target_env = "gnu", target_env = "uclibc"))))]
    type Limit = std::ffi::c_ulong;
    #[cfg(not(any(target_os = "android", all(target_os = "linux", any(target_env = "gnu", target_env = "uclibc")))))]
    type Limit = u64;

    #[repr(C)]
    struct ResourceLimit {
        soft: Limit,
        hard: Limit,
    }

    unsafe extern "C" {
        fn poll(fds: *mut PollFd, count: Count, timeout_ms: c_int) -> c_int;
        fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> c_int;
        #[cfg(test)]
        fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut u32) -> c_int;
        fn listen(fd: c_int, backlog: c_int) -> c_int;
        fn signal(number: c_int, handler: usize) -> usize;
        fn write(fd: c_int, bytes: *const c_void, length: usize) -> isize;
        fn getrlimit(resource: c_int, limit: *mut ResourceLimit) -> c_int;
        fn setrlimit(resource: c_int, limit: *const ResourceLimit) -> c_int;
        #[cfg(target_os = "linux")]
        fn pthread_self() -> usize;
        #[cfg(target_os = "linux")]
        fn pthread_getattr_np(thread: usize, attributes: *mut c_void) -> c_int;
        #[cfg(target_os = "linux")]
        fn pthread_attr_getstack(attributes: *const c_void, lowest: *mut *mut c_void, size: *mut usize) -> c_int;
        #[cfg(target_os = "linux")]
        fn pthread_attr_destroy(attributes: *mut c_void) -> c_int;
        #[cfg(target_os = "linux")]
        fn madvise(start: *mut c_void, length: usize, advice: c_int) -> c_int;
        #[cfg(target_os = "linux")]
        fn getpagesize() -> c_int;
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }

    /// One `poll(2)`: until something is ready, the time is over or a signal came.
    fn poll_all(entries: &mut [PollFd], timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up, so that a wait of half a millisecond is not a spin.
        let timeout_ms =
            timeout.map_or(-1, |t| c_int::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX));
        // SAFETY: the pointer and the count are of one live, exclusively borrowed slice of the C struct's layout.
        let found = unsafe { poll(entries.as_mut_ptr(), entries.len() as Count, timeout_ms) };
        if found >= 0 {
            return Ok(());
        }
        entries.iter_mut().for_each(|entry| entry.revents = 0);
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        }
    }

    /// Waits for one socket, on the stack alone: a thread that sleeps beside a stream keeps no heap for it.
    pub(crate) fn wait_once(socket: &TcpStream, interest: Interest, timeout: Duration) -> io::Result<bool> {
        let mut entry = [PollFd::new(socket, interest)];
        poll_all(&mut entry, Some(timeout))?;
        Ok(entry[0].revents != 0)
    }

    /// A set of sockets to wait on, for the two threads that watch many: accept and the drainer.
    pub(crate) struct Poller {
        entries: Vec<PollFd>,
    }

    impl Poller {
        pub(crate) fn new() -> Poller {
            Poller { entries: Vec::new() }
        }

        pub(crate) fn clear(&mut self) {
            self.entries.clear();
        }

        /// Adds a socket and says where [`Poller::is_ready`] finds it. The caller keeps the socket open until after the
        /// wait; if it does not, the wait is about another file, which can only make ready be said too often.
        pub(crate) fn add(&mut self, socket: &impl AsFd, interest: Interest) -> usize {
            self.entries.push(PollFd::new(socket, interest));
            self.entries.len() - 1
        }

        pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
            poll_all(&mut self.entries, timeout)
        }

        pub(crate) fn is_ready(&self, entry: usize) -> bool {
            self.entries[entry].revents != 0
        }
    }

    /// Wakes a thread that waits in a [`Poller`]: a byte through a socket pair.
    pub(crate) struct Bell {
        ringer: UnixStream,
        listener: UnixStream,
    }

    impl Bell {
        pub(crate) fn new() -> io::Result<Bell> {
            let (ringer, listener) = UnixStream::pair()?;
            ringer.set_nonblocking(true)?;
            listener.set_nonblocking(true)?;
            Ok(Bell { ringer, listener })
        }

        /// A full pair means that it has rung and nobody has heard it yet: nothing is lost.
        pub(crate) fn ring(&self) {
            let _ = (&self.ringer).write(&[0]);
        }

        /// Hears everything rung so far.
        pub(crate) fn clear(&self) {
            let mut heard = [0; 64];
            while matches!((&self.listener).read(&mut heard), Ok(n) if n == heard.len()) {}
        }
    }

    impl AsFd for Bell {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.listener.as_fd()
        }
    }

    /// The bell that a signal rings: its descriptor, or -1. A signal handler can reach nothing but statics.
    static SIGNAL_BELL: AtomicI32 = AtomicI32::new(-1);
    static SIGNALS: AtomicUsize = AtomicUsize::new(0);

    /// Rings `bell` at SIGINT and SIGTERM, once: the handler puts the default back, so that a second signal ends the
    /// process at once. `bell` must live as long as the process does, so it is leaked.
    ///
    /// A process has one handler: the last bell asked for is the one that rings.
    pub(crate) fn ring_on_signals(bell: &std::sync::Arc<Bell>) -> io::Result<()> {
        std::mem::forget(bell.clone());
        SIGNAL_BELL.store(bell.ringer.as_raw_fd(), Ordering::SeqCst);
        let handler: extern "C" fn(c_int) = on_signal;
        for number in [number::SIGINT, number::SIGTERM] {
            // SAFETY: the handler is a function of the right type that does only what is async-signal-safe.
            if unsafe { signal(number, handler as usize) } == number::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// How many signals have come. A server counts from where it asked for them: what ended another before it is over.
    pub(crate) fn signals() -> usize {
        SIGNALS.load(Ordering::SeqCst)
    }

    extern "C" fn on_signal(_: c_int) {
        for number in [number::SIGINT, number::SIGTERM] {
            // SAFETY: signal(2) is async-signal-safe (signal-safety(7)) and SIG_DFL is always a valid disposition.
            unsafe { signal(number, number::SIG_DFL) };
        }
        SIGNALS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: write(2) is async-signal-safe; the descriptor belongs to a leaked Bell; one byte is read from a static.
        // Its outcome is of no interest: a full pair has rung already.
        unsafe { write(SIGNAL_BELL.load(Ordering::SeqCst), c"".as_ptr().cast(), 1) };
    }

    /// What became of a call that returns 0, or sets `errno`.
    fn checked(outcome: c_int) -> io::Result<()> {
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sets a socket option; all those used here are C ints.
    pub(crate) fn set_option(socket: &impl AsFd, (level, name): (c_int, c_int), value: u32) -> io::Result<()> {
        let value = value as c_int;
        // SAFETY: the pointer is to a live int and the length is an int's.
        let outcome = unsafe {
            setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), size_of::<c_int>() as u32)
        };
        checked(outcome)
    }

    #[cfg(test)]
    pub(crate) fn option(socket: &impl AsFd, (level, name): (c_int, c_int)) -> io::Result<u32> {
        let (mut value, mut length) = (0 as c_int, size_of::<c_int>() as u32);
        // SAFETY: both pointers are to live values, and the length says how long the first is.
        let outcome =
            unsafe { getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
        checked(outcome).map(|()| value as u32)
    }

    pub(crate) fn raise_backlog(listener: &TcpListener) -> io::Result<()> {
        // SAFETY: listen(2) on a socket that listens already only changes its backlog.
        checked(unsafe { listen(listener.as_raw_fd(), BACKLOG) })
    }

    /// Raises the soft limit of open files to the hard one, which every process may do. Every connection is a file.
    pub(crate) fn raise_open_file_limit() -> io::Result<()> {
        let mut limit = ResourceLimit { soft: 0, hard: 0 };
        // SAFETY: the pointer is to a live struct of the C layout.
        checked(unsafe { getrlimit(number::RLIMIT_NOFILE, &mut limit) })?;
        if limit.soft >= limit.hard {
            return Ok(()); // also where the struct should turn out to be another: a limit is raised or left alone
        }
        limit.soft = limit.hard;
        // SAFETY: as above.
        checked(unsafe { setrlimit(number::RLIMIT_NOFILE, &limit) })
    }

    /// Has glibc make no further heaps: [`use_one_heap`](super::use_one_heap).
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    pub(super) fn use_one_heap() {
        const M_ARENA_MAX: c_int = -8;
        // SAFETY: it takes two numbers and no pointer. glibc's manual calls it unsafe beside other threads, because they
        // read the number without the lock under which it is set. It is one aligned int: a thread about to make a heap
        // sees the old or the new one, and a call that comes late does less and no harm. With these it cannot fail.
        unsafe { mallopt(M_ARENA_MAX, 1) };
    }

    /// Gives the pages of this thread's stack that are below the caller's frame back to the kernel: a deep handler has
    /// touched them once, and a stream that sleeps for hours never will again.
    ///
    /// Where the stack ends is asked of the thread library. It cannot be counted from the thread's first frame: the
    /// program's thread-local variables take as much as they like of the same mapping, and what follows it is the stack
    /// of another thread.
    #[cfg(target_os = "linux")]
    #[inline(never)] // so that this frame is below all of the caller's
    pub(crate) fn trim_stack() {
        const MADV_DONTNEED: c_int = 4;
        // `pthread_attr_t`, which has 64 bytes at the most.
        let mut attributes = [0u64; 16];
        let (mut lowest, mut size) = (std::ptr::null_mut(), 0);
        // SAFETY: the pointers are to live values, the first to more room than the C type takes, aligned as its longest
        // member. What is asked of the attributes is asked only if they were filled in, and they are given back.
        let outcome = unsafe {
            match pthread_getattr_np(pthread_self(), attributes.as_mut_ptr().cast()) {
                0 => {
                    let outcome = pthread_attr_getstack(attributes.as_ptr().cast(), &mut lowest, &mut size);
                    pthread_attr_destroy(attributes.as_mut_ptr().cast());
                    outcome
                }
                error => error,
            }
        };
        // SAFETY: it takes nothing and only tells.
        let page = usize::try_from(unsafe { getpagesize() }).unwrap_or(0);
        // Half a kilobyte stays below this frame, for the call itself.
        let used = (&raw const attributes as usize).saturating_sub(512);
        let stack = lowest as usize..(lowest as usize).saturating_add(size);
        if let (0, Some(unused)) = (outcome, whole_pages_below(used, stack, page)) {
            // SAFETY: these are whole pages, or the kernel would take the rest of the last one too, and they lie inside
            // this thread's own stack, below every live frame; anonymous private memory that is dropped there reads as
            // zero when it is used again, and nothing is read below a stack pointer.
            unsafe { madvise(unused.start as *mut c_void, unused.len(), MADV_DONTNEED) };
        }
    }

    /// The whole pages of the stack that are below an address in it, if there are any. Pages have 4 KiB on most machines,
    /// 16 on a Raspberry Pi 5 and 64 on some servers.
    #[cfg(target_os = "linux")]
    pub(super) fn whole_pages_below(used: usize, stack: Range<usize>, page: usize) -> Option<Range<usize>> {
        let start = stack.start.checked_next_multiple_of(page)?; // of no page there is no multiple
        let end = used - used % page;
        (start < end && stack.contains(&used)).then_some(start..end)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn trim_stack() {}
}

#[cfg(not(unix))]
mod elsewhere {
    use super::*;

    /// Without `poll`, waiting is a nap, after which everything may be ready.
    pub(crate) struct Poller {
        entries: usize,
    }

    const NAP: Duration = Duration::from_millis(5);

    fn nap(timeout: Duration) {
        std::thread::sleep(timeout.min(NAP));
    }

    pub(crate) fn wait_once(_: &TcpStream, _: Interest, timeout: Duration) -> io::Result<bool> {
        nap(timeout);
        Ok(true)
    }

    impl Poller {
        pub(crate) fn new() -> Poller {
            Poller { entries: 0 }
        }

        pub(crate) fn clear(&mut self) {
            self.entries = 0;
        }

        pub(crate) fn add<T>(&mut self, _: &T, _: Interest) -> usize {
            self.entries += 1;
            self.entries - 1
        }

        pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
            nap(timeout.unwrap_or(NAP));
            Ok(())
        }

        pub(crate) fn is_ready(&self, entry: usize) -> bool {
            entry < self.entries
        }
    }

    /// Nobody sleeps for long, so nobody needs to be woken.
    pub(crate) struct Bell;

    impl Bell {
        pub(crate) fn new() -> io::Result<Bell> {
            Ok(Bell)
        }

        pub(crate) fn ring(&self) {}

        pub(crate) fn clear(&self) {}
    }

    pub(crate) fn ring_on_signals(_: &std::sync::Arc<Bell>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn signals() -> usize {
        0
    }

    pub(crate) fn set_option(_: &TcpStream, _: (i32, i32), _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn raise_backlog(_: &TcpListener) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn raise_open_file_limit() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn trim_stack() {}
}

#[cfg(not(unix))]
pub(crate) use elsewhere::*;
#[cfg(unix)]
pub(crate) use unix::*;

/// Makes a fresh connection what every connection of the server is: non-blocking for life, without Nagle's delay (which
/// holds a small write back until the one before it is acknowledged), and with probes that find a peer that vanished.
///
/// Only non-blocking is a must. An option that the system does not know leaves a working server.
pub(crate) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let _ = socket.set_nodelay(true);
    for (option, value) in [
        (number::KEEPALIVE, 1),
        (number::KEEPALIVE_IDLE, KEEPALIVE_IDLE.as_secs() as u32),
        (number::KEEPALIVE_INTERVAL, KEEPALIVE_INTERVAL.as_secs() as u32),
        (number::KEEPALIVE_PROBES, KEEPALIVE_PROBES),
        (number::USER_TIMEOUT, USER_TIMEOUT.as_millis() as u32),
        (number::NOTSENT_LOWAT, NOTSENT_LOWAT),
    ] {
        if let Some(option) = option {
            let _ = set_option(socket, option, value);
        }
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn socket_options_are_really_set() {
        let (_client, socket) = pair();
        prepare(&socket).unwrap();
        assert!(socket.nodelay().unwrap());
        for (name, value) in [
            (number::KEEPALIVE, 1),
            (number::KEEPALIVE_IDLE, 30),
            (number::KEEPALIVE_INTERVAL, 10),
            (number::KEEPALIVE_PROBES, 3),
            (number::USER_TIMEOUT, 30_000),
            (number::NOTSENT_LOWAT, 16 * 1024),
        ] {
            assert_eq!(option(&socket, name.unwrap()).unwrap(), value, "{name:?}");
        }
    }

    #[test]
    fn wait_tells_ready_from_late() {
        let (client, socket) = pair();
        let soon = || Instant::now() + Duration::from_millis(20);
        assert!(wait(&socket, Interest::Write, soon()).unwrap());
        let until = soon();
        assert!(!wait(&socket, Interest::Read, until).unwrap());
        assert!(Instant::now() >= until, "a wait must not end early");
        drop(client);
        assert!(wait(&socket, Interest::Read, soon()).unwrap());
    }

    #[test]
    fn a_shutdown_from_another_thread_ends_a_wait() {
        let (_client, socket) = pair();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                socket.shutdown(std::net::Shutdown::Both).unwrap();
            });
            assert!(wait(&socket, Interest::Read, Instant::now() + Duration::from_secs(5)).unwrap());
        });
    }

    #[test]
    fn a_bell_that_rang_before_the_wait_is_heard() {
        let bell = Bell::new().unwrap();
        for _ in 0..100_000 {
            bell.ring(); // more than the pair holds: a ring never blocks
        }
        let mut poller = Poller::new();
        let entry = poller.add(&bell, Interest::Read);
        poller.wait(Some(Duration::from_secs(5))).unwrap();
        assert!(poller.is_ready(entry));
        bell.clear();
        poller.wait(Some(Duration::ZERO)).unwrap();
        assert!(!poller.is_ready(entry));
    }

    #[test]
    fn trim_stack_leaves_live_frames_alone() {
        const STACK: usize = 256 * 1024;
        // A frame without optimization is 4 to 6 KiB, by processor.
        const DEPTH: usize = 30;
        #[inline(never)]
        fn deep(depth: usize) -> usize {
            let page = std::hint::black_box([depth as u8; 2048]);
            if depth == 0 { 0 } else { deep(depth - 1) + usize::from(page[7] == depth as u8) }
        }
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(|| {
            let top = std::hint::black_box([7u8; 64]);
            let mut sum = 0;
            for _ in 0..10 {
                sum += deep(DEPTH);
                trim_stack();
            }
            assert_eq!((sum, top), (10 * DEPTH, [7; 64]));
        });
        thread.unwrap().join().unwrap();
    }

    /// The kernel drops the whole of every page that a range touches, and pages are not 4 KiB everywhere.
    #[test]
    fn only_whole_pages_of_the_stack_are_given_back() {
        const STACK: std::ops::Range<usize> = 0x10_0000..0x14_0000;
        for (used, page, expected) in [
            (0x13_f123, 0x1000, Some(0x10_0000..0x13_f000)),
            (0x13_f000, 0x1000, Some(0x10_0000..0x13_f000)),
            (0x13_f123, 0x4000, Some(0x10_0000..0x13_c000)),
            (0x13_f123, 0x1_0000, Some(0x10_0000..0x13_0000)),
            (0x10_f123, 0x1_0000, None),
            (0x13_f123, 0x10_0000, None),
            (0x14_0000, 0x1000, None),
            (0x0f_ffff, 0x1000, None),
            (0x13_f123, 0, None),
        ] {
            assert_eq!(unix::whole_pages_below(used, STACK, page), expected, "{used:x} {page:x}");
        }
        // A stack that begins amid a page, as one that a program made by itself may.
        assert_eq!(unix::whole_pages_below(0x13_f123, 0x10_1000..0x14_0000, 0x4000), Some(0x10_4000..0x13_c000));
    }
}
