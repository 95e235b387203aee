//! Without a registry: inside another project, by a copied folder and one line in the host's manifest, or installed. What
//! is copied is only `Cargo.toml` and `src`, so nothing in there may need the README, the tests or the examples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The host: it serves one request of its own and ends.
const MAIN: &str = r#"
use std::io::{Read, Write};
use tidings::{Config, Response, Server};

fn main() {
    let server = Server::bind("127.0.0.1:0", Config::default()).unwrap();
    let (address, stopper) = (server.local_addr(), server.stopper());
    let running = std::thread::spawn(move || server.run(|_| Response::text(200, "from the host")));
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    stopper.stop();
    running.join().unwrap().unwrap();
    std::io::stdout().write_all(answer.as_bytes()).unwrap();
}
"#;

const MANIFEST: &str = r#"
[package]
name = "host"
version = "1.0.0"
edition = "2024"

[dependencies]
tidings = { path = "vendor/tidings" }
"#;

/// A host project in a folder of its own, which goes with it.
struct Host(PathBuf);

impl Host {
    /// `name` tells it from the hosts of the other tests.
    fn new(name: &str, manifest: &str) -> Host {
        let host = Host(std::env::temp_dir().join(format!("tidings-{name}-{}", std::process::id())));
        let vendored = host.0.join("vendor/tidings");
        fs::create_dir_all(host.0.join("src")).unwrap();
        fs::create_dir_all(&vendored).unwrap();
        fs::write(host.0.join("Cargo.toml"), manifest).unwrap();
        fs::write(host.0.join("src/main.rs"), MAIN).unwrap();
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::copy(own.join("Cargo.toml"), vendored.join("Cargo.toml")).unwrap();
        copy_folder(&own.join("src"), &vendored.join("src"));
        host
    }

    /// Runs cargo as on a machine that never saw a registry, and returns what it printed.
    fn cargo(&self, arguments: &[&str]) -> String {
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.0).args(arguments).args(["--offline", "--quiet"]);
        command.env("CARGO_HOME", self.0.join("empty")).env("CARGO_TARGET_DIR", self.0.join("target"));
        let output = command.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of the packages in its lock file.
    fn locked(&self) -> Vec<String> {
        let lock = fs::read_to_string(self.0.join("Cargo.lock")).unwrap();
        lock.lines().filter_map(|line| Some(line.strip_prefix("name = ")?.trim_matches('"').to_owned())).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_host_vendors_it_with_one_line_and_locks_nothing_else() {
    let host = Host::new("host", MANIFEST);
    let answer = host.cargo(&["run"]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nfrom the host\n"), "{answer}");
    assert_eq!(host.locked(), ["host", "tidings"]);
}

/// Cargo makes every folder below a workspace's root that is named as a dependency a member, and a member's
/// dev-dependencies are locked. Such a host leaves the folder out.
#[test]
fn a_workspace_that_leaves_the_folder_out_locks_nothing_else() {
    let host = Host::new("workspace", &format!("{MANIFEST}\n[workspace]\nexclude = [\"vendor\"]\n"));
    host.cargo(&["generate-lockfile"]);
    assert_eq!(host.locked(), ["host", "tidings"]);
}

/// `cargo run --offline` wants the index for the tests' dependency even though it does not build it; `cargo install` and
/// `make bare` do not.
#[test]
fn a_machine_that_never_saw_a_registry_installs_it() {
    let host = Host::new("install", MANIFEST);
    host.cargo(&["install", "--debug", "--path", "vendor/tidings", "--root", "installed"]);
    let output = Command::new(host.0.join("installed/bin/tidings")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), concat!("tidings ", env!("CARGO_PKG_VERSION"), "\n"));
}
