//! Growth of the KV pool while an engine serves: how much at a time, and who is asked before.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::model::{Runner, RunnerSpec};

/// Steps after a refusal in which nobody is asked again.
const PAUSE_STEPS: u32 = 64;

/// Whoever divides memory between engines.
pub trait MemoryRoom: Send + Sync {
    /// Whether the engine may take so many bytes more.
    fn take(&self, bytes: u64) -> bool;
    /// They were granted and could not be had.
    fn give_back(&self, bytes: u64);
}

/// Whom an engine asks; nobody at first.
#[derive(Default)]
pub(super) struct Asked(OnceLock<Arc<dyn MemoryRoom>>);

impl Asked {
    pub(super) fn set(&self, room: Arc<dyn MemoryRoom>) {
        // An engine has one home, which it does not leave.
        let _ = self.0.set(room);
    }

    fn take(&self, bytes: u64) -> bool {
        self.0.get().is_none_or(|room| room.take(bytes))
    }

    fn give_back(&self, bytes: u64) {
        if let Some(room) = self.0.get() {
            room.give_back(bytes);
        }
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Asked(somebody)" } else { "Asked(nobody)" })
    }
}

/// The pool of one engine as it grows.
#[derive(Debug, Default)]
pub(super) struct Growth {
    pause: u32,
}

impl Growth {
    /// Tries to make `wanted` blocks be there where `ready` are: how many are there now. Where not all of
    /// the growth is granted, the least that can be had is asked for.
    pub(super) fn grow(
        &mut self,
        runner: &mut dyn Runner,
        asked: &Asked,
        [ready, wanted]: [usize; 2],
    ) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return ready;
        }
        let spec = runner.spec();
        let step = spec.kv_growth.step_blocks.max(1);
        let whole = (ready + (wanted - ready).next_multiple_of(step)).min(spec.num_blocks);
        let least = (ready + step).min(whole);
        let granted =
            [whole, least].into_iter().find(|&blocks| asked.take(bytes(spec, blocks - ready)));
        let Some(granted) = granted else {
            self.pause = PAUSE_STEPS;
            return ready;
        };
        let there = runner.grow_kv(granted);
        if there < granted {
            self.pause = PAUSE_STEPS;
            asked.give_back(bytes(runner.spec(), granted - there.max(ready)));
        }
        there.clamp(ready, runner.spec().num_blocks)
    }
}

fn bytes(spec: &RunnerSpec, blocks: usize) -> u64 {
    blocks as u64 * spec.kv_bytes_per_block as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::model::fake::{FakeConfig, FakeRunner};

    /// So many blocks are left.
    struct Left(Mutex<u64>, u64);

    impl MemoryRoom for Left {
        fn take(&self, bytes: u64) -> bool {
            let mut left = self.0.lock().unwrap();
            let fits = bytes / self.1 <= *left;
            *left -= if fits { bytes / self.1 } else { 0 };
            fits
        }

        fn give_back(&self, bytes: u64) {
            *self.0.lock().unwrap() += bytes / self.1;
        }
    }

    #[test]
    fn a_pool_grows_in_steps_as_far_as_it_may() {
        let config = FakeConfig { num_blocks: 20, later_blocks: 15, ..FakeConfig::default() };
        let mut runner = FakeRunner::new(config);
        let block = runner.spec().kv_bytes_per_block as u64;
        // Steps of three blocks: 5 are there, 10 more may be.
        let room = Arc::new(Left(Mutex::new(10), block));
        let (asked, mut growth) = (Asked::default(), Growth::default());
        asked.set(Arc::clone(&room) as Arc<dyn MemoryRoom>);
        assert_eq!(growth.grow(&mut runner, &asked, [5, 6]), 8);
        assert_eq!(growth.grow(&mut runner, &asked, [8, 9]), 11);
        // Twelve are too many; the least is not.
        assert_eq!(growth.grow(&mut runner, &asked, [11, 20]), 14);
        assert_eq!(growth.grow(&mut runner, &asked, [14, 15]), 14);
        *room.0.lock().unwrap() = 100;
        for _ in 0..PAUSE_STEPS {
            assert_eq!(growth.grow(&mut runner, &asked, [14, 15]), 14, "it was refused just now");
        }
        assert_eq!(growth.grow(&mut runner, &asked, [14, 19]), 20);
    }
}
