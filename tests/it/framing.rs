//! Where a request ends is where the next one begins. A server that reads that otherwise than the proxy in front of it
//! lets one client put words into another's mouth (request smuggling), so what could be read in two ways is refused, and
//! the connection closed with it.
//!
//! One table says what becomes of a request, and by which section: RFC 9112 if no other is named. Each row is sent in
//! several ways, with a further request behind it, which must be answered as itself or not at all.

use crate::support::{Client, InProcess, Random, seeds};
use Expected::{Last, Refused, Taken};
use Place::{Chunks, Coding, Field, Host, Length, Line, Target, Whole};
use std::sync::{Arc, Mutex};
use tidings::{Access, Config, Request, Response};

/// What of a request a row is about; the rest is ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// All of it.
    Whole,
    /// The request line.
    Line,
    /// The request target.
    Target,
    /// The field lines where Host belongs.
    Host,
    /// A field line behind Host.
    Field,
    /// The field lines before the body `hello`.
    Length,
    /// The field lines before the same body as a chunk.
    Coding,
    /// The chunked body.
    Chunks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Answered, and so is the next request. With what was understood: method, path, host and body.
    Taken(&'static str),
    /// Answered, and then the connection is closed.
    Last(&'static str),
    /// Refused with this status, and the connection closed.
    Refused(u16),
}

const TABLE: &[(Place, &[u8], Expected, &str)] = &[
    // The request line.
    (Line, b"GET / HTTP/1.1", Taken("GET / a"), "3"),
    (Line, b"get / HTTP/1.1", Taken("get / a"), "9110, 9.1: case-sensitive, and another method"),
    (Line, b"M!#$%&'*+-.^_`|~09 / HTTP/1.1", Taken("M!#$%&'*+-.^_`|~09 / a"), "9110, 5.6.2"),
    (Line, b"GET  / HTTP/1.1", Refused(400), "3: a single space"),
    (Line, b"GET /  HTTP/1.1", Refused(400), "3: a single space"),
    (Line, b"GET\t/ HTTP/1.1", Refused(400), "3: a single space"),
    (Line, b"GET /\tHTTP/1.1", Refused(400), "3: a single space"),
    (Line, b"GET\x0b/ HTTP/1.1", Refused(400), "3: a single space"),
    (Line, b"GET /\x0cHTTP/1.1", Refused(400), "3: a single space"),
    (Line, b"GET\xa0/ HTTP/1.1", Refused(400), "3: a single space"),
    (Line, b" GET / HTTP/1.1", Refused(400), "3"),
    (Line, b"\tGET / HTTP/1.1", Refused(400), "3"),
    (Line, b"GET / HTTP/1.1 ", Refused(400), "3"),
    (Line, b"GET / HTTP/1.1\t", Refused(400), "3"),
    (Line, b"GET / HTTP/1.1 HTTP/1.1", Refused(400), "3"),
    (Line, b"GET / /smuggled HTTP/1.1", Refused(400), "3.2: no white space in a target"),
    (Line, b"GET /a b HTTP/1.1", Refused(400), "3.2: no white space in a target"),
    (Line, b" / HTTP/1.1", Refused(400), "3: no method"),
    (Line, b"/ HTTP/1.1", Refused(400), "3: no method"),
    (Line, b"GET HTTP/1.1", Refused(400), "3: no target"),
    (Line, b"GET", Refused(400), "3"),
    (Line, b"GET /", Refused(400), "3: a simple request of HTTP/0.9"),
    (Line, b"GET / ", Refused(400), "3"),
    (Line, b"G(T / HTTP/1.1", Refused(400), "9110, 5.6.2"),
    (Line, b"GET: / HTTP/1.1", Refused(400), "9110, 5.6.2"),
    (Line, b"\"GET\" / HTTP/1.1", Refused(400), "9110, 5.6.2"),
    (Line, b"G\xc3\x89T / HTTP/1.1", Refused(400), "9110, 5.6.2"),
    (Line, b"\xef\xbb\xbfGET / HTTP/1.1", Refused(400), "9110, 5.6.2: a byte order mark"),
    (Line, b"GET / HTTP/1.1\rX: y", Refused(400), "2.2: a bare CR"),
    (Line, b"GET / HTTP/1.1\nX: y", Refused(400), "2.2: a bare LF may be refused"),
    (Line, b"GET /\r HTTP/1.1", Refused(400), "2.2"),
    (Line, b"GET /\n HTTP/1.1", Refused(400), "2.2"),
    (Line, b"GET / HTTP/1.1\r\r", Refused(400), "2.2"),
    (Line, b"Host: a", Refused(400), "3"),
    (Line, b"HTTP/1.1 200 OK", Refused(400), "2.1: a response is no request"),
    // The version.
    (Line, b"GET / HTTP/1.2", Taken("GET / a"), "9110, 2.5: a later minor version is the one that is known"),
    (Line, b"GET / HTTP/1.9", Taken("GET / a"), "9110, 2.5"),
    (Line, b"GET / HTTP/1.0", Last("GET / a"), "9.3"),
    (Line, b"GET / HTTP/0.9", Refused(505), "9110, 15.6.6"),
    (Line, b"GET / HTTP/0.1", Refused(505), "9110, 15.6.6"),
    (Line, b"GET / HTTP/2.0", Refused(505), "9110, 15.6.6"),
    (Line, b"GET / HTTP/2", Refused(505), "9110, 15.6.6"),
    (Line, b"GET / HTTP/3.0", Refused(505), "9110, 15.6.6"),
    (Line, b"GET / HTTP/9.9", Refused(505), "9110, 15.6.6"),
    (Line, b"GET / http/1.1", Refused(400), "2.3: case-sensitive"),
    (Line, b"GET / Http/1.1", Refused(400), "2.3"),
    (Line, b"GET / HTTP/1", Refused(400), "2.3"),
    (Line, b"GET / HTTP/1.", Refused(400), "2.3"),
    (Line, b"GET / HTTP/.1", Refused(400), "2.3"),
    (Line, b"GET / HTTP/1.10", Refused(400), "2.3: one digit"),
    (Line, b"GET / HTTP/11.1", Refused(400), "2.3: one digit"),
    (Line, b"GET / HTTP/1.1.1", Refused(400), "2.3"),
    (Line, b"GET / HTTP/1,1", Refused(400), "2.3"),
    (Line, b"GET / HTTP/+1.1", Refused(400), "2.3"),
    (Line, b"GET / HTTP/1.x", Refused(400), "2.3"),
    (Line, b"GET / HTTP1.1", Refused(400), "2.3"),
    (Line, b"GET / HTTP /1.1", Refused(400), "2.3"),
    (Line, b"GET / HTTP/ 1.1", Refused(400), "2.3"),
    (Line, b"GET / HTTP\\1.1", Refused(400), "2.3"),
    (Line, b"GET / HTTPS/1.1", Refused(400), "2.3"),
    (Line, b"GET / RTSP/1.0", Refused(400), "2.3"),
    // What stands before a request, and what is none.
    (Whole, b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Taken("GET / a"), "2.2: an empty line before is ignored"),
    (Whole, b"\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Taken("GET / a"), "2.2"),
    (Whole, b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "2.2: they are bounded"),
    (Whole, b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "2.2"),
    (Whole, b"\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "2.2"),
    (Whole, b" \r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "2.2"),
    (Whole, b"\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "2.2"),
    (Whole, b"\0GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "2.2"),
    (Whole, b"GET /\r\n", Refused(400), "3: HTTP/0.9 is over"),
    (Whole, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", Refused(505), "9113, 3.4: made to be refused"),
    (Whole, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", Refused(400), "8446, 5.1: TLS"),
    (Whole, b"\x80\x2e\x01\x03\x01\0\x15", Refused(400), "5246, E.2: TLS in an older form"),
    (Whole, b"SSH-2.0-OpenSSH_9.2\r\n", Refused(400), "3"),
    (Whole, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400), "3"),
    (Whole, b"hello\r\n\r\n", Refused(400), "3"),
    (Whole, b"{\"a\":1}", Refused(400), "3"),
    // The target.
    (Target, b"/", Taken("GET / a"), "3.2.1"),
    (Target, b"/?", Taken("GET / a"), "3.2.1"),
    (Target, b"/x?a=b?c&%zz", Taken("GET /x a"), "3.2.1"),
    (Target, b"//b/x", Taken("GET //b/x a"), "3.2.1: no authority"),
    (Target, b"/http://b/", Taken("GET /http://b/ a"), "3.2.1"),
    (Target, b"/../x/./y", Taken("GET /../x/./y a"), "3986, 6.2.2.3: equal to others for who wants to see that"),
    (Target, b"/%41%2f%20%2520", Taken("GET /A/ %20 a"), "3986, 2.4: decoded once"),
    (Target, b"/%C3%a9", Taken("GET /\u{e9} a"), "3986, 2.1"),
    (Target, b"/%00%0d%0a", Taken("GET /\\0\\r\\n a"), "3986, 2.1: decoded after the head was read"),
    (
        Target,
        b"/a\\b\"<>^`{|}[]",
        Taken("GET /a\\\\b\\\"<>^`{|}[] a"),
        "3986, 2: no delimiters in HTTP, and browsers send them",
    ),
    (Target, b"http://b/x", Taken("GET /x b"), "3.2.2: Host is ignored"),
    (Target, b"http://b", Taken("GET / b"), "3.2.2"),
    (Target, b"http://b?x/y", Taken("GET / b"), "3.2.2"),
    (Target, b"HTTP://b:80/", Taken("GET / b:80"), "9110, 4.2.3: a scheme has no case"),
    (Target, b"https://[::1]:3000/x", Taken("GET /x [::1]:3000"), "3.2.2"),
    (Target, b"http:///x", Refused(400), "9110, 4.2.1: an empty host"),
    (Target, b"http://:80/x", Refused(400), "9110, 4.2.1"),
    (Target, b"http://", Refused(400), "9110, 4.2.1"),
    (Target, b"http://u@b/", Refused(400), "9110, 4.2.4: userinfo"),
    (Target, b"http://u:p@b/", Refused(400), "9110, 4.2.4"),
    (Target, b"http://@b/", Refused(400), "9110, 4.2.4"),
    (Target, b"http://a\\@b/", Refused(400), "3986, 3.2"),
    (Target, b"http://b:x/", Refused(400), "3986, 3.2.3"),
    (Target, b"http://b:80:80/", Refused(400), "3986, 3.2.3"),
    (Target, b"http://b:65536/", Refused(400), "3986, 3.2.3"),
    (Target, b"http://[::1/", Refused(400), "3986, 3.2.2"),
    (Target, b"http://::1/", Refused(400), "3986, 3.2.2"),
    (Target, b"http:/x", Refused(400), "9110, 4.2.1"),
    (Target, b"http:x", Refused(400), "9110, 4.2.1"),
    (Target, b"ftp://b/", Refused(400), "3.2.2: another scheme"),
    (Target, b"javascript://b/", Refused(400), "3.2.2"),
    (Target, b"://b/", Refused(400), "3.2.2"),
    (Target, b"b", Refused(400), "3.2"),
    (Target, b"x/y", Refused(400), "3.2"),
    (Target, b"?x", Refused(400), "3.2"),
    (Target, b"\\x", Refused(400), "3.2"),
    (Target, b"%2f", Refused(400), "3.2"),
    (Target, b"b:80", Refused(400), "3.2.3: authority-form is for CONNECT"),
    (Target, b"*", Refused(400), "3.2.4: asterisk-form is for OPTIONS"),
    (Line, b"OPTIONS * HTTP/1.1", Taken("OPTIONS * a"), "3.2.4"),
    (Line, b"OPTIONS /x HTTP/1.1", Taken("OPTIONS /x a"), "3.2.1"),
    (Line, b"OPTIONS *? HTTP/1.1", Refused(400), "3.2.4"),
    (Line, b"OPTIONS ** HTTP/1.1", Refused(400), "3.2.4"),
    (Line, b"OPTIONS */x HTTP/1.1", Refused(400), "3.2.4"),
    (Line, b"CONNECT b:80 HTTP/1.1", Refused(400), "3.2.3: there are no tunnels"),
    (Line, b"CONNECT / HTTP/1.1", Refused(400), "3.2.3"),
    (Line, b"CONNECT http://b/ HTTP/1.1", Refused(400), "3.2.3"),
    (Target, b"/#x", Refused(400), "3.2: no fragment"),
    (Target, b"/x#", Refused(400), "3.2"),
    (Target, b"/?x#y", Refused(400), "3.2"),
    (Target, b"http://b/#x", Refused(400), "3.2"),
    (Target, b"/%", Refused(400), "3986, 2.1"),
    (Target, b"/%4", Refused(400), "3986, 2.1"),
    (Target, b"/%4?x", Refused(400), "3986, 2.1"),
    (Target, b"/%4g", Refused(400), "3986, 2.1"),
    (Target, b"/%zz", Refused(400), "3986, 2.1"),
    (Target, b"/%%41", Refused(400), "3986, 2.1"),
    (Target, b"/%+1", Refused(400), "3986, 2.1"),
    (Target, b"/%u0041", Refused(400), "3986, 2.1"),
    (Target, b"/%ff", Refused(400), "3629, 3: no UTF-8"),
    (Target, b"/%c0%af", Refused(400), "3629, 3: too long a form"),
    (Target, b"/%ed%a0%80", Refused(400), "3629, 3: half a surrogate pair"),
    (Target, b"/%c3", Refused(400), "3629, 3"),
    (Target, b"/\xc3\xa9", Refused(400), "3986, 2: not beyond ASCII"),
    (Target, b"/?\xc3\xa9", Refused(400), "3986, 2"),
    (Target, b"/\xff", Refused(400), "3986, 2"),
    (Target, b"/\x7f", Refused(400), "3986, 2"),
    (Target, b"/\x01", Refused(400), "3986, 2"),
    (Target, b"/\0", Refused(400), "3986, 2"),
    // Host.
    (Host, b"Host: a\r\n", Taken("GET / a"), "3.2"),
    (Host, b"hOST:a\r\n", Taken("GET / a"), "5: a name has no case"),
    (Host, b"Host: \t a:80\t \r\n", Taken("GET / a:80"), "5.1"),
    (Host, b"Host: a:\r\n", Taken("GET / a:"), "3986, 3.2.3"),
    (Host, b"Host: [::1]:80\r\n", Taken("GET / [::1]:80"), "3986, 3.2.2"),
    (Host, b"Host: 127.0.0.1\r\n", Taken("GET / 127.0.0.1"), "3986, 3.2.2"),
    (Host, b"Host: a_b-c.example.\r\n", Taken("GET / a_b-c.example."), "3986, 3.2.2"),
    (Host, b"", Refused(400), "3.2: it must be there"),
    (Host, b"X-Forwarded-Host: a\r\n", Refused(400), "3.2"),
    (Host, b"Host: a\r\nHost: a\r\n", Refused(400), "3.2: once"),
    (Host, b"Host: a\r\nHost: b\r\n", Refused(400), "3.2"),
    (Host, b"Host: a\r\nX: y\r\nhost: b\r\n", Refused(400), "3.2"),
    (Host, b"Host: a\r\nHost:\r\n", Refused(400), "3.2"),
    (Host, b"Host: a, b\r\n", Refused(400), "3.2"),
    (Host, b"Host: a,a\r\n", Refused(400), "3.2"),
    (Host, b"Host: a b\r\n", Refused(400), "3986, 3.2.2"),
    (Host, b"Host:\r\n", Refused(400), "9110, 4.2.1: an http URL has a host"),
    (Host, b"Host: :80\r\n", Refused(400), "9110, 4.2.1"),
    (Host, b"Host: u@a\r\n", Refused(400), "9110, 7.2: no userinfo"),
    (Host, b"Host: a/b\r\n", Refused(400), "9110, 7.2"),
    (Host, b"Host: a?b\r\n", Refused(400), "9110, 7.2"),
    (Host, b"Host: a#b\r\n", Refused(400), "9110, 7.2"),
    (Host, b"Host: a\\b\r\n", Refused(400), "9110, 7.2"),
    (Host, b"Host: http://a\r\n", Refused(400), "9110, 7.2"),
    (Host, b"Host: a:b\r\n", Refused(400), "3986, 3.2.3"),
    (Host, b"Host: a:+80\r\n", Refused(400), "3986, 3.2.3"),
    (Host, b"Host: a:80:80\r\n", Refused(400), "3986, 3.2.3"),
    (Host, b"Host: a:65536\r\n", Refused(400), "3986, 3.2.3"),
    (Host, b"Host: a: 80\r\n", Refused(400), "3986, 3.2.3"),
    (Host, b"Host: ::1\r\n", Refused(400), "3986, 3.2.2"),
    (Host, b"Host: [::1\r\n", Refused(400), "3986, 3.2.2"),
    (Host, b"Host: [::1]a\r\n", Refused(400), "3986, 3.2.2"),
    (Host, b"Host: [a]\r\n", Refused(400), "3986, 3.2.2"),
    (Host, b"Host: a%2eb\r\n", Refused(400), "3986, 3.2.2 allows it; no name has it"),
    (Host, b"Host: \"a\"\r\n", Refused(400), "3986, 3.2.2"),
    (Host, b"Host: *\r\n", Refused(400), "3986, 3.2.2 allows it; no name has it"),
    (Host, b"Host: \xc3\xa4\r\n", Refused(400), "3986, 3.2.2"),
    (Host, b"Host : a\r\n", Refused(400), "5.1"),
    (Host, b" Host: a\r\n", Refused(400), "2.2: white space before the first field"),
    (Host, b"\r\nHost: a\r\n", Refused(400), "3.2: behind the head"),
    (Whole, b"GET / HTTP/1.0\r\n\r\n", Last("GET /"), "3.2: HTTP/1.0 had none"),
    (Whole, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400), "3.2"),
    (Whole, b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", Refused(400), "3.2"),
    (Whole, b"GET / HTTP/1.2\r\n\r\n", Refused(400), "3.2"),
    (Whole, b"GET http://b/ HTTP/1.1\r\n\r\n", Refused(400), "3.2: also where the target has one"),
    (Whole, b"GET http://b/ HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused(400), "3.2"),
    (Whole, b"GET http://b/ HTTP/1.0\r\n\r\n", Last("GET / b"), "3.2.2"),
    // Field lines.
    (Field, b"X:\r\n", Taken("GET / a"), "5"),
    (Field, b"X:y\r\n", Taken("GET / a"), "5"),
    (Field, b"X: \t y\tz \t\r\n", Taken("GET / a"), "5"),
    (Field, b"X: :y:\r\n", Taken("GET / a"), "5"),
    (Field, b"X: \xe4\xf6\xfc\xff\r\n", Taken("GET / a"), "9110, 5.5: obs-text"),
    (Field, b"X: y\xc2\x85Content-Length: 5\r\n", Taken("GET / a"), "9110, 5.5: Unicode ends no line"),
    (Field, b"X: y\xe2\x80\xa8Transfer-Encoding: chunked\r\n", Taken("GET / a"), "9110, 5.5"),
    (
        Field,
        b"X: y\xe5\x98\x8d\xe5\x98\x8aContent-Length: 5\r\n",
        Taken("GET / a"),
        "9110, 5.5: nor what ends in 0D and 0A",
    ),
    (Field, b"X: \"y\r\n", Taken("GET / a"), "9110, 5.6.4: an open quote closes at the line's end"),
    (Field, b"!#$%&'*+-.^_`|~: y\r\n", Taken("GET / a"), "9110, 5.6.2"),
    (Field, b"X : y\r\n", Refused(400), "5.1: space before the colon"),
    (Field, b"X\t: y\r\n", Refused(400), "5.1"),
    (Field, b"X y\r\n", Refused(400), "5: no colon"),
    (Field, b"X\r\n", Refused(400), "5"),
    (Field, b":\r\n", Refused(400), "5: no name"),
    (Field, b": y\r\n", Refused(400), "5"),
    (Field, b"X Y: z\r\n", Refused(400), "5"),
    (Field, b"X\0: y\r\n", Refused(400), "5"),
    (Field, b"(X): y\r\n", Refused(400), "5"),
    (Field, b"\"X\": y\r\n", Refused(400), "5"),
    (Field, b"X/Y: z\r\n", Refused(400), "5"),
    (Field, b"\xc3\xa4: y\r\n", Refused(400), "5"),
    (Field, b"Tran\xc5\xbffer-Encoding: chunked\r\n", Refused(400), "5: a long s has no case"),
    (Field, b"X: y\r\n z\r\n", Refused(400), "5.2: a folded field"),
    (Field, b"X: y\r\n\tz\r\n", Refused(400), "5.2"),
    (Field, b"X:\r\n y\r\n", Refused(400), "5.2"),
    (Field, b"X: y\r\n \r\n", Refused(400), "5.2"),
    (Field, b"X: y\r\n Content-Length: 5\r\n", Refused(400), "5.2"),
    (Field, b"X: y\0\r\n", Refused(400), "9110, 5.5"),
    (Field, b"X: \x01\r\n", Refused(400), "9110, 5.5"),
    (Field, b"X: y\x08\r\n", Refused(400), "9110, 5.5"),
    (Field, b"X: y\x0bz\r\n", Refused(400), "9110, 5.5"),
    (Field, b"X: y\x0cz\r\n", Refused(400), "9110, 5.5"),
    (Field, b"X: y\x1b[0m\r\n", Refused(400), "9110, 5.5"),
    (Field, b"X: y\x7f\r\n", Refused(400), "9110, 5.5"),
    (Field, b"X: y\rz\r\n", Refused(400), "9110, 5.5"),
    (Field, b"X: y\nZ: z\r\n", Refused(400), "2.2: a bare LF may be refused"),
    (Field, b"X: y\r\r\n", Refused(400), "2.2: a bare CR"),
    (Field, b"X: y\n\r\n", Refused(400), "2.2"),
    (Field, b"X: y\n", Refused(400), "2.2"),
    (Field, b"X: y\r", Refused(400), "2.2"),
    (Field, b"X: y\r\n\n", Refused(400), "2.2"),
    (Field, b"X: y\r\n\r\r\n", Refused(400), "2.2"),
    (Field, b"X: y\rTransfer-Encoding: chunked\r\n", Refused(400), "2.2"),
    (Field, b"X: y\nTransfer-Encoding: chunked\r\n", Refused(400), "2.2"),
    (Field, b"Transfer_Encoding: chunked\r\n", Taken("GET / a"), "5: another name"),
    (Field, b"Content_Length: 5\r\n", Taken("GET / a"), "5"),
    (Field, b"Content-Length-: 5\r\n", Taken("GET / a"), "5"),
    (Field, b"TE: chunked\r\n", Taken("GET / a"), "9110, 10.1.4: about the answer"),
    (Field, b"Content-Encoding: chunked\r\n", Taken("GET / a"), "9110, 8.4: no matter of framing"),
    // Content-Length.
    (Length, b"Content-Length: 5\r\n", Taken("POST / a hello"), "6.2"),
    (Length, b"CONTENT-LENGTH:5\r\n", Taken("POST / a hello"), "5"),
    (Length, b"Content-Length: \t5 \t\r\n", Taken("POST / a hello"), "5.1"),
    (Length, b"Content-Length: 0000000000000000000000000005\r\n", Taken("POST / a hello"), "9110, 8.6"),
    (Length, b"Content-Length: 5\r\nContent-Length: 5\r\n", Taken("POST / a hello"), "6.3: all the same, so valid"),
    (Length, b"Content-Length: 5, 5\r\n", Taken("POST / a hello"), "6.3"),
    (Length, b"Content-Length: 5,5\r\nContent-Length: 5\r\n", Taken("POST / a hello"), "6.3"),
    (
        Length,
        b"Connection: Content-Length\r\nContent-Length: 5\r\n",
        Taken("POST / a hello"),
        "9110, 7.6.1: not to be named",
    ),
    (Length, b"Content-Length: 5\r\nContent-Length: 6\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: 5\r\nContent-Length: 0\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: 0\r\nContent-Length: 5\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: 5, 6\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: 5, 05\r\n", Refused(400), "6.3: the same, but not to everybody"),
    (Length, b"Content-Length: 5,\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: ,5\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: 5,,5\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: 5;5\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length:\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: 5\r\nContent-Length:\r\n", Refused(400), "6.3"),
    (Length, b"Content-Length: +5\r\n", Refused(400), "9110, 8.6: digits"),
    (Length, b"Content-Length: -5\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: -0\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: 0x5\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: 5h\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: 5.0\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: 5e0\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: 1_0\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: 5 5\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: \"5\"\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: five\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: \xd9\xa5\r\n", Refused(400), "9110, 8.6: another script's five"),
    (Length, b"Content-Length: \xef\xbc\x95\r\n", Refused(400), "9110, 8.6: a wide five"),
    (Length, b"Content-Length: 5\xa0\r\n", Refused(400), "9110, 8.6"),
    (Length, b"Content-Length: 5\0\r\n", Refused(400), "9110, 5.5"),
    (Length, b"Content-Length: \x0b5\r\n", Refused(400), "9110, 5.5"),
    (Length, b"Content-Length: 18446744073709551616\r\n", Refused(400), "9110, 8.6: over 64 bits"),
    (Length, b"Content-Length: 18446744073709551621\r\n", Refused(400), "9110, 8.6: 5 in 64 bits"),
    (Length, b"Content-Length: 4294967301\r\n", Refused(413), "9110, 8.6: 5 in 32 bits"),
    (Length, b"Content-Length: 18446744073709551615\r\n", Refused(413), "9110, 15.5.14"),
    (Length, b"Content-Length : 5\r\n", Refused(400), "5.1"),
    (Length, b"Content-Length\r\n: 5\r\n", Refused(400), "5.2"),
    (Length, b"Content-Length:\r\n 5\r\n", Refused(400), "5.2"),
    (Length, b"Content Length: 5\r\n", Refused(400), "5.1"),
    (Whole, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Taken("GET / a hello"), "9110, 9.3.1"),
    (Whole, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Taken("POST / a"), "6.3"),
    (Whole, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", Taken("POST / a"), "6.3: no length is no body"),
    (Whole, b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", Last("POST / hello"), "6.3"),
    (Whole, b"POST / HTTP/1.0\r\n\r\n", Last("POST /"), "6.3"),
    (
        Whole,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 38\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n",
        Taken("POST / a GET /smuggled HTTP/1.1\r\nHost: evil"),
        "6.2: a body, whatever it looks like",
    ),
    (
        Whole,
        b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 38\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n",
        Last("unread"),
        "9.3: a body that is not read is no request",
    ),
    (Whole, b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Last("unread"), "9.3"),
    // Transfer-Encoding.
    (Coding, b"Transfer-Encoding: chunked\r\n", Taken("POST / a hello"), "6.1"),
    (Coding, b"transfer-encoding:CHUNKED\r\n", Taken("POST / a hello"), "7: a coding has no case"),
    (Coding, b"Transfer-Encoding: \t chunked\t \r\n", Taken("POST / a hello"), "5.1"),
    (
        Coding,
        b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        Taken("POST / a hello"),
        "9110, 7.6.1",
    ),
    (Coding, b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n", Refused(400), "6.3: an attempt at smuggling"),
    (Coding, b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n", Refused(400), "6.3"),
    (Coding, b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", Refused(400), "6.3"),
    (Coding, b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n", Refused(400), "6.3"),
    (Coding, b"Content-Length: x\r\nTransfer-Encoding: chunked\r\n", Refused(400), "6.3"),
    (Coding, b"Content-Length:\r\nTransfer-Encoding: chunked\r\n", Refused(400), "6.3"),
    (Coding, b"Content-Length: 15\r\nTransfer-Encoding:\r\n", Refused(400), "6.3"),
    (Coding, b"Transfer-Encoding: chunked, chunked\r\n", Refused(400), "6.1: once"),
    (Coding, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Refused(400), "6.1"),
    (Coding, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Refused(400), "6.3: not the last"),
    (Coding, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", Refused(400), "6.3"),
    (Coding, b"Transfer-Encoding: chunked, gzip\r\n", Refused(400), "6.3"),
    (Coding, b"Transfer-Encoding: chunked, gzip, chunked\r\n", Refused(400), "6.1"),
    (Coding, b"Transfer-Encoding: gzip, chunked\r\n", Refused(501), "6.1"),
    (Coding, b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Refused(501), "6.1"),
    (Coding, b"Transfer-Encoding: identity, chunked\r\n", Refused(501), "7: identity is over"),
    // By 6.3 a server that does not understand these may as well answer 400.
    (Coding, b"Transfer-Encoding: identity\r\n", Refused(501), "7"),
    (Coding, b"Transfer-Encoding: gzip\r\n", Refused(501), "6.1"),
    (Coding, b"Transfer-Encoding: xchunked\r\n", Refused(501), "6.1"),
    (Coding, b"Transfer-Encoding: chunkedx\r\n", Refused(501), "6.1"),
    (Coding, b"Transfer-Encoding: x chunked\r\n", Refused(501), "6.1"),
    (Coding, b"Transfer-Encoding: chunked x\r\n", Refused(501), "6.1"),
    (Coding, b"Transfer-Encoding: chunked;q=1\r\n", Refused(501), "7: it has no parameters"),
    (Coding, b"Transfer-Encoding: chunked;\r\n", Refused(501), "7"),
    (Coding, b"Transfer-Encoding: \"chunked\"\r\n", Refused(501), "7"),
    (Coding, b"Transfer-Encoding: 'chunked'\r\n", Refused(501), "7"),
    (Coding, b"Transfer-Encoding: [chunked]\r\n", Refused(501), "7"),
    (Coding, b"Transfer-Encoding: chunked\xa0\r\n", Refused(501), "7"),
    (Coding, b"Transfer-Encoding: \xc2\xa0chunked\r\n", Refused(501), "7"),
    (Coding, b"Transfer-Encoding: \xef\xbb\xbfchunked\r\n", Refused(501), "7"),
    (Coding, b"Transfer-Encoding: chun\xe2\x84\xaaed\r\n", Refused(501), "7: a Kelvin sign has no case"),
    (Coding, b"Transfer-Encoding: , chunked\r\n", Refused(400), "6.1"),
    (Coding, b"Transfer-Encoding: chunked,\r\n", Refused(400), "6.1"),
    (Coding, b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n", Refused(400), "6.1"),
    (Coding, b"Transfer-Encoding:\r\n", Refused(400), "6.1"),
    (Coding, b"Transfer-Encoding:\x0bchunked\r\n", Refused(400), "9110, 5.5"),
    (Coding, b"Transfer-Encoding: \0chunked\r\n", Refused(400), "9110, 5.5"),
    (Coding, b"Transfer-Encoding: chunked\x7f\r\n", Refused(400), "9110, 5.5"),
    (Coding, b"Transfer-Encoding: chunked\r \r\n", Refused(400), "9110, 5.5"),
    (Coding, b"Transfer-Encoding : chunked\r\n", Refused(400), "5.1"),
    (Coding, b"Transfer-Encoding\t: chunked\r\n", Refused(400), "5.1"),
    (Coding, b"Transfer-Encoding\r\n: chunked\r\n", Refused(400), "5.2"),
    (Coding, b"Transfer-Encoding:\r\n chunked\r\n", Refused(400), "5.2"),
    (Coding, b"Transfer-Encoding:\r\n\tchunked\r\n", Refused(400), "5.2"),
    (Coding, b"X: y\r\n Transfer-Encoding: chunked\r\n", Refused(400), "5.2"),
    (Coding, b"Transfer-Encoding: chunked\r\n , identity\r\n", Refused(400), "5.2"),
    (Coding, b"Transfer-Encoding: chunked\n", Refused(400), "2.2"),
    (
        Whole,
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Taken("GET / a hello"),
        "6.1",
    ),
    (
        Whole,
        b"POST / HTTP/1.2\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Taken("POST / a hello"),
        "9110, 2.5",
    ),
    (Whole, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400), "6.1"),
    (Whole, b"POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\nhello", Refused(400), "6.1"),
    (
        Whole,
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
        "6.1",
    ),
    // The chunked body.
    (Chunks, b"0\r\n\r\n", Taken("POST / a"), "7.1"),
    (Chunks, b"5\r\nhello\r\n0\r\n\r\n", Taken("POST / a hello"), "7.1"),
    (Chunks, b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", Taken("POST / a hello"), "7.1"),
    (Chunks, b"a\r\n0123456789\r\nB\r\n01234567890\r\n0\r\n\r\n", Taken("POST / a 012345678901234567890"), "7.1"),
    (Chunks, b"0000000000000005\r\nhello\r\n00\r\n\r\n", Taken("POST / a hello"), "7.1"),
    (Chunks, b"7\r\n0\r\n\r\nab\r\n0\r\n\r\n", Taken("POST / a 0\r\n\r\nab"), "7.1: data, whatever it looks like"),
    (Chunks, b"5;x\r\nhello\r\n0;x\r\n\r\n", Taken("POST / a hello"), "7.1.1: unknown extensions are ignored"),
    (Chunks, b"5;x=y;z\r\nhello\r\n0\r\n\r\n", Taken("POST / a hello"), "7.1.1"),
    (Chunks, b"5;x=\"y;z\\\" 6\"\r\nhello\r\n0\r\n\r\n", Taken("POST / a hello"), "7.1.1"),
    (Chunks, b"5 \t; x = y\r\nhello\r\n0\r\n\r\n", Taken("POST / a hello"), "7.1.1: bad white space"),
    (Chunks, b"5;\r\nhello\r\n0;=;\r\n\r\n", Taken("POST / a hello"), "7.1.1: no name, and one reading nevertheless"),
    (Chunks, b"5;x=\"y\r\nhello\r\n0\r\n\r\n", Taken("POST / a hello"), "7.1.1: a quote hides no line end"),
    (Chunks, b"5;\xff\r\nhello\r\n0\r\n\r\n", Taken("POST / a hello"), "7.1.1"),
    (Chunks, b"5\r\nhello\r\n0\r\nX: y\r\nZ:\r\n\r\n", Taken("POST / a hello"), "7.1.2: trailers"),
    (Chunks, b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n", Taken("POST / a hello"), "9110, 6.5.1: not to be merged"),
    (Chunks, b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n", Taken("POST / a hello"), "9110, 6.5.1"),
    (Chunks, b"5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n", Taken("POST / a hello"), "9110, 6.5.1"),
    (Chunks, b"5\r\nhello\r\n0\r\nConnection: close\r\n\r\n", Taken("POST / a hello"), "9110, 6.5.1"),
    (Chunks, b"+5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1: hexadecimal digits"),
    (Chunks, b"-5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"0x5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5h\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5.\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"0_5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5,5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"\"5\"\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b" 5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"\t5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5 \r\nhello\r\n0\r\n\r\n", Refused(400), "7.1: white space without an extension"),
    (Chunks, b"5\t\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5 5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5\0\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5\x0b\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"\r\n\r\n", Refused(400), "7.1: no size"),
    (Chunks, b"\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b";x\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"hello", Refused(400), "7.1"),
    (Chunks, b"00000000000000005\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1: bounded digits"),
    (Chunks, b"10000000000000005\r\nhello\r\n0\r\n\r\n", Refused(413), "7.1: 5 in 64 bits"),
    (Chunks, b"100000005\r\nhello\r\n0\r\n\r\n", Refused(413), "7.1: 5 in 32 bits"),
    (Chunks, b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", Refused(413), "7.1"),
    (Chunks, b"5\nhello\r\n0\r\n\r\n", Refused(400), "7.1: CRLF"),
    (Chunks, b"5\rhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5\r\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5;x\nhello\r\n0\r\n\r\n", Refused(400), "7.1.1"),
    (Chunks, b"5;x\rhello\r\n0\r\n\r\n", Refused(400), "7.1.1"),
    (Chunks, b"5;x=\"\n\"\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1.1: a quote hides no line end"),
    (Chunks, b"5;x\0\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1.1"),
    (Chunks, b"5;x=\x7f\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1.1"),
    (Chunks, b"5\r\nhello0\r\n\r\n", Refused(400), "7.1: no CRLF behind the data"),
    (Chunks, b"5\r\nhello\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5\r\nhello\r0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5\r\nhello\r\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5\r\nhello \r\n0\r\n\r\n", Refused(400), "7.1: more data than was said"),
    (Chunks, b"6\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1: less data than was said"),
    (Chunks, b"4\r\nhello\r\n0\r\n\r\n", Refused(400), "7.1"),
    (Chunks, b"5\r\nhello\r\n\r\n", Refused(400), "7.1: no last chunk"),
    (Chunks, b"0\n\n", Refused(400), "7.1"),
    (Chunks, b"0\r\n\n", Refused(400), "7.1"),
    (Chunks, b"0\r\n\r\r\n", Refused(400), "7.1"),
    (Chunks, b"0\r\n", Refused(400), "7.1: the next request is no trailer"),
    (Chunks, b"0\r\nX: y\r\n", Refused(400), "7.1"),
    (Chunks, b"0\r\nX : y\r\n\r\n", Refused(400), "5.1"),
    (Chunks, b"0\r\nX\r\n\r\n", Refused(400), "5"),
    (Chunks, b"0\r\n: y\r\n\r\n", Refused(400), "5"),
    (Chunks, b"0\r\n X: y\r\n\r\n", Refused(400), "5.2"),
    (Chunks, b"0\r\nX: y\r\n z\r\n\r\n", Refused(400), "5.2"),
    (Chunks, b"0\r\nX: y\n\r\n", Refused(400), "2.2"),
    (Chunks, b"0\r\nX: y\rz\r\n\r\n", Refused(400), "2.2"),
    (Chunks, b"0\r\nX: \0\r\n\r\n", Refused(400), "9110, 5.5"),
    // Connection, Upgrade and Expect.
    (Field, b"Connection: close\r\n", Last("GET / a"), "9.6"),
    (Field, b"connection:CLOSE\r\n", Last("GET / a"), "9110, 7.6.1"),
    (Field, b"Connection: x ,\tclose , y\r\n", Last("GET / a"), "9110, 7.6.1: a list"),
    (Field, b"Connection: keep-alive, close\r\n", Last("GET / a"), "9.3: close comes first"),
    (Field, b"Connection: close, keep-alive\r\n", Last("GET / a"), "9.3"),
    (Field, b"Connection: keep-alive\r\nConnection: close\r\n", Last("GET / a"), "9110, 5.3: one list"),
    (Field, b"Connection: keep-alive\r\n", Taken("GET / a"), "9.3"),
    (Field, b"Connection:\r\n", Taken("GET / a"), "9.3"),
    (Field, b"Connection: closed, \"close\", clo se\r\n", Taken("GET / a"), "9110, 7.6.1"),
    (Field, b"Proxy-Connection: close\r\n", Taken("GET / a"), "C.2.2"),
    (Whole, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Last("GET /"), "C.2.2"),
    (Length, b"Connection: close\r\nContent-Length: 5\r\n", Last("POST / a hello"), "9.6"),
    (Field, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", Taken("GET / a"), "9110, 7.8: may be ignored"),
    (
        Field,
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        Taken("GET / a"),
        "9110, 7.8",
    ),
    (Length, b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n", Taken("POST / a hello"), "9110, 7.8"),
    (Field, b"Connection: Upgrade, close\r\nUpgrade: TLS/1.0\r\n", Last("GET / a"), "9110, 7.8"),
    (Length, b"Expect: 100-continue\r\nContent-Length: 5\r\n", Taken("POST / a hello"), "9110, 10.1.1"),
    (Coding, b"Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", Taken("POST / a hello"), "9110, 10.1.1"),
    (Length, b"Expect: x, 100-continue\r\nContent-Length: 5\r\n", Taken("POST / a hello"), "9110, 10.1.1"),
    (Length, b"Expect: 200-ok\r\nContent-Length: 5\r\n", Taken("POST / a hello"), "9110, 10.1.1: 417 may be, or not"),
    (Length, b"Expect:\r\nContent-Length: 5\r\n", Taken("POST / a hello"), "9110, 10.1.1"),
    (Length, b"Expect: 100-continue\r\nContent-Length: 5\r\nContent-Length: 6\r\n", Refused(400), "6.3"),
    (Length, b"Expect: 100-continue\r\nContent-Length: 18446744073709551615\r\n", Refused(413), "9110, 10.1.1"),
    (Field, b"Expect: 100-continue\r\n", Taken("GET / a"), "9110, 10.1.1: without a body there is nothing to wait for"),
    (
        Whole,
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        Last("POST / hello"),
        "9110, 10.1.1: not in HTTP/1.0",
    ),
];

impl Place {
    fn request(self, bytes: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 3] = match self {
            Whole => [b"", bytes, b""],
            Line => [b"", bytes, b"\r\nHost: a\r\n\r\n"],
            Target => [b"GET ", bytes, b" HTTP/1.1\r\nHost: a\r\n\r\n"],
            Host => [b"GET / HTTP/1.1\r\n", bytes, b"\r\n"],
            Field => [b"GET / HTTP/1.1\r\nHost: a\r\n", bytes, b"\r\n"],
            Length => [b"POST / HTTP/1.1\r\nHost: a\r\n", bytes, b"\r\nhello"],
            Coding => [b"POST / HTTP/1.1\r\nHost: a\r\n", bytes, b"\r\n5\r\nhello\r\n0\r\n\r\n"],
            Chunks => [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", bytes, b""],
        };
        parts.concat()
    }
}

/// Sees what the server makes of bytes: every request that is taken for one is answered with what was understood, and
/// noted.
struct Reader {
    server: InProcess,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Reader {
    fn start() -> Reader {
        let paths = Arc::new(Mutex::new(Vec::new()));
        let noted = paths.clone();
        // Any name will do; which are answered to is a matter of `auth`.
        let access = Access { hosts: vec!["*".to_owned()], ..Access::default() };
        let server = InProcess::start(Config { access, ..Config::default() }, move |request: &Request| {
            noted.lock().unwrap().push(request.path().to_owned());
            if request.path() == "/unread" {
                return Response::text(200, "unread");
            }
            let body = match request.body() {
                Ok(body) => String::from_utf8_lossy(body).into_owned(),
                Err(refusal) => return refusal,
            };
            let path = request.path().escape_debug().to_string().replace("\\'", "'");
            let parts = [request.method(), &path, request.field("host").unwrap_or_default(), body.trim_end()];
            Response::text(200, parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "))
        });
        Reader { server, paths }
    }

    /// Sends a request in pieces that end where `ends` says, and another behind it, and looks at all that comes back.
    fn expect(&self, request: &[u8], expected: Expected, how: Pieces, rule: &str) {
        let what = format!("{} ({rule}) {how:?}", request.escape_ascii());
        let is_taken = matches!(expected, Taken(_));
        let next = if is_taken { "/next" } else { "/smuggled" };
        let next = format!("GET {next} HTTP/1.1\r\nHost: next\r\nConnection: close\r\n\r\n");
        let mut client = Client::connect(self.server.address);
        let before = if how == Pieces::Behind { &b"GET /first HTTP/1.1\r\nHost: first\r\n\r\n"[..] } else { b"" };
        how.send(&mut client, &[before, request, next.as_bytes()].concat());
        if how == Pieces::Behind {
            assert_eq!(answer(&mut client), (200, "GET /first first".to_owned(), true), "before {what}");
        }
        let (status, text, stays) = answer(&mut client);
        match expected {
            Taken(understood) | Last(understood) => assert_eq!((status, &text[..]), (200, understood), "{what}"),
            Refused(refusal) => assert_eq!(status, refusal, "{what}: {text}"),
        }
        assert_eq!(stays, is_taken, "the connection after {what}");
        if is_taken {
            assert_eq!(answer(&mut client), (200, "GET /next next".to_owned(), false), "behind {what}");
        } else {
            assert_eq!(text.lines().count(), 1, "{what}: {text}");
        }
        let rest = client.read_to_end();
        assert_eq!(rest, b"", "behind {what}: {}", rest.escape_ascii());
        let is_smuggled = self.paths.lock().unwrap().drain(..).any(|path| path == "/smuggled");
        assert!(!is_smuggled, "what stood behind it was taken for a request: {what}");
    }
}

/// The next answer: its status, its text and whether the connection is to go on. A `100 Continue` is none.
fn answer(client: &mut Client) -> (u16, String, bool) {
    let mut head = client.read_head();
    while head.status == 100 {
        head = client.read_head();
    }
    let text = client.read_body(&head);
    (head.status, text.trim_end().to_owned(), head.field("Connection") == Some("keep-alive"))
}

/// How bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    AllAtOnce,
    /// All at once, with another request before it.
    Behind,
    ByteByByte,
    /// In pieces at random.
    Split(u64),
}

impl Pieces {
    fn send(self, client: &mut Client, bytes: &[u8]) {
        let mut random = Random::new(if let Pieces::Split(seed) = self { seed } else { 0 });
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = match self {
                Pieces::AllAtOnce | Pieces::Behind => rest.len(),
                Pieces::ByteByByte => 1,
                Pieces::Split(_) => (1 + random.below(40) as usize).min(rest.len()),
            };
            client.send(&rest[..length]);
            rest = &rest[length..];
        }
    }
}

#[test]
fn a_request_is_what_its_section_says_however_it_arrives() {
    let reader = Reader::start();
    for seed in seeds() {
        let mut random = seed.random(0);
        for (place, bytes, expected, rule) in TABLE {
            let request = place.request(bytes);
            for how in [Pieces::AllAtOnce, Pieces::Behind, Pieces::ByteByByte, Pieces::Split(random.below(u64::MAX))] {
                reader.expect(&request, *expected, how, rule);
            }
        }
    }
}

/// A request that has everything, so that a fault can be put everywhere.
const FULL: &[u8] = b"POST /x?y HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n\
    5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n";

#[test]
fn a_line_ends_with_crlf_and_nothing_like_it() {
    let reader = Reader::start();
    reader.expect(FULL, Taken("POST /x a hello"), Pieces::AllAtOnce, "as it should be");
    let ends = FULL.windows(2).enumerate().filter(|(_, window)| window == b"\r\n").map(|(at, _)| at);
    for at in ends {
        for end in [&b"\n"[..], b"\r", b"\r\r\n", b"\n\r", b"\r\n\n", b"\r\0\n", b"\0\r\n"] {
            let request = [&FULL[..at], end, &FULL[at + 2..]].concat();
            // Behind the last line a further LF is no longer this request's.
            if at + 2 < FULL.len() || end != b"\r\n\n" {
                reader.expect(&request, Refused(400), Pieces::AllAtOnce, "2.2");
            }
        }
    }
}

#[test]
fn a_control_character_is_refused_wherever_it_stands() {
    let reader = Reader::start();
    for at in 0..FULL.len() {
        for byte in [b'\0', b'\x01', b'\n', b'\x0b', b'\x0c', b'\r', b'\x1f', b'\x7f'] {
            let request = [&FULL[..at], &[byte], &FULL[at..]].concat();
            // Before the last LF another is the last itself.
            if (at, byte) != (FULL.len() - 1, b'\n') {
                reader.expect(&request, Refused(400), Pieces::AllAtOnce, "2.2 and 9110, 5.5");
            }
        }
    }
}
