//! The engine through its handle: jobs, limits, failures, and output that depends on nothing else.

#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use kolosal_server::engine::sampler::{Sampler, Scratch};
use kolosal_server::engine::{
    Constraint, Engine, EngineConfig, Event, FinishReason, Job, Outcome, Request, Sampling, Tenant,
};
use kolosal_server::error::{Error, Kind};
use kolosal_server::model::fake::{FakeConfig, FakeRunner, expected_logits};

/// A plain greedy request.
pub(crate) fn request(prompt: Vec<u32>, max_tokens: u32) -> Request {
    Request {
        prompt,
        max_tokens,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ..Request::default()
    }
}

/// What a request must generate, computed without engine, batches and KV.
pub(crate) fn expected(config: &FakeConfig, mut request: Request) -> (Vec<u32>, FinishReason) {
    let mut sampler = Sampler::new(&mut request);
    let mut tokens = request.prompt.clone();
    let mut scratch = Scratch::default();
    let reason = loop {
        if tokens.len() - request.prompt.len() >= request.max_tokens as usize {
            break FinishReason::Length;
        }
        let mut logits = expected_logits(config, &tokens);
        let token = sampler.sample(&mut logits, &mut scratch).unwrap().token;
        if sampler.is_stop(token) {
            break FinishReason::Stop;
        }
        tokens.push(token);
    };
    (tokens.split_off(request.prompt.len()), reason)
}

/// Token ids below 64 that differ by `seed`.
pub(crate) fn prompt(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 7 + seed * 13 + i * i * (seed + 1)) % 64).collect()
}

fn start(model: FakeConfig, config: EngineConfig) -> Engine {
    Engine::start(Box::new(FakeRunner::new(model)), config).unwrap()
}

fn small() -> EngineConfig {
    EngineConfig { name: "test".into(), ..EngineConfig::default() }
}

/// A model whose steps begin only when the test says so.
struct Gate {
    /// Numbers of steps that have begun.
    begun: Receiver<u64>,
    go: Sender<()>,
}

impl Gate {
    fn runner(model: FakeConfig) -> (FakeRunner, Self) {
        let (begin, begun) = channel();
        let (go, wait) = channel::<()>();
        let runner = FakeRunner::new(model).on_step(move |step| {
            // When the test is over, steps run freely.
            let _ = begin.send(step);
            let _ = wait.recv();
        });
        (runner, Self { begun, go })
    }

    fn engine(model: FakeConfig, config: EngineConfig) -> (Engine, Self) {
        let (runner, gate) = Self::runner(model);
        (Engine::start(Box::new(runner), config).unwrap(), gate)
    }

    /// Waits until a step has begun.
    fn await_step(&self) -> u64 {
        self.begun.recv().unwrap()
    }

    /// Lets the step that has begun end, and waits until the next has begun.
    fn step(&self) -> u64 {
        self.go.send(()).unwrap();
        self.await_step()
    }
}

fn outcome(job: &Job) -> Outcome {
    job.wait_blocking().unwrap()
}

#[test]
fn concurrent_jobs_equal_single_runs() {
    let model = FakeConfig { eos: Some((1, 0.02)), ..FakeConfig::default() };
    let engine = start(model.clone(), EngineConfig { max_running: 16, ..small() });
    let make = |i: u32| Request {
        stop_tokens: vec![1],
        sampling: Sampling {
            temperature: (i % 3) as f32 * 0.7,
            top_p: 0.9,
            top_k: i % 5 * 10,
            repetition_penalty: 1.1,
            frequency_penalty: 0.2,
            seed: u64::from(i),
            ..Sampling::default()
        },
        ..request(prompt(1 + i as usize * 5, i % 7), 30 + i % 40)
    };
    let jobs: Vec<Job> = (0..64).map(|i| engine.submit(make(i)).unwrap()).collect();
    for (i, job) in jobs.iter().enumerate() {
        let reason = outcome(job).reason;
        let (tokens, expected_reason) = expected(&model, make(i as u32));
        assert_eq!((job.result().tokens, reason), (tokens, expected_reason), "job {i}");
    }
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
    assert_eq!(stats.blocks_total, stats.blocks_free + stats.blocks_cached);
    assert!(engine.is_idle());
}

