//! How many clients this box has room for, and which of its limits is met first.
//!
//! Every connection is an open file, a thread with up to four memory maps, and some memory; each of these has a limit
//! that Linux tells in text files. Nothing is tried out and nothing is changed here. A limit that cannot be read does
//! not count, so on a system without /proc nothing is known, and that is what is said. The reading is one function
//! handed in, and all else is arithmetic on texts.

use std::fmt;

/// The limit that is met first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// So many clients fit.
    pub clients: usize,
    /// What bounds them, to stand after `bounded by`.
    pub limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    OpenFiles,
    Threads,
    MemoryMaps,
    Memory,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::OpenFiles => "open files (ulimit -n)",
            Limit::Threads => "threads (ulimit -u, kernel.threads-max, kernel.pid_max or pids.max)",
            Limit::MemoryMaps => "memory maps (vm.max_map_count)",
            Limit::Memory => "memory",
        })
    }
}

/// Files that are no connections: the three standard streams, the listener, the socket pairs that wake threads, and
/// what the program that started this one left open.
const OTHER_FILES: u64 = 64;

/// Threads of the server that are no connections, and a few for whoever logs in to look at a full box.
const OTHER_THREADS: u64 = 64;

/// A thread's stack, its guard page, and the same two for the stack on which Rust tells a stack overflow: four. With too
/// few maps the process aborts, so a fifth of them is left for the heap and the libraries.
const MAPS_PER_CLIENT: u64 = 5;

/// What an idle stream takes of user memory (11 KiB), kernel stack (16 KiB) and socket, with a little in its queue.
const BYTES_PER_CLIENT: u64 = 45 * 1024;

/// The capacity of this box, if it tells.
pub fn of_this_box() -> Option<Capacity> {
    measure(&|path| std::fs::read_to_string(path).ok())
}

type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

fn measure(read: Read) -> Option<Capacity> {
    [
        (Limit::OpenFiles, open_files(read)),
        (Limit::Threads, threads(read)),
        (Limit::MemoryMaps, memory_maps(read)),
        (Limit::Memory, memory(read)),
    ]
    .into_iter()
    .filter_map(|(limit, clients)| Some(Capacity { clients: usize::try_from(clients?).unwrap_or(usize::MAX), limit }))
    .min_by_key(|capacity| capacity.clients)
}

/// By the hard limit, because the server raises the soft one to it as it binds.
fn open_files(read: Read) -> Option<u64> {
    Some(hard_limit(&read("/proc/self/limits")?, "Max open files")?.saturating_sub(OTHER_FILES))
}

fn threads(read: Read) -> Option<u64> {
    let whole_box =
        ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"].iter().filter_map(|path| number(read, path));
    // The fourth word of the load is `running/all`, and all are threads.
    let loadavg = read("/proc/loadavg").unwrap_or_default();
    let running = loadavg.split(' ').nth(3).and_then(|word| word.split_once('/')?.1.parse().ok()).unwrap_or(0);
    let whole_box = whole_box.min().map(|most| most.saturating_sub(running));
    let groups = groups(read, "pids");
    let of_groups = groups.iter().filter_map(|group| {
        Some(
            number(read, &format!("{group}/pids.max"))?.saturating_sub(number(read, &format!("{group}/pids.current"))?),
        )
    });
    let least = of_groups.chain(whole_box).chain(threads_of_user(read)).min()?;
    Some(least.saturating_sub(OTHER_THREADS))
}

/// The limit of one user's threads. The kernel does not hold root to it.
fn threads_of_user(read: Read) -> Option<u64> {
    let status = read("/proc/self/status")?;
    let effective_user = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?;
    if effective_user == "0" { None } else { hard_limit(&read("/proc/self/limits")?, "Max processes") }
}

fn memory_maps(read: Read) -> Option<u64> {
    number(read, "/proc/sys/vm/max_map_count").map(|maps| maps / MAPS_PER_CLIENT)
}

fn memory(read: Read) -> Option<u64> {
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let whole_box = meminfo.lines().find_map(|line| {
        let kib: u64 = line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    });
    let groups = groups(read, "memory");
    let of_groups = groups.iter().filter_map(|group| memory_of_group(read, group));
    Some(of_groups.chain(whole_box).min()? / BYTES_PER_CLIENT)
}

/// What a control group has left. Files that were read long ago count as used, but make way when memory is asked for.
fn memory_of_group(read: Read, group: &str) -> Option<u64> {
    let [most, used] =
        [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")].into_iter().find_map(
            |(most, used)| Some([number(read, &format!("{group}/{most}"))?, number(read, &format!("{group}/{used}"))?]),
        )?;
    let stat = read(&format!("{group}/memory.stat")).unwrap_or_default();
    let idle_files = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok()).unwrap_or(0);
    Some(most.saturating_sub(used.saturating_sub(idle_files)))
}

