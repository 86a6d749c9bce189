//! Exit codes: 0 done, 1 failed, 2 wrong usage, 69 server not reachable, 130 interrupted.

use std::fmt::Display;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::error::Error;
use crate::shutdown::EXIT_INTERRUPTED;

/// Why a command ends without having done its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("interrupted")]
    Interrupted,
    /// Whoever reads our output has closed it, such as `head`: no message, no failure.
    #[error("output closed")]
    OutputClosed,
    /// A program that was run for somebody ended with this code, and has said why.
    #[error("ended with {0}")]
    Ended(u8),
}

/// Result of a command.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(super) fn failed(reason: impl Display) -> Self {
        Self::Failed(reason.to_string())
    }

    pub(super) fn usage(reason: impl Display) -> Self {
        Self::Usage(reason.to_string())
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unavailable(_) => 69,
            Self::Interrupted => EXIT_INTERRUPTED,
            Self::OutputClosed => 0,
            Self::Ended(code) => *code,
        })
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error.message)
    }
}

/// Adds to an error what was tried, such as a file's path.
pub(super) trait Context<T> {
    fn context(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| Failure::Failed(format!("{what}: {error}")))
    }
}
