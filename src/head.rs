//! Bytes to a request head (RFC 9112, with the fields of RFC 9110), and how long the body behind it is.
//!
//! The codec is strict where two readings are possible. Behind a proxy, a head that the two ends read differently is
//! how one client's request becomes part of another's (request smuggling), so every such head is refused, never
//! repaired. It is lenient where only one reading is possible: a leading empty line, a later minor version, obs-text.
//!
//! No I/O, no clock. A head that has not arrived in full is [`Parsed::Partial`], a value and no error.

use std::net::Ipv6Addr;

/// A head over this is 431: the longest target, and as much again for the fields. Browsers send 500 to 1,500 bytes,
/// and this much is what one connection can make the server hold before it has said anything.
pub(crate) const MAX_HEAD: usize = 8 * 1024;

/// A target over this is 414: a list of 64 topics of 128 bytes is refused, one of 64 ordinary names fits.
pub(crate) const MAX_TARGET: usize = 4 * 1024;

/// More field lines than this are 431: each look for a field reads them all. Browsers send some 20.
pub(crate) const MAX_FIELDS: usize = 64;

/// Empty lines skipped before the request line. Old clients send one after a POST (RFC 9112, section 2.2).
const MAX_EMPTY_LINES: usize = 4;

/// What the bytes so far are.
#[cfg_attr(test, derive(Debug))]
pub(crate) enum Parsed {
    /// The beginning of a head.
    Partial,
    /// A whole head, which took `length` bytes with the empty lines before it. What follows is body or the next head.
    Complete { head: Head, length: usize },
}

/// Reads a request head.
///
/// Call it with everything since the last request, again whenever more has arrived. Each call starts over, which saves
/// keeping the state of a parser and costs some ten microseconds for the longest head: a client that sends one byte at
/// a time makes the server work about as much here as in the reads before. What is wrong is refused at the first byte
/// that shows it. `Partial` is never the answer to [`MAX_HEAD`] bytes or more, so a buffer of that size is enough.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, BadRequest> {
    let window = &bytes[..bytes.len().min(MAX_HEAD)];
    let mut cursor = Cursor { bytes: window, at: 0 };
    match cursor.head() {
        Ok(head) => Ok(Parsed::Complete { head, length: cursor.at }),
        Err(Some(refusal)) => Err(refusal),
        Err(None) if window.len() == MAX_HEAD => Err(BadRequest::HeadTooLarge),
        Err(None) => Ok(Parsed::Partial),
    }
}

/// Why a request is refused. Each variant is one status code and one line of text; the connection closes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRequest {
    Tls,
    RequestLine,
    TargetTooLong,
    Target,
    PercentEncoding,
    PathNotUtf8,
    MajorVersion,
    LineEnd,
    FieldName,
    TooManyFields,
    HeadTooLarge,
    HeadLate,
    Host,
    ContentLength,
    TransferEncoding,
    TransferCoding,
    Chunk,
    ChunkExtras,
    BodyTooLarge,
    BodyLate,
    BodyCut,
}

impl BadRequest {
    pub(crate) fn status(self) -> u16 {
        self.answer().0
    }

