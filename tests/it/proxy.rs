//! Behind a proxy: nginx and Caddy as Debian has them, with the very texts that the README gives, on loopback and with
//! certificates made on the spot. The client is curl, because it speaks HTTP/2.
//!
//! The server's heartbeat is an hour away in all of this: what arrives or is noticed is so by itself.

use crate::support::{Message, PATIENCE, Parser, Tidings, at_best, eventually};
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The name in the README's texts, under which the server is known outside.
const NAME: &str = "example.org";

/// A proxy costs a few wake-ups more. One that buffers is late by as long as nothing else comes.
const AT_ONCE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nginx,
    Caddy,
}

/// The text that the README gives for a proxy, for a server on this address.
fn readme_text(kind: Kind, server: SocketAddr) -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let fence = if kind == Kind::Nginx { "\n```nginx\n" } else { "\n```caddy\n" };
    let parts: Vec<_> = readme.split(fence).collect();
    let [_, rest] = parts[..] else { panic!("{} texts after {fence:?}", parts.len() - 1) };
    let text = rest.split("```").next().unwrap();
    assert_eq!(text.matches("127.0.0.1:3000").count(), 1, "{text}");
    text.replace("127.0.0.1:3000", &server.to_string())
}

/// A proxy in a folder of its own. It goes with the folder.
struct Proxy {
    kind: Kind,
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Proxy {
    fn start(kind: Kind, server: &Tidings) -> Proxy {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tidings-proxy-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // It cannot be told to pick a port by itself and say which.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut proxy = Proxy { kind, folder, port, child: None };
        let text = readme_text(kind, server.address);
        match kind {
            Kind::Nginx => proxy.configure_nginx(&text),
            Kind::Caddy => proxy.configure_caddy(&text),
        }
        proxy.run();
        proxy
    }

    /// Around the README's text stands only what keeps it off the system's own folders.
    fn configure_nginx(&self, text: &str) {
        let (folder, port) = (self.folder.display(), self.port);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
             server {{\nlisten 127.0.0.1:{port} ssl http2;\nserver_name {NAME};\n\
             ssl_certificate {folder}/root.crt;\nssl_certificate_key {folder}/key.pem;\n{text}}}\n}}\n"
        );
        fs::write(self.folder.join("config"), config).unwrap();
        let made = Command::new("openssl")
            .current_dir(&self.folder)
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &format!("/CN={NAME}")])
            .args(["-addext", &format!("subjectAltName=DNS:{NAME}"), "-keyout", "key.pem", "-out", "root.crt"])
            .output()
            .expect("openssl runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Here the name gets a port, and Caddy its own authority in place of one that would have to reach it.
    fn configure_caddy(&self, text: &str) {
        let site = text.replace(&format!("{NAME} {{"), &format!("{NAME}:{} {{", self.port));
        assert_ne!(site, text);
        let options =
            "admin off\nlocal_certs\nskip_install_trust\ndefault_bind 127.0.0.1\nauto_https disable_redirects\n";
        fs::write(self.folder.join("config"), format!("{{\n{options}}}\n{site}")).unwrap();
    }

    /// Where the certificate is from which curl's trust begins.
    fn root(&self) -> PathBuf {
        let caddys = "caddy/pki/authorities/local/root.crt";
        self.folder.join(if self.kind == Kind::Nginx { "root.crt" } else { caddys })
    }

    /// Starts it, and waits until it passes a request on.
    fn run(&mut self) {
        let config = self.folder.join("config");
        let log = fs::File::create(self.folder.join("log")).unwrap();
        let mut command = match self.kind {
            Kind::Nginx => Command::new("nginx"),
            Kind::Caddy => Command::new("caddy"),
        };
        match self.kind {
            Kind::Nginx => command.args(["-e", "stderr", "-p"]).arg(&self.folder).arg("-c").arg(config),
            Kind::Caddy => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config),
        };
        // Where Caddy keeps its keys.
        command.env("XDG_DATA_HOME", &self.folder).env("XDG_CONFIG_HOME", &self.folder).env("HOME", &self.folder);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{:?}: {error}", self.kind)));
        eventually("the proxy passes a request on", || {
            let has_ended = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
            assert!(!has_ended, "{:?}: {}", self.kind, fs::read_to_string(self.folder.join("log")).unwrap());
            let answer = self.curl("--http1.1", "/healthz", &[]).output().expect("curl runs");
            answer.stdout.ends_with(b"ok\n")
        });
    }

    /// Ends it and all of its connections.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        // Caddy waits for streams to end, which they do not.
        let until = Instant::now() + Duration::from_secs(1);
        while child.try_wait().unwrap().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    fn origin(&self) -> String {
        format!("https://{NAME}:{}", self.port)
    }

    /// A curl that goes through the proxy and prints head and body.
    fn curl(&self, version: &str, path: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["-q", "--silent", "--no-buffer", "--include", "--max-time", "100", "--noproxy", "*", version]);
        command.arg("--cacert").arg(self.root());
        command.args(["--resolve", &format!("{NAME}:{}:127.0.0.1", self.port)]);
        command.args(arguments).arg(self.origin() + path).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Publishes through the proxy as a page of this origin would in a browser that does not send `Sec-Fetch-Site`: the
    /// status and the body.
    fn publish(&self, version: &str, origin: &str) -> (u16, String) {
        let origin = format!("Origin: {origin}");
        let output = self.curl(version, "/topics/a", &["-H", &origin, "--data-binary", "x"]).output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status line"), body.to_owned())
    }

    fn subscribe(&self, version: &str, last_event_id: &str) -> Through {
        let field = format!("Last-Event-ID: {last_event_id}");
        let mut child = self.curl(version, "/topics/a", &["-H", &field]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (gives, bytes) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                let _ = gives.send(buffer[..length].to_vec());
            }
        });
        let mut through = Through { child, bytes, parser: Parser::default() };
        through.pass_head(version);
        through
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A stream through the proxy, as curl prints it.
struct Through {
    child: Child,
    bytes: Receiver<Vec<u8>>,
    parser: Parser,
}

