//! Speed of attention while sequences generate: `cargo bench -p kolosal-kernels --bench attention --
//! [threads] [kv heads,query heads,head dim,layers] [sequences x positions,..]`, for instance
//! `-- 2 3,9,64,30 8x128,16x1024`.
//!
//! Prints the best and the median time of a step's attention over all layers, and the bytes of KV
//! that it read a second. Blocks of the sequences lie scattered over the pool, as they do in a
//! server that has run for a while.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use kolosal_kernels::attention::{
    AttnInput, AttnParams, AttnScratch, BLOCK, Kv, KvLayout, KvMut, KvPool, KvShape, SpanRef,
    attention, kv_write,
};
use kolosal_kernels::memory::Floats;
use kolosal_kernels::pool::Pool;
use kolosal_kernels::{Rows, RowsMut, detect};

const SHAPE: &str = "3,9,64,30";
const LOADS: &str = "1x128,1x1024,4x128,8x128,16x128,16x1024";
const BUDGET: Duration = Duration::from_millis(500);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let pool = Pool::new(arg(0, "1").parse().expect("a number of threads"));
    let numbers = |text: &str, separator: char| -> Vec<usize> {
        text.split(separator).map(|number| number.parse().expect("a number")).collect()
    };
    let shape = numbers(&arg(1, SHAPE), ',');
    let [kv_heads, heads, head_dim, num_layers] = shape[..] else { panic!("four numbers") };
    let shape = KvShape { kv_heads, head_dim_k: head_dim, head_dim_v: head_dim };
    println!("{} threads, {}", pool.threads(), detect::tier().name());
    println!("{:>10} {:>9} {:>9} {:>6}", "load", "best us", "median", "GB/s");
    for load in arg(2, LOADS).split(',') {
        let [sequences, positions] = numbers(load, 'x')[..] else {
            panic!("sequences x positions")
        };
        let bench = Bench { shape, heads, num_layers, sequences, positions };
        let (best, median) = bench.run(&pool);
        let bytes = 2 * num_layers * sequences * positions * kv_heads * 2 * head_dim;
        let gbs = bytes as f64 / best / 1e9;
        println!("{load:>10} {:9.1} {:9.1} {gbs:6.1}", best * 1e6, median * 1e6);
    }
}

struct Bench {
    shape: KvShape,
    heads: usize,
    num_layers: usize,
    sequences: usize,
    positions: usize,
}

impl Bench {
    /// Best and median seconds of one row for every sequence in all layers.
    fn run(&self, pool: &Pool) -> (f64, f64) {
        let Bench { shape, heads, num_layers, sequences, positions } = *self;
        let per_sequence = positions.div_ceil(BLOCK);
        let num_blocks = per_sequence * sequences;
        let layouts = KvLayout::of_layers(std::iter::repeat_n(shape, num_layers));
        let mut cache = KvPool::whole(layouts[0].block_len, num_blocks).expect("memory");
        let order = scattered(num_blocks);
        let blocks: Vec<&[u32]> = order.chunks(per_sequence).collect();
        let q = Floats::from(vec![0.25; sequences * heads * shape.head_dim_k]);
        let cols = shape.kv_heads * shape.head_dim_k;
        let values = Floats::from(vec![0.5; positions * cols]);
        let rows = Rows::new(&values, positions, cols);
        for blocks in &blocks {
            let slot = |p: usize| blocks[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32;
            let slots: Vec<u32> = (0..positions).map(slot).collect();
            for &layout in &layouts {
                kv_write(KvMut { layout, cache: &mut cache }, rows, rows, &slots, pool);
            }
        }
        let spans: Vec<SpanRef<'_>> = blocks
            .iter()
            .enumerate()
            .map(|(row, blocks)| SpanRef { rows: row..row + 1, kv_len: positions, blocks })
            .collect();
        let params = AttnParams {
            heads,
            scale: 0.125,
            causal: true,
            window: None,
            chunk: None,
            slopes: None,
            softcap: None,
            sinks: None,
        };
        let mut out = Floats::new(sequences * heads * shape.head_dim_v);
        let mut scratch = AttnScratch::new();
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < BUDGET {
            let step = Instant::now();
            for &layout in &layouts {
                let kv = Kv { layout, cache: &cache };
                let q = Rows::new(&q, sequences, heads * shape.head_dim_k);
                let out = RowsMut::new(&mut out, sequences, heads * shape.head_dim_v);
                attention(&AttnInput { q, kv, spans: &spans, params }, out, &mut scratch, pool)
                    .expect("memory");
            }
            times.push(step.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        (times[0], times[times.len() / 2])
    }
}

/// `0..count` in an order that looks random and is always the same.
fn scattered(count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    let mut state = 1u64;
    for i in (1..count).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}
