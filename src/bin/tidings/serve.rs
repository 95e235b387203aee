//! The routes: the hub over HTTP. A request is answered in the order of preflight, path and method, origin, token, and
//! only then is its body read, so that nobody sends megabytes to learn that he may not.
//!
//! Every refusal is a status and one line of text that says what is wrong and, where an option would allow it, names
//! the option. Refusals travel as `Err(Response)`, so that each check is a `?`.

use crate::arguments::{self, Mode};
use crate::demo;
use std::convert::identity;
use std::fmt::{Display, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidings::{
    Access, Error, Event, EventType, History, Hub, Log, Monitor, Receipt, Refused, Request, Response, Scheduler, Topic,
    TopicInfo, json_string,
};

const PAGE: &str = include_str!("page.html");

/// The page is one file, so its script and style are inline; it takes nothing from elsewhere and talks to this server
/// alone.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The longest `?delay=`. What lies further ahead is a calendar's business: a restart forgets it.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Publishes that wait for their `?delay=`: so many, and so many bytes of them, fit into any box.
const MAX_DELAYED: usize = 1024;
const MAX_DELAYED_BYTES: usize = 1 << 20;

/// What the answers are made from.
pub struct Site {
    /// From [`page`].
    pub page: String,
    pub mode: Mode,
    pub hub: Hub,
    /// The bounds of the hub.
    pub history: History,
    pub access: Access,
    pub tokens: Tokens,
    pub scheduler: Scheduler,
    pub monitor: Monitor,
    pub delayed: Delayed,
    pub log: Log,
    pub one_batch: OneBatch,
}

/// Held by who reads a batch and publishes it. The events of a batch take twenty times as much memory as its text, and
/// they have to wait for each other at the hub anyway.
pub type OneBatch = Mutex<()>;

/// The secrets; `None` is open to all.
#[derive(Default)]
pub struct Tokens {
    pub publish: Option<String>,
    pub subscribe: Option<String>,
}

/// The page, which shows the scenes in `demo` only.
pub fn page(mode: Mode) -> String {
    let word = match mode {
        Mode::Demo => "demo",
        Mode::Serve => "serve",
    };
    PAGE.replacen("__MODE__", word, 1)
}

impl Site {
    pub fn answer(&self, request: &Request) -> Response {
        if self.mode == Mode::Demo && request.path().starts_with("/demo/") {
            return demo::answer(request);
        }
        self.access.preflight(request).unwrap_or_else(|| self.route(request).unwrap_or_else(identity))
    }

    fn route(&self, request: &Request) -> Result<Response, Response> {
        match (request.path(), request.method()) {
            ("/", "GET") => Ok(self.home(request)),
            ("/healthz", "GET") => Ok(Response::text(200, "ok")),
            ("/metrics", "GET") => self.metrics(request),
            ("/topics", "GET") => self.topics(request),
            (path, method) => match (path.strip_prefix("/topics/").filter(|names| !names.is_empty()), method) {
                (Some(names), "GET") => self.subscribe(request, names),
                (Some(names), "POST" | "PUT") => self.publish(request, names),
                (Some(_), _) => Err(not_allowed("GET, HEAD, POST, PUT")),
                (None, _) if ["/", "/healthz", "/metrics", "/topics"].contains(&path) => Err(not_allowed("GET, HEAD")),
                (None, _) => {
                    Err(Response::text(404, "nothing is here: topics are at /topics/NAME, a page to try them at /"))
                }
            },
        }
    }

    fn home(&self, request: &Request) -> Response {
        let asks_for_html =
            request.field("Accept").is_some_and(|accept| accept.to_ascii_lowercase().contains("text/html"));
        let response = if asks_for_html { self.page() } else { Response::text(200, self.commands(request)) };
        response.field("Vary", "Accept")
    }

    fn page(&self) -> Response {
        Response::bytes(200, "text/html; charset=utf-8", self.page.as_str())
            .field("Content-Security-Policy", PAGE_POLICY)
            .field("Referrer-Policy", "no-referrer")
            .field("Cache-Control", "no-cache")
    }

    /// Four lines to copy into a shell, with the name by which the client knows this server.
    fn commands(&self, request: &Request) -> String {
        let here = format!("http://{}", request.field("Host").unwrap_or("127.0.0.1:3000"));
        let token = |is_asked: bool| if is_asked { "-H 'Authorization: Bearer TOKEN' " } else { "" };
        let Tokens { publish, subscribe } = &self.tokens;
        let (reading, publishing) = (token(subscribe.is_some()), token(publish.is_some()));
        let last = match self.mode {
            Mode::Demo => format!("curl -N {here}/demo/typewriter"),
            Mode::Serve => format!("curl {}{here}/metrics", token(subscribe.is_some() || publish.is_some())),
        };
        format!(
            "curl -N {reading}{here}/topics/news\ncurl {publishing}-d hello {here}/topics/news\n\
             curl {reading}{here}/topics\n{last}\n"
        )
    }

    fn topics(&self, request: &Request) -> Result<Response, Response> {
        self.admit_reader(request)?;
        Ok(json(200, topics_json(&self.hub.topics())))
    }

    fn subscribe(&self, request: &Request, names: &str) -> Result<Response, Response> {
        self.admit_reader(request)?;
        let topics = Topic::list(names).map_err(bad)?;
        if request.field("Sec-Fetch-Dest") == Some("document") {
            return Ok(self.page().field("Vary", "Sec-Fetch-Dest"));
        }
        let limit = match request.query("limit").map(|limit| arguments::number(&limit).filter(|limit| *limit > 0)) {
            None => None,
            Some(Some(limit)) => Some(limit),
            Some(None) => return Err(bad("limit wants a number from 1, such as 10")),
        };
        let is_poll = match request.query("poll").as_deref() {
            None => false,
            Some("1") => true,
            Some(_) => return Err(bad("poll wants 1, or leave it out for a live stream")),
        };
        let hub = self.hub.clone();
        let after = request.last_event_id();
        Ok(Response::stream(move |mut stream| {
            if let Some(limit) = limit {
                stream = stream.end_after(limit);
            }
            if is_poll {
                hub.replay(stream, &topics, after.as_deref())
            } else {
                hub.subscribe(stream, &topics, after.as_deref())
            }
        }))
    }

    fn publish(&self, request: &Request, names: &str) -> Result<Response, Response> {
        self.access.may_publish(request)?;
        check_token(request, self.tokens.publish.iter(), "publishing")?;
        let topics = Topic::list(names).map_err(bad)?;
        let [topic] = &topics[..] else { return Err(bad("publish to one topic at a time")) };
        let delay = delay(request)?;
        let publication = Publication::of(request)?;
        let is_batch = matches!(publication.kind, Kind::Batch);
        let _one_batch = is_batch.then(|| self.one_batch.lock().unwrap_or_else(PoisonError::into_inner));
        let events = publication.events().map_err(bad)?;
        // A delayed publish is tried on a hub of its own, where nobody is subscribed: what that one does not take now,
        // the real one would not take when it is due and nobody is left to be told.
        let hub = if delay.is_some() { &Hub::new(self.history) } else { &self.hub };
        let receipt = hub.publish_all(topic, &events).map_err(|refused| refusal(refused, &self.history))?;
        match delay {
            None => Ok(json(200, receipt_json(&receipt))),
            Some(delay) => self.publish_later(topic.clone(), publication, delay),
        }
    }

    fn publish_later(&self, topic: Topic, publication: Publication, delay: Duration) -> Result<Response, Response> {
        let bytes = publication.text.len();
        self.delayed.add(bytes)?;
        let (hub, delayed, log) = (self.hub.clone(), self.delayed.clone(), self.log.clone());
        let timer = self.scheduler.once(delay, move || {
            delayed.remove(bytes);
            let events = publication.events().unwrap_or_default(); // it was read without error when it came
            if let Err(refused) = hub.publish_all(&topic, &events) {
                log.line(format_args!("a delayed publish was refused: {refused}"));
            }
        });
        match timer {
            Ok(timer) => timer.detach(),
            Err(error) => {
                self.delayed.remove(bytes);
                return Err(Response::text(503, format!("no timer for a delayed publish: {error}")));
            }
        }
        Ok(json(202, format!("{{\"delay_ms\":{}}}\n", delay.as_millis())))
    }

    fn metrics(&self, request: &Request) -> Result<Response, Response> {
        self.access.may_read(request)?;
        check_token(request, self.tokens.subscribe.iter().chain(&self.tokens.publish), "reading the metrics")?;
        Ok(Response::bytes(200, "text/plain; version=0.0.4; charset=utf-8", exposition(&self.monitor, &self.hub)))
    }

    fn admit_reader(&self, request: &Request) -> Result<(), Response> {
        self.access.may_read(request)?;
        check_token(request, self.tokens.subscribe.iter(), "reading topics")
    }
}

/// Passes who has one of the tokens; where there is none, everybody does.
fn check_token<'a>(
    request: &Request,
    tokens: impl Iterator<Item = &'a String> + Clone,
    what: &str,
) -> Result<(), Response> {
    let is_open = tokens.clone().next().is_none();
    // Every token is compared, not only up to the first that fits, so that the time tells nothing.
    let fitting = tokens.filter(|token| request.has_token(token)).count();
    if is_open || fitting > 0 {
        return Ok(());
    }
    let line = format!("{what} needs a token: as Authorization: Bearer, a token header, a token cookie or ?token=");
    Err(Response::text(401, line).field("WWW-Authenticate", "Bearer"))
}