impl Through {
    fn pass_head(&mut self, version: &str) {
        let mut seen = Vec::new();
        let end = loop {
            seen.extend(self.bytes.recv_timeout(PATIENCE).expect("the head comes"));
            if let Some(at) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8(seen[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = if version == "--http2" { "http/2 200" } else { "http/1.1 200 ok" };
        assert!(head.starts_with(status), "{head}");
        assert!(head.contains("\r\ncontent-type: text/event-stream"), "{head}");
        self.parser.feed(&seen[end..]);
    }

    /// The next message; none at the end.
    fn next(&mut self) -> Option<Message> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(message) = self.parser.messages.pop_front() {
                return Some(message);
            }
            match self.bytes.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.parser.feed(&bytes),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(timeout) => panic!("no message has come: {timeout}"),
            }
        }
    }

    fn expect(&mut self, event: &str, data: &str) -> String {
        let message = self.next().expect("the stream goes on");
        assert_eq!((&message.event[..], &message.data[..]), (event, data));
        message.last_event_id
    }

    /// Passes over the `tidings:open` that stands before the live events: the id it gives.
    fn open(&mut self) -> String {
        let message = self.next().expect("the stream goes on");
        assert_eq!(message.event, "tidings:open");
        message.last_event_id
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that is known by the name outside.
fn serve() -> Tidings {
    Tidings::start(&["serve", "--allow-host", NAME, "--heartbeat", "1h"])
}

/// Keeps the promise through each proxy, in each version of HTTP.
fn through_each(promise: impl Fn(&Tidings, &mut Proxy, &str)) {
    for kind in [Kind::Nginx, Kind::Caddy] {
        let server = serve();
        let mut proxy = Proxy::start(kind, &server);
        for version in ["--http1.1", "--http2"] {
            promise(&server, &mut proxy, version);
        }
    }
}

#[test]
#[ignore = "needs nginx, Caddy, openssl and curl: .ci/install proxy"]
fn events_pass_a_proxy_at_once() {
    through_each(|server, proxy, version| {
        let mut stream = proxy.subscribe(version, "");
        stream.open();
        at_best(&format!("an event through {:?}, {version}", proxy.kind), AT_ONCE, || {
            let began = Instant::now();
            server.publish("/topics/a", "at once");
            stream.expect("message", "at once");
            began.elapsed()
        });
        // More than any buffer on the way, and then one byte again.
        let long = "x".repeat(60_000);
        server.publish("/topics/a", &long);
        stream.expect("message", &long);
        server.publish("/topics/a", "1");
        stream.expect("message", "1");
    });
}

#[test]
#[ignore = "needs nginx, Caddy, openssl and curl: .ci/install proxy"]
fn a_stream_resumes_through_a_proxy_and_survives_its_restart() {
    through_each(|server, proxy, version| {
        let ids = ["1", "2", "3"].map(|data| server.publish("/topics/a", data));
        let mut stream = proxy.subscribe(version, &ids[0]);
        stream.expect("message", "2");
        let last = stream.expect("message", "3");
        assert_eq!(last, ids[2]);
        stream.open();
        server.publish("/topics/a", "4");
        let last = stream.expect("message", "4");

        proxy.stop();
        assert_eq!(stream.next(), None, "the proxy took its connections with it");
        server.publish("/topics/a", "while it was away");
        proxy.run();
        let mut stream = proxy.subscribe(version, &last);
        stream.expect("message", "while it was away");
        stream.open();
        server.publish("/topics/a", "back");
        stream.expect("message", "back");
    });
}

#[test]
#[ignore = "needs nginx, Caddy, openssl and curl: .ci/install proxy"]
fn a_page_publishes_through_the_proxy_that_it_came_by_and_no_other_does() {
    through_each(|_, proxy, version| {
        let (status, body) = proxy.publish(version, &proxy.origin());
        assert_eq!(status, 200, "{:?} {version}: {body}", proxy.kind);
        for foreign in ["https://elsewhere.example", &format!("https://{NAME}"), "null"] {
            let (status, body) = proxy.publish(version, foreign);
            assert_eq!(status, 403, "{:?} {version} {foreign}: {body}", proxy.kind);
        }
    });
}

#[test]
#[ignore = "needs nginx, Caddy, openssl and curl: .ci/install proxy"]
fn a_client_that_closes_is_noticed_through_a_proxy() {
    through_each(|server, proxy, version| {
        at_best(&format!("a close through {:?}, {version}", proxy.kind), 2 * AT_ONCE, || {
            let mut stream = proxy.subscribe(version, "");
            stream.open();
            assert_eq!(server.metric("tidings_streams"), 1.0);
            let began = Instant::now();
            drop(stream);
            eventually("the stream is over", || server.metric("tidings_streams") == 0.0);
            began.elapsed()
        });
    });
}
