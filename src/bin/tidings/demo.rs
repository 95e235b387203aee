//! The scenes: six streams that a person can watch, each in a way that EventSource is used in practice. They know no
//! hub: each is an iterator of events that the stream asks for one a period. So a scene is a value that tests can walk
//! through without a clock, and a client that goes takes its timer with it.
//!
//! Every scene is open to every origin, so that any page can be tried against it.

use crate::arguments;
use std::convert::identity;
use std::hash::{BuildHasher, RandomState};
use std::iter;
use std::time::{Duration, SystemTime};
use tidings::{Access, Closed, Event, EventId, EventType, Request, Response, Stream, iso8601, json_string};

/// What the typewriter types, one character an event.
const ANSWER: &str = "服务器发送事件（SSE）是一种让服务器主动向浏览器推送消息的技术。浏览器用 EventSource \
    打开一条普通的 HTTP 连接，服务器便可以一直往里写，一条接一条。万一连接断了，浏览器会自动重连，\
    并报上最后收到的编号，服务器就从那里接着发送。";

/// One a period; after the last comes the notice, in the same breath.
const WORDS: [&str; 8] = ["你好", "啊", "ss", "e", "h", "e", "lp", "me"];
const NOTICE: &str = "你有一个未读消息";

/// What opens `/demo/private`. It guards nothing: it is there to show the three ways of giving a token.
const PRIVATE_TOKEN: &str = "1111";

/// The first hundred family names of the Hundred Family Surnames, one character each.
const FAMILY_NAMES: &str = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜戚谢邹喻柏水窦章\
    云苏潘葛奚范彭郎鲁韦昌马苗凤花方俞任袁柳酆鲍史唐费廉岑薛雷贺倪汤滕殷罗毕郝邬安常乐于时傅皮卞齐康伍余元卜顾孟平黄\
    和穆萧尹";

const RECORDS_IN_A_LIST: usize = 10;
const TASKS: u32 = 10;

/// The paces that may be asked for. A millisecond is what the scheduler's timers can do; a minute is as long as anybody
/// watches.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// The shortest pace for a peer beyond loopback: whoever can reach the box shall not order a thousand events a second.
const SHORTEST_REMOTE_INTERVAL: Duration = Duration::from_millis(50);

/// The largest integer that JavaScript counts exactly: an index beyond it would not be what it says.
const MAX_INDEX: u64 = (1 << 53) - 1;

#[derive(Clone, Copy)]
enum Scene {
    Typewriter,
    Records,
    Words,
    Private,
    Clock,
    Progress,
}

impl Scene {
    fn at(path: &str) -> Option<Scene> {
        Some(match path {
            "/demo/typewriter" => Scene::Typewriter,
            "/demo/records" => Scene::Records,
            "/demo/words" => Scene::Words,
            "/demo/private" => Scene::Private,
            "/demo/clock" => Scene::Clock,
            "/demo/progress" => Scene::Progress,
            _ => return None,
        })
    }

    fn pace(self) -> Duration {
        match self {
            Scene::Typewriter => Duration::from_millis(100),
            Scene::Records => Duration::from_secs(3),
            Scene::Words | Scene::Private | Scene::Clock => Duration::from_secs(1),
            Scene::Progress => Duration::from_secs(2),
        }
    }
}

/// Answers a request for a path below `/demo/`.
pub fn answer(request: &Request) -> Response {
    let everybody = Access { origins: vec!["*".to_owned()], ..Access::default() };
    let response = everybody.preflight(request).unwrap_or_else(|| scene(request).unwrap_or_else(identity));
    response.field("Access-Control-Allow-Origin", "*")
}

/// `Err` is an answer as well: the one that ends the matter early.
fn scene(request: &Request) -> Result<Response, Response> {
    let scene = Scene::at(request.path()).ok_or_else(|| {
        Response::text(404, "no such scene: there are typewriter, records, words, private, clock and progress")
    })?;
    if request.method() != "GET" {
        return Err(Response::text(405, "a scene is read with GET").field("Allow", "GET, HEAD"));
    }
    if matches!(scene, Scene::Private) && !request.has_token(PRIVATE_TOKEN) {
        let line = format!(
            "this scene wants the token {PRIVATE_TOKEN}: as a bearer, a token header, cookie or query parameter"
        );
        return Err(Response::text(401, line).field("WWW-Authenticate", "Bearer"));
    }
    let period = period(request, scene)?;
    let after = request.last_event_id();
    Ok(match scene {
        Scene::Typewriter => match typewriter(after.as_deref()) {
            Some(events) => starting_at_once(period, events),
            None => Response::text(204, ""),
        },
        Scene::Records => match records(after.as_deref(), last_index(request)?, Random::new()) {
            Some(events) => starting_at_once(period, events),
            None => Response::text(204, ""),
        },
        Scene::Words | Scene::Private => Response::stream(move |stream| say_words(stream, period)),
        Scene::Clock => starting_at_once(period, clock(SystemTime::now)),
        Scene::Progress => starting_at_once(period, progress()),
    })
}