    /// One line, without its end.
    pub(crate) fn text(self) -> &'static str {
        self.answer().1
    }

    fn answer(self) -> (u16, &'static str) {
        match self {
            BadRequest::Tls => (400, "this is TLS, and the port speaks plain HTTP"),
            BadRequest::RequestLine => (400, "the request line is not method, percent-encoded target and HTTP/1.1"),
            BadRequest::TargetTooLong => (414, "the target is over 4 KiB"),
            BadRequest::Target => (400, "the target is neither a path nor an http URL"),
            BadRequest::PercentEncoding => (400, "the path has a % without two hexadecimal digits"),
            BadRequest::PathNotUtf8 => (400, "the path is not UTF-8"),
            BadRequest::MajorVersion => (505, "only HTTP/1.1 and HTTP/1.0 are spoken here"),
            BadRequest::LineEnd => (400, "a line does not end with CRLF where it should, or has a control character"),
            BadRequest::FieldName => (400, "a field line does not begin with a name and a colon"),
            BadRequest::TooManyFields => (431, "more than 64 fields"),
            BadRequest::HeadTooLarge => (431, "the head is over 8 KiB"),
            BadRequest::HeadLate => (408, "the head did not arrive in time"),
            BadRequest::Host => (400, "there must be one host, a name or an address with an optional port"),
            BadRequest::ContentLength => (400, "content-length is not one number"),
            BadRequest::TransferEncoding => {
                (400, "transfer-encoding must be chunked once, in HTTP/1.1, without length")
            }
            BadRequest::TransferCoding => (501, "chunked is the only transfer coding taken"),
            BadRequest::Chunk => (400, "a chunk is not a hexadecimal size and as many bytes"),
            BadRequest::ChunkExtras => (431, "chunk extensions and trailers are over 4 KiB"),
            BadRequest::BodyTooLarge => (413, "the body is larger than --max-body allows"),
            BadRequest::BodyLate => (408, "the body did not arrive in time"),
            BadRequest::BodyCut => (400, "the body ended early"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    /// And every later minor version, which RFC 9110 section 2.5 has a server treat as the one it knows.
    Http11,
}

/// How long the body is (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// No body: no framing field, or `Content-Length: 0`.
    None,
    Length(u64),
    Chunked,
}

/// A request head that was found good. It owns its text, so that the buffer it came from can go.
// Debug in tests alone: fields and query may hold a token, which must not reach a log.
#[cfg_attr(test, derive(Debug))]
pub(crate) struct Head {
    /// Method, path, query and the field lines, as they were sent: one block of memory. With a string for each name and
    /// value, a thread that goes on to sleep beside a stream for weeks would leave forty in its allocator's cache.
    text: String,
    /// Where each of them ends. 16 bits hold three times [`MAX_HEAD`], which is what U+FFFD can make of it.
    ends: Box<[u16]>,
    /// The path, decoded.
    path: String,
    version: Version,
    body_length: BodyLength,
}

impl Head {
    /// The method as it was sent; methods are case-sensitive.
    pub(crate) fn method(&self) -> &str {
        self.part(0)
    }

    /// The path as it was sent, for the log: visible ASCII alone, and no query, which may hold a token.
    pub(crate) fn raw_path(&self) -> &str {
        self.part(1)
    }

    /// The path, percent-decoded once. It may hold any character, control characters too.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// What follows the first `?`, as it was sent.
    pub(crate) fn query(&self) -> &str {
        self.part(2)
    }

    /// The value of the first field of that name. `host` is the effective one: that of an absolute-form target, if
    /// there is one, took the place of the field's (RFC 9112, section 3.2.2), so that nobody can ask the other.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields_named(name).next()
    }

    pub(crate) fn fields_named(&self, name: &str) -> impl Iterator<Item = &str> {
        named(self.fields(), name)
    }

    /// The effective host with its port, as far as it was given. Only an HTTP/1.0 request can be without.
    pub(crate) fn host(&self) -> Option<&str> {
        self.field("host")
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn body_length(&self) -> BodyLength {
        self.body_length
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method() == "HEAD"
    }

    /// Whether the client wants the connection to persist (RFC 9112, section 9.3). HTTP/1.0 never: its
    /// `Connection: keep-alive` was an experiment that a proxy between may not understand.
    pub(crate) fn keep_alive(&self) -> bool {
        let mut options = list(self.fields(), "connection");
        self.version == Version::Http11 && !options.any(|option| option.eq_ignore_ascii_case("close"))
    }

    /// Whether the client waits for `100 Continue` before it sends its body (RFC 9110, section 10.1.1).
    pub(crate) fn expects_continue(&self) -> bool {
        let expected = list(self.fields(), "expect").any(|value| value.eq_ignore_ascii_case("100-continue"));
        expected && self.version == Version::Http11 && self.body_length != BodyLength::None
    }

    /// Whether `Accept` names `text/event-stream`, as that of every EventSource does.
    pub(crate) fn wants_event_stream(&self) -> bool {
        let mut types = list(self.fields(), "accept").filter_map(|range| range.split(';').next());
        types.any(|media_type| trim(media_type).eq_ignore_ascii_case("text/event-stream"))
    }

    fn fields(&self) -> impl Iterator<Item = &str> {
        (3..self.ends.len()).map(|index| self.part(index))
    }

    fn part(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[usize::from(start)..usize::from(self.ends[index])]
    }

    /// Asks what can be asked only of a whole head, and puts the authority of an absolute-form target in Host's place.
    fn build(method: &[u8], target: &[u8], version: Version, fields: &[u8]) -> Result<Head, BadRequest> {
        let [method, target, fields] = [method, target, fields].map(String::from_utf8_lossy);
        let (authority, path, query) = split_target(&method, &target)?;
        check_host(&fields, authority, version)?;
        let body_length = body_length(&fields, version)?;
        // What does not decode is refused: a guess could name another topic.
        let decoded = percent_decode(path, |byte| (byte != b'%').then_some(byte)).ok_or(BadRequest::PercentEncoding)?;
        let decoded = String::from_utf8(decoded).map_err(|_| BadRequest::PathNotUtf8)?;
        let host = authority.map(|authority| format!("Host:{authority}"));
        let is_current = |line: &&str| host.is_none() || value_of(line, "host").is_none();
        let lines = host.as_deref().into_iter().chain(fields.lines().filter(is_current));
        let (mut text, mut ends) = (String::with_capacity(method.len() + target.len() + fields.len()), Vec::new());
        for part in [&method, path, query].into_iter().chain(lines) {
            text.push_str(part);
            ends.push(text.len() as u16);
        }
        Ok(Head { text, ends: ends.into(), path: decoded, version, body_length })
    }
}

/// Why a [`Cursor`] did not go on: it was refused or, with none, the bytes ran out.
type Stop = Option<BadRequest>;

/// Reads from the front and never looks ahead, so that a prefix of a good head is never refused and a bad byte is
/// refused when it comes, whatever follows.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    /// ```text
    /// HTTP-message = request-line CRLF *( field-line CRLF ) CRLF [ message-body ]
    /// field-line   = field-name ":" OWS field-value OWS
    /// field-value  = *( VCHAR / obs-text / SP / HTAB )
    /// ```
    ///
    /// So a space before a name, which once folded a field over two lines, and one before the colon are refused.
    fn head(&mut self) -> Result<Head, Stop> {
        for _ in 0..MAX_EMPTY_LINES {
            if self.peek()? == b'\r' {
                self.line_end()?;
            }
        }
        let (method, target, version) = self.request_line()?;
        let start = self.at;
        let mut left = MAX_FIELDS;
        while self.peek()? != b'\r' {
            left = left.checked_sub(1).ok_or(BadRequest::TooManyFields)?;
            self.token(b":", BadRequest::FieldName)?;
            self.run(is_value_byte);
            self.line_end()?;
        }
        let fields = &self.bytes[start..self.at];
        self.line_end()?;
        Ok(Head::build(method, target, version, fields)?)
    }

    /// ```text
    /// request-line = method SP request-target SP HTTP-version
    /// HTTP-version = "HTTP" "/" DIGIT "." DIGIT        ; case-sensitive
    /// ```
    ///
    /// RFC 9112 section 3 lets a server take any white space between the three; one that does may see another target
    /// than the proxy in front, so a single space it is.
    fn request_line(&mut self) -> Result<(&'b [u8], &'b [u8], Version), Stop> {
        const TLS_HANDSHAKE: u8 = 0x16; // the first byte of a TLS connection (RFC 8446, section 5.1)
        if self.peek()? == TLS_HANDSHAKE {
            return Err(BadRequest::Tls.into());
        }
        let method = self.token(b" ", BadRequest::RequestLine)?;
        let target = self.run(is_target_byte);
        if target.len() > MAX_TARGET {
            return Err(BadRequest::TargetTooLong.into());
        }
        self.expect(b" ", BadRequest::RequestLine)?;
        if target.is_empty() {
            return Err(BadRequest::RequestLine.into());
        }
        self.expect(b"HTTP/", BadRequest::RequestLine)?;
        if matches!(self.peek()?, b'0' | b'2'..=b'9') {
            return Err(BadRequest::MajorVersion.into());
        }
        self.expect(b"1.", BadRequest::RequestLine)?;
        let version = match self.next()? {
            b'0' => Version::Http10,
            b'1'..=b'9' => Version::Http11,
            _ => return Err(BadRequest::RequestLine.into()),
        };
        self.line_end()?;
        Ok((method, target, version))
    }

    /// CRLF alone. RFC 9112 section 2.2 lets a server take a bare LF; where a proxy does not, that hides a field.
    fn line_end(&mut self) -> Result<(), Stop> {
        self.expect(b"\r\n", BadRequest::LineEnd)
    }

    /// A token and what must follow it.
    fn token(&mut self, end: &[u8], otherwise: BadRequest) -> Result<&'b [u8], Stop> {
        let token = self.run(is_token_byte);
        self.expect(end, otherwise)?;
        if token.is_empty() { Err(otherwise.into()) } else { Ok(token) }
    }

    fn expect(&mut self, expected: &[u8], otherwise: BadRequest) -> Result<(), Stop> {
        for byte in expected {
            if self.next()? != *byte {
                return Err(otherwise.into());
            }
        }
        Ok(())
    }

    /// Takes the bytes that are accepted, as far as there are any: the caller looks at the one that follows.
    fn run(&mut self, accept: impl Fn(u8) -> bool) -> &'b [u8] {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| !accept(*byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn next(&mut self) -> Result<u8, Stop> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(None)
    }
}