#[test]
fn preemption_does_not_disturb_output() {
    let model = FakeConfig { num_blocks: 12, ..FakeConfig::default() };
    let engine = start(model.clone(), EngineConfig { max_running: 6, ..small() });
    let make = |i: u32| Request {
        sampling: Sampling { seed: u64::from(i), presence_penalty: 0.5, ..Sampling::default() },
        ..request(prompt(40, i), 150)
    };
    let jobs: Vec<Job> = (0..8).map(|i| engine.submit(make(i)).unwrap()).collect();
    for (i, job) in jobs.iter().enumerate() {
        assert_eq!(outcome(job).reason, FinishReason::Length);
        assert_eq!(job.result().tokens, expected(&model, make(i as u32)).0, "job {i}");
    }
    assert!(engine.stats().preemptions > 0);
}

#[test]
fn stops_where_it_must() {
    let model = FakeConfig { eos: Some((5, 0.2)), ..FakeConfig::default() };
    let engine = start(model.clone(), small());
    let stopping = || Request { stop_tokens: vec![5], ..request(prompt(9, 1), 400) };

    let job = engine.submit(stopping()).unwrap();
    let first = outcome(&job);
    assert_eq!(first.reason, FinishReason::Stop);
    assert!(!job.result().tokens.contains(&5), "a stop token is a reason, not output");
    assert_eq!(first.usage.completion_tokens as usize, job.result().tokens.len());

    let job = engine.submit(request(prompt(9, 1), 77)).unwrap();
    assert_eq!(outcome(&job).reason, FinishReason::Length);
    assert_eq!(job.result().tokens.len(), 77);

    let more = first.usage.completion_tokens + 3;
    let job = engine.submit(Request { min_tokens: more, ..stopping() }).unwrap();
    assert!(outcome(&job).usage.completion_tokens >= more);
    let tokens = job.result().tokens;
    assert_eq!(tokens, expected(&model, Request { min_tokens: more, ..stopping() }).0);
}

