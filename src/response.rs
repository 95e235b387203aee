//! What a handler answers, and how its head goes on the wire (RFC 9112 section 4, RFC 9110 sections 5 and 15).
//!
//! A handler says status, fields and body; the server owns the framing. So a [`Response`] cannot be built that breaks
//! a persistent connection: what a handler says of `Content-Length`, `Transfer-Encoding`, `Connection` or `Date` is
//! left out, and a line end inside a value becomes a space. This room only makes bytes; the connection writes them.

use crate::queue::Closed;
use crate::stream::Stream;
use std::borrow::Cow;
use std::fmt;
use std::io::Write;

/// Opens the stream on the connection's own thread, once the head is on its way.
pub(crate) type Open = Box<dyn FnOnce(Stream) -> Result<(), Closed> + Send>;

/// Fields that only the server sets: a second opinion on framing would let an answer be read as two.
const OWNED: [&str; 5] = ["Connection", "Content-Length", "Date", "Transfer-Encoding", "X-Content-Type-Options"];

/// Fields that may stand on several lines; every other name is set, so that the later value takes the place.
const REPEATED: [&str; 2] = ["Set-Cookie", "Vary"];

/// The answer to one request.
///
/// ```
/// use tidings::Response;
///
/// let response = Response::text(404, "no such page").field("Cache-Control", "no-store");
/// assert_eq!(response.status(), 404);
/// ```
///
/// On the wire, in front of the body:
///
/// ```text
/// HTTP/1.1 404 Not Found
/// Date: Sat, 21 Nov 2026 08:00:00 GMT
/// X-Content-Type-Options: nosniff
/// Content-Type: text/plain; charset=utf-8
/// Cache-Control: no-store
/// Content-Length: 13
/// Connection: keep-alive
/// ```
pub struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Body,
}

/// A name and a value.
pub(crate) type Field = (&'static str, Cow<'static, str>);

/// Those of most streams are the same, and stand in no memory of their own.
pub(crate) type Fields = Cow<'static, [Field]>;

const STREAM_FIELDS: &[Field] = &[
    ("Content-Type", Cow::Borrowed("text/event-stream; charset=utf-8")),
    ("Cache-Control", Cow::Borrowed("no-cache, no-store, no-transform")),
    // nginx would otherwise collect events until its buffer is full.
    ("X-Accel-Buffering", Cow::Borrowed("no")),
];

pub(crate) enum Body {
    Bytes(Vec<u8>),
    Stream(Open),
}

impl Response {
    /// One or more lines of plain text (`text/plain; charset=utf-8`); a missing line end is added.
    ///
    /// A status that cannot end an exchange (below 200 or above 999) becomes 500. 204, 205 and 304 have no body: the
    /// text is left out.
    pub fn text(status: u16, body: impl Into<String>) -> Response {
        let mut body = body.into();
        if !body.ends_with('\n') {
            body.push('\n');
        }
        Response::bytes(status, "text/plain; charset=utf-8", body)
    }

    /// Bytes of any media type. The status as for [`Response::text`].
    pub fn bytes(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        let status = if (200..=999).contains(&status) { status } else { 500 };
        if matches!(status, 204 | 205 | 304) {
            return Response { status, fields: Cow::Borrowed(&[]), body: Body::Bytes(Vec::new()) };
        }
        let fields = vec![("Content-Type", content_type.into())];
        Response { status, fields: fields.into(), body: Body::Bytes(body.into()) }
    }

    /// An event stream. `open` is called on the connection's own thread with the [`Stream`]; the stream lasts as long
    /// as somebody holds that or a clone of it, so `open` may hand it on and return. What it returns changes nothing;
    /// it is a `Result` so that `?` works.
    ///
    /// ```
    /// use tidings::{Event, Response};
    ///
    /// let response = Response::stream(|stream| {
    ///     stream.send(&Event::data("at once"))?;
    ///     std::thread::spawn(move || stream.send(&Event::data("later"))); // which drops the stream: it ends
    ///     Ok(())
    /// });
    /// # let _ = response;
    /// ```
    ///
    /// To `HEAD` the fields are sent alone, and `open` is not called.
    pub fn stream(open: impl FnOnce(Stream) -> Result<(), Closed> + Send + 'static) -> Response {
        Response { status: 200, fields: STREAM_FIELDS.into(), body: Body::Stream(Box::new(open)) }
    }