/// tchar of RFC 9110, section 5.6.2.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    let is_mark = matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
    byte.is_ascii_alphanumeric() || is_mark
}

/// Visible ASCII but for `#`, which begins a fragment and has no place in a target.
///
/// RFC 3986 wants `"<>\^{|}` and the backtick percent-encoded, and brackets outside an address too. Browsers send most
/// of them bare in a query and curl sends what was typed; here none has a meaning, so they can be read in one way
/// only and are let through. A byte beyond ASCII is refused: two ends may disagree about its encoding.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// Everything but control characters; HTAB is none here, and obs-text (0x80 and up) is let through.
pub(crate) fn is_value_byte(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}

/// OWS of RFC 9110: space and HTAB, not what Rust or Unicode call white space.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// The values of the field lines of that name.
fn named<'f>(lines: impl Iterator<Item = &'f str>, name: &str) -> impl Iterator<Item = &'f str> {
    lines.filter_map(move |line| value_of(line, name))
}

/// The value of a field line, if it has that name.
fn value_of<'f>(line: &'f str, name: &str) -> Option<&'f str> {
    let (field, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(':')?;
    field.eq_ignore_ascii_case(name).then(|| trim(value))
}

/// The elements of a comma-separated list, over all lines of that name (RFC 9110, section 5.6.1).
fn list<'f>(lines: impl Iterator<Item = &'f str>, name: &str) -> impl Iterator<Item = &'f str> {
    named(lines, name).flat_map(|value| value.split(',')).map(trim)
}

