//! The command line: words in, [`Options`] out. Pure: no file is read here, no name resolved, no environment looked at,
//! so that every rule can be tested by a table.
//!
//! An option that wants a value says in one phrase what it wants, bounds and example included. That phrase is the
//! error, whether the value is missing, malformed or out of bounds, so no error can forget to say what to write
//! instead.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use tidings::{Config, History, Topic};

/// What `--help` prints: 80 columns and 23 lines, which leaves one of a small terminal's 24 for the prompt.
pub const HELP: &str = "\
tidings: a server of live event streams (Server-Sent Events)
usage: tidings [demo|serve] [options]    demo, the default: serve, plus scenes

  --listen ADDR:PORT         where to listen; port 0 picks one [127.0.0.1:3000]
  --stdin TOPIC              publish each line of standard input to TOPIC
  --heartbeat D              an idle stream gets a comment this often [15s]
  --retry D                  reconnection time told to clients [3s]
  --history N                events kept per topic [256]
  --history-bytes B          bytes kept per topic [1MiB]
  --history-total B          bytes kept over all topics [16MiB]
  --queue-bytes B            how far one client may fall behind [256KiB]
  --max-connections N        connections at once [1024]
  --max-per-address N        connections of one address, loopback exempt [off]
  --max-topics N             topics at once [1024]
  --max-body B               longest body, and longest line of --stdin [64KiB]
  --allow-origin O           let pages of origin O in, * to read (repeatable)
  --allow-host H             also answer to the name H, * for any (repeatable)
  --publish-token-file F     publishing needs the token in F [open to all]
  --subscribe-token-file F   reading needs the token in F [open to all]
  --open                     beyond loopback, let anybody publish
  --quiet   no log           --help              --version
D: 500ms, 15s, 2m. B: 64KiB, 1MiB, or bytes. Tokens may also stand in the
variables TIDINGS_PUBLISH_TOKEN and TIDINGS_SUBSCRIBE_TOKEN.
";

/// What the command line asks for.
pub enum Command {
    Run(Box<Options>),
    Help,
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The hub, and the scenes.
    Demo,
    /// The hub alone.
    Serve,
}

pub struct Options {
    pub mode: Mode,
    /// `ADDR:PORT`, where the address may be a name.
    pub listen: String,
    pub stdin: Option<Topic>,
    /// All but `max_connections` and `log`, which depend on the machine and on `quiet`.
    pub config: Config,
    pub history: History,
    /// `None` is the default: what [`Config`] says, or as many as the machine holds if those are fewer.
    pub max_connections: Option<usize>,
    pub publish_token_file: Option<PathBuf>,
    pub subscribe_token_file: Option<PathBuf>,
    pub open: bool,
    pub quiet: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mode: Mode::Demo,
            listen: "127.0.0.1:3000".to_owned(),
            stdin: None,
            config: Config::default(),
            history: History::default(),
            max_connections: None,
            publish_token_file: None,
            subscribe_token_file: None,
            open: false,
            quiet: false,
        }
    }
}

/// Reads the words after the program's name.
///
/// # Errors
///
/// One line, without a line end, that says what to write instead.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut options = Options::default();
    let mut mode = None;
    let mut words = words.into_iter().map(OsString::into_string).peekable();
    while let Some(word) = words.next() {
        let word = word.map_err(not_utf8)?;
        match word.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--version" | "-V" => return Ok(Command::Version),
            "--open" => options.open = true,
            "--quiet" => options.quiet = true,
            "demo" | "serve" if mode.is_some() => return Err("write demo or serve once".to_owned()),
            "demo" => mode = Some(Mode::Demo),
            "serve" => mode = Some(Mode::Serve),
            option if option.starts_with('-') => {
                let (valued, attached) = find(option)?;
                let value = match attached {
                    Some(value) => Some(value.to_owned()),
                    // No value begins with two dashes: that is the next option, and the value was forgotten.
                    None => words
                        .next_if(|next| !next.as_ref().is_ok_and(|n| n.starts_with("--")))
                        .transpose()
                        .map_err(not_utf8)?,
                };
                valued.apply(&mut options, value.as_deref())?;
            }
            _ => return Err(format!("{word:?} is no command: write demo or serve (tidings --help lists the options)")),
        }
    }
    options.mode = mode.unwrap_or(options.mode);
    // An event may take half a queue, so that a client with an empty one is never cut by a single event.
    options.history.publish_bytes = options.config.queue_bytes / 2;
    Ok(Command::Run(Box::new(options)))
}

