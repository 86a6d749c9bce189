//! The runner's step by the shape of its batch.
//!
//! `cargo bench --bench step -- --model FILE --depth 128 --threads 2`
//!
//! One line of JSON a shape, with the median time of a step in microseconds: sequences that decode,
//! one that decodes with guessed tokens behind it, chunks of a prompt, and both side by side. Without
//! a model a tiny one is made.
#![allow(clippy::print_stdout)]

mod common;

use std::time::Duration;

use common::{Dice, Options, median, micros, print, push, runner};
use kolosal_server::model::{BLOCK, Batch, Runner};
use serde_json::json;

const BUDGET: Duration = Duration::from_millis(400);

/// What a step computes.
struct Shape {
    name: &'static str,
    /// Sequences that decode, and the rows of each.
    sequences: usize,
    rows_each: usize,
    /// Rows of a prompt beside them.
    chunk: usize,
}

fn main() {
    let options = Options::read(&["model", "depth", "threads"]);
    let (name, gguf) = options.model();
    let (depth, threads) = (options.number("depth", 128), options.number("threads", 0));
    let shape = |name, sequences, rows_each, chunk| Shape { name, sequences, rows_each, chunk };
    let mut shapes = Vec::new();
    shapes.extend([1, 2, 4, 8, 16, 32].map(|n| shape("decode", n, 1, 0)));
    shapes.extend([2, 3, 4, 5, 6, 8, 12, 16].map(|rows| shape("drafts", 1, rows, 0)));
    shapes.extend([2, 4].map(|rows| shape("drafts", 8, rows, 0)));
    shapes.extend([16, 64, 256, 512].map(|rows| shape("prompt", 0, 0, rows)));
    shapes.extend([64, 256].map(|rows| shape("mixed", 8, 1, rows)));
    let widest = shapes.iter().map(|shape| shape.sequences).max().unwrap_or(1) + 1;
    let mut runner = runner(&gguf, widest, depth + 512 + BLOCK, threads);
    for shape in shapes {
        let batch = batch(&shape, depth, runner.spec().vocab_size);
        fill(runner.as_mut(), &batch);
        let time = median(BUDGET, || {
            let logits = runner.forward(&batch).expect("a step");
            runner.recycle(logits);
        });
        let tokens = batch.len() as f64;
        print(&json!({
            "bench": "step", "model": name, "shape": shape.name, "sequences": shape.sequences,
            "rows": batch.len(), "chunk": shape.chunk, "depth": depth,
            "us": micros(time), "rows_s": (tokens / time.as_secs_f64()).round(),
        }));
    }
}

fn batch(shape: &Shape, depth: usize, vocab_size: usize) -> Batch {
    let (mut batch, mut dice) = (Batch::default(), Dice(1));
    let blocks_each = (depth + 512).div_ceil(BLOCK);
    let mut tokens =
        |count| (0..count).map(|_| dice.below(vocab_size) as u32).collect::<Vec<u32>>();
    for sequence in 0..shape.sequences {
        let rows = shape.rows_each;
        push(&mut batch, sequence * blocks_each, depth, &tokens(rows), rows);
    }
    if shape.chunk > 0 {
        push(&mut batch, shape.sequences * blocks_each, 0, &tokens(shape.chunk), 1);
    }
    batch
}

/// Writes KV where the batch expects it: attention over what was never written may be slower.
fn fill(runner: &mut dyn Runner, batch: &Batch) {
    for span in &batch.spans {
        let start = span.kv_len as usize - span.rows.len();
        let tokens: Vec<u32> = (0..start as u32).map(|i| i % 50).collect();
        for (index, chunk) in tokens.chunks(256).enumerate() {
            let mut before = Batch::default();
            push(&mut before, span.blocks[0] as usize, index * 256, chunk, 1);
            let logits = runner.forward(&before).expect("a step");
            runner.recycle(logits);
        }
    }
}