/// Takes a request target apart (RFC 9112, section 3.2): authority, path, query.
///
/// ```text
/// origin-form   = absolute-path [ "?" query ]
/// absolute-form = absolute-URI                     ; here http and https
/// asterisk-form = "*"                              ; OPTIONS alone
/// ```
///
/// authority-form belongs to CONNECT, which asks for a tunnel and has no path: there is nothing to route, and a 2xx to
/// it would make a proxy stop reading HTTP.
fn split_target<'t>(method: &str, target: &'t str) -> Result<(Option<&'t str>, &'t str, &'t str), BadRequest> {
    let (authority, rest) = match target.split_once("://") {
        _ if method == "CONNECT" => return Err(BadRequest::Target),
        _ if target.starts_with('/') || (target, method) == ("*", "OPTIONS") => (None, target),
        Some((scheme, rest)) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(authority), rest)
        }
        _ => return Err(BadRequest::Target),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((authority, if path.is_empty() { "/" } else { path }, query))
}

/// Sees that there is one good Host, which an HTTP/1.0 request alone can be without.
///
/// The field is asked for and checked even when the target overrides it (RFC 9112, section 3.2): two of them are the
/// classic way to have a proxy and a server think of different sites.
fn check_host(fields: &str, authority: Option<&str>, version: Version) -> Result<(), BadRequest> {
    let count = named(fields.lines(), "host").count();
    let is_one = count == 1 || (count == 0 && version == Version::Http10);
    let is_good = named(fields.lines(), "host").chain(authority).all(|host| host_and_port(host).is_some());
    if is_one && is_good { Ok(()) } else { Err(BadRequest::Host) }
}

/// Takes `uri-host [ ":" port ]` (RFC 9110, section 7.2) apart; the brackets of an IPv6 address stay on the host.
///
/// A name may have letters, digits, `-`, `.` and `_`. RFC 3986 allows more (`%`, `,`, `;`, `=` and others), which no
/// name in use has and which some parsers take for an end: refused, and so are userinfo and the empty host.
pub(crate) fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = match authority.strip_prefix('[') {
        Some(address) => address.find(']')? + "[]".len(),
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name_byte),
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return None,
        Some("") => None, // "example.com:" is allowed by RFC 3986, and means the default
        Some(port) => Some(number(port)?),
    };
    good.then_some((host, port))
}

