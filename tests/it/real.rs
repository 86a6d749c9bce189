//! A real model: answers that are stable and do not depend on company, cache, chunks or threads.
//!
//! SmolLM2 is found as in [`crate::sdk`]; where it is missing outside continuous integration, the
//! tests say so and do nothing.

use std::sync::Arc;

use kolosal_kernels::quant::{GgmlType, dequantize, quantize};
use kolosal_server::chat::TextModel;
use kolosal_server::chat::grammar::{Grammar, GrammarCompiler};
use kolosal_server::engine::sampling::{Adaptive, Dry, Mirostat, MirostatVersion, Stage, Xtc};
use kolosal_server::engine::{Engine, EngineConfig, Job, Outcome, Request, Sampling};
use kolosal_server::model::gguf::{Gguf, Writer};
use kolosal_server::model::{DeviceChoice, RunnerOptions, load_runner};
use serde_json::json;

use crate::engine::request;
use crate::parity::assert_invariant;
use crate::tiny::Tiny;

fn smollm2() -> Option<Gguf> {
    crate::sdk::or_skip(crate::sdk::model()).map(|path| Gguf::open(&path).unwrap())
}

fn engine(gguf: &Gguf, config: EngineConfig) -> Engine {
    let options =
        RunnerOptions { device: DeviceChoice::Cpu, n_ctx: 1024, ..RunnerOptions::default() };
    let config = EngineConfig { name: "real".into(), max_running: 8, ..config };
    Engine::start(load_runner(gguf, &options).unwrap(), config).unwrap()
}

/// Eight prompts of different lengths in the model's own tokens.
fn prompts(text: &TextModel) -> Vec<Vec<u32>> {
    let topics = ["tides", "bread", "glass", "rain", "bees", "iron", "maps", "paper"];
    let prompt = |(i, topic): (usize, &&str)| {
        let question = format!("Tell me how {topic} came to be, and why it matters. ");
        text.tokenizer.encode_prompt(&question.repeat(1 + 2 * i))
    };
    topics.iter().enumerate().map(prompt).collect()
}

/// Tokens and the log-probability of each, as bits.
fn answer(job: &Job) -> (Vec<(u32, u32)>, Outcome) {
    let outcome = job.wait_blocking().unwrap();
    let logprobs = job.result().logprobs;
    (logprobs.iter().map(|token| (token.id, token.logprob.to_bits())).collect(), outcome)
}

fn drawn(prompt: &[u32], seed: u64) -> Request {
    // Half of the sequences are greedy; a draw must be stable as well.
    let temperature = if seed.is_multiple_of(2) { 0.0 } else { 0.9 };
    Request {
        logprobs: Some(0),
        sampling: Sampling { temperature, top_p: 0.95, seed, ..Sampling::default() },
        ..request(prompt.to_vec(), 24)
    }
}

#[test]
fn a_batch_of_eight_equals_eight_singles() {
    let Some(gguf) = smollm2() else { return };
    let text = TextModel::from_gguf(gguf.metadata()).unwrap();
    let prompts = prompts(&text);
    let plain = EngineConfig { prefix_cache: false, ..EngineConfig::default() };
    let engine = engine(&gguf, plain);
    let submit = |i: usize| engine.submit(drawn(&prompts[i], i as u64)).unwrap();
    let singles: Vec<_> = (0..8).map(|i| answer(&submit(i)).0).collect();
    let jobs: Vec<Job> = (0..8).map(submit).collect();
    for (i, job) in jobs.iter().enumerate() {
        assert!(answer(job).0 == singles[i], "sequence {i} differs in company");
    }
}

