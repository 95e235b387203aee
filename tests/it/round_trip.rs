//! What is published comes back: texts made at random, and some made to hurt, published one at a time and in batches,
//! read by the parser of WHATWG HTML 9.2.6 over chunked HTTP/1.1, over bare HTTP/1.0, and from the history.

use crate::support::{Events, Message, Random, Tidings, seeds};

const MAX_BODY: usize = 64 * 1024;

/// What a parser gives back for a text that was sent: CR and CRLF are LF.
fn normalised(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// What a publish of one event sends of its body: less one final line end.
fn sent(body: &str) -> &str {
    body.strip_suffix("\r\n").or_else(|| body.strip_suffix(['\n', '\r'])).unwrap_or(body)
}

/// Pieces that texts are made of: line ends, what could be taken for a field, and characters of all sizes.
const PIECES: [&str; 32] = [
    "\n",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\r",
    "\n\r",
    " ",
    "  ",
    "\t",
    ":",
    ": ",
    "data: ",
    "data",
    "id: 1",
    "id:",
    "event: x",
    "retry: 1",
    ": comment",
    "\0",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\u{7f}",
    "é",
    "你好",
    "😀",
    "👨‍👩‍👧",
    "\u{10ffff}",
    "x",
    "plain words",
    "0\r\n\r\n",
];

/// A text of at most so many bytes.
fn text(random: &mut Random, max: usize) -> String {
    let target = random.below(max as u64 + 1) as usize;
    let mut text = String::new();
    loop {
        let piece = random.pick(&PIECES);
        if text.len() + piece.len() > target {
            return text;
        }
        text.push_str(piece);
    }
}

/// An event type without what none may have.
fn event_type(random: &mut Random) -> String {
    let text = text(random, 100);
    text.chars().filter(|c| !matches!(c, '\r' | '\n' | '\0')).collect()
}

/// The texts that every run has.
fn fixed() -> Vec<String> {
    let short = [
        "",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\n\n\n",
        "\r\r",
        "\n\r",
        "\r\n\r\n",
        "a\n",
        "\na",
        "a\n\n",
        "a\rb",
        "a\r\nb",
        " ",
        "  a",
        " \n b",
        "\ta",
        ":",
        "::",
        ": a",
        "a:b",
        "data: x",
        "data: x\n\nid: 7\n\n",
        "id: 7",
        "event: x\ndata: y",
        "retry: 1",
        "\0",
        "a\0b",
        "\u{feff}",
        "\u{feff}a",
        "a\u{feff}\n\u{feff}b",
        "\u{feff}\u{feff}",
        "😀",
        "é\r\n你",
        "\u{2028}\u{2029}\u{85}\u{b}\u{c}",
        "\u{10ffff}",
        "0\r\n\r\n",
        "a\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "{\"a\":\"\\n\"}",
        "<script>",
        "%0A",
        "+",
    ];
    let long = ["x", "\n", "\r\n", "\r", "😀", " ", ":", "\0", "x\n"];
    let filled = long.map(|piece| piece.repeat(MAX_BODY / piece.len()));
    short.into_iter().map(str::to_owned).chain(filled).collect()
}

/// A server, and three readers of its one topic.
struct Readers {
    server: Tidings,
    live: [Events; 2],
}

impl Readers {
    fn new() -> Readers {
        // A text of line ends alone is seven times as long on the wire: the queue and the history have room for that.
        let options = [
            "serve",
            "--queue-bytes",
            "8MiB",
            "--history",
            "10000",
            "--history-bytes",
            "64MiB",
            "--history-total",
            "64MiB",
        ];
        let server = Tidings::start(&options);
        let live = ["HTTP/1.1", "HTTP/1.0"].map(|version| {
            let mut events = Events::open_as(version, server.address, "/topics/a", "");
            assert_eq!(events.head.field("Transfer-Encoding").is_some(), version == "HTTP/1.1");
            assert_eq!(events.expect_next().event, "tidings:open");
            events
        });
        Readers { server, live }
    }

    /// Each reader gets these, as event type and data, in this order.
    fn expect(&mut self, published: &[(String, String)]) {
        for events in &mut self.live {
            for (event, data) in published {
                same(&events.expect_next(), event, data);
            }
        }
    }

    /// The history gives all of it once more.
    fn expect_history(&self, published: &[(String, String)]) {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let mut events = Events::open_as(version, self.server.address, "/topics/a?poll=1", "");
            for (event, data) in published {
                same(&events.expect_next(), event, data);
            }
            assert_eq!(events.rest(), []);
        }
    }
}

fn same(message: &Message, event: &str, data: &str) {
    let event = if event.is_empty() { "message" } else { event };
    assert_eq!(message.event, event);
    // Not assert_eq: a page of text would hide where they differ.
    let at = message.data.bytes().zip(data.bytes()).position(|(a, b)| a != b);
    let is_same = message.data == data;
    assert!(
        is_same,
        "{} bytes for {}; the first difference at {at:?} of {:.200?}",
        message.data.len(),
        data.len(),
        data
    );
}

#[test]
fn each_text_that_is_published_comes_back_equal() {
    for seed in seeds() {
        let mut random = seed.random(0);
        let mut readers = Readers::new();
        let mut texts: Vec<_> = fixed().into_iter().map(|text| (String::new(), text)).collect();
        for n in 0..100 {
            let max = if n % 20 == 0 { MAX_BODY } else { 300 };
            texts.push((event_type(&mut random), text(&mut random, max)));
        }
        let mut published = Vec::new();
        for (event, body) in texts {
            let encoded: String = event.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let (status, answer) = readers.server.post(&format!("/topics/a?event={encoded}"), &body);
            assert_eq!(status, 200, "{answer}");
            let expected = (event, normalised(sent(&body)));
            readers.expect(std::slice::from_ref(&expected));
            published.push(expected);
        }
        readers.expect_history(&published);
    }
}

#[test]
fn each_batch_that_is_published_comes_back_equal() {
    for seed in seeds() {
        let mut random = seed.random(1);
        let mut readers = Readers::new();
        let mut rest: Vec<_> = fixed().into_iter().filter(|text| text.len() < 1_000).collect();
        let mut published = Vec::new();
        for _ in 0..60 {
            let mut expected = Vec::new();
            for _ in 0..1 + random.below(8) {
                let text = rest.pop().unwrap_or_else(|| text(&mut random, 400));
                expected.push((event_type(&mut random), normalised(&text)));
            }
            let body = event_stream(&mut random, &expected);
            assert!(body.len() <= MAX_BODY);
            let (status, answer) = readers.server.post_with("/topics/a", "Content-Type: text/event-stream\r\n", &body);
            assert_eq!(status, 200, "{answer} {body:?}");
            assert!(answer.contains(&format!("\"events\":{},", expected.len())), "{answer}");
            readers.expect(&expected);
            published.extend(expected);
        }
        readers.expect_history(&published);
    }
}

/// An event stream of these events, in one of the many forms that mean the same.
fn event_stream(random: &mut Random, events: &[(String, String)]) -> String {
    let end = *random.pick(&["\n", "\r", "\r\n"]);
    let mut stream = if random.once_in(4) { "\u{feff}".to_owned() } else { String::new() };
    for (at, (event, data)) in events.iter().enumerate() {
        let mut lines = vec![];
        if !event.is_empty() || random.once_in(3) {
            lines.push(field(random, "event", event));
        }
        lines.extend(data.split('\n').map(|line| field(random, "data", line)));
        for ignored in [": comment", "id: 7", "retry: 1", "unknown: x", "Data: x", "data x", ""] {
            if random.once_in(8) && !ignored.is_empty() {
                lines.insert(random.below(lines.len() as u64 + 1) as usize, ignored.to_owned());
            }
        }
        stream.push_str(&lines.join(end));
        // The last block may lack its blank line, and even its line end.
        let ends = if at + 1 == events.len() { random.below(3) } else { 2 };
        (0..ends).for_each(|_| stream.push_str(end));
    }
    stream
}

/// A field line: with the space behind its colon where it needs one, and where it does not with or without.
fn field(random: &mut Random, name: &str, value: &str) -> String {
    match value {
        "" if random.once_in(2) => name.to_owned(),
        value if !value.starts_with(' ') && random.once_in(3) => format!("{name}:{value}"),
        value => format!("{name}: {value}"),
    }
}
