//! URLs: permitted request targets, their origins, and their form in a proof's `htu`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;

use crate::types::{
    escape::hex, input::InvalidInput, internal_address::is_internal, text::serde_as_text,
};

/// An absolute URL to which credentials may be sent: `https`, or `http` on a loopback host.
///
/// The constructors normalise the URL: they convert the scheme and host to lower case, drop the
/// default port and write an empty path as `/`. The path is otherwise unchanged. Both the request
/// and the proof's `htu` use this normalised form, because several servers compare the two byte by
/// byte.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(HttpUri);

impl Endpoint {
    /// Parses an `https` URL.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `url` is not a valid URL, has another scheme, or contains user
    /// information or a fragment.
    pub fn https(url: &str) -> Result<Self, InvalidInput> {
        let endpoint = Self::parse(url)?;
        match endpoint.0.scheme {
            Scheme::Https => Ok(endpoint),
            Scheme::Http => invalid("must begin with https://"),
        }
    }

    /// Parses an `http` URL whose host is a loopback host (`localhost`, `127.0.0.0/8`, `[::1]`),
    /// for tests and local servers.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] as [`https`](Self::https) does, and if the host is not a loopback
    /// host.
    pub fn loopback_http(url: &str) -> Result<Self, InvalidInput> {
        let endpoint = Self::parse(url)?;
        match endpoint.0.scheme {
            Scheme::Http if is_loopback(endpoint.target().host) => Ok(endpoint),
            _ => invalid("must be http:// with a loopback host"),
        }
    }

    /// Parses an `https` URL, or an `http` URL whose host is a loopback host. Intended for
    /// configuration and user input.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] as [`https`](Self::https) does.
    pub fn https_or_loopback(url: &str) -> Result<Self, InvalidInput> {
        Self::https(url).or_else(|invalid| Self::loopback_http(url).map_err(|_| invalid))
    }

    /// Converts a request URI: an `https` URL, or an `http` URL whose host is a loopback host.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] as [`https`](Self::https) does.
    pub fn from_uri(uri: &Uri) -> Result<Self, InvalidInput> {
        let target = HttpTarget::parse(uri)?;
        if !target.is_confidential() {
            return invalid("must begin with https://");
        }
        target.check_unambiguous()?;
        // Most URIs are already normalised and need no second parse.
        match uri.authority() {
            Some(given) if given.as_str() == target.authority() => Ok(Self(target.into_uri(uri))),
            _ => Self::parse(&uri.to_string()),
        }
    }

    /// Creates an endpoint from a constant URL of this crate: `https`, normalised, without a port.
    pub(crate) fn from_static(url: &'static str) -> Self {
        let uri = Uri::from_static(url);
        let target = HttpTarget {
            scheme: Scheme::Https,
            host: uri.host().unwrap_or_default(),
            port: Scheme::Https.default_port(),
            path: uri.path(),
        };
        Self(target.into_uri(&uri))
    }

    /// Appends `path`, which must begin with a slash, to this URL's path. A trailing slash of this
    /// URL's path is dropped first.
    pub fn join(&self, path: &str) -> Result<Self, InvalidInput> {
        // Without the slash, `path` could extend the host name and so change the host.
        if !path.starts_with('/') {
            return Err(InvalidInput::new("path", "must begin with a slash"));
        }
        if self.uri().query().is_some() {
            return invalid("must not have a query: a path is appended to the URL");
        }
        let base = self.to_string();
        Self::parse(&format!("{}{path}", base.trim_end_matches('/')))
    }

    /// Returns the well-known URL (RFC 8615 §3) for the resource that this URL identifies. The
    /// well-known segment is inserted between the host and `path`. Callers pass `path`, because
    /// RFCs differ in which part of it they use.
    pub(crate) fn well_known(&self, name: &str, path: &str) -> Result<Self, InvalidInput> {
        let (scheme, authority) = (self.0.scheme.prefix(), self.target().authority());
        let (mark, query) = self.uri().query().map_or(("", ""), |query| ("?", query));
        let well_known = format!("{scheme}{authority}/.well-known/{name}{path}{mark}{query}");
        Self::parse(&well_known)
    }

    /// Parses a URL supplied by this server. It must be `https` (`http` only if this server is on
    /// loopback) and must not point to an internal address unless this server is itself internal.
    /// This prevents server-side request forgery (SSRF).
    pub(crate) fn resolve_untrusted(&self, url: &str) -> Result<Self, InvalidInput> {
        let resolved = match Self::https(url) {
            Err(_) if self.0.scheme == Scheme::Http => Self::loopback_http(url),
            endpoint => endpoint,
        }?;
        let is_internal = |endpoint: &Self| is_internal(endpoint.target().host);
        if is_internal(&resolved) && !is_internal(self) {
            return invalid("must not be an internal address: a public server supplied it");
        }
        Ok(resolved)
    }

