//! A constraint at work: its mask of the next token is computed while the model computes.
//!
//! ```text
//! engine thread   sample, accept ─┬─ forward pass ───────┬─ sample with the mask
//! mask helper                     └─▶ constraint.mask() ─┘
//! ```
//!
//! A constraint has one owner at any time: it goes to the helper and comes back with its mask. Whether
//! helper or engine computed the mask makes no difference to it.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::request::Constraint;

/// The constraint of one sequence.
pub(super) struct Guide {
    state: State,
    /// Where the constraint comes back.
    back: (SyncSender<Box<Work>>, Receiver<Box<Work>>),
}

enum State {
    Here(Box<Work>),
    /// With the helpers whose queue this is.
    Away(Arc<Queue>),
    /// It never came back.
    Lost,
}

/// A constraint and what is known about the next token.
struct Work {
    constraint: Box<dyn Constraint>,
    mask: Vec<u32>,
    /// How computing the mask went; `None` if it was not.
    outcome: Option<Result<(), String>>,
}

impl Work {
    fn compute(&mut self, num_words: usize) {
        self.mask.clear();
        self.mask.resize(num_words, 0);
        let (constraint, mask) = (&mut self.constraint, &mut self.mask);
        let outcome = catch_unwind(AssertUnwindSafe(|| constraint.mask(mask)));
        self.outcome = Some(outcome.unwrap_or_else(|_| Err("it panicked".to_owned())));
    }
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").finish_non_exhaustive()
    }
}

impl Guide {
    #[must_use]
    pub(super) fn new(constraint: Box<dyn Constraint>) -> Self {
        let work = Work { constraint, mask: Vec::new(), outcome: None };
        Self { state: State::Here(Box::new(work)), back: sync_channel(1) }
    }

    /// Has the mask of the next token computed by a helper, if there is one to compute.
    pub(super) fn look_ahead(&mut self, helpers: &mut MaskHelpers, num_words: usize) {
        let Some(queue) = helpers.queue() else { return };
        self.state = match std::mem::replace(&mut self.state, State::Lost) {
            State::Here(work) if work.outcome.is_none() && !work.constraint.is_free() => {
                queue.push(Task { work, num_words, back: self.back.0.clone() });
                State::Away(queue)
            }
            state => state,
        };
    }

    /// Which tokens may come next; `None`: any.
    ///
    /// # Errors
    /// The constraint cannot go on.
    pub(super) fn mask(&mut self, num_words: usize) -> Result<Option<&[u32]>, String> {
        let work = self.home()?;
        if work.constraint.is_free() {
            return Ok(None);
        }
        if work.outcome.is_none() || work.mask.len() != num_words {
            work.compute(num_words);
        }
        match &work.outcome {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(Some(&work.mask)),
        }
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// The token was not allowed.
    pub(super) fn accept(&mut self, token: u32) -> Result<(), String> {
        let work = self.home()?;
        work.outcome = None;
        work.constraint.accept(token)
    }

    /// Whether nothing may follow.
    pub(super) fn is_finished(&self) -> bool {
        matches!(&self.state, State::Here(work) if work.constraint.is_finished())
    }

    /// Tokens that are all but certain to follow.
    pub(super) fn forced(&mut self) -> Vec<u32> {
        self.home().map(|work| work.constraint.forced()).unwrap_or_default()
    }

    /// Fetches the constraint from the helpers. Works off their queue instead of waiting.
    fn home(&mut self) -> Result<&mut Work, String> {
        if let State::Away(queue) = &self.state {
            let work = loop {
                if let Ok(work) = self.back.1.try_recv() {
                    break Some(work);
                }
                match queue.try_pop() {
                    Some(task) => task.run(),
                    None => break self.back.1.recv().ok(),
                }
            };
            self.state = work.map_or(State::Lost, State::Here);
        }
        match &mut self.state {
            State::Here(work) => Ok(work),
            State::Away(_) | State::Lost => Err("it was lost".to_owned()),
        }
    }
}

struct Task {
    work: Box<Work>,
    num_words: usize,
    back: SyncSender<Box<Work>>,
}

impl Task {
    fn run(mut self) {
        self.work.compute(self.num_words);
        // The sequence may have ended.
        let _ = self.back.try_send(self.work);
    }
}

/// What helpers have to do.
struct Queue {
    tasks: Mutex<Tasks>,
    wake: Condvar,
}

#[derive(Default)]
struct Tasks {
    waiting: VecDeque<Task>,
    is_closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Task) {
        let mut tasks = self.lock();
        tasks.waiting.push_back(task);
        // Who is woken wakes the next, if there is more: the engine pays for one call a step.
        let is_first = tasks.waiting.len() == 1;
        drop(tasks);
        if is_first {
            self.wake.notify_one();
        }
    }

