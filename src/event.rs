//! Events, and the bytes they are on the wire: the event stream of WHATWG HTML, section 9.2.
//!
//! This room encodes (and decodes batches); it does no I/O and reads no clock. A value that would break the stream, such
//! as an id with a line end in it, cannot be built. The result of encoding is a [`Frame`], made once and shared by
//! everybody who gets the event.

use crate::error::{Error, Result};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What one dispatch at the client is made of: data, and optionally an event type, an id and a reconnection time.
///
/// ```
/// # fn main() -> tidings::Result<()> {
/// use tidings::{Event, EventId, EventType};
/// let event = Event::data("two\nlines").with_type(EventType::new("note")?).with_id(EventId::new("7")?);
/// # let _ = event; Ok(())
/// # }
/// ```
///
/// On the wire:
///
/// ```text
/// event: note
/// id: 7
/// data: two
/// data: lines
///
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    comment: Option<String>,
    event_type: Option<EventType>,
    id: Option<EventId>,
    /// Milliseconds, as digits.
    retry: Option<String>,
    data: Option<String>,
}

impl Event {
    /// An event with this data. CR, LF and CRLF each end a line, and each line gets its own `data: ` field; the client
    /// puts them together again with LF.
    pub fn data(text: impl Into<String>) -> Event {
        Event { data: Some(text.into()), ..Event::EMPTY }
    }

    /// A comment, which clients ignore: `: text`. It is split by line as data is.
    pub fn comment(text: impl Into<String>) -> Event {
        Event { comment: Some(text.into()), ..Event::EMPTY }
    }

    pub(crate) fn retry(time: Duration) -> Event {
        Event::EMPTY.with_retry(time)
    }

    const EMPTY: Event = Event { comment: None, event_type: None, id: None, retry: None, data: None };

    /// Sets the event type: the name that `addEventListener` listens for. Without one it is `message`.
    pub fn with_type(mut self, event_type: EventType) -> Event {
        self.event_type = Some(event_type);
        self
    }

    /// Sets the id, which becomes the client's last event ID and comes back as `Last-Event-ID` when it reconnects.
    pub fn with_id(mut self, id: EventId) -> Event {
        self.id = Some(id);
        self
    }

    /// Sets the client's reconnection time, in whole milliseconds.
    pub fn with_retry(mut self, time: Duration) -> Event {
        self.retry = Some(time.as_millis().to_string());
        self
    }

    /// The events of an event stream, parsed as section 9.2.6 says, with two differences that suit a batch to publish: a
    /// last block counts even without its blank line, and `id`, `retry` and comments are ignored.
    ///
    /// ```
    /// # fn main() -> tidings::Result<()> {
    /// let events = tidings::Event::parse("event: note\ndata: one\n\ndata: two")?;
    /// assert_eq!(events.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If an event type is one that [`EventType::new`] refuses. One bad block refuses all.
    pub fn parse(stream: &str) -> Result<Vec<Event>> {
        let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        let mut events = Vec::new();
        let mut block = Block::default();
        for line in lines(stream) {
            if line.is_empty() {
                events.extend(std::mem::take(&mut block).dispatch()?);
            } else {
                block.take_line(line);
            }
        }
        events.extend(block.dispatch()?);
        Ok(events)
    }

    /// Whether clients are told of it: without data there is nothing to dispatch.
    fn dispatches(&self) -> bool {
        self.data.is_some()
    }

    pub(crate) fn has_reserved_type(&self) -> bool {
        self.event_type.as_ref().is_some_and(|t| t.0.starts_with(RESERVED))
    }

    /// Its fields, in the order of the wire. `id`, where given, takes the place of the event's own.
    fn fields<'a>(&'a self, id: Option<&'a str>) -> [(&'static str, Option<&'a str>); 5] {
        [
            ("", self.comment.as_deref()),
            ("event", self.event_type.as_ref().map(|t| t.0.as_str()).filter(|name| !name.is_empty())),
            ("id", id.or(self.id.as_ref().map(EventId::as_str))),
            ("retry", self.retry.as_deref()),
            ("data", self.data.as_deref()),
        ]
    }

    /// How many bytes [`Event::encode`] appends at the least: so many if no text has several lines.
    pub(crate) fn least_length(&self, id: Option<&str>) -> usize {
        let lines =
            self.fields(id).into_iter().filter_map(|(name, text)| Some(name.len() + ": \n".len() + text?.len()));
        lines.sum::<usize>() + "\n".len()
    }

    /// Appends the block, its blank line included.
    fn encode(&self, id: Option<&str>, out: &mut Vec<u8>) {
        for (name, text) in self.fields(id) {
            text.into_iter().flat_map(lines).for_each(|line| field(out, name, line));
        }
        out.push(b'\n');
    }
}

