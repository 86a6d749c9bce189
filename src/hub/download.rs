//! One file over HTTP: resumed where it stopped, checked, and only then given its name.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE,
    LAST_MODIFIED, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};

use super::checksum::is_sha256;
use super::http::{Http, blocked_reason, describe};
use super::part::{Journal, Part};
use super::store::Lock;
use super::tls::distrust;
use super::{Expect, HubError, LocalFile, Progress, files, is_gguf};
use crate::model::gguf::MAGIC;

/// Longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// A try that brought less than this counts as failed, so that a trickle cannot go on for ever.
const ADVANCE_BYTES_MIN: u64 = 64 * 1024;
/// The hub's own header for the checksum of a large file.
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");

/// Whether to try again when nothing at all was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// There is another source to turn to.
    Quick,
    Patient,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) retries: u32,
    /// First pause between two tries; it doubles each time.
    pub(super) backoff: Duration,
    pub(super) bytes_max: u64,
}

/// A file to download.
pub(super) struct Download<'a> {
    pub(super) http: &'a Http,
    pub(super) url: Url,
    pub(super) dest: &'a Path,
    pub(super) lock: Arc<Lock>,
    pub(super) expect: Expect,
    pub(super) token: Option<&'a str>,
    pub(super) patience: Patience,
    pub(super) limits: Limits,
    pub(super) progress: &'a dyn Progress,
}

/// Why one try ended without the whole file.
enum Stop {
    Fatal(HubError),
    /// Worth another try, after the pause that the server asked for.
    Transient(HubError, Option<Duration>),
}