fn period(request: &Request, scene: Scene) -> Result<Duration, Response> {
    let Some(asked) = request.query("interval") else { return Ok(scene.pace()) };
    let is_near = request.peer().ip().to_canonical().is_loopback();
    let shortest = if is_near { SHORTEST_INTERVAL } else { SHORTEST_REMOTE_INTERVAL };
    // A bare number is milliseconds, as in JavaScript's setInterval.
    let asked = if asked.ends_with(|c: char| c.is_ascii_digit()) { asked + "ms" } else { asked };
    arguments::duration(&asked, shortest..=LONGEST_INTERVAL).ok_or_else(|| {
        Response::text(
            400,
            format!("interval wants {} ms to 60 s from here, such as 500ms or 2s", shortest.as_millis()),
        )
    })
}

fn last_index(request: &Request) -> Result<u64, Response> {
    match request.query("count") {
        None => Ok(MAX_INDEX),
        Some(count) => arguments::number(&count)
            .filter(|count| (1..=MAX_INDEX).contains(count))
            .ok_or_else(|| Response::text(400, "count wants a number from 1, such as 5")),
    }
}

/// The first event at once, the others one each period, then the end.
fn starting_at_once(period: Duration, events: impl IntoIterator<Item = Event, IntoIter: Send + 'static>) -> Response {
    let mut events = events.into_iter();
    Response::stream(move |stream| {
        if let Some(first) = events.next() {
            stream.send(&first)?;
        }
        // Where that was all, the stream need not wait a period to find out.
        if events.size_hint() == (0, Some(0)) { Ok(()) } else { stream.every(period, events) }
    })
}

fn typed(name: &'static str, data: impl Into<String>) -> Event {
    Event::data(data).with_type(EventType::new(name).expect("a word is an event type"))
}

fn id(text: impl ToString) -> EventId {
    EventId::new(text.to_string()).expect("digits and letters are an id")
}

/// How far a client of a numbered scene has got. A malformed id starts over; a number of any length is one.
fn index_of(last_event_id: Option<&str>) -> u64 {
    last_event_id.filter(|id| id.bytes().all(|b| b.is_ascii_digit())).map_or(0, |id| id.parse().unwrap_or(u64::MAX))
}

/// What follows the last event ID, or nothing if the client has seen the end.
fn typewriter(last_event_id: Option<&str>) -> Option<impl Iterator<Item = Event> + Send + use<>> {
    let count = ANSWER.chars().count();
    let seen = usize::try_from(index_of(last_event_id)).unwrap_or(usize::MAX);
    if seen > count {
        return None;
    }
    let mut characters = ANSWER.chars().skip(seen);
    // Led by the numbers, which know how many follow: so the end comes right after the last of them.
    let event = move |n| match characters.next() {
        Some(character) => Event::data(character).with_id(id(n)),
        None => typed("done", "[DONE]").with_id(id(n)),
    };
    Some((seen + 1..=count + 1).map(event))
}

/// Lists up to the one with the index `last`, then the farewell; nothing if the client has had that.
fn records(
    last_event_id: Option<&str>,
    last: u64,
    mut random: Random,
) -> Option<impl Iterator<Item = Event> + Send + use<>> {
    if last_event_id == Some("close") {
        return None;
    }
    // From an index that no client can have counted to, it starts over as from a malformed one.
    let seen = Some(index_of(last_event_id)).filter(|index| *index < MAX_INDEX).unwrap_or(0);
    let list = move |index| {
        Event::data(list(index, &iso8601(SystemTime::now()), &mut random))
            .with_id(id(index))
            .with_retry(Duration::from_secs(10))
    };
    let bye = typed("close", "bye").with_id(id("close"));
    Some((seen + 1..=last).map(list).chain(iter::once(bye)))
}