/// Event types that start so are the server's own announcements; a hub refuses to publish them.
const RESERVED: &str = "tidings:";

/// One field line. The space after the colon is always there: a parser drops exactly one, so that a value which itself
/// begins with a space comes through.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Splits at CRLF, LF and CR. A text that ends with a line end has an empty last line, as `split` would give.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.bytes().position(|b| b == b'\n' || b == b'\r') else {
            return rest.take();
        };
        let width = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + width..]);
        Some(&text[..end])
    })
}

/// The buffers of section 9.2.6 between two blank lines.
#[derive(Default)]
struct Block<'a> {
    event_type: &'a str,
    data: Option<String>,
}

impl<'a> Block<'a> {
    fn take_line(&mut self, line: &'a str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => self.event_type = value,
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {} // id, retry, a comment (no name), or a field that the standard ignores
        }
    }

    fn dispatch(self) -> Result<Option<Event>> {
        let event_type = EventType::new(self.event_type)?;
        Ok(self.data.map(|data| Event::data(data).with_type(event_type)))
    }
}

/// The kind of an event: the value of its `event` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType(String);

impl EventType {
    /// The longest event type, in bytes: a name for a listener, which has no reason to be longer.
    pub const MAX_BYTES: usize = 128;

    /// An event type. The empty one is the same as `message`.
    ///
    /// # Errors
    ///
    /// If it holds CR, LF or NUL, or is longer than [`EventType::MAX_BYTES`].
    pub fn new(name: impl Into<String>) -> Result<EventType> {
        let name = name.into();
        if name.len() > EventType::MAX_BYTES {
            return Err(Error::invalid("an event type has at most 128 bytes"));
        }
        if breaks_the_line(&name) {
            return Err(Error::invalid("an event type holds no CR, LF or NUL"));
        }
        Ok(EventType(name))
    }
}

/// The id of an event: what a client that comes back names as the last it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventId(String);

