//! The page in real Chromium: what a person would see, click and type. Also the one client whose parser nobody here
//! wrote: texts come back through its EventSource as they were published.
//!
//! They are ignored where there is no browser; `make test-browser` runs them.

use crate::support::{PATIENCE, Tidings, eventually};
use crate::webdriver::Browser;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tidings::json_string;

/// Long enough for what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(1500);

/// The demo and a browser that shows its page, with this query.
fn demo(query: &str) -> (Tidings, Browser) {
    let server = Tidings::start(&["demo"]);
    let browser = Browser::start();
    browser.open(&server.url(&format!("/{query}")));
    (server, browser)
}

/// Starts the server again where another one was, which is gone by now.
fn start_at(address: &str, arguments: &[&str]) -> Tidings {
    Tidings::start(&[arguments, &["--listen", address]].concat())
}

/// What the tests look for in a panel of the page.
impl Browser {
    fn part(&self, panel: &str, part: &str) -> String {
        self.text(&format!("#{panel} [data-part={part}]"))
    }

    fn state(&self, panel: &str) -> String {
        self.run(&format!("return document.getElementById('{panel}').dataset.state"))
    }

    fn toggle(&self, panel: &str) {
        self.click(&format!("#{panel} [data-part=start]"));
    }

    fn wait_for_state(&self, panel: &str, state: &str) {
        let script = format!("return document.getElementById('{panel}').dataset.state === '{state}'");
        self.wait_for(&format!("{panel} is {state}"), &script);
    }

    /// Waits until a panel, or a part of it, holds a text.
    fn wait_for_text(&self, selector: &str, text: &str) {
        let (selector, wanted) = (json_string(selector), json_string(text));
        let script = format!("return document.querySelector({selector})?.textContent.includes({wanted})");
        self.wait_for(&format!("{text:?} in {selector}"), &script);
    }

    /// How many events a panel has shown.
    fn count(&self, panel: &str) -> usize {
        self.part(panel, "count").parse().expect("a number")
    }

    fn wait_for_count(&self, panel: &str, at_least: usize) {
        self.wait_for(
            &format!("{panel} has shown {at_least} events"),
            &format!("return +document.querySelector('#{panel} [data-part=count]').textContent >= {at_least}"),
        );
    }

    /// The raw events of a panel, the oldest first, without heartbeats.
    fn raw(&self, panel: &str) -> Vec<String> {
        // The page draws its lists once a frame.
        self.wait_for("the lists are drawn", "return panels.every((panel) => panel.raw.frame === 0)");
        let script = format!(
            "return [...document.querySelectorAll('#{panel} [data-part=raw] li')].map((item) => item.textContent)\
             .reverse().join('\\u241e')"
        );
        let text = self.run(&script);
        text.split('\u{241e}').filter(|event| !event.is_empty() && !event.starts_with(':')).map(str::to_owned).collect()
    }

    /// The ids among the raw events of a panel, as numbers.
    fn raw_ids(&self, panel: &str) -> Vec<u64> {
        let raw = self.raw(panel);
        let ids = raw.iter().flat_map(|event| event.lines()).filter_map(|line| line.strip_prefix("id: "));
        ids.filter_map(|id| id.parse().ok()).collect()
    }

    /// Waits until the typewriter is done, and sees that no character is missing and none came twice.
    fn expect_all_is_typed(&self) {
        self.wait_for_text("#typewriter [data-part=note]", "Done");
        let ids = self.raw_ids("typewriter");
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
        assert_eq!(self.count("typewriter") as u64, *ids.last().unwrap());
    }

    /// Publishes with the form, and waits for the receipt.
    fn publish(&self, event_type: &str, data: &str) {
        self.run("document.getElementById('receipt').textContent = ''");
        self.fill("#publish-type", event_type);
        self.fill("#publish-data", data);
        self.click("#publish-send");
        self.wait_for_text("#receipt", "Published as ");
    }

