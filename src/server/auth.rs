//! Who asks, and what they may: keys for all but the probes where keys are configured, and for managing
//! engines a key for that or being at this machine.

use std::net::{IpAddr, Ipv6Addr};

use poem::{
    Request,
    http::{HeaderMap, header},
};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    desk::{Identity, Ledger},
    ignored::Ignored,
};
use crate::{
    engine::Tenant,
    error::{Error, Kind, Result},
};

/// Paths that need no key: they say nothing that a stranger may not know.
const OPEN_PATHS: [&str; 7] =
    ["/livez", "/readyz", "/health", "/status", "/docs", "/openapi.json", "/"];
/// By these a proxy says that it asks for somebody else.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// The configured keys, as hashes: comparing hashes takes the same time wherever a guess is wrong.
#[derive(Clone, Default)]
pub struct ApiKeys {
    hashes: Vec<[u8; 32]>,
    admins: Vec<[u8; 32]>,
    share_cache: bool,
}

/// What a request may see; in the request's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It has a valid key, or there are no keys.
    Granted,
    /// It has no valid key, and the path needs none.
    Open,
}

/// What a path does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Use,
    /// It changes which engines there are.
    Manage,
}

/// Whose something is: the hash of the API key, if keys are configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) Option<[u8; 32]>);

/// Who asks; in the request's data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// The hash of the API key, if keys are configured.
    key: Option<[u8; 32]>,
    tenant: Tenant,
    ignored: Ignored,
    ledger: Ledger,
}

impl Caller {
    /// Whose the stored responses are that this caller may see.
    pub(crate) fn owner(&self) -> Owner {
        Owner(self.key)
    }

    /// Who this is, for receipts.
    pub(super) fn identity(&self, request: &Request) -> Identity {
        let key = self.key.as_ref().map(short);
        Identity { tenant: self.tenant.id, key, address: peer(request) }
    }

    /// Where the caller is told what is not heeded, and where what happens is noted.
    pub(super) fn telling(self, ignored: Ignored, ledger: Ledger) -> Self {
        Self { ignored, ledger, ..self }
    }

    /// Where it is noted what becomes of the request.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Tells the caller what is not heeded.
    pub(crate) fn tell(&self, notes: &[String]) {
        notes.iter().for_each(|note| self.ignored.note(note.as_str()));
    }

    /// With whom the caller shares cached prefixes and a share of each engine.
    pub(crate) fn tenant(&self) -> Tenant {
        self.tenant
    }
}

impl ApiKeys {
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self { hashes: keys.into_iter().map(hash).collect(), ..Self::default() }
    }

    /// Keys by which engines may be managed, from wherever, and by nothing else then.
    #[must_use]
    pub fn with_admins<'a>(mut self, keys: impl IntoIterator<Item = &'a str>) -> Self {
        self.admins = keys.into_iter().map(hash).collect();
        self
    }

    /// Whether cached prefixes are shared by those with different keys: each can tell then, by how many
    /// tokens were cached, what others have asked.
    #[must_use]
    pub fn sharing_cache(mut self, share_cache: bool) -> Self {
        self.share_cache = share_cache;
        self
    }

    /// Whether there are keys at all.
    pub(super) fn is_needed(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// Whether the request may pass, and what it may see. `path` is without a `/v1` prefix.
    ///
    /// # Errors
    /// 401 without a key, or with a wrong one, where one is needed; 403 for managing engines with a key
    /// that is not for that, or from elsewhere.
    pub(crate) fn check(&self, request: &Request, path: &str, purpose: Purpose) -> Result<Access> {
        let key = presented(request.headers()).map(hash);
        let is_admin = key.is_some_and(|key| contains(&self.admins, &key));
        let is_known = is_admin || key.is_some_and(|key| contains(&self.hashes, &key));
        if !is_known {
            let manages = purpose == Purpose::Manage && !self.admins.is_empty();
            if !self.is_needed() && !manages {
                // No keys: everyone may.
            } else if OPEN_PATHS.contains(&path) && !manages {
                return Ok(Access::Open);
            } else {
                return Err(no_key(key.is_some()));
            }
        }
        if purpose == Purpose::Manage && !is_admin {
            self.check_at_home(request)?;
        }
        Ok(Access::Granted)
    }

    /// # Errors
    /// Keys for managing are configured, or whoever asks is not at this machine.
    fn check_at_home(&self, request: &Request) -> Result<()> {
        let text = if !self.admins.is_empty() {
            "this key may not manage engines; those of auth.admin_keys may"
        } else if is_local(request) {
            return Ok(());
        } else {
            "engines are managed from the machine that the server runs on, or by a key of auth.admin_keys"
        };
        Err(Error::new(Kind::Forbidden, text).with_code("admin_required"))
    }

    /// Who asks, by the key that was presented; without configured keys, by address.
    pub(crate) fn caller(&self, request: &Request) -> Caller {
        let presented = self.is_needed().then(|| presented(request.headers()));
        let key = presented.flatten().map(hash);
        let id = key.map_or_else(|| peer(request).map_or(0, address_id), |key| short(&key));
        let cache = key.filter(|_| !self.share_cache).map_or(0, |key| short(&key));
        Caller { key, tenant: Tenant { id, cache }, ..Caller::default() }
    }
}