#[test]
fn a_seed_decides() {
    let engine = start(FakeConfig::default(), small());
    let run = |seed| {
        let sampling = Sampling { seed, ..Sampling::default() };
        let job = engine.submit(Request { sampling, ..request(prompt(5, 1), 40) }).unwrap();
        outcome(&job);
        job.result().tokens
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn results_can_be_read_any_time_and_often() {
    let (engine, gate) = Gate::engine(FakeConfig::default(), small());
    let job = engine.submit(request(prompt(5, 1), 6)).unwrap();
    gate.await_step();
    assert!(job.result().tokens.is_empty() && !job.is_finished());
    for count in 1..6 {
        gate.step();
        let partial = job.result();
        assert_eq!(partial.tokens.len(), count);
        assert_eq!(partial, job.result(), "reading takes nothing away");
    }
    drop(gate);
    outcome(&job);
    let (first, second) = (job.result(), job.result());
    assert_eq!(first, second);
    assert_eq!(first.tokens.len(), 6);
    assert!(job.is_finished() && job.error().is_none());
    assert_eq!(job.wait_blocking(), job.wait_blocking());
}

#[tokio::test]
async fn events_come_in_order_and_end() {
    let engine = start(FakeConfig::default(), EngineConfig { max_batch_tokens: 16, ..small() });
    let wanted = Request { prompt_logprobs: Some(1), ..request(prompt(50, 1), 4) };
    let mut job = engine.submit(wanted).unwrap();
    // A reader that comes late misses nothing.
    job.wait().await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = job.next_event().await {
        events.push(event);
    }
    assert_eq!(events[0], Event::Prefill { processed: 50, cached: 0, total: 50 });
    assert!(matches!(&events[1], Event::PromptLogprobs(all) if all.len() == 49));
    let ids: Vec<u32> = events[2..6]
        .iter()
        .map(|event| match event {
            Event::Token { id, logprobs: None } => *id,
            other => panic!("{other:?} is no token"),
        })
        .collect();
    assert_eq!(ids, job.result().tokens);
    assert!(matches!(events[6], Event::Finished(_)));
    assert_eq!(events.len(), 7);
    assert_eq!(job.next_event().await, None);
}

#[tokio::test]
async fn events_arrive_while_generating() {
    let engine = start(FakeConfig::default(), small());
    let mut job = engine.submit(request(prompt(5, 1), 200)).unwrap();
    let mut tokens = Vec::new();
    while let Some(event) = job.next_event().await {
        if let Event::Token { id, .. } = event {
            tokens.push(id);
        }
    }
    assert_eq!(tokens, job.result().tokens);
    assert_eq!(tokens.len(), 200);
}

#[test]
fn a_dropped_or_cancelled_job_frees_its_blocks_within_a_step() {
    let (engine, gate) = Gate::engine(FakeConfig::default(), small());
    let kept = engine.submit(request(prompt(20, 1), 300)).unwrap();
    gate.await_step();
    let dropped = engine.submit(request(prompt(90, 2), 300)).unwrap();
    let cancelled = engine.submit(request(prompt(90, 3), 300)).unwrap();
    gate.step();
    gate.step();
    assert_eq!((engine.stats().running, engine.stats().blocks_used), (3, 7));
    drop(dropped);
    cancelled.cancel();
    gate.step(); // the step that was running
    gate.step();
    assert_eq!((engine.stats().running, engine.stats().blocks_used), (1, 1));
    assert_eq!(outcome(&cancelled).reason, FinishReason::Cancelled);
    assert_eq!(cancelled.result().tokens.len(), 2, "what was generated stays");
    drop(gate);
    assert_eq!(outcome(&kept).reason, FinishReason::Length);
}

#[test]
fn a_waiting_job_can_be_cancelled() {
    let config = EngineConfig { max_running: 1, ..small() };
    let (engine, gate) = Gate::engine(FakeConfig::default(), config);
    let running = engine.submit(request(prompt(4, 1), 5)).unwrap();
    gate.await_step();
    let waiting = engine.submit(request(prompt(4, 2), 5)).unwrap();
    waiting.cancel();
    drop(gate);
    assert_eq!(outcome(&waiting).reason, FinishReason::Cancelled);
    assert_eq!(outcome(&running).reason, FinishReason::Length);
}

#[test]
fn a_panic_fails_the_engine_and_nothing_else() {
    let model = FakeConfig { panic_at: Some(3), ..FakeConfig::default() };
    let engine = start(model, EngineConfig { max_running: 2, ..small() });
    let jobs: Vec<Job> =
        (0..4).filter_map(|i| engine.submit(request(prompt(5, i), 50)).ok()).collect();
    assert!(!jobs.is_empty());
    for job in &jobs {
        let error = job.wait_blocking().unwrap_err();
        assert_eq!(error.kind, Kind::Internal);
        assert_eq!(error.message, "engine test failed: panicked: step 3 was told to panic");
        assert_eq!(job.error(), Some(error));
    }
    assert_eq!(engine.has_failed().unwrap(), "panicked: step 3 was told to panic");
    let refused = engine.submit(request(prompt(5, 1), 5)).unwrap_err();
    assert_eq!((refused.kind, refused.code), (Kind::Unavailable, Some("engine_failed")));
    engine.shutdown();
    assert!(engine.is_idle());
}

#[test]
fn an_error_fails_the_jobs_of_the_step_only() {
    let model = FakeConfig { fail_at: vec![2], ..FakeConfig::default() };
    let engine = start(model, small());
    let job = engine.submit(request(prompt(5, 1), 50)).unwrap();
    let error = job.wait_blocking().unwrap_err();
    assert_eq!(error.kind, Kind::Internal);
    assert_eq!(error.message, "the model failed to compute a step: step 2 was told to fail");
    assert_eq!(job.result().tokens.len(), 2, "the partial output stays readable");
    let next = engine.submit(request(prompt(5, 1), 5)).unwrap();
    assert_eq!(outcome(&next).reason, FinishReason::Length);
    assert_eq!(engine.has_failed(), None);
}

#[test]
fn errors_again_and_again_fail_the_engine() {
    let model = FakeConfig { fail_at: (0..9).collect(), ..FakeConfig::default() };
    let engine = start(model, small());
    for _ in 0..3 {
        let job = engine.submit(request(prompt(5, 1), 50)).unwrap();
        assert_eq!(job.wait_blocking().unwrap_err().kind, Kind::Internal);
    }
    engine.shutdown();
    assert!(engine.has_failed().unwrap().contains("step 2 was told to fail"));
}

#[test]
fn logits_that_are_no_numbers_fail_one_job() {
    let model = FakeConfig { nan_at: Some(1), ..FakeConfig::default() };
    let engine = start(model, small());
    let job = engine.submit(request(prompt(5, 1), 50)).unwrap();
    let error = job.wait_blocking().unwrap_err();
    assert_eq!(error, Error::internal("the model computed logits that are not finite numbers"));
    let next = engine.submit(request(prompt(5, 1), 5)).unwrap();
    assert_eq!(outcome(&next).reason, FinishReason::Length);
}

#[test]
fn shutdown_ends_jobs_and_drops_the_runner() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let runner = FakeRunner::new(FakeConfig::default()).on_step(move |_| {
        assert!(Arc::strong_count(&held) > 1);
    });
    let engine =
        Engine::start(Box::new(runner), EngineConfig { max_running: 2, ..small() }).unwrap();
    let jobs: Vec<Job> =
        (0..5).map(|i| engine.submit(request(prompt(5, i), 4000)).unwrap()).collect();
    engine.shutdown();
    assert_eq!(Arc::strong_count(&alive), 1, "the runner is gone");
    for job in &jobs {
        let error = job.wait_blocking().unwrap_err();
        let got = (error.kind, error.message.as_str(), error.retry_after_s);
        assert_eq!(got, (Kind::Unavailable, "engine test is unloading", Some(1)));
    }
    assert_eq!(engine.submit(request(prompt(5, 1), 5)).unwrap_err().kind, Kind::Unavailable);
    engine.shutdown();
    assert!(engine.is_idle());
}

#[test]
fn an_engine_without_handles_ends() {
    let (engine, gate) = Gate::engine(FakeConfig::default(), small());
    let job = engine.submit(request(prompt(5, 1), 4000)).unwrap();
    gate.await_step();
    drop(engine);
    drop(gate);
    assert_eq!(job.wait_blocking().unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test]
async fn draining_lets_jobs_finish() {
    let engine = start(FakeConfig::default(), small());
    let job = engine.submit(request(prompt(5, 1), 300)).unwrap();
    engine.drain();
    assert_eq!(engine.submit(request(prompt(5, 1), 5)).unwrap_err().kind, Kind::Unavailable);
    engine.idle().await;
    assert_eq!(job.result().tokens.len(), 300);
    engine.shutdown();
}

#[test]
fn an_idle_engine_does_nothing() {
    let engine = start(FakeConfig::default(), EngineConfig { name: "idle".into(), ..small() });
    outcome(&engine.submit(request(prompt(5, 1), 5)).unwrap());
    let before = engine.stats();
    // On Linux the kernel tells that the thread sleeps; it gets there at its own pace.
    while cfg!(target_os = "linux") && state_of_thread("engine-idle") != Some('S') {
        std::thread::yield_now();
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(engine.stats(), before);
}

fn state_of_thread(name: &str) -> Option<char> {
    let mut tasks = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    tasks.find_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        stat.split_once(&format!("({name}) "))?.1.chars().next()
    })
}

#[test]
fn a_full_queue_refuses_with_its_limit() {
    let config = EngineConfig { max_running: 2, max_waiting: 3, ..small() };
    let (engine, gate) = Gate::engine(FakeConfig::default(), config);
    let jobs: Vec<Job> = (0..5).map(|i| engine.submit(request(prompt(5, i), 3)).unwrap()).collect();
    gate.await_step();
    let error = engine.submit(request(prompt(5, 9), 3)).unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unavailable, Some("queue_full")));
    assert_eq!(
        error.message,
        "engine test is full: 3 requests wait, the limit is 3 of a client beside 2 that run"
    );
    assert!(error.retry_after_s.is_some());
    drop(gate);
    for job in &jobs {
        outcome(job);
    }
    outcome(&engine.submit(request(prompt(5, 9), 3)).unwrap());
}

