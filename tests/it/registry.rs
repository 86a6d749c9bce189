//! The registry: one load for many, nobody unloaded in use, memory within its budget, no deadlocks.

#![allow(clippy::unwrap_used)] // Helpers of tests are not tests to the lint.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kolosal_server::engine::{Engine, EngineConfig, Job, Request, Sampling};
use kolosal_server::error::{Error, Kind, Result};
use kolosal_server::model::{Batch, Logits, Runner, RunnerError, RunnerSpec};
use kolosal_server::registry::{
    Clock, EngineSpec, KeepAlive, LoadParams, Loaded, Loader, ModelInfo, Registry, RegistryConfig,
    State, Wait,
};

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
        Ok(Logits { data, vocab_size: VOCAB })
    }

    fn copy_block(&mut self, _from: u32, _to: u32) -> Result<(), RunnerError> {
        Ok(())
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

impl Loader for FakeLoader {
    fn estimate(&self, spec: &EngineSpec) -> Result<u64> {
        Ok(self.bytes.lock().unwrap().get(&spec.id).copied().unwrap_or(1))
    }

    fn load(&self, spec: &EngineSpec) -> Result<Loaded> {
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
                device: "test".to_owned(),
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
        min_tokens: 0,
        stop_tokens: Vec::new(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        logprobs: None,
        prompt_logprobs: None,
        cache_salt: 0,
        constraint: None,
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

#[tokio::test]
async fn fifty_requests_load_once() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    assert_eq!(loader.loads(), 0);
    loader.close("a");
    let gets: Vec<_> = (0..50)
        .map(|_| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move { registry.get("a").await })
        })
        .collect();
    until("fifty wait", || registry.status("a").unwrap().waiting == 50).await;
    assert_eq!(registry.status("a").unwrap().state, State::Loading);
    loader.open("a");
    let mut leases = Vec::new();
    for get in gets {
        leases.push(get.await.unwrap().unwrap());
    }
    assert_eq!((loader.loads(), registry.status("a").unwrap().leases), (1, 50));
    leases.clear();
    assert_eq!(registry.status("a").unwrap().leases, 0);
}

#[tokio::test]
async fn others_serve_while_one_loads() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), true).await.unwrap();
    registry.add(spec("b"), false).await.unwrap();
    loader.close("b");
    let waiting = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.get("b").await.map(drop) }
    });
    until("b loads", || loader.loads() == 2).await;
    drop(registry.get("a").await.unwrap());
    registry.add(spec("c"), true).await.unwrap();
    assert_eq!(registry.list().len(), 3);
    loader.open("b");
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn idle_engines_are_unloaded_and_reloaded() {
    let (registry, loader, clock) = registry();
    registry.add(spec("a"), true).await.unwrap();
    let never = EngineSpec { idle_timeout: Some(Duration::ZERO), ..spec("never") };
    registry.add(never, true).await.unwrap();
    registry.add(EngineSpec { pinned: true, ..spec("pinned") }, true).await.unwrap();
    clock.advance(Duration::from_secs(299));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready());
    let left = registry.status("a").unwrap().expires_in;
    assert_eq!(left, Some(Duration::from_secs(1)), "looking does not refresh");
    clock.advance(Duration::from_secs(1));
    registry.sweep();
    until_state(&registry, "a", State::Unloaded).await;
    assert_eq!(loader.alive(), 2);
    for _ in 0..3 {
        let _ = registry.list();
        registry.status("a").unwrap();
    }
    assert_eq!(loader.loads(), 3, "looking does not wake");
    let lease = registry.get("a").await.unwrap();
    assert_eq!((loader.loads(), lease.id()), (4, "a"));
    clock.advance(Duration::from_secs(1_000_000));
    registry.sweep();
    for id in ["a", "never", "pinned"] {
        assert!(registry.status(id).unwrap().is_ready(), "{id}");
    }
}

#[tokio::test]
async fn engines_in_use_stay() {
    let (registry, _, clock) = registry();
    registry.add(spec("a"), true).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    clock.advance(Duration::from_hours(1));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready(), "leased");
    let job = long_job(&lease.engine);
    drop(lease);
    clock.advance(Duration::from_hours(1));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready(), "running");
    assert!(!job.is_finished());
    job.cancel();
    let _ = job.wait().await;
    let engine = registry.get("a").await.unwrap().loaded().engine.clone();
    until("idle", || engine.is_idle()).await;
    clock.advance(Duration::from_secs(300));
    registry.sweep();
    until_state(&registry, "a", State::Unloaded).await;
}