/// How long the body is, or which contradiction keeps that from being known (RFC 9112, section 6.3).
///
/// The standard lets a server go by Transfer-Encoding where both are given; a proxy that goes by the other sees another
/// next request. Empty list elements, which RFC 9110 would have ignored, are refused with the rest.
fn body_length(fields: &str, version: Version) -> Result<BodyLength, BadRequest> {
    let lengths: Vec<&str> = list(fields.lines(), "content-length").collect();
    let codings: Vec<&str> = list(fields.lines(), "transfer-encoding").collect();
    let is_chunked = |coding: &&str| coding.eq_ignore_ascii_case("chunked");
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(BodyLength::None),
        ([length, others @ ..], []) => match number(length).filter(|_| others.iter().all(|other| other == length)) {
            Some(0) => Ok(BodyLength::None),
            Some(length) => Ok(BodyLength::Length(length)),
            None => Err(BadRequest::ContentLength),
        },
        _ if version == Version::Http10 || !lengths.is_empty() => Err(BadRequest::TransferEncoding),
        (_, [only]) if is_chunked(only) => Ok(BodyLength::Chunked),
        (_, [before @ .., _]) if before.iter().any(is_chunked) || codings.contains(&"") => {
            Err(BadRequest::TransferEncoding)
        }
        _ => Err(BadRequest::TransferCoding),
    }
}

/// 1*DIGIT. `parse` alone would take a plus sign.
fn number<N: std::str::FromStr>(digits: &str) -> Option<N> {
    digits.parse().ok().filter(|_| !digits.starts_with('+'))
}

