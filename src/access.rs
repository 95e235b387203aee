//! Who may: a policy and a request, and out comes a decision. No I/O, no state.
//!
//! A server on a small box is protected by where it can be reached from, and a browser reaches everything its user can
//! reach, on behalf of any page. Three rules keep foreign pages out. *Host* stops DNS rebinding, where a page's own
//! name comes to resolve to this server. *Origin, reading* is CORS (<https://fetch.spec.whatwg.org>), enforced by the
//! browser and, because an event stream costs something to open, here as well. *Origin, publishing* stops a foreign
//! page's form or `fetch` from having an effect. None of them stops a client that is no browser: that is what tokens
//! are for ([`Request::has_token`]).

use crate::head::{Head, host_and_port};
use crate::request::Request;
use crate::response::Response;
use std::net::IpAddr;

/// How long a browser may remember a preflight, in seconds: two hours, the most that Chromium takes.
const PREFLIGHT_MAX_AGE: &str = "7200";

/// What is allowed beyond the server's own host and origin. The default allows nothing more.
///
/// As [`Config::access`](crate::Config::access) the server itself refuses foreign hosts, and adds the fields by which
/// browsers let other origins read. What only your handler can know it asks for itself: whether a request reads or
/// publishes.
///
/// ```
/// use tidings::{Access, Request, Response};
///
/// fn answer(access: &Access, request: &Request) -> Result<Response, Response> {
///     if let Some(preflight) = access.preflight(request) {
///         return Ok(preflight);
///     }
///     if request.method() == "POST" {
///         access.may_publish(request)?;
///     } else {
///         access.may_read(request)?;
///     }
///     Ok(Response::text(200, "welcome"))
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Host names the server answers to, besides those it always does: `localhost`, `*.localhost` and loopback
    /// addresses on a loopback listener; on others IP addresses, single labels and `*.local`. Ports are ignored; `*`
    /// allows all names.
    pub hosts: Vec<String>,
    /// Origins as browsers write them, `https://example.com:8443`, that may read with credentials and publish. `*` lets
    /// all origins read without credentials, and lets none publish.
    pub origins: Vec<String>,
}

impl Access {
    /// Whether the request is for this server, which listens on `listener`; else 421.
    ///
    /// A rebound name reaches a loopback listener as well as any other, so what the listener is bound to does not help.
    /// What helps is that nobody can make the names taken here resolve to an address of their choosing.
    pub(crate) fn check_host(&self, head: &Head, listener: IpAddr) -> Result<(), Response> {
        // Without Host it is an HTTP/1.0 request, and no browser: those all send one. Only they can be tricked.
        let Some(authority) = head.host() else { return Ok(()) };
        let host = host_name(authority);
        let is_listed = |listed: &String| listed == "*" || same_host(host_name(listed), host);
        if is_own_host(host, listener) || self.hosts.iter().any(is_listed) {
            return Ok(());
        }
        Err(Response::text(421, format!("not served under the host {host}; --allow-host {host} allows it")))
    }

    /// Adds the fields that let other origins read the answer, where the handler has not said that itself.
    pub(crate) fn with_cors(&self, response: Response, request: &Request) -> Response {
        if response.has_field("Access-Control-Allow-Origin") {
            return response;
        }
        self.cors(request).into_iter().fold(response, |response, (name, value)| response.field(name, value))
    }