fn list(index: u64, date: &str, random: &mut Random) -> String {
    let rows: Vec<_> = (0..RECORDS_IN_A_LIST)
        .map(|_| format!("{{\"name\":{},\"value\":{}}}", json_string(&name(random)), random.below(1000)))
        .collect();
    format!("{{\"list\":[{}],\"info\":{},\"index\":{index}}}", rows.join(","), json_string(date))
}

/// Two or three family names put together: they read as a name.
fn name(random: &mut Random) -> String {
    let names: Vec<char> = FAMILY_NAMES.chars().collect();
    (0..2 + random.below(2)).map(|_| names[random.below(names.len())]).collect()
}

/// The words, and after the last at once the notice. An iterator gives one event a period, so the last word goes by
/// `send`, and the notice takes its turn.
fn words(mut send: impl FnMut(&Event) + Send) -> impl Iterator<Item = Event> + Send {
    WORDS.iter().enumerate().map(move |(index, word)| {
        let word = Event::data(*word);
        if index + 1 < WORDS.len() {
            return word;
        }
        send(&word);
        typed("newMessage", NOTICE)
    })
}

fn say_words(stream: Stream, period: Duration) -> Result<(), Closed> {
    let speaker = stream.clone();
    stream.clone().every(
        period,
        words(move |word| {
            let _ = speaker.send(word); // if the stream is over, its timer is about to find out
        }),
    )?;
    // A stream stays open as long as somebody holds it: here a timer that has something to say once an hour.
    stream.every(Duration::from_secs(3600), iter::repeat_with(|| Event::comment("nothing new")))
}

/// The time is that of the tick, because the stream asks for an event when it is due.
fn clock(now: impl Fn() -> SystemTime + Send) -> impl Iterator<Item = Event> + Send {
    iter::once(Event::data("Connected")).chain(iter::repeat_with(move || Event::data(iso8601(now()))))
}