#[test]
fn a_tenant_takes_no_places_from_others() {
    let config = EngineConfig { max_running: 2, max_waiting: 4, ..small() };
    let alone = outcome_of(&start(FakeConfig::default(), config.clone()), 7);
    let (engine, gate) = Gate::engine(FakeConfig::default(), config);
    let greedy = engine.of(Tenant { id: 1, ..Tenant::default() });
    let jobs: Vec<Job> =
        (0..6).map(|i| greedy.submit(request(prompt(5, i), 60)).unwrap()).collect();
    gate.await_step();
    let full = greedy.submit(request(prompt(5, 9), 3)).unwrap_err();
    assert_eq!(full.code, Some("queue_full"), "it has its share");
    let modest = engine.of(Tenant { id: 2, ..Tenant::default() });
    let job = modest.submit(request(prompt(5, 7), 3)).unwrap();
    for _ in 0..20 {
        if !job.is_finished() {
            gate.step();
        }
    }
    assert!(job.is_finished(), "three tokens take few steps");
    assert!(jobs.iter().all(|job| !job.is_finished()), "it waited for none of the others");
    drop(gate);
    let tokens = job.result().tokens;
    assert_eq!(tokens, alone);
    let displaced: Vec<_> = jobs.iter().map(|job| (outcome(job), job.result().tokens)).collect();
    for (i, (_, tokens)) in displaced.iter().enumerate() {
        let single = start(FakeConfig::default(), small());
        let job = single.submit(request(prompt(5, i as u32), 60)).unwrap();
        outcome(&job);
        assert_eq!(*tokens, job.result().tokens, "{i}");
    }
}