    /// The CORS fields of any answer to this request.
    ///
    /// An origin that is allowed by name is echoed, with credentials. The server's own gets nothing: a browser does not
    /// ask for CORS there, and an `http` page must not read what its host says over `https`. `Vary` is there when
    /// another origin would have got other fields or, with nothing allowed, a refusal.
    fn cors(&self, request: &Request) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        let origin = request.field("origin");
        match origin {
            Some(origin) if self.names(origin) => {
                fields.push(("Access-Control-Allow-Origin", origin.to_owned()));
                fields.push(("Access-Control-Allow-Credentials", "true".to_owned()));
            }
            _ if self.allows_any() => fields.push(("Access-Control-Allow-Origin", "*".to_owned())),
            _ => {}
        }
        let is_refusable = origin.is_some() && !self.allows_any();
        if is_refusable || self.origins.iter().any(|listed| listed != "*") {
            fields.push(("Vary", "Origin".to_owned()));
        }
        fields
    }

    /// The answer to a CORS preflight, if this request is one: `OPTIONS` with `Origin` and
    /// `Access-Control-Request-Method`. Give it before asking for a token: browsers send that only afterwards.
    ///
    /// ```text
    /// HTTP/1.1 204 No Content
    /// Access-Control-Allow-Origin: https://example.com
    /// Access-Control-Allow-Credentials: true
    /// Vary: Origin
    /// Access-Control-Allow-Methods: GET, HEAD, POST, PUT
    /// Access-Control-Allow-Headers: Accept, Authorization, Cache-Control, Content-Type, …
    /// Access-Control-Max-Age: 7200
    /// ```
    ///
    /// An origin that may not read gets the 204 without those fields. That is a refusal to every browser; an error
    /// status would say no more, and would make the browser's console tell of a broken server instead of CORS.
    pub fn preflight(&self, request: &Request) -> Option<Response> {
        let asks = request.field("origin").is_some() && request.field("access-control-request-method").is_some();
        if request.method() != "OPTIONS" || !asks {
            return None;
        }
        let response = self.with_cors(Response::text(204, ""), request);
        if self.may_read(request).is_err() {
            return Some(response);
        }
        let fields = "Accept, Authorization, Cache-Control, Content-Type, Last-Event-ID, Token, X-Requested-With";
        let response = response
            .field("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT")
            .field("Access-Control-Allow-Headers", fields)
            .field("Access-Control-Max-Age", PREFLIGHT_MAX_AGE);
        Some(response)
    }

    /// Whether the request may read: it has no `Origin`, or the server's own, or one that is allowed. One without `Origin`
    /// may not if its browser says that a foreign page embeds what it asks for (`Sec-Fetch-Site`): an image or a `fetch`
    /// without CORS would open a stream that its page can not even read.
    ///
    /// # Errors
    ///
    /// The 403 to give. A browser would keep the answer from the page anyway; the page could still hold streams open.
    pub fn may_read(&self, request: &Request) -> Result<(), Response> {
        let passes = match request.field("origin") {
            Some(origin) => self.names(origin) || is_own_origin(origin, request),
            None => !is_embedded_elsewhere(request),
        };
        if passes || self.allows_any() {
            return Ok(());
        }
        Err(Response::text(403, "a page of this origin may not read here; --allow-origin allows it"))
    }

    /// Whether the request may publish: its `Origin` is allowed by name; or its browser says that it comes from the
    /// server's own page or from the user (`Sec-Fetch-Site`); or, where that is not said, it has no `Origin` or the
    /// server's own.
    ///
    /// CORS alone would not do: a browser sends a foreign page's simple `POST` first and asks afterwards.
    ///
    /// # Errors
    ///
    /// The 403 to give.
    pub fn may_publish(&self, request: &Request) -> Result<(), Response> {
        let origin = request.field("origin");
        let passes = match request.field("sec-fetch-site") {
            Some(site) => matches!(site, "same-origin" | "none"),
            None => origin.is_none_or(|origin| is_own_origin(origin, request)),
        };
        if passes || origin.is_some_and(|origin| self.names(origin)) {
            return Ok(());
        }
        Err(Response::text(403, "a page of this origin may not publish here; --allow-origin with its name allows it"))
    }

    fn names(&self, origin: &str) -> bool {
        // A listed origin is often copied from an address bar, with the slash of its path.
        let mut listed = self.origins.iter().filter_map(|listed| Origin::parse(listed.trim_end_matches('/')));
        Origin::parse(origin).is_some_and(|origin| listed.any(|listed| listed == origin))
    }

    fn allows_any(&self) -> bool {
        self.origins.iter().any(|origin| origin == "*")
    }
}