/// Each sampler alone, and some together.
fn samplers() -> Vec<Sampling> {
    let base = || Sampling { temperature: 0.9, ..Sampling::default() };
    let mirostat = |version| Some(Mirostat { version, tau: 4.0, eta: 0.1 });
    let xtc = Xtc { probability: 0.5, threshold: 0.1 };
    let dry = Dry { multiplier: 0.8, ..Dry::default() };
    let order = vec![Stage::TopK, Stage::Xtc, Stage::Penalties, Stage::MinP, Stage::Temperature];
    vec![
        base(),
        Sampling { temperature: 0.0, ..base() },
        Sampling { top_k: 40, top_p: 0.9, min_p: 0.05, ..base() },
        Sampling { typical_p: 0.8, ..base() },
        Sampling { top_n_sigma: 1.0, ..base() },
        Sampling { xtc, ..base() },
        Sampling { dry, ..base() },
        Sampling { mirostat: mirostat(MirostatVersion::V1), ..base() },
        Sampling { mirostat: mirostat(MirostatVersion::V2), ..base() },
        Sampling { adaptive: Some(Adaptive { target: 0.4, decay: 0.9 }), min_p: 0.02, ..base() },
        Sampling { temperature_range: 0.5, top_p: 0.9, ..base() },
        Sampling { repetition_penalty: 1.2, penalty_last_n: Some(16), ..base() },
        Sampling { presence_penalty: 0.5, frequency_penalty: 0.5, ..base() },
        Sampling { banned: vec![vec![30], vec![28, 216]], top_k: 50, min_keep: 2, ..base() },
        Sampling { order: Some(order), xtc, top_k: 60, repetition_penalty: 1.1, ..base() },
    ]
}

#[test]
fn every_sampler_is_the_same_alone_and_in_company() {
    let Some(gguf) = smollm2() else { return };
    let text = TextModel::from_gguf(gguf.metadata()).unwrap();
    let prompts = prompts(&text);
    let engine = engine(&gguf, EngineConfig::default());
    let samplers = samplers();
    let submit = |i: usize| {
        let request = Request {
            sampling: Sampling { seed: i as u64, ..samplers[i].clone() },
            max_tokens: 10,
            prediction: if i.is_multiple_of(3) { prompts[0].clone() } else { Vec::new() },
            ..drawn(&prompts[i % 2], 1)
        };
        engine.submit(request).unwrap()
    };
    let alone: Vec<_> = (0..samplers.len()).map(|i| answer(&submit(i)).0).collect();
    let jobs: Vec<Job> = (0..samplers.len()).map(submit).collect();
    for (i, job) in jobs.iter().enumerate() {
        assert!(answer(job).0 == alone[i], "{:?} differs in company", samplers[i]);
    }
    let different: std::collections::HashSet<_> =
        alone.iter().map(|one| format!("{one:?}")).collect();
    assert!(different.len() > samplers.len() / 2, "samplers do nothing");
}

#[test]
fn a_cached_prefix_changes_no_bit() {
    let Some(gguf) = smollm2() else { return };
    let text = TextModel::from_gguf(gguf.metadata()).unwrap();
    let engine = engine(&gguf, EngineConfig::default());
    for (i, prompt) in prompts(&text).iter().enumerate().skip(2) {
        let run = || answer(&engine.submit(drawn(prompt, i as u64)).unwrap());
        let ((miss, first), (hit, second)) = (run(), run());
        assert_eq!(first.usage.cached_tokens, 0);
        assert!(second.usage.cached_tokens >= 32, "{} cached", second.usage.cached_tokens);
        assert!(hit == miss, "prompt {i} differs with its prefix cached");
    }
}

