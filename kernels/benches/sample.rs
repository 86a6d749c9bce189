//! Speed of the passes over a row of logits: `cargo bench -p kolosal-kernels --bench sample --
//! [vocabulary]`. Prints the best of several runs in microseconds, on one thread.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use kolosal_kernels::detect;
use kolosal_kernels::sample::{position, scan, sum_exp, top};

/// Of the Qwen models.
const VOCABULARY: usize = 151_936;
const BUDGET: Duration = Duration::from_millis(200);

fn main() {
    let argument = std::env::args().skip(1).find(|arg| arg != "--bench");
    let len = argument.map_or(VOCABULARY, |text| text.parse().expect("a number of tokens"));
    let mut state = 1u32;
    let logits: Vec<f32> = (0..len)
        .map(|_| {
            // A sum of uniform numbers is near a normal distribution, as logits are.
            let mut next = || {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            };
            (0..6).map(|_| next()).sum::<f32>() * 4.0
        })
        .collect();
    let max = scan(&logits).max;
    let mut out = Vec::new();
    println!("{len} logits, {}", detect::tier().name());
    report("largest logit, and whether all are numbers", || scan(black_box(&logits)).max);
    report("greedy choice", || position(&logits, scan(black_box(&logits)).max));
    report("top 40", || {
        top(black_box(&logits), 40, &mut out);
        out.len()
    });
    report("sum of exponentials", || sum_exp(black_box(&logits), max, 1.0));
    report("all that top-k 40 with top-p takes", || {
        let max = scan(black_box(&logits)).max;
        top(&logits, 40, &mut out);
        max + out.iter().map(|candidate| (candidate.value - max).exp()).sum::<f32>()
    });
}

/// Prints the time of the fastest call.
fn report<T>(name: &str, mut f: impl FnMut() -> T) {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < BUDGET {
        let call = Instant::now();
        black_box(f());
        best = best.min(call.elapsed().as_secs_f64());
    }
    println!("{name:45} {:8.1} us", best * 1e6);
}
