//! The scenes: what each one sends, in which order, at which pace, how it ends and how it is resumed. Raw sockets see
//! the bytes; ureq sees what an ordinary client does, which knows nothing of event streams.
//!
//! Nothing here is timed by the scenes' own paces but one test, which plays all six at once: the others ask for a pace.

use crate::readers::{Json, unix_ms_of_iso8601};
use crate::support::{Client, End, Events, Head, Message, PATIENCE, Parser, Tidings, at_best, eventually};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ANSWER: &str = "服务器发送事件（SSE）是一种让服务器主动向浏览器推送消息的技术。浏览器用 EventSource \
    打开一条普通的 HTTP 连接，服务器便可以一直往里写，一条接一条。万一连接断了，浏览器会自动重连，\
    并报上最后收到的编号，服务器就从那里接着发送。";

/// The words, and the notice that follows the last one.
const WORDS: [&str; 9] = ["你好", "啊", "ss", "e", "h", "e", "lp", "me", "你有一个未读消息"];

/// The Hundred Family Surnames begin with these hundred.
const FAMILY_NAMES: &str = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜戚谢邹喻柏水窦章\
    云苏潘葛奚范彭郎鲁韦昌马苗凤花方俞任袁柳酆鲍史唐费廉岑薛雷贺倪汤滕殷罗毕郝邬安常乐于时傅皮卞齐康伍余元卜顾孟平黄\
    和穆萧尹";

const SCENES: [&str; 6] = ["typewriter", "records", "words", "private", "clock", "progress"];

/// No mode given: demo is the default.
fn demo() -> Tidings {
    Tidings::start(&[])
}

/// A scene's target, with the token where it wants one.
fn target(scene: &str, query: &str) -> String {
    let token = if scene == "private" { "token=1111&" } else { "" };
    format!("/demo/{scene}?{token}{query}")
}

/// One that takes every status for an answer.
fn ordinary_client() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build().new_agent()
}

/// The first messages of a stream that ureq reads.
fn messages_of(response: ureq::http::Response<ureq::Body>, count: usize) -> Vec<Message> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let mut body = response.into_body().into_reader();
    let (mut parser, mut bytes) = (Parser::default(), [0; 1024]);
    while parser.messages.len() < count {
        match body.read(&mut bytes) {
            Ok(0) => panic!("the stream ended after {:?}", parser.messages),
            Ok(n) => parser.feed(&bytes[..n]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}"),
        }
    }
    parser.messages.into_iter().take(count).collect()
}

