//! Where a step's time goes: `cargo bench -p kolosal-kernels --bench layer -- [threads]
//! [hidden,heads,kv heads,head dim,ffn,layers] [type] [sequences x rows @ positions,..]`, for
//! instance `-- 2 576,9,3,64,1536,30 Q4_0 1x512@0,1x1@128,16x1@128`.
//!
//! Runs the operations of a llama layer as the server's decoder does, on made-up weights, and prints
//! the median time of each over all layers, its share, and the GOP/s of matrix products.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use kolosal_kernels::attention::{
    AttnInput, AttnParams, AttnScratch, BLOCK, Kv, KvLayout, KvMut, KvPool, KvShape, SpanRef,
    attention, kv_write,
};
use kolosal_kernels::linear::{Acts, Packed, gated, linear};
use kolosal_kernels::memory::Floats;
use kolosal_kernels::pool::Pool;
use kolosal_kernels::quant::{GgmlType, quantize};
use kolosal_kernels::rope::{RopeHeads, RopeStyle, RopeTable, rope};
use kolosal_kernels::{Activation, Rows, RowsMut, detect, elementwise};

const SHAPE: &str = "576,9,3,64,1536,30";
const LOADS: &str = "1x512@0,1x1@128,8x1@128,16x1@128";
const BUDGET: Duration = Duration::from_secs(1);
const EPS: f32 = 1e-5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let pool = Pool::new(arg(0, "1").parse().expect("a number of threads"));
    let shape: Vec<usize> =
        arg(1, SHAPE).split(',').map(|number| number.parse().expect("a number")).collect();
    let [hidden, heads, kv_heads, head_dim, ffn, layers] = shape[..] else { panic!("six numbers") };
    let shape = Shape { hidden, heads, kv_heads, head_dim, ffn, layers };
    let ty = GgmlType::from_name(&arg(2, "Q4_0")).expect("a tensor type");
    println!("{} threads, {}", pool.threads(), detect::tier().name());
    let model = Model::new(shape, ty, &pool);
    for load in arg(3, LOADS).split(',') {
        let (sequences, rest) = load.split_once('x').expect("sequences x rows @ positions");
        let (rows, before) = rest.split_once('@').expect("rows @ positions");
        let number = |text: &str| text.parse::<usize>().expect("a number");
        let load =
            Load { sequences: number(sequences), rows: number(rows), before: number(before) };
        println!("\n{sequences} sequences of {rows} rows after {before} positions");
        load.run(&model, &pool);
    }
}

#[derive(Clone, Copy)]
struct Shape {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    layers: usize,
}

struct Layer {
    qkv: [Packed; 3],
    o: Packed,
    gate: Packed,
    up: Packed,
    down: Packed,
}

struct Model {
    shape: Shape,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    rope: RopeTable,
}

impl Model {
    fn new(shape: Shape, ty: GgmlType, pool: &Pool) -> Self {
        let Shape { hidden, heads, kv_heads, head_dim, ffn, .. } = shape;
        let matrix = |n: usize, k: usize| {
            let mut bytes = Vec::new();
            quantize(ty, &noise(n * k), &mut bytes).expect("a type with a quantiser");
            Packed::pack(ty, n, k, &bytes, pool).expect("a matrix")
        };
        let layer = |_| Layer {
            qkv: [heads, kv_heads, kv_heads].map(|heads| matrix(heads * head_dim, hidden)),
            o: matrix(hidden, heads * head_dim),
            gate: matrix(ffn, hidden),
            up: matrix(ffn, hidden),
            down: matrix(hidden, ffn),
        };
        let frequency = |i: usize| 1e4f64.powf(-2.0 * i as f64 / head_dim as f64);
        let mut rope = RopeTable::new((0..head_dim / 2).map(frequency).collect(), 1.0);
        rope.reserve(1 << 14).expect("memory");
        Self {
            shape,
            layers: (0..shape.layers).map(layer).collect(),
            norm: vec![1.0; hidden],
            rope,
        }
    }
}

/// Values between -0.5 and 0.5, always the same.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(next).collect()
}

struct Load {
    sequences: usize,
    rows: usize,
    before: usize,
}

