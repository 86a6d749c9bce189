//! Speed of the matrix product: `cargo bench -p kolosal-kernels --bench linear -- [threads]
//! [type,..] [n x k,..]`, for instance `-- 2 Q4_0,Q6_K 4096x4096`.
//!
//! Prints, for 1, 8, 32 and 512 rows of activations, the best of several runs in GOP/s (two per
//! multiplication) and in GB/s of packed weights. With one row, matrices rotate through more
//! memory than the caches hold.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use kolosal_kernels::linear::{Acts, Packed, linear};
use kolosal_kernels::memory::Floats;
use kolosal_kernels::pool::Pool;
use kolosal_kernels::quant::{GgmlType, quantize};
use kolosal_kernels::{Rows, RowsMut, detect};

const TYPES: &str = "Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,IQ4_NL,IQ4_XS,MXFP4,F16";
const SHAPES: &str = "1536x576,4096x4096";
/// More than the caches of the machines we have met.
const COLD_BYTES: usize = 96 << 20;
const BUDGET: Duration = Duration::from_millis(400);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let threads = arg(0, "1").parse().expect("a number of threads");
    let pool = Pool::new(threads);
    println!("{} threads, {}", pool.threads(), detect::tier().name());
    println!("{:8} {:>10} {:>5} {:>9} {:>7} {:>6}", "type", "n x k", "rows", "us", "GOP/s", "GB/s");
    for ty in arg(1, TYPES).split(',') {
        let ty = GgmlType::from_name(ty).expect("a tensor type");
        for shape in arg(2, SHAPES).split(',') {
            let (n, k) = shape.split_once('x').expect("n x k");
            let (n, k) = (n.parse().expect("n"), k.parse().expect("k"));
            if ty.row_bytes(k).is_some() {
                bench(ty, n, k, &pool);
            }
        }
    }
}

fn bench(ty: GgmlType, n: usize, k: usize, pool: &Pool) {
    let mut state = 1u32;
    let mut values = |len: usize| -> Vec<f32> {
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    };
    let mut bytes = Vec::new();
    quantize(ty, &values(n * k), &mut bytes).expect("a type with a quantiser");
    let start = Instant::now();
    let mut weights = vec![Packed::pack(ty, n, k, &bytes, pool).expect("a matrix")];
    let pack_seconds = start.elapsed().as_secs_f64();
    let size = weights[0].bytes();
    while weights.len() * size < COLD_BYTES {
        weights.push(Packed::pack(ty, n, k, &bytes, pool).expect("a matrix"));
    }
    for m in [1, 8, 32, 512] {
        let x = values(m * k);
        let mut acts = Acts::for_weights(&weights);
        acts.set(Rows::new(&x, m, k), pool);
        let mut out = Floats::new(m * n);
        let mut turn = 0;
        let seconds = best(|| {
            let index = if m == 1 { turn % weights.len() } else { 0 };
            turn += 1;
            linear(&acts, &mut [(&weights[index], RowsMut::new(&mut out, m, n))], pool);
        });
        let gops = 2.0 * (m * n * k) as f64 / seconds / 1e9;
        let gbs = size as f64 / seconds / 1e9;
        let shape = format!("{n}x{k}");
        println!("{ty:8} {shape:>10} {m:5} {:9.1} {gops:7.0} {gbs:6.1}", seconds * 1e6);
    }
    let mut acts = Acts::for_weights(&weights);
    let x = values(512 * k);
    let one = best(|| acts.set(Rows::new(&x[..k], 1, k), pool));
    let many = best(|| acts.set(Rows::new(&x, 512, k), pool));
    println!(
        "{:8} pack {:.2} GB/s, quantise 1 row {:.2} us, 512 rows {:.1} us",
        "",
        bytes.len() as f64 / pack_seconds / 1e9,
        one * 1e6,
        many * 1e6
    );
}

/// Seconds of the fastest call.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < BUDGET {
        let call = Instant::now();
        f();
        best = best.min(call.elapsed().as_secs_f64());
    }
    best
}