    /// Returns the URL as an [`http::Uri`].
    pub fn uri(&self) -> &Uri {
        &self.0.uri
    }

    pub(crate) fn target(&self) -> HttpTarget<'_> {
        self.0.target()
    }

    fn parse(url: &str) -> Result<Self, InvalidInput> {
        if url.contains('#') {
            return invalid("must not have a fragment");
        }
        let uri: Uri = url
            .parse()
            .or_else(|_| invalid("must be a valid absolute URL"))?;
        let target = HttpTarget::parse(&uri)?;
        target.check_unambiguous()?;
        let mut text = String::with_capacity(url.len());
        target.write_htu(&mut text);
        if let Some(query) = uri.query() {
            text.push('?');
            text.push_str(query);
        }
        let uri: Uri = text
            .parse()
            .or_else(|_| invalid("must be a valid absolute URL"))?;
        HttpUri::new(&uri).map(Self)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Parses as [`Endpoint::https_or_loopback`] does.
impl FromStr for Endpoint {
    type Err = InvalidInput;

    fn from_str(url: &str) -> Result<Self, InvalidInput> {
        Self::https_or_loopback(url)
    }
}

/// Parses as [`Endpoint::https_or_loopback`] does.
impl TryFrom<&str> for Endpoint {
    type Error = InvalidInput;

    fn try_from(url: &str) -> Result<Self, InvalidInput> {
        Self::https_or_loopback(url)
    }
}

serde_as_text!(Endpoint);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.uri(), f)
    }
}

fn invalid<T>(rule: &'static str) -> Result<T, InvalidInput> {
    Err(InvalidInput::new("url", rule))
}

/// Returns whether a URL's host is a loopback host: `localhost`, `127.0.0.0/8` or `[::1]`.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "[::1]"
        || host
            .parse()
            .is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

/// Returns whether all parsers interpret a host in the same way. Browsers and resolvers interpret
/// `127.1`, `0x7f.1` and `2130706433` as `127.0.0.1`; other parsers interpret them as names.
fn is_unambiguous_host(host: &str) -> bool {
    if let Some(literal) = host.strip_prefix('[') {
        let address = literal.strip_suffix(']').unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let last = host
        .strip_suffix('.')
        .unwrap_or(host)
        .rsplit('.')
        .next()
        .unwrap_or_default();
    let is_number = match last.strip_prefix("0x").or_else(|| last.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|digit| digit.is_ascii_digit()),
    };
    !is_number || host.parse::<Ipv4Addr>().is_ok()
}

/// Returns whether a path contains only the characters of RFC 3986 §2, and `%` only before two
/// hexadecimal digits. Some clients and proxies rewrite other characters, and the URL would then
/// differ from the proof's `htu`.
fn is_escaped(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => bytes.next().and_then(hex).is_some() && bytes.next().and_then(hex).is_some(),
            _ => byte.is_ascii_alphanumeric() || b"-._~:/[]@!$&'()*+,;=".contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// Returns the scheme of an absolute URI (RFC 3986 §3.1).
pub(crate) fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let begins_with_letter = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
    (begins_with_letter && scheme.bytes().all(is_allowed)).then_some(scheme)
}

/// The parts of an absolute `http` or `https` URI that determine a proof's `htu` and the scope of a
/// nonce.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpTarget<'a> {
    scheme: Scheme,
    host: &'a str,
    port: u16,
    path: &'a str,
}

/// An absolute `http` or `https` URI, parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HttpUri {
    uri: Uri,
    scheme: Scheme,
    host_len: usize,
    port: u16,
}

impl HttpUri {
    pub(crate) fn new(uri: &Uri) -> Result<Self, InvalidInput> {
        Ok(HttpTarget::parse(uri)?.into_uri(uri))
    }