#[tokio::test]
async fn a_request_can_set_the_idle_time() {
    let (registry, _, clock) = registry();
    registry.add(spec("a"), true).await.unwrap();
    registry.get("a").await.unwrap().set_idle_timeout(KeepAlive::Forever);
    clock.advance(Duration::from_hours(1));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready());
    registry.get("a").await.unwrap().set_idle_timeout(KeepAlive::After(Duration::from_secs(5)));
    clock.advance(Duration::from_secs(4));
    registry.sweep();
    assert!(registry.status("a").unwrap().is_ready());
    clock.advance(Duration::from_secs(1));
    registry.sweep();
    until_state(&registry, "a", State::Unloaded).await;
    // Zero unloads without waiting for anybody's sweep, and the wish does not outlive the load.
    let lease = registry.get("a").await.unwrap();
    lease.set_idle_timeout(KeepAlive::After(Duration::ZERO));
    drop(lease);
    until_state(&registry, "a", State::Unloaded).await;
    drop(registry.get("a").await.unwrap());
    let left = registry.status("a").unwrap().expires_in;
    assert_eq!(left, Some(Duration::from_secs(300)));
}

#[tokio::test]
async fn removal_ends_what_runs() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), true).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    let job = long_job(&lease.engine);
    registry.remove("a").await.unwrap();
    assert!(job.wait().await.is_err() || job.is_finished());
    assert_eq!(loader.alive(), 0);
    assert_eq!(registry.get("a").await.unwrap_err().code, Some("model_not_found"));
    assert_eq!(registry.remove("a").await.unwrap_err().kind, Kind::NotFound);
    // The lease of the engine that is gone says nothing about its successor.
    registry.add(spec("a"), true).await.unwrap();
    drop(lease);
    assert_eq!(registry.status("a").unwrap().leases, 0);
}

#[tokio::test]
async fn removal_gives_jobs_their_grace() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig { drain_grace: Duration::from_secs(5), ..config(&clock) };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    registry.add(spec("a"), true).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    let removal = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.remove("a").await }
    });
    until_state(&registry, "a", State::Draining).await;
    assert_eq!(registry.get("a").await.unwrap_err().kind, Kind::NotFound);
    let twice = registry.add(spec("a"), false).await.unwrap_err();
    assert_eq!(twice.code, Some("engine_id_exists"));
    assert_eq!(loader.alive(), 1);
    drop(lease);
    removal.await.unwrap().unwrap();
    assert!(registry.list().is_empty());
}

#[tokio::test]
async fn removal_during_the_load() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), false).await.unwrap();
    loader.close("a");
    let get = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.get("a").await.map(drop) }
    });
    until("a loads", || loader.loads() == 1).await;
    assert_eq!(registry.unload("a").await.unwrap_err().code, Some("engine_loading"));
    let removal = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.remove("a").await }
    });
    assert_eq!(get.await.unwrap().unwrap_err().kind, Kind::NotFound);
    loader.open("a");
    removal.await.unwrap().unwrap();
    assert_eq!((registry.list().len(), loader.alive()), (0, 0));
}

#[tokio::test]
async fn unload_keeps_the_registration() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), true).await.unwrap();
    registry.unload("a").await.unwrap();
    registry.unload("a").await.unwrap();
    assert_eq!(registry.status("a").unwrap().state, State::Unloaded);
    assert_eq!(loader.alive(), 0);
    registry.get("a").await.unwrap();
    assert_eq!(registry.unload("b").await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn a_failing_load_leaves_no_trace() {
    let (registry, loader, _) = registry();
    loader.failing.lock().unwrap().insert("a".to_owned(), failure("not a model"));
    let error = registry.add(spec("a"), true).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (Kind::ModelLoading, "not a model"));
    assert!(registry.list().is_empty());
    assert_eq!(registry.get("a").await.unwrap_err().kind, Kind::NotFound);
    loader.failing.lock().unwrap().clear();
    registry.add(spec("a"), true).await.unwrap();
    let error = registry.add(spec("a"), true).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Conflict, Some("engine_id_exists")));
    assert!(registry.status("a").unwrap().is_ready());
}