/// Whether a browser asks for it on behalf of a page of another origin, and not because its user follows a link.
fn is_embedded_elsewhere(request: &Request) -> bool {
    let is_elsewhere = matches!(request.field("sec-fetch-site"), Some("cross-site" | "same-site"));
    is_elsewhere && request.field("sec-fetch-mode") != Some("navigate")
}

/// Whether nobody but this box or its network can decide what the name resolves to. An IP address resolves to itself.
fn is_own_host(host: &str, listener: IpAddr) -> bool {
    let address = host.parse::<IpAddr>().ok();
    if listener.to_canonical().is_loopback() {
        let is_loopback = address.is_some_and(|address| address.to_canonical().is_loopback());
        return is_loopback || host.eq_ignore_ascii_case("localhost") || is_below(host, "localhost");
    }
    let is_single_label = !host.is_empty() && !host.contains('.');
    address.is_some() || is_single_label || is_below(host, "local")
}

/// Whether `host` is a name below the domain, as `a.local` is below `local`.
fn is_below(host: &str, domain: &str) -> bool {
    host.rsplit_once('.').is_some_and(|(name, last)| !name.is_empty() && last.eq_ignore_ascii_case(domain))
}

/// The host of an authority, without its port, the brackets of an address and the dot of a fully qualified name.
fn host_name(authority: &str) -> &str {
    let host = host_and_port(authority).map_or(authority, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host)
}

/// By text or, as IPv6 has many texts for one address, by address.
fn same_host(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || a.parse::<IpAddr>().is_ok_and(|address| b.parse() == Ok(address))
}

/// Whether a page of this origin was loaded from here: its host and port are those of `Host`.
///
/// Behind a proxy that speaks TLS the server does not know its own scheme, so that is left out of the comparison; where
/// `Host` has no port, it is the default one of the origin's scheme.
fn is_own_origin(origin: &str, request: &Request) -> bool {
    let Some(origin) = Origin::parse(origin) else { return false };
    let Some((host, port)) = request.field("host").and_then(host_and_port) else { return false };
    // Only http and https have a default port: an extension's or an app's page was not loaded from here.
    let Some(default) = default_port(&origin.scheme) else { return false };
    host.eq_ignore_ascii_case(&origin.host) && port.or(Some(default)) == origin.port
}