impl EventId {
    /// An id. The empty one resets the client's last event ID.
    ///
    /// # Errors
    ///
    /// If it holds CR, LF or NUL: the first two would end the line, and clients ignore an id with the third.
    pub fn new(id: impl Into<String>) -> Result<EventId> {
        let id = id.into();
        if breaks_the_line(&id) {
            return Err(Error::invalid("an event id holds no CR, LF or NUL"));
        }
        Ok(EventId(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn breaks_the_line(value: &str) -> bool {
    value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0))
}

/// Encoded bytes, made once and shared by every outbox. One buffer holds them as a chunk of the chunked transfer coding
/// (RFC 9112, section 7.1), and the bare bytes are a part of it: both kinds of client are served from the same memory.
///
/// ```text
/// 11\r\ndata: 123456789\n\n\r\n
///       ^-- bare ---------^
/// ^-- chunked ----------------^
///
/// 11: the length of the bare bytes, 17, in hexadecimal
/// ```
pub(crate) struct Frame {
    bytes: Vec<u8>,
    bare_end: usize,
    events: u32,
    // Both at most `SIZE_LINE`.
    bare_start: u8,
    chunk_start: u8,
}

/// Room for the size line: sixteen hexadecimal digits, which hold any length there is, and CRLF.
const SIZE_LINE: usize = 18;

/// What a frame takes of memory beside its bytes: its own fields, its place in a log or a queue, and what the allocator
/// adds. It is counted wherever frames are kept, so that a bound on bytes is a bound on memory, for short events too.
pub(crate) const FRAME_OVERHEAD: usize = 160;

/// The end of a chunked body, with no trailer.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes a chunk's size line to the end of `place`, and returns where it begins. By hand: `write!` was some 7 % of the
/// program's instructions for a timed event.
fn write_size_line(mut size: usize, place: &mut [u8]) -> usize {
    let mut start = place.len() - 2;
    place[start..].copy_from_slice(b"\r\n");
    loop {
        start -= 1;
        place[start] = b"0123456789abcdef"[size % 16];
        size /= 16;
        if size == 0 {
            return start;
        }
    }
}

impl Frame {
    /// An event as it is.
    pub(crate) fn event(event: &Event) -> Frame {
        Frame::encoded(event, None, u32::from(event.dispatches()))
    }

    /// An event under an id of the server's.
    pub(crate) fn with_id(event: &Event, id: &str) -> Frame {
        Frame::encoded(event, Some(id), u32::from(event.dispatches()))
    }

    /// Something the server says of itself: not counted as an event.
    pub(crate) fn announcement(event_type: &str, id: Option<&str>, data: String) -> Frame {
        let event_type = EventType(format!("{RESERVED}{event_type}"));
        Frame::encoded(&Event::data(data).with_type(event_type), id, 0)
    }

    /// Several frames as one chunk: one write for each receiver.
    pub(crate) fn joined(frames: &[Arc<Frame>]) -> Frame {
        let events = frames.iter().map(|frame| frame.events).sum();
        let length = frames.iter().map(|frame| frame.bare().len()).sum();
        Frame::chunk(events, length, |out| frames.iter().for_each(|frame| out.extend_from_slice(frame.bare())))
    }

    /// The end of a stream: perhaps a last event, then the last chunk. Its bare form is the event alone, because without
    /// the chunk framing the end of the connection is the end of the stream.
    pub(crate) fn tail(last: Option<&Event>) -> Frame {
        let Some(event) = last else {
            return Frame { bytes: LAST_CHUNK.into(), bare_end: 0, events: 0, bare_start: 0, chunk_start: 0 };
        };
        let chunk = Frame::event(event);
        let bytes = [&chunk.bytes, LAST_CHUNK].concat();
        Frame { bytes, ..chunk }
    }

    /// A response head, which is no chunk: both forms are the same. Room that it has left stays: it goes with the first write.
    pub(crate) fn head(head: Vec<u8>) -> Frame {
        Frame { bare_end: head.len(), bytes: head, events: 0, bare_start: 0, chunk_start: 0 }
    }

    fn encoded(event: &Event, id: Option<&str>, events: u32) -> Frame {
        Frame::chunk(events, event.least_length(id), |out| event.encode(id, out))
    }

    /// `length` is how much `encode` is likely to append: where it is right, one allocation is all that a frame takes.
    fn chunk(events: u32, length: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Frame {
        let mut bytes = Vec::with_capacity(SIZE_LINE + length + "\r\n".len());
        bytes.resize(SIZE_LINE, 0);
        encode(&mut bytes);
        let bare_end = bytes.len();
        let chunk_start = write_size_line(bare_end - SIZE_LINE, &mut bytes[..SIZE_LINE]) as u8;
        bytes.extend_from_slice(b"\r\n");
        bytes.shrink_to_fit(); // a log keeps it, and counts its length
        Frame { bytes, bare_end, events, bare_start: SIZE_LINE as u8, chunk_start }
    }

    /// What an HTTP/1.1 client gets.
    pub(crate) fn chunked(&self) -> &[u8] {
        &self.bytes[usize::from(self.chunk_start)..]
    }

    /// What an HTTP/1.0 client gets.
    pub(crate) fn bare(&self) -> &[u8] {
        &self.bytes[usize::from(self.bare_start)..self.bare_end]
    }

    /// What it takes of memory.
    pub(crate) fn cost(&self) -> usize {
        self.chunked().len() + FRAME_OVERHEAD
    }

    /// How many events a client dispatches for it, the server's announcements not counted.
    pub(crate) fn events(&self) -> u64 {
        self.events.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(event: &Event) -> String {
        String::from_utf8(Frame::event(event).bare().to_vec()).unwrap()
    }

    #[test]
    fn writes_each_field_as_section_9_2_says() {
        let note = || EventType::new("note").unwrap();
        let id = |id: &str| EventId::new(id).unwrap();
        for (event, wire) in [
            (Event::data("hello"), "data: hello\n\n"),
            (Event::data(""), "data: \n\n"),
            (Event::data(" a"), "data:  a\n\n"),
            (Event::data("\u{feff}a"), "data: \u{feff}a\n\n"),
            (Event::data("a\nb\rc\r\nd"), "data: a\ndata: b\ndata: c\ndata: d\n\n"),
            (Event::data("\n"), "data: \ndata: \n\n"),
            (Event::data("a\n\r"), "data: a\ndata: \ndata: \n\n"),
            (Event::comment(""), ": \n\n"),
            (Event::comment("a\r\nb"), ": a\n: b\n\n"),
            (Event::data("x").with_type(note()), "event: note\ndata: x\n\n"),
            (Event::data("x").with_type(EventType::new("").unwrap()), "data: x\n\n"),
            (Event::data("x").with_id(id("7")), "id: 7\ndata: x\n\n"),
            (Event::data("x").with_id(id("")), "id: \ndata: x\n\n"),
            (Event::retry(Duration::from_secs(3)), "retry: 3000\n\n"),
            (
                Event::data("x").with_retry(Duration::from_millis(1)).with_id(id("a b")).with_type(note()),
                "event: note\nid: a b\nretry: 1\ndata: x\n\n",
            ),
        ] {
            assert_eq!(bare(&event), wire, "{event:?}");
        }
    }

    #[test]
    fn refuses_values_that_would_break_the_stream() {
        for bad in ["a\nb", "a\rb", "\0", "\r\n"] {
            assert!(EventType::new(bad).is_err(), "{bad:?}");
            assert!(EventId::new(bad).is_err(), "{bad:?}");
        }
        assert!(EventType::new("x".repeat(EventType::MAX_BYTES)).is_ok());
        assert!(EventType::new("x".repeat(EventType::MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn a_frame_holds_the_chunk_and_the_bare_event() {
        let frame = Frame::event(&Event::data("123456789"));
        assert_eq!(frame.chunked(), b"11\r\ndata: 123456789\n\n\r\n");
        assert_eq!(frame.bare(), b"data: 123456789\n\n");
        assert_eq!(frame.events(), 1);
        assert_eq!(Frame::event(&Event::comment("")).events(), 0);
        let long = Frame::event(&Event::data("x".repeat(70_000)));
        assert!(long.chunked().starts_with(b"11178\r\ndata: x"));
    }

    #[test]
    fn a_size_line_is_hexadecimal_without_leading_zeros() {
        for (size, line) in [(0, "0\r\n"), (10, "a\r\n"), (16, "10\r\n"), (0xfedc, "fedc\r\n")] {
            let mut place = [0; SIZE_LINE];
            let start = write_size_line(size, &mut place);
            assert_eq!(&place[start..], line.as_bytes());
        }
        assert_eq!(write_size_line(usize::MAX, &mut [0; SIZE_LINE]), SIZE_LINE - 2 - usize::BITS as usize / 4);
    }

    #[test]
    fn joined_frames_are_one_chunk() {
        let one = |text: &str| Arc::new(Frame::event(&Event::data(text)));
        let both = Frame::joined(&[one("a"), one("b")]);
        assert_eq!(both.chunked(), b"12\r\ndata: a\n\ndata: b\n\n\r\n");
        assert_eq!(both.events(), 2);
    }

    #[test]
    fn the_tail_ends_a_chunked_body() {
        assert_eq!(Frame::tail(None).chunked(), b"0\r\n\r\n");
        assert_eq!(Frame::tail(None).bare(), b"");
        let tail = Frame::tail(Some(&Event::retry(Duration::from_secs(2))));
        assert_eq!(tail.chunked(), b"d\r\nretry: 2000\n\n\r\n0\r\n\r\n");
        assert_eq!(tail.bare(), b"retry: 2000\n\n");
    }

    #[test]
    fn parses_batches_as_section_9_2_6_says() {
        let event = |text: &str| Event::data(text).with_type(EventType::new("").unwrap());
        let typed = |name: &str, text: &str| Event::data(text).with_type(EventType::new(name).unwrap());
        for (stream, events) in [
            ("", vec![]),
            ("\n\n", vec![]),
            ("data: a\n\n", vec![event("a")]),
            ("data: a", vec![event("a")]),
            ("data:a\r\rdata:  b\r\n\r\n", vec![event("a"), event(" b")]),
            ("data\n\ndata\ndata\n\ndata:", vec![event(""), event("\n"), event("")]),
            ("data: YHOO\ndata: +2\ndata: 10\n\n", vec![event("YHOO\n+2\n10")]),
            (": test stream\n\ndata: first\nid: 1\n\nretry: 5\n\n", vec![event("first")]),
            ("event: note\n\ndata: x\n\n", vec![event("x")]),
            ("event: note\ndata: x\nevent: last\n\n", vec![typed("last", "x")]),
            ("\u{feff}data: x\nfoo: y\nDATA: z\n\n", vec![event("x")]),
        ] {
            assert_eq!(Event::parse(stream).unwrap(), events, "{stream:?}");
        }
        assert!(Event::parse("data: fine\n\nevent: \0\ndata: bad\n\n").is_err());
        assert!(Event::parse(&format!("event: {}\ndata: bad\n\n", "x".repeat(129))).is_err());
    }

    #[test]
    fn what_is_encoded_parses_back() {
        for text in ["", "\n", "\n\n", " lead", ":", "a: b", "\u{feff}", "😀\0é", "data: x\n\nid: 1", "end\n"] {
            let event = Event::data(text).with_type(EventType::new("t").unwrap());
            assert_eq!(Event::parse(&bare(&event)).unwrap(), vec![event], "{text:?}");
        }
    }
}