fn not_allowed(methods: &'static str) -> Response {
    Response::text(405, format!("only {methods} work here")).field("Allow", methods)
}

fn bad(line: impl Display) -> Response {
    Response::text(400, line.to_string())
}

fn refusal(refused: Refused, history: &History) -> Response {
    match refused {
        Refused::ReservedType | Refused::NoEvent => bad(refused),
        Refused::TooLarge => {
            let most = history.publish_bytes;
            Response::text(413, format!("{refused}: {most} bytes on the wire, half of --queue-bytes"))
        }
        Refused::TooManyTopics => Response::text(503, format!("{refused}; --max-topics allows more")),
    }
}

fn delay(request: &Request) -> Result<Option<Duration>, Response> {
    let Some(delay) = request.query("delay") else { return Ok(None) };
    match arguments::duration(&delay, Duration::ZERO..=LONGEST_DELAY) {
        Some(delay) => Ok(Some(delay)),
        None => Err(bad("delay wants a duration of at most 24h, such as 500ms, 5s, 2m or 1h")),
    }
}

/// A request to publish: the text as it came, and how it is to be read. Only the text is held while it waits for
/// its time, because a batch of empty events takes ten times as much memory as its text.
struct Publication {
    text: String,
    kind: Kind,
}

enum Kind {
    One(EventType),
    /// The text is an event stream.
    Batch,
}

