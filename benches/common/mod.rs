//! What the benches share: options, a model, batches by hand, medians, lines of JSON.
#![allow(dead_code, unreachable_pub, reason = "no bench needs all of it")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends where it fails")]

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use kolosal_server::model::gguf::{Access, Gguf};
use kolosal_server::model::{
    BLOCK, Batch, Runner, RunnerOptions, Span, SpanState, load_runner, open,
};
use serde_json::Value;

#[path = "../../tests/it/tiny.rs"]
mod tiny;

/// `--name value` pairs of the command line.
pub struct Options(HashMap<String, String>);

impl Options {
    /// Ends the program with the list of options when one is not among `known`.
    pub fn read(known: &[&str]) -> Self {
        let mut given = HashMap::new();
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let name = name.trim_start_matches("--").to_owned();
            let value = args.next();
            let (true, Some(value)) = (known.contains(&name.as_str()), value) else {
                for name in known {
                    println!("--{name} VALUE");
                }
                std::process::exit(if name == "help" { 0 } else { 2 });
            };
            given.insert(name, value);
        }
        Self(given)
    }

    pub fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).map_or(default, String::as_str).to_owned()
    }

    pub fn numbers(&self, name: &str, default: &str) -> Vec<usize> {
        let text = self.text(name, default);
        text.split(',').map(|number| number.trim().parse().expect("a number")).collect()
    }

    pub fn number(&self, name: &str, default: usize) -> usize {
        self.numbers(name, &default.to_string())[0]
    }

    /// The model named by `--model`, or a tiny one, and its name.
    pub fn model(&self) -> (String, Gguf) {
        match self.0.get("model") {
            Some(path) => {
                let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
                (name.into_owned(), open(Path::new(path), Access::OnDemand).expect("a model"))
            }
            None => {
                let tiny = tiny::Tiny { context: 4096, ..tiny::Tiny::default() };
                ("tiny".to_owned(), tiny.gguf())
            }
        }
    }
}

/// A runner for `sequences` of up to `positions` each.
pub fn runner(gguf: &Gguf, sequences: usize, positions: usize, threads: usize) -> Box<dyn Runner> {
    let options = RunnerOptions {
        threads,
        n_ctx: positions,
        n_parallel: sequences,
        max_kv_bytes: usize::MAX,
        ..RunnerOptions::default()
    };
    load_runner(gguf, &options).expect("the model loads")
}

/// Adds the rows of one sequence, which owns the blocks from `first_block` on, to a batch. Logits of
/// the last `num_logits` rows are wanted.
pub fn push(
    batch: &mut Batch,
    first_block: usize,
    start: usize,
    tokens: &[u32],
    num_logits: usize,
) {
    let first_row = batch.len() as u32;
    for (offset, &token) in tokens.iter().enumerate() {
        batch.tokens.push(token);
        batch.positions.push((start + offset) as u32);
        batch.slots.push((first_block * BLOCK + start + offset) as u32);
    }
    let (rows, kv_len) = (first_row..batch.len() as u32, start + tokens.len());
    batch.logit_rows.extend(rows.end - num_logits as u32..rows.end);
    let blocks = (first_block..).take(kv_len.div_ceil(BLOCK)).map(|block| block as u32).collect();
    // Sequences come in the same order in every batch.
    let page = batch.spans.len() as u32;
    let state = SpanState { from: (start > 0).then_some(page), to: page, saves: Vec::new() };
    batch.spans.push(Span { rows, kv_len: kv_len as u32, blocks, state: Some(state) });
}

/// Always the same numbers.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

/// The time of one call: the median of as many as fit into `budget`, at least three.
pub fn median(budget: Duration, mut call: impl FnMut()) -> Duration {
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed() < budget {
        let begin = Instant::now();
        call();
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

pub fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e8).round() / 100.0
}

/// Prints a result as one line.
pub fn print(line: &Value) {
    println!("{line}");
}
