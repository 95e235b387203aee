//! The room that is told at the start is true: each limit of the box, once it is lowered, is the one that is named; more
//! than it holds is refused with the reason; and as many clients as were told are served.

#![cfg(target_os = "linux")]

use crate::cli::{Running, expect_refusal, run_command};
use crate::support::{Client, Tidings};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The binary, behind a line of shell that lowers a limit.
fn behind(line: &str, options: &[&str]) -> Command {
    let inner = Tidings::command(&[&["serve", "--quiet"], options].concat());
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{line} && exec \"$0\" \"$@\"")]).arg(inner.get_program()).args(inner.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts one that takes as many clients as there is room for: how many it says that is.
fn start(line: &str, limit: &str) -> (Running, SocketAddr, usize) {
    let (running, address, room) = Running::start(behind(line, &[]));
    let clients = room.strip_prefix("room for ").and_then(|rest| {
        let (clients, bound) = rest.split_once(" clients, bounded by ")?;
        bound.starts_with(limit).then(|| clients.parse().ok())?
    });
    let clients = clients.unwrap_or_else(|| panic!("{limit}: {room}"));
    let outcome = run_command(behind(line, &["--max-connections", "9999"]));
    expect_refusal(&outcome, 2, &["--max-connections 9999", "write at most ", limit]);
    (running, address, clients)
}

/// So many clients at once, as many of them streams as may be: each is served, and the first still is after the last.
fn hold(address: SocketAddr, clients: usize) -> Vec<Client> {
    let reserve = (clients / 16).max(16).min(clients / 2);
    let ask = |client: &mut Client, path: &str, field: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.read_head();
        assert!(head.status == 200 && head.field(field).is_some(), "{}", head.text);
        head
    };
    let mut all: Vec<_> = (0..clients - reserve)
        .map(|_| {
            let mut client = Client::connect(address);
            ask(&mut client, "/topics/a", "Transfer-Encoding");
            client
        })
        .collect();
    for _ in 0..reserve {
        let mut client = Client::connect(address);
        let head = ask(&mut client, "/healthz", "Content-Length");
        assert_eq!(client.read_body(&head), "ok\n");
        all.push(client);
    }
    let last = all.last_mut().unwrap();
    last.send("POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
    let head = last.read_head();
    let answer = last.read_body(&head);
    assert!(answer.contains(&format!("\"subscribers\":{}", clients - reserve)), "{answer}");
    for stream in &mut all[..clients - reserve] {
        assert!(stream.read_through(b"\ndata: hello\n").is_some());
    }
    all
}

#[test]
fn open_files_bound_the_clients_by_the_hard_limit() {
    let lowered = "ulimit -S -n 100 && ulimit -H -n 200";
    let (_running, address, clients) = start(lowered, "open files (ulimit -n)");
    assert_eq!(clients, 200 - 64);
    hold(address, clients);
}

/// A control group of this test's own, inside the one that it runs in. It goes when the processes in it are gone.
struct Group(PathBuf);

impl Group {
    fn new(controller: &str, limits: [&str; 2], value: &str) -> Group {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let version_1 = own.lines().find_map(|line| line.split_once(&format!(":{controller}:"))).map(|(_, path)| path);
        let parent = match version_1 {
            Some(path) => format!("/sys/fs/cgroup/{controller}{path}"),
            None => "/sys/fs/cgroup".to_owned(),
        };
        let group = Group(PathBuf::from(parent).join(format!("tidings-{controller}-{}", std::process::id())));
        fs::create_dir(&group.0).unwrap_or_else(|error| panic!("{:?}: {error}", group.0));
        let limit = limits.map(|limit| group.0.join(limit)).into_iter().find(|limit| limit.exists());
        fs::write(limit.expect("the group has a limit"), value).unwrap();
        group
    }

    /// What takes a shell into it.
    fn entry(&self) -> String {
        format!("echo $$ >{}", self.0.join("cgroup.procs").display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
#[ignore = "needs root: control groups, mounts"]
fn a_control_groups_threads_bound_the_clients() {
    let group = Group::new("pids", ["pids.max", "pids.max"], "300");
    let (_running, address, clients) = start(&group.entry(), "threads (");
    assert!((220..=236).contains(&clients), "{clients}");
    hold(address, clients);
}

#[test]
#[ignore = "needs root: control groups, mounts"]
fn a_control_groups_memory_bounds_the_clients() {
    let group = Group::new("memory", ["memory.max", "memory.limit_in_bytes"], &(24 << 20).to_string());
    let (_running, address, clients) = start(&group.entry(), "memory");
    assert!((400..=546).contains(&clients), "{clients}");
    hold(address, clients);
}

/// The kernel does not hold root to this limit.
#[test]
#[ignore = "needs root: control groups, mounts"]
fn a_users_threads_bound_the_clients() {
    // Another user may not reach where the binary is.
    let binary = std::env::temp_dir().join(format!("tidings-threads-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_tidings"), &binary).unwrap();
    let lowered = "exec prlimit --nproc=200 setpriv --reuid=54321 --clear-groups";
    let lowered = format!("{lowered} {} \"$@\"", binary.display());
    let (running, address, clients) = start(&lowered, "threads (");
    assert_eq!(clients, 200 - 64);
    hold(address, clients);
    drop(running);
    fs::remove_file(binary).unwrap();
}

/// The file that tells is another one in here: the limit itself is the whole machine's, and others live on it.
#[test]
#[ignore = "needs root: control groups, mounts"]
fn memory_maps_bound_the_clients() {
    let told = std::env::temp_dir().join(format!("tidings-maps-{}", std::process::id()));
    fs::write(&told, "2000\n").unwrap();
    let lowered = format!(
        "exec unshare --mount sh -c 'mount --bind {} /proc/sys/vm/max_map_count && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        told.display()
    );
    let (_running, address, clients) = start(&lowered, "memory maps (vm.max_map_count)");
    assert_eq!(clients, 2000 / 5);
    hold(address, clients);
    fs::remove_file(told).unwrap();
}

/// On a default kernel that is 13,106, and there would be no more after 16,368, but an abort.
#[test]
#[ignore = "opens all connections that this machine holds"]
fn as_many_clients_as_the_box_is_said_to_hold_are_served() {
    let outcome = run_command(behind(":", &["--max-connections", "1000000"]));
    let said = outcome.stderr.split_once("write at most ").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    let clients: usize = said.unwrap_or_else(|| panic!("{}", outcome.stderr));
    // Raises this process's own limit of open files, for its ends of the connections.
    drop(tidings::Server::bind("127.0.0.1:0", tidings::Config::default()));
    let (running, address, _) = Running::start(behind(":", &["--max-connections", &clients.to_string()]));
    let all = hold(address, clients);
    let maps = fs::read_to_string(format!("/proc/{}/maps", running.pid())).unwrap().lines().count();
    let most: usize = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    assert!(maps < most - most / 20, "{} clients take {maps} of {most} maps", all.len());
}
