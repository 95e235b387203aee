//! Who may: tokens, Host, Origin, preflights, and the order in which they are asked for. Each refusal with its status
//! and its line of text.

use crate::support::{Client, Events, Head, Tidings};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

fn serve(options: &[&str]) -> Tidings {
    Tidings::start(&[&["serve"], options].concat())
}

const PUBLISH: &str = "let-me+publish&now";
const SUBSCRIBE: &str = "let.me:subscribe=now";

/// Starts it with these tokens; the empty one is none.
fn serve_with_tokens(publish: &str, subscribe: &str, options: &[&str]) -> Tidings {
    let mut command = Tidings::command(&[&["serve"], options].concat());
    for (name, token) in [("TIDINGS_PUBLISH_TOKEN", publish), ("TIDINGS_SUBSCRIBE_TOKEN", subscribe)] {
        if !token.is_empty() {
            command.env(name, token);
        }
    }
    Tidings::start_command(command)
}

/// What a request is answered with.
struct Answer {
    head: Head,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.status
    }

    /// The names and values of the fields that say what other origins may do.
    fn cors(&self) -> Vec<&str> {
        let fields = self.head.text.split("\r\n").skip(1);
        fields.filter(|line| line.starts_with("Access-Control-") || line.starts_with("Vary:")).collect()
    }
}