/// The folders of the control groups that hold this process to limits of this kind: its own and all above it, in
/// version 2 of control groups and in version 1.
fn groups(read: Read, controller: &str) -> Vec<String> {
    let mut folders = Vec::new();
    for line in read("/proc/self/cgroup").unwrap_or_default().lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(mut path)) = (parts.next(), parts.next()) else { continue };
        let mount = match controllers {
            "" => "/sys/fs/cgroup".to_owned(),
            named if named.split(',').any(|name| name == controller) => format!("/sys/fs/cgroup/{named}"),
            _ => continue,
        };
        while let Some((above, _)) = path.rsplit_once('/') {
            folders.push(format!("{mount}{path}"));
            path = above;
        }
        folders.push(mount);
    }
    folders
}

/// The number that is a file's whole text; `max` is none.
fn number(read: Read, path: &str) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// From the table `name  soft  hard  unit`; `unlimited` is none.
fn hard_limit(limits: &str, name: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
                          Max processes             500                  900                  processes \n\
                          Max open files            1024                 20000                files     \n\
                          Max address space         unlimited            unlimited            bytes     \n";

    /// A box of files: path and text, in turn.
    fn on_box(files: &[(&str, &str)]) -> Option<Capacity> {
        measure(&|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned()))
    }

    fn bounded(clients: usize, limit: Limit) -> Option<Capacity> {
        Some(Capacity { clients, limit })
    }

    #[test]
    fn a_box_that_tells_nothing_has_no_known_capacity() {
        assert_eq!(on_box(&[]), None);
        assert_eq!(on_box(&[("/proc/self/limits", "Max open files  unlimited  unlimited  files")]), None);
    }

    #[test]
    fn the_limit_met_first_bounds() {
        let root = ("/proc/self/status", "Name:\ttidings\nUid:\t0\t0\t0\t0\n");
        let user = ("/proc/self/status", "Name:\ttidings\nUid:\t1000\t1000\t1000\t1000\n");
        let maps = ("/proc/sys/vm/max_map_count", "65530\n");
        for (files, expected) in [
            (&[("/proc/self/limits", LIMITS)][..], bounded(20_000 - 64, Limit::OpenFiles)),
            (&[("/proc/self/limits", LIMITS), root], bounded(20_000 - 64, Limit::OpenFiles)),
            (&[("/proc/self/limits", LIMITS), user], bounded(900 - 64, Limit::Threads)),
            (&[("/proc/self/limits", LIMITS), maps], bounded(13_106, Limit::MemoryMaps)),
            (&[maps, ("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable:      45000 kB\n")], bounded(1000, Limit::Memory)),
            (
                &[("/proc/sys/kernel/pid_max", "32768\n"), ("/proc/loadavg", "0.0 0.0 0.0 2/704 9\n")],
                bounded(32_000, Limit::Threads),
            ),
        ] {
            assert_eq!(on_box(files), expected, "{files:?}");
        }
    }

    #[test]
    fn control_groups_bound_from_any_level() {
        let version_2 = ("/proc/self/cgroup", "0::/a/b\n");
        let version_1 = ("/proc/self/cgroup", "4:cpu,memory:/c\n1:name=systemd:/\n");
        for (files, expected) in [
            (
                &[version_2, ("/sys/fs/cgroup/a/pids.max", "164\n"), ("/sys/fs/cgroup/a/pids.current", "90\n")][..],
                bounded(10, Limit::Threads),
            ),
            (&[version_2, ("/sys/fs/cgroup/pids.max", "max\n"), ("/sys/fs/cgroup/pids.current", "90\n")], None),
            (
                &[
                    version_2,
                    ("/sys/fs/cgroup/a/b/memory.max", "9216000\n"),
                    ("/sys/fs/cgroup/a/b/memory.current", "5000000\n"),
                    ("/sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 392000\n"),
                ],
                bounded(100, Limit::Memory),
            ),
            (
                &[
                    version_1,
                    ("/sys/fs/cgroup/cpu,memory/c/memory.limit_in_bytes", "4608000\n"),
                    ("/sys/fs/cgroup/cpu,memory/c/memory.usage_in_bytes", "0\n"),
                ],
                bounded(100, Limit::Memory),
            ),
        ] {
            assert_eq!(on_box(files), expected, "{files:?}");
        }
    }
}