/// Replaces each escape by its byte, once; `plain` says what any other byte stands for, if it may stand there.
pub(crate) fn percent_decode(raw: &str, plain: impl Fn(u8) -> Option<u8>) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.first_chunk().filter(|_| *first == b'%');
        let escape = digits.and_then(|[high, low]| digit(high).zip(digit(low)));
        decoded.push(escape.map(|(high, low)| (high << 4 | low) as u8).or_else(|| plain(*first))?);
        rest = if escape.is_some() { &tail[2..] } else { tail };
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn head(bytes: &[u8]) -> Head {
        match parse(bytes) {
            Ok(Parsed::Complete { head, length }) => {
                assert_eq!(length, bytes.len());
                head
            }
            other => panic!("{other:?}: {}", text(bytes)),
        }
    }

    /// The head of a request for `target` with these field lines and a Host.
    fn head_of(target: &str, fields: &str) -> Head {
        head(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
    }

    fn framing(fields: &str) -> Result<BodyLength, BadRequest> {
        match parse(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())? {
            Parsed::Complete { head, .. } => Ok(head.body_length()),
            Parsed::Partial => panic!("partial: {fields}"),
        }
    }

    const GOOD: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: localhost:3000\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /topics/a%20b?x=1&y={|}&z=%zz HTTP/1.1\r\nhost:[::1]:3000\r\nX:\r\nY: \t \r\nZ: \xe4\xff\t\"x\"\r\n\r\n",
        b"POST /topics/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"PUT /topics/a HTTP/1.1\r\nTransfer-Encoding:chunked\r\nHost: a\r\n\r\n",
        b"GET http://example.com:8080?q HTTP/1.1\r\nHost: other\r\n\r\n",
        b"OPTIONS * HTTP/1.9\r\nHost: a\r\n\r\n",
        b"M!#$%&'*+-.^_`|~ /\\[]^`{}|\"<> HTTP/1.1\r\nHost: a_b.local.\r\n\r\n",
    ];

    #[test]
    fn every_proper_prefix_of_a_valid_head_is_partial() {
        for bytes in GOOD {
            for end in 0..bytes.len() {
                assert!(matches!(parse(&bytes[..end]), Ok(Parsed::Partial)), "{end} of {}", text(bytes));
            }
            let whole = format!("{:?}", head(bytes));
            let followed = [bytes, b"GET / HTTP/0.9\n\0"].concat();
            match parse(&followed) {
                Ok(Parsed::Complete { head, length }) => {
                    assert_eq!((format!("{head:?}"), length), (whole, bytes.len()));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_head_is_taken_apart() {
        let head = head(GOOD[3]);
        assert_eq!((head.method(), head.raw_path(), head.path()), ("GET", "/topics/a%20b", "/topics/a b"));
        assert_eq!((head.query(), head.version()), ("x=1&y={|}&z=%zz", Version::Http11));
        for (name, value) in [("host", "[::1]:3000"), ("X", ""), ("Y", ""), ("Z", "\u{fffd}\u{fffd}\t\"x\"")] {
            assert!(head.fields_named(name).eq([value]));
        }
        assert_eq!(head.host(), Some("[::1]:3000"));
        assert_eq!((head.field("Z"), head.field("z"), head.field("zz")), (head.field("z"), head.field("Z"), None));
    }

    /// What cannot become a request, up to the byte that shows it, and how it is refused.
    const REFUSED: &[(&[u8], BadRequest)] = &[
        (b"\x16", BadRequest::Tls),
        (b"\r\n\r\n\r\n\r\n\r", BadRequest::RequestLine),
        (b"\n", BadRequest::RequestLine),
        (b"\r\n\n", BadRequest::RequestLine),
        (b"\rG", BadRequest::LineEnd),
        (b" ", BadRequest::RequestLine),
        (b"\0", BadRequest::RequestLine),
        (b"\x80", BadRequest::RequestLine),
        (b"GE\xc3", BadRequest::RequestLine),
        (b"GET\t", BadRequest::RequestLine),
        (b"G(", BadRequest::RequestLine),
        (b"GET\x16", BadRequest::RequestLine),
        (b"GET\r", BadRequest::RequestLine),
        (b"GET\n", BadRequest::RequestLine),
        (b"GET  ", BadRequest::RequestLine),
        (b"GET /\r", BadRequest::RequestLine),
        (b"GET /\n", BadRequest::RequestLine),
        (b"GET /\t", BadRequest::RequestLine),
        (b"GET /\0", BadRequest::RequestLine),
        (b"GET /\x7f", BadRequest::RequestLine),
        (b"GET /\xe4", BadRequest::RequestLine),
        (b"GET /a#", BadRequest::RequestLine),
        (b"GET /  ", BadRequest::RequestLine),
        (b"GET / h", BadRequest::RequestLine),
        (b"GET / HTTP/x", BadRequest::RequestLine),
        (b"GET / HTTP/1 ", BadRequest::RequestLine),
        (b"GET / HTTP/1.x", BadRequest::RequestLine),
        (b"GET / HTTP/1.\n", BadRequest::RequestLine),
        (b"GET / HTTP/1.10", BadRequest::LineEnd),
        (b"GET / HTTP/1.1 ", BadRequest::LineEnd),
        (b"GET / HTTP/1.1\n", BadRequest::LineEnd),
        (b"GET / HTTP/1.1\rH", BadRequest::LineEnd),
        (b"GET / HTTP/1.1\r\r", BadRequest::LineEnd),
        (b"GET / HTTP/2", BadRequest::MajorVersion),
        (b"GET / HTTP/0", BadRequest::MajorVersion),
        (b"PRI * HTTP/2", BadRequest::MajorVersion),
        (b"GET / HTTP/1.1\r\n ", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHost: x\r\n ", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\t", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHost ", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHost\t", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\n:", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHost\r", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHost\n", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHo\xc3", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHo\0", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHo[", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHost: x\n", BadRequest::LineEnd),
        (b"GET / HTTP/1.1\r\nHost: x\0", BadRequest::LineEnd),
        (b"GET / HTTP/1.1\r\nHost: x\x0b", BadRequest::LineEnd),
        (b"GET / HTTP/1.1\r\nHost: x\x7f", BadRequest::LineEnd),
        (b"GET / HTTP/1.1\r\nHost: x\rY", BadRequest::LineEnd),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\n", BadRequest::FieldName),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\rx", BadRequest::LineEnd),
    ];

    /// Each is refused at the last byte given here and no sooner: the bytes before are partial.
    #[test]
    fn what_cannot_become_a_request_is_refused_at_the_byte_that_shows_it() {
        for (bytes, refusal) in REFUSED {
            let (_, before) = bytes.split_last().unwrap();
            assert!(matches!(parse(before), Ok(Parsed::Partial)), "too soon: {}", text(bytes));
            for tail in [&b""[..], b"x", b"\r\n\r\n", b"HTTP/1.1\r\nHost: x\r\n\r\n"] {
                assert_eq!(parse(&[bytes, tail].concat()).unwrap_err(), *refusal, "{}", text(bytes));
            }
        }
        assert_eq!(parse(b"GET / HTTP/1.1\nHost: x\n\n").unwrap_err().status(), 400);
    }

    /// What is wrong only in the light of the whole head.
    #[test]
    fn what_contradicts_itself_is_refused() {
        let table = [
            ("GET / HTTP/1.1\r\n\r\n", BadRequest::Host),
            ("GET http://a/ HTTP/1.1\r\n\r\n", BadRequest::Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", BadRequest::Host),
            ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", BadRequest::Host),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", BadRequest::Host),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", BadRequest::Host),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", BadRequest::Host),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", BadRequest::Host),
            ("GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n", BadRequest::Host),
            ("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Host),
            ("GET http://a\\@b/ HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Host),
            ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Host),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("OPTIONS *? HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::Target),
            ("GET /% HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::PercentEncoding),
            ("GET /%2 HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::PercentEncoding),
            ("GET /%+2 HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::PercentEncoding),
            ("GET /%2g?x HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::PercentEncoding),
            ("GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::PathNotUtf8),
            ("GET /%c0%af HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::PathNotUtf8),
            ("GET /%ed%a0%80 HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest::PathNotUtf8),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", BadRequest::TransferEncoding),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n", BadRequest::TransferEncoding),
        ];
        for (bytes, refusal) in table {
            assert_eq!(parse(bytes.as_bytes()).unwrap_err(), refusal, "{bytes}");
        }
    }

    #[test]
    fn the_message_body_length_is_known_or_the_head_is_refused() {
        let table = [
            ("", Ok(BodyLength::None)),
            ("Content-Length: 0\r\n", Ok(BodyLength::None)),
            ("Content-Length: 5\r\n", Ok(BodyLength::Length(5))),
            ("Content-Length: 0005 \t\r\n", Ok(BodyLength::Length(5))),
            ("Content-Length: 18446744073709551615\r\n", Ok(BodyLength::Length(u64::MAX))),
            ("Content-Length: 18446744073709551616\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: 5, 5\r\n", Ok(BodyLength::Length(5))),
            ("Content-Length: 5\r\nCONTENT-LENGTH: 5\r\n", Ok(BodyLength::Length(5))),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: 5, 6\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: 5, 05\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: 5,\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: ,5\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: 0\r\nContent-Length:\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length:\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: +5\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: -5\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: 5 0\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: 0x5\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: 5;x\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: \"5\"\r\n", Err(BadRequest::ContentLength)),
            ("Content-Length: \u{0665}\r\n", Err(BadRequest::ContentLength)),
            ("Transfer-Encoding: chunked\r\n", Ok(BodyLength::Chunked)),
            ("transfer-encoding:CHUNKED\t\r\n", Ok(BodyLength::Chunked)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(BadRequest::TransferEncoding)),
            ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", Err(BadRequest::TransferEncoding)),
            ("Content-Length:\r\nTransfer-Encoding:\r\n", Err(BadRequest::TransferEncoding)),
            ("Transfer-Encoding: chunked, chunked\r\n", Err(BadRequest::TransferEncoding)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(BadRequest::TransferEncoding)),
            ("Transfer-Encoding: chunked, gzip\r\n", Err(BadRequest::TransferEncoding)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Err(BadRequest::TransferEncoding)),
            ("Transfer-Encoding: chunked,\r\n", Err(BadRequest::TransferEncoding)),
            ("Transfer-Encoding: , chunked\r\n", Err(BadRequest::TransferEncoding)),
            ("Transfer-Encoding:\r\n", Err(BadRequest::TransferEncoding)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(BadRequest::TransferCoding)),
            ("Transfer-Encoding: identity\r\n", Err(BadRequest::TransferCoding)),
            ("Transfer-Encoding: xchunked\r\n", Err(BadRequest::TransferCoding)),
            ("Transfer-Encoding: chunked;q=1\r\n", Err(BadRequest::TransferCoding)),
            ("Transfer-Encoding: \"chunked\"\r\n", Err(BadRequest::TransferCoding)),
            ("Transfer-Encoding: chunked\u{a0}\r\n", Err(BadRequest::TransferCoding)),
        ];
        for (fields, expected) in table {
            assert_eq!(framing(fields), expected, "{fields}");
        }
    }

    #[test]
    fn a_refusal_has_the_status_of_its_limit() {
        let table = [
            (BadRequest::HeadTooLarge, 431),
            (BadRequest::TooManyFields, 431),
            (BadRequest::TargetTooLong, 414),
            (BadRequest::BodyTooLarge, 413),
            (BadRequest::HeadLate, 408),
            (BadRequest::BodyLate, 408),
            (BadRequest::TransferCoding, 501),
            (BadRequest::MajorVersion, 505),
            (BadRequest::Tls, 400),
            (BadRequest::BodyCut, 400),
        ];
        for (refusal, status) in table {
            assert_eq!(refusal.status(), status);
            assert!(!refusal.text().contains('\n'));
        }
    }

    #[test]
    fn a_head_of_eight_kib_is_taken_and_no_larger_one() {
        let filled = |length: usize| {
            let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
            format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4)).into_bytes()
        };
        head(&filled(MAX_HEAD));
        assert!(matches!(parse(&filled(MAX_HEAD)[..MAX_HEAD - 1]), Ok(Parsed::Partial)));
        assert_eq!(parse(&filled(MAX_HEAD + 1)).unwrap_err(), BadRequest::HeadTooLarge);
        assert_eq!(parse(&filled(MAX_HEAD + 1)[..MAX_HEAD]).unwrap_err(), BadRequest::HeadTooLarge);
        assert_eq!(parse(&[b'G'; MAX_HEAD]).unwrap_err(), BadRequest::HeadTooLarge);
    }

    #[test]
    fn a_target_of_four_kib_is_taken_and_no_longer_one() {
        let target = format!("/{}", "x".repeat(MAX_TARGET - 1));
        assert_eq!(head_of(&target, "").path(), target);
        let start = format!("GET {target}");
        assert!(matches!(parse(start.as_bytes()), Ok(Parsed::Partial)));
        assert_eq!(parse(format!("{start}x").as_bytes()).unwrap_err(), BadRequest::TargetTooLong);
    }

    #[test]
    fn sixty_four_fields_are_taken_and_no_more() {
        let start = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(MAX_FIELDS - 1));
        assert_eq!(head(format!("{start}\r\n").as_bytes()).fields_named("x").count(), MAX_FIELDS - 1);
        assert!(matches!(parse(start.as_bytes()), Ok(Parsed::Partial)));
        assert_eq!(parse(format!("{start}X").as_bytes()).unwrap_err(), BadRequest::TooManyFields);
    }

    #[test]
    fn a_token_has_the_bytes_of_rfc_9110() {
        for byte in 0..=u8::MAX {
            let is_tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token_byte(byte), is_tchar, "{byte}");
        }
    }

    #[test]
    fn host_is_a_name_or_an_address_with_an_optional_port() {
        let good = [
            ("a", "a", None),
            ("localhost:3000", "localhost", Some(3000)),
            ("xn--bcher-kva.example.", "xn--bcher-kva.example.", None),
            ("127.0.0.1:", "127.0.0.1", None),
            ("[::1]", "[::1]", None),
            ("[::ffff:1.2.3.4]:65535", "[::ffff:1.2.3.4]", Some(65535)),
        ];
        for (authority, host, port) in good {
            assert_eq!(host_and_port(authority), Some((host, port)));
        }
        let bad = [
            "",
            ":80",
            "a:b",
            "a:+1",
            "a:65536",
            "a:1:2",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]]",
            "[]",
            "[v1.x]",
            "[fe80::1%25e]",
            "a/b",
            "a?b",
            "a b",
            "u@a",
            "a,b",
            "a%41",
            "ä",
            "\u{fffd}",
            "[ä]:1",
            "*",
        ];
        for authority in bad {
            assert_eq!(host_and_port(authority), None, "{authority}");
        }
    }

    #[test]
    fn an_absolute_form_target_overrides_host() {
        let table = [
            ("GET http://b:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "b:81", "/x", "y"),
            ("GET HTTPS://b HTTP/1.1\r\nHost: a\r\n\r\n", "b", "/", ""),
            ("GET http://b?y/z HTTP/1.1\r\nHost: a\r\n\r\n", "b", "/", "y/z"),
            ("GET http://[::1]/ HTTP/1.0\r\n\r\n", "[::1]", "/", ""),
            ("GET //b/x HTTP/1.1\r\nHost: a\r\n\r\n", "a", "//b/x", ""),
        ];
        for (bytes, host, path, query) in table {
            let head = head(bytes.as_bytes());
            assert_eq!((head.host(), head.path(), head.query()), (Some(host), path, query), "{bytes}");
            assert_eq!(head.fields_named("host").count(), 1);
        }
        assert_eq!(head(GOOD[2]).host(), None);
        assert_eq!(head(GOOD[7]).path(), "*");
    }

    #[test]
    fn a_connection_persists_unless_one_end_says_otherwise() {
        let table = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x,\tclose , y\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", true),
            ("GET / HTTP/1.7\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
        ];
        for (bytes, persists) in table {
            assert_eq!(head(bytes.as_bytes()).keep_alive(), persists, "{bytes}");
        }
    }

    #[test]
    fn continue_is_expected_only_where_a_body_follows() {
        let table = [
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200\r\nContent-Length: 1\r\n\r\n", false),
            ("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", false),
        ];
        for (bytes, expected) in table {
            assert_eq!(head(bytes.as_bytes()).expects_continue(), expected, "{bytes}");
        }
    }

    #[test]
    fn accept_tells_an_event_source() {
        let table = [
            ("Accept: text/event-stream\r\n", true),
            ("Accept: text/html, Text/Event-Stream ;q=0.5\r\n", true),
            ("Accept: text/html\r\nAccept: text/event-stream\r\n", true),
            ("Accept: */*\r\n", false),
            ("Accept: text/event-streams\r\n", false),
            ("", false),
        ];
        for (fields, wanted) in table {
            assert_eq!(head_of("/", fields).wants_event_stream(), wanted, "{fields}");
        }
    }
}
