//! The HTTP client: short patience for connections, and no way into the private network.
//!
//! A model reference may come from a remote client. Were it followed anywhere, it could make this
//! server ask services that only it can reach (server-side request forgery). So addresses are
//! checked where they are used: in the URL, after name resolution, and at every redirect.

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, redirect};

use super::{HubConfig, HubError};

const REDIRECTS_MAX: usize = 10;

/// The client together with what it may reach.
#[derive(Clone, Debug)]
pub(super) struct Http {
    pub(super) client: Client,
    guard: Arc<Guard>,
}

/// Decides about hosts and addresses.
#[derive(Debug)]
struct Guard {
    allow_private: bool,
    allow_hosts: Vec<String>,
    /// The hub's own host: chosen by the operator, so it may be anywhere.
    endpoint: String,
    /// Hosts of the proxies named in the environment: resolved like any other host, though never
    /// reachable by a reference.
    proxies: Vec<String>,
}

impl Http {
    pub(super) fn new(config: &HubConfig, endpoint: &Url) -> Result<Self, HubError> {
        let guard = Arc::new(Guard {
            allow_private: config.allow_private_addresses,
            allow_hosts: config.allow_hosts.iter().map(|h| h.to_ascii_lowercase()).collect(),
            endpoint: endpoint.host_str().unwrap_or_default().into(),
            proxies: proxy_hosts(),
        });
        let client = super::tls::client_builder()
            .user_agent(concat!("kolosal/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout)
            .tcp_keepalive(Duration::from_secs(30))
            .redirect(redirect_policy(guard.clone()))
            .dns_resolver(Arc::new(GuardedResolver(guard.clone())))
            .build()
            .map_err(|e| HubError::failed("setting up HTTP", describe(&e)))?;
        Ok(Self { client, guard })
    }

    /// Checks the URL of a reference before it is used.
    pub(super) fn check(&self, url: &Url) -> Result<(), HubError> {
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let allowed = &self.guard.allow_hosts;
        let problem = if !allowed.is_empty() && !self.guard.is_named(&host) {
            format!("its host is not one of {}", allowed.join(", "))
        } else {
            match self.guard.check_url(url) {
                Ok(()) => return Ok(()),
                Err(blocked) => blocked.to_string(),
            }
        };
        Err(HubError::Refused { url: url.to_string(), problem })
    }
}

impl Guard {
    /// Whether the operator named this host, whatever its address.
    fn is_named(&self, host: &str) -> bool {
        host == self.endpoint || self.allow_hosts.iter().any(|allowed| allowed == host)
    }

    fn check_url(&self, url: &Url) -> Result<(), Blocked> {
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Blocked(format!("the scheme {:?} is not supported", url.scheme())));
        }
        if self.allow_private || self.is_named(&host) {
            return Ok(());
        }
        if self.proxies.contains(&host) {
            return Err(Blocked(format!("{host} is the proxy")));
        }
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if !is_public(address) => Err(Blocked(not_public(&host, address))),
            _ => Ok(()),
        }
    }

    fn allows(&self, host: &str, address: IpAddr) -> bool {
        self.allow_private
            || is_public(address)
            || self.is_named(host)
            || self.proxies.iter().any(|proxy| proxy == host)
    }
}

/// An address that the guard does not let through.
#[derive(Debug)]
struct Blocked(String);

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Blocked {}

fn not_public(host: &str, address: IpAddr) -> String {
    format!("{host} is {address}, which is not a public address")
}

fn redirect_policy(guard: Arc<Guard>) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() >= REDIRECTS_MAX {
            return attempt.error(Blocked(format!("more than {REDIRECTS_MAX} redirects")));
        }
        let was_secure = attempt.previous().last().is_some_and(|u| u.scheme() == "https");
        if was_secure && attempt.url().scheme() != "https" {
            return attempt.error(Blocked("it redirects from https to http".into()));
        }
        match guard.check_url(attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(blocked) => attempt.error(blocked),
        }
    })
}

/// The system's resolver, minus the addresses that the guard refuses.
struct GuardedResolver(Arc<Guard>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.iter().copied().filter(|a| guard.allows(&host, a.ip())).collect();
            match (allowed.is_empty(), found.first()) {
                (true, Some(first)) => Err(Blocked(not_public(&host, first.ip())).into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

/// The guard's verdict, if that is why a request failed.
pub(super) fn blocked_reason(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(blocked) = inner.downcast_ref::<Blocked>() {
            return Some(blocked.to_string());
        }
        cause = inner.source();
    }
    None
}

/// The innermost cause, which says most: the outer ones only repeat the URL. Of a certificate that
/// is not trusted, what to do about it.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    if let Some(advice) = super::tls::distrust(error) {
        return advice;
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    if error.is_timeout() { format!("timed out ({text})") } else { text }
}

fn proxy_hosts() -> Vec<String> {
    const NAMES: [&str; 6] =
        ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let values = NAMES.iter().filter_map(|name| std::env::var(name).ok());
    values
        .filter_map(|value| {
            let text = if value.contains("://") { value } else { format!("http://{value}") };
            Url::parse(&text).ok()?.host_str().map(str::to_ascii_lowercase)
        })
        .collect()
}

/// Whether an address is one of the public internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [s0, s1, s2, s3, s4, s5, s6, s7] = segments;
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (s0, s1) {
        // IPv4-mapped, IPv4-compatible, loopback and unspecified.
        (0, 0) if (s2, s3, s4) == (0, 0, 0) && matches!(s5, 0 | 0xffff) => {
            s5 == 0xffff && embedded(s6, s7)
        }
        // Translation prefixes carry an IPv4 address.
        (0x64, 0xff9b) => embedded(s6, s7),
        (0x2002, _) => embedded(s1, s2),
        // Documentation and Teredo.
        (0x2001, 0xdb8 | 0) => false,
        // All of today's global unicast.
        _ => (s0 & 0xe000) == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::is_public;

    #[test]
    fn special_addresses_are_not_public() {
        for text in [
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }
}
