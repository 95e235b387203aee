//! The hub: what a publish answers and does, what is refused and in which words, which topics there are, and that
//! nobody can stop it: no reader, and no code of a user's that runs while it publishes or ends a stream.

use crate::support::{Client, End, Events, InProcess, Tidings, eventually, json_member};
use std::collections::HashSet;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidings::{Closed, Config, Event, EventId, EventType, History, Hub, Refused, Response, Stream, Topic};

fn serve(options: &[&str]) -> Tidings {
    Tidings::start(&[&["serve"], options].concat())
}

/// A subscriber that is there: `tidings:open` has come.
fn number(id: &str) -> u64 {
    id.split_once('-').and_then(|(_, n)| n.parse().ok()).unwrap_or_else(|| panic!("no id: {id:?}"))
}

fn time(id: &str) -> u64 {
    id.split_once('-').and_then(|(ms, _)| ms.parse().ok()).unwrap_or_else(|| panic!("no id: {id:?}"))
}

fn batch(server: &Tidings, path: &str, body: &str) -> (u16, String) {
    server.post_with(path, "Content-Type: text/event-stream\r\n", body)
}

#[test]
fn a_publish_answers_with_its_id_and_how_many_streams_it_went_to() {
    let server = serve(&[]);
    let mut one = server.watch("/topics/a");
    let mut two = server.watch("/topics/b,a");
    let mut other = server.watch("/topics/b");
    let mut client = Client::connect(server.address);
    for (method, path, subscribers) in
        [("POST", "/topics/a", 2), ("PUT", "/topics/a", 2), ("POST", "/topics/b", 2), ("POST", "/topics/c", 0)]
    {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"));
        let head = client.read_head();
        let body = client.read_body(&head);
        let id = json_member(&body, "id");
        assert_eq!((head.status, head.field("Content-Type")), (200, Some("application/json")), "{method} {path}");
        assert_eq!(body, format!("{{\"id\":\"{id}\",\"events\":1,\"subscribers\":{subscribers}}}\n"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(time(id) <= now && now - time(id) < 60_000, "{id} at {now}");
        let receivers = match path {
            "/topics/a" => vec![&mut one, &mut two],
            "/topics/b" => vec![&mut two, &mut other],
            _ => vec![],
        };
        for events in receivers {
            let message = events.expect_next();
            assert_eq!((&message.event[..], &message.data[..], &message.last_event_id[..]), ("message", "hello", id));
        }
    }
    assert_eq!(server.metric("tidings_events_published_total"), 4.0);
    eventually("the count of what was delivered", || server.metric("tidings_events_delivered_total") == 6.0);
}

#[test]
fn the_body_is_the_data_less_one_line_end_whatever_its_content_type() {
    let server = serve(&[]);
    let mut events = server.watch("/topics/a");
    for (body, data) in [
        ("plain", "plain"),
        ("", ""),
        ("\n", ""),
        ("one\n", "one"),
        ("one\r\n", "one"),
        ("one\r", "one"),
        ("one\n\n", "one\n"),
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        (" lead and: colon", " lead and: colon"),
        ("data: x\n\nid: 7", "data: x\n\nid: 7"),
        ("{\"a\": 1}", "{\"a\": 1}"),
    ] {
        for content_type in ["", "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: text/plain\r\n"]
        {
            let (status, answer) = server.post_with("/topics/a", content_type, body);
            assert_eq!(status, 200, "{answer}");
            let message = events.expect_next();
            assert_eq!((&message.event[..], &message.data[..]), ("message", data), "{body:?}");
            assert_eq!(message.last_event_id, json_member(&answer, "id"));
        }
    }
}

#[test]
fn the_event_type_is_a_parameter_of_the_publish() {
    let server = serve(&[]);
    let mut events = server.watch("/topics/a");
    let longest = "x".repeat(128);
    for (query, event) in [
        ("", "message"),
        ("?event=", "message"),
        ("?event=note", "note"),
        ("?event=two+words", "two words"),
        ("?event=%E4%BD%A0:%20x", "你: x"),
        ("?event=tidings", "tidings"),
        ("?event=Tidings:x", "Tidings:x"),
        (&format!("?event={longest}"), &longest),
    ] {
        server.publish(&format!("/topics/a{query}"), "x");
        assert_eq!(events.expect_next().event, event, "{query}");
    }
}

#[test]
fn a_batch_is_parsed_as_an_event_stream_and_published_as_one() {
    let server = serve(&[]);
    let mut events = server.watch("/topics/a");
    let _other = server.watch("/topics/a");
    let body = ": a comment\nid: 7\nretry: 5\ndata: one\n\n\
                event: note\r\ndata: two\r\ndata:lines\r\n\r\n\
                event: only\nid: 8\n\n\
                data\n\nunknown: x\ndata: last";
    let (status, answer) = batch(&server, "/topics/a", body);
    let last = json_member(&answer, "id");
    assert_eq!((status, &answer[..]), (200, &format!("{{\"id\":\"{last}\",\"events\":4,\"subscribers\":2}}\n")[..]));
    // One write, one chunk; neither the comments nor the ids and times that the publisher gave.
    let chunk = String::from_utf8(events.client.read_chunk().unwrap()).unwrap();
    let ids: Vec<_> = (0..4).map(|n| format!("{}-{}", time(last), number(last) - 3 + n)).collect();
    assert_eq!(
        chunk,
        format!(
            "id: {}\ndata: one\n\nevent: note\nid: {}\ndata: two\ndata: lines\n\nid: {}\ndata: \n\nid: {}\ndata: last\n\n",
            ids[0], ids[1], ids[2], ids[3]
        )
    );
    let after = server.publish("/topics/a", "after");
    assert_eq!(number(&after), number(last) + 1);
    // In the history it is four events.
    let mut events = server.subscribe_with("/topics/a?poll=1", &format!("Last-Event-ID: {}\r\n", ids[1]));
    let rest = events.rest();
    assert_eq!(rest.iter().map(|message| &message.data[..]).collect::<Vec<_>>(), ["", "last", "after"]);
    assert_eq!(rest[0].last_event_id, ids[2]);
    assert_eq!(server.metric("tidings_events_published_total"), 5.0);
}

#[test]
fn one_bad_block_refuses_the_whole_batch() {
    let server = serve(&[]);
    let mut events = server.watch("/topics/a");
    let long = format!("data: fine\n\nevent: {}\ndata: bad\n\ndata: fine\n\n", "x".repeat(129));
    for (body, line) in [
        (&long[..], "an event type has at most 128 bytes\n"),
        ("data: fine\n\nevent: \0\ndata: bad\n\n", "an event type holds no CR, LF or NUL\n"),
        (
            "data: fine\n\nevent: tidings:gap\ndata: bad\n\n",
            "an event type that begins with tidings: is the server's own\n",
        ),
        ("", "there is no event in it\n"),
        ("\n\n", "there is no event in it\n"),
        (": only a comment\n\nid: 7\n\nevent: x\n\n", "there is no event in it\n"),
    ] {
        assert_eq!(batch(&server, "/topics/a", body), (400, line.to_owned()), "{body:?}");
    }
    assert_eq!(server.metric("tidings_events_published_total"), 0.0);
    server.publish("/topics/a", "the first");
    assert_eq!(events.expect_next().data, "the first");
}

#[test]
fn a_publish_that_cannot_be_is_refused_and_the_line_says_why() {
    let server = serve(&["--queue-bytes", "16KiB", "--max-body", "20000"]);
    let too_large = "the event is larger than one publish may be: 8192 bytes on the wire, half of --queue-bytes\n";
    let (long, big, bigger) = ("x".repeat(129), "x".repeat(8_200), "x".repeat(20_001));
    let lines = "\n".repeat(1_500); // each becomes a field of its own
    for (path, body, status, line) in [
        ("/topics/a?event=tidings:open", "x", 400, "an event type that begins with tidings: is the server's own\n"),
        ("/topics/a?event=tidings:", "x", 400, "an event type that begins with tidings: is the server's own\n"),
        ("/topics/a?event=a%0Ab", "x", 400, "an event type holds no CR, LF or NUL\n"),
        ("/topics/a?event=a%0Db", "x", 400, "an event type holds no CR, LF or NUL\n"),
        ("/topics/a?event=%00", "x", 400, "an event type holds no CR, LF or NUL\n"),
        (&format!("/topics/a?event={long}")[..], "x", 400, "an event type has at most 128 bytes\n"),
        ("/topics/a,b", "x", 400, "publish to one topic at a time\n"),
        ("/topics/a", &big, 413, too_large),
        ("/topics/a", &lines, 413, too_large),
        ("/topics/a?delay=1h", &big, 413, too_large),
        (
            "/topics/a?delay=1h&event=tidings:x",
            "x",
            400,
            "an event type that begins with tidings: is the server's own\n",
        ),
        ("/topics/a", &bigger, 413, "the body is larger than --max-body allows\n"),
    ] {
        assert_eq!(server.post(path, body), (status, line.to_owned()), "{path}");
    }
    let mut client = Client::connect(server.address);
    client.send(b"POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n\xff\xfe");
    let head = client.read_head();
    let body = client.read_body(&head);
    assert_eq!((head.status, &body[..]), (400, "the body is not UTF-8, and an event stream is\n"));
    // The largest that is taken, together with what it is encoded with, is half of the queue.
    let room = 8_192 - "id: 1763712000000-281474976710655\ndata: \n\n1fff\r\n\r\n".len();
    assert_eq!(server.post("/topics/a", &"x".repeat(room)).0, 200);
    assert_eq!(server.metric("tidings_events_published_total"), 1.0);
    assert_eq!(batch(&server, "/topics/a", &"data: x\n\n".repeat(1_000)), (413, too_large.to_owned()));
    assert_eq!(server.metric("tidings_events_published_total"), 1.0);
}

#[test]
fn a_topic_has_a_name_of_1_to_128_bytes_as_it_is_decoded() {
    let server = serve(&[]);
    let (name, accents, sixty_four) = ("x".repeat(128), "%C3%A9".repeat(64), numbers(64));
    let twice = format!("{sixty_four},0,1,2");
    for names in [
        "a",
        &name,
        &accents,
        "a%20b",
        "a+b",
        "...",
        ".a",
        "%E4%BD%A0%E5%A5%BD",
        "what%3F",
        "100%25",
        "a:b;c=d&e",
        "%F0%9F%8E%89",
        "a,b",
        "a%2Cb",
        "a,a,a",
        &sixty_four,
        &twice,
    ] {
        assert_eq!(server.get(&format!("/topics/{names}?poll=1")), (200, "retry: 3000\n\n".to_owned()), "{names}");
    }
    // A name is what is decoded, however it was written.
    let mut events = server.watch("/topics/caf%c3%a9%20+");
    assert_eq!(json_member(&server.get("/topics").1, "name"), "café +");
    server.publish("/topics/%63af%C3%A9%20%2B", "x");
    assert_eq!(events.expect_next().data, "x");
    // Named twice, it is subscribed to once.
    let mut events = server.watch("/topics/a,a");
    assert!(server.post("/topics/a", "once").1.ends_with("\"subscribers\":1}\n"));
    server.publish("/topics/a", "then");
    assert_eq!(events.take_data(2), ["once", "then"]);
}

/// As many topics in a list, named by their numbers.
fn numbers(count: usize) -> String {
    (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}

#[test]
fn what_is_no_topic_name_is_refused_in_a_line() {
    let server = serve(&[]);
    let (long, accents, sixty_five) = ("x".repeat(129), "%C3%A9".repeat(64), numbers(65));
    let length = "a topic name has 1 to 128 bytes\n";
    let form = "a topic name holds no control character, / or comma, and is not . or ..\n";
    for (names, line) in [
        (&long[..], length),
        (&format!("{accents}x"), length),
        ("a,", length),
        (",a", length),
        ("a,,b", length),
        ("%2C", length),
        (".", form),
        ("..", form),
        ("%2E%2e", form),
        ("a,..", form),
        ("a/b", form),
        ("a%2Fb", form),
        ("a/", form),
        ("%00", form),
        ("a%0Ab", form),
        ("%7F", form),
        ("%C2%85", form),
        (&sixty_five, "a stream has at most 64 topics\n"),
        ("%FF", "the path is not UTF-8\n"),
        ("%", "the path has a % without two hexadecimal digits\n"),
        ("%4", "the path has a % without two hexadecimal digits\n"),
        ("%GG", "the path has a % without two hexadecimal digits\n"),
    ] {
        assert_eq!(server.get(&format!("/topics/{names}?poll=1")), (400, line.to_owned()), "GET {names}");
        if names.contains(',') || names.contains("%2C") {
            continue;
        }
        assert_eq!(server.post(&format!("/topics/{names}"), "x"), (400, line.to_owned()), "POST {names}");
    }
}

#[test]
fn a_parameter_that_means_nothing_is_refused_in_a_line() {
    let server = serve(&[]);
    let limit = "limit wants a number from 1, such as 10\n";
    let poll = "poll wants 1, or leave it out for a live stream\n";
    for (query, line) in [
        ("limit=0", limit),
        ("limit=", limit),
        ("limit=-1", limit),
        ("limit=%2B1", limit),
        ("limit=ten", limit),
        ("limit=18446744073709551616", limit),
        ("poll=0", poll),
        ("poll=", poll),
        ("poll=yes", poll),
    ] {
        assert_eq!(server.get(&format!("/topics/a?{query}")), (400, line.to_owned()), "{query}");
    }
    let delay = "delay wants a duration of at most 24h, such as 500ms, 5s, 2m or 1h\n";
    for query in ["delay=", "delay=5", "delay=-1s", "delay=1.5s", "delay=25h", "delay=86400001ms", "delay=5+s"] {
        assert_eq!(server.post(&format!("/topics/a?{query}"), "x"), (400, delay.to_owned()), "{query}");
    }
}

#[test]
fn topics_are_listed_with_subscribers_events_and_newest_id() {
    let server = serve(&["--history", "2"]);
    assert_eq!(server.get("/topics"), (200, "[]\n".to_owned()));
    let events = server.watch("/topics/quiet,busy");
    let quiet = r#"{"name":"quiet","subscribers":1,"events":0,"newest":null}"#;
    let busy = r#"{"name":"busy","subscribers":1,"events":0,"newest":null}"#;
    assert_eq!(server.get("/topics").1, format!("[{busy},{quiet}]\n"));
    let newest = (0..3).map(|_| server.publish("/topics/busy", "x")).last().unwrap();
    let said = server.publish("/topics/%22say%22", "x");
    let listed = |subscribers: usize| {
        let busy = format!(r#"{{"name":"busy","subscribers":{subscribers},"events":2,"newest":"{newest}"}}"#);
        let said = format!(r#"{{"name":"\"say\"","subscribers":0,"events":1,"newest":"{said}"}}"#);
        (busy, said)
    };
    let (busy, said) = listed(1);
    assert_eq!(server.get("/topics").1, format!("[{said},{busy},{quiet}]\n"));
    // Without subscriber and history a topic is forgotten.
    drop(events);
    let (busy, said) = listed(0);
    eventually("the quiet topic is forgotten", || server.get("/topics").1 == format!("[{said},{busy}]\n"));
}

#[test]
fn a_topic_that_keeps_nothing_is_there_for_as_long_as_somebody_is_subscribed() {
    let server = serve(&["--history", "0"]);
    server.publish("/topics/a", "x");
    assert_eq!(server.get("/topics").1, "[]\n");
    let events = server.watch("/topics/a");
    let id = server.publish("/topics/a", "x");
    let listed = format!("[{{\"name\":\"a\",\"subscribers\":1,\"events\":0,\"newest\":\"{id}\"}}]\n");
    assert_eq!(server.get("/topics").1, listed);
    // To poll is not to subscribe, and makes no topic.
    assert_eq!(server.get("/topics/b?poll=1").0, 200);
    assert_eq!(server.get("/topics").1, listed);
    drop(events);
    eventually("it is forgotten", || server.metric("tidings_topics") == 0.0);
}

/// The names that `/topics` lists.
fn names(server: &Tidings) -> Vec<String> {
    let list = server.get("/topics").1;
    list.split("{\"name\":\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn a_new_topic_takes_the_place_of_the_least_recently_published_idle_one() {
    let server = serve(&["--max-topics", "3"]);
    for topic in ["a", "b", "c", "a"] {
        server.publish(&format!("/topics/{topic}"), "x");
    }
    server.publish("/topics/d", "x");
    assert_eq!(names(&server), ["a", "c", "d"], "b was the least recently published");
    let events = server.watch("/topics/c");
    server.publish("/topics/e", "x");
    assert_eq!(names(&server), ["c", "d", "e"], "c has a subscriber");
    // A stream's own topics do not give way to each other.
    let both = server.watch("/topics/d,f");
    assert_eq!(names(&server), ["c", "d", "f"]);
    let kept = |topic: &str| server.get(&format!("/topics/{topic}?poll=1")).1.matches("data: x").count();
    assert_eq!((kept("c"), kept("d"), kept("e")), (1, 1, 0));
    // Now all are taken: publishing is refused, and a stream is told to come back.
    let full = "there are as many topics as there may be, each with a subscriber; --max-topics allows more\n";
    assert_eq!(server.post("/topics/g", "x"), (503, full.to_owned()));
    assert_eq!(server.post("/topics/c", "x").0, 200);
    for (refused, path) in [(1.0, "/topics/g"), (2.0, "/topics/c,g")] {
        let mut events = server.subscribe(path);
        assert_eq!((events.rest(), events.end), (vec![], Some(End::Finished)));
        assert_eq!(events.parser.comments, ["full"]);
        assert!((2_000..=10_000).contains(&events.parser.retry.unwrap()), "{:?}", events.parser.retry);
        eventually("it is counted", || server.metric("tidings_disconnects_total{reason=\"full\"}") == refused);
    }
    assert!(server.log_line_with("/topics/g full after").ends_with(" 0 events"));
    assert_eq!(names(&server), ["c", "d", "f"]);
    drop((events, both));
    eventually("all have left", || !server.get("/topics").1.contains("\"subscribers\":1"));
    server.publish("/topics/g", "x");
    assert_eq!(names(&server), ["c", "d", "g"], "f had no history");
}

#[test]
fn who_may_only_read_takes_neither_all_history_away_nor_all_places() {
    let server = serve(&["--max-topics", "64"]);
    for n in 0..16 {
        server.publish(&format!("/topics/kept{n}"), "x");
    }
    let list = |begin: usize| (begin..begin + 16).map(|n| format!("new{n}")).collect::<Vec<_>>().join(",");
    let streams: Vec<_> = [0, 16, 32].map(|begin| server.watch(&format!("/topics/{}", list(begin)))).into();
    for refused in ["/topics/one-more", "/topics/kept0,one-more"] {
        let mut events = server.subscribe(refused);
        assert_eq!((events.rest(), events.end), (vec![], Some(End::Finished)), "{refused}");
    }
    assert_eq!(names(&server).iter().filter(|name| name.starts_with("kept")).count(), 16);
    // Topics that are there can be watched and published to, and a new one can still be published to.
    let all = server.watch(&format!("/topics/kept0,{}", list(0)));
    for topic in ["kept0", "new0", "news"] {
        assert_eq!(server.post(&format!("/topics/{topic}"), "x").0, 200, "{topic}");
    }
    // What was published to is no longer one that was only asked for.
    drop((streams, all));
    eventually("all have left", || names(&server).len() <= 17);
    drop(server.watch("/topics/one-more"));
}

#[test]
fn a_delayed_publish_gets_its_id_when_it_is_due() {
    let server = serve(&[]);
    let mut events = server.watch("/topics/a");
    let begin = Instant::now();
    for (delay, ms) in [("300ms", 300), ("1s", 1_000)] {
        let answer = server.post(&format!("/topics/a?delay={delay}&event=later"), delay);
        assert_eq!(answer, (202, format!("{{\"delay_ms\":{ms}}}\n")));
    }
    let stream = "Content-Type: text/event-stream\r\n";
    assert_eq!(server.post_with("/topics/a?delay=600ms", stream, "data: b1\n\ndata: b2\n\n").0, 202);
    let now = server.publish("/topics/a", "now");
    let mut last = number(&now) - 1;
    let mut due = Vec::new();
    for (data, event, earliest) in [
        ("now", "message", 0),
        ("300ms", "later", 300),
        ("b1", "message", 600),
        ("b2", "message", 600),
        ("1s", "later", 1_000),
    ] {
        let message = events.expect_next();
        assert_eq!((&message.data[..], &message.event[..]), (data, event));
        assert!(begin.elapsed() >= Duration::from_millis(earliest), "{data} is early: {:?}", begin.elapsed());
        assert_eq!(number(&message.last_event_id), last + 1);
        last += 1;
        due.push(time(&message.last_event_id));
    }
    assert!(due[4] - due[0] >= 600, "the time in an id is that of the publish: {due:?}");
    assert_eq!(server.post("/topics/a?delay=0ms", "x"), (202, "{\"delay_ms\":0}\n".to_owned()));
    assert_eq!(events.expect_next().data, "x");
    assert_eq!(server.post("/topics/a?delay=24h", "x").0, 202);
}

#[test]
fn delayed_publishes_are_bounded_by_number_and_those_left_at_the_end_are_told() {
    let mut server = serve(&[]);
    let mut client = Client::connect(server.address);
    let mut publish = |delay: &str| {
        client.send(format!("POST /topics/a?delay={delay} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"));
        let head = client.read_head();
        (head.status, client.read_body(&head))
    };
    let mut events = server.watch("/topics/a");
    for n in 0..1_023 {
        assert_eq!(publish("1h").0, 202, "{n}");
    }
    assert_eq!(publish("1ms").0, 202);
    // The place of the one that was due is free again, and it is the only one.
    assert_eq!(events.expect_next().data, "x");
    eventually("room for one more", || publish("1h").0 == 202);
    let full = "too many delayed publishes: at most 1024 of 1048576 bytes together\n";
    assert_eq!(publish("1h"), (503, full.to_owned()));
    assert_eq!(server.post("/topics/a", "now").0, 200, "what is not delayed is published");
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(server.log_line_with("dropped").contains("1024"), "{}", server.log());
}

#[test]
fn delayed_publishes_are_bounded_by_bytes() {
    let server = serve(&[]);
    let body = "x".repeat(64 * 1024);
    for n in 0..16 {
        assert_eq!(server.post("/topics/a?delay=1h", &body).0, 202, "{n}");
    }
    let full = "too many delayed publishes: at most 1024 of 1048576 bytes together\n";
    assert_eq!(server.post("/topics/a?delay=1h", "x"), (503, full.to_owned()));
    assert_eq!(server.post("/topics/a?delay=1h", "").0, 202);
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

#[test]
fn the_library_refuses_what_the_binary_refuses_and_gives_its_own_ids() {
    let hub = Hub::new(History { topics: 1, publish_bytes: 200, ..History::default() });
    let a = topic("a");
    let typed = |name: &str| Event::data("x").with_type(EventType::new(name).unwrap());
    assert_eq!(hub.publish(&a, &typed("tidings:open")), Err(Refused::ReservedType));
    assert_eq!(hub.publish_all(&a, &[Event::data("x"), typed("tidings:")]), Err(Refused::ReservedType));
    assert_eq!(hub.publish_all(&a, &[]), Err(Refused::NoEvent));
    assert_eq!(hub.publish(&a, &Event::data("x".repeat(200))), Err(Refused::TooLarge));
    assert_eq!(hub.publish_all(&a, &vec![Event::data("x"); 10]), Err(Refused::TooLarge));
    assert_eq!((hub.counts().published, hub.topics()), (0, vec![]));
    let own = hub.publish(&a, &Event::data("x").with_id(EventId::new("mine").unwrap())).unwrap();
    assert_ne!(own.id.as_str(), "mine");
    let next = hub.publish_all(&a, &vec![Event::data("x"); 3]).unwrap();
    assert_eq!((next.events, number(next.id.as_str())), (3, number(own.id.as_str()) + 3));
    let topics = hub.topics();
    assert_eq!(topics.len(), 1);
    assert_eq!((&topics[0].name[..], topics[0].events, &topics[0].newest), ("a", 4, &Some(next.id)));
}

#[test]
fn dropping_the_last_hub_ends_its_streams() {
    let hub = Hub::new(History::default());
    let place = Arc::new(Mutex::new(Some(hub.clone())));
    let shared = place.clone();
    let server = InProcess::start(Config::default(), move |_| {
        let hub = shared.lock().unwrap().clone();
        Response::stream(move |stream| match hub {
            Some(hub) => hub.subscribe(stream, &[topic("a"), topic("b")], None),
            None => Ok(()),
        })
    });
    let mut streams: Vec<_> = (0..3).map(|_| Events::open(server.address, "/", "")).collect();
    for events in &mut streams {
        assert_eq!(events.expect_next().event, "tidings:open");
    }
    hub.publish(&topic("b"), &Event::data("farewell")).unwrap();
    drop(hub);
    drop(place.lock().unwrap().take());
    for events in &mut streams {
        assert_eq!(events.rest().iter().map(|message| &message.data[..]).collect::<Vec<_>>(), ["farewell"]);
        assert_eq!(events.end, Some(End::Finished));
    }
    eventually("all are off the roster", || server.monitor.counts().streams == 0);
}

#[test]
fn a_publish_waits_for_no_reader() {
    let hub = Hub::new(History { events: 10, ..History::default() });
    let server = InProcess::with_hub(&hub, Config { queue_bytes: 64 << 20, ..Config::default() });
    let mut streams: Vec<_> = (0..10).map(|_| Events::open(server.address, "/topics/a", "")).collect();
    eventually("all are subscribed", || hub.topics().first().is_some_and(|topic| topic.subscribers == 10));
    let event = Event::data("x".repeat(100_000));
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(hub.publish(&topic("a"), &event).unwrap().subscribers, 10);
    }
    // Nobody has read a byte. One who waits for a reader waits for the ten seconds after which it is cut.
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    for events in &mut streams[..2] {
        assert_eq!(events.expect_next().event, "tidings:open");
        assert!(events.take_data(100).iter().all(|data| data.len() == 100_000));
    }
}

/// An iterator of events that publishes whenever it is asked for one, and when it is dropped.
struct Chatty {
    hub: Hub,
    name: &'static str,
}

impl Iterator for Chatty {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.hub.publish(&topic("all"), &Event::data("tick")).expect("published");
        Some(Event::data("own"))
    }
}

impl Drop for Chatty {
    fn drop(&mut self) {
        self.hub.publish(&topic("all"), &Event::data(format!("farewell {}", self.name))).expect("published");
    }
}

/// A stream that ends as its path says; all but the witness's own have something chatty to take with them.
fn chat(hub: &Hub, path: &str, stream: Stream) -> Result<(), Closed> {
    let all = [topic("all")];
    let chatty = |name| Chatty { hub: hub.clone(), name };
    let name = match path {
        "/witness" => return hub.subscribe(stream, &all, None),
        "/left" => "left",
        "/behind" => "behind",
        "/limited" => "limited",
        "/panicked" => "panicked",
        _ => return stream.every(Duration::from_millis(5), chatty("timed").take(3)),
    };
    let stream = if name == "limited" { stream.end_after(20) } else { stream };
    hub.subscribe(stream.clone(), &all, None)?;
    hub.publish(&all[0], &Event::data(format!("welcome {name}"))).expect("published");
    let chatty = chatty(name);
    if name == "panicked" {
        let _held = (stream, chatty);
        panic!("on purpose");
    }
    // The limited one's timer sleeps while somebody else's publish brings the stream to its end.
    let period = Duration::from_millis(if name == "limited" { 3_600_000 } else { 5 });
    stream.every(period, chatty)
}

/// Waits until the witness has seen a text, by now or before.
fn seen_by(mut witness: Events) -> impl FnMut(&str) {
    let mut seen = HashSet::new();
    move |text| {
        while !seen.contains(text) {
            seen.insert(witness.expect_next().data);
        }
    }
}

/// Publishes on a thread of its own, so that a publish which never returns fails the test and does not hang it.
fn beside(hub: Hub) -> impl Fn(Event) {
    let (publish, published) = channel::<Event>();
    std::thread::spawn(move || {
        published.iter().for_each(|event| drop(hub.publish(&topic("all"), &event).expect("published")));
    });
    move |event| publish.send(event).unwrap()
}

/// What belongs to a stream (its timers, and what they captured) goes when the stream does, also when that is in the
/// middle of a publish. It may publish itself: if it went under one of the hub's locks, that would be the end.
#[test]
fn what_a_stream_takes_with_it_may_publish_however_the_stream_ends() {
    let hub = Hub::new(History { publish_bytes: 1 << 20, ..History::default() });
    let own = hub.clone();
    let server = InProcess::start(Config { queue_bytes: 128 << 10, ..Config::default() }, move |request| {
        let (hub, path) = (own.clone(), request.path().to_owned());
        Response::stream(move |stream| chat(&hub, &path, stream))
    });
    let mut witness = Events::open(server.address, "/witness", "");
    assert_eq!(witness.expect_next().event, "tidings:open");
    let mut wait_for = seen_by(witness);
    let publish = beside(hub);

    let mut left = Events::open(server.address, "/left", "");
    assert_eq!(left.expect_next().event, "tidings:open");
    assert_eq!(left.expect_next().data, "welcome left");
    while left.expect_next().data != "own" {}
    drop(left);
    wait_for("farewell left");

    let mut limited = Events::open(server.address, "/limited", "");
    wait_for("welcome limited");
    (0..25).for_each(|_| publish(Event::data("go on")));
    assert_eq!(limited.rest().len(), 21, "twenty, and tidings:open");
    assert_eq!(limited.end, Some(End::Finished));
    wait_for("farewell limited");

    let mut panicked = Events::open(server.address, "/panicked", "");
    panicked.rest();
    assert_eq!(panicked.end, Some(End::Broken));
    wait_for("farewell panicked");

    // Cut by a publish, because it does not read. The witness does, and what it is sent fits.
    let behind = Events::open(server.address, "/behind", "");
    wait_for("welcome behind");
    let big = Event::data("x".repeat(100_000));
    let mut turn = 0;
    eventually("it is cut", || {
        turn += 1;
        publish(big.clone());
        publish(Event::data(format!("turn {turn}")));
        wait_for(&format!("turn {turn}"));
        server.closed_as(Closed::Behind) > 0
    });
    wait_for("farewell behind");
    drop(behind);

    // Held by its timer alone, so that its last holder is dropped on the scheduler's thread.
    let mut timed = Events::open(server.address, "/timed", "");
    assert_eq!(timed.rest().iter().map(|message| &message.data[..]).collect::<Vec<_>>(), ["own"; 3]);
    assert_eq!(timed.end, Some(End::Finished));
    wait_for("farewell timed");

    publish(Event::data("still here"));
    wait_for("still here");
}

#[test]
fn a_closure_on_the_scheduler_publishes_like_anybody_else() {
    let hub = Hub::new(History::default());
    let server = InProcess::with_hub(&hub, Config::default());
    let mut streams: Vec<_> = (0..5).map(|_| Events::open(server.address, "/topics/a", "")).collect();
    for events in &mut streams {
        assert_eq!(events.expect_next().event, "tidings:open");
    }
    let (own, mut n) = (hub.clone(), 0);
    let timer = server.scheduler.every(Duration::from_millis(2), move || {
        n += 1;
        own.publish(&topic("a"), &Event::data(n.to_string())).expect("published");
    });
    let timer = timer.unwrap();
    for events in &mut streams {
        assert_eq!(events.take_data(50), (1..=50).map(|n| n.to_string()).collect::<Vec<_>>());
    }
    drop(timer);
}
