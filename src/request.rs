//! A request, as a handler sees it: its head with query, cookies and token taken out, and its body when asked for.
//!
//! This room does no I/O and reads no clock. The body is read by a closure that the connection hands in, when a handler
//! first asks for it.

use crate::head::{BadRequest, Head, percent_decode, trim};
use crate::response::Response;
use std::cell::LazyCell;
use std::fmt;
use std::net::SocketAddr;

/// How a body is read when it is first asked for.
type ReadBody<'a> = Box<dyn FnOnce() -> Result<Vec<u8>, BadRequest> + 'a>;

/// A request, as a handler sees it.
///
/// ```
/// use tidings::{Request, Response};
///
/// fn answer(request: &Request) -> Response {
///     match (request.method(), request.path()) {
///         ("GET", "/hello") => Response::text(200, format!("hello {}", request.query("name").unwrap_or_default())),
///         _ => Response::text(404, "no such page"),
///     }
/// }
/// ```
pub struct Request<'a> {
    head: Head,
    peer: SocketAddr,
    body: LazyCell<Result<Vec<u8>, BadRequest>, ReadBody<'a>>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(head: Head, peer: SocketAddr, body: ReadBody<'a>) -> Request<'a> {
        Request { head, peer, body: LazyCell::new(body) }
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// The method. `HEAD` is shown as `GET`: answer it as that, the server leaves the body off.
    pub fn method(&self) -> &str {
        if self.head.is_head() { "GET" } else { self.head.method() }
    }

    /// The path, percent-decoded, without the query. Dot segments are not resolved; it may hold control characters.
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// The value of a field, its name in any case; of repeated ones the first. Bytes that are not UTF-8 are U+FFFD.
    ///
    /// `host` is the authority of an absolute-form target, if the request has one.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// A parameter of the query, decoded as a form (`+` is a space); of repeated ones the last.
    pub fn query(&self, name: &str) -> Option<String> {
        let mut pairs = self.head.query().rsplit('&').filter(|pair| !pair.is_empty());
        pairs.find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(key) == name).then(|| decode_form(value))
        })
    }

    /// The value of a cookie, without quotes around it; of repeated ones the first, which has the most specific path
    /// (RFC 6265, section 5.4).
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.fields_named("cookie").flat_map(|value| value.split(';'));
        pairs.find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let value = trim(value);
            let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            (trim(key) == name).then_some(unquoted.unwrap_or(value))
        })
    }

    /// The body, which is read when it is first asked for: up to then the client may still be waiting for
    /// `100 Continue`. Blocks the connection's own thread until it is there.
    ///
    /// # Errors
    ///
    /// The answer to give: 413 for a body over [`Config::max_body`](crate::Config::max_body), 408 for one that took over
    /// 30 s, 400 for one that is framed wrongly or ends early, 431 for chunks with too much beside their data. The server
    /// closes the connection after each of them.
    pub fn body(&self) -> Result<&[u8], Response> {
        match &*self.body {
            Ok(body) => Ok(body),
            Err(refusal) => Err(Response::text(refusal.status(), refusal.text())),
        }
    }

    /// The other end of the connection: the client, or the proxy in front.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Where the client wants to resume: `Last-Event-ID`, else `?lastEventId=`, else `?last_event_id=`. Empty ones
    /// count as absent.
    ///
    /// The parameters are for clients that cannot set a field, such as an EventSource that the page made anew.
    pub fn last_event_id(&self) -> Option<String> {
        let given = |id: &String| !id.is_empty();
        let field = self.field("last-event-id").map(str::to_owned).filter(given);
        field.or_else(|| self.query("lastEventId").filter(given)).or_else(|| self.query("last_event_id").filter(given))
    }

    /// Whether the request carries the secret, in any of four places: `Authorization: Bearer`, a `token` field, a
    /// `token` cookie, `?token=`. An empty secret is carried by nobody.
    ///
    /// All four are looked at and compared in constant time, so that the time taken tells neither how much of a guess
    /// was right nor where. It may tell the length of the secret.
    pub fn has_token(&self, secret: &str) -> bool {
        let authorization = self.field("authorization").and_then(|value| value.split_once(' '));
        let bearer =
            authorization.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| trim(token));
        let query = self.query("token");
        let places = [bearer, self.field("token"), self.cookie("token"), query.as_deref()];
        let found = places.map(|place| place.is_some_and(|token| same_bytes(token.as_bytes(), secret.as_bytes())));
        found.iter().fold(false, |any, one| any | one) && !secret.is_empty()
    }
}

/// Decodes one name or value of a query as the URL standard's form parser does (url.spec.whatwg.org, section 5.1): it
/// has no errors, a `%` that begins no escape stays what it is and bytes that are not UTF-8 become U+FFFD.
fn decode_form(raw: &str) -> String {
    let decoded = percent_decode(raw, |byte| Some(if byte == b'+' { b' ' } else { byte }));
    String::from_utf8_lossy(&decoded.unwrap_or_default()).into_owned()
}