    /// The console is clean: no error of a script, nothing refused by the policy of the page.
    fn expect_no_complaint(&self) {
        assert_eq!(self.log(), "[]");
    }
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn typewriter_types_its_answer_and_does_not_start_again() {
    let (server, browser) = demo("?interval=10ms");
    assert_eq!(browser.state("typewriter"), "closed");
    browser.toggle("typewriter");
    browser.wait_for_text("#typewriter [data-part=note]", "Done");
    let mut messages = server.subscribe("/demo/typewriter?interval=1ms").rest();
    let done = messages.pop().expect("done at the end");
    let answer: String = messages.iter().map(|message| &message.data[..]).collect();

    std::thread::sleep(A_WHILE);
    assert_eq!(browser.text("#typewriter .text"), answer);
    assert_eq!(browser.state("typewriter"), "closed");
    assert_eq!(browser.part("typewriter", "last-id"), done.last_event_id);
    assert_eq!(browser.count("typewriter"), messages.len() + 1);
    assert_eq!(
        browser.raw("typewriter").last().unwrap(),
        &format!("event: done\nid: {}\ndata: [DONE]", done.last_event_id)
    );
    assert_eq!(browser.run("return getComputedStyle(document.querySelector('#typewriter .cursor')).display"), "none");
    assert_eq!(server.metric("tidings_streams"), 0.0);
    browser.expect_no_complaint();

    // By a click it does.
    browser.toggle("typewriter");
    browser.wait_for_text("#typewriter [data-part=note]", "Done");
    assert_eq!(browser.text("#typewriter .text"), answer);
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn typewriter_is_stopped_and_goes_on_where_it_was() {
    let (server, browser) = demo("?interval=60ms");
    browser.toggle("typewriter");
    browser.wait_for_state("typewriter", "open");
    assert_eq!(browser.part("typewriter", "start"), "Stop");
    browser.wait_for_count("typewriter", 10);
    browser.toggle("typewriter");
    assert_eq!(browser.state("typewriter"), "closed");
    eventually("the stream is gone", || server.metric("tidings_streams") == 0.0);
    let typed = browser.count("typewriter");
    assert_eq!(browser.part("typewriter", "start"), "Resume");
    assert_eq!(browser.part("typewriter", "last-id"), typed.to_string());

    browser.toggle("typewriter");
    browser.expect_all_is_typed();
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn records_are_a_table_and_go_on_after_a_restart_of_the_server() {
    let (mut server, browser) = demo("?interval=400ms");
    let address = server.address.to_string();
    browser.toggle("records");
    browser.wait_for_count("records", 3);
    assert_eq!(browser.run("return document.querySelectorAll('#records tbody tr').length"), "10");
    let row = browser.text("#records tbody tr:first-child");
    let digits = row.trim_start_matches(|c: char| !c.is_ascii_digit());
    assert!(digits.len() < row.len() && digits.parse::<u64>().is_ok(), "a name and a value: {row}");

    server.signal("KILL");
    server.wait();
    browser.wait_for_state("records", "reconnecting");
    let before = browser.count("records");
    let _server = start_at(&address, &["demo"]);
    browser.wait_for_count("records", before + 3);
    assert_eq!(browser.state("records"), "open");
    let ids = browser.raw_ids("records");
    assert!(ids.len() > before && ids[0] == 1 && ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
    browser.wait_for_text("#records caption", "No. ");
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn records_are_closed_when_the_server_says_so() {
    let (server, browser) = demo("?interval=10ms&count=3");
    browser.toggle("records");
    browser.wait_for_text("#records [data-part=note]", "said bye");
    std::thread::sleep(A_WHILE);
    assert_eq!(browser.state("records"), "closed");
    assert_eq!(browser.part("records", "last-id"), "close");
    assert_eq!(browser.count("records"), 4);
    assert_eq!(server.metric("tidings_streams"), 0.0);
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn words_are_a_list_and_a_notification() {
    let (_server, browser) = demo("?interval=10ms");
    browser.toggle("words");
    browser.wait_for_text("#words .notice", "你有一个未读消息");
    let words = "return [...document.querySelectorAll('#words .words li')].map((item) => item.textContent).join()";
    assert_eq!(browser.run(words), "你好,啊,ss,e,h,e,lp,me");
    assert_eq!(browser.raw("words").last().unwrap(), "event: newMessage\ndata: 你有一个未读消息");
    assert_eq!(browser.state("words"), "open");
    browser.toggle("words");
    assert_eq!(browser.state("words"), "closed");
    browser.expect_no_complaint();
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn private_opens_by_each_of_its_three_ways_and_to_no_other_token() {
    let (server, browser) = demo("?interval=10ms");
    for way in ["query", "cookie", "header"] {
        browser.click(&format!("#private [value={way}]"));
        browser.toggle("private");
        browser.wait_for_text("#private .notice", "你有一个未读消息");
        assert_eq!(browser.run("return document.querySelectorAll('#private .words li').length"), "8", "{way}");
        assert_eq!(browser.state("private"), "open", "{way}");
        browser.toggle("private");
        assert_eq!(browser.state("private"), "closed", "{way}");
        // Nothing that the one way left behind opens the next.
        let fetched = "return document.cookie";
        assert_eq!(browser.run(fetched), "", "{way}");
        eventually("the stream is gone", || server.metric("tidings_streams") == 0.0);
    }
    browser.expect_no_complaint();
    for way in ["query", "cookie", "header"] {
        browser.click(&format!("#private [value={way}]"));
        browser.fill("#private [name=token]", "2222");
        browser.toggle("private");
        browser.wait_for_text("#private [data-part=note]", "token");
        assert_eq!((browser.state("private"), browser.count("private")), ("closed".to_owned(), 0), "{way}");
    }
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn the_clock_shows_the_time_of_the_server() {
    let (_server, browser) = demo("?interval=50ms");
    browser.toggle("clock");
    browser.wait_for_text("#clock .word", "Connected");
    browser.wait_for_count("clock", 5);
    let shown = browser.run(
        "const time = document.querySelector('#clock time'); \
         const isNear = Math.abs(Date.now() - new Date(time.dateTime)) < 5000; \
         return isNear && time.dateTime.endsWith(`T${time.textContent}Z`) ? 'near' : time.outerHTML",
    );
    assert_eq!(shown, "near");
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn progress_fills_its_bar_and_closes_when_completed() {
    let (server, browser) = demo("?interval=40ms");
    // Each width of the bar is on the screen for a moment only, so the page itself takes them down.
    browser.run(
        "window.bars = []; new MutationObserver(() => bars.push(document.querySelector('#progress .bar').textContent)) \
         .observe(document.querySelector('#progress .bar'), { subtree: true, childList: true, characterData: true })",
    );
    browser.toggle("progress");
    browser.wait_for_text("#progress .bar", "Completed");
    let bars = browser.run("return bars.join('|')");
    for tasks in 0..=10 {
        assert!(bars.contains(&format!("Task {tasks} of 10{} %", tasks * 10)), "{tasks}: {bars}");
    }
    assert_eq!(browser.run("return document.querySelector('#progress progress').value"), "100");
    assert_eq!(browser.count("progress"), 12);
    std::thread::sleep(A_WHILE);
    assert_eq!((browser.state("progress"), browser.count("progress")), ("closed".to_owned(), 12));
    assert_eq!(server.metric("tidings_streams"), 0.0);
    browser.expect_no_complaint();
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn no_more_than_two_streams_run_at_once() {
    let (server, browser) = demo("?topic=news");
    browser.wait_for_state("topic", "open");
    browser.toggle("clock");
    browser.wait_for_state("clock", "open");
    assert_eq!(browser.state("topic"), "open");
    browser.toggle("words");
    browser.wait_for_state("words", "open");
    // The oldest made room.
    assert_eq!(browser.state("topic"), "closed");
    browser.wait_for_text("#topic [data-part=note]", "the page holds two");
    assert_eq!(browser.state("clock"), "open");
    eventually("two streams", || server.metric("tidings_streams") == 2.0);
    browser.toggle("records");
    browser.wait_for_state("records", "open");
    assert_eq!((browser.state("clock"), browser.state("words")), ("closed".to_owned(), "open".to_owned()));
    eventually("two streams", || server.metric("tidings_streams") == 2.0);
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn what_is_out_of_sight_pauses_and_goes_on_when_seen() {
    let (server, browser) = demo("?topic=news&interval=80ms");
    browser.resize(1280, 700);
    browser.toggle("typewriter");
    browser.wait_for_count("typewriter", 3);
    browser.run("scrollTo(0, document.body.scrollHeight)");
    browser.wait_for_state("typewriter", "closed");
    browser.wait_for_text("#typewriter [data-part=note]", "Paused");
    // The topic goes on while one reads below.
    assert_eq!(browser.state("topic"), "open");
    eventually("one stream", || server.metric("tidings_streams") == 1.0);
    browser.run("document.getElementById('typewriter').scrollIntoView()");
    browser.wait_for_text("#typewriter [data-part=note]", "Done");
    let ids = browser.raw_ids("typewriter");
    assert_eq!(browser.count("typewriter") as u64, *ids.last().unwrap(), "none twice, none missed");

    // A hidden tab gives its connections back, and misses nothing of its topic.
    browser.open_tab();
    eventually("no stream", || server.metric("tidings_streams") == 0.0);
    assert_eq!(server.post("/topics/news", "while away").0, 200);
    browser.close_tab();
    browser.wait_for_text("#topic .events", "while away");
    browser.wait_for_state("topic", "open");
    browser.expect_no_complaint();
}

/// Answers every request on this port with 500, which makes an EventSource give up for good, until told to stop.
fn refuse_all(address: &str, asked: &Arc<AtomicUsize>, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let listener = TcpListener::bind(address).expect("the port is free again");
    listener.set_nonblocking(true).unwrap();
    let (asked, stop) = (asked.clone(), stop.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut socket, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = socket.read(&mut [0; 8192]);
            let _ = socket.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            asked.fetch_add(1, Ordering::Relaxed);
        }
    })
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn an_event_source_that_the_browser_gave_up_is_opened_again() {
    let (mut server, browser) = demo("?interval=100ms");
    let address = server.address.to_string();
    browser.toggle("typewriter");
    browser.wait_for_count("typewriter", 5);
    server.signal("KILL");
    server.wait();
    let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let refuser = refuse_all(&address, &asked, &stop);
    // A second later, two, four: not the first time any more.
    browser.wait_for(
        "the page tries again after a growing delay",
        "return /answered 500. Trying again in [248] s/.test(document.querySelector('#typewriter .note').textContent)",
    );
    assert_eq!(browser.state("typewriter"), "reconnecting");
    stop.store(true, Ordering::Relaxed);
    refuser.join().unwrap();
    // Twice by EventSource, and each time the page asked for the reason.
    assert!(asked.load(Ordering::Relaxed) >= 4);

    let _server = start_at(&address, &["demo"]);
    browser.expect_all_is_typed();
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn a_topic_is_watched_published_to_and_counted() {
    let (server, browser) = demo("");
    browser.fill("#topic-names", "vmstat");
    browser.toggle("topic");
    browser.wait_for_state("topic", "open");
    browser.wait_for_text("#topic .opened", "Live from here");
    browser.wait_for(
        "the topic is listed",
        "return document.querySelector('[data-topic=vmstat]')?.dataset.subscribers === '1'",
    );

    browser.publish("", "one\ntwo");
    browser.wait_for_text("#topic .events", "one\ntwo");
    let receipt = browser.text("#receipt");
    let id = browser.part("topic", "last-id");
    assert_eq!(receipt, format!("Published as {id}, to 1 subscriber."));
    assert_eq!(browser.raw("topic").last().unwrap(), &format!("id: {id}\ndata: one\ndata: two"));

    // Any type is shown, also one that no EventSource could have listened for.
    browser.publish("job done", "nightly backup");
    browser.wait_for_text("#topic .events li:first-child .type", "job done");
    // Counts follow those who come and go elsewhere.
    let others = [server.subscribe("/topics/vmstat"), server.subscribe("/topics/vmstat,b")];
    browser.wait_for(
        "three subscribers",
        "return document.querySelector('[data-topic=vmstat]').dataset.subscribers === '3'",
    );
    drop(others);
    browser
        .wait_for("one subscriber", "return document.querySelector('[data-topic=vmstat]').dataset.subscribers === '1'");
    browser.expect_no_complaint();
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn what_an_event_carries_is_shown_as_text() {
    let (_server, browser) = demo("?topic=news");
    let markup = "<img src=x onerror=\"document.title='hit'\"><b>bold</b>\n<script>document.title='hit'</script>";
    browser.wait_for_state("topic", "open");
    browser.publish("<i>type</i>", markup);
    browser.wait_for_text("#topic .events pre", "<b>bold</b>");
    assert_eq!(browser.text("#topic .events pre"), markup);
    assert_eq!(browser.text("#topic .events .type"), "<i>type</i>");
    assert_eq!(browser.run("return document.querySelectorAll('#topic .events :is(img, b, i, script)').length"), "0");
    assert_eq!(browser.run("return document.title"), "news · tidings");
    browser.expect_no_complaint();
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn a_view_of_topics_is_shared_by_its_link() {
    let (server, browser) = demo("");
    assert_eq!(server.post("/topics/b%20%26%20c", "kept before").0, 200);
    browser.fill("#topic-names", "新闻, b & c");
    browser.press("#topic-names", "\u{e007}");
    browser.wait_for_state("topic", "open");
    browser.wait_for_text("#topic .events", "kept before");
    let link = browser.run("return document.getElementById('share-link').href");
    assert_eq!(link, browser.run("return location.href"));

    for address in [link, server.url("/topics/新闻,b%20%26%20c")] {
        browser.open("about:blank");
        browser.open(&address);
        browser.wait_for_state("topic", "open");
        assert_eq!(browser.run("return document.getElementById('topic-names').value"), "新闻, b & c", "{address}");
        browser.wait_for_text("#topic .events", "kept before");
        let text = format!("published after {address}");
        assert_eq!(server.post("/topics/%E6%96%B0%E9%97%BB", &text).0, 200);
        browser.wait_for_text("#topic .events", &text);
    }
    browser.expect_no_complaint();
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn a_topic_goes_on_after_a_restart_of_the_server_and_tells_the_gap() {
    let (mut server, browser) = demo("?topic=news");
    let address = server.address.to_string();
    browser.wait_for_state("topic", "open");
    browser.publish("", "before");
    browser.wait_for_text("#topic .events", "before");
    let asked = browser.part("topic", "last-id");

    server.signal("TERM");
    server.wait();
    browser.wait_for_state("topic", "reconnecting");
    let server = start_at(&address, &["demo"]);
    browser.wait_for_state("topic", "open");
    // Its history went with the old server, and that is told.
    browser.wait_for_text("#topic .gap", &asked);
    assert!(browser.raw("topic").iter().any(|event| event.starts_with("event: tidings:gap")));
    browser.publish("", "after");
    browser.wait_for_text("#topic .events", "after");

    // A gap that the history was too small to bridge, after a pause.
    let asked = browser.part("topic", "last-id");
    browser.toggle("topic");
    for n in 0..300 {
        assert_eq!(server.post("/topics/news", &format!("flood {n}")).0, 200);
    }
    browser.toggle("topic");
    browser.wait_for_text("#topic .events", "flood 299");
    browser
        .wait_for("the counts come", "return +document.querySelector('#topic [data-part=count]').textContent >= 256");
    assert_eq!(
        browser.run("return document.querySelectorAll('#topic .events li').length"),
        "50",
        "the list is bounded"
    );
    let gap = server.subscribe(&format!("/topics/news?lastEventId={asked}")).expect_next();
    assert_eq!(gap.event, "tidings:gap");
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn a_server_that_asks_for_tokens_gets_them_from_their_boxes() {
    let mut command = Tidings::command(&["serve"]);
    command.env("TIDINGS_SUBSCRIBE_TOKEN", "look").env("TIDINGS_PUBLISH_TOKEN", "say");
    let server = Tidings::start_command(command);
    let browser = Browser::start();
    browser.open(&server.url("/?topic=news"));
    browser.wait_for_text("#topic [data-part=note]", "token");
    assert_eq!(browser.state("topic"), "closed");
    browser.fill("#subscribe-token", "look");
    browser.toggle("topic");
    browser.wait_for_state("topic", "open");
    browser.fill("#publish-data", "hello");
    browser.click("#publish-send");
    browser.wait_for_text("#receipt", "401");
    browser.fill("#publish-token", "say");
    browser.publish("", "hello");
    browser.wait_for_text("#topic .events", "hello");
    assert!(!browser.run("return location.href + document.getElementById('share-link').href").contains("look"));

    // One given in the address goes into the box and out of the link.
    browser.run("sessionStorage.clear()");
    browser.open(&server.url("/topics/news?token=look"));
    browser.wait_for_state("topic", "open");
    assert_eq!(browser.run("return location.search"), "?topic=news");
    // `serve` has no scenes.
    assert_eq!(browser.run("return document.querySelectorAll('.panel').length"), "1");
    assert_eq!(browser.run("return document.getElementById('scenes').checkVisibility()"), "false");
}

/// What sticks out to the right, if the page can be scrolled there.
const OVERFLOW: &str = "
    const seen = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= seen) return '';
    const sticksOut = (one) => one.getBoundingClientRect().right > seen;
    return [...document.querySelectorAll('main *')].filter(sticksOut).map((one) => one.outerHTML.slice(0, 80)).join();
";

/// The elements whose words are hard to read: less than 4.5 to 1 against their ground (WCAG 2.2, 1.4.3).
const FAINT_WORDS: &str = "
    const linear = (part) => (part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
    const luminance = (colour) => {
        const [r, g, b] = colour.match(/[0-9.]+/g).map((part) => linear(part / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ground = (one) => {
        const colour = getComputedStyle(one).backgroundColor;
        return colour === 'rgba(0, 0, 0, 0)' ? ground(one.parentElement) : colour;
    };
    const contrast = (one) => {
        const two = [getComputedStyle(one).color, ground(one)].map(luminance);
        return (Math.max(...two) + .05) / (Math.min(...two) + .05);
    };
    const hasWords = (one) => [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    return [...document.querySelectorAll('body *')]
        .filter((one) => one.checkVisibility() && hasWords(one) && contrast(one) < 4.5)
        .map((one) => contrast(one).toFixed(2) + ' ' + one.outerHTML.slice(0, 90)).join();
";

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn the_page_fits_a_phone_by_day_and_by_night() {
    let (_server, browser) = demo("?topic=news&interval=10ms");
    browser.wait_for_state("topic", "open");
    browser.publish("a-type-without-a-place-to-break-".repeat(4).as_str(), &"wide".repeat(100));
    browser.wait_for_text("#topic .events", "wide");
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
    for (panel, events) in [("typewriter", 80), ("records", 3), ("words", 9), ("progress", 12)] {
        browser.toggle(panel);
        browser.wait_for_count(panel, events);
    }
    for width in [320, 360, 768, 1280] {
        browser.resize(width, 800);
        let overflow = browser.run(OVERFLOW);
        assert_eq!(overflow, "", "at {width}");
    }
    let background = "return getComputedStyle(document.body).backgroundColor";
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer_color_scheme(scheme);
        assert_eq!(browser.run(FAINT_WORDS), "", "{scheme}");
        grounds.push(browser.run(background));
    }
    assert_ne!(grounds[0], grounds[1]);
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn everything_on_the_page_has_a_name_and_is_reached_by_keyboard() {
    let (_server, browser) = demo("");
    let nameless = "return [...document.querySelectorAll('button, input, textarea, progress, [tabindex]')] \
         .filter((one) => one.checkVisibility() && !(one.ariaLabel || one.labels?.length || one.textContent.trim())) \
         .map((one) => one.outerHTML).join()";
    assert_eq!(browser.run(nameless), "");
    // From the name of a topic by Enter to a stream, and from the data by Ctrl+Enter to an event.
    browser.fill("#topic-names", "keys");
    browser.press("#topic-names", "\u{e007}");
    browser.wait_for_state("topic", "open");
    browser.fill("#publish-data", "typed");
    browser.press("#publish-data", "\u{e009}\u{e007}");
    browser.wait_for_text("#topic .events", "typed");
    // Space on a button that has the focus.
    browser.run("document.querySelector('#clock [data-part=start]').focus()");
    browser.press("#clock [data-part=start]", " ");
    browser.wait_for_state("clock", "open");
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn the_parser_of_the_page_reads_a_stream_cut_anywhere() {
    let (_server, browser) = demo("");
    // In bytes through the page's own reader, cut in two at every place, and one byte at a time.
    let script = r#"
        const text = '\uFEFF: hello\r\ndata: a\rdata:b\ndata\n\nid: 7\r\nevent: x\r\ndata:  é中😀\r\n\r\n\r\r\n'
            + 'id: 8\0\ndata: :\n\nretry: 12\nretry: 1x\nid\ndata: c\n\nevent: gone\n\ndata: \uFEFFd\n\ndata: never';
        const bytes = new TextEncoder().encode(text);
        const read = (cuts) => {
            const seen = [];
            const note = (what) => seen.push(what);
            const parser = new StreamParser({ event: note, comment: note, retry: note });
            const decoder = new TextDecoder('utf-8');
            let from = 0;
            for (const to of [...cuts, bytes.length]) {
                parser.feed(decoder.decode(bytes.slice(from, to), { stream: true }));
                from = to;
            }
            return JSON.stringify(seen);
        };
        const whole = read([]);
        for (let cut = 0; cut <= bytes.length; cut += 1) {
            if (read([cut]) !== whole) return `cut at ${cut}: ${read([cut])}`;
        }
        const singly = read([...bytes.keys()]);
        return singly === whole ? whole : `singly: ${singly}`;
    "#;
    let expected = concat!(
        r#"[" hello",{"type":"message","data":"a\nb\n","id":""},{"type":"x","data":" é中😀","id":"7"},"#,
        r#"{"type":"message","data":":","id":"7"},12,{"type":"message","data":"c","id":""},"#,
        "{\"type\":\"message\",\"data\":\"\u{feff}d\",\"id\":\"\"}]"
    );
    assert_eq!(browser.run(script), expected);
}

/// Texts put together from what is known to break encoders. The same every time.
fn generated_texts(count: usize) -> Vec<String> {
    const PIECES: &[&str] = &[
        "",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        " ",
        "  ",
        ":",
        ": ",
        "\t",
        "\0",
        "\u{feff}",
        "\u{b}",
        "\u{85}",
        "\u{2028}",
        "\u{7f}",
        "data: x",
        "data",
        "id: 5",
        "event: close",
        "retry: 1",
        "a",
        "é",
        "中文",
        "😀",
        "\u{10ffff}",
        "\"",
        "\\",
        "</script>",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % bound
    };
    (0..count).map(|_| (0..below(9)).map(|_| PIECES[below(PIECES.len())]).collect()).collect()
}

/// What 9.2.6 makes of the lines of a text.
fn with_plain_line_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Reads all that is kept twice: by an EventSource into `again`, by the reader of the page into `read`.
const READ_AGAIN: &str = "\
    source.close();
    window.again = [];
    window.read = [];
    const address = '/topics/texts?lastEventId=earliest';
    window.source = new EventSource(address);
    source.onmessage = (event) => again.push(event.data);
    const nothing = () => {};
    const event = ({ type, data }) => { if (type === 'message') read.push(data); };
    const on = { event, opened: nothing, comment: nothing, retry: nothing, ended: nothing, failed: nothing };
    byFetch(address, {}, on);";

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn texts_come_back_equal_through_an_event_source() {
    let server = Tidings::start(&[
        "serve",
        "--max-body",
        "1MiB",
        "--queue-bytes",
        "8MiB",
        "--history",
        "4000",
        "--history-bytes",
        "16MiB",
    ]);
    let browser = Browser::start();
    browser.open(&server.url("/"));
    browser.run(
        "window.got = [];
         window.source = new EventSource('/topics/texts');
         source.onmessage = (event) => got.push(event.data);
         source.addEventListener('tidings:open', () => { window.isOpen = true; });",
    );
    browser.wait_for("it is open", "return window.isOpen === true");

    let mut texts =
        ["", "\n", "\r", "\r\n", "\n\n\n", "\0", "\u{feff}", " ", ":", "\u{1f600}"].map(str::to_owned).to_vec();
    texts.push("0123456789abcde\n".repeat(4096));
    texts.push(format!("{}😀", "中".repeat(21_844)));
    texts.extend(generated_texts(300));
    let mut expected = Vec::new();
    for text in &texts {
        // One line end is taken off a body, so one more is put on.
        assert_eq!(server.post("/topics/texts", &format!("{text}\r\n")).0, 200);
        expected.push(with_plain_line_ends(text));
    }
    for (n, texts) in texts.chunks(25).enumerate() {
        let line_end = ["\n", "\r", "\r\n"][n % 3];
        let block = |text: &String| {
            let text = with_plain_line_ends(text);
            text.split('\n').map(|line| format!("data: {line}{line_end}")).collect::<String>() + line_end
        };
        let batch: String = texts.iter().map(block).collect();
        assert_eq!(server.post_with("/topics/texts", "Content-Type: text/event-stream\r\n", &batch).0, 200);
        expected.extend(texts.iter().map(|text| with_plain_line_ends(text)));
    }

    browser.wait_for("all have come", &format!("return got.length >= {}", expected.len()));
    let got = |n: usize| browser.run(&format!("return got[{n}]"));
    for (n, text) in expected.iter().enumerate() {
        assert!(got(n) == *text, "{n}: {text:?} came as {:?}", got(n));
    }
    // The replay gives the same again, to an EventSource and to the reader of the page.
    browser.run(READ_AGAIN);
    let all = |name: &str| format!("return {name}.length === got.length && {name}.every((text, n) => text === got[n])");
    browser.wait_for("the replay is equal", &all("again"));
    browser.wait_for("the page reads the same", &all("read"));
    assert_eq!(browser.run("return got.length"), expected.len().to_string());
}

#[test]
#[ignore = "needs Chromium and chromedriver: make test-browser"]
fn a_picture_of_the_page_fits_the_readme() {
    let (_server, browser) = demo("?interval=50ms");
    browser.resize(880, 600);
    browser.run("document.getElementById('typewriter').scrollIntoView()");
    browser.toggle("typewriter");
    browser.wait_for_count("typewriter", 70);
    browser.toggle("records");
    browser.wait_for_count("records", 8);
    browser.toggle("records");
    browser.run("document.getElementById('typewriter').scrollIntoView(); document.activeElement.blur()");
    let picture = browser.screenshot();
    if let Some(path) = std::env::var_os("TIDINGS_SCREENSHOT") {
        std::fs::write(path, &picture).expect("the picture is written");
    }
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert!(picture.len() < 100 * 1024, "{} bytes", picture.len());
}