/// Every sampler, and a grammar beside each second one, with and without guesses, alone and together.
fn assert_guesses_change_no_bit(gguf: &Gguf) {
    let text = TextModel::from_gguf(gguf.metadata()).unwrap();
    let plain = EngineConfig { max_draft_tokens: 0, ..EngineConfig::default() };
    let always =
        EngineConfig { max_draft_tokens: 6, drafts_always: true, ..EngineConfig::default() };
    let engines = [plain, always, EngineConfig::default()].map(|config| engine(gguf, config));
    let schema = json!({
        "type": "object",
        "properties": {
            "identification_number": {"type": "integer", "maximum": 999_999},
            "tags": {"type": "array", "items": {"enum": ["first", "second"]}, "maxItems": 2}},
        "required": ["identification_number", "tags"],
        "additionalProperties": false
    });
    let compiler = GrammarCompiler::new(Arc::clone(&text.tokenizer), 1 << 20).unwrap();
    let grammar = compiler.compile(&Grammar::JsonSchema(schema)).unwrap();
    let prompts = prompts(&text);
    let samplers = samplers();
    let submit = |engine: &Engine, i: usize| {
        let sampling = Sampling { seed: i as u64, ..samplers[i % samplers.len()].clone() };
        let constrained = i >= samplers.len();
        let request = Request {
            sampling,
            max_tokens: 48,
            logprobs: Some(2),
            constraint: constrained.then(|| grammar.constraint()),
            stop_tokens: text.tokenizer.eog().to_vec(),
            prediction: if i.is_multiple_of(3) { prompts[0].clone() } else { Vec::new() },
            ..request(prompts[i % 4].clone(), 48)
        };
        engine.submit(request).unwrap()
    };
    let all = 0..2 * samplers.len();
    let tokens: Vec<_> = all.clone().map(|i| answer(&submit(&engines[0], i)).0).collect();
    for engine in &engines[1..] {
        for i in all.clone().step_by(5) {
            assert!(answer(&submit(engine, i)).0 == tokens[i], "request {i} differs with guesses");
        }
        let jobs: Vec<Job> = all.clone().map(|i| submit(engine, i)).collect();
        for (i, job) in jobs.iter().enumerate() {
            assert!(answer(job).0 == tokens[i], "request {i} differs with guesses, in company");
        }
    }
    assert_eq!(engines[0].stats().draft_tokens, 0);
    let stats = engines[1].stats();
    assert!(stats.accepted_draft_tokens > 0, "no guess was ever right: {stats:?}");
    assert!(stats.draft_tokens > stats.accepted_draft_tokens, "none was wrong: {stats:?}");
}

#[test]
fn guessed_continuations_change_no_bit() {
    assert_guesses_change_no_bit(&Tiny::default().gguf());
    if let Some(gguf) = smollm2() {
        assert_guesses_change_no_bit(&gguf);
    }
}

#[test]
fn greedy_text_is_stable() {
    let Some(gguf) = smollm2() else { return };
    let text = TextModel::from_gguf(gguf.metadata()).unwrap();
    let engine = engine(&gguf, EngineConfig::default());
    let prompt = text.tokenizer.encode_prompt("The capital of France is");
    let job = engine.submit(request(prompt, 12)).unwrap();
    job.wait_blocking().unwrap();
    let said = text.tokenizer.decode(&job.result().tokens);
    assert!(said.starts_with(" Paris."), "{said:?}");
}

/// The first two layers in another type; what its blocks do not divide is Q8_0, as elsewhere.
fn requantised(gguf: &Gguf, ty: GgmlType) -> Gguf {
    let mut writer = Writer::with_metadata(gguf.metadata().clone());
    writer.set("llama.block_count", 2u32);
    let kept = |name: &str| match name.strip_prefix("blk.") {
        Some(rest) => rest.starts_with("0.") || rest.starts_with("1."),
        None => true,
    };
    for tensor in gguf.tensors().iter().filter(|tensor| kept(&tensor.name)) {
        let bytes = gguf.data(tensor).unwrap();
        if tensor.shape.len() < 2 {
            writer.tensor(&tensor.name, &tensor.shape, tensor.ty, bytes).unwrap();
            continue;
        }
        let width = *tensor.shape.last().unwrap();
        let to = if width.is_multiple_of(ty.block_len()) { ty } else { GgmlType::Q8_0 };
        let mut values = vec![0.0; tensor.num_elements()];
        dequantize(tensor.ty, &bytes, &mut values).unwrap();
        let mut out = Vec::new();
        quantize(to, &values, &mut out).unwrap();
        writer.tensor(&tensor.name, &tensor.shape, to, out).unwrap();
    }
    Gguf::from_bytes(writer.to_bytes()).unwrap()
}

#[test]
fn every_type_is_invariant() {
    let Some(gguf) = smollm2() else { return };
    let text = TextModel::from_gguf(gguf.metadata()).unwrap();
    let prompts = prompts(&text);
    let [tokens, first, second] = [4, 3, 2].map(|i| prompts[i].as_slice());
    for ty in [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2K,
        GgmlType::Q3K,
        GgmlType::Q4K,
        GgmlType::Q5K,
        GgmlType::Q6K,
        GgmlType::IQ4NL,
        GgmlType::IQ4XS,
        GgmlType::MXFP4,
    ] {
        let small = requantised(&gguf, ty);
        assert_invariant(&small, &tokens[..100], [&first[..70], &second[..33]], &[5, 33]);
    }
}