/// Neither field values nor the query: they may hold a token.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, path) = (self.head.method(), self.head.raw_path());
        out.debug_struct("Request")
            .field("method", &method)
            .field("path", &path)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Compares all bytes, wherever the first difference is. The black box keeps the compiler from leaving the loop early.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |differences, (a, b)| std::hint::black_box(differences | (a ^ b)));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Parsed, parse};
    use std::cell::Cell;

    fn head(bytes: &[u8]) -> Head {
        match parse(bytes) {
            Ok(Parsed::Complete { head, .. }) => head,
            other => panic!("{other:?}"),
        }
    }

    /// A request for `target` with these field lines and a Host.
    fn request(target: &str, fields: &str) -> Request<'static> {
        let head = head(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        Request::new(head, ([127, 0, 0, 1], 1).into(), Box::new(|| Ok(Vec::new())))
    }

    #[test]
    fn a_query_is_read_as_the_form_parser_of_the_url_standard_reads_it() {
        let table = [
            ("/", None),
            ("/?", None),
            ("/?b=1", None),
            ("/?A=1", None),
            ("/?a", Some("")),
            ("/?a=", Some("")),
            ("/?a=1&a=2&b=3", Some("2")),
            ("/?&&a=1=2&", Some("1=2")),
            ("/?a=x+y%20z%2B", Some("x y z+")),
            ("/?%61=%E4%BD%A0", Some("你")),
            ("/?a=%&a=%4&a=100%+%zz", Some("100% %zz")),
            ("/?a=%ff%00", Some("\u{fffd}\0")),
            ("/?a=1?a=2", Some("1?a=2")),
            ("/?a=1;a=2", Some("1;a=2")),
        ];
        for (target, value) in table {
            assert_eq!(request(target, "").query("a").as_deref(), value, "{target}");
        }
    }

    #[test]
    fn cookies_are_read_as_rfc_6265_says() {
        let table = [
            ("", None),
            ("Cookie: a=1\r\n", Some("1")),
            ("Cookie: b=2; a=1; a=3\r\n", Some("1")),
            ("Cookie: b=2;a = 1 ;c\r\n", Some("1")),
            ("Cookie: a=\"1\"\r\n", Some("1")),
            ("Cookie: a=\"\r\n", Some("\"")),
            ("Cookie: a=x=y\r\n", Some("x=y")),
            ("Cookie: a=\r\n", Some("")),
            ("Cookie: a; A=1; xa=1\r\n", None),
            ("Cookie: b=2\r\nCookie: a=1\r\n", Some("1")),
        ];
        for (fields, value) in table {
            assert_eq!(request("/", fields).cookie("a"), value, "{fields}");
        }
    }

    #[test]
    fn the_last_event_id_is_the_field_then_the_parameters() {
        let table = [
            ("/?lastEventId=2&last_event_id=3", "Last-Event-ID: 1\r\n", Some("1")),
            ("/?lastEventId=2&last_event_id=3", "Last-Event-ID:\r\n", Some("2")),
            ("/?lastEventId=&last_event_id=3&last_event_id=4", "", Some("4")),
            ("/", "last-event-id: 你\r\n", Some("你")),
            ("/?last_event_id=", "", None),
        ];
        for (target, fields, id) in table {
            assert_eq!(request(target, fields).last_event_id().as_deref(), id, "{target} {fields}");
        }
    }

    #[test]
    fn a_token_is_taken_from_four_places() {
        let table = [
            ("/", "Authorization: Bearer s3cret\r\n", true),
            ("/", "Authorization: bearer  s3cret\r\n", true),
            ("/", "Token: s3cret\r\n", true),
            ("/", "Cookie: x=y; token=s3cret\r\n", true),
            ("/?token=s%33cret", "", true),
            ("/?token=wrong", "Authorization: Bearer wrong\r\ntoken: wrong\r\nCookie: token=s3cret\r\n", true),
            ("/?token=s3cret&token=wrong", "", false),
            ("/", "", false),
            ("/", "Authorization: Basic s3cret\r\n", false),
            ("/", "Authorization: s3cret\r\n", false),
            ("/", "Token: S3cret\r\n", false),
            ("/", "Token: s3cre\r\n", false),
            ("/", "Token: s3crets\r\n", false),
            ("/?token=", "Token:\r\n", false),
        ];
        for (target, fields, admitted) in table {
            assert_eq!(request(target, fields).has_token("s3cret"), admitted, "{target} {fields}");
        }
        assert!(!request("/?token=", "Token:\r\n").has_token(""));
    }

    #[test]
    fn a_body_is_read_once_and_when_asked_for() {
        let reads = Cell::new(0);
        let read = || {
            reads.set(reads.get() + 1);
            Ok(b"x".to_vec())
        };
        let request = Request::new(
            head(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"),
            ([127, 0, 0, 1], 1).into(),
            Box::new(read),
        );
        assert_eq!(reads.get(), 0);
        assert_eq!(request.body().unwrap(), b"x");
        assert_eq!(request.body().unwrap(), b"x");
        assert_eq!(reads.get(), 1);
        let late = Request::new(
            head(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"),
            ([127, 0, 0, 1], 1).into(),
            Box::new(|| Err(BadRequest::BodyLate)),
        );
        assert_eq!((late.body().unwrap_err().status(), late.body().unwrap_err().status()), (408, 408));
    }

    #[test]
    fn head_is_shown_as_get() {
        let request =
            Request::new(head(b"HEAD / HTTP/1.0\r\n\r\n"), ([127, 0, 0, 1], 1).into(), Box::new(|| Ok(Vec::new())));
        assert!(request.head().is_head());
        assert_eq!((request.method(), request.head().method()), ("GET", "HEAD"));
        assert!(!format!("{:?}", self::request("/a?token=s", "token: s\r\n")).contains("token"));
    }
}