    #[cfg(feature = "record")]
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(crate) fn target(&self) -> HttpTarget<'_> {
        let authority = self.uri.authority();
        let host = authority.and_then(|text| text.as_str().get(..self.host_len));
        HttpTarget {
            scheme: self.scheme,
            host: host.unwrap_or_default(),
            port: self.port,
            path: self.uri.path(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// Returns the beginning of a URL with this scheme.
    fn prefix(self) -> &'static str {
        match self {
            Self::Http => "http://",
            Self::Https => "https://",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl<'a> HttpTarget<'a> {
    pub(crate) fn parse(uri: &'a Uri) -> Result<Self, InvalidInput> {
        let scheme = match uri.scheme_str() {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
            _ => return invalid("must be absolute, http or https"),
        };
        let authority = uri.authority().map_or("", Authority::as_str);
        // Without an early exit, the compiler can vectorize it.
        let has = |wanted| {
            authority
                .bytes()
                .fold(false, |any, byte| any | (byte == wanted))
        };
        if has(b'@') {
            return invalid("must not hold a user name or password");
        }
        let host_len = match has(b':') {
            // Colons before the closing bracket belong to an IPv6 literal.
            true => {
                let literal = authority.rfind(']').map_or(0, |at| at + 1);
                let port = authority.get(literal..).and_then(|rest| rest.find(':'));
                port.map_or(authority.len(), |at| literal + at)
            }
            false => authority.len(),
        };
        let (host, port) = authority.split_at(host_len);
        if host.is_empty() {
            return invalid("must have a host");
        }
        let port = match port.strip_prefix(':') {
            None | Some("") => scheme.default_port(),
            // `u16::from_str` also accepts a leading `+`.
            Some(digits) => match digits.parse() {
                Ok(port) if !digits.starts_with('+') => port,
                _ => return invalid("must have a port up to 65535"),
            },
        };
        Ok(Self {
            scheme,
            host,
            port,
            path: uri.path(),
        })
    }

    /// Returns an error if other parsers may interpret the URL differently.
    fn check_unambiguous(&self) -> Result<(), InvalidInput> {
        if !is_unambiguous_host(self.host) {
            return invalid("must have a host that is a name, or an address in its usual form");
        }
        if !is_escaped(self.path) {
            return invalid("must percent-encode characters that are not allowed in a path");
        }
        Ok(())
    }

    /// Returns whether requests to this target are confidential: they use `https`, or stay on the
    /// loopback interface.
    pub(crate) fn is_confidential(&self) -> bool {
        self.scheme == Scheme::Https || is_loopback(self.host)
    }

    /// Writes the `htu` of RFC 9449 §4.2: no query, no fragment, no user information, no default
    /// port.
    pub(crate) fn write_htu(&self, out: &mut impl fmt::Write) {
        // Writes to memory can't fail.
        let _ = out.write_str(self.scheme.prefix());
        self.write_authority(out);
        let _ = out.write_str(if self.path.is_empty() { "/" } else { self.path });
    }

    /// Returns the host, and the port if it isn't the default one: the name of the server in error
    /// messages.
    pub(crate) fn authority(&self) -> String {
        let mut authority = String::with_capacity(self.host.len() + ":65535".len());
        self.write_authority(&mut authority);
        authority
    }

    /// Returns the scheme and the [authority](Self::authority), such as `https://as.example`.
    pub(crate) fn base(&self) -> String {
        format!("{}{}", self.scheme.prefix(), self.authority())
    }

    /// Keeps the parts of `uri`, from which this target was parsed.
    fn into_uri(self, uri: &Uri) -> HttpUri {
        HttpUri {
            uri: uri.clone(),
            scheme: self.scheme,
            host_len: self.host.len(),
            port: self.port,
        }
    }

    fn write_authority(&self, out: &mut impl fmt::Write) {
        // Without an early exit, the compiler can vectorize it.
        let is_upper = |any, byte: u8| any | byte.is_ascii_uppercase();
        if self.host.bytes().fold(false, is_upper) {
            self.host.chars().for_each(|c| {
                let _ = out.write_char(c.to_ascii_lowercase());
            });
        } else {
            let _ = out.write_str(self.host);
        }
        if self.port != self.scheme.default_port() {
            let _ = write!(out, ":{}", self.port);
        }
    }

    /// Returns the effective origin (RFC 6454 §4): the scheme, the host in lower case, and the
    /// explicit or default port.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            scheme: self.scheme,
            host: self.host.to_ascii_lowercase().into_boxed_str(),
            port: self.port,
        }
    }
}

/// An effective origin, owned.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: Scheme,
    host: Box<str>,
    port: u16,
}

impl Origin {
    /// Returns whether `target` has this origin. Doesn't allocate.
    pub(crate) fn matches(&self, target: &HttpTarget<'_>) -> bool {
        self.port == target.port
            && self.scheme == target.scheme
            && (*self.host == *target.host || self.host.eq_ignore_ascii_case(target.host))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:{}", self.scheme.prefix(), self.host, self.port)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_is_normalised_where_rewriting_is_safe() {
        for (given, sent) in [
            (
                "https://AS.Example.com:443/Token",
                "https://as.example.com/Token",
            ),
            ("HTTPS://as.example.com", "https://as.example.com/"),
            (
                "https://as.example.com:8443/a/../%7eb?x=1",
                "https://as.example.com:8443/a/../%7eb?x=1",
            ),
            ("https://[2001:DB8::1]:443/t", "https://[2001:db8::1]/t"),
        ] {
            assert_eq!(Endpoint::https(given).unwrap().to_string(), sent, "{given}");
            assert_eq!(
                Endpoint::from_uri(&given.parse().unwrap())
                    .unwrap()
                    .to_string(),
                sent,
                "{given}"
            );
        }
        for given in [
            "https://as.example.com:08443/",
            "http://LOCALHOST:80",
            "http://127.0.0.1:8080/?x",
            "https://as.example.com:/",
        ] {
            let read = Endpoint::parse(given).unwrap().to_string();
            assert_eq!(
                Endpoint::from_uri(&given.parse().unwrap())
                    .unwrap()
                    .to_string(),
                read,
                "{given}"
            );
        }
    }

