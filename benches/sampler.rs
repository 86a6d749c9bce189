//! What choosing a token costs, by the parameters of the choice and the size of the vocabulary.
//!
//! `cargo bench --bench sampler -- --vocabulary 32000,151936`
//!
//! One line of JSON a measurement: the median in microseconds on one thread, the whole way from a row
//! of logits to a token. The row is copied anew each time, which is measured by itself and taken off.
#![allow(clippy::print_stdout)]

mod common;

use std::hint::black_box;
use std::time::Duration;

use common::{Dice, Options, median, micros, print};
use kolosal_server::engine::sampler::{Sampler, Scratch};
use kolosal_server::engine::sampling::{Dry, Stage, Xtc};
use kolosal_server::engine::{Constraint, Request, Sampling};
use serde_json::json;

const BUDGET: Duration = Duration::from_millis(150);

/// Allows every third token.
#[derive(Debug)]
struct Thirds;

impl Constraint for Thirds {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        mask.fill(0x4924_9249);
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<(), String> {
        Ok(())
    }

    fn is_finished(&self) -> bool {
        false
    }
}

fn main() {
    let options = Options::read(&["vocabulary"]);
    for vocabulary in options.numbers("vocabulary", "32000,151936") {
        measure(vocabulary);
    }
}

/// Names and parameters; the last two fields are log-probabilities and a constraint.
fn cases() -> Vec<(&'static str, Sampling, Option<u32>, bool)> {
    let hot = || Sampling { temperature: 0.8, ..Sampling::default() };
    let usual = || Sampling { top_k: 40, top_p: 0.95, min_p: 0.05, ..hot() };
    let penalties = |sampling| Sampling {
        repetition_penalty: 1.1,
        frequency_penalty: 0.2,
        presence_penalty: 0.1,
        ..sampling
    };
    let dry = Dry { multiplier: 0.8, ..Dry::default() };
    let xtc = Xtc { probability: 0.5, threshold: 0.1 };
    let order = vec![Stage::TopK, Stage::TopP, Stage::MinP, Stage::Temperature];
    vec![
        ("greedy", Sampling { temperature: 0.0, ..Sampling::default() }, None, false),
        ("temperature", hot(), None, false),
        ("top-k 40", Sampling { top_k: 40, ..hot() }, None, false),
        ("top-p 0.95", Sampling { top_p: 0.95, ..hot() }, None, false),
        ("min-p 0.05", Sampling { min_p: 0.05, ..hot() }, None, false),
        ("top-k, top-p, min-p", usual(), None, false),
        ("and penalties", penalties(usual()), None, false),
        ("and penalties, mask", penalties(usual()), None, true),
        ("and penalties, mask, 5 log-probabilities", penalties(usual()), Some(5), true),
        ("greedy, mask", Sampling { temperature: 0.0, ..Sampling::default() }, None, true),
        ("dry", Sampling { dry, ..usual() }, None, false),
        ("xtc", Sampling { xtc, ..usual() }, None, false),
        ("in another order", Sampling { order: Some(order), ..usual() }, None, false),
        ("typical-p 0.9", Sampling { typical_p: 0.9, ..hot() }, None, false),
    ]
}

fn measure(vocabulary: usize) {
    let mut dice = Dice(7);
    // Tokens are as likely as words are, by Zipf's law with a steeper exponent, in no order.
    let mut logits: Vec<f32> = (1..=vocabulary).map(|rank| -1.3 * (rank as f32).ln()).collect();
    for i in (1..vocabulary).rev() {
        logits.swap(i, dice.below(i + 1));
    }
    let mut row = logits.clone();
    let copy = median(BUDGET, || {
        row.copy_from_slice(black_box(&logits));
        black_box(&mut row);
    });
    for (name, sampling, logprobs, constrained) in cases() {
        let constraint: Option<Box<dyn Constraint>> =
            if constrained { Some(Box::new(Thirds)) } else { None };
        let prompt = (0..256).map(|i| i * 37 % vocabulary as u32).collect();
        let mut request = Request { prompt, sampling, logprobs, constraint, ..Request::default() };
        let (mut sampler, mut scratch) = (Sampler::new(&mut request), Scratch::default());
        let time = median(BUDGET, || {
            row.copy_from_slice(&logits);
            black_box(sampler.sample(&mut row, &mut scratch)).expect("a token");
        });
        let us = micros(time.saturating_sub(copy));
        print(&json!({"bench": "sampler", "what": name, "vocabulary": vocabulary, "us": us}));
    }
}
