//! The registry: one load for many, nobody unloaded in use, memory within its budget, no deadlocks.

#![allow(clippy::unwrap_used)] // Helpers of tests are not tests to the lint.

mod given_up;
mod life;
mod loader;
mod params;
mod race;
mod room;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kolosal_server::engine::{Engine, EngineConfig, Job, Request, Sampling};
use kolosal_server::error::{Error, Kind, Result};
use kolosal_server::model::{Batch, Logits, Pooling, Runner, RunnerError, RunnerSpec};
use kolosal_server::registry::{
    Clock, EngineSpec, KeepAlive, LoadParams, Loaded, Loader, ModelInfo, Registry, RegistryConfig,
    State, Wait,
};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::generation::tiny_text_model;

const VOCAB: usize = 300;

/// Always wants token 7; counts how many of its kind are alive.
struct CountedRunner {
    spec: RunnerSpec,
    alive: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

impl Runner for CountedRunner {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError> {
        assert!(!self.broken.load(Ordering::SeqCst), "the kernel broke");
        let mut data = vec![0.0; batch.logit_rows.len() * VOCAB];
        data.iter_mut().skip(7).step_by(VOCAB).for_each(|logit| *logit = 10.0);
        Ok(Logits { data: data.into(), vocab_size: VOCAB })
    }
}

impl Drop for CountedRunner {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Loads engines without files. Sizes, failures and closed gates are set by the test, by engine id.
#[derive(Default)]
struct FakeLoader {
    bytes: Mutex<HashMap<String, u64>>,
    failing: Mutex<HashMap<String, Error>>,
    panicking: AtomicBool,
    closed: Mutex<HashSet<String>>,
    opened: Condvar,
    /// Engines whose files are far away: fetching them never ends.
    far_away: Mutex<HashSet<String>>,
    fetches: Arc<AtomicUsize>,
    loads: AtomicUsize,
    alive: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

impl FakeLoader {
    fn close(&self, id: &str) {
        self.closed.lock().unwrap().insert(id.to_owned());
    }

    fn open(&self, id: &str) {
        self.closed.lock().unwrap().remove(id);
        self.opened.notify_all();
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }
}

/// A fetch that is under way until it is dropped.
struct Fetching(Arc<AtomicUsize>);

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Loader for FakeLoader {
    fn locate<'a>(&'a self, spec: &'a EngineSpec) -> BoxFuture<'a, Result<PathBuf>> {
        Box::pin(async {
            if self.far_away.lock().unwrap().contains(&spec.id) {
                self.fetches.fetch_add(1, Ordering::SeqCst);
                let _fetching = Fetching(Arc::clone(&self.fetches));
                std::future::pending::<()>().await;
            }
            Ok(PathBuf::new())
        })
    }

    fn estimate(&self, spec: &EngineSpec, _: &Path) -> Result<u64> {
        Ok(self.bytes.lock().unwrap().get(&spec.id).copied().unwrap_or(1))
    }

    fn load(&self, spec: &EngineSpec, _: &Path, _: &CancellationToken) -> Result<Loaded> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| closed.contains(&spec.id)).unwrap());
        assert!(!self.panicking.load(Ordering::SeqCst), "the loader broke");
        if let Some(error) = self.failing.lock().unwrap().get(&spec.id) {
            return Err(error.clone());
        }
        self.alive.fetch_add(1, Ordering::SeqCst);
        let runner = CountedRunner {
            spec: RunnerSpec {
                vocab_size: VOCAB,
                context_len: 1 << 20,
                num_blocks: 1 << 15,
                max_rows: 64,
                kv_bytes_per_block: 1,
                weight_bytes: 1,
                hidden: 0,
                pooling: Pooling::Mean,
                device: "test".to_owned(),
                ..RunnerSpec::default()
            },
            alive: Arc::clone(&self.alive),
            broken: Arc::clone(&self.broken),
        };
        let config = EngineConfig { name: spec.id.clone(), ..EngineConfig::default() };
        let engine = Engine::start(Box::new(runner), config)?;
        Ok(Loaded { engine, text: tiny_text_model(), info: ModelInfo::default() })
    }
}

/// A registry on a clock that the test moves, without thrash guard and without patience.
fn config(clock: &Clock) -> RegistryConfig {
    RegistryConfig {
        memory_budget_bytes: Some(100),
        room_wait: Duration::ZERO,
        min_residency: Duration::ZERO,
        drain_grace: Duration::ZERO,
        clock: clock.clone(),
        ..RegistryConfig::default()
    }
}

fn registry() -> (Arc<Registry>, Arc<FakeLoader>, Clock) {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    (Registry::new(Arc::clone(&loader) as _, config(&clock)), loader, clock)
}

fn spec(id: &str) -> EngineSpec {
    EngineSpec::new(id, "some.gguf")
}

fn failure(text: &str) -> Error {
    Error::new(Kind::ModelLoading, text)
}

/// A job that runs until it is cancelled.
fn long_job(engine: &Engine) -> Job {
    let request = Request {
        prompt: vec![1, 2, 3],
        max_tokens: 1_000_000,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ..Request::default()
    };
    engine.submit(request).unwrap()
}

/// Waits for what other tasks bring about; fails when they never do.
async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never happened: {what}");
}

async fn until_state(registry: &Registry, id: &str, state: State) {
    until(&format!("{id} {state}"), || registry.status(id).unwrap().state == state).await;
}
