//! LFM 2 through candle-transformers: one sequence at a time, and each right.

use std::path::Path;

use kolosal_server::engine::{Engine, EngineConfig, Sampling};
use kolosal_server::model::gguf::Gguf;
use kolosal_server::model::{BLOCK, Batch, DeviceChoice, Runner, RunnerOptions, Span, load_runner};

use crate::engine::request;
use crate::parity::fixture;

fn open() -> Gguf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/lfm2.gguf");
    Gguf::open(&path).unwrap()
}

fn runner() -> Box<dyn Runner> {
    let options = RunnerOptions { device: DeviceChoice::Cpu, ..RunnerOptions::default() };
    load_runner(&open(), &options).unwrap()
}

/// Rows `from..to` of a sequence that lies in blocks from `block` on; logits of the last row.
fn rows(runner: &mut dyn Runner, tokens: &[u32], from: usize, to: usize, block: u32) -> Vec<f32> {
    let blocks: Vec<u32> = (0..to.div_ceil(BLOCK) as u32).map(|i| block + i).collect();
    let slot = |at: usize| blocks[at / BLOCK] * BLOCK as u32 + (at % BLOCK) as u32;
    let batch = Batch {
        tokens: tokens[from..to].to_vec(),
        positions: (from as u32..to as u32).collect(),
        slots: (from..to).map(slot).collect(),
        spans: vec![Span {
            rows: 0..(to - from) as u32,
            kv_len: to as u32,
            blocks: blocks.clone(),
        }],
        logit_rows: vec![(to - from) as u32 - 1],
        ..Batch::default()
    };
    runner.forward(&batch).unwrap().row(0).to_vec()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0f32, |max, x| max.max(x.abs()));
    a.iter().zip(b).fold(0f32, |max, (x, y)| max.max((x - y).abs())) / largest
}

#[test]
fn whatever_the_model_read_before_a_sequence_is_read_right() {
    let (_, tokens, expected) = fixture("lfm2");
    let runner = &mut *runner();
    assert!(runner.spec().one_at_a_time && runner.spec().writes());
    let other: Vec<u32> = tokens.iter().rev().copied().collect();
    // (sequence, from, to): in one piece, in chunks, going on, from the start again, a single token.
    let steps = [
        (0, 0, 5),
        (0, 5, 6),
        (1, 0, 9),
        (0, 6, 7),
        (0, 7, 30),
        (1, 9, 10),
        (2, 0, 1),
        (2, 1, 2),
        (0, 30, tokens.len()),
        (2, 2, 40),
    ];
    for (sequence, from, to) in steps {
        let (of, block) = match sequence {
            0 => (&tokens, 0),
            1 => (&other, 4),
            _ => (&tokens, 5),
        };
        let logits = rows(runner, of, from, to, block);
        if sequence != 1 {
            let distance = distance(&logits, &expected[to - 1]);
            assert!(distance < 2e-3, "{sequence}, {from} to {to}: {distance}");
        }
    }
}

#[test]
fn requests_take_turns() {
    let (_, tokens, _) = fixture("lfm2");
    let engine = Engine::start(runner(), EngineConfig::default()).unwrap();
    let greedy = |from: usize| kolosal_server::engine::Request {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ..request(tokens[from..from + 6].to_vec(), 5)
    };
    let alone: Vec<Vec<u32>> = (0..4)
        .map(|from| {
            let job = engine.submit(greedy(from)).unwrap();
            job.wait_blocking().unwrap();
            job.result().tokens
        })
        .collect();
    assert!(alone.iter().all(|tokens| tokens.len() == 5));
    let jobs: Vec<_> = (0..4).map(|from| engine.submit(greedy(from)).unwrap()).collect();
    for (job, expected) in jobs.iter().zip(alone) {
        job.wait_blocking().unwrap();
        assert_eq!(job.result().tokens, expected);
    }
}
