//! URLs: where requests may go, which server that is, and how a proof names it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::types::escape::hex;
use crate::types::input::InvalidInput;
use crate::types::internal_address::is_internal;

/// An absolute URL that may be given credentials: `https`, or `http` on this very machine.
///
/// It is normalised once, here (scheme and host in lower case, the default port dropped, an empty path
/// written `/`), and what stands here is both what is sent and what a proof's `htu` says, since several
/// servers compare the two byte by byte. The path is left as it was given.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// An `https` URL.
    ///
    /// # Errors
    /// `InvalidInput` for anything else, for a URL with user information or a fragment, and for what is no URL.
    pub fn https(url: &str) -> Result<Self, InvalidInput> {
        let endpoint = Self::parse(url)?;
        match endpoint.0.scheme_str() {
            Some("https") => Ok(endpoint),
            _ => Err(URL.breaks("must begin with https://")),
        }
    }

    /// An `http` URL whose host is this machine (`localhost`, `127.0.0.0/8`, `[::1]`), for tests and local servers.
    ///
    /// # Errors
    /// As for [`https`](Self::https), and for any other host.
    pub fn loopback_http(url: &str) -> Result<Self, InvalidInput> {
        let endpoint = Self::parse(url)?;
        match endpoint.0.scheme_str() {
            Some("http") if endpoint.0.host().is_some_and(is_loopback) => Ok(endpoint),
            _ => Err(URL.breaks("must be http:// with a loopback host")),
        }
    }

    /// An `https` URL, or an `http` URL whose host is this machine: for what somebody types or configures.
    ///
    /// # Errors
    /// As for [`https`](Self::https).
    pub fn https_or_loopback(url: &str) -> Result<Self, InvalidInput> {
        Self::https(url).or_else(|invalid| Self::loopback_http(url).map_err(|_| invalid))
    }

    /// The `https` URL, or the `http` URL on this machine, that a request goes to.
    ///
    /// # Errors
    /// As for [`https`](Self::https).
    pub fn from_uri(uri: &Uri) -> Result<Self, InvalidInput> {
        let target = HttpTarget::parse(uri)?;
        if !target.is_confidential() {
            return Err(URL.breaks("must begin with https://"));
        }
        target.check_unambiguous()?;
        // Most are normalised already, and then none has to be read again.
        let mut authority = String::with_capacity(target.host.len() + ":65535".len());
        target.write_authority(&mut authority);
        if uri
            .authority()
            .is_some_and(|given| given.as_str() == authority)
        {
            return Ok(Self(uri.clone()));
        }
        Self::parse(&uri.to_string())
    }

    /// A URL of this crate's own, normalised already.
    pub(crate) fn from_static(url: &'static str) -> Self {
        Self(Uri::from_static(url))
    }

    /// The URL under this one: `path`, which begins with a slash, is appended to this one's path, whose closing slash doesn't
    /// count.
    pub(crate) fn join(&self, path: &str) -> Result<Self, InvalidInput> {
        // Or it would go on where the host ends, and lead to another.
        if !path.starts_with('/') {
            return Err(InvalidInput::new("path", "must begin with a slash"));
        }
        if self.0.query().is_some() {
            return Err(URL.breaks("must not have a query where a path is to follow"));
        }
        let base = self.0.to_string();
        Self::parse(&format!("{}{path}", base.trim_end_matches('/')))
    }

    /// The well-known URL of what this one identifies (RFC 8615 §3): it stands between the host and the path. What of the
    /// path counts differs from one RFC to the other.
    pub(crate) fn well_known(&self, name: &str, path: &str) -> Result<Self, InvalidInput> {
        let whole = self.0.to_string();
        let rest = self
            .0
            .path_and_query()
            .map_or(0, |rest| rest.as_str().len());
        let origin = whole.get(..whole.len() - rest).unwrap_or_default();
        let (mark, query) = self.0.query().map_or(("", ""), |query| ("?", query));
        Self::parse(&format!("{origin}/.well-known/{name}{path}{mark}{query}"))
    }

    /// A URL that whoever is here names: `https`, unless this is a server of this machine by itself, and no internal
    /// address, unless this is at one. So nobody outside can have requests sent to services in here.
    pub(crate) fn resolve_untrusted(&self, url: &str) -> Result<Self, InvalidInput> {
        let named = match Self::https(url) {
            Err(_) if self.0.scheme_str() == Some("http") => Self::loopback_http(url),
            endpoint => endpoint,
        }?;
        let is_internal = |endpoint: &Self| endpoint.0.host().is_some_and(is_internal);
        if is_internal(&named) && !is_internal(self) {
            return Err(
                URL.breaks("must not be an internal address where it is named from outside")
            );
        }
        Ok(named)
    }

    /// The URL as an [`http::Uri`].
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    fn parse(url: &str) -> Result<Self, InvalidInput> {
        if url.contains('#') {
            return Err(URL.breaks("must not have a fragment"));
        }
        let uri: Uri = url
            .parse()
            .map_err(|_| URL.breaks("must be a valid absolute URL"))?;
        let target = HttpTarget::parse(&uri)?;
        target.check_unambiguous()?;
        let mut text = String::with_capacity(url.len());
        target.write_htu(&mut text);
        if let Some(query) = uri.query() {
            text.push('?');
            text.push_str(query);
        }
        text.parse()
            .map(Self)
            .map_err(|_| URL.breaks("must be a valid absolute URL"))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What is said of every URL that breaks a rule.
struct Argument(&'static str);

const URL: Argument = Argument("url");

impl Argument {
    fn breaks(&self, rule: &'static str) -> InvalidInput {
        InvalidInput::new(self.0, rule)
    }
}

/// How a server is named in errors: by its host, and its port if that is another than usual.
pub(crate) fn server_at(uri: &Uri) -> String {
    uri.authority()
        .map_or("the server", http::uri::Authority::as_str)
        .to_owned()
}

/// Whether a URL's host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "[::1]"
        || host
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether a host means the same to everybody who reads it. Browsers and resolvers take `127.1`, `0x7f.1` and `2130706433`
/// for `127.0.0.1`; others take them for names.
fn is_unambiguous_host(host: &str) -> bool {
    if let Some(literal) = host.strip_prefix('[') {
        return literal
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
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

/// Whether a path has the characters of RFC 3986 §2 alone, and `%` only before two digits. Others are rewritten by some on
/// their way, and a proof would then name another URL.
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

/// The scheme of an absolute URI (RFC 3986 §3.1).
pub(crate) fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let is_sound = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_sound.then_some(scheme)
}

/// The parts of an absolute `http` or `https` URI that a proof and a nonce depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpTarget<'a> {
    scheme: Scheme,
    host: &'a str,
    port: u16,
    path: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
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
            _ => return Err(URL.breaks("must be absolute, http or https")),
        };
        let authority = uri
            .authority()
            .ok_or_else(|| URL.breaks("must have a host"))?;
        let authority_text = authority.as_str();
        let mut port_at = None;
        for (at, byte) in authority_text.bytes().enumerate() {
            match byte {
                b'@' => return Err(URL.breaks("must not hold a user name or password")),
                // An IPv6 literal has colons of its own, between brackets.
                b']' => port_at = None,
                b':' if port_at.is_none() => port_at = Some(at),
                _ => {}
            }
        }
        let (host, port) = authority_text.split_at(port_at.unwrap_or(authority_text.len()));
        if host.is_empty() {
            return Err(URL.breaks("must have a host"));
        }
        let port = match port.strip_prefix(':') {
            None | Some("") => scheme.default_port(),
            // Numbers are parsed with a sign, too.
            Some(digits) => (digits.parse().ok().filter(|_| !digits.starts_with('+')))
                .ok_or_else(|| URL.breaks("must have a port up to 65535"))?,
        };
        Ok(Self {
            scheme,
            host,
            port,
            path: uri.path(),
        })
    }

    /// Fails for what somebody else would take for another URL.
    fn check_unambiguous(&self) -> Result<(), InvalidInput> {
        if !is_unambiguous_host(self.host) {
            return Err(
                URL.breaks("must have a host that is a name, or an address in its usual form")
            );
        }
        if !is_escaped(self.path) {
            return Err(URL.breaks("must have % escapes for what is no character of a path"));
        }
        Ok(())
    }

    /// Whether what is sent here can't be read on its way: it goes by `https`, or not over a network at all.
    pub(crate) fn is_confidential(&self) -> bool {
        self.scheme == Scheme::Https || is_loopback(self.host)
    }

    /// Writes the `htu` of RFC 9449 §4.2: no query, no fragment, no user information, no default port.
    pub(crate) fn write_htu(&self, out: &mut impl fmt::Write) {
        // Writing into memory can't fail.
        let _ = out.write_str(match self.scheme {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
        });
        self.write_authority(out);
        let _ = out.write_str(if self.path.is_empty() { "/" } else { self.path });
    }

    /// Writes the host, and the port if it isn't the default one.
    fn write_authority(&self, out: &mut impl fmt::Write) {
        if self.host.bytes().any(|byte| byte.is_ascii_uppercase()) {
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

    /// The effective origin (RFC 6454 §4): scheme, host in lower case, port with the default filled in.
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
    /// Whether `target` lies at this origin; compares without allocating.
    pub(crate) fn matches(&self, target: &HttpTarget<'_>) -> bool {
        self.port == target.port
            && self.scheme == target.scheme
            && (*self.host == *target.host || self.host.eq_ignore_ascii_case(target.host))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.as_str(), self.host, self.port)
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
                "must have % escapes for what is no character of a path",
            ),
            (
                "https://as.example.com/%zz",
                "must have % escapes for what is no character of a path",
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
