//! The engine's thread: the only owner of runner, KV and scheduler. Without work it sleeps in a
//! channel and takes no processor time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, TryRecvError};

use super::Shared;
use super::worker::{Submission, Worker};
use crate::error::Error;

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
    loop {
        let command = if worker.is_idle() {
            debug_assert_eq!(worker.check(), Ok(()), "checked whenever the engine is idle");
            commands.recv().map_err(|_| TryRecvError::Disconnected)
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
