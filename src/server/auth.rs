//! API keys: none configured, everyone may; otherwise every path but the probes needs one.

use poem::{
    Request,
    http::{HeaderMap, header},
};
use sha2::{Digest, Sha256};

use super::openai::Caller;
use crate::error::{Error, Kind, Result};

/// Paths that need no key: they say nothing that a stranger may not know.
const OPEN_PATHS: [&str; 7] =
    ["/livez", "/readyz", "/health", "/status", "/docs", "/openapi.json", "/"];

/// The configured keys, as hashes: comparing hashes takes the same time wherever a guess is wrong.
#[derive(Clone, Default)]
pub struct ApiKeys {
    hashes: Vec<[u8; 32]>,
}

/// What a request may see; in the request's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It has a valid key, or there are no keys.
    Granted,
    /// It has no valid key, and the path needs none.
    Open,
}

impl ApiKeys {
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self { hashes: keys.into_iter().map(hash).collect() }
    }

    /// Whether there are keys at all.
    pub(super) fn is_needed(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// Whether the request may pass, and what it may see. `path` is without a `/v1` prefix.
    ///
    /// # Errors
    /// 401 without a key, or with a wrong one, where one is needed.
    pub fn check(&self, request: &Request, path: &str) -> Result<Access> {
        if self.hashes.is_empty() {
            return Ok(Access::Granted);
        }
        let key = presented(request.headers());
        match key {
            Some(key) if self.contains(key) => Ok(Access::Granted),
            _ if OPEN_PATHS.contains(&path) => Ok(Access::Open),
            Some(_) => {
                Err(Error::new(Kind::Unauthorized, "the API key is wrong")
                    .with_code("invalid_api_key"))
            }
            None => {
                let text = "an API key is required: Authorization: Bearer KEY, or X-API-Key: KEY";
                Err(Error::new(Kind::Unauthorized, text).with_code("missing_api_key"))
            }
        }
    }

    /// Who asks, by the key that was presented; without configured keys all are one.
    pub(crate) fn caller(&self, request: &Request) -> Caller {
        let keys = (!self.hashes.is_empty()).then(|| presented(request.headers()));
        Caller(keys.flatten().map(hash))
    }

    fn contains(&self, key: &str) -> bool {
        let presented = hash(key);
        // Every hash is compared in full, so that time tells nothing.
        let is_same = |known: &[u8; 32]| {
            known.iter().zip(presented).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
        };
        self.hashes.iter().fold(false, |found, known| found | is_same(known))
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
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