#[tokio::test]
async fn a_failed_load_is_tried_again_after_a_while() {
    let (registry, loader, clock) = registry();
    registry.add(spec("a"), false).await.unwrap();
    loader.failing.lock().unwrap().insert("a".to_owned(), failure("bad file"));
    for (round, pause) in [1, 2, 4, 8, 16, 30, 30].into_iter().enumerate() {
        for _ in 0..3 {
            assert_eq!(registry.get("a").await.unwrap_err().message, "bad file");
        }
        assert_eq!(loader.loads(), round + 1, "no storm of loads");
        assert_eq!(registry.status("a").unwrap().state, State::Failed("bad file".to_owned()));
        clock.advance(Duration::from_secs(pause));
    }
    loader.failing.lock().unwrap().clear();
    registry.get("a").await.unwrap();
    assert!(registry.status("a").unwrap().is_ready());
}

#[tokio::test]
async fn a_loader_that_panics_fails_the_load_alone() {
    let (registry, loader, clock) = registry();
    registry.add(spec("a"), false).await.unwrap();
    loader.panicking.store(true, Ordering::SeqCst);
    assert_eq!(registry.get("a").await.unwrap_err().kind, Kind::Internal);
    loader.panicking.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(1));
    registry.get("a").await.unwrap();
}

#[tokio::test]
async fn an_engine_that_broke_is_reloaded() {
    let (registry, loader, _) = registry();
    registry.add(spec("a"), true).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    loader.broken.store(true, Ordering::SeqCst);
    let job = long_job(&lease.engine);
    assert!(job.wait().await.is_err());
    until("failure is seen", || lease.engine.has_failed().is_some()).await;
    assert_eq!(registry.status("a").unwrap().state.name(), "failed");
    loader.broken.store(false, Ordering::SeqCst);
    let fresh = registry.get("a").await.unwrap();
    assert!(fresh.engine.has_failed().is_none());
    assert_eq!((loader.loads(), loader.alive()), (2, 1));
    drop(lease);
    assert_eq!(registry.status("a").unwrap().leases, 1);
}

#[tokio::test]
async fn the_least_recently_used_goes_first() {
    let (registry, loader, clock) = registry();
    for id in ["a", "b", "c"] {
        loader.bytes.lock().unwrap().insert(id.to_owned(), 40);
        registry.add(spec(id), false).await.unwrap();
    }
    for id in ["a", "b", "a", "c"] {
        clock.advance(Duration::from_secs(1));
        drop(registry.get(id).await.unwrap());
    }
    let states: Vec<_> = registry.list().iter().map(|status| status.state.clone()).collect();
    assert_eq!(states, [State::Ready, State::Unloaded, State::Ready]);
    assert_eq!((loader.loads(), loader.alive()), (3, 2));
}

#[tokio::test]
async fn busy_and_pinned_engines_are_not_evicted() {
    let (registry, loader, _) = registry();
    let sizes = [("busy", 30), ("pinned", 30), ("big", 60), ("huge", 80), ("fits", 40)];
    for (id, bytes) in sizes {
        loader.bytes.lock().unwrap().insert(id.to_owned(), bytes);
        registry.add(EngineSpec { pinned: id == "pinned", ..spec(id) }, false).await.unwrap();
    }
    let lease = registry.get("busy").await.unwrap();
    drop(registry.get("pinned").await.unwrap());
    let error = registry.get("big").await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unavailable, Some("insufficient_memory")));
    assert!(error.retry_after_s.is_some());
    for number in ["60 bytes", "100 bytes", "30 bytes", "'busy'", "'pinned'"] {
        assert!(error.message.contains(number), "{number} in {error}");
    }
    assert_eq!(registry.status("big").unwrap().state, State::Unloaded, "room may come");
    let error = registry.get("huge").await.unwrap_err();
    assert!(error.message.contains("does not fit"), "{error}");
    drop(registry.get("fits").await.unwrap());
    assert!(registry.status("busy").unwrap().is_ready());
    drop(lease);
    drop(registry.get("big").await.unwrap());
    assert_eq!(registry.status("busy").unwrap().state, State::Unloaded);
    assert!(registry.status("pinned").unwrap().is_ready());
}