impl Download<'_> {
    /// Downloads the file; an earlier unfinished try is continued if it is still the same file. When
    /// that makes a wrong whole, the file is downloaded again from its beginning.
    pub(super) async fn run(self) -> Result<LocalFile, HubError> {
        let mut part = Part::open(self.dest, self.url.as_str(), Arc::clone(&self.lock)).await?;
        let has_validator = part.journal.validator().is_some();
        if !has_validator && self.expect.sha256.is_none() {
            part.discard().await?;
        }
        loop {
            self.receive_all(&mut part).await?;
            let Some(problem) = self.problem(&part) else { break };
            let was_resumed = part.is_resumed();
            part.discard().await?;
            if !was_resumed {
                return Err(self.corrupt(&problem));
            }
            self.progress.note(&format!("{}: {problem}; beginning again", self.name()));
        }
        let file = LocalFile { name: self.name(), bytes: part.len(), sha256: part.sha256() };
        part.finish(self.dest).await?;
        self.progress.finish();
        Ok(file)
    }

    /// Tries until the file is here, or trying is of no use.
    async fn receive_all(&self, part: &mut Part) -> Result<(), HubError> {
        let mut failures = 0;
        let mut farthest = part.len();
        while let Err(stop) = self.attempt(part).await {
            part.flush().await?;
            let (error, wait) = match stop {
                Stop::Fatal(error) => return Err(error),
                Stop::Transient(error, wait) => (error, wait),
            };
            if part.len() >= farthest + ADVANCE_BYTES_MIN {
                farthest = part.len();
                failures = 0;
            }
            failures += 1;
            let give_up = self.patience == Patience::Quick && part.len() == 0;
            if give_up || failures > self.limits.retries {
                return Err(error);
            }
            let doubled = self.limits.backoff.saturating_mul(1 << (failures - 1).min(8));
            let pause = wait.unwrap_or(doubled).min(BACKOFF_MAX);
            self.progress.note(&format!("{error}; next try in {:.1} s", pause.as_secs_f32()));
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.dest.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// One request, and as much of its answer as arrives.
    async fn attempt(&self, part: &mut Part) -> Result<(), Stop> {
        let mut request = self.http.client.get(self.url.clone());
        if let Some(token) = self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if part.len() > 0 {
            request = request.header(RANGE, format!("bytes={}-", part.len()));
            if let Some(validator) = part.journal.validator() {
                request = request.header(IF_RANGE, validator);
            }
        }
        let response = request.send().await.map_err(|e| self.not_sent(&e))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => self.resume(part, response).await,
            StatusCode::OK => self.begin(part, response).await,
            StatusCode::RANGE_NOT_SATISFIABLE if part.len() > 0 => {
                if content_range(response.headers()).and_then(|r| r.total) == Some(part.len()) {
                    return Ok(());
                }
                self.start_over(part, "the file is now shorter than what was already here").await
            }
            status => Err(self.refused(status, response.headers())),
        }
    }

    /// The whole file comes: a first try, or the file is no longer the one that was begun.
    async fn begin(&self, part: &mut Part, response: Response) -> Result<(), Stop> {
        let headers = response.headers();
        let text = |name: &HeaderName| {
            headers.get(name).and_then(|v| v.to_str().ok()).map(ToOwned::to_owned)
        };
        let linked = text(&LINKED_ETAG).map(|etag| etag.trim_matches('"').to_ascii_lowercase());
        let journal = Journal {
            url: self.url.to_string(),
            etag: text(&ETAG),
            last_modified: text(&LAST_MODIFIED),
            total: response.content_length(),
            sha256: linked.filter(|sha256| is_sha256(sha256)),
            ..Journal::default()
        };
        self.check_offer(headers, journal.total)?;
        self.check_space(journal.total.unwrap_or(0))?;
        self.progress.start(&self.name(), journal.total.or(self.expect.bytes));
        part.restart(journal).await.map_err(Stop::Fatal)?;
        self.receive(part, response).await
    }

    /// The rest of the file comes.
    async fn resume(&self, part: &mut Part, response: Response) -> Result<(), Stop> {
        let headers = response.headers();
        let range = content_range(headers);
        let etag = headers.get(ETAG).and_then(|v| v.to_str().ok());
        let continues = range.is_some_and(|r| r.start == part.len() && part.len() > 0);
        let same_total = range.and_then(|r| r.total).is_none_or(|total| {
            part.journal.total.is_none_or(|before| before == total) && part.len() <= total
        });
        let same_etag = match (etag, part.journal.etag.as_deref()) {
            (Some(now), Some(before)) => now == before,
            _ => true,
        };
        if !(continues && same_total && same_etag) {
            return self.start_over(part, "the file changed meanwhile").await;
        }
        let total = range.and_then(|r| r.total).or(part.journal.total);
        self.check_offer(headers, total)?;
        self.check_space(total.map_or(0, |total| total.saturating_sub(part.len())))?;
        if !part.is_announced() {
            self.progress.start(&self.name(), total.or(self.expect.bytes));
            self.progress.advance(part.len());
            part.set_announced();
        }
        part.journal.total = total;
        self.receive(part, response).await
    }

    async fn receive(&self, part: &mut Part, mut response: Response) -> Result<(), Stop> {
        let total = part.journal.total.or(self.expect.bytes);
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(e) => return Err(self.interrupted(part.len(), &describe(&e))),
            };
            let is_first = part.len() == 0;
            let head = chunk.get(..MAGIC.len().min(chunk.len())).unwrap_or_default();
            // Other formats have no first bytes of their own; whoever opens them checks more.
            if is_first && is_gguf(&self.name()) && !MAGIC.starts_with(head) {
                part.discard().await.map_err(Stop::Fatal)?;
                return Err(Stop::Fatal(self.corrupt("it is not a GGUF file")));
            }
            let len = part.len() + chunk.len() as u64;
            if len > total.unwrap_or(u64::MAX).min(self.limits.bytes_max) {
                part.discard().await.map_err(Stop::Fatal)?;
                return Err(Stop::Fatal(match total {
                    Some(total) => self.corrupt(&format!("more than the promised {total} bytes")),
                    None => self.too_large(len),
                }));
            }
            part.append(&chunk).await.map_err(Stop::Fatal)?;
            self.progress.advance(chunk.len() as u64);
        }
        match total {
            Some(total) if part.len() < total => {
                Err(self.interrupted(part.len(), &format!("{total} bytes were promised")))
            }
            _ => Ok(()),
        }
    }

    /// Checks what the server is about to send.
    fn check_offer(&self, headers: &HeaderMap, total: Option<u64>) -> Result<(), Stop> {
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|e| *e != "identity") {
            let problem = format!("it comes encoded as {encoding:?}");
            return Err(Stop::Fatal(HubError::failed(self.url.as_str(), problem)));
        }
        match (total, self.expect.bytes) {
            (Some(total), Some(expected)) if total != expected => {
                let problem = format!("{total} bytes are offered, {expected} expected");
                Err(Stop::Fatal(self.corrupt(&problem)))
            }
            (Some(total), _) if total > self.limits.bytes_max => {
                Err(Stop::Fatal(self.too_large(total)))
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with the complete file.
    fn problem(&self, part: &Part) -> Option<String> {
        let (bytes, sha256) = (part.len(), part.sha256());
        let promised = self.expect.sha256.as_ref().or(part.journal.sha256.as_ref());
        match (self.expect.bytes, promised) {
            (Some(expected), _) if expected != bytes => {
                Some(format!("{bytes} bytes arrived, {expected} expected"))
            }
            (_, Some(expected)) if *expected != sha256 => {
                Some(format!("its sha256 is {sha256}, expected {expected}"))
            }
            _ if bytes == 0 => Some("it is empty".to_owned()),
            _ => None,
        }
    }

    /// Whether so many more bytes fit on the disk.
    fn check_space(&self, bytes: u64) -> Result<(), Stop> {
        let folder = self.dest.parent().unwrap_or(self.dest);
        files::check_space(folder, self.url.as_str(), bytes).map_err(Stop::Fatal)
    }

    async fn start_over(&self, part: &mut Part, why: &str) -> Result<(), Stop> {
        part.discard().await.map_err(Stop::Fatal)?;
        Err(Stop::Transient(HubError::failed(self.url.as_str(), why), Some(Duration::ZERO)))
    }

    fn not_sent(&self, error: &reqwest::Error) -> Stop {
        let what = self.url.to_string();
        if let Some(problem) = blocked_reason(error) {
            return Stop::Fatal(HubError::Refused { url: what, problem });
        }
        let problem = describe(error);
        let unreachable = HubError::Unreachable { what, problem };
        match distrust(error) {
            Some(_) => Stop::Fatal(unreachable),
            None => Stop::Transient(unreachable, None),
        }
    }

    fn interrupted(&self, received: u64, problem: &str) -> Stop {
        let (what, problem) = (self.url.to_string(), problem.to_owned());
        Stop::Transient(HubError::Interrupted { what, received, problem }, None)
    }

    fn refused(&self, status: StatusCode, headers: &HeaderMap) -> Stop {
        match status_error(self.url.as_str(), status) {
            error @ HubError::Unreachable { .. } => Stop::Transient(error, retry_after(headers)),
            error => Stop::Fatal(error),
        }
    }

    fn corrupt(&self, problem: &str) -> HubError {
        HubError::Corrupt { what: self.url.to_string(), problem: problem.into() }
    }

    fn too_large(&self, bytes: u64) -> HubError {
        HubError::TooLarge { what: self.url.to_string(), bytes, limit: self.limits.bytes_max }
    }
}

/// What a status other than success means for the caller; `Unreachable` is worth another try.
pub(super) fn status_error(what: &str, status: StatusCode) -> HubError {
    match status.as_u16() {
        401 | 403 => HubError::Denied { what: what.into(), status: status.as_u16() },
        404 | 410 => HubError::NotFound(format!("{what} does not exist")),
        408 | 425 | 429 | 500..=599 => {
            HubError::Unreachable { what: what.into(), problem: format!("HTTP {status}") }
        }
        _ => HubError::failed(what, format!("HTTP {status}")),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ContentRange {
    start: u64,
    total: Option<u64>,
}

/// `bytes 10-99/100`, `bytes 10-99/*` or `bytes */100`.
fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = match range {
        "*" => 0,
        range => range.split_once('-')?.0.parse().ok()?,
    };
    Some(ContentRange { start, total: total.parse().ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (text, expected) in [
            ("bytes 10-99/100", Some((10, Some(100)))),
            ("bytes 10-99/*", Some((10, None))),
            ("bytes */100", Some((0, Some(100)))),
            ("bytes x-99/100", None),
            ("bytes 10", None),
            ("lines 1-2/3", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            let expected = expected.map(|(start, total)| ContentRange { start, total });
            assert_eq!(content_range(&headers), expected, "{text}");
        }
    }
}