    #[test]
    fn an_endpoint_that_could_leak_credentials_is_refused_with_the_rule_it_breaks() {
        for (given, rule) in [
            ("http://as.example.com/token", "must begin with https://"),
            (
                "https://user:pw@as.example.com/token",
                "must not hold a user name or password",
            ),
            ("https://as.example.com/token#x", "must not have a fragment"),
            ("/token", "must be absolute, http or https"),
            ("ftp://as.example.com/", "must be absolute, http or https"),
            ("https://", "must be a valid absolute URL"),
            (
                "https://as.example.com:99999/",
                "must have a port up to 65535",
            ),
            ("https://as example.com/", "must be a valid absolute URL"),
            (
                "https://as.example.com:+443/",
                "must have a port up to 65535",
            ),
            (
                "https://127.1/",
                "must have a host that is a name, or an address in its usual form",
            ),
            (
                "https://[::1]x/",
                "must have a host that is a name, or an address in its usual form",
            ),
            (
                "https://as.example.com/a\\b",
                "must percent-encode characters that are not allowed in a path",
            ),
            (
                "https://as.example.com/%zz",
                "must percent-encode characters that are not allowed in a path",
            ),
            ("", "must be a valid absolute URL"),
        ] {
            let invalid = Endpoint::https(given).unwrap_err();
            assert_eq!(
                (invalid.argument(), invalid.rule()),
                ("url", rule),
                "{given}"
            );
            if let Some(uri) = given.parse().ok().filter(|_| !given.contains('#')) {
                assert_eq!(
                    Endpoint::from_uri(&uri).unwrap_err().rule(),
                    rule,
                    "{given}"
                );
            }
        }
    }

    #[test]
    fn plain_http_is_for_loopback_hosts() {
        for given in [
            "http://localhost:1/a",
            "http://127.1.2.3/",
            "http://[::1]:80/",
            "http://LOCALHOST/",
        ] {
            assert!(Endpoint::loopback_http(given).is_ok(), "{given}");
        }
        for given in [
            "http://localhost.example.com/",
            "http://127.0.0.1.example.com/",
            "http://10.0.0.1/",
            "http://0.0.0.0/",
            "https://localhost/",
        ] {
            assert!(Endpoint::loopback_http(given).is_err(), "{given}");
        }
    }

    #[test]
    fn htu_drops_what_rfc_9449_says_and_keeps_the_path_as_it_is_sent() {
        for (given, htu) in [
            (
                "https://RS.example:443/a/%7Eb/?q=1",
                "https://rs.example/a/%7Eb/",
            ),
            ("http://rs.example:80", "http://rs.example/"),
            ("http://rs.example:443/x", "http://rs.example:443/x"),
            ("https://rs.example:/x", "https://rs.example/x"),
        ] {
            let uri: Uri = given.parse().unwrap();
            let mut out = String::new();
            HttpTarget::parse(&uri).unwrap().write_htu(&mut out);
            assert_eq!(out, htu);
        }
    }

    #[test]
    fn equal_origins_are_one_however_they_are_written() {
        let explicit: Uri = "https://RS.example:443/a".parse().unwrap();
        let implied: Uri = "https://rs.example/b?c".parse().unwrap();
        let other: Uri = "http://rs.example:443/a".parse().unwrap();
        let origin = HttpTarget::parse(&explicit).unwrap().origin();
        assert!(origin.matches(&HttpTarget::parse(&implied).unwrap()));
        assert!(!origin.matches(&HttpTarget::parse(&other).unwrap()));
    }

    proptest! {
        #[test]
        fn no_text_makes_an_endpoint_panic_and_normalising_twice_changes_nothing(text in "\\PC{0,40}", tail in "[a-zA-Z0-9%./:@?#\\[\\]-]{0,40}") {
            for url in [text, format!("https://{tail}")] {
                if let Ok(endpoint) = Endpoint::https(&url) {
                    let again = Endpoint::https(&endpoint.to_string()).unwrap();
                    prop_assert_eq!(again, endpoint);
                }
            }
        }
    }
}