impl Publication {
    fn of(request: &Request) -> Result<Publication, Response> {
        let content_type = request.field("Content-Type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let kind = if media_type.eq_ignore_ascii_case("text/event-stream") {
            Kind::Batch
        } else {
            Kind::One(EventType::new(request.query("event").unwrap_or_default()).map_err(bad)?)
        };
        let text =
            std::str::from_utf8(request.body()?).map_err(|_| bad("the body is not UTF-8, and an event stream is"))?;
        Ok(Publication { text: text.to_owned(), kind })
    }

    fn events(&self) -> Result<Vec<Event>, Error> {
        match &self.kind {
            Kind::One(event_type) => Ok(vec![Event::data(without_line_end(&self.text)).with_type(event_type.clone())]),
            Kind::Batch => Event::parse(&self.text),
        }
    }
}

/// Less one final line end, which editors and shells put there.
fn without_line_end(text: &str) -> &str {
    text.strip_suffix("\r\n").or_else(|| text.strip_suffix(['\n', '\r'])).unwrap_or(text)
}

/// Counts the publishes that wait for their time. A clone is the same count.
///
/// The task takes its publish out as it runs, and not as it is dropped: so what is left when the server has stopped is
/// what was dropped.
#[derive(Clone, Default)]
pub struct Delayed {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    publishes: usize,
    bytes: usize,
}

impl Delayed {
    /// How many wait.
    pub fn count(&self) -> usize {
        self.lock().publishes
    }

    fn add(&self, bytes: usize) -> Result<(), Response> {
        let mut waiting = self.lock();
        if waiting.publishes >= MAX_DELAYED || waiting.bytes + bytes > MAX_DELAYED_BYTES {
            let line =
                format!("too many delayed publishes: at most {MAX_DELAYED} of {MAX_DELAYED_BYTES} bytes together");
            return Err(Response::text(503, line));
        }
        waiting.publishes += 1;
        waiting.bytes += bytes;
        Ok(())
    }