fn no_key(is_given: bool) -> Error {
    if is_given {
        return Error::new(Kind::Unauthorized, "the API key is wrong").with_code("invalid_api_key");
    }
    let text = "an API key is required: Authorization: Bearer KEY, or X-API-Key: KEY";
    Error::new(Kind::Unauthorized, text).with_code("missing_api_key")
}

/// Every hash is compared in full, so that time tells nothing.
fn contains(hashes: &[[u8; 32]], presented: &[u8; 32]) -> bool {
    let is_same = |known: &[u8; 32]| {
        known.iter().zip(presented).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    };
    hashes.iter().fold(false, |found, known| found | is_same(known))
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn short(hash: &[u8; 32]) -> u64 {
    // Zero means nobody.
    xxh3_64(hash).max(1)
}

/// Where a request comes from; `None` when it came through no socket.
fn peer(request: &Request) -> Option<IpAddr> {
    request.remote_addr().as_socket_addr().map(|address| address.ip().to_canonical())
}

/// One number for each IPv4 address, and for each IPv6 network of one customer.
fn address_id(address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => {
            address.to_bits()
                & Ipv6Addr::from([0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0]).to_bits()
        }
    };
    xxh3_64(&bits.to_le_bytes()).max(1)
}

/// Whether a program on this machine asks for itself. Without a socket nobody else can.
fn is_local(request: &Request) -> bool {
    let is_forwarded = FORWARDED.iter().any(|name| request.headers().contains_key(*name));
    let Some(peer) = peer(request) else { return true };
    let own = request.local_addr().as_socket_addr().map(|address| address.ip().to_canonical());
    !is_forwarded && (peer.is_loopback() || own == Some(peer))
}