    /// Sets a field, in place of an earlier one of the same name; `Set-Cookie` and `Vary` are added to those with
    /// another value.
    ///
    /// `Connection`, `Content-Length`, `Date`, `Transfer-Encoding` and `X-Content-Type-Options` are the server's own
    /// and ignored here, and so is a name that is no token (RFC 9110, section 5.6.2). A control character in a value,
    /// CR and LF among them, becomes a space: a value that came from a client cannot add a field or split the answer.
    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> Response {
        let value = Cow::Owned(value.into());
        let may_repeat = contains(&REPEATED, name);
        let fields = self.fields.to_mut();
        fields.retain(|(set, earlier)| !set.eq_ignore_ascii_case(name) || may_repeat && *earlier != value);
        fields.push((name, value));
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn has_field(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field.eq_ignore_ascii_case(name))
    }
}

/// Without the body: it may be long, and a stream has none to show.
impl fmt::Debug for Response {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Response").field("status", &self.status).field("fields", &self.fields).finish_non_exhaustive()
    }
}

/// How the client is told where the body ends (RFC 9112, section 6). The answer to `HEAD` has the framing of its `GET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes follow the head.
    Length(usize),
    /// Pieces, each behind its length, up to one of length 0: nobody needs to know beforehand how much will come.
    Chunked,
    /// The only way to stream to an HTTP/1.0 client. Always says `Connection: close`.
    UntilClose,
}

/// Appends a response head with its empty line to `head`, which grows once at the most. `date` is an IMF-fixdate. 204 and
/// 304 have no body and get no framing field (RFC 9110, section 8.6).
pub(crate) fn encode_head(
    mut head: Vec<u8>,
    status: u16,
    fields: &[Field],
    framing: Framing,
    date: &str,
    keep_alive: bool,
) -> Vec<u8> {
    // The server's own lines are some 180 bytes at the most; a field costs four bytes more than its text.
    let size = 192 + date.len() + fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
    head.reserve_exact(size);
    // Writing to a Vec cannot fail; nor below.
    let _ = write!(head, "HTTP/1.1 {status} {}\r\nDate: {date}\r\nX-Content-Type-Options: nosniff\r\n", reason(status));
    for (name, value) in fields {
        if is_token(name) && !contains(&OWNED, name) {
            push_field(&mut head, name, value);
        }
    }
    match framing {
        _ if matches!(status, 204 | 304) => {}
        Framing::UntilClose => {}
        Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Length(length) => _ = write!(head, "Content-Length: {length}\r\n"),
    }
    let persistent = keep_alive && framing != Framing::UntilClose;
    head.extend_from_slice(if persistent { b"Connection: keep-alive\r\n\r\n" } else { b"Connection: close\r\n\r\n" });
    head
}

fn push_field(head: &mut Vec<u8>, name: &str, value: &str) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    head.extend_from_slice(b"\r\n");
}

fn contains(names: &[&str], name: &str) -> bool {
    names.iter().any(|listed| listed.eq_ignore_ascii_case(name))
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(crate::head::is_token_byte)
}