    fn remove(&self, bytes: usize) {
        let mut waiting = self.lock();
        waiting.publishes -= 1;
        waiting.bytes -= bytes;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json(status: u16, text: String) -> Response {
    Response::bytes(status, "application/json", text).field("Cache-Control", "no-store")
}

fn receipt_json(receipt: &Receipt) -> String {
    let Receipt { id, events, subscribers } = receipt;
    format!("{{\"id\":{},\"events\":{events},\"subscribers\":{subscribers}}}\n", json_string(id.as_str()))
}

/// In one piece of memory: names may come to 300 KB, and whoever has them sent again and again must not have many copies
/// made of them.
fn topics_json(topics: &[TopicInfo]) -> String {
    // A name takes twice its bytes at the most, and all else of a topic less than a hundred.
    let mut text = String::with_capacity(topics.iter().map(|topic| 2 * topic.name.len() + 100).sum::<usize>() + 3);
    let mut before = '[';
    for TopicInfo { name, subscribers, events, newest } in topics {
        let name = json_string(name);
        let newest = newest.as_ref().map_or("null".to_owned(), |id| json_string(id.as_str()));
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{before}{{\"name\":{name},\"subscribers\":{subscribers},\"events\":{events},\"newest\":{newest}}}"
        );
        before = ',';
    }
    text.push_str(if topics.is_empty() { "[]\n" } else { "]\n" });
    text
}

/// The figures in Prometheus' text format, version 0.0.4.
fn exposition(monitor: &Monitor, hub: &Hub) -> String {
    let (server, hub) = (monitor.counts(), hub.counts());
    let mut text = String::with_capacity(2048);
    for (name, kind, help, value) in [
        ("connections", "gauge", "Connections that are open.", server.connections as u64),
        ("streams", "gauge", "Event streams that are open.", server.streams as u64),
        ("topics", "gauge", "Topics there are.", hub.topics as u64),
        ("events_published_total", "counter", "Events published.", hub.published),
        ("events_delivered_total", "counter", "Events handed to the kernel, over all streams.", server.delivered),
        ("events_replayed_total", "counter", "Events given to streams from the history.", hub.replayed),
        ("gaps_total", "counter", "Gaps told to streams that resumed.", hub.gaps),
        ("sent_bytes_total", "counter", "Bytes written to streams.", server.sent_bytes),
    ] {
        family(&mut text, name, kind, help);
        sample(&mut text, name, value);
    }
    family(&mut text, "disconnects_total", "counter", "Streams that are over, by reason.");
    for (reason, count) in server.disconnects {
        sample(&mut text, &format!("disconnects_total{{reason=\"{reason}\"}}"), count);
    }
    let lateness = server.lateness;
    family(&mut text, "scheduler_lateness_seconds", "summary", "How late timers run.");
    sample(&mut text, "scheduler_lateness_seconds{quantile=\"0.5\"}", seconds(lateness.median));
    sample(&mut text, "scheduler_lateness_seconds{quantile=\"0.99\"}", seconds(lateness.p99));
    sample(&mut text, "scheduler_lateness_seconds_sum", seconds(lateness.sum));
    sample(&mut text, "scheduler_lateness_seconds_count", lateness.count);
    text
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail; nor below.
    let _ = write!(text, "# HELP tidings_{name} {help}\n# TYPE tidings_{name} {kind}\n");
}

fn sample(text: &mut String, name: &str, value: impl Display) {
    let _ = writeln!(text, "tidings_{name} {value}");
}

/// As a decimal fraction, exactly, and without the 10 KB of code that printing a floating-point number takes.
fn seconds(duration: Duration) -> String {
    format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_final_line_end_is_taken_off() {
        for (body, data) in [
            ("", ""),
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\r", "a"),
            ("a\n\n", "a\n"),
            ("a\n\r", "a\n"),
            ("\n", ""),
            ("\na", "\na"),
        ] {
            assert_eq!(without_line_end(body), data, "{body:?}");
        }
    }

    #[test]
    fn delayed_publishes_are_bounded_by_number_and_by_bytes() {
        let by_number = Delayed::default();
        (0..MAX_DELAYED).for_each(|_| assert!(by_number.add(0).is_ok()));
        assert_eq!(by_number.add(0).err().map(|response| response.status()), Some(503));
        by_number.remove(0);
        assert!(by_number.add(0).is_ok());
        assert_eq!(by_number.count(), MAX_DELAYED);

        let by_bytes = Delayed::default();
        assert!(by_bytes.add(MAX_DELAYED_BYTES - 1).is_ok() && by_bytes.add(1).is_ok());
        assert_eq!(by_bytes.add(1).err().map(|response| response.status()), Some(503));
        by_bytes.remove(1);
        assert!(by_bytes.add(1).is_ok());
    }

    #[test]
    fn topics_are_json() {
        let say = TopicInfo { name: "say \"hi\"".to_owned(), subscribers: 2, events: 3, newest: None };
        let newest = Some(tidings::EventId::new("1-2").expect("an id"));
        let short = TopicInfo { name: "b".to_owned(), subscribers: 0, events: 1, newest };
        let say_json = r#"{"name":"say \"hi\"","subscribers":2,"events":3,"newest":null}"#;
        let short_json = r#"{"name":"b","subscribers":0,"events":1,"newest":"1-2"}"#;
        assert_eq!(topics_json(&[]), "[]\n");
        assert_eq!(topics_json(std::slice::from_ref(&say)), format!("[{say_json}]\n"));
        assert_eq!(topics_json(&[say, short]), format!("[{say_json},{short_json}]\n"));
    }

    #[test]
    fn seconds_are_exact() {
        assert_eq!(seconds(Duration::from_micros(1_000_833)), "1.000833000");
    }

    #[test]
    fn refusals_name_the_option_that_would_allow_it() {
        let history = History::default();
        for (refused, status) in [
            (Refused::ReservedType, 400),
            (Refused::NoEvent, 400),
            (Refused::TooLarge, 413),
            (Refused::TooManyTopics, 503),
        ] {
            assert_eq!(refusal(refused, &history).status(), status);
        }
    }

    #[test]
    fn the_page_has_one_place_for_the_mode() {
        assert_eq!(PAGE.matches("__MODE__").count(), 1);
    }
}