/// The key that a request brings: `Authorization: Bearer`, or `X-API-Key`.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(value) = text(header::AUTHORIZATION.as_str()) {
        let (scheme, key) = value.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| key.trim());
    }
    text("x-api-key").map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use poem::{
        Body,
        http::uri::Scheme,
        web::{LocalAddr, RemoteAddr},
    };

    use super::*;

    fn request(headers: &[(&str, &str)], peer: &str) -> Request {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if peer.is_empty() {
            return request.finish();
        }
        let peer: SocketAddr = (peer.parse::<IpAddr>().unwrap(), 1).into();
        let own: SocketAddr = ([10, 0, 0, 9], 80).into();
        let mut parts = poem::http::Request::new(()).into_parts().0;
        parts.headers = request.finish().headers().clone();
        let ends = (LocalAddr(own.into()), RemoteAddr(peer.into()));
        Request::from_parts((parts, ends.0, ends.1, Scheme::HTTP).into(), Body::empty())
    }

    fn code(outcome: Result<Access>) -> &'static str {
        outcome.map_or_else(|error| error.code.unwrap(), |_| "ok")
    }

    #[test]
    fn engines_are_managed_at_home_or_by_a_key_for_it() {
        let none = ApiKeys::default();
        let keys = ApiKeys::new(["k"]);
        let admins = ApiKeys::new(["k"]).with_admins(["a"]);
        let only_admins = ApiKeys::default().with_admins(["a"]);
        let with = |key| -> Vec<(&str, &str)> { vec![("x-api-key", key)] };
        let cases: [(&ApiKeys, Vec<(&str, &str)>, &str, [&str; 2]); 19] = [
            (&none, vec![], "127.0.0.1", ["ok", "ok"]),
            (&none, vec![], "::ffff:127.0.0.1", ["ok", "ok"]),
            (&none, vec![], "::1", ["ok", "ok"]),
            (&none, vec![], "", ["ok", "ok"]),
            (&none, vec![], "10.0.0.9", ["ok", "ok"]),
            (&none, vec![], "10.0.0.7", ["ok", "admin_required"]),
            (&none, vec![("x-forwarded-for", "127.0.0.1")], "127.0.0.1", ["ok", "admin_required"]),
            (&none, vec![("forwarded", "for=8.8.8.8")], "::1", ["ok", "admin_required"]),
            (&keys, vec![], "127.0.0.1", ["missing_api_key", "missing_api_key"]),
            (&keys, with("x"), "127.0.0.1", ["invalid_api_key", "invalid_api_key"]),
            (&keys, with("k"), "127.0.0.1", ["ok", "ok"]),
            (&keys, with("k"), "10.0.0.7", ["ok", "admin_required"]),
            (&admins, with("k"), "127.0.0.1", ["ok", "admin_required"]),
            (&admins, with("a"), "10.0.0.7", ["ok", "ok"]),
            (&admins, vec![], "127.0.0.1", ["missing_api_key", "missing_api_key"]),
            (&only_admins, vec![], "127.0.0.1", ["ok", "missing_api_key"]),
            (&only_admins, with("x"), "127.0.0.1", ["ok", "invalid_api_key"]),
            (&only_admins, with("a"), "10.0.0.7", ["ok", "ok"]),
            (&only_admins, vec![("authorization", "Bearer a")], "10.0.0.7", ["ok", "ok"]),
        ];
        for (keys, headers, peer, wanted) in cases {
            let request = request(&headers, peer);
            let got = [Purpose::Use, Purpose::Manage]
                .map(|purpose| code(keys.check(&request, "/engines", purpose)));
            assert_eq!(got, wanted, "{headers:?} from {peer}");
        }
    }

    #[test]
    fn callers_are_told_apart_by_key_else_by_address() {
        let keys = ApiKeys::new(["k", "l"]);
        let caller =
            |keys: &ApiKeys, key: &str, peer| keys.caller(&request(&[("x-api-key", key)], peer));
        let k = caller(&keys, "k", "10.0.0.1");
        let elsewhere = caller(&keys, "k", "10.0.0.2");
        assert_eq!((k.key, k.tenant), (elsewhere.key, elsewhere.tenant));
        let l = caller(&keys, "l", "10.0.0.1");
        assert!(k.tenant.id != l.tenant.id && k.tenant.cache != l.tenant.cache);
        let sharing = keys.clone().sharing_cache(true);
        assert_eq!(caller(&sharing, "k", "10.0.0.1").tenant, Tenant { cache: 0, ..k.tenant });
        let open = ApiKeys::default();
        let [a, b, v6, near, far] =
            ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
                .map(|peer| caller(&open, "k", peer).tenant);
        assert!(a.id != b.id && v6.id == near.id && v6.id != far.id);
        assert_eq!((a.cache, v6.cache), (0, 0));
    }
}
