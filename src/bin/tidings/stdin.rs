//! Standard input as a source of events: `vmstat 1 | tidings serve --stdin vmstat` publishes each line to one topic.
//!
//! The other end is any program, so nothing about its lines is taken for granted: a line may be endless, is perhaps not
//! UTF-8, and the last one may lack its line end. Memory stays bounded by the longest line that is published; what is
//! wrong with a line is told and never the end of the server.

use std::io::{self, BufRead, ErrorKind};
use std::thread;
use tidings::{Event, Hub, Log, Topic};

/// Publishes each line to `topic` on a thread of its own, until the input ends. Lines of more than `max_bytes` are cut.
///
/// # Errors
///
/// If the system gives no thread.
pub fn start(hub: Hub, topic: Topic, max_bytes: usize, log: Log) -> io::Result<()> {
    let publish = move || {
        let outcome = each_line(&mut io::stdin().lock(), max_bytes, |line| {
            if line.is_cut {
                let bytes = line.bytes;
                log.line(format_args!(
                    "standard input: a line of {bytes} bytes was cut; --max-body is {max_bytes} bytes"
                ));
            }
            if let Err(refused) = hub.publish(&topic, &Event::data(line.text)) {
                log.line(format_args!("standard input: a line was not published: {refused}"));
            }
        });
        match outcome {
            Ok(()) => log.line("standard input has ended; the server goes on"),
            Err(error) => log.line(format_args!("standard input cannot be read any more: {error}; the server goes on")),
        }
    };
    thread::Builder::new().name("stdin".to_owned()).spawn(publish).map(drop)
}

#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// Without its line end, at most as long as was asked for.
    text: String,
    /// How long the whole line was, in bytes, without its line end.
    bytes: usize,
    is_cut: bool,
}

fn each_line(input: &mut dyn BufRead, max_bytes: usize, mut take: impl FnMut(Line)) -> io::Result<()> {
    while let Some(line) = read_line(input, max_bytes)? {
        take(line);
    }
    Ok(())
}

/// The next line, `None` at the end of the input. LF and CRLF end a line. What is beyond `max_bytes` is read and
/// dropped; the cut is between two characters.
fn read_line(input: &mut dyn BufRead, max_bytes: usize) -> io::Result<Option<Line>> {
    // Four bytes more than asked for: a character that begins before `max_bytes` is whole in what is kept, and so is
    // the line end of a line that fits.
    let most_kept = max_bytes.saturating_add(4);
    let mut kept = Vec::new();
    let mut bytes: usize = 0;
    let mut ends_in_cr = false;
    let has_end = loop {
        let read = match input.fill_buf() {
            Ok([]) => break false,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = read.iter().position(|b| *b == b'\n');
        let part = &read[..end.unwrap_or(read.len())];
        kept.extend_from_slice(&part[..part.len().min(most_kept - kept.len())]);
        bytes = bytes.saturating_add(part.len());
        ends_in_cr = part.last().map_or(ends_in_cr, |last| *last == b'\r');
        let consumed = part.len() + usize::from(end.is_some());
        input.consume(consumed);
        if end.is_some() {
            break true;
        }
    };
    if !has_end && bytes == 0 {
        return Ok(None);
    }
    if has_end && ends_in_cr {
        bytes -= 1;
        kept.truncate(bytes);
    }
    let whole = String::from_utf8_lossy(&kept); // longer than `kept` where a byte was replaced
    let text = cut(&whole, max_bytes);
    Ok(Some(Line { text: text.to_owned(), bytes, is_cut: text.len() < whole.len() }))
}

/// At most `max_bytes` of the text, and only whole characters.
fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read};

    fn lines(input: &mut dyn BufRead, max_bytes: usize) -> Vec<(String, usize, bool)> {
        let mut lines = Vec::new();
        each_line(input, max_bytes, |line| lines.push((line.text, line.bytes, line.is_cut)))
            .expect("bytes can be read");
        lines
    }

    #[test]
    fn lines_come_whole_cut_and_repaired() {
        for (input, expected) in [
            (&b""[..], &[][..]),
            (b"\n", &[("", 0, false)]),
            (b"a\nb\n", &[("a", 1, false), ("b", 1, false)]),
            (b"a\n\nb", &[("a", 1, false), ("", 0, false), ("b", 1, false)]),
            (b"a\r\nb\r\r\nc\r", &[("a", 1, false), ("b\r", 2, false), ("c\r", 2, false)]),
            (b"12345678\n", &[("12345678", 8, false)]),
            (b"12345678\r\n", &[("12345678", 8, false)]),
            (b"123456789\nnext\n", &[("12345678", 9, true), ("next", 4, false)]),
            (b"123456789012345678901234567890\r\nnext", &[("12345678", 30, true), ("next", 4, false)]),
            ("1234567é\n".as_bytes(), &[("1234567", 9, true)]),
            ("12345🎉\n".as_bytes(), &[("12345", 9, true)]),
            ("1234🎉\n".as_bytes(), &[("1234🎉", 8, false)]),
            ("你好啊".as_bytes(), &[("你好", 9, true)]),
            (b"a\xffb\n", &[("a\u{fffd}b", 3, false)]),
            (b"a\xe4\xbd\n", &[("a\u{fffd}", 3, false)]),
            (b"\xff\xff\xff\xff\n", &[("\u{fffd}\u{fffd}", 4, true)]),
            (b"\0\x1b[0m\n", &[("\0\x1b[0m", 5, false)]),
        ] {
            let expected: Vec<_> =
                expected.iter().map(|(text, bytes, is_cut)| ((*text).to_owned(), *bytes, *is_cut)).collect();
            assert_eq!(lines(&mut &input[..], 8), expected, "{input:?}");
            // The same in the smallest pieces: characters and line ends come in parts.
            assert_eq!(lines(&mut BufReader::with_capacity(1, input), 8), expected, "{input:?} byte by byte");
        }
    }

    #[test]
    fn an_endless_line_takes_no_more_memory_than_a_long_one() {
        let mut input = BufReader::new(io::repeat(b'x').take(8 << 20).chain(&b"\nnext"[..]));
        assert_eq!(lines(&mut input, 4), [("xxxx".to_owned(), 8 << 20, true), ("next".to_owned(), 4, false)]);
    }

    #[test]
    fn an_interrupted_read_goes_on_and_an_error_is_told() {
        struct Flaky(Vec<io::Result<&'static [u8]>>);
        impl Read for Flaky {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let mut bytes = self.0.remove(0)?;
                bytes.read(buf)
            }
        }
        let error = |kind| Err(io::Error::from(kind));
        let mut input =
            BufReader::new(Flaky(vec![Ok(b"a"), error(ErrorKind::Interrupted), Ok(b"b\n"), error(ErrorKind::Other)]));
        assert_eq!(read_line(&mut input, 8).expect("the first line").map(|line| line.text), Some("ab".to_owned()));
        assert!(read_line(&mut input, 8).is_err());
    }
}