fn outcome_of(engine: &Engine, seed: u32) -> Vec<u32> {
    let job = engine.submit(request(prompt(5, seed), 3)).unwrap();
    outcome(&job);
    job.result().tokens
}

#[test]
fn a_tenant_sees_no_cache_of_others() {
    let engine = start(FakeConfig::default(), small());
    let cached = |cache| {
        let engine = engine.of(Tenant { id: 0, cache });
        let job = engine.submit(request(prompt(200, 1), 2)).unwrap();
        outcome(&job).usage.cached_tokens
    };
    assert_eq!(cached(1), 0);
    assert!(cached(1) > 0, "its own");
    assert_eq!((cached(2), cached(0)), (0, 0));
}

#[test]
fn refuses_what_cannot_be_served() {
    let model = FakeConfig { context_len: 100, num_blocks: 3, ..FakeConfig::default() };
    let engine = start(model, small());
    let sampling = |edit: fn(&mut Sampling)| {
        let mut request = request(prompt(5, 1), 5);
        edit(&mut request.sampling);
        request
    };
    let cases = [
        (request(vec![], 5), "prompt", "the prompt has no tokens"),
        (request(vec![1, 64], 5), "prompt", "token 64 is not below the vocabulary's size 64"),
        (request(prompt(5, 1), 0), "max_tokens", "max_tokens 0 is below 1"),
        (
            Request { min_tokens: 6, ..request(prompt(5, 1), 5) },
            "min_tokens",
            "min_tokens 6 exceeds max_tokens 5",
        ),
        (
            request(prompt(60, 1), 41),
            "max_tokens",
            "max_tokens 41 exceeds context 100 with a prompt of 60 tokens",
        ),
        (
            request(prompt(60, 1), 38),
            "max_tokens",
            "max_tokens 38 with a prompt of 60 tokens needs 4 blocks of KV, the pool has 3",
        ),
        (
            sampling(|s| s.temperature = -1.0),
            "temperature",
            "temperature -1 is not within 0e0 and 3.4028235e38",
        ),
        (
            sampling(|s| s.top_p = f32::NAN),
            "top_p",
            "top_p NaN is not within 1.1754944e-38 and 1e0",
        ),
        (
            sampling(|s| s.logit_bias = vec![(64, 1.0)]),
            "logit_bias",
            "bias 1 of token 64: the vocabulary's size is 64",
        ),
    ];
    for (request, param, message) in cases {
        let error = engine.submit(request).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid);
        assert_eq!((error.param.as_deref(), error.message.as_str()), (Some(param), message));
    }
    // The longest that fits.
    let job = engine.submit(request(prompt(60, 1), 37)).unwrap();
    assert_eq!(outcome(&job).usage.completion_tokens, 37);
}