/// A tuple origin (WHATWG HTML, section 7.1.1), with its port filled in and in lower case, so that two can be compared.
#[derive(PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// Reads `scheme "://" host [ ":" port ]`. `null`, the origin of sandboxed frames and local files, is none: anybody
    /// can have it, so that nothing can be allowed to it by name.
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = host_and_port(authority)?;
        if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = port.or(default_port(&scheme));
        Some(Origin { scheme, host: host.to_ascii_lowercase(), port })
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Parsed, parse};

    fn head(start: &str, fields: &str) -> Head {
        match parse(format!("{start}\r\n{fields}\r\n").as_bytes()) {
            Ok(Parsed::Complete { head, .. }) => head,
            other => panic!("{other:?}: {start} {fields}"),
        }
    }

    fn request(method: &str, fields: &str) -> Request<'static> {
        let head = head(&format!("{method} /topics/a HTTP/1.1"), fields);
        Request::new(head, ([127, 0, 0, 1], 1).into(), Box::new(|| Ok(Vec::new())))
    }

    fn access(hosts: &[&str], origins: &[&str]) -> Access {
        let owned = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect();
        Access { hosts: owned(hosts), origins: owned(origins) }
    }

    fn body(response: &Response) -> &str {
        match &response.body {
            crate::response::Body::Bytes(bytes) => std::str::from_utf8(bytes).unwrap(),
            crate::response::Body::Stream(_) => panic!("a stream"),
        }
    }

    #[test]
    fn a_loopback_listener_takes_loopback_names_and_others_take_local_ones() {
        // The host, and whether it is taken on 127.0.0.1 and on 0.0.0.0.
        let table = [
            ("localhost", true, true),
            ("LOCALHOST:3000", true, true),
            ("localhost.", true, true),
            ("a.b.Localhost", true, false),
            ("127.0.0.1:3000", true, true),
            ("127.9.9.9", true, true),
            ("[::1]:3000", true, true),
            ("[0:0:0:0:0:0:0:1]", true, true),
            ("[::ffff:127.0.0.1]", true, true),
            ("0.0.0.0", false, true),
            ("192.168.1.5:3000", false, true),
            ("[fe80::1]", false, true),
            ("[::]", false, true),
            ("box", false, true),
            ("box.local:80", false, true),
            ("a.box.LOCAL.", false, true),
            ("evil.example", false, false),
            ("localhost.evil.example", false, false),
            ("local.evil", false, false),
            ("evillocalhost", false, true),
            ("evil.xlocal", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("127.1", false, false),
            (".local", false, false),
            (".", false, false),
            ("evil.example..", false, false),
            (".localhost", false, false),
        ];
        for (host, on_loopback, on_any) in table {
            let head = head("GET / HTTP/1.1", &format!("Host: {host}\r\n"));
            for (listener, taken) in [
                ("127.0.0.1", on_loopback),
                ("127.0.0.2", on_loopback),
                ("::1", on_loopback),
                ("::ffff:127.0.0.1", on_loopback),
                ("0.0.0.0", on_any),
                ("::", on_any),
                ("192.168.1.5", on_any),
            ] {
                let answer = access(&[], &[]).check_host(&head, listener.parse().unwrap());
                assert_eq!(answer.is_ok(), taken, "{host} on {listener}");
            }
        }
    }

    #[test]
    fn a_host_allowed_is_taken_with_any_port() {
        let listener = IpAddr::from([127, 0, 0, 1]);
        let table = [
            ("example.com", "EXAMPLE.com:8080", true),
            ("example.com:80", "example.com.", true),
            ("example.com.", "example.com", true),
            ("example.com", "www.example.com", false),
            ("example.com", "example.com.evil", false),
            ("fe80::1", "[FE80:0::1]:3000", true),
            ("[fe80::1]", "[fe80::1]", true),
            ("*", "anything.example", true),
            ("*.example.com", "a.example.com", false),
            ("", "example.com", false),
        ];
        for (allowed, host, taken) in table {
            let head = head("GET / HTTP/1.1", &format!("Host: {host}\r\n"));
            assert_eq!(access(&[allowed], &[]).check_host(&head, listener).is_ok(), taken, "{allowed} {host}");
        }
    }

    #[test]
    fn a_misdirected_request_is_told_the_option() {
        let listener = IpAddr::from([127, 0, 0, 1]);
        let refusal =
            access(&[], &[]).check_host(&head("GET / HTTP/1.1", "Host: evil.example:3000\r\n"), listener).unwrap_err();
        assert_eq!(refusal.status(), 421);
        assert_eq!(body(&refusal), "not served under the host evil.example; --allow-host evil.example allows it\n");
        let overridden = head("GET http://evil.example/ HTTP/1.1", "Host: localhost\r\n");
        assert!(access(&[], &[]).check_host(&overridden, listener).is_err());
        assert!(access(&[], &[]).check_host(&head("GET / HTTP/1.0", ""), listener).is_ok());
    }

    #[test]
    fn an_origin_reads_if_it_is_the_same_or_allowed() {
        // Allowed origins, the request's fields, whether it may read, and the CORS fields it gets.
        let echo = "Access-Control-Allow-Origin: https://a.example|Access-Control-Allow-Credentials: true|Vary: Origin";
        let any = "Access-Control-Allow-Origin: *";
        let table: &[(&[&str], &str, bool, &str)] = &[
            (&[], "Host: a\r\n", true, ""),
            (&[], "Host: a:3000\r\nOrigin: http://a:3000\r\n", true, "Vary: Origin"),
            (&[], "Host: A\r\nOrigin: http://a\r\n", true, "Vary: Origin"),
            (&[], "Host: a:80\r\nOrigin: http://A\r\n", true, "Vary: Origin"),
            (&[], "Host: a\r\nOrigin: https://a\r\n", true, "Vary: Origin"),
            (&[], "Host: a\r\nOrigin: https://a:443\r\n", true, "Vary: Origin"),
            (&[], "Host: a:80\r\nOrigin: https://a\r\n", false, "Vary: Origin"),
            (&[], "Host: a\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", false, ""),
            (&[], "Host: a\r\nSec-Fetch-Site: same-site\r\nSec-Fetch-Mode: no-cors\r\n", false, ""),
            (&[], "Host: a\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", true, ""),
            (&[], "Host: a\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n", true, ""),
            (&["*"], "Host: a\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", true, any),
            (&[], "Host: a:3000\r\nOrigin: http://a:3001\r\n", false, "Vary: Origin"),
            (&[], "Host: a\r\nOrigin: http://b\r\n", false, "Vary: Origin"),
            (&[], "Host: a\r\nOrigin: app://a\r\n", false, "Vary: Origin"),
            (&[], "Host: a\r\nOrigin: null\r\n", false, "Vary: Origin"),
            (&[], "Host: a\r\nOrigin:\r\n", false, "Vary: Origin"),
            (&[], "Host: a\r\nOrigin: http://a/\r\n", false, "Vary: Origin"),
            (&[], "Host: a\r\nOrigin: http://a, http://b\r\n", false, "Vary: Origin"),
            (&["https://a.example"], "Host: b\r\nOrigin: https://a.example\r\n", true, echo),
            (&["HTTPS://A.example:443/"], "Host: b\r\nOrigin: https://a.example\r\n", true, echo),
            (&["*", "https://a.example"], "Host: b\r\nOrigin: https://a.example\r\n", true, echo),
            (&["https://a.example"], "Host: b\r\nOrigin: http://a.example\r\n", false, "Vary: Origin"),
            (&["https://a.example"], "Host: b\r\nOrigin: https://a.example:8443\r\n", false, "Vary: Origin"),
            (&["https://a.example"], "Host: b\r\nOrigin: https://xa.example\r\n", false, "Vary: Origin"),
            (&["https://a.example"], "Host: b\r\nOrigin: null\r\n", false, "Vary: Origin"),
            (&["https://a.example"], "Host: b\r\n", true, "Vary: Origin"),
            (&["null"], "Host: b\r\nOrigin: null\r\n", false, "Vary: Origin"),
            (&["*"], "Host: b\r\nOrigin: https://a.example\r\n", true, any),
            (&["*"], "Host: b\r\nOrigin: null\r\n", true, any),
            (&["*"], "Host: b\r\n", true, any),
            (
                &["*", "https://c"],
                "Host: b\r\nOrigin: https://a\r\n",
                true,
                "Access-Control-Allow-Origin: *|Vary: Origin",
            ),
            (&["app://x"], "Host: b\r\nOrigin: app://y\r\n", false, "Vary: Origin"),
        ];
        for (origins, fields, reads, cors) in table {
            let (access, request) = (access(&[], origins), request("GET", fields));
            assert_eq!(access.may_read(&request).is_ok(), *reads, "{origins:?} {fields}");
            let got: Vec<String> =
                access.cors(&request).iter().map(|(name, value)| format!("{name}: {value}")).collect();
            assert_eq!(got.join("|"), *cors, "{origins:?} {fields}");
        }
    }

    #[test]
    fn an_origin_publishes_if_it_is_the_same_or_allowed_by_name() {
        let table: &[(&[&str], &str, bool)] = &[
            (&[], "Host: a\r\n", true),
            (&[], "Host: a\r\nOrigin: http://a\r\n", true),
            (&[], "Host: a\r\nOrigin: http://b\r\n", false),
            (&[], "Host: a\r\nOrigin: null\r\n", false),
            (&[], "Host: a\r\nSec-Fetch-Site: same-origin\r\nOrigin: https://public.example\r\n", true),
            (&[], "Host: a\r\nSec-Fetch-Site: none\r\n", true),
            (&[], "Host: a\r\nSec-Fetch-Site: same-site\r\nOrigin: http://a\r\n", false),
            (&[], "Host: a\r\nSec-Fetch-Site: cross-site\r\n", false),
            (&[], "Host: a\r\nSec-Fetch-Site:\r\n", false),
            (&["*"], "Host: a\r\nOrigin: http://b\r\n", false),
            (&["*"], "Host: a\r\nSec-Fetch-Site: cross-site\r\nOrigin: null\r\n", false),
            (&["null"], "Host: a\r\nOrigin: null\r\n", false),
            (&["http://b"], "Host: a\r\nOrigin: http://b\r\n", true),
            (&["http://b"], "Host: a\r\nSec-Fetch-Site: cross-site\r\nOrigin: http://b:80\r\n", true),
            (&["http://b"], "Host: a\r\nSec-Fetch-Site: cross-site\r\nOrigin: http://c\r\n", false),
        ];
        for (origins, fields, publishes) in table {
            let answer = access(&[], origins).may_publish(&request("POST", fields));
            assert_eq!(answer.is_ok(), *publishes, "{origins:?} {fields}");
        }
    }

    #[test]
    fn a_foreign_origin_is_told_the_option() {
        let request = request("GET", "Host: a\r\nOrigin: http://b\r\n");
        for refusal in [access(&[], &[]).may_read(&request), access(&[], &[]).may_publish(&request)] {
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.status(), 403);
            assert!(body(&refusal).contains("--allow-origin"));
        }
    }

    #[test]
    fn a_preflight_is_options_with_origin_and_a_method_asked_for() {
        let asks = "Host: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: PUT\r\n";
        let policy = access(&[], &["http://b"]);
        assert!(policy.preflight(&request("GET", asks)).is_none());
        assert!(policy.preflight(&request("OPTIONS", "Host: a\r\nOrigin: http://b\r\n")).is_none());
        assert!(policy.preflight(&request("OPTIONS", "Host: a\r\nAccess-Control-Request-Method: PUT\r\n")).is_none());
        let answer = policy.preflight(&request("OPTIONS", asks)).unwrap();
        let expected = [
            ("Access-Control-Allow-Origin", "http://b"),
            ("Access-Control-Allow-Credentials", "true"),
            ("Vary", "Origin"),
            ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT"),
            (
                "Access-Control-Allow-Headers",
                "Accept, Authorization, Cache-Control, Content-Type, Last-Event-ID, Token, X-Requested-With",
            ),
            ("Access-Control-Max-Age", "7200"),
        ];
        assert_eq!(answer.status(), 204);
        assert!(answer.fields.iter().map(|(name, value)| (*name, &**value)).eq(expected));
    }

    #[test]
    fn a_preflight_of_a_foreign_origin_allows_nothing() {
        let asks = request("OPTIONS", "Host: a\r\nOrigin: http://c\r\nAccess-Control-Request-Method: PUT\r\n");
        for origins in [&[][..], &["http://b"]] {
            let answer = access(&[], origins).preflight(&asks).unwrap();
            assert_eq!(answer.status(), 204);
            assert!(answer.fields.iter().all(|(name, _)| *name == "Vary"), "{answer:?}");
        }
    }
}
