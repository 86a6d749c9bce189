//! The engine's thread: the only owner of runner, KV and scheduler. Without work it sleeps in a
//! channel and takes no processor time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use super::Shared;
use super::worker::{Submission, Worker};
use crate::error::Error;

/// Between two checks of an idle engine at least: one looks at every block of KV.
const CHECKED_EVERY: Duration = Duration::from_secs(1);

/// What the thread is asked to do between steps.
#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<Submission>),
    Shutdown,
}

/// Why the thread's loop ended.
enum End {
    /// Asked to, or all handles are gone.
    Shutdown,
    Failed(String),
}

/// Runs until shutdown, until the last handle is gone, or until a failure; then ends every job and
/// drops the runner.
pub(super) fn run(mut worker: Worker, commands: &Receiver<Command>, shared: &Shared) {
    let end = catch_unwind(AssertUnwindSafe(|| steps(&mut worker, commands)))
        .unwrap_or_else(|panic| End::Failed(panic_message(&*panic)));
    let error = match end {
        End::Shutdown => shared.unloading(),
        End::Failed(reason) => shared.fail(reason),
    };
    // From here on nothing is accepted; what is still in the channel is refused.
    shared.close();
    while let Ok(command) = commands.try_recv() {
        if let Command::Submit(submission) = command {
            submission.refuse(error.clone());
        }
    }
    // After a panic the worker may be inconsistent; at worst its jobs end as it is dropped.
    let ended = catch_unwind(AssertUnwindSafe(move || {
        worker.fail_all(&error);
        drop(worker);
    }));
    if let Err(panic) = ended {
        let (name, reason) = (&shared.config.name, panic_message(&*panic));
        tracing::error!(engine = name, reason, "engine could not be taken down cleanly");
    }
}

fn steps(worker: &mut Worker, commands: &Receiver<Command>) -> End {
    let mut checked: Option<Instant> = None;
    loop {
        let command = if worker.is_idle() {
            match wait(worker, commands, &mut checked) {
                Ok(command) => command,
                Err(broken) => return End::Failed(broken),
            }
        } else {
            commands.try_recv()
        };
        match command {
            Ok(Command::Submit(submission)) => worker.accept(*submission),
            Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => return End::Shutdown,
            Err(TryRecvError::Empty) => {
                if let Err(reason) = worker.step() {
                    return End::Failed(reason);
                }
            }
        }
    }
}

/// Waits for the next command to an idle engine, whose invariants are checked meanwhile: a wrong sum of
/// blocks would become wrong answers.
///
/// # Errors
/// The first violated invariant.
fn wait(
    worker: &Worker,
    commands: &Receiver<Command>,
    checked: &mut Option<Instant>,
) -> Result<Result<Command, TryRecvError>, String> {
    let since = checked.map_or(CHECKED_EVERY, |last| last.elapsed());
    let soon = CHECKED_EVERY.saturating_sub(since);
    if !soon.is_zero() && !cfg!(debug_assertions) {
        match commands.recv_timeout(soon) {
            Ok(command) => return Ok(Ok(command)),
            Err(RecvTimeoutError::Disconnected) => return Ok(Err(TryRecvError::Disconnected)),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    worker.check().map_err(|broken| format!("an invariant is violated: {broken}"))?;
    *checked = Some(Instant::now());
    Ok(commands.recv().map_err(|_| TryRecvError::Disconnected))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.as_deref().unwrap_or("without a message"))
}

impl Shared {
    /// Every job ends with this when the engine is taken down.
    pub(super) fn unloading(&self) -> Error {
        Error::unavailable(format!("engine {} is unloading", self.config.name), 1)
    }

    /// Takes note of a failure that the engine does not survive: the error for its jobs.
    fn fail(&self, reason: String) -> Error {
        tracing::error!(engine = self.config.name, reason, "engine failed");
        let error = Error::internal(format!("engine {} failed: {reason}", self.config.name));
        // Only the first failure is kept, and there is only one: the thread ends with it.
        let _ = self.failed.set(reason);
        error
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;

    use super::super::{EngineConfig, stats::Meters};
    use super::*;
    use crate::model::fake::{FakeConfig, FakeRunner};

    #[test]
    fn an_idle_engine_with_a_wrong_sum_fails() {
        let runner = Box::new(FakeRunner::new(FakeConfig::default()));
        let mut worker = Worker::new(runner, &EngineConfig::default(), Arc::new(Meters::default()));
        let (commands, receiver) = sync_channel(1);
        commands.send(Command::Shutdown).unwrap();
        let mut checked = None;
        assert!(matches!(wait(&worker, &receiver, &mut checked), Ok(Ok(Command::Shutdown))));
        assert!(checked.is_some(), "it was checked, in a release build too");
        worker.lose_a_block();
        let broken = steps(&mut worker, &receiver);
        assert!(matches!(broken, End::Failed(reason) if reason.contains("invariant")));
    }
}