#[test]
fn refuses_a_configuration_that_cannot_work() {
    for (max_running, max_batch_tokens) in [(0, 16), (17, 16)] {
        let runner = Box::new(FakeRunner::new(FakeConfig::default()));
        let config = EngineConfig { max_running, max_batch_tokens, ..small() };
        assert_eq!(Engine::start(runner, config).unwrap_err().kind, Kind::Invalid);
    }
}

#[test]
fn the_second_turn_of_a_chat_is_cached() {
    let model = FakeConfig::default();
    let engine = start(model.clone(), small());
    let first = engine.submit(request(prompt(50, 1), 60)).unwrap();
    assert_eq!(outcome(&first).usage.cached_tokens, 0);
    let mut history = prompt(50, 1);
    history.extend(first.result().tokens);
    history.extend(prompt(10, 2));
    let turn = || request(history.clone(), 5);
    let second = engine.submit(turn()).unwrap();
    // 109 positions were written (the last token never is): 3 full blocks.
    assert_eq!(outcome(&second).usage.cached_tokens, 96);
    assert_eq!(second.result().tokens, expected(&model, turn()).0);
    let salted = engine.submit(Request { cache_salt: 1, ..turn() }).unwrap();
    assert_eq!(outcome(&salted).usage.cached_tokens, 0, "another salt shares nothing");
    assert_eq!(salted.result().tokens, second.result().tokens);
    let stats = engine.stats();
    assert_eq!((stats.prefix_queried_tokens, stats.prefix_hit_tokens), (50 + 120 + 120, 96));
}

#[test]
fn a_whole_prompt_is_never_taken_from_the_cache() {
    let engine = start(FakeConfig::default(), small());
    for cached in [0, 32] {
        let job = engine.submit(request(prompt(64, 1), 1)).unwrap();
        assert_eq!(outcome(&job).usage.cached_tokens, cached);
    }
}

#[test]
fn equal_prompts_submitted_together_are_computed_once() {
    let model = FakeConfig::default();
    let config = EngineConfig { max_running: 8, max_batch_tokens: 48, ..small() };
    let (engine, gate) = Gate::engine(model.clone(), config);
    let make = |seed| Request {
        sampling: Sampling { seed, ..Sampling::default() },
        ..request(prompt(200, 1), 10)
    };
    let blocker = engine.submit(request(prompt(3, 9), 30)).unwrap();
    gate.await_step();
    let jobs: Vec<Job> = (0..8).map(|seed| engine.submit(make(seed)).unwrap()).collect();
    drop(gate);
    outcome(&blocker);
    for (seed, job) in jobs.iter().enumerate() {
        let cached = if seed == 0 { 0 } else { 192 };
        assert_eq!(outcome(job).usage.cached_tokens, cached, "job {seed}");
        assert_eq!(job.result().tokens, expected(&model, make(seed as u64)).0);
    }
}

