//! What web pages may not do: reach the server by a foreign name, or make it work from a foreign origin.
//!
//! A browser sends requests for any page, with no more right than that it runs on a machine that reaches
//! the server. Two marks of it cannot be forged by a page: the name it connected to (`Host`), and where
//! the page is from (`Origin`, `Sec-Fetch-Site`). Programs send neither mark and are not touched.

use std::net::IpAddr;

use poem::{
    Request,
    http::{HeaderName, HeaderValue, Method, header, uri::Authority},
};

use super::Cors;
use crate::error::{Error, Kind, Result};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Names by which the server may be reached, beside addresses, `localhost` and names without a dot.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    names: Vec<String>,
}

impl Hosts {
    /// `*` allows every name.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        Self { names: names.filter(|name| !name.is_empty()).collect() }
    }

    /// Refuses names that a stranger may own: a page of such a name becomes one of the server's own when
    /// the name is made to point here (DNS rebinding).
    ///
    /// # Errors
    /// 403 `host_not_allowed`.
    pub fn check(&self, request: &Request) -> Result<()> {
        let headers = request.headers().get_all(header::HOST).iter();
        let headers = headers.map(|value| value.to_str().unwrap_or("?"));
        let authority = request.uri().authority().map(Authority::as_str);
        match authority.into_iter().chain(headers).find(|host| !self.allows(host)) {
            None => Ok(()),
            Some(host) => {
                let host: String = host.chars().take(100).collect();
                let text = format!(
                    "this server is not to be reached by the name {host:?}; server.allowed_hosts lists \
                     names that it may have"
                );
                Err(forbidden(text, "host_not_allowed"))
            }
        }
    }

    fn allows(&self, host: &str) -> bool {
        let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
        let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // Nobody can register a name without a dot; containers reach each other by such names.
        !name.contains(['.', ':'])
            || address.unwrap_or(&name).parse::<IpAddr>().is_ok()
            || name.ends_with(".localhost")
            || self.names.iter().any(|allowed| allowed == "*" || *allowed == name)
    }
}

/// Refuses what a page of another origin sends and what is more than looking.
///
/// # Errors
/// 403 `origin_not_allowed`.
pub(super) fn check_origin(request: &Request, cors: &Cors) -> Result<()> {
    let looks = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    if looks || cors.allowed(request).is_some() {
        return Ok(());
    }
    let site = request.headers().get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    let origin = request.headers().get(header::ORIGIN);
    let is_own = match (site, origin) {
        // The browser has compared; a proxy may have changed the name since.
        (Some(b"same-origin" | b"none"), _) => true,
        (Some(_), _) => false,
        (None, None) => true,
        (None, Some(origin)) => origin.to_str().is_ok_and(|origin| is_same(origin, request)),
    };
    if is_own {
        return Ok(());
    }
    let origin: String =
        origin.and_then(|o| o.to_str().ok()).unwrap_or("null").chars().take(100).collect();
    let text = format!(
        "pages of {origin:?} may not send this to the server; cors.allowed_origins lists those that may"
    );
    Err(forbidden(text, "origin_not_allowed"))
}

/// Whether an origin names the host that the request went to.
fn is_same(origin: &str, request: &Request) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(port).unwrap_or(&authority);
    let host = request.uri().authority().map(Authority::as_str);
    let host = host.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    let host = host.unwrap_or_default().to_ascii_lowercase();
    host.strip_suffix(port).unwrap_or(&host) == authority
}

/// A host without `:port`; the brackets of an IPv6 address stay.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn forbidden(text: String, code: &'static str) -> Error {
    Error::new(Kind::Forbidden, text).with_code(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_strangers_may_own_are_refused() {
        let hosts = Hosts::new(["ai.example.org".to_owned()]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "localhost:1",
            "LOCALHOST",
            "a.localhost",
            "kolosal:8080",
            "",
            "AI.example.org:443",
            "ai.example.org.",
        ] {
            assert!(hosts.allows(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "127.0.0.1:8080.evil.example",
            "b.ai.example.org",
            "[::1",
            "a:b:1",
            "x.local",
        ] {
            assert!(!hosts.allows(host), "{host}");
        }
        assert!(Hosts::new(["*".to_owned()]).allows("evil.example"));
    }

    #[test]
    fn foreign_origins_may_look_and_not_touch() {
        let own = [("host", "127.0.0.1:8080")];
        let cases: [(&[(&str, &str)], bool); 9] = [
            (&[], true),
            (&[("origin", "http://127.0.0.1:8080")], true),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", "http://127.0.0.1:3000")], false),
            (&[("origin", "chrome-extension://abc")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:3000")], false),
            (&[("origin", "https://good.example"), ("sec-fetch-site", "cross-site")], true),
        ];
        let cors = Cors::new(vec!["https://good.example".to_owned()]);
        for (headers, passes) in cases {
            for method in [Method::POST, Method::DELETE, Method::PUT, Method::GET] {
                let is_get = method == Method::GET;
                let mut request = Request::builder().method(method);
                for (name, value) in own.iter().chain(headers) {
                    request = request.header(*name, *value);
                }
                let is_ok = check_origin(&request.finish(), &cors).is_ok();
                assert_eq!(is_ok, passes || is_get, "{headers:?}");
            }
        }
    }
}