fn not_utf8(word: OsString) -> String {
    format!("{word:?} is not UTF-8: write it in UTF-8")
}

/// The option that `word` names, and the value if it is attached by `=`.
fn find(word: &str) -> Result<(&'static Valued, Option<&str>), String> {
    let (name, attached) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    if ["--open", "--quiet", "--help", "--version"].contains(&name) {
        return Err(format!("{name} takes no value: write {name} alone"));
    }
    match VALUED.iter().find(|valued| valued.name == name) {
        Some(valued) => Ok((valued, attached)),
        None => Err(format!("there is no option {name:?}: write one of those that tidings --help lists")),
    }
}

/// An option that takes a value.
struct Valued {
    name: &'static str,
    /// What the value must be, to stand after `wants`.
    wants: &'static str,
    /// `None` if the value is not that.
    set: fn(&mut Options, &str) -> Option<()>,
}

impl Valued {
    fn apply(&self, options: &mut Options, value: Option<&str>) -> Result<(), String> {
        let Some(value) = value else {
            return Err(format!("{} wants {}; no value was given", self.name, self.wants));
        };
        // Debug form: a line end in the value would make two lines of the error.
        (self.set)(options, value).ok_or_else(|| format!("{} wants {}; not {value:?}", self.name, self.wants))
    }
}

/// Oftener than this a heartbeat is load and no sign of life; seldomer than hourly no proxy waits for it.
const HEARTBEAT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// Sooner, and a server that starts is met by all clients at once; later, and people reload the page.
const RETRY: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// A count that a box can hold in memory; more is a slip of the keyboard.
const COUNT: RangeInclusive<usize> = 1..=1_000_000;
/// From none kept to what one box can hold.
const HISTORY: RangeInclusive<usize> = 0..=1_000_000;
/// A gibibyte is within the address space of 32 bits, too.
const HISTORY_BYTES: RangeInclusive<usize> = 0..=1 << 30;
/// Below, a head and a few events do not fit; above, a handful of slow clients fill a small box.
const QUEUE_BYTES: RangeInclusive<usize> = 4 * 1024..=64 << 20;
/// From the longest character, because a line of standard input is cut between two, to what fits half the longest
/// queue.
const BODY: RangeInclusive<usize> = 4..=32 << 20;