fn progress() -> impl Iterator<Item = Event> + Send {
    let done = |tasks: u32| {
        let percentage = tasks * 100 / TASKS;
        let json = format!(
            "{{\"currentTask\":{tasks},\"progressPercentage\":{percentage},\"noOftasks\":{TASKS},\"completed\":false}}"
        );
        typed("progress", json)
    };
    (0..=TASKS).map(done).chain(iter::once(typed("progress", r#"{"completed":true,"progressPercentage":100}"#)))
}

/// Xorshift (Marsaglia 2003), good enough to mix names. std has no generator, but it seeds its hash maps from the
/// system's.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(RandomState::new().hash_one(0) | 1) // all zero bits would stay zero
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The high bits are the better ones. The remainder is less than `bound`, so it fits.
        ((self.0 >> 32) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::mpsc;

    fn typed_after(last_event_id: &str) -> Option<Vec<Event>> {
        typewriter(Some(last_event_id).filter(|id| !id.is_empty())).map(Iterator::collect)
    }

    #[test]
    fn typewriter_types_the_answer_and_is_done() {
        let count = ANSWER.chars().count();
        assert!((90..=130).contains(&count), "{count}");
        let events = typed_after("").expect("events");
        assert_eq!(events.len(), count + 1);
        assert_eq!(events[0], Event::data("服").with_id(id(1)));
        assert_eq!(events[count - 1], Event::data("。").with_id(id(count)));
        assert_eq!(events[count], typed("done", "[DONE]").with_id(id(count + 1)));
    }

    #[test]
    fn typewriter_resumes_after_the_last_event_id() {
        let all = typed_after("").expect("events");
        let n = all.len() - 1;
        for (last_event_id, seen) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("007", Some(7)),
            (&n.to_string(), Some(n)),
            (&(n + 1).to_string(), None),
            ("99999999999999999999999", None),
            ("-1", Some(0)),
            ("+5", Some(0)),
            ("5a", Some(0)),
            ("close", Some(0)),
            ("٣", Some(0)),
        ] {
            assert_eq!(typed_after(last_event_id), seen.map(|seen| all[seen..].to_vec()), "{last_event_id}");
        }
    }

    #[test]
    fn finite_scenes_know_when_they_are_at_their_end() {
        fn ends_knowingly(mut events: impl Iterator<Item = Event>, count: usize) {
            assert_eq!(events.by_ref().take(count).count(), count);
            assert_eq!(events.size_hint(), (0, Some(0)));
        }
        ends_knowingly(typewriter(None).expect("events"), ANSWER.chars().count() + 1);
        ends_knowingly(records(None, 3, Random(1)).expect("events"), 4);
        ends_knowingly(words(|_| ()), WORDS.len());
        ends_knowingly(progress(), 12);
    }

    #[test]
    fn records_go_on_after_the_last_event_id_up_to_the_last() {
        let max = MAX_INDEX.to_string();
        for (last_event_id, last, ids) in [
            (None, 2, Some(&["1", "2", "close"][..])),
            (Some("1"), 2, Some(&["2", "close"])),
            (Some("2"), 2, Some(&["close"])),
            (Some("9"), 2, Some(&["close"])),
            (Some("close"), 2, None),
            (Some("x"), 1, Some(&["1", "close"])),
            (Some(&max), 1, Some(&["1", "close"])),
            (Some("99999999999999999999"), 1, Some(&["1", "close"])),
        ] {
            let events = records(last_event_id, last, Random(1)).map(Vec::from_iter);
            // What differs but for the id is random, so the same event with another id is compared.
            let with_ids = |ids: &[&str]| -> Vec<Event> {
                let events = events.iter().flatten().cloned();
                events.zip(ids).map(|(event, text)| event.with_id(id(text))).collect()
            };
            assert_eq!(events, ids.map(with_ids), "{last_event_id:?}");
            assert_eq!(events.as_ref().map(Vec::len), ids.map(<[_]>::len));
            assert!(events.is_none_or(|events| events.last() == Some(&typed("close", "bye").with_id(id("close")))));
        }
    }

    #[test]
    fn a_list_is_ten_rows_of_names_and_values() {
        let json = list(7, "2026-11-21T08:00:00.000Z", &mut Random::new());
        let rows = json.strip_prefix("{\"list\":[").expect("the list first");
        let rows =
            rows.strip_suffix("],\"info\":\"2026-11-21T08:00:00.000Z\",\"index\":7}").expect("date and index last");
        let rows: Vec<_> = rows.split("},{").map(|row| row.trim_matches(['{', '}'])).collect();
        assert_eq!(rows.len(), RECORDS_IN_A_LIST);
        for row in rows {
            let row = row.strip_prefix("\"name\":\"").expect(row);
            let (name, value) = row.split_once("\",\"value\":").expect(row);
            assert!(
                (2..=3).contains(&name.chars().count()) && name.chars().all(|c| FAMILY_NAMES.contains(c)),
                "{name}"
            );
            assert!(value.parse::<u32>().is_ok_and(|value| value < 1000), "{value}");
        }
    }

    #[test]
    fn family_names_are_a_hundred_and_all_are_drawn() {
        let names: HashSet<char> = FAMILY_NAMES.chars().collect();
        assert_eq!((names.len(), FAMILY_NAMES.chars().count()), (100, 100));
        let mut random = Random::new();
        let drawn: HashSet<char> = (0..5000).flat_map(|_| name(&mut random).chars().collect::<Vec<_>>()).collect();
        assert_eq!(drawn, names);
    }

    #[test]
    fn words_end_with_a_notice_right_after_the_last() {
        let (sender, sent) = mpsc::channel();
        let returned: Vec<_> = words(move |word| sender.send(word.clone()).expect("a receiver")).collect();
        let (last, before) = WORDS.split_last().expect("words");
        let mut expected: Vec<_> = before.iter().map(|word| Event::data(*word)).collect();
        expected.push(typed("newMessage", NOTICE));
        assert_eq!(returned, expected);
        assert_eq!(Vec::from_iter(sent), [Event::data(*last)]);
    }

    #[test]
    fn the_clock_says_that_it_is_connected_and_then_the_time() {
        let events: Vec<_> = clock(|| SystemTime::UNIX_EPOCH).take(3).collect();
        let time = Event::data("1970-01-01T00:00:00.000Z");
        assert_eq!(events, [Event::data("Connected"), time.clone(), time]);
    }

    #[test]
    fn progress_goes_from_0_to_10_and_then_is_completed() {
        let events: Vec<_> = progress().collect();
        let at = |tasks, percentage| {
            typed(
                "progress",
                format!(
                    r#"{{"currentTask":{tasks},"progressPercentage":{percentage},"noOftasks":10,"completed":false}}"#
                ),
            )
        };
        assert_eq!(events.len(), 12);
        assert_eq!((&events[0], &events[3], &events[10]), (&at(0, 0), &at(3, 30), &at(10, 100)));
        assert_eq!(events[11], typed("progress", r#"{"completed":true,"progressPercentage":100}"#));
    }
}
