//! Logging: one subscriber for the process, lines to stderr or a file, text or JSON.
//!
//! A thread of its own writes the lines, from a queue with an end: a reader that stalls or goes away,
//! or a full disk, costs lines of the log and never a request. Prompts and answers are never logged;
//! code that logs a request logs its id, its counts and its times.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::config::{LogFormat, LoggingConfig};

/// Silences the lines that `server` writes for each request.
const ACCESS_LOG_OFF: &str = "kolosal_server::access=off";

/// Lines that wait for the writing thread; more are lost.
const QUEUED_LINES: usize = 16 << 10;

/// Where lines of the process go, and the thread that writes them.
static LOG: OnceLock<(NonBlocking, Mutex<Option<WorkerGuard>>)> = OnceLock::new();

/// Logging that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("logging.level: {level}: {reason}")]
    Level { level: String, reason: String },
    #[error("logging.file: {path}: {reason}")]
    File { path: String, reason: io::Error },
}

/// Installs the process's subscriber. A second call changes nothing.
///
/// # Errors
/// A level that is no filter, or a file that cannot be opened.
pub fn init(config: &LoggingConfig) -> Result<(), TraceError> {
    let mut filter = filter(&config.level)?;
    if !config.access_log {
        let off = Directive::from_str(ACCESS_LOG_OFF);
        filter = filter.add_directive(off.expect("the directive is well-formed: this is a bug"));
    }
    let output = output(config)?;
    let to_terminal = config.file.is_none() && io::stderr().is_terminal();
    let color = to_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(output).with_ansi(color);
    // The only error is a subscriber that exists already, as in tests.
    let _installed = match config.format {
        LogFormat::Text => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Reads a level or directives. Libraries below speak up from `warn` on unless named.
fn filter(level: &str) -> Result<EnvFilter, TraceError> {
    let plain = ["off", "error", "warn", "info", "debug", "trace"];
    let directives = match level.to_lowercase() {
        word if ["info", "debug", "trace"].contains(&word.as_str()) => {
            format!("warn,kolosal={word},kolosal_server={word},kolosal_kernels={word}")
        }
        word if plain.contains(&word.as_str()) => word,
        _ => level.to_owned(),
    };
    EnvFilter::try_new(&directives)
        .ok()
        .filter(|_| directives.contains(['=', ',']) || plain.contains(&directives.as_str()))
        .ok_or_else(|| TraceError::Level {
            level: level.to_owned(),
            reason: format!("expected one of {} or directives", plain.join(", ")),
        })
}

fn output(config: &LoggingConfig) -> Result<NonBlocking, TraceError> {
    if let Some((output, _)) = LOG.get() {
        return Ok(output.clone());
    }
    let target: Box<dyn Write + Send> = match &config.file {
        None => Box::new(io::stderr()),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let path = path.display().to_string();
            Box::new(file.map_err(|reason| TraceError::File { path, reason })?)
        }
    };
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES);
    let (output, guard) = builder.thread_name("log").finish(target);
    let (output, _) = LOG.get_or_init(|| (output, Mutex::new(Some(guard))));
    Ok(output.clone())
}

/// Where lines of other kinds go, such as the progress of a download: to the log's thread if there is
/// one, which waits for nobody.
#[must_use]
pub fn writer() -> Box<dyn Write + Send> {
    match LOG.get() {
        Some((output, _)) => Box::new(output.clone()),
        None => Box::new(io::stderr()),
    }
}

/// Writes what is queued, for as long as a second; nothing is logged afterwards. The last thing that
/// a process does.
pub fn flush() {
    let Some((output, guard)) = LOG.get() else { return };
    let lost = output.error_counter().dropped_lines();
    if lost > 0 {
        tracing::warn!(lost, "lines of the log were lost: its reader is too slow");
    }
    drop(guard.lock().unwrap_or_else(PoisonError::into_inner).take());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_can_be_silenced() {
        assert!(Directive::from_str(ACCESS_LOG_OFF).is_ok());
    }

    #[test]
    fn levels_and_directives_are_read() {
        for level in ["info", "INFO", "off", "warn,kolosal_server::engine=debug", "hyper=trace"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["loud", "", "a=b=c"] {
            assert!(filter(level).is_err(), "{level}");
        }
    }
}
