//! Logging: one subscriber for the process, lines to stderr or a file, text or JSON.
//!
//! Lines are handed over whole to a thread that writes them, so that neither a slow reader nor one that
//! has left is noticed by who logs. Prompts and answers are never logged; code that logs a request logs
//! its id, its counts and its times.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{LogFormat, LoggingConfig};
use crate::sink::{self, Sink};

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

/// How long the end of the process waits for its last lines.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The log's file, if it has one.
static FILE: OnceLock<Sink> = OnceLock::new();

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
    let sink = match &config.file {
        None => sink::stderr().cloned(),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let sink = file.and_then(|file| Sink::start("file", file));
            let sink = sink
                .map_err(|reason| TraceError::File { path: path.display().to_string(), reason })?;
            Some(FILE.get_or_init(|| sink).clone())
        }
    };
    // A system without a thread left still gets its lines.
    let Some(sink) = sink else { return Ok(BoxMakeWriter::new(io::stderr)) };
    if config.format == LogFormat::Json {
        sink.set_json();
    }
    Ok(BoxMakeWriter::new(move || sink.clone()))
}

/// Waits for the last lines, but not for long: nobody may read them.
pub fn flush() {
    for sink in [sink::stderr(), FILE.get()].into_iter().flatten() {
        sink.flush_within(LAST_WORDS);
    }
}

/// Has panics logged as everything else is: the standard hook waits for whoever reads standard error.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
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