/// Seconds by operation, in the order of their first use.
#[derive(Default)]
struct Clock(Vec<(&'static str, f64)>);

impl Clock {
    fn time<T>(&mut self, name: &'static str, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = run();
        let seconds = start.elapsed().as_secs_f64();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += seconds,
            None => self.0.push((name, seconds)),
        }
        out
    }
}

impl Load {
    fn run(&self, model: &Model, pool: &Pool) {
        let mut step = Step::new(self, model);
        let (start, mut clocks) = (Instant::now(), Vec::new());
        while start.elapsed() < BUDGET || clocks.len() < 3 {
            let mut clock = Clock::default();
            step.run(model, pool, &mut clock);
            clocks.push(clock.0);
        }
        let rows = self.sequences * self.rows;
        let median = |index: usize| {
            let mut times: Vec<f64> = clocks.iter().map(|clock| clock[index].1).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let total: f64 = (0..clocks[0].len()).map(median).sum();
        for (index, (name, _)) in clocks[0].iter().enumerate() {
            let seconds = median(index);
            let gops = match model.operations(name, rows) {
                0 => String::new(),
                operations => format!("{:7.0} GOP/s", operations as f64 / seconds / 1e9),
            };
            let (ms, share) = (seconds * 1e3, 100.0 * seconds / total);
            println!("{name:>10} {ms:9.3} ms {share:5.1} % {gops}");
        }
        let (ms, rate) = (total * 1e3, rows as f64 / total);
        println!("{:>10} {ms:9.3} ms {rate:9.0} rows a second, without the head", "all");
    }
}

impl Model {
    /// Of the matrix products under this name.
    fn operations(&self, name: &str, rows: usize) -> usize {
        let count = |matrices: &[&Packed]| matrices.iter().map(|m| m.n() * m.k()).sum::<usize>();
        let layer = |layer: &Layer| match name {
            "qkv" => count(&layer.qkv.each_ref()),
            "o" => count(&[&layer.o]),
            "gate+up" => count(&[&layer.gate, &layer.up]),
            "down" => count(&[&layer.down]),
            _ => 0,
        };
        2 * rows * self.layers.iter().map(layer).sum::<usize>()
    }
}

/// Buffers of a step.
struct Step {
    rows: usize,
    kv_len: usize,
    /// Blocks of each sequence.
    blocks: Vec<Vec<u32>>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    layouts: Vec<KvLayout>,
    cache: KvPool,
    scratch: AttnScratch,
    acts: Acts,
    hidden_acts: Acts,
    x: Floats,
    q: Floats,
    k: Floats,
    v: Floats,
    mixed: Floats,
    out: Floats,
}

impl Step {
    fn new(load: &Load, model: &Model) -> Self {
        let Shape { hidden, heads, kv_heads, head_dim, layers, .. } = model.shape;
        let (rows, kv_len) = (load.sequences * load.rows, load.before + load.rows);
        let per_sequence = kv_len.div_ceil(BLOCK);
        let shape = KvShape { kv_heads, head_dim_k: head_dim, head_dim_v: head_dim };
        let layouts = KvLayout::of_layers(std::iter::repeat_n(shape, layers));
        let block = |sequence: usize, i: usize| (i * load.sequences + sequence) as u32;
        let blocks: Vec<Vec<u32>> = (0..load.sequences)
            .map(|sequence| (0..per_sequence).map(|i| block(sequence, i)).collect())
            .collect();
        let positions: Vec<u32> = (0..load.sequences)
            .flat_map(|_| (load.before..kv_len).map(|position| position as u32))
            .collect();
        let slot = |(row, &position): (usize, &u32)| {
            let (block, inside) = (position as usize / BLOCK, position as usize % BLOCK);
            blocks[row / load.rows][block] * BLOCK as u32 + inside as u32
        };
        let slots = positions.iter().enumerate().map(slot).collect();
        let floats = |cols: usize| Floats::new(rows * cols);
        Self {
            rows,
            kv_len,
            positions,
            slots,
            cache: KvPool::whole(layouts[0].block_len, per_sequence * load.sequences)
                .expect("memory"),
            blocks,
            layouts,
            scratch: AttnScratch::new(),
            acts: Acts::for_quantised(),
            hidden_acts: Acts::for_quantised(),
            x: Floats::from(noise(rows * hidden)),
            q: floats(heads * head_dim),
            k: floats(kv_heads * head_dim),
            v: floats(kv_heads * head_dim),
            mixed: floats(heads * head_dim),
            out: floats(hidden),
        }
    }

    fn run(&mut self, model: &Model, pool: &Pool, clock: &mut Clock) {
        let Shape { hidden, .. } = model.shape;
        let rows = self.rows;
        for (index, layer) in model.layers.iter().enumerate() {
            self.attention(model, (index, layer), pool, clock);
            let Self { acts, hidden_acts, x, out, .. } = self;
            clock.time("add", || elementwise::add_scaled(x, out, 0.01, pool));
            let input = Rows::new(x, rows, hidden);
            clock.time("norm", || acts.set_rms_norm(input, &model.norm, EPS, pool));
            let weights = [&layer.gate, &layer.up];
            clock.time("gate+up", || {
                assert!(gated(acts, weights, Activation::Silu, hidden_acts, pool), "whole blocks");
            });
            clock.time("down", || {
                linear(hidden_acts, &mut [(&layer.down, RowsMut::new(out, rows, hidden))], pool);
            });
            clock.time("add", || elementwise::add_scaled(x, out, 0.01, pool));
        }
    }

    /// The first half of a layer, into `out`.
    fn attention(&mut self, model: &Model, at: (usize, &Layer), pool: &Pool, clock: &mut Clock) {
        let Shape { hidden, heads, kv_heads, head_dim, .. } = model.shape;
        let (rows, kv_len, layer) = (self.rows, self.kv_len, at.1);
        let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
        let Self { acts, x, q, k, v, mixed, out, cache, scratch, .. } = self;
        clock
            .time("norm", || acts.set_rms_norm(Rows::new(x, rows, hidden), &model.norm, EPS, pool));
        clock.time("qkv", || {
            let group = [(&mut *q, wide), (&mut *k, narrow), (&mut *v, narrow)];
            let mut group: Vec<_> = layer
                .qkv
                .iter()
                .zip(group)
                .map(|(weights, (out, cols))| (weights, RowsMut::new(out, rows, cols)))
                .collect();
            linear(acts, &mut group, pool);
        });
        clock.time("rope", || {
            for (out, heads) in [(&mut *q, heads), (&mut *k, kv_heads)] {
                let shape = RopeHeads { heads, head_dim, offset: 0, style: RopeStyle::Neox };
                let out = RowsMut::new(out, rows, heads * head_dim);
                rope(out, &shape, &model.rope, &self.positions, pool);
            }
        });
        let layout = self.layouts[at.0];
        clock.time("kv write", || {
            let (k, v) = (Rows::new(k, rows, narrow), Rows::new(v, rows, narrow));
            kv_write(KvMut { layout, cache }, k, v, &self.slots, pool);
        });
        clock.time("attention", || {
            let per_sequence = rows / self.blocks.len();
            let spans: Vec<SpanRef<'_>> = self
                .blocks
                .iter()
                .enumerate()
                .map(|(i, blocks)| SpanRef {
                    rows: i * per_sequence..(i + 1) * per_sequence,
                    kv_len,
                    blocks,
                })
                .collect();
            let params = AttnParams {
                heads,
                scale: (head_dim as f32).powf(-0.5),
                causal: true,
                window: None,
                softcap: None,
                sinks: None,
                slopes: None,
                chunk: None,
            };
            let (kv, q) = (Kv { layout, cache }, Rows::new(q, rows, wide));
            let input = AttnInput { q, kv, spans: &spans, params };
            attention(&input, RowsMut::new(mixed, rows, wide), scratch, pool).expect("memory");
        });
        clock.time("quantise", || acts.set(Rows::new(mixed, rows, wide), pool));
        clock.time("o", || {
            linear(acts, &mut [(&layer.o, RowsMut::new(out, rows, hidden))], pool);
        });
    }
}