#[tokio::test]
async fn a_load_waits_for_a_busy_engine() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig {
        max_loaded: Some(1),
        room_wait: Duration::from_secs(30),
        ..config(&clock)
    };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    registry.add(spec("a"), true).await.unwrap();
    registry.add(spec("b"), false).await.unwrap();
    let lease = registry.get("a").await.unwrap();
    let get = |id: &'static str| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { registry.get(id).await.map(drop) })
    };
    let waiting = get("b");
    until("b waits", || registry.status("b").unwrap().waiting == 1).await;
    clock.advance(Duration::from_secs(29));
    assert!(!waiting.is_finished());
    drop(lease);
    waiting.await.unwrap().unwrap();
    assert_eq!(registry.status("a").unwrap().state, State::Unloaded);
    // In vain: somebody uses it for longer than the patience lasts.
    let lease = registry.get("b").await.unwrap();
    let waiting = get("a");
    until("a waits", || registry.status("a").unwrap().waiting == 1).await;
    // Twice, as the load may have taken its deadline after the first.
    until("a gave up", || {
        clock.advance(Duration::from_secs(30));
        waiting.is_finished()
    })
    .await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.message.contains("1 engines"), "{error}");
    // Nobody waits any more: the load is given up without touching anyone.
    let waiting = get("a");
    until("a waits", || registry.status("a").unwrap().waiting == 1).await;
    waiting.abort();
    until_state(&registry, "a", State::Unloaded).await;
    drop(lease);
    assert!(registry.status("b").unwrap().is_ready());
}

#[tokio::test]
async fn engines_that_were_just_loaded_stay_a_while() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig {
        max_loaded: Some(1),
        room_wait: Duration::from_secs(1000),
        min_residency: Duration::from_secs(10),
        ..config(&clock)
    };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    for id in ["a", "b"] {
        registry.add(spec(id), false).await.unwrap();
    }
    loader.close("a");
    let get = |id: &'static str| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { registry.get(id).await.map(drop) })
    };
    let first = get("a");
    until("a loads", || loader.loads() == 1).await;
    // The load takes two seconds and so earns eight.
    clock.advance(Duration::from_secs(2));
    loader.open("a");
    first.await.unwrap().unwrap();
    let waiting = get("b");
    until("b waits", || registry.status("b").unwrap().waiting == 1).await;
    clock.advance(Duration::from_millis(7999));
    for _ in 0..20 {
        drop(registry.get("a").await.unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!waiting.is_finished(), "a serves on while b waits");
    assert_eq!(loader.loads(), 1);
    clock.advance(Duration::from_millis(1));
    waiting.await.unwrap().unwrap();
    assert_eq!(loader.loads(), 2);
}

#[tokio::test]
async fn waiting_has_limits() {
    let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
    let config = RegistryConfig { max_waiters: 2, ..config(&clock) };
    let registry = Registry::new(Arc::clone(&loader) as _, config);
    registry.add(spec("a"), false).await.unwrap();
    loader.close("a");
    let error = registry.get_with("a", Wait::Never).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unavailable, Some("engine_loading")));
    assert!(error.retry_after_s.is_some());
    let get = || {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { registry.get("a").await.map(drop) })
    };
    let waiting = [get(), get()];
    until("two wait", || registry.status("a").unwrap().waiting == 2).await;
    let error = registry.get("a").await.unwrap_err();
    assert_eq!((error.kind, error.retry_after_s.is_some()), (Kind::Unavailable, true));
    assert!(error.message.contains("limit 2"), "{error}");
    waiting[0].abort();
    until("one left", || registry.status("a").unwrap().waiting == 1).await;
    let third = get();
    until("two wait", || registry.status("a").unwrap().waiting == 2).await;
    loader.open("a");
    third.await.unwrap().unwrap();
    until("nobody has it", || registry.status("a").unwrap().leases == 0).await;
    assert!(registry.get_with("a", Wait::Never).await.is_ok());
    assert_eq!(loader.loads(), 1);
}

#[tokio::test]
async fn shutdown_drains_all() {
    let (registry, loader, _) = registry();
    for id in ["a", "b"] {
        registry.add(spec(id), true).await.unwrap();
    }
    registry.add(spec("c"), false).await.unwrap();
    loader.close("c");
    let get = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.get("c").await.map(drop) }
    });
    until("c loads", || loader.loads() == 3).await;
    let lease = registry.get("a").await.unwrap();
    let job = long_job(&lease.engine);
    let shutdown = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.shutdown().await }
    });
    assert_eq!(get.await.unwrap().unwrap_err().kind, Kind::Unavailable);
    loader.open("c");
    shutdown.await.unwrap();
    assert!(job.is_finished());
    assert_eq!(loader.alive(), 0);
    assert_eq!(registry.get("b").await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(registry.add(spec("d"), false).await.unwrap_err().kind, Kind::Unavailable);
    registry.shutdown().await;
}