/// A request without a body, on a connection of its own: its head and body.
fn ask(server: &Tidings, method: &str, target: &str, fields: &str) -> (Head, String) {
    let mut client = Client::connect(server.address);
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
    let head = client.read_head();
    let body = if head.field("Transfer-Encoding").is_some() { String::new() } else { client.read_body(&head) };
    (head, body)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn texts(events: &[Message]) -> Vec<&str> {
    events.iter().map(|message| &message.data[..]).collect()
}

#[test]
fn typewriter_types_its_whole_text_one_character_an_event_and_is_done() {
    let server = demo();
    let mut client = Client::connect(server.address);
    client.send("GET /demo/typewriter?interval=1ms HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_chunk().unwrap(), b"retry: 3000\n\n");

    let n = ANSWER.chars().count();
    assert!((90..=130).contains(&n), "some 100 characters, not {n}");
    for (character, id) in ANSWER.chars().zip(1..) {
        let event = String::from_utf8(client.read_chunk().expect("a character")).unwrap();
        assert_eq!(event, format!("id: {id}\ndata: {character}\n\n"));
    }
    let done = String::from_utf8(client.read_chunk().expect("done")).unwrap();
    assert_eq!(done, format!("event: done\nid: {}\ndata: [DONE]\n\n", n + 1));
    assert_eq!(client.read_chunk(), None, "the last chunk");
    server.log_line_with("/demo/typewriter ended after ");
}

#[test]
fn an_ordinary_client_reads_the_text_that_was_typed() {
    let server = demo();
    let mut response = ordinary_client().get(server.url("/demo/typewriter?interval=1ms")).call().unwrap();
    let mut parser = Parser::default();
    parser.feed(response.body_mut().read_to_string().unwrap().as_bytes());
    let typed: String = parser.messages.iter().filter(|m| m.event == "message").map(|m| &m.data[..]).collect();
    assert_eq!(typed, ANSWER);
}

#[test]
fn typewriter_goes_on_after_the_last_event_id() {
    let server = demo();
    let count = ANSWER.chars().count() as u64;
    for last in [1, 50, count - 1] {
        let rest: String = ANSWER.chars().skip(last as usize).collect();
        for (query, field) in [
            ("", format!("Last-Event-ID: {last}\r\n")),
            (&format!("&lastEventId={last}"), String::new()),
            (&format!("&last_event_id={last}"), String::new()),
            ("&lastEventId=7&last_event_id=8", format!("last-event-id: {last}\r\n")),
        ] {
            let mut events = server.subscribe_with(&format!("/demo/typewriter?interval=1ms{query}"), &field);
            let messages = events.rest();
            let (done, typed) = messages.split_last().unwrap();
            assert_eq!(texts(typed).concat(), rest, "{last} {query}");
            assert_eq!(typed[0].last_event_id, (last + 1).to_string());
            assert_eq!((&done.event[..], &done.data[..]), ("done", "[DONE]"));
            assert_eq!(done.last_event_id, (count + 1).to_string());
            assert_eq!(events.end, Some(End::Finished));
        }
    }
}

#[test]
fn typewriter_sends_only_done_to_who_has_the_whole_text_and_204_to_who_has_done() {
    let server = demo();
    let n = ANSWER.chars().count();
    let mut events = server.subscribe_with("/demo/typewriter?interval=60s", &format!("Last-Event-ID: {n}\r\n"));
    let message = events.expect_next();
    assert_eq!((&message.event[..], &message.data[..]), ("done", "[DONE]"));
    assert_eq!(message.last_event_id, (n + 1).to_string());
    assert_eq!((events.next(), events.end), (None, Some(End::Finished)));

    for seen in [(n + 1).to_string(), (n + 2).to_string(), "1000000".into(), "9".repeat(40)] {
        let (head, body) = ask(&server, "GET", "/demo/typewriter", &format!("Last-Event-ID: {seen}\r\n"));
        assert_eq!((head.status, &body[..]), (204, ""), "{seen}");
        let (head, _) = ask(&server, "GET", &format!("/demo/typewriter?lastEventId={seen}"), "");
        assert_eq!(head.status, 204, "{seen}");
    }
    // A 204 has no body and ends nothing: the next request on the connection is answered.
    let mut client = Client::connect(server.address);
    client.send(format!("GET /demo/typewriter HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {}\r\n\r\n", n + 1));
    client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.read_head().status, 204);
    assert_eq!(client.read_head().status, 200);
}

#[test]
fn a_malformed_id_starts_over() {
    let server = demo();
    for id in ["x", "-1", "+5", "1.5", "5a", "0x10", "1 2", "close", "1795236609988-280885048921383", "earliest"] {
        // To records, close is an id.
        for scene in ["typewriter", "records"].into_iter().filter(|scene| (*scene, id) != ("records", "close")) {
            let mut events = server.subscribe_with(&target(scene, "interval=60s"), &format!("Last-Event-ID: {id}\r\n"));
            assert_eq!(events.expect_next().last_event_id, "1", "{scene} {id}");
        }
    }
}

/// The index of a list, which is held to the form that the page relies on.
fn index_of(message: &Message) -> i64 {
    let json = Json::parse(&message.data);
    assert_eq!(json.names(), ["list", "info", "index"], "{}", message.data);
    let list = json.member("list").list();
    assert_eq!(list.len(), 10);
    for row in list {
        assert_eq!(row.names(), ["name", "value"]);
        let name = row.member("name").text();
        assert!(name.chars().count() >= 2 && name.chars().all(|c| FAMILY_NAMES.contains(c)), "{name}");
        row.member("value").integer();
    }
    let (info, now) = (unix_ms_of_iso8601(json.member("info").text()), unix_ms());
    assert!(info <= now && now - info < PATIENCE.as_millis() as u64, "{info} is not the date at {now}");
    let index = json.member("index").integer();
    assert_eq!((&message.event[..], &message.last_event_id[..]), ("message", &index.to_string()[..]));
    index
}

#[test]
fn records_are_lists_of_ten_with_their_index_as_id() {
    let server = demo();
    let mut events = server.subscribe("/demo/records?interval=5ms");
    let messages: Vec<_> = (1..=5).map(|_| events.expect_next()).collect();
    assert_eq!(messages.iter().map(index_of).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(events.parser.retry, Some(10_000));
    let names = |message: &Message| Json::parse(&message.data).member("list").clone();
    assert_ne!(names(&messages[0]), names(&messages[1]), "names are put together at random");
}

#[test]
fn each_record_carries_its_reconnection_time() {
    let server = demo();
    let mut events = server.subscribe("/demo/records?interval=5ms&count=2");
    assert_eq!(events.client.read_chunk().unwrap(), b"retry: 3000\n\n");
    for index in [1, 2] {
        let event = String::from_utf8(events.client.read_chunk().unwrap()).unwrap();
        assert!(event.starts_with(&format!("id: {index}\nretry: 10000\ndata: {{\"list\":[")), "{event}");
    }
    assert_eq!(events.client.read_chunk().unwrap(), b"event: close\nid: close\ndata: bye\n\n");
    assert_eq!(events.client.read_chunk(), None);
}

#[test]
fn records_go_on_at_the_next_index() {
    let server = demo();
    for (query, field) in [
        ("", "Last-Event-ID: 41\r\n"),
        ("&lastEventId=41", ""),
        ("&last_event_id=41", ""),
        ("", "last-event-id:41\r\n"),
    ] {
        let mut events = server.subscribe_with(&format!("/demo/records?interval=5ms{query}"), field);
        assert_eq!([index_of(&events.expect_next()), index_of(&events.expect_next())], [42, 43]);
    }
}

#[test]
fn records_end_after_their_count_and_a_client_that_has_the_close_gets_204() {
    let server = demo();
    let mut events = server.subscribe("/demo/records?interval=1ms&count=3");
    let messages = events.rest();
    assert_eq!(messages[..3].iter().map(index_of).collect::<Vec<_>>(), [1, 2, 3]);
    let bye = Message { event: "close".into(), data: "bye".into(), last_event_id: "close".into() };
    assert_eq!((&messages[3..], events.end), (&[bye.clone()][..], Some(End::Finished)));

    // In the middle, at the end, and beyond it.
    for (last, left) in [("1", 2), ("2", 1), ("3", 0), ("9", 0)] {
        let mut events =
            server.subscribe_with("/demo/records?interval=1ms&count=3", &format!("Last-Event-ID: {last}\r\n"));
        let messages = events.rest();
        assert_eq!((messages.len(), messages.last()), (left + 1, Some(&bye)), "{last}");
    }
    for query in ["", "?count=3", "?count=3&interval=1ms"] {
        let (head, body) = ask(&server, "GET", &format!("/demo/records{query}"), "Last-Event-ID: close\r\n");
        assert_eq!((head.status, &body[..]), (204, ""), "{query}");
    }
    for count in ["0", "-1", "x", "", "1.5", "+2"] {
        let (head, body) = ask(&server, "GET", &format!("/demo/records?count={count}"), "");
        assert!(head.status == 400 && body.starts_with("count wants ") && body.lines().count() == 1, "{count}: {body}");
    }
}

/// Reads the words to their end, and holds them to what they should be.
fn expect_words(messages: &[Message]) {
    assert_eq!(texts(messages), WORDS);
    let types: Vec<_> = messages.iter().map(|message| &message.event[..]).collect();
    assert_eq!(types[..8], ["message"; 8]);
    assert_eq!(types[8], "newMessage");
    assert!(messages.iter().all(|message| message.last_event_id.is_empty()), "words have no ids: {messages:?}");
}

#[test]
fn words_come_in_order_with_a_notice_right_after_the_last() {
    let server = demo();
    let mut events = server.subscribe("/demo/words?interval=20ms");
    let messages: Vec<_> = (0..9).map(|_| events.expect_next()).collect();
    expect_words(&messages);
    drop(events);

    // The notice takes no period of its own.
    at_best("the notice after the last word", Duration::from_millis(20), || {
        let mut events = server.subscribe("/demo/words?interval=50ms");
        (0..8).for_each(|_| drop(events.expect_next()));
        let last_word = Instant::now();
        events.expect_next();
        last_word.elapsed()
    });
}

#[test]
fn words_are_silent_for_the_first_period_and_never_early() {
    let server = demo();
    let mut client = Client::connect(server.address);
    let sent = Instant::now();
    client.send("GET /demo/words?interval=40ms HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.read_head();
    let mut events = Events::new(client, head);
    for n in 1..=8 {
        events.expect_next();
        assert!(
            sent.elapsed() >= n * Duration::from_millis(40),
            "word {n} came {:?} after the request",
            sent.elapsed()
        );
    }
}

#[test]
fn words_leave_their_stream_open() {
    let server = Tidings::start(&["--heartbeat", "100ms"]);
    let mut events = server.subscribe("/demo/words?interval=1ms");
    (0..9).for_each(|_| drop(events.expect_next()));
    // Ten heartbeats are many periods.
    while events.parser.comments.len() < 10 {
        let chunk = events.client.read_chunk().expect("it stays open");
        events.parser.feed(&chunk);
    }
    assert!(events.parser.messages.is_empty(), "{:?}", events.parser.messages);
    assert_eq!(server.metric("tidings_streams"), 1.0);
}

#[test]
fn private_wants_its_token() {
    let server = demo();
    for (query, fields) in [
        ("", ""),
        ("?token=", ""),
        ("?token=111", ""),
        ("?token=11111", ""),
        ("?token=2222", ""),
        ("?Token=1111", ""),
        ("", "token: 2222\r\n"),
        ("", "Cookie: token=2222\r\n"),
        ("", "Cookie: other=1111\r\n"),
        ("", "Authorization: Bearer 2222\r\n"),
        ("", "Authorization: Basic 1111\r\n"),
        ("", "Authorization: 1111\r\n"),
    ] {
        let (head, body) = ask(&server, "GET", &format!("/demo/private{query}"), fields);
        assert_eq!(head.status, 401, "{query}{fields}");
        assert_eq!(head.field("WWW-Authenticate"), Some("Bearer"));
        assert_eq!(head.field("Access-Control-Allow-Origin"), Some("*"));
        assert!(body.lines().count() == 1 && body.contains("token"), "{body}");
    }
}

#[test]
fn private_says_the_words_to_a_token_in_a_field_a_cookie_the_query_or_as_bearer() {
    let server = demo();
    let http = ordinary_client();
    let url = server.url("/demo/private?interval=1ms");
    for (query, name, value) in [
        ("", "token", "1111"),
        ("", "cookie", "token=1111"),
        ("", "cookie", "theme=dark; token=1111; lang=zh"),
        ("&token=1111", "x-none", ""),
        ("", "authorization", "Bearer 1111"),
        ("", "authorization", "bearer 1111"),
        // Any one that fits admits.
        ("&token=2222", "token", "1111"),
        ("&token=1111", "authorization", "Bearer 2222"),
    ] {
        let response = http.get(format!("{url}{query}")).header(name, value).call().unwrap();
        expect_words(&messages_of(response, 9));
    }
    for secret in ["1111", "2222", "token="] {
        assert!(!server.log().contains(secret), "a token stands in the log: {}", server.log());
    }
}

/// The clock's first `ticks` times at a pace, less what they should be: how late each is, counted from the request.
fn latenesses(server: &Tidings, period: u64, ticks: u64) -> Vec<u64> {
    let mut client = Client::connect(server.address);
    let sent = unix_ms();
    client.send(format!("GET /demo/clock?interval={period}ms HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let head = client.read_head();
    let mut events = Events::new(client, head);
    assert_eq!(events.expect_next().data, "Connected");
    let late = |tick| {
        let told = unix_ms_of_iso8601(&events.expect_next().data);
        assert!(told <= unix_ms(), "the time is not yet {told}");
        let due = sent + tick * period;
        told.checked_sub(due).unwrap_or_else(|| panic!("tick {tick} was {} ms early", due - told))
    };
    (1..=ticks).map(late).collect()
}

#[test]
fn clock_tells_the_time_within_5_ms_of_its_tick_and_never_early() {
    let server = demo();
    // How long the opening took is in the lateness of every tick, and differs from run to run: apart, each can be at its
    // best.
    let run = || {
        let late = latenesses(&server, 20, 5);
        (*late.iter().min().unwrap(), *late.iter().max().unwrap())
    };
    at_best("the opening and the tick after it", Duration::from_millis(5), || Duration::from_millis(run().0));
    at_best("the latest of five ticks", Duration::from_millis(5), || {
        let (earliest, latest) = run();
        Duration::from_millis(latest - earliest)
    });
}

#[test]
fn clock_does_not_drift() {
    let server = demo();
    // A tick that is missed on a busy machine moves those after it by a whole period, so what counts is how far each
    // stretch of the clock is from the grid on which it began. What drifts leaves the grid.
    at_best("the way from the grid", Duration::from_millis(3), || {
        let late = latenesses(&server, 10, 150);
        let from_grid = late.chunks(15).map(|stretch| stretch.iter().map(|late| late % 10).min().unwrap());
        Duration::from_millis(from_grid.max().unwrap())
    });
}

#[test]
fn clock_says_connected_at_once() {
    let server = demo();
    let message = server.subscribe("/demo/clock?interval=60s").expect_next();
    assert_eq!(message, Message { event: "message".into(), data: "Connected".into(), last_event_id: String::new() });
}

#[test]
fn progress_is_twelve_events_and_the_end() {
    let server = demo();
    let mut events = server.subscribe("/demo/progress?interval=1ms");
    let messages = events.rest();
    assert_eq!(messages.len(), 12);
    for (message, task) in messages.iter().zip(0..=10) {
        let json = Json::parse(&message.data);
        assert_eq!(json.names(), ["currentTask", "progressPercentage", "noOftasks", "completed"]);
        assert_eq!(json.member("currentTask").integer(), task);
        assert_eq!(json.member("progressPercentage").integer(), task * 10);
        assert_eq!(json.member("noOftasks").integer(), 10);
        assert_eq!(json.member("completed"), &Json::Bool(false));
    }
    assert_eq!(messages[11].data, r#"{"completed":true,"progressPercentage":100}"#);
    assert!(messages.iter().all(|message| message.event == "progress" && message.last_event_id.is_empty()));
    assert_eq!(events.end, Some(End::Finished));
}

#[test]
fn progress_begins_at_once() {
    let message = demo().subscribe("/demo/progress?interval=60s").expect_next();
    assert_eq!(Json::parse(&message.data).member("currentTask").integer(), 0);
}

/// All six at once: what comes after the beginning comes after a period, and at best well before a second one.
#[test]
fn every_scene_has_its_own_pace() {
    let server = demo();
    let lateness = |scene: &str, pace: Duration, at_once: bool| {
        let mut client = Client::connect(server.address);
        let sent = Instant::now();
        client.send(format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", target(scene, "")));
        let head = client.read_head();
        let mut events = Events::new(client, head);
        if at_once {
            events.expect_next();
        }
        events.expect_next();
        sent.elapsed().checked_sub(pace).unwrap_or_else(|| panic!("{scene} is early"))
    };
    std::thread::scope(|scope| {
        for (scene, pace, at_once) in [
            ("typewriter", 100, true),
            ("records", 3000, true),
            ("words", 1000, false),
            ("private", 1000, false),
            ("clock", 1000, true),
            ("progress", 2000, true),
        ] {
            let pace = Duration::from_millis(pace);
            scope.spawn(move || at_best(scene, pace / 2, || lateness(scene, pace, at_once)));
        }
    });
}

#[test]
fn an_interval_is_a_duration_from_a_millisecond_to_a_minute() {
    let server = demo();
    for scene in SCENES {
        for interval in
            ["0", "0ms", "0s", "60001ms", "61s", "2m", "1h", "x", "", "-1s", "1.5s", "1e3ms", "1us", "%2b5s"]
        {
            let (head, body) = ask(&server, "GET", &target(scene, &format!("interval={interval}")), "");
            assert_eq!(head.status, 400, "{scene} {interval}");
            assert!(body.starts_with("interval wants 1 ms to 60 s ") && body.lines().count() == 1, "{body}");
        }
        for interval in ["1ms", "50ms", "60000ms", "60s", "1m", "20"] {
            let (head, _) = ask(&server, "GET", &target(scene, &format!("interval={interval}")), "");
            assert_eq!(head.status, 200, "{scene} {interval}");
        }
    }
}

/// On a machine that has only loopback there is no such peer, and nothing to see.
#[cfg(target_os = "linux")]
#[test]
fn an_interval_from_beyond_loopback_is_at_least_50_ms() {
    let server = demo();
    for (interval, status) in [("1ms", 400), ("49ms", 400), ("49", 400), ("50ms", 200), ("60s", 200), ("61s", 400)] {
        let Some(mut client) = Client::connect_from_beyond_loopback(server.address) else { return };
        assert!(!client.socket.local_addr().unwrap().ip().is_loopback());
        client.send(format!("GET /demo/clock?interval={interval} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.read_head();
        assert_eq!(head.status, status, "{interval}");
        if status == 400 {
            assert!(client.read_body(&head).starts_with("interval wants 50 ms to 60 s "));
        }
    }
}

#[test]
fn scenes_are_open_to_every_origin() {
    // Also where topics are open to one origin only, and readers need a token.
    let mut command = Tidings::command(&["--allow-origin", "https://other.example"]);
    command.env("TIDINGS_SUBSCRIBE_TOKEN", "secret");
    for server in [demo(), Tidings::start_command(command)] {
        for origin in ["https://page.example", "https://other.example", "null", "http://localhost"] {
            for (method, target, status) in [
                ("GET", "/demo/typewriter?interval=60s", 200),
                ("HEAD", "/demo/clock", 200),
                ("GET", "/demo/typewriter?lastEventId=1000", 204),
                ("GET", "/demo/words?interval=x", 400),
                ("GET", "/demo/private", 401),
                ("GET", "/demo/none", 404),
                ("POST", "/demo/words", 405),
            ] {
                let mut client = Client::connect(server.address);
                client.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"));
                let head = client.read_head();
                assert_eq!(head.status, status, "{method} {target}");
                let fields: Vec<_> =
                    head.text.lines().filter(|line| line.to_ascii_lowercase().starts_with("access-control-")).collect();
                assert_eq!(fields, ["Access-Control-Allow-Origin: *"], "{method} {target} {origin}");
            }
        }
    }
}

#[test]
fn scenes_answer_preflights_of_every_origin_without_a_token() {
    let server = demo();
    for scene in SCENES {
        let fields = "Origin: https://page.example\r\nAccess-Control-Request-Method: GET\r\n\
                      Access-Control-Request-Headers: token, last-event-id\r\n";
        let (head, body) = ask(&server, "OPTIONS", &format!("/demo/{scene}"), fields);
        assert_eq!((head.status, &body[..]), (204, ""), "{scene}");
        assert_eq!(head.field("Access-Control-Allow-Origin"), Some("*"));
        assert_eq!(head.field("Access-Control-Allow-Methods"), Some("GET, HEAD, POST, PUT"));
        assert_eq!(
            head.field("Access-Control-Allow-Headers"),
            Some("Accept, Authorization, Cache-Control, Content-Type, Last-Event-ID, Token, X-Requested-With")
        );
        assert_eq!(head.field("Access-Control-Max-Age"), Some("7200"));
    }
}

#[test]
fn every_scene_stops_its_timer_when_its_client_goes_and_the_log_says_so() {
    let server = demo();
    for scene in SCENES {
        let mut events = server.subscribe(&target(scene, "interval=50ms"));
        let peer = events.client.socket.local_addr().unwrap();
        events.expect_next();
        assert_eq!(server.log_line_with(&peer.to_string()), format!("{peer} /demo/{scene} opened"));
        drop(events);
        let line = server.log_line_with(&format!("{peer} /demo/{scene} left after "));
        assert!(line.ends_with(" events"), "{line}");
    }
    assert_eq!(server.metric("tidings_streams"), 0.0);
    assert_eq!(server.metric("tidings_disconnects_total{reason=\"left\"}"), 6.0);
    // A timer that is left over would run in a window of three periods.
    eventually("no timer runs any more", || {
        let runs = || server.metric("tidings_scheduler_lateness_seconds_count");
        let before = runs();
        std::thread::sleep(Duration::from_millis(150));
        runs() == before
    });
}

#[test]
fn scenes_stay_outside_the_hub() {
    let server = demo();
    for scene in SCENES {
        server.subscribe(&target(scene, "interval=1ms")).expect_next();
    }
    assert_eq!(Json::parse(&server.get("/topics").1), Json::List(Vec::new()));
    assert_eq!(server.metric("tidings_events_published_total"), 0.0);
    assert_eq!(server.metric("tidings_topics"), 0.0);
}

#[test]
fn scenes_are_read_with_get_and_head_alone() {
    let server = demo();
    for scene in SCENES {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let (head, body) = ask(&server, method, &target(scene, ""), "");
            assert_eq!((head.status, head.field("Allow")), (405, Some("GET, HEAD")), "{method} {scene}");
            assert_eq!(body.lines().count(), 1);
        }
        let mut client = Client::connect(server.address);
        client.send(format!("HEAD {} HTTP/1.1\r\nHost: localhost\r\n\r\n", target(scene, "")));
        client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = client.read_head();
        assert_eq!(head.status, 200);
        assert_eq!(head.field("Content-Type"), Some("text/event-stream; charset=utf-8"));
        let next = client.read_head();
        assert_eq!(client.read_body(&next), "ok\n", "no stream follows the head");
    }
    let (head, body) = ask(&server, "GET", "/demo/none", "");
    assert_eq!(head.status, 404);
    assert!(SCENES.iter().all(|scene| body.contains(scene)), "it says which there are: {body}");
}

#[test]
fn serve_has_no_scenes() {
    let server = Tidings::start(&["serve"]);
    for scene in SCENES {
        assert_eq!(server.get(&target(scene, "")).0, 404);
    }
    let demo = Tidings::start(&["demo"]);
    assert_eq!(ask(&demo, "HEAD", "/demo/clock", "").0.status, 200);
}
