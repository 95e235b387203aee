//! Strict readers for what the server writes besides event streams: JSON (RFC 8259), dates (ISO 8601 as `toISOString`
//! writes it, and RFC 9110, section 5.6.7), and Prometheus' text format, version 0.0.4. Each is written from its standard
//! and refuses what the standard does not allow, so that a test which uses one need not look at commas.

use std::collections::{BTreeMap, HashSet};

/// A JSON value. Objects keep the order in which their members came.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one value, with nothing but space around it.
    pub fn parse(text: &str) -> Json {
        let mut reader = JsonReader { rest: text };
        let value = reader.value();
        reader.space();
        assert_eq!(reader.rest, "", "after the JSON of {text}");
        value
    }

    /// The value of a member, which must be there.
    pub fn member(&self, name: &str) -> &Json {
        let Json::Object(members) = self else { panic!("{self:?} is no object") };
        let found = members.iter().find(|(member, _)| member == name);
        &found.unwrap_or_else(|| panic!("no {name} in {self:?}")).1
    }

    /// The names of the members.
    pub fn names(&self) -> Vec<&str> {
        let Json::Object(members) = self else { panic!("{self:?} is no object") };
        members.iter().map(|(name, _)| &name[..]).collect()
    }

    pub fn list(&self) -> &[Json] {
        let Json::List(values) = self else { panic!("{self:?} is no list") };
        values
    }

    pub fn text(&self) -> &str {
        let Json::Text(text) = self else { panic!("{self:?} is no text") };
        text
    }

    /// A number without a fraction.
    pub fn integer(&self) -> i64 {
        match self {
            Json::Number(number) if number.fract() == 0.0 => *number as i64,
            other => panic!("{other:?} is no integer"),
        }
    }
}

struct JsonReader<'a> {
    rest: &'a str,
}

impl JsonReader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Takes this, if it is next.
    fn takes(&mut self, mark: &str) -> bool {
        self.space();
        let rest = self.rest.strip_prefix(mark);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn wants(&mut self, mark: &str) {
        assert!(self.takes(mark), "no {mark} before {:?}", self.rest);
    }

    fn value(&mut self) -> Json {
        for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
            if self.takes(word) {
                return value;
            }
        }
        match self.rest.chars().next() {
            Some('{') => self.object(),
            Some('[') => self.list(),
            Some('"') => Json::Text(self.text()),
            _ => self.number(),
        }
    }

    fn object(&mut self) -> Json {
        self.wants("{");
        let mut members: Vec<(String, Json)> = Vec::new();
        if self.takes("}") {
            return Json::Object(members);
        }
        loop {
            self.space();
            let name = self.text();
            assert!(members.iter().all(|(other, _)| *other != name), "{name} twice");
            self.wants(":");
            members.push((name, self.value()));
            if !self.takes(",") {
                self.wants("}");
                return Json::Object(members);
            }
        }
    }

    fn list(&mut self) -> Json {
        self.wants("[");
        let mut values = Vec::new();
        if self.takes("]") {
            return Json::List(values);
        }
        loop {
            values.push(self.value());
            if !self.takes(",") {
                self.wants("]");
                return Json::List(values);
            }
        }
    }

    fn text(&mut self) -> String {
        self.wants("\"");
        let mut text = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next().expect("the text ends") {
                '"' => break,
                '\\' => text.push(match chars.next().expect("an escape is whole") {
                    c @ ('"' | '\\' | '/') => c,
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let digits: String = chars.by_ref().take(4).collect();
                        let code = u32::from_str_radix(&digits, 16).expect("four hexadecimal digits");
                        char::from_u32(code).expect("the server escapes no surrogates")
                    }
                    other => panic!("\\{other} is no escape"),
                }),
                c => {
                    assert!(c >= ' ', "a control character must be escaped: {:?}", self.rest);
                    text.push(c);
                }
            }
        }
        self.rest = chars.as_str();
        text
    }

    fn number(&mut self) -> Json {
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        let whole = digits.strip_prefix('-').unwrap_or(digits);
        assert!(!whole.starts_with('0') || !whole[1..].starts_with(|c: char| c.is_ascii_digit()), "leading zero");
        assert!(whole.starts_with(|c: char| c.is_ascii_digit()), "no value at {:?}", self.rest);
        self.rest = rest;
        Json::Number(digits.parse().unwrap_or_else(|_| panic!("{digits:?} is no number")))
    }
}