    fn try_pop(&self) -> Option<Task> {
        self.lock().waiting.pop_front()
    }

    /// The next task; `None` when there will be no more.
    fn pop(&self) -> Option<Task> {
        let mut tasks = self.lock();
        loop {
            if tasks.is_closed {
                return None;
            }
            if let Some(task) = tasks.waiting.pop_front() {
                if !tasks.waiting.is_empty() {
                    self.wake.notify_one();
                }
                return Some(task);
            }
            tasks = self.wake.wait(tasks).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Threads that compute masks. They start with the first constraint and sleep while there is none.
pub(super) struct MaskHelpers {
    num_threads: usize,
    queue: Option<Arc<Queue>>,
}

impl MaskHelpers {
    pub(super) fn new(num_threads: usize) -> Self {
        Self { num_threads, queue: None }
    }

    fn queue(&mut self) -> Option<Arc<Queue>> {
        if self.num_threads > 0 && self.queue.is_none() {
            self.start();
        }
        self.queue.clone()
    }

    /// If the system gives no thread, the engine computes the masks.
    fn start(&mut self) {
        let queue = Arc::new(Queue { tasks: Mutex::default(), wake: Condvar::new() });
        let mut num_started = 0;
        for index in 0..self.num_threads {
            let queue = Arc::clone(&queue);
            let helper = move || {
                // It works beside the engine's thread, not in its place.
                kolosal_kernels::affinity::release();
                while let Some(task) = queue.pop() {
                    task.run();
                }
            };
            let thread = thread::Builder::new().name(format!("mask-{index}"));
            num_started += usize::from(thread.spawn(helper).is_ok());
        }
        self.num_threads = num_started;
        self.queue = (num_started > 0).then_some(queue);
    }
}

impl Drop for MaskHelpers {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.lock().is_closed = true;
            queue.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allows the token that is the sum of those taken, modulo 32; panics at 7.
    #[derive(Debug, Default)]
    struct Sum(u32);

    impl Constraint for Sum {
        fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
            assert_ne!(self.0 % 32, 7, "seven");
            mask[0] = 1 << (self.0 % 32);
            Ok(())
        }

        fn accept(&mut self, token: u32) -> Result<(), String> {
            self.0 += token;
            Ok(())
        }

        fn is_finished(&self) -> bool {
            self.0 >= 100
        }
    }

    /// The masks of sequences that run side by side.
    fn masks(num_threads: usize, looks_ahead: bool) -> Vec<Result<Option<u32>, String>> {
        let mut helpers = MaskHelpers::new(num_threads);
        let mut guides: Vec<Guide> = (0..9).map(|_| Guide::new(Box::<Sum>::default())).collect();
        let mut all = Vec::new();
        for step in 0..20 {
            for (i, guide) in guides.iter_mut().enumerate() {
                all.push(guide.mask(1).map(|mask| mask.map(|words| words[0])));
                guide.accept((step * i) as u32 % 5).unwrap();
            }
            for guide in guides.iter_mut().filter(|_| looks_ahead) {
                guide.look_ahead(&mut helpers, 1);
            }
        }
        // Some are dropped while a helper has their constraint.
        all
    }

    #[test]
    fn helpers_change_nothing() {
        let alone = masks(0, true);
        assert!(alone.iter().any(Result::is_err), "a constraint panics");
        for num_threads in [1, 3] {
            assert_eq!(masks(num_threads, true), alone);
            assert_eq!(masks(num_threads, false), alone);
        }
    }
}