#[test]
fn without_prefix_cache_nothing_is_shared() {
    let engine = start(FakeConfig::default(), EngineConfig { prefix_cache: false, ..small() });
    let jobs: Vec<Job> =
        (0..4).map(|_| engine.submit(request(prompt(100, 1), 10)).unwrap()).collect();
    for job in &jobs {
        assert_eq!(outcome(job).usage.cached_tokens, 0);
        assert_eq!(job.result().tokens, jobs[0].result().tokens);
    }
    assert_eq!(engine.stats().blocks_cached, 0);
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    logits.iter().map(|&x| (f64::from(x) - sum.ln()) as f32).collect()
}

#[test]
fn logprobs_are_those_of_the_model() {
    let model = FakeConfig::default();
    let engine = start(model.clone(), EngineConfig { max_batch_tokens: 16, ..small() });
    let prompt = prompt(70, 1);
    // Twice: the second time the prompt is in the cache and must be computed all the same.
    for _ in 0..2 {
        let wanted =
            Request { logprobs: Some(3), prompt_logprobs: Some(2), ..request(prompt.clone(), 6) };
        let job = engine.submit(wanted).unwrap();
        outcome(&job);
        let result = job.result();
        let mut tokens = prompt.clone();
        tokens.extend(&result.tokens);
        let mut reported = result.prompt_logprobs.unwrap();
        assert_eq!((reported.len(), result.logprobs.len()), (69, 6));
        reported.extend(result.logprobs);
        for (at, logprobs) in reported.iter().enumerate() {
            let expected = log_softmax(&expected_logits(&model, &tokens[..=at]));
            assert_eq!(logprobs.id, tokens[at + 1]);
            assert!((logprobs.logprob - expected[logprobs.id as usize]).abs() < 1e-4);
            assert_eq!(logprobs.top.len(), if at < 69 { 2 } else { 3 });
            assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
            for &(id, logprob) in &logprobs.top {
                assert!((logprob - expected[id as usize]).abs() < 1e-4);
            }
        }
    }
    let echo = Request { prompt_logprobs: Some(0), ..request(prompt, 0) };
    let job = engine.submit(echo).unwrap();
    assert_eq!(outcome(&job).usage.completion_tokens, 0);
    assert_eq!(job.result().prompt_logprobs.unwrap().len(), 69);
}

/// Allows tokens of one parity in turn, and `length` of them.
#[derive(Debug)]
struct Parity {
    length: usize,
    taken: usize,
}

impl Constraint for Parity {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        if self.taken == 7 {
            return Err("seven is not allowed".into());
        }
        mask.fill(if self.taken.is_multiple_of(2) { 0x5555_5555 } else { 0xaaaa_aaaa });
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        assert_eq!(token as usize % 2, self.taken % 2);
        self.taken += 1;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.taken == self.length
    }
}

#[test]
fn a_constraint_is_obeyed() {
    let engine = start(FakeConfig::default(), small());
    let run = |length| {
        let constraint: Option<Box<dyn Constraint>> = Some(Box::new(Parity { length, taken: 0 }));
        let job = engine.submit(Request { constraint, ..request(prompt(5, 1), 50) }).unwrap();
        (job.wait_blocking(), job.result().tokens)
    };
    let (end, tokens) = run(6);
    assert_eq!(end.unwrap().reason, FinishReason::Stop);
    assert_eq!(tokens.iter().map(|token| token % 2).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1]);
    let (end, tokens) = run(9);
    assert_eq!(end.unwrap_err().message, "the constraint cannot go on: seven is not allowed");
    assert_eq!(tokens.len(), 7);
}

/// Allows one token at every third place and every second token elsewhere.
#[derive(Debug)]
struct Rail {
    taken: u32,
    /// Tells what it forces, and a wrong guess behind it.
    foresees: bool,
}

