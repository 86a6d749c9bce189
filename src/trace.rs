//! Logging: one subscriber for the process, lines to stderr or a file, text or JSON.
//!
//! Lines are written whole under a lock, so threads never tear each other's. Prompts and answers are
//! never logged; code that logs a request logs its id, its counts and its times.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{LogFormat, LoggingConfig};

/// Silences the lines that `server` writes for each request.
const ACCESS_LOG_OFF: &str = "kolosal_server::access=off";

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
    let to_terminal = config.file.is_none() && io::stderr().is_terminal();
    let color = to_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer(config)?)
        .with_ansi(color);
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

fn writer(config: &LoggingConfig) -> Result<BoxMakeWriter, TraceError> {
    let Some(path) = &config.file else { return Ok(BoxMakeWriter::new(io::stderr)) };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file =
        file.map_err(|reason| TraceError::File { path: path.display().to_string(), reason })?;
    Ok(BoxMakeWriter::new(Mutex::new(file)))
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
