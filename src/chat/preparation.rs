//! Reading the texts of requests: off the async threads, some at a time, and no longer than somebody
//! waits for it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::conversation::{ChatInput, Message, bytes};
use super::tokenizer::{Patience, Stopped};
use crate::error::{Error, Result};

/// Text that is read at the same time, in KiB. Reading takes up to some fifty times the memory of a
/// text that is one endless word.
const ROOM_KIB: u32 = 16 << 10;

/// The right to read texts, shared by all models: first come, first served, as many at a time as there
/// are processors, and fewer of those that are long.
pub struct Preparations {
    /// A permit a KiB.
    room: Arc<Semaphore>,
    /// What a short text takes.
    least: u32,
}

impl Default for Preparations {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Self {
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
            least: (ROOM_KIB / processors).max(1),
        }
    }
}

impl fmt::Debug for Preparations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preparations").finish_non_exhaustive()
    }
}

impl Preparations {
    /// Does work on texts of `bytes` in all, when it is their turn. Whoever drops the future ends the
    /// patience that the work is given, and the work with it.
    ///
    /// # Errors
    /// Those of the work, and a panic in it.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Patience) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let wanted = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(self.least, ROOM_KIB);
        // The semaphore is never closed.
        let permit = Arc::clone(&self.room).acquire_many_owned(wanted).await.ok();
        let waiting = Waiting(Patience::default());
        let patience = waiting.0.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if patience.has_ended() { Err(given_up()) } else { work(&patience) }
        });
        let failed = |failure| Error::internal(format!("the text was not read: {failure}"));
        task.await.map_err(failed)?
    }
}

/// Whoever waits for a text to be read.
struct Waiting(Patience);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Bytes of the texts of a conversation.
#[must_use]
pub fn conversation_bytes(input: &ChatInput) -> usize {
    let messages: usize = input.messages.iter().map(Message::num_bytes).sum();
    messages + input.tools.as_ref().map_or(0, bytes)
}

/// Told to nobody.
fn given_up() -> Error {
    Error::unavailable("nobody waits for this request", 1)
}

/// The error of a text that was not read to its end; `too_long` says what the field has, given the
/// tokens that there are at least.
pub fn stopped(stopped: Stopped, field: &str, too_long: impl Fn(usize) -> String) -> Error {
    match stopped {
        Stopped::GivenUp => given_up(),
        Stopped::TooLong { at_least } => {
            Error::invalid(field, too_long(at_least)).with_code("context_length_exceeded")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends_and_gives_its_place_back() {
        let preparations = Preparations::default();
        let (began, begun) = tokio::sync::oneshot::channel();
        let (ended, end) = mpsc::channel();
        let work = preparations.run(usize::MAX, move |patience| {
            began.send(()).map_err(|()| Error::internal("nobody heard"))?;
            while !patience.has_ended() {
                std::thread::yield_now();
            }
            ended.send(()).map_err(|_| Error::internal("nobody heard"))
        });
        // It takes all the room; then its future is dropped.
        tokio::select! {
            biased;
            _ = work => panic!("it ended by itself"),
            begun = begun => begun.unwrap(),
        }
        preparations.run(1, |_| Ok(())).await.unwrap();
        end.recv().unwrap();
    }

    #[tokio::test]
    async fn long_texts_are_read_one_at_a_time() {
        let preparations = Arc::new(Preparations::default());
        let running = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let work = |running: Arc<std::sync::atomic::AtomicU32>| {
            move |_: &Patience| {
                let others = running.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                Ok(others)
            }
        };
        let all = (0..64).map(|_| preparations.run(16 << 20, work(Arc::clone(&running))));
        let others = futures_util::future::join_all(all).await;
        assert!(others.into_iter().all(|others| others.unwrap() == 0));
    }
}