impl Constraint for Rail {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        let only = self.taken * 7 % 64;
        mask.fill(if self.taken.is_multiple_of(3) { 0 } else { 0x5555_5555 });
        mask[only as usize / 32] |= 1 << (only % 32);
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<(), String> {
        self.taken += 1;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.taken == 40
    }

    fn is_free(&self) -> bool {
        self.taken % 11 == 5
    }

    fn forced(&mut self) -> Vec<u32> {
        let is_forced = self.foresees && self.taken.is_multiple_of(3);
        if is_forced { vec![self.taken * 7 % 64, 1] } else { Vec::new() }
    }
}

#[test]
fn masks_beside_the_forward_pass_and_forced_tokens_change_no_output() {
    let run = |mask_threads, foresees| {
        let max_draft_tokens = if foresees { 16 } else { 0 };
        let config = EngineConfig {
            mask_threads,
            max_draft_tokens,
            drafts_always: true,
            max_running: 8,
            ..small()
        };
        let engine = start(FakeConfig::default(), config);
        let submit = |i: u32| {
            let constraint: Box<dyn Constraint> = Box::new(Rail { taken: 0, foresees });
            let constraint = (i % 4 != 3).then_some(constraint);
            let sampling = Sampling { seed: u64::from(i), ..Sampling::default() };
            let request = request(prompt(5, i), 60);
            engine.submit(Request { constraint, sampling, ..request }).unwrap()
        };
        let jobs: Vec<Job> = (0..8).map(submit).collect();
        let tokens = jobs.iter().map(|job| {
            job.wait_blocking().unwrap();
            job.result().tokens
        });
        (tokens.collect::<Vec<_>>(), engine.stats().accepted_draft_tokens)
    };
    let (alone, none) = run(0, false);
    assert_eq!((alone[0].len(), none), (40, 0));
    for mask_threads in [0, 1, 3] {
        let (tokens, accepted) = run(mask_threads, true);
        assert_eq!(tokens, alone, "{mask_threads} threads");
        assert!(accepted > 50, "{accepted} forced tokens were computed ahead");
    }
}

#[test]
fn banning_everything_is_an_error() {
    let engine = start(FakeConfig::default(), small());
    let logit_bias = (0..64).map(|token| (token, -100.0)).collect();
    let sampling = Sampling { logit_bias, ..Sampling::default() };
    let job = engine.submit(Request { sampling, ..request(prompt(5, 1), 5) }).unwrap();
    let error = job.wait_blocking().unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
    assert!(error.message.contains("ban every token"), "{error}");
}

#[test]
fn guessing_does_not_change_output() {
    // Few tokens and a short memory: the output repeats itself.
    let model = FakeConfig {
        vocab_size: 8,
        memory: Some(2),
        eos: Some((1, 0.01)),
        ..FakeConfig::default()
    };
    let config =
        EngineConfig { max_draft_tokens: 4, drafts_always: true, max_running: 3, ..small() };
    let engine = start(model.clone(), config);
    let make = |i: u32| Request {
        stop_tokens: vec![1],
        sampling: Sampling {
            temperature: i as f32 * 0.1,
            frequency_penalty: if i == 3 { 0.1 } else { 0.0 },
            seed: u64::from(i),
            ..Sampling::default()
        },
        ..request(prompt(20, i).iter().map(|token| token % 8).collect(), 200 + i)
    };
    let jobs: Vec<Job> = (0..6).map(|i| engine.submit(make(i)).unwrap()).collect();
    for (i, job) in jobs.iter().enumerate() {
        let reason = outcome(job).reason;
        assert_eq!((job.result().tokens, reason), expected(&model, make(i as u32)), "job {i}");
    }
    let stats = engine.stats();
    assert!(stats.accepted_draft_tokens > 100, "{stats:?}");
    assert!(stats.steps < stats.generated_tokens);
}
