//! The numbers behind the names that `os.rs` gives the system, system by system. A socket option is its level and its
//! name; `None` where there is none.

pub(crate) type SocketOption = Option<(i32, i32)>;
#[cfg(unix)]
const IPPROTO_TCP: i32 = 6;

#[cfg(unix)]
const fn tcp(name: i32) -> SocketOption {
    Some((IPPROTO_TCP, name))
}

/// Signal numbers and dispositions that POSIX fixes, or that every Unix shares.
#[cfg(unix)]
mod signals {
    pub(crate) const SIGINT: i32 = 2;
    pub(crate) const SIGTERM: i32 = 15;
    pub(crate) const SIG_DFL: usize = 0;
    pub(crate) const SIG_ERR: usize = usize::MAX;
}
#[cfg(unix)]
pub(crate) use signals::*;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use super::*;
    /// Linux took over the numbers of the systems it first ran beside: MIPS and SPARC have those of IRIX and SunOS.
    const OLD_NUMBERS: bool = cfg!(any(
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "mips32r6",
        target_arch = "mips64r6",
        target_arch = "sparc",
        target_arch = "sparc64"
    ));
    const IS_SPARC: bool = cfg!(any(target_arch = "sparc", target_arch = "sparc64"));
    pub(crate) const KEEPALIVE: SocketOption = Some(if OLD_NUMBERS { (0xffff, 8) } else { (1, 9) });
    pub(crate) const KEEPALIVE_IDLE: SocketOption = tcp(4);
    pub(crate) const KEEPALIVE_INTERVAL: SocketOption = tcp(5);
    pub(crate) const KEEPALIVE_PROBES: SocketOption = tcp(6);
    pub(crate) const USER_TIMEOUT: SocketOption = tcp(18);
    pub(crate) const NOTSENT_LOWAT: SocketOption = tcp(25);
    pub(crate) const RLIMIT_NOFILE: i32 = if IS_SPARC {
        6
    } else if OLD_NUMBERS {
        5
    } else {
        7
    };
}

#[cfg(any(target_os = "macos", target_os = "ios"))]
mod system {
    use super::*;
    pub(crate) const KEEPALIVE: SocketOption = Some((0xffff, 8));
    pub(crate) const KEEPALIVE_IDLE: SocketOption = tcp(0x10);
    pub(crate) const KEEPALIVE_INTERVAL: SocketOption = tcp(0x101);
    pub(crate) const KEEPALIVE_PROBES: SocketOption = tcp(0x102);
    pub(crate) const USER_TIMEOUT: SocketOption = None;
    pub(crate) const NOTSENT_LOWAT: SocketOption = tcp(0x201);
    pub(crate) const RLIMIT_NOFILE: i32 = 8;
}

#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
mod system {
    use super::*;
    pub(crate) const KEEPALIVE: SocketOption = Some((0xffff, 8));
    pub(crate) const KEEPALIVE_IDLE: SocketOption = tcp(0x100);
    pub(crate) const KEEPALIVE_INTERVAL: SocketOption = tcp(0x200);
    pub(crate) const KEEPALIVE_PROBES: SocketOption = tcp(0x400);
    pub(crate) const USER_TIMEOUT: SocketOption = None;
    pub(crate) const NOTSENT_LOWAT: SocketOption = None;
    pub(crate) const RLIMIT_NOFILE: i32 = 8;
}

#[cfg(target_os = "netbsd")]
mod system {
    use super::*;
    pub(crate) const KEEPALIVE: SocketOption = Some((0xffff, 8));
    pub(crate) const KEEPALIVE_IDLE: SocketOption = tcp(3);
    pub(crate) const KEEPALIVE_INTERVAL: SocketOption = tcp(5);
    pub(crate) const KEEPALIVE_PROBES: SocketOption = tcp(6);
    pub(crate) const USER_TIMEOUT: SocketOption = None;
    pub(crate) const NOTSENT_LOWAT: SocketOption = None;
    pub(crate) const RLIMIT_NOFILE: i32 = 8;
}

/// Any other Unix: what Berkeley's sockets have had since the beginning. Elsewhere the numbers are never used.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "ios",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
mod system {
    use super::*;
    pub(crate) const KEEPALIVE: SocketOption = if cfg!(unix) { Some((0xffff, 8)) } else { None };
    pub(crate) const KEEPALIVE_IDLE: SocketOption = None;
    pub(crate) const KEEPALIVE_INTERVAL: SocketOption = None;
    pub(crate) const KEEPALIVE_PROBES: SocketOption = None;
    pub(crate) const USER_TIMEOUT: SocketOption = None;
    pub(crate) const NOTSENT_LOWAT: SocketOption = None;
    #[cfg(unix)]
    pub(crate) const RLIMIT_NOFILE: i32 = 8;
}
pub(crate) use system::*;
