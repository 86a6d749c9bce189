//! SIGINT and SIGTERM: the first drains, the second ends the process at once. SIGHUP ends nothing.

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Exit code of a process ended by the user, as shells report SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Exit code of a process whose shutdown did not come to its end.
const EXIT_STUCK: i32 = 1;

/// Cancelled by the first signal. A second one, for whoever does not want to wait, exits with 130; so
/// does the process by itself, with 1, when it is still there `limit` after the first.
///
/// Signals have a thread and a runtime of their own: they are heard whatever holds up the others.
/// `last_words` are called before an end without a drain, and must themselves come to an end.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn on_signal(
    limit: Duration,
    last_words: impl FnOnce() + Send + 'static,
) -> io::Result<CancellationToken> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The handlers belong to the runtime that is entered; nothing waits here.
    let mut signals = {
        let _entered = runtime.enter();
        Signals::install()?
    };
    let token = CancellationToken::new();
    let drain = token.clone();
    let wait = async move {
        let name = signals.next().await;
        drain.cancel();
        tracing::info!(signal = name, "draining; a second signal ends the process at once");
        let code = tokio::select! {
            name = signals.next() => {
                tracing::warn!(signal = name, "ended without draining");
                i32::from(EXIT_INTERRUPTED)
            }
            () = tokio::time::sleep(limit) => {
                tracing::error!("still draining after {} s; ended", limit.as_secs());
                EXIT_STUCK
            }
        };
        last_words();
        std::process::exit(code);
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(wait))?;
    Ok(token)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                // The terminal that started the server has gone; the server has not.
                _ = self.hang_up.recv() => tracing::info!("SIGHUP: the server goes on"),
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