/// A request without `Host`, which is up to the fields, on a connection of its own. They each end with CRLF.
fn raw(address: SocketAddr, method: &str, target: &str, fields: &str, body: &str) -> Answer {
    let mut client = Client::connect(address);
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    client.send(format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n{length}{fields}\r\n{body}"));
    let head = client.read_head();
    let body = if method == "HEAD" { String::new() } else { client.read_body(&head) };
    Answer { head, body }
}

fn ask(server: &Tidings, method: &str, target: &str, fields: &str) -> Answer {
    let body = if ["POST", "PUT"].contains(&method) { "x" } else { "" };
    raw(server.address, method, target, &format!("Host: localhost\r\n{fields}"), body)
}

/// The four ways in which a request carries a token: what is added to its query, and its fields.
fn ways(token: &str) -> [(String, String); 8] {
    let encoded: String = token.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let field = |line: String| (String::new(), line);
    [
        field(format!("Authorization: Bearer {token}\r\n")),
        field(format!("authorization: bearer   {token} \r\n")),
        field(format!("Token: {token}\r\n")),
        field(format!("token: {token}\r\n")),
        field(format!("Cookie: token={token}\r\n")),
        field(format!("Cookie: a=b; token={token}; c=d\r\n")),
        (format!("token={encoded}"), String::new()),
        (format!("token=wrong&x=y&token={encoded}"), "Token: wrong\r\n".to_owned()),
    ]
}

fn with_query(path: &str, query: &str) -> String {
    match (query, path.contains('?')) {
        ("", _) => path.to_owned(),
        (query, true) => format!("{path}&{query}"),
        (query, false) => format!("{path}?{query}"),
    }
}

const NEEDS: &str = "needs a token: as Authorization: Bearer, a token header, a token cookie or ?token=\n";

#[test]
fn each_token_opens_its_routes_in_each_of_four_ways() {
    let server = serve_with_tokens(PUBLISH, SUBSCRIBE, &[]);
    for (method, path, publish, subscribe, what) in [
        ("POST", "/topics/a", true, false, "publishing"),
        ("PUT", "/topics/a?event=x", true, false, "publishing"),
        ("POST", "/topics/a?delay=1h", true, false, "publishing"),
        ("GET", "/topics/a?poll=1", false, true, "reading topics"),
        ("GET", "/topics/a,b?poll=1", false, true, "reading topics"),
        ("HEAD", "/topics/a", false, true, ""),
        ("GET", "/topics", false, true, "reading topics"),
        ("GET", "/metrics", true, true, "reading the metrics"),
    ] {
        let refusal = if what.is_empty() { String::new() } else { format!("{what} {NEEDS}") };
        let is_refused = |answer: &Answer, why: &str| {
            assert_eq!((answer.status(), &answer.body), (401, &refusal), "{method} {path} {why}");
            assert_eq!(answer.head.field("WWW-Authenticate"), Some("Bearer"), "{method} {path} {why}");
        };
        is_refused(&ask(&server, method, path, ""), "without a token");
        for (token, opens) in [(PUBLISH, publish), (SUBSCRIBE, subscribe)] {
            for (query, fields) in ways(token) {
                let answer = ask(&server, method, &with_query(path, &query), &fields);
                if opens {
                    assert!((200..=202).contains(&answer.status()), "{method} {path} {query} {fields} {}", answer.body);
                    assert_eq!(answer.head.field("WWW-Authenticate"), None);
                } else {
                    is_refused(&answer, "with the other token");
                }
            }
        }
        let almost =
            [&PUBLISH[1..], &PUBLISH[..PUBLISH.len() - 1], &format!("{PUBLISH}x"), &PUBLISH.to_uppercase(), ""];
        for (query, fields) in almost.into_iter().flat_map(ways).filter(|(_, fields)| !fields.contains("wrong")) {
            is_refused(&ask(&server, method, &with_query(path, &query), &fields), "with almost the token");
        }
        for fields in [
            &format!("Authorization: Basic {PUBLISH}\r\n")[..],
            &format!("Authorization: {PUBLISH}\r\n"),
            &format!("Authorization: Bearer{PUBLISH}\r\n"),
            &format!("Cookie: tokens={PUBLISH}\r\n"),
            &format!("X-Token: {PUBLISH}\r\n"),
        ] {
            is_refused(&ask(&server, method, path, fields), fields);
        }
    }
    for path in ["/", "/healthz"] {
        for fields in ["", "Accept: text/html\r\n", "Token: wrong\r\n"] {
            assert_eq!(ask(&server, "GET", path, fields).status(), 200, "{path} is open");
        }
    }
}

#[test]
fn one_token_that_fits_is_enough_among_others_that_do_not() {
    let server = serve_with_tokens("right", "", &[]);
    for (query, fields) in [
        ("?token=wrong", "Authorization: Bearer right\r\n"),
        ("?token=wrong", "Authorization: Bearer wrong\r\nToken: right\r\n"),
        ("?token=right", "Authorization: Bearer wrong\r\nToken: wrong\r\nCookie: token=wrong\r\n"),
        ("", "Authorization: Bearer wrong\r\nToken: wrong\r\nCookie: token=right\r\n"),
    ] {
        assert_eq!(ask(&server, "POST", &format!("/topics/a{query}"), fields).status(), 200, "{query} {fields}");
    }
}

#[test]
fn a_token_that_is_not_set_guards_nothing() {
    let server = serve_with_tokens("secret", "", &[]);
    assert_eq!(ask(&server, "GET", "/topics/a?poll=1", "").status(), 200);
    assert_eq!(ask(&server, "GET", "/topics", "").status(), 200);
    assert_eq!(ask(&server, "POST", "/topics/a", "").status(), 401);
    assert_eq!(ask(&server, "GET", "/metrics", "").status(), 401, "the one there is opens the metrics");
    assert_eq!(ask(&server, "GET", "/metrics", "Token: secret\r\n").status(), 200);
    let server = serve_with_tokens("", "secret", &[]);
    assert_eq!(ask(&server, "GET", "/topics/a?poll=1", "").status(), 401);
    assert_eq!(ask(&server, "GET", "/topics", "").status(), 401);
    assert_eq!(ask(&server, "POST", "/topics/a", "").status(), 200);
    let server = serve(&[]);
    assert_eq!(ask(&server, "GET", "/metrics", "").status(), 200);
    assert_eq!(ask(&server, "POST", "/topics/a", "Token: any\r\n").status(), 200);
}

#[test]
fn a_token_is_the_first_line_of_its_file_and_an_empty_one_starts_nothing() {
    let folder = std::env::temp_dir().join(format!("tidings-auth-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (publish, subscribe) = (file("publish", "write\nsecond line\n"), file("subscribe", "read"));
    // The file comes before the variable.
    let mut command =
        Tidings::command(&["serve", "--publish-token-file", &publish, "--subscribe-token-file", &subscribe]);
    command.env("TIDINGS_PUBLISH_TOKEN", "from the environment");
    let server = Tidings::start_command(command);
    assert_eq!(ask(&server, "POST", "/topics/a", "Token: write\r\n").status(), 200);
    assert_eq!(ask(&server, "POST", "/topics/a", "Token: read\r\n").status(), 401);
    assert_eq!(ask(&server, "GET", "/topics", "Token: read\r\n").status(), 200);
    let (empty, blank) = (file("empty", ""), file("blank", "\nsecret\n"));
    let with_variable = |name: &str| {
        let mut command = Tidings::command(&["serve"]);
        command.env(name, "");
        command
    };
    for command in [
        Tidings::command(&["serve", "--publish-token-file", &empty]),
        Tidings::command(&["serve", "--subscribe-token-file", &blank]),
        with_variable("TIDINGS_PUBLISH_TOKEN"),
        with_variable("TIDINGS_SUBSCRIBE_TOKEN"),
    ] {
        let lines = refused_to_start(command);
        assert!(lines.contains("the token is empty") && lines.lines().count() == 1, "{lines}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// What it says on standard error while it ends with 2, as it must, without having listened.
fn refused_to_start(mut command: Command) -> String {
    let output = command.stdout(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn nothing_secret_is_in_the_log_or_in_an_error() {
    let server = serve_with_tokens("publish-secret", "subscribe-secret", &[]);
    let mut bodies = String::new();
    for token in ["publish-secret", "subscribe-secret", "publish-secrex", "wrong-secret"] {
        for (query, fields) in ways(token) {
            for (method, path) in [
                ("GET", "/topics/a?poll=1"),
                ("POST", "/topics/a"),
                ("POST", "/topics/a?event=tidings:x"),
                ("GET", "/topics/a%2Fb"),
                ("DELETE", "/topics/a"),
                ("GET", "/nowhere"),
                ("GET", "/metrics"),
                ("GET", "/topics"),
            ] {
                let answer = ask(&server, method, &with_query(path, &query), &fields);
                bodies.push_str(&answer.head.text);
                bodies.push_str(&answer.body);
            }
        }
    }
    let answer = raw(server.address, "GET", "/topics/a?token=publish-secret", "Host: evil.example\r\n", "");
    bodies.push_str(&answer.body);
    let answer = raw(server.address, "GET", "/topics/a?token=publish-secret x", "Host: localhost\r\n", "");
    assert_eq!(answer.status(), 400);
    bodies.push_str(&answer.body);
    let mut events = Events::open(server.address, "/topics/a?token=subscribe-secret", "Cookie: token=wrong-secret\r\n");
    assert_eq!(events.expect_next().event, "tidings:open");
    drop(events);
    let line = server.log_line_with(" left after");
    assert!(line.contains(" /topics/a left after "), "the path without its query: {line}");
    assert!(!bodies.contains("secre"), "{bodies}");
    assert!(!server.log().contains("secre"), "{}", server.log());
}

#[test]
fn the_commands_that_are_shown_name_the_token_where_one_is_asked_for() {
    let mut command = Tidings::command(&["serve"]);
    command.env("TIDINGS_PUBLISH_TOKEN", "secret");
    let (_, text) = Tidings::start_command(command).get("/");
    let named: Vec<_> = text.lines().map(|line| line.contains("-H 'Authorization: Bearer TOKEN' ")).collect();
    assert_eq!(named, [false, true, false, true], "{text}");
    assert!(!text.contains("secret"));
}

#[test]
fn a_loopback_listener_answers_to_loopback_names_alone() {
    let server = serve(&[]);
    for host in [
        "localhost",
        "LocalHost",
        "localhost.",
        "localhost:1",
        "localhost:3000",
        "x.localhost",
        "a.b.localhost:80",
        "127.0.0.1",
        "127.0.0.2",
        "127.255.255.254:9",
        "[::1]",
        "[::1]:3000",
        "[0:0:0:0:0:0:0:1]",
    ] {
        for target in ["/healthz", "/topics", "/topics/a?poll=1", "/"] {
            let answer = raw(server.address, "GET", target, &format!("Host: {host}\r\n"), "");
            assert_eq!(answer.status(), 200, "{target} {host}: {}", answer.body);
        }
    }
    for (host, name) in [
        ("evil.com", "evil.com"),
        ("evil.com:3000", "evil.com"),
        ("localhost.evil.com", "localhost.evil.com"),
        ("127.0.0.1.evil.com", "127.0.0.1.evil.com"),
        ("notlocalhost", "notlocalhost"),
        ("box", "box"),
        ("box.local", "box.local"),
        ("192.168.1.5", "192.168.1.5"),
        ("0.0.0.0", "0.0.0.0"),
        ("[::2]", "::2"),
        ("8.8.8.8:53", "8.8.8.8"),
    ] {
        let line = format!("not served under the host {name}; --allow-host {name} allows it\n");
        for (method, target) in [("GET", "/healthz"), ("GET", "/topics/a"), ("POST", "/topics/a"), ("GET", "/nowhere")]
        {
            let answer = raw(server.address, method, target, &format!("Host: {host}\r\n"), "");
            assert_eq!((answer.status(), &answer.body), (421, &line), "{method} {target} {host}");
        }
    }
    // An absolute-form target overrides the field.
    let answer = raw(server.address, "GET", "http://evil.com/healthz", "Host: localhost\r\n", "");
    assert_eq!(answer.status(), 421);
    let answer = raw(server.address, "GET", "http://localhost/healthz", "Host: evil.com\r\n", "");
    assert_eq!(answer.status(), 200);
    // No browser leaves it out, and only a browser can be tricked.
    assert_eq!(server.request("GET /healthz HTTP/1.0\r\n\r\n"), (200, "ok\n".to_owned()));
    assert_eq!(server.metric("tidings_events_published_total"), 0.0);
}

#[test]
fn allowed_hosts_are_answered_to_on_any_port() {
    let server = serve(&["--allow-host", "tidings.example", "--allow-host", "[fe80::1]"]);
    for (host, status) in [
        ("tidings.example", 200),
        ("TIDINGS.example:8080", 200),
        ("tidings.example.", 200),
        ("[fe80::1]:1", 200),
        ("localhost", 200),
        ("www.tidings.example", 421),
        ("tidings.example.com", 421),
        ("[fe80::2]", 421),
    ] {
        let answer = raw(server.address, "GET", "/healthz", &format!("Host: {host}\r\n"), "");
        assert_eq!(answer.status(), status, "{host}");
    }
    let server = serve(&["--allow-host", "*"]);
    for host in ["evil.com", "localhost", "192.168.1.5:80"] {
        assert_eq!(raw(server.address, "GET", "/healthz", &format!("Host: {host}\r\n"), "").status(), 200, "{host}");
    }
}

#[test]
fn beyond_loopback_it_answers_to_local_names_or_with_both_tokens_to_any() {
    let listen = ["--listen", "0.0.0.0:0"];
    let statuses = |server: &Tidings, hosts: &[&str]| {
        let address = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
        let status = |host: &&str| raw(address, "GET", "/healthz", &format!("Host: {host}\r\n"), "").status();
        hosts.iter().map(status).collect::<Vec<_>>()
    };
    let local =
        ["192.168.1.5:3000", "10.0.0.1", "[fe80::1]", "127.0.0.1", "box", "localhost:80", "box.local", "a.b.LOCAL"];
    let foreign = ["evil.com", "box.local.evil.com", "www.box", "x.localhost"];
    let open = serve(&[&listen[..], &["--open"]].concat());
    let half = serve_with_tokens("secret", "", &listen);
    for server in [&open, &half] {
        assert_eq!(statuses(server, &local), [200; 8]);
        assert_eq!(statuses(server, &foreign), [421; 4]);
    }
    let guarded = serve_with_tokens("secret", "secret", &listen);
    assert_eq!(statuses(&guarded, &local), [200; 8]);
    assert_eq!(statuses(&guarded, &foreign), [200; 4]);
}

#[test]
fn beyond_loopback_it_starts_only_with_a_token_or_when_told_to_be_open() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let line = refused_to_start(Tidings::command(&["serve", "--listen", listen]));
        assert!(line.contains("--publish-token-file") && line.contains("--open"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
    let mut command = Tidings::command(&["serve", "--listen", "0.0.0.0:0"]);
    command.env("TIDINGS_SUBSCRIBE_TOKEN", "secret");
    refused_to_start(command); // it does not keep anybody from publishing
}

/// A page that is let in by name, in the tests of who reads and who publishes.
const APP: &str = "https://app.example";
const CREDENTIALS: &str = "Access-Control-Allow-Credentials: true";
const ECHO: &[&str] = &["Access-Control-Allow-Origin: https://app.example", CREDENTIALS, "Vary: Origin"];
const ANY: &[&str] = &["Access-Control-Allow-Origin: *"];

/// The origin of a request, and what a reader gets: these fields, or a refusal.
type Reader = (&'static str, Option<&'static [&'static str]>);

/// What is allowed, and who may read then.
const READERS: &[(&[&str], &[Reader])] = &[
    (
        &[],
        &[
            ("http://localhost:3000", Some(&["Vary: Origin"])),
            ("http://LOCALHOST:3000", Some(&["Vary: Origin"])),
            ("http://localhost:3001", None),
            ("http://localhost", None),
            ("http://127.0.0.1:3000", None),
            (APP, None),
            ("null", None),
            ("", Some(&[])),
        ],
    ),
    (
        &["--allow-origin", APP, "--allow-origin", "http://box:8080"],
        &[
            (APP, Some(ECHO)),
            ("http://box:8080", Some(&["Access-Control-Allow-Origin: http://box:8080", CREDENTIALS, "Vary: Origin"])),
            ("http://localhost:3000", Some(&["Vary: Origin"])),
            ("http://app.example", None),
            ("https://app.example:8443", None),
            ("https://app.example.evil.com", None),
            ("https://evil.com", None),
            ("null", None),
            ("", Some(&["Vary: Origin"])),
        ],
    ),
    (
        &["--allow-origin", "*"],
        &[("https://evil.com", Some(ANY)), ("null", Some(ANY)), ("http://localhost:3000", Some(ANY)), ("", Some(ANY))],
    ),
    (
        &["--allow-origin", "*", "--allow-origin", APP],
        &[(APP, Some(ECHO)), ("https://evil.com", Some(&["Access-Control-Allow-Origin: *", "Vary: Origin"]))],
    ),
];

#[test]
fn other_origins_read_only_where_they_are_allowed() {
    let refusal = "a page of this origin may not read here; --allow-origin allows it\n";
    for (allowed, rows) in READERS {
        let server = serve(allowed);
        for (origin, outcome) in *rows {
            let origin_field = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
            let fields = format!("Host: localhost:3000\r\nAccept: text/event-stream\r\n{origin_field}");
            for (method, path) in
                [("GET", "/topics/a?poll=1"), ("HEAD", "/topics/a"), ("GET", "/topics"), ("GET", "/metrics")]
            {
                let answer = raw(server.address, method, path, &fields, "");
                match outcome {
                    Some(cors) => assert_eq!((answer.status(), answer.cors()), (200, cors.to_vec()), "{path} {origin}"),
                    None if method == "HEAD" => assert_eq!(answer.status(), 403),
                    None => {
                        assert_eq!((answer.status(), &answer.body[..]), (403, refusal), "{path} {origin}");
                        assert_eq!(answer.cors(), ["Vary: Origin"], "{path} {origin}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_fields_for_other_origins_are_on_every_answer() {
    let app = "https://app.example";
    let server = serve_with_tokens("write", "read", &["--allow-origin", app, "--max-topics", "1"]);
    let mut stream = Events::open(server.address, "/topics/only?token=read", "");
    assert_eq!(stream.expect_next().event, "tidings:open");
    let large = "x".repeat(65 * 1024);
    for (status, method, target, host, body) in [
        (200, "GET", "/healthz", "localhost", ""),
        (200, "GET", "/", "localhost", ""),
        (200, "GET", "/topics/a?poll=1&token=read", "localhost", ""),
        (200, "HEAD", "/topics/a?token=read", "localhost", ""),
        (200, "POST", "/topics/only?token=write", "localhost", "x"),
        (202, "POST", "/topics/only?token=write&delay=1h", "localhost", "x"),
        (400, "GET", "/topics/a,?token=read", "localhost", ""),
        (400, "POST", "/topics/only?token=write&delay=x", "localhost", "x"),
        (401, "GET", "/topics", "localhost", ""),
        (401, "POST", "/topics/only", "localhost", "x"),
        (404, "GET", "/nowhere", "localhost", ""),
        (405, "DELETE", "/topics/a", "localhost", ""),
        (413, "POST", "/topics/only?token=write", "localhost", &large[..]),
        (421, "GET", "/healthz", "evil.com", ""),
        (503, "POST", "/topics/b?token=write", "localhost", "x"),
        // A stream that is refused for want of room.
        (200, "GET", "/topics/b?token=read", "localhost", ""),
    ] {
        let answer = raw(server.address, method, target, &format!("Host: {host}\r\nOrigin: {app}\r\n"), body);
        let cors = answer.cors().join("|");
        assert_eq!(answer.status(), status, "{method} {target}: {}", answer.body);
        let expected =
            "Access-Control-Allow-Origin: https://app.example|Access-Control-Allow-Credentials: true|Vary: Origin";
        assert_eq!(cors.replace("Vary: Accept|", ""), expected, "{method} {target}");
    }
}

/// The fields of a request, and whether it may publish.
type Publisher = (&'static str, bool);

/// What is allowed, and who may publish then.
const PUBLISHERS: &[(&[&str], &[Publisher])] = &[
    (
        &[],
        &[
            ("", true),
            ("Origin: http://localhost:3000\r\n", true),
            ("Origin: http://LocalHost:3000\r\n", true),
            ("Origin: https://localhost:3000\r\n", true),
            ("Origin: http://localhost:3001\r\n", false),
            ("Origin: http://localhost\r\n", false),
            ("Origin: http://127.0.0.1:3000\r\n", false),
            ("Origin: http://evil.com\r\n", false),
            ("Origin: http://localhost:3000.evil.com\r\n", false),
            ("Origin: null\r\n", false),
            ("Origin:\r\n", false),
            ("Sec-Fetch-Site: same-origin\r\n", true),
            ("Sec-Fetch-Site: none\r\n", true),
            ("Sec-Fetch-Site: same-origin\r\nOrigin: https://proxied.example\r\n", true),
            ("Sec-Fetch-Site: same-site\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\n", false),
            ("Sec-Fetch-Site: same-site\r\nOrigin: http://localhost:3000\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\nOrigin: http://localhost:3000\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\nOrigin: null\r\n", false),
            ("Sec-Fetch-Site: Same-Origin-ish\r\n", false),
            ("Sec-Fetch-Site:\r\n", false),
        ],
    ),
    (
        &["--allow-origin", APP],
        &[
            ("Origin: https://app.example\r\n", true),
            ("Sec-Fetch-Site: cross-site\r\nOrigin: https://app.example\r\n", true),
            ("Sec-Fetch-Site: cross-site\r\nOrigin: https://other.example\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\n", false),
            ("Origin: http://app.example\r\n", false),
            ("Origin: http://localhost:3000\r\n", true),
            ("Origin: null\r\n", false),
            ("", true),
        ],
    ),
    (
        &["--allow-origin", "*"],
        &[
            ("Origin: https://app.example\r\n", false),
            ("Sec-Fetch-Site: cross-site\r\nOrigin: https://app.example\r\n", false),
            ("Origin: null\r\n", false),
            ("Origin: http://localhost:3000\r\n", true),
            ("Sec-Fetch-Site: same-origin\r\n", true),
        ],
    ),
];

#[test]
fn other_origins_publish_only_where_they_are_allowed_by_name() {
    let refusal = "a page of this origin may not publish here; --allow-origin with its name allows it\n";
    for (allowed, rows) in PUBLISHERS {
        let server = serve(allowed);
        let mut published = 0;
        for (fields, passes) in *rows {
            for method in ["POST", "PUT"] {
                let fields = format!("Host: localhost:3000\r\n{fields}");
                let answer = raw(server.address, method, "/topics/a", &fields, "x");
                if *passes {
                    assert_eq!(answer.status(), 200, "{allowed:?} {fields}: {}", answer.body);
                    published += 1;
                } else {
                    assert_eq!((answer.status(), &answer.body[..]), (403, refusal), "{allowed:?} {fields}");
                }
            }
        }
        assert_eq!(server.metric("tidings_events_published_total"), f64::from(published));
    }
}

#[test]
fn a_preflight_is_answered_exactly_and_needs_no_token() {
    let app = "https://app.example";
    let methods = "Access-Control-Allow-Methods: GET, HEAD, POST, PUT";
    let headers = "Access-Control-Allow-Headers: Accept, Authorization, Cache-Control, Content-Type, Last-Event-ID, \
                   Token, X-Requested-With";
    let age = "Access-Control-Max-Age: 7200";
    let echo =
        ["Access-Control-Allow-Origin: https://app.example", "Access-Control-Allow-Credentials: true", "Vary: Origin"];
    let asks = |origin: &str, method: &str| {
        format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: {method}\r\nAccess-Control-Request-Headers: token\r\n"
        )
    };
    let sorted = |mut fields: Vec<String>| {
        fields.sort_unstable();
        fields
    };
    let got = |answer: &Answer| sorted(answer.cors().into_iter().map(str::to_owned).collect());
    let full =
        |first: &[&str]| sorted([first, &[methods, headers, age]].concat().into_iter().map(str::to_owned).collect());

    let server = serve_with_tokens("write", "read", &["--allow-origin", app]);
    for target in ["/topics/a", "/topics/a,b", "/topics", "/metrics", "/", "/nowhere", "/topics/.."] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let answer = ask(&server, "OPTIONS", target, &asks(app, method));
            assert_eq!((answer.status(), &answer.body[..]), (204, ""), "{target}");
            assert_eq!(got(&answer), full(&echo), "{target}");
            assert_eq!(answer.head.field("Content-Length"), None);
            assert_eq!(answer.head.field("X-Content-Type-Options"), Some("nosniff"));
            assert!(answer.head.field("Date").is_some());
        }
    }
    // To others it allows nothing, which is a refusal to every browser.
    for origin in ["https://evil.com", "null"] {
        let answer = ask(&server, "OPTIONS", "/topics/a", &asks(origin, "POST"));
        assert_eq!((answer.status(), answer.cors()), (204, vec!["Vary: Origin"]));
    }
    let server = serve(&["--allow-origin", "*"]);
    let answer = ask(&server, "OPTIONS", "/topics/a", &asks("https://evil.com", "GET"));
    assert_eq!((answer.status(), got(&answer)), (204, full(&["Access-Control-Allow-Origin: *"])));
    // What is not a preflight is only a method that does not work here.
    for fields in ["", "Origin: https://evil.com\r\n", "Access-Control-Request-Method: GET\r\n"] {
        let answer = ask(&server, "OPTIONS", "/topics/a", fields);
        assert_eq!((answer.status(), &answer.body[..]), (405, "only GET, HEAD, POST, PUT work here\n"));
        assert_eq!(answer.head.field("Allow"), Some("GET, HEAD, POST, PUT"));
    }
}

#[test]
fn a_known_path_with_another_method_is_405_and_an_unknown_one_404() {
    let server = serve(&[]);
    for (path, allow) in [
        ("/", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/topics", "GET, HEAD"),
        ("/topics/a", "GET, HEAD, POST, PUT"),
        ("/topics/a,b?token=x", "GET, HEAD, POST, PUT"),
    ] {
        for method in ["DELETE", "PATCH", "OPTIONS", "BREW", "get"] {
            let answer = ask(&server, method, path, "");
            assert_eq!((answer.status(), answer.body), (405, format!("only {allow} work here\n")), "{method} {path}");
            assert_eq!(answer.head.field("Allow"), Some(allow));
        }
    }
    for (method, path) in [("POST", "/"), ("PUT", "/topics"), ("POST", "/metrics"), ("POST", "/healthz")] {
        assert_eq!(ask(&server, method, path, "").status(), 405, "{method} {path}");
    }
    let line = "nothing is here: topics are at /topics/NAME, a page to try them at /\n";
    for (method, path) in
        [("GET", "/nowhere"), ("POST", "/topic/a"), ("DELETE", "/x"), ("GET", "/demo/clock"), ("GET", "/Topics/a")]
    {
        let answer = ask(&server, method, path, "");
        assert_eq!((answer.status(), &answer.body[..]), (404, line), "{method} {path}");
    }
}

#[test]
fn framing_host_preflight_path_origin_token_and_size_are_looked_at_in_this_order() {
    let server = serve_with_tokens("write", "read", &["--max-body", "100"]);
    let (app, large) = ("https://app.example", "x".repeat(101));
    let framing = "Content-Length: 1\r\nContent-Length: 2\r\n";
    let preflight = format!("Origin: {app}\r\nAccess-Control-Request-Method: POST\r\n");
    let foreign = format!("Origin: {app}\r\n");
    let (evil, good) = ("Host: evil.com\r\n", "Host: localhost\r\n");
    for (status, method, target, fields, body) in [
        // Framing before Host.
        (400, "POST", "/topics/a", format!("{evil}{framing}"), ""),
        (400, "GET", "/topics/a", format!("{evil}{good}"), ""),
        (400, "GET", "/%GG", evil.to_owned(), ""),
        // Host before all that a route would say.
        (421, "OPTIONS", "/topics/a", format!("{evil}{preflight}"), ""),
        (421, "GET", "/nowhere", evil.to_owned(), ""),
        (421, "DELETE", "/topics/a", evil.to_owned(), ""),
        (421, "POST", "/topics/a", format!("{evil}{foreign}"), &large[..]),
        // A preflight before 404 and 405, Origin and token.
        (204, "OPTIONS", "/nowhere", format!("{good}{preflight}"), ""),
        (204, "OPTIONS", "/healthz", format!("{good}{preflight}"), ""),
        (204, "OPTIONS", "/topics/a", format!("{good}{preflight}"), ""),
        // 404 and 405 before Origin, token and size.
        (404, "POST", "/nowhere", format!("{good}{foreign}"), &large),
        (405, "DELETE", "/topics/a", format!("{good}{foreign}"), ""),
        (405, "POST", "/topics", format!("{good}{foreign}"), &large),
        // Origin before token and size.
        (403, "POST", "/topics/a", format!("{good}{foreign}Token: wrong\r\n"), "x"),
        (403, "POST", "/topics/a", format!("{good}{foreign}Token: write\r\n"), &large),
        (403, "GET", "/topics/a", format!("{good}{foreign}Token: wrong\r\n"), ""),
        (403, "GET", "/topics/a", format!("{good}{foreign}Token: read\r\n"), ""),
        (403, "GET", "/metrics", format!("{good}{foreign}"), ""),
        // The token before size, and before anything that is said about the topic.
        (401, "POST", "/topics/a", format!("{good}Token: wrong\r\n"), &large),
        (401, "POST", "/topics/a,b?delay=x", format!("{good}Token: wrong\r\n"), &large),
        (401, "GET", "/topics/..?limit=x", format!("{good}Token: wrong\r\n"), ""),
        (413, "POST", "/topics/a", format!("{good}Token: write\r\n"), &large),
        (200, "POST", "/topics/a", format!("{good}Token: write\r\n"), &large[1..]),
    ] {
        let answer = raw(server.address, method, target, &fields, body);
        assert_eq!(answer.status(), status, "{method} {target} {fields}: {}", answer.body);
    }
}
