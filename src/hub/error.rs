//! Why a model file cannot be had, sorted by what the caller can do about it.

use std::io;
use std::path::PathBuf;

use crate::error::{Error, Kind};

/// When a place for a download may be free, in seconds.
const BUSY_RETRY_S: u32 = 30;
/// How many choices an error lists.
const NAMES_MAX: usize = 20;

/// A failure of the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The reference is malformed: correct it.
    #[error("invalid model reference {reference:?}: {problem}")]
    Invalid { reference: String, problem: String },
    /// An address that this configuration does not allow.
    #[error("{url} is refused: {problem}")]
    Refused { url: String, problem: String },
    /// There is no such model, repository, file or package.
    #[error("{0}")]
    NotFound(String),
    /// Several models fit: name one of them.
    #[error("{reference} holds several models; name one of: {}", few(choices))]
    Ambiguous { reference: String, choices: Vec<String> },
    /// Needs credentials, or these do not suffice.
    #[error(
        "access to {what} is denied (HTTP {status}); does it need a token or an accepted licence?"
    )]
    Denied { what: String, status: u16 },
    /// Nothing was received: no network, or the other side is down.
    #[error("cannot reach {what}: {problem}; check the network, and the proxy if there is one")]
    Unreachable { what: String, problem: String },
    /// Stopped part-way; what arrived is kept for the next try.
    #[error("download of {what} stopped at {received} bytes: {problem}")]
    Interrupted { what: String, received: u64, problem: String },
    /// Every place for a download is taken: try again later.
    #[error(
        "{limit} downloads are under way or wait, the limit (hub.max_downloads and \
         hub.max_download_queue); try again later"
    )]
    Busy { limit: usize },
    #[error("{what} needs {bytes} bytes; {free} are free on the disk of {}", folder.display())]
    NoSpace { what: String, bytes: u64, free: u64, folder: PathBuf },
    #[error(
        "{reference} is not on this machine and downloads are switched off; pull it without --offline, or \
         name a file that is here"
    )]
    Offline { reference: String },
    /// What arrived is not what was promised; it has been deleted.
    #[error("{what} is damaged: {problem}")]
    Corrupt { what: String, problem: String },
    #[error("{what} has {bytes} bytes; the limit is {limit}")]
    TooLarge { what: String, bytes: u64, limit: u64 },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} failed: {problem}")]
    Failed { what: String, problem: String },
    /// Every source of a catalogue entry failed.
    #[error("{}", no_source(name, failures))]
    AllSources { name: String, failures: Vec<(String, HubError)> },
}

impl HubError {
    pub(super) fn invalid(reference: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { reference: reference.into(), problem: problem.into() }
    }

    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(super) fn failed(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), problem: problem.into() }
    }

    fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// What a caller may do, as the crate's error kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } | Self::Refused { .. } | Self::Ambiguous { .. } => Kind::Invalid,
            Self::NotFound(_) => Kind::NotFound,
            Self::Busy { .. } => Kind::Unavailable,
            Self::AllSources { failures, .. } if failures.iter().any(|(_, e)| e.is_busy()) => {
                Kind::Unavailable
            }
            _ => Kind::ModelDownload,
        }
    }
}

impl From<HubError> for Error {
    fn from(error: HubError) -> Self {
        match error.kind() {
            Kind::Unavailable => {
                Self::unavailable(error.to_string(), BUSY_RETRY_S).with_code("too_many_downloads")
            }
            kind => Self::new(kind, error.to_string()),
        }
    }
}

/// The first of many names.
fn few(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Why nothing that a name of the catalogue stands for can be had, and what to do.
fn no_source(name: &str, failures: &[(String, HubError)]) -> String {
    let away = failures.iter().map(|(_, error)| match error {
        HubError::Unreachable { what, .. } => Some(what.as_str()),
        _ => None,
    });
    let Some(away) = away.collect::<Option<Vec<_>>>().filter(|away| !away.is_empty()) else {
        return format!("no source of {name} works: {}", list(failures));
    };
    format!(
        "{name} is not on this machine, and {} cannot be reached; check the network, and the proxy if there \
         is one, or name a file that is here",
        away.join(" and ")
    )
}

fn list(failures: &[(String, HubError)]) -> String {
    let lines: Vec<String> = failures.iter().map(|(source, e)| format!("{source}: {e}")).collect();
    lines.join("; ")
}
