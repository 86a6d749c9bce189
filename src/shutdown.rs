//! SIGINT and SIGTERM: the first drains, the second ends the process at once. SIGHUP ends nothing.
//!
//! A thread of its own waits for them, so that they are heard whatever requests do to the runtime's.

use std::process::exit;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::trace;

/// Exit code of a process ended by the user, as shells report SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Cancelled by the first signal. A second one, for whoever does not want to wait, exits with 130, and
/// a process that still runs `limit` after the first exits with 1.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn on_signal(limit: Duration) -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let drain = token.clone();
    let (sender, installed) = sync_channel(1);
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let failed = match runtime {
            Ok(runtime) => runtime.block_on(async {
                match Signals::install() {
                    Ok(signals) => {
                        let _received = sender.send(Ok(()));
                        signals.watch(&drain, limit).await
                    }
                    Err(error) => error,
                }
            }),
            Err(error) => error,
        };
        let _received = sender.send(Err(failed));
    })?;
    installed.recv().map_err(std::io::Error::other)??;
    Ok(token)
}

impl Signals {
    /// Ends with the process.
    async fn watch(mut self, drain: &CancellationToken, limit: Duration) -> std::io::Error {
        let name = self.next().await;
        drain.cancel();
        tracing::info!(signal = name, "draining; a second signal ends the process at once");
        let code = tokio::select! {
            name = self.next() => {
                tracing::warn!(signal = name, "ended without draining");
                i32::from(EXIT_INTERRUPTED)
            }
            () = tokio::time::sleep(limit) => {
                tracing::error!(limit_s = limit.as_secs(), "draining did not end");
                1
            }
        };
        trace::flush();
        exit(code)
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.hangup.recv() => tracing::info!(signal = "SIGHUP", "ignored"),
            }
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[allow(clippy::unnecessary_wraps)] // same shape as on Unix
    fn install() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