/// All options that take a value, in the order of the help. Of repeated ones the last wins, but for the two lists.
const VALUED: &[Valued] = &[
    Valued {
        name: "--listen",
        wants: "an address and a port, such as 127.0.0.1:3000, [::1]:3000 or 0.0.0.0:80",
        set: |options, value| put(&mut options.listen, address(value)),
    },
    Valued {
        name: "--stdin",
        wants: "one topic of 1 to 128 bytes without slash, comma or control character, such as vmstat",
        set: |options, value| put(&mut options.stdin, Topic::new(value).ok().map(Some)),
    },
    Valued {
        name: "--heartbeat",
        wants: "a duration from 100ms to 1h, such as 15s",
        set: |options, value| put(&mut options.config.heartbeat, duration(value, HEARTBEAT)),
    },
    Valued {
        name: "--retry",
        wants: "a duration from 100ms to 1h, such as 3s",
        set: |options, value| put(&mut options.config.retry, duration(value, RETRY)),
    },
    Valued {
        name: "--history",
        wants: "a number from 0 to 1000000, such as 256",
        set: |options, value| put(&mut options.history.events, count(value, HISTORY)),
    },
    Valued {
        name: "--history-bytes",
        wants: "a size from 0 to 1GiB, such as 1MiB",
        set: |options, value| put(&mut options.history.bytes, size(value, HISTORY_BYTES)),
    },
    Valued {
        name: "--history-total",
        wants: "a size from 0 to 1GiB, such as 16MiB",
        set: |options, value| put(&mut options.history.total_bytes, size(value, HISTORY_BYTES)),
    },
    Valued {
        name: "--queue-bytes",
        wants: "a size from 4KiB to 64MiB, such as 256KiB",
        set: |options, value| put(&mut options.config.queue_bytes, size(value, QUEUE_BYTES)),
    },
    Valued {
        name: "--max-connections",
        wants: "a number from 1 to 1000000, such as 1024",
        set: |options, value| put(&mut options.max_connections, count(value, COUNT).map(Some)),
    },
    Valued {
        name: "--max-per-address",
        wants: "a number from 1 to 1000000, such as 32",
        set: |options, value| put(&mut options.config.max_per_address, count(value, COUNT).map(Some)),
    },
    Valued {
        name: "--max-topics",
        wants: "a number from 1 to 1000000, such as 1024",
        set: |options, value| put(&mut options.history.topics, count(value, COUNT)),
    },
    Valued {
        name: "--max-body",
        wants: "a size from 4 to 32MiB, such as 64KiB",
        set: |options, value| put(&mut options.config.max_body, size(value, BODY)),
    },
    Valued {
        name: "--allow-origin",
        wants: "an origin without a path, such as https://example.org, or * for all",
        set: |options, value| add(&mut options.config.access.origins, origin(value)),
    },
    Valued {
        name: "--allow-host",
        wants: "a host name without scheme and port, such as box.example.org, or * for all",
        set: |options, value| add(&mut options.config.access.hosts, host(value)),
    },
    Valued {
        name: "--publish-token-file",
        wants: "a file whose first line is the token",
        set: |options, value| put(&mut options.publish_token_file, path(value).map(Some)),
    },
    Valued {
        name: "--subscribe-token-file",
        wants: "a file whose first line is the token",
        set: |options, value| put(&mut options.subscribe_token_file, path(value).map(Some)),
    },
];

fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

fn add<T>(list: &mut Vec<T>, value: Option<T>) -> Option<()> {
    list.push(value?);
    Some(())
}

/// A duration such as `500ms`, `15s`, `2m` or `1h`, within bounds. A number without a unit is none.
pub fn duration(text: &str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
    let millis = scaled(text, &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)])?;
    Some(Duration::from_millis(millis)).filter(|duration| bounds.contains(duration))
}

/// A size such as `64KiB`, `1MiB` or `65536`, within bounds, in bytes.
fn size(text: &str, bounds: RangeInclusive<usize>) -> Option<usize> {
    let bytes = scaled(text, &[("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)])?;
    usize::try_from(bytes).ok().filter(|bytes| bounds.contains(bytes))
}

/// A plain number within bounds.
fn count(text: &str, bounds: RangeInclusive<usize>) -> Option<usize> {
    number(text).and_then(|number| usize::try_from(number).ok()).filter(|number| bounds.contains(number))
}

/// Digits alone: the sign that `parse` would take means nothing here.
pub fn number(digits: &str) -> Option<u64> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number(digits)?.checked_mul(*factor)
}

/// Only the form is looked at: whether a name resolves is found out when the server binds.
fn address(text: &str) -> Option<String> {
    let (address, port) = text.rsplit_once(':')?;
    let bare_ipv6 = address.contains(':') && !(address.starts_with('[') && address.ends_with(']'));
    let sound = !address.is_empty() && !bare_ipv6 && number(port).is_some_and(|port| port <= u64::from(u16::MAX));
    sound.then(|| text.to_owned())
}

fn origin(text: &str) -> Option<String> {
    let bare = text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty()
            && !host.is_empty()
            && !host.contains(|c: char| c == '/' || c == '@' || !c.is_ascii_graphic())
    });
    (bare || text == "*").then(|| text.to_ascii_lowercase())
}

