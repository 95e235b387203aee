//! A client for W3C WebDriver, as much of it as the browser tests need: Chromium, headless, driven through
//! chromedriver. JSON is built and picked apart by hand, which is little work because every answer is one object with
//! one member, `value`, and the scripts here return texts.
//!
//! <https://www.w3.org/TR/webdriver2/>

use crate::support::eventually;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidings::json_string;

/// A browser keeps both cores of a small machine busy while it starts; two of them make each other late.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The most that one command may take. A script waits for nothing, so this is for a busy machine only.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The most that the page may take for what a test waits for. A client waits up to 10 s before it reconnects, because
/// records says so.
const PAGE_LIMIT: Duration = Duration::from_secs(45);

/// What Chromium needs to run as root without a display, and to leave the network alone.
const ARGUMENTS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--disable-lcd-text", // grey edges of letters instead of coloured ones: smaller pictures
];

/// The key under which WebDriver gives a reference to an element (section 12.1 of the standard).
const ELEMENT_KEY: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window. It is closed on drop.
pub struct Browser {
    driver: Child,
    http: ureq::Agent,
    /// The address of the session, once there is one.
    session: String,
    profile: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts one whose window is so tall that every panel of the page is in sight at once.
    pub fn start() -> Browser {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (Debian: chromium chromium-driver)");
        let mut lines = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.split_once("started successfully on port ")?.1;
            Some(rest.trim_end_matches('.').to_owned())
        });
        // The rest is read and dropped, so that chromedriver never waits for this pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let port = port.expect("chromedriver tells its port");
        let profile = std::env::temp_dir().join(format!("tidings-browser-{}-{port}", std::process::id()));
        let http = ureq::Agent::config_builder()
            .timeout_global(Some(COMMAND_LIMIT))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let mut browser =
            Browser { driver, http, session: format!("http://127.0.0.1:{port}/session"), profile, _turn: turn };
        browser.open_session();
        browser.resize(1280, 6000);
        browser
    }

    fn open_session(&mut self) {
        let profile = format!("--user-data-dir={}", self.profile.display());
        let arguments: Vec<_> = ARGUMENTS.iter().copied().chain([&profile[..]]).map(json_string).collect();
        let answer = self.post(
            "",
            &format!(
                "{{\"capabilities\":{{\"alwaysMatch\":{{\"browserName\":\"chrome\",\
                 \"goog:loggingPrefs\":{{\"browser\":\"ALL\"}},\
                 \"goog:chromeOptions\":{{\"args\":[{}]}}}}}}}}",
                arguments.join(",")
            ),
        );
        let id = answer.split_once("\"sessionId\":").expect("a session").1;
        self.session = format!("{}/{}", self.session, string_at(id));
    }

    /// Loads a page.
    pub fn open(&self, url: &str) {
        self.post("/url", &format!("{{\"url\":{}}}", json_string(url)));
    }

    /// Runs a script in the page: a function body, which returns a text, a number or a truth value.
    pub fn run(&self, script: &str) -> String {
        let value = self.post("/execute/sync", &format!("{{\"script\":{},\"args\":[]}}", json_string(script)));
        if value.starts_with('"') { string_at(&value) } else { value }
    }

    /// The text of the first element that a CSS selector names.
    pub fn text(&self, selector: &str) -> String {
        self.run(&format!("return document.querySelector({}).textContent", json_string(selector)))
    }

    /// Clicks as a person does: the element has to be visible, and is scrolled to.
    pub fn click(&self, selector: &str) {
        self.post(&format!("/element/{}/click", self.element(selector)), "{}");
    }

    /// Types into an element what stands there afterwards.
    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("/element/{element}/clear"), "{}");
        self.type_into(&element, text);
    }

    /// Presses keys with an element in focus. Special keys have code points of their own: Enter is U+E007.
    pub fn press(&self, selector: &str, keys: &str) {
        self.type_into(&self.element(selector), keys);
    }

    fn type_into(&self, element: &str, text: &str) {
        self.post(&format!("/element/{element}/value"), &format!("{{\"text\":{}}}", json_string(text)));
    }

    fn element(&self, selector: &str) -> String {
        let query = format!("{{\"using\":\"css selector\",\"value\":{}}}", json_string(selector));
        let value = self.post("/element", &query);
        string_at(value.split_once(&format!("\"{ELEMENT_KEY}\":")).expect("an element").1)
    }

    /// Waits until a script returns true, or fails with `what` and the state of the page's panels.
    pub fn wait_for(&self, what: &str, script: &str) {
        let until = Instant::now() + PAGE_LIMIT;
        while self.run(script) != "true" {
            if Instant::now() > until {
                let panels = self.run(
                    "const say = ({ id, dataset, innerText }) => `${id} ${dataset.state} ${innerText.slice(0, 300)}`;
                     return [...document.querySelectorAll('.panel')].map(say).join('\\n')",
                );
                panic!("did not come about: {what}\n{script}\n{panels}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the page wrote to the console since this was last asked, errors of the browser included.
    pub fn log(&self) -> String {
        self.post("/se/log", "{\"type\":\"browser\"}")
    }

    /// Sets the size that the page sees.
    pub fn resize(&self, width: u32, height: u32) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &format!("{{\"width\":{width},\"height\":{height},\"deviceScaleFactor\":1,\"mobile\":{}}}", width < 500),
        );
    }

    /// `dark` or `light`, as a person's system would ask for it.
    pub fn prefer_color_scheme(&self, scheme: &str) {
        self.devtools(
            "Emulation.setEmulatedMedia",
            &format!("{{\"features\":[{{\"name\":\"prefers-color-scheme\",\"value\":\"{scheme}\"}}]}}"),
        );
    }

    /// A command of Chromium's own protocol, for what WebDriver has no words for.
    pub fn devtools(&self, command: &str, parameters: &str) -> String {
        self.post("/goog/cdp/execute", &format!("{{\"cmd\":\"{command}\",\"params\":{parameters}}}"))
    }

    /// Opens a tab beside this one and turns to it; the first one is then hidden.
    pub fn open_tab(&self) {
        let first = string_at(&self.get("/window"));
        let value = self.post("/window/new", "{\"type\":\"tab\"}");
        let second = string_at(value.split_once("\"handle\":").expect("a handle").1);
        assert_ne!(first, second);
        self.turn_to(&second);
        // Turning the commands to a tab does not bring it to the front.
        self.devtools("Page.bringToFront", "{}");
    }

    /// Closes this tab and turns back to the first one.
    pub fn close_tab(&self) {
        self.http.delete(format!("{}/window", self.session)).call().expect("chromedriver answers");
        let mut handles = String::new();
        eventually("one window is left", || {
            handles = self.get("/window/handles");
            !handles.contains(',')
        });
        self.turn_to(&string_at(handles.trim_start_matches('[')));
        self.devtools("Page.bringToFront", "{}");
    }

    fn turn_to(&self, handle: &str) {
        self.post("/window", &format!("{{\"handle\":{}}}", json_string(handle)));
    }

    /// What the window shows, as a PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        from_base64(&string_at(&self.get("/screenshot")))
    }

    fn get(&self, path: &str) -> String {
        let answer = self.http.get(format!("{}{path}", self.session)).call();
        value_of(path, answer.expect("chromedriver answers"))
    }

    fn post(&self, path: &str, json: &str) -> String {
        let answer = self.http.post(format!("{}{path}", self.session)).content_type("application/json").send(json);
        value_of(&format!("{path} {json}"), answer.expect("chromedriver answers"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked for politely, chromedriver ends Chromium, too.
        let _ = self.http.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// The JSON text of the member `value`, which every answer has.
fn value_of(request: &str, mut answer: ureq::http::Response<ureq::Body>) -> String {
    let body = answer.body_mut().with_config().limit(64 << 20).read_to_string().expect("an answer is text");
    assert!(answer.status().is_success(), "{request}: {body}");
    let value = body.trim().strip_prefix("{\"value\":").and_then(|rest| rest.strip_suffix('}'));
    value.unwrap_or_else(|| panic!("not an answer: {body}")).to_owned()
}

/// The JSON string at the start of `json` (RFC 8259, section 7); what follows it is left alone.
fn string_at(json: &str) -> String {
    let mut units = Vec::new(); // UTF-16, because that is what \u gives, surrogates one by one
    let mut chars = json.strip_prefix('"').unwrap_or_else(|| panic!("not a string: {json}")).chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '"' => return String::from_utf16(&units).expect("surrogates come in pairs"),
            '\\' => match chars.next().expect("an escape goes on") {
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).expect("four hexadecimal digits"));
                    continue;
                }
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            },
            c => c,
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    panic!("a string without an end: {json}");
}

/// RFC 4648, section 4.
fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.bytes().take_while(|digit| *digit != b'=') {
        let value = ALPHABET.iter().position(|known| *known == digit).expect("a base64 digit");
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

#[test]
fn strings_and_base64_are_read_as_the_standards_say() {
    assert_eq!(string_at(r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00你", and more"#), "a\"\\/\u{8}\u{c}\n\r\té😀你");
    let texts = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
    for (text, encoded) in texts {
        assert_eq!(from_base64(encoded), text.as_bytes());
    }
}