#[tokio::test]
async fn ids_come_and_go_at_once() {
    let (registry, loader, _) = registry();
    let tasks: Vec<_> = (0..50)
        .map(|i| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move {
                let id = format!("engine-{i:02}");
                registry.add(spec(&id), i % 2 == 0).await.unwrap();
                if i % 3 == 0 {
                    registry.remove(&id).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let want: Vec<String> =
        (0..50).filter(|i| i % 3 != 0).map(|i| format!("engine-{i:02}")).collect();
    let got: Vec<String> = registry.list().into_iter().map(|status| status.spec.id).collect();
    assert_eq!(got, want);
    registry.shutdown().await;
    assert_eq!(loader.alive(), 0);
}

/// Requests, idle unloads, evictions, unloads and impatient clients race on all threads: every request
/// is answered, leased engines stay alive, memory stays within the budget, nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn races_end_well() {
    for seed in 0..8_u64 {
        let (clock, loader) = (Clock::manual(), Arc::new(FakeLoader::default()));
        let config = RegistryConfig { room_wait: Duration::from_secs(1 << 30), ..config(&clock) };
        let registry = Registry::new(Arc::clone(&loader) as _, config);
        for id in ["a", "b", "c", "d"] {
            loader.bytes.lock().unwrap().insert(id.to_owned(), 45);
            registry.add(spec(id), false).await.unwrap();
        }
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let (registry, clock) = (Arc::clone(&registry), clock.clone());
                tokio::spawn(race(registry, clock, seed * 1000 + task))
            })
            .collect();
        for task in tasks {
            let done = tokio::time::timeout(Duration::from_secs(60), task).await;
            done.unwrap_or_else(|_| panic!("seed {seed} hangs")).unwrap();
        }
        assert!(registry.list().iter().all(|status| status.leases == 0), "seed {seed}");
        registry.shutdown().await;
        assert_eq!(loader.alive(), 0, "seed {seed}");
    }
}

async fn race(registry: Arc<Registry>, clock: Clock, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..40 {
        let id = ["a", "b", "c", "d"][random(4) as usize];
        match random(10) {
            0 => {
                clock.advance(Duration::from_secs(301));
                registry.sweep();
            }
            1 => drop(registry.unload(id).await),
            2 => {
                let hurry = Duration::from_micros(random(300));
                drop(tokio::time::timeout(hurry, registry.get(id)).await);
            }
            _ => {
                let lease = registry.get(id).await.unwrap();
                assert!(lease.engine.has_failed().is_none());
                if random(2) == 0 {
                    tokio::task::yield_now().await;
                }
                let used: u64 = registry.list().iter().map(|status| status.memory_bytes).sum();
                // Twice the budget at most: victims and heir are both listed while they change over.
                assert!(used <= 200, "{used} bytes admitted");
            }
        }
    }
}

#[test]
fn parameters_have_ranges() {
    let good = LoadParams::default();
    assert!(good.validate().is_ok());
    type Edit = fn(&mut LoadParams);
    let cases: &[(&str, Edit, Option<&str>)] = &[
        ("n_ctx", |p| (p.n_ctx, p.n_keep) = (0, 0), Some("from 1 to 1000000, is 0")),
        ("n_ctx", |p| p.n_ctx = 1_000_001, Some("is 1000001")),
        ("n_ctx", |p| p.n_ctx = 1_000_000, None),
        ("n_keep", |p| p.n_keep = 4097, Some("from 0 to 4096, is 4097")),
        ("n_keep", |p| p.n_keep = 4096, None),
        ("n_parallel", |p| p.n_parallel = 0, Some("from 1 to 256, is 0")),
        ("n_parallel", |p| p.n_parallel = 257, Some("is 257")),
        ("n_batch", |p| p.n_batch = 8193, Some("from 1 to 8192")),
        ("n_ubatch", |p| p.n_ubatch = 2049, Some("from 1 to 2048, is 2049")),
        ("n_ubatch", |p| p.n_ubatch = 0, Some("is 0")),
        ("n_gpu_layers", |p| p.n_gpu_layers = 1001, Some("from 0 to 1000")),
        ("main_gpu_id", |p| p.main_gpu_id = -2, Some("from -1 to 15, is -2")),
        ("main_gpu_id", |p| p.main_gpu_id = 16, Some("is 16")),
    ];
    for (name, edit, want) in cases {
        let mut params = good.clone();
        edit(&mut params);
        match (params.validate(), want) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => {
                assert!(error.message.contains(part), "{error}");
                assert!(error.param.is_some_and(|param| param.ends_with(name)), "{name}");
            }
            (got, _) => panic!("{name}: {got:?}"),
        }
    }
    for (id, reference) in [("", "x"), (" a", "x"), ("a\n", "x"), ("a", " ")] {
        assert_eq!(EngineSpec::new(id, reference).validate().unwrap_err().kind, Kind::Invalid);
    }
}