fn host(text: &str) -> Option<String> {
    let is_ipv6 = text.starts_with('[') && text.ends_with(']');
    let bare = !text.is_empty() && !text.contains(|c: char| matches!(c, '/' | '@' | ',') || !c.is_ascii_graphic());
    (bare && (is_ipv6 || !text.contains(':'))).then(|| text.to_ascii_lowercase())
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match command(line) {
            Ok(Command::Run(options)) => *options,
            Ok(_) => panic!("{line}: not a run"),
            Err(error) => panic!("{line}: {error}"),
        }
    }

    fn error(line: &str) -> String {
        command(line).err().unwrap_or_else(|| panic!("{line}: accepted"))
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let options = options("");
        assert_eq!(options.mode, Mode::Demo);
        assert_eq!(options.listen, "127.0.0.1:3000");
        assert_eq!((options.config.heartbeat, options.config.retry), (Duration::from_secs(15), Duration::from_secs(3)));
        assert_eq!(
            (options.history.events, options.history.bytes, options.history.total_bytes),
            (256, 1 << 20, 16 << 20)
        );
        assert_eq!((options.history.topics, options.history.publish_bytes), (1024, 128 << 10));
        assert_eq!((options.config.queue_bytes, options.config.max_body), (256 << 10, 64 << 10));
        assert_eq!((options.config.max_connections, options.config.max_per_address), (1024, None));
        assert!(options.max_connections.is_none() && options.stdin.is_none() && !options.open && !options.quiet);
        assert!(options.config.access.hosts.is_empty() && options.config.access.origins.is_empty());
    }

    #[test]
    fn every_option_reaches_its_place() {
        let options = options(
            "serve --listen [::1]:0 --stdin vmstat --heartbeat 500ms --retry=2m --history 9 --history-bytes 64KiB \
             --history-total=2MiB --queue-bytes 1MiB --max-connections 77 --max-per-address 3 --max-topics 5 \
             --max-body 1000 --allow-origin https://A.example --allow-origin=* --allow-host Box.example \
             --publish-token-file p --subscribe-token-file=s --open --quiet",
        );
        assert_eq!((options.mode, options.listen.as_str()), (Mode::Serve, "[::1]:0"));
        assert_eq!(options.stdin.as_ref().map(Topic::as_str), Some("vmstat"));
        assert_eq!(
            (options.config.heartbeat, options.config.retry),
            (Duration::from_millis(500), Duration::from_secs(120))
        );
        assert_eq!(
            (options.history.events, options.history.bytes, options.history.total_bytes),
            (9, 64 << 10, 2 << 20)
        );
        assert_eq!((options.config.queue_bytes, options.history.publish_bytes), (1 << 20, 512 << 10));
        assert_eq!((options.max_connections, options.config.max_per_address), (Some(77), Some(3)));
        assert_eq!((options.history.topics, options.config.max_body), (5, 1000));
        assert_eq!(options.config.access.origins, ["https://a.example", "*"]);
        assert_eq!(options.config.access.hosts, ["box.example"]);
        assert_eq!(options.publish_token_file, Some(PathBuf::from("p")));
        assert_eq!(options.subscribe_token_file, Some(PathBuf::from("s")));
        assert!(options.open && options.quiet);
    }

    #[test]
    fn of_repeated_options_the_last_wins() {
        let options = options("--history 1 --history=2 --listen a:1 --listen b:2");
        assert_eq!((options.history.events, options.listen.as_str()), (2, "b:2"));
    }

    #[test]
    fn help_and_version_are_commands() {
        assert!(matches!(command("serve --help"), Ok(Command::Help)));
        assert!(matches!(command("-h"), Ok(Command::Help)));
        assert!(matches!(command("--version"), Ok(Command::Version)));
    }

    #[test]
    fn help_fits_a_small_terminal_and_lists_every_option() {
        assert!(HELP.lines().count() < 24);
        assert!(HELP.lines().all(|line| line.len() <= 80));
        for valued in VALUED {
            assert!(HELP.contains(&format!("  {} ", valued.name)), "{}", valued.name);
        }
    }

    #[test]
    fn wrong_words_are_told_in_one_line_that_says_what_to_write() {
        for (line, told) in [
            ("watch", "\"watch\" is no command: write demo or serve"),
            ("serve demo", "write demo or serve once"),
            ("--verbose", "there is no option \"--verbose\""),
            ("--history=", "--history wants a number from 0 to 1000000, such as 256; not \"\""),
            ("--history", "--history wants a number from 0 to 1000000, such as 256; no value was given"),
            ("--stdin --quiet", "--stdin wants one topic"),
            ("--quiet=yes", "--quiet takes no value"),
            ("-q", "there is no option \"-q\""),
        ] {
            let error = error(line);
            assert!(error.starts_with(told), "{line}: {error}");
            assert!(!error.contains('\n'));
        }
        let error = parse(["--stdin".into(), "two\nlines".into()]).err().expect("a control character");
        assert!(error.ends_with(r#"not "two\nlines""#), "{error}");
    }

    #[test]
    fn values_have_bounds() {
        for (line, is_taken) in [
            ("--heartbeat 99ms", false),
            ("--heartbeat 100ms", true),
            ("--heartbeat 1h", true),
            ("--heartbeat 61m", false),
            ("--retry 0ms", false),
            ("--history 0", true),
            ("--history 1000001", false),
            ("--history-bytes 1GiB", true),
            ("--history-bytes 1073741825", false),
            ("--queue-bytes 4095", false),
            ("--queue-bytes 64MiB", true),
            ("--max-connections 0", false),
            ("--max-connections 1", true),
            ("--max-topics 0", false),
            ("--max-per-address 0", false),
            ("--max-body 3", false),
            ("--max-body 32MiB", true),
            ("--max-body 33MiB", false),
            ("--listen 3000", false),
            ("--listen :3000", false),
            ("--listen ::1:3000", false),
            ("--listen localhost:3000", true),
            ("--listen 127.0.0.1:65536", false),
            ("--listen 127.0.0.1:", false),
            ("--stdin a/b", false),
            ("--stdin a,b", false),
            ("--allow-origin *", true),
            ("--allow-origin https://a.example:8443", true),
            ("--allow-origin https://a.example/", false),
            ("--allow-origin null", false),
            ("--allow-origin a.example", false),
            ("--allow-host a.example:80", false),
            ("--allow-host [::1]", true),
            ("--allow-host http://a", false),
            ("--allow-host *", true),
        ] {
            assert_eq!(command(line).is_ok(), is_taken, "{line}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        let any = || Duration::ZERO..=Duration::MAX;
        for (text, millis) in [
            ("500ms", Some(500)),
            ("15s", Some(15_000)),
            ("2m", Some(120_000)),
            ("24h", Some(86_400_000)),
            ("0s", Some(0)),
            ("15", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5s", None),
            ("1 s", None),
            ("1S", None),
            ("1ss", None),
            ("١s", None),
            ("18446744073709551615h", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(duration(text, any()), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in [
            ("65536", Some(65536)),
            ("64KiB", Some(65536)),
            ("1MiB", Some(1 << 20)),
            ("0", Some(0)),
            ("", None),
            ("KiB", None),
            ("64KB", None),
            ("64kib", None),
            ("1.5MiB", None),
            ("+5", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(size(text, 0..=usize::MAX), bytes, "{text}");
        }
    }
}