/// The words beside a code, for people reading the wire; no client acts on them. Empty for an unknown code.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sat, 21 Nov 2026 08:00:00 GMT";

    fn wire(response: &Response, framing: Framing, keep_alive: bool) -> String {
        String::from_utf8(encode_head(Vec::new(), response.status, &response.fields, framing, DATE, keep_alive))
            .unwrap()
    }

    fn body(response: &Response) -> &[u8] {
        match &response.body {
            Body::Bytes(bytes) => bytes,
            Body::Stream(_) => panic!("a stream has no bytes"),
        }
    }

    #[test]
    fn a_text_goes_on_the_wire_as_it_is_documented() {
        let response = Response::text(404, "no such page").field("Cache-Control", "no-store");
        assert_eq!(body(&response), b"no such page\n");
        let expected = "HTTP/1.1 404 Not Found\r\nDate: Sat, 21 Nov 2026 08:00:00 GMT\r\n\
                        X-Content-Type-Options: nosniff\r\nContent-Type: text/plain; charset=utf-8\r\n\
                        Cache-Control: no-store\r\nContent-Length: 13\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(wire(&response, Framing::Length(13), true), expected);
    }

    #[test]
    fn a_stream_goes_on_the_wire_as_the_contract_says() {
        let expected = "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 08:00:00 GMT\r\n\
                        X-Content-Type-Options: nosniff\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                        Cache-Control: no-cache, no-store, no-transform\r\nX-Accel-Buffering: no\r\n\
                        Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(wire(&Response::stream(|_| Ok(())), Framing::Chunked, true), expected);
    }

    #[test]
    fn the_framing_names_where_the_body_ends() {
        let longest = format!("Content-Length: {}\r\nConnection: keep-alive\r\n\r\n", usize::MAX);
        let table = [
            (200, Framing::Length(0), true, "Content-Length: 0\r\nConnection: keep-alive\r\n\r\n"),
            (200, Framing::Length(0), false, "Content-Length: 0\r\nConnection: close\r\n\r\n"),
            (200, Framing::Length(usize::MAX), true, &longest),
            (200, Framing::Chunked, true, "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n"),
            (200, Framing::UntilClose, true, "nosniff\r\nConnection: close\r\n\r\n"),
            (204, Framing::Length(0), true, "nosniff\r\nConnection: keep-alive\r\n\r\n"),
            (304, Framing::Chunked, false, "nosniff\r\nConnection: close\r\n\r\n"),
        ];
        for (status, framing, keep_alive, end) in table {
            let head = String::from_utf8(encode_head(Vec::new(), status, &[], framing, DATE, keep_alive)).unwrap();
            assert!(head.ends_with(end), "{status} {framing:?}: {head}");
        }
    }

    #[test]
    fn a_handler_cannot_touch_the_framing() {
        let plain = wire(&Response::text(200, "x"), Framing::Length(2), true);
        for name in ["Content-Length", "transfer-encoding", "Connection", "DATE", "x-content-type-options"] {
            let response = Response::text(200, "x").field(name, "chunked");
            assert_eq!(wire(&response, Framing::Length(2), true), plain, "{name}");
        }
    }

    #[test]
    fn a_value_cannot_split_the_answer() {
        let response = Response::text(200, "x").field("X-Echo", "a\r\nSet-Cookie: b\0\u{7f}\tä").field("No Token", "x");
        let head = wire(&response.field("X\r\nY", "z").field("", "z"), Framing::Length(2), true);
        assert!(head.contains("\r\nX-Echo: a  Set-Cookie: b   ä\r\nContent-Length"), "{head}");
    }

    #[test]
    fn a_field_is_set_and_only_a_list_of_lines_is_added_to() {
        let response = Response::text(200, "x").field("content-type", "text/html").field("Vary", "Accept");
        let response = response.field("vary", "Origin").field("vary", "Origin");
        assert!(response.has_field("CONTENT-TYPE") && !response.has_field("Date"));
        let expected = [("content-type", "text/html"), ("Vary", "Accept"), ("vary", "Origin")];
        assert!(response.fields.iter().map(|(name, value)| (*name, &**value)).eq(expected));
    }

    #[test]
    fn a_status_without_content_has_none() {
        for status in [204, 205, 304] {
            let response = Response::text(status, "left out");
            assert!(body(&response).is_empty() && !response.has_field("Content-Type"), "{status}");
        }
    }

    #[test]
    fn a_status_that_ends_no_exchange_becomes_500() {
        let table = [(0, 500), (100, 500), (199, 500), (200, 200), (299, 299), (999, 999), (1000, 500)];
        for (given, sent) in table {
            assert_eq!(Response::text(given, "x").status(), sent);
        }
        assert!(wire(&Response::text(299, "x"), Framing::Length(2), true).starts_with("HTTP/1.1 299 \r\n"));
    }

    #[test]
    fn a_head_takes_one_allocation() {
        let response = Response::stream(|_| Ok(())).field("Set-Cookie", "x".repeat(500));
        for framing in [Framing::Length(usize::MAX), Framing::Chunked] {
            let head = encode_head(Vec::new(), 431, &response.fields, framing, DATE, true);
            let size = 192 + DATE.len() + response.fields.iter().map(|f| f.0.len() + f.1.len() + 4).sum::<usize>();
            assert_eq!(head.capacity(), size);
        }
    }

    #[test]
    fn the_codes_of_the_contract_have_their_words() {
        for status in [200, 202, 204, 400, 401, 403, 404, 405, 408, 413, 414, 421, 431, 500, 501, 503, 505] {
            assert!(!reason(status).is_empty(), "{status}");
        }
    }
}