/// Milliseconds since 1970 of a date such as `2026-11-21T08:00:00.000Z`, in exactly that form.
pub fn unix_ms_of_iso8601(date: &str) -> u64 {
    let form: String = date.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z", "{date}");
    let number = |from: usize, length: usize| date[from..from + length].parse::<u64>().unwrap();
    let seconds =
        unix_seconds([number(0, 4), number(5, 2), number(8, 2)], [number(11, 2), number(14, 2), number(17, 2)]);
    seconds * 1000 + number(20, 3)
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`, in exactly that form; the day of the week must
/// be right as well.
pub fn unix_seconds_of_http_date(date: &str) -> u64 {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]; // 1970 began on a Thursday
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let form: String = date.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert!(form.len() == 29 && &form[3..8] == ", 00 " && &form[11..] == " 0000 00:00:00 GMT", "{date}");
    let number = |from: usize, length: usize| date[from..from + length].parse::<u64>().unwrap();
    let month = 1 + MONTHS.iter().position(|month| *month == &date[8..11]).expect(date) as u64;
    let seconds = unix_seconds([number(12, 4), month, number(5, 2)], [number(17, 2), number(20, 2), number(23, 2)]);
    assert_eq!(&date[..3], DAYS[(seconds / 86_400 % 7) as usize], "{date}");
    seconds
}

/// Counts the days one year and one month at a time: slow, and plainly right.
fn unix_seconds([year, month, day]: [u64; 3], [hour, minute, second]: [u64; 3]) -> u64 {
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = |year, month| match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    assert!((1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day));
    assert!(hour < 24 && minute < 60 && second < 60);
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
    (((years + months + day - 1) * 24 + hour) * 60 + minute) * 60 + second
}

/// One kind of figure, with its samples.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    /// Each sample's name and labels, as they stand, and its value.
    pub samples: BTreeMap<String, f64>,
}

/// Reads an exposition, and holds it to the format and to what `promtool check metrics` wants beyond it: HELP and TYPE
/// once and before the samples, families in one piece, no sample twice, names that fit their kind.
pub fn parse_exposition(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect(line);
            assert!(is_metric_name(name) && !help.trim().is_empty(), "{line}");
            current = name.to_owned();
            let is_new = families.insert(current.clone(), Family::default()).is_none();
            assert!(is_new, "a family in two pieces: {line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            let family = families.get_mut(name).expect("HELP comes first");
            assert!(name == current && family.kind.is_empty() && family.samples.is_empty(), "{line}");
            assert!(["counter", "gauge", "summary"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "a counter's name tells: {line}");
            family.kind = kind.to_owned();
        } else {
            let family = families.get_mut(&current).expect("a sample belongs to a family");
            let (series, value) = line.rsplit_once(' ').expect(line);
            let (name, labels) = parse_series(series);
            assert!(is_of(name, &labels, &current, &family.kind), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(family.kind == "gauge" || value >= 0.0, "{line}");
            assert!(family.samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "{name} has no sample");
    }
    families
}

/// Whether a sample may stand in this family.
fn is_of(name: &str, labels: &[(&str, &str)], family: &str, kind: &str) -> bool {
    let has_quantile = labels.iter().any(|(label, _)| *label == "quantile");
    match kind {
        "summary" => match name.strip_prefix(family) {
            Some("") => labels.iter().any(|(label, value)| {
                *label == "quantile" && value.parse::<f64>().is_ok_and(|quantile| (0.0..=1.0).contains(&quantile))
            }),
            Some("_sum" | "_count") => !has_quantile,
            _ => false,
        },
        "" => false,
        _ => name == family && !has_quantile,
    }
}

fn is_metric_name(name: &str) -> bool {
    let is_sound = |(at, c): (usize, char)| c.is_ascii_alphabetic() || "_:".contains(c) || at > 0 && c.is_ascii_digit();
    !name.is_empty() && name.char_indices().all(is_sound)
}

/// `name` or `name{label="value",…}`.
fn parse_series(series: &str) -> (&str, Vec<(&str, &str)>) {
    let Some((name, labels)) = series.split_once('{') else {
        assert!(is_metric_name(series), "{series}");
        return (series, Vec::new());
    };
    let labels = labels.strip_suffix('}').expect(series).split(',').map(|label| {
        let (label, value) = label.split_once('=').expect(series);
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect(series);
        assert!(is_metric_name(label) && !label.contains(':') && !value.contains(['"', '\\']), "{series}");
        (label, value)
    });
    let labels: Vec<_> = labels.collect();
    let distinct: HashSet<_> = labels.iter().map(|(label, _)| label).collect();
    assert!(is_metric_name(name) && distinct.len() == labels.len(), "{series}");
    (name, labels)
}

#[test]
fn the_readers_read_what_their_standards_show() {
    let json = Json::parse(r#" {"a":[1,-2.5e1,"q\"\u00e9\n"],"b":{},"c":null,"d":true} "#);
    assert_eq!(json.member("a").list()[1], Json::Number(-25.0));
    assert_eq!(json.member("a").list()[2].text(), "q\"é\n");
    assert_eq!(json.names(), ["a", "b", "c", "d"]);
    assert_eq!(unix_seconds_of_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), 784_111_777);
    assert_eq!(unix_ms_of_iso8601("2026-11-21T08:00:00.123Z"), 1_795_248_000_123);
    let text = "# HELP a_total All.\n# TYPE a_total counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\n";
    assert_eq!(parse_exposition(text)["a_total"].samples["a_total{x=\"2\"}"], 3.0);
}

#[test]
fn the_readers_refuse_what_their_standards_do_not_allow() {
    let refuses = |what: &str, read: fn(&str)| {
        // The message is that of a panic which is wanted: nobody needs to see it.
        let outcome = std::panic::catch_unwind(|| read(what));
        assert!(outcome.is_err(), "{what:?} was read");
    };
    for text in
        ["", "{", "[1,]", "{\"a\":1,}", "{a:1}", "'a'", "01", "+1", "\"\n\"", "\"\\x\"", "1 2", "{\"a\":1,\"a\":2}"]
    {
        refuses(text, |text| _ = Json::parse(text));
    }
    for text in
        ["2026-11-21 08:00:00.000Z", "2026-11-21T08:00:00Z", "2026-02-29T08:00:00.000Z", "2026-11-21T24:00:00.000Z"]
    {
        refuses(text, |text| _ = unix_ms_of_iso8601(text));
    }
    for text in ["Mon, 06 Nov 1994 08:49:37 GMT", "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 UTC"] {
        refuses(text, |text| _ = unix_seconds_of_http_date(text));
    }
    for text in [
        "# HELP a A.\n# TYPE a gauge\na 1",
        "# TYPE a gauge\na 1\n",
        "# HELP a A.\na 1\n",
        "# HELP a A.\n# TYPE a gauge\n",
        "# HELP a A.\n# TYPE a gauge\nb 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a A.\n# TYPE a gauge\na one\n",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a A.\n# TYPE a summary\na 1\n",
        "# HELP a A.\n# TYPE a gauge\na{x=1} 1\n",
    ] {
        refuses(text, |text| _ = parse_exposition(text));
    }
}
