//! Embeddings through the engine: the same bits alone and in company, whatever the schedule.

#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::sync::Arc;

use kolosal_server::engine::budget::StepBudget;
use kolosal_server::engine::stats::Meters;
use kolosal_server::engine::worker::{Submission, Work, Worker};
use kolosal_server::engine::{EmbedRequest, Engine, EngineConfig, Job, Owner};
use kolosal_server::model::arch;
use kolosal_server::model::fake::{FakeConfig, FakeRunner, expected_hidden};
use kolosal_server::model::gguf::Value;
use kolosal_server::model::{DeviceChoice, Pooling, RunnerOptions, load_runner};

use crate::engine::{prompt, request};
use crate::tiny::Tiny;

fn embed(prompt: Vec<u32>) -> EmbedRequest {
    EmbedRequest { prompt, ..EmbedRequest::default() }
}

fn vector(job: &Job) -> Vec<f32> {
    let outcome = job.wait_blocking().unwrap();
    assert_eq!(outcome.usage.completion_tokens, 0);
    job.result().embedding.unwrap()
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|x| x.to_bits()).collect()
}

/// The pooled hidden states, computed without engine, batches and KV.
fn expected(config: &FakeConfig, prompt: &[u32]) -> Vec<f32> {
    let rows: Vec<Vec<f32>> =
        (1..=prompt.len()).map(|len| expected_hidden(config, &prompt[..len])).collect();
    match config.pooling {
        Pooling::First => rows[0].clone(),
        Pooling::Last => rows[rows.len() - 1].clone(),
        Pooling::Mean => (0..rows[0].len())
            .map(|i| {
                let sum: f64 = rows.iter().map(|row| f64::from(row[i])).sum();
                (sum / rows.len() as f64) as f32
            })
            .collect(),
    }
}

#[test]
fn embeddings_are_the_same_in_any_company() {
    for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
        // Few blocks and rows: prompts are chunked, and sequences preempted.
        let model = FakeConfig { pooling, num_blocks: 24, max_rows: 24, ..FakeConfig::default() };
        let config =
            EngineConfig { max_running: 8, max_batch_tokens: 24, ..EngineConfig::default() };
        let meters = Arc::new(Meters::default());
        let runner = Box::new(FakeRunner::new(model.clone()));
        let mut worker = Worker::new(runner, &config, Arc::clone(&meters));
        worker.set_budget(StepBudget::new(24, None));
        let prompts: Vec<Vec<u32>> =
            (0..24).map(|i| prompt(1 + (i as usize * 37) % 250, i % 5)).collect();
        let mut jobs = Vec::new();
        let mut others = Vec::new();
        for (i, prompt) in (0..).zip(&prompts) {
            let generate = request(prompt.clone(), 150);
            let (job, submission) =
                Submission::new(2 * i, Owner::default(), generate, &meters, 100).unwrap();
            worker.accept(submission);
            others.push(job);
            let work = Work::Embed(embed(prompt.clone()));
            let (job, submission) =
                Submission::new(2 * i + 1, Owner { tenant: 1, group: i }, work, &meters, 100)
                    .unwrap();
            worker.accept(submission);
            jobs.push(job);
        }
        while !worker.is_idle() {
            worker.step().unwrap();
            worker.check().unwrap();
        }
        assert!(worker.scheduler().counts().preemptions > 0, "{pooling:?}");
        for (prompt, job) in prompts.iter().zip(&jobs) {
            assert_eq!(bits(&vector(job)), bits(&expected(&model, prompt)), "{pooling:?}");
        }
        for (prompt, job) in prompts.iter().zip(&others) {
            job.wait_blocking().unwrap();
            let (tokens, _) = crate::engine::expected(&model, request(prompt.clone(), 150));
            assert_eq!(job.result().tokens, tokens, "{pooling:?}");
        }
    }
}

#[test]
fn the_decoder_pools_as_the_file_says() {
    let cases = [(None, Pooling::Mean), (Some(2), Pooling::First), (Some(3), Pooling::Last)];
    let mut vectors = Vec::new();
    for (number, pooling) in cases {
        let extra = number.map(|number: u32| ("pooling_type", Value::U32(number)));
        let gguf = Tiny { extra: extra.into_iter().collect(), ..Tiny::default() }.gguf();
        let options =
            RunnerOptions { device: DeviceChoice::Cpu, threads: 2, ..RunnerOptions::default() };
        let runner = load_runner(&gguf, &options).unwrap();
        assert_eq!((runner.spec().pooling, runner.spec().hidden), (pooling, 64));
        let engine = Engine::start(runner, EngineConfig::default()).unwrap();
        let prompts: Vec<Vec<u32>> = (0..6).map(|i| prompt(3 + i as usize * 29, i)).collect();
        let alone: Vec<_> = prompts
            .iter()
            .map(|prompt| vector(&engine.embed(embed(prompt.clone())).unwrap()))
            .collect();
        let company: Vec<(Job, Job)> = prompts
            .iter()
            .map(|prompt| {
                let generates = engine.submit(request(prompt.clone(), 8)).unwrap();
                (generates, engine.embed(embed(prompt.clone())).unwrap())
            })
            .collect();
        for (alone, (_, job)) in alone.iter().zip(&company) {
            assert_eq!(bits(alone), bits(&vector(job)), "{pooling:?}");
            assert!(alone.iter().any(|x| *x != 0.0));
        }
        vectors.push(alone);
    }
    assert!(vectors[0] != vectors[1] && vectors[1] != vectors[2]);
}

#[test]
fn models_that_would_be_computed_wrongly_are_refused() {
    for (key, value) in [("pooling_type", Value::U32(4)), ("attention.causal", Value::Bool(false))]
    {
        let error = arch::describe(&Tiny { extra: vec![(key, value)], ..Tiny::default() }.head());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&format!("llama.{key}")), "{error}");
    }
}

#[test]
fn both_back_ends_agree() {
    let gguf = Tiny::default().gguf();
    let vectors = [DeviceChoice::Cpu, DeviceChoice::CandleCpu].map(|device| {
        let runner = load_runner(&gguf, &RunnerOptions { device, ..RunnerOptions::default() });
        let engine = Engine::start(runner.unwrap(), EngineConfig::default()).unwrap();
        vector(&engine.embed(embed(prompt(45, 1))).unwrap())
    });
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let [ours, candles] = &vectors;
    let cosine = dot(ours, candles) / (dot(ours, ours) * dot(candles, candles)).sqrt();
    assert!(cosine > 0.9999, "{cosine}");
}

#[test]
fn wrong_requests_are_refused() {
    let model = FakeConfig { context_len: 64, ..FakeConfig::default() };
    let engine = Engine::start(Box::new(FakeRunner::new(model)), EngineConfig::default()).unwrap();
    for (prompt, text) in [
        (vec![], "no tokens"),
        (vec![64], "token 64"),
        (vec![1; 65], "65 tokens exceed the context of 64"),
    ] {
        let error = engine.embed(embed(prompt)).unwrap_err();
        assert!(error.message.contains(text), "{error}");
    }
    assert!(engine.embed(embed(vec![1; 64])).unwrap().wait_blocking().is_ok());
}
