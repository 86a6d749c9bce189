//! Everything between the products: attention, norms, rotary embedding, element-wise functions.

use kolosal_kernels::attention::{
    AttnInput, AttnParams, AttnScratch, BLOCK, Kv, KvLayout, KvMut, KvPool, KvShape, SpanRef,
    attention, kv_write,
};
use kolosal_kernels::pool::Pool;
use kolosal_kernels::rope::{RopeHeads, RopeStyle, RopeTable, rope};
use kolosal_kernels::{Activation, Rows, RowsMut, elementwise, norm};

use super::Test;
use super::oracle::{Findings, Random};

/// Query heads of the attention under test.
const HEADS: usize = 6;
const SHAPE: KvShape = KvShape { kv_heads: 2, head_dim_k: 40, head_dim_v: 24 };
/// Positions in the cache and new rows of each sequence.
const SPANS: [(usize, usize); 4] = [(37, 37), (301, 1), (61, 20), (1, 1)];

/// Rows and columns of the other kernels.
const ROWS: usize = 5;
const COLUMNS: [usize; 3] = [16, 67, 200];

/// What attention is asked for beside the plain form.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    causal: bool,
    window: Option<usize>,
    slopes: bool,
    softcap: Option<f32>,
    sinks: bool,
}

const PLAIN: Variant = Variant {
    name: "attention",
    causal: true,
    window: None,
    slopes: false,
    softcap: None,
    sinks: false,
};

pub(super) fn tests() -> Vec<Test> {
    let variants = [
        PLAIN,
        Variant { name: "attention window", window: Some(50), ..PLAIN },
        Variant { name: "attention softcap", softcap: Some(3.0), ..PLAIN },
        Variant { name: "attention sinks", sinks: true, ..PLAIN },
        Variant { name: "attention both ways", causal: false, ..PLAIN },
        Variant { name: "attention with linear biases", slopes: true, ..PLAIN },
    ];
    let attention = variants.map(|variant| test(variant.name, 4e-6, move |p| attend(variant, p)));
    let ropes = [("rope norm", RopeStyle::Norm), ("rope neox", RopeStyle::Neox)]
        .map(|(name, style)| test(name, 1e-6, move |pool| turn(style, pool)));
    let activations = [
        ("silu", Activation::Silu, silu as fn(f64) -> f64),
        ("gelu", Activation::Gelu, gelu),
        ("gelu by erf", Activation::GeluErf, gelu_erf),
        ("relu", Activation::Relu, |x| x.max(0.0)),
        ("relu2", Activation::Relu2, |x| x.max(0.0) * x.max(0.0)),
    ]
    .map(|(name, activation, formula)| {
        test(name, 2e-6, move |pool| activate(activation, formula, pool))
    });
    let others = [
        test("sigmoid", 4e-7, sigmoid),
        test("rms norm", 2e-6, |pool| each_width(|cols| rms_norm(cols, pool))),
        test("rms norm of heads", 2e-6, rms_norm_heads),
        test("layer norm", 4e-6, |pool| each_width(|cols| layer_norm(cols, pool))),
        test("add scaled", 1e-7, |pool| each_width(|cols| add_scaled(cols, pool))),
        test("add bias", 1e-7, |pool| each_width(|cols| add_bias(cols, pool))),
        test("scale", 1e-7, |pool| each_width(|cols| scale(cols, pool))),
        test("softcap", 2e-6, |pool| each_width(|cols| softcap(cols, pool))),
        test("gated silu", 2e-6, |pool| each_width(|cols| glu(cols, pool))),
    ];
    attention.into_iter().chain(ropes).chain(activations).chain(others).collect()
}

fn test(name: &str, limit: f64, run: impl Fn(&Pool) -> Findings + 'static) -> Test {
    Test { name: name.to_owned(), limit, run: Box::new(run) }
}

fn each_width(run: impl Fn(usize) -> Findings) -> Findings {
    COLUMNS.into_iter().map(run).fold(Findings::default(), Findings::join)
}

/// One sequence's queries, keys and values, by position.
struct Sequence {
    q: Vec<f32>, // (kv_len, HEADS * head_dim_k)
    k: Vec<f32>, // (kv_len, kv_heads * head_dim_k)
    v: Vec<f32>, // (kv_len, kv_heads * head_dim_v)
    blocks: Vec<u32>,
}

fn attend(variant: Variant, pool: &Pool) -> Findings {
    let (q_cols, k_cols) = (HEADS * SHAPE.head_dim_k, SHAPE.kv_heads * SHAPE.head_dim_k);
    let (v_cols, out_cols) = (SHAPE.kv_heads * SHAPE.head_dim_v, HEADS * SHAPE.head_dim_v);
    let mut random = Random::new(7);
    let num_blocks: usize = SPANS.iter().map(|(kv_len, _)| kv_len.div_ceil(BLOCK)).sum();
    // The last block first, so that a sequence's blocks do not lie in order.
    let mut free = (0..num_blocks as u32).rev();
    let sequences = SPANS.map(|(kv_len, _)| Sequence {
        q: random.values(kv_len * q_cols),
        k: random.values(kv_len * k_cols),
        v: random.values(kv_len * v_cols),
        blocks: free.by_ref().take(kv_len.div_ceil(BLOCK)).collect(),
    });
    let sinks = random.values(HEADS);
    let slopes: Vec<f32> = (0..HEADS).map(|head| 0.4 / (head + 1) as f32).collect();
    let layout = KvLayout::of_layers([SHAPE])[0];
    let mut cache = KvPool::whole(layout.block_len, num_blocks).expect("a small cache fits");
    cache.fill(0x7e00);
    let (mut q, mut spans) = (Vec::new(), Vec::new());
    for (sequence, (kv_len, rows)) in sequences.iter().zip(SPANS) {
        let slot = |p: usize| sequence.blocks[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32;
        let slots: Vec<u32> = (0..kv_len).map(slot).collect();
        let kv = KvMut { layout, cache: &mut cache };
        let keys = Rows::new(&sequence.k, kv_len, k_cols);
        kv_write(kv, keys, Rows::new(&sequence.v, kv_len, v_cols), &slots, pool);
        let first = q.len() / q_cols;
        q.extend_from_slice(&sequence.q[(kv_len - rows) * q_cols..]);
        spans.push(SpanRef { rows: first..first + rows, kv_len, blocks: &sequence.blocks });
    }
    let params = AttnParams {
        heads: HEADS,
        scale: 1.0 / (SHAPE.head_dim_k as f32).sqrt(),
        causal: variant.causal,
        window: variant.window,
        chunk: None,
        slopes: variant.slopes.then_some(&slopes[..]),
        softcap: variant.softcap,
        sinks: variant.sinks.then_some(&sinks[..]),
    };
    let rows = q.len() / q_cols;
    let kv = Kv { layout, cache: &cache };
    let input = AttnInput { q: Rows::new(&q, rows, q_cols), kv, spans: &spans, params };
    let mut out = vec![f32::NAN; rows * out_cols];
    attention(&input, RowsMut::new(&mut out, rows, out_cols), &mut AttnScratch::new(), pool)
        .expect("a small result fits");
    let mut wanted = Vec::with_capacity(out.len());
    for (sequence, (kv_len, rows)) in sequences.iter().zip(SPANS) {
        for position in kv_len - rows..kv_len {
            for head in 0..HEADS {
                wanted.extend(attend_exactly(&params, sequence, kv_len, position, head));
            }
        }
    }
    Findings::compare(&out, &wanted)
}

/// One head of one row, by the definition. Values are below 2, so errors are measured in 1.
fn attend_exactly(
    params: &AttnParams<'_>,
    sequence: &Sequence,
    kv_len: usize,
    position: usize,
    head: usize,
) -> Vec<(f64, f64)> {
    let KvShape { kv_heads, head_dim_k: dk, head_dim_v: dv } = SHAPE;
    let kv_head = head / (HEADS / kv_heads);
    let q = &sequence.q[(position * HEADS + head) * dk..][..dk];
    let is_visible = |key: &usize| {
        let is_near = params.window.is_none_or(|window| position.abs_diff(*key) < window);
        is_near && (*key <= position || !params.causal)
    };
    let weight = |key: usize| {
        let k = &sequence.k[(key * kv_heads + kv_head) * dk..][..dk];
        let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
        let score = dot * f64::from(params.scale);
        let cap = params.softcap.map(f64::from);
        let slope = params.slopes.map_or(0.0, |slopes| f64::from(slopes[head]));
        let bias = slope * position.abs_diff(key) as f64;
        (key, (cap.map_or(score, |cap| cap * (score / cap).tanh()) - bias).exp())
    };
    let weights: Vec<(usize, f64)> = (0..kv_len).filter(is_visible).map(weight).collect();
    let sink = params.sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
    let sum = weights.iter().map(|(_, weight)| weight).sum::<f64>() + sink;
    let value = |key: usize, i: usize| f64::from(sequence.v[(key * kv_heads + kv_head) * dv + i]);
    let mixed = |i| weights.iter().map(|(key, weight)| weight / sum * value(*key, i)).sum::<f64>();
    (0..dv).map(|i| (mixed(i), 1.0)).collect()
}

fn turn(style: RopeStyle, pool: &Pool) -> Findings {
    let (heads, head_dim, num_pairs) = (3, 24, 8);
    let positions = [0, 1, 77, 1000, 4095];
    let frequencies: Vec<f64> =
        (0..num_pairs).map(|i| 10_000_f64.powf(-f64::from(i) / f64::from(num_pairs))).collect();
    let mut table = RopeTable::new(frequencies.clone(), 1.0);
    table.reserve(4096).expect("a small table fits");
    let x = Random::new(3).values(positions.len() * heads * head_dim);
    let mut out = x.clone();
    let shape = RopeHeads { heads, head_dim, offset: 0, style };
    let rows = RowsMut::new(&mut out, positions.len(), heads * head_dim);
    rope(rows, &shape, &table, &positions, pool);
    let mut wanted: Vec<(f64, f64)> = x.iter().map(|x| (f64::from(*x), 1.0)).collect();
    for (row, position) in positions.iter().enumerate() {
        for head in 0..heads {
            for (pair, frequency) in frequencies.iter().enumerate() {
                let (a, b) = match style {
                    RopeStyle::Norm => (2 * pair, 2 * pair + 1),
                    RopeStyle::Neox => (pair, pair + frequencies.len()),
                };
                let start = (row * heads + head) * head_dim;
                let (a, b) = (start + a, start + b);
                let (sin, cos) = (f64::from(*position) * frequency).sin_cos();
                let (x, y) = (wanted[a].0, wanted[b].0);
                wanted[a].0 = x * cos - y * sin;
                wanted[b].0 = x * sin + y * cos;
            }
        }
    }
    Findings::compare(&out, &wanted)
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gelu(x: f64) -> f64 {
    let inner = 0.797_884_560_802_865_4 * x * (1.0 + 0.044_715 * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

fn gelu_erf(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// By the series whose terms are all of one sign: nothing cancels.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

fn activate(activation: Activation, formula: fn(f64) -> f64, pool: &Pool) -> Findings {
    let mut x: Vec<f32> = (-1200..=1200).map(|i| i as f32 / 100.0).collect();
    x.extend([-80.0, 80.0, 1e-20, -1e-20]);
    let size = |x: f32| f64::from(x).abs().max(1.0) * f64::from(x).abs().max(1e-3);
    let wanted: Vec<_> = x.iter().map(|x| (formula(f64::from(*x)), size(*x))).collect();
    elementwise::activate(&mut x, activation, pool);
    Findings::compare(&x, &wanted)
}

/// Around zero it is no multiple of its input.
fn sigmoid(pool: &Pool) -> Findings {
    let mut x: Vec<f32> = (-1200..=1200).map(|i| i as f32 / 100.0).collect();
    let wanted: Vec<_> = x.iter().map(|x| (1.0 / (1.0 + f64::from(-x).exp()), 1.0)).collect();
    elementwise::activate(&mut x, Activation::Sigmoid, pool);
    Findings::compare(&x, &wanted)
}

/// Rows, then vectors as long as a row, of arbitrary values.
fn inputs(cols: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut random = Random::new(cols);
    (random.values(ROWS * cols), random.values(cols), random.values(cols))
}

fn rms(row: &[f32], eps: f64) -> f64 {
    let sum: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    (sum / row.len() as f64 + eps).sqrt()
}

fn rms_norm_exactly(x: &[f32], weight: &[f32]) -> Vec<(f64, f64)> {
    let normed = |row: &[f32]| -> Vec<(f64, f64)> {
        let rms = rms(row, f64::from(1e-5_f32));
        row.iter().zip(weight).map(|(x, w)| (f64::from(*x) / rms * f64::from(*w), 1.0)).collect()
    };
    x.chunks_exact(weight.len()).flat_map(normed).collect()
}

fn rms_norm(cols: usize, pool: &Pool) -> Findings {
    let (x, weight, _) = inputs(cols);
    let mut out = vec![f32::NAN; x.len()];
    let rows = RowsMut::new(&mut out, ROWS, cols);
    norm::rms_norm(Rows::new(&x, ROWS, cols), &weight, 1e-5, rows, pool);
    Findings::compare(&out, &rms_norm_exactly(&x, &weight))
}

fn rms_norm_heads(pool: &Pool) -> Findings {
    let (heads, head_dim) = (3, 40);
    let (mut x, weight, _) = inputs(heads * head_dim);
    let weight = &weight[..head_dim];
    let wanted = rms_norm_exactly(&x, weight);
    norm::rms_norm_heads(RowsMut::new(&mut x, ROWS, heads * head_dim), weight, 1e-5, pool);
    Findings::compare(&x, &wanted)
}

fn layer_norm(cols: usize, pool: &Pool) -> Findings {
    let (x, weight, bias) = inputs(cols);
    let mut out = vec![f32::NAN; x.len()];
    let rows = RowsMut::new(&mut out, ROWS, cols);
    norm::layer_norm(Rows::new(&x, ROWS, cols), &weight, Some(&bias), 1e-5, rows, pool);
    let normed = |row: &[f32]| -> Vec<(f64, f64)> {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / cols as f64;
        let centred: Vec<f64> = row.iter().map(|x| f64::from(*x) - mean).collect();
        let variance = centred.iter().map(|x| x * x).sum::<f64>() / cols as f64;
        let deviation = (variance + f64::from(1e-5_f32)).sqrt();
        let value =
            |((x, w), b): ((&f64, &f32), &f32)| x / deviation * f64::from(*w) + f64::from(*b);
        centred.iter().zip(&weight).zip(&bias).map(value).map(|value| (value, 1.0)).collect()
    };
    let wanted: Vec<_> = x.chunks_exact(cols).flat_map(normed).collect();
    Findings::compare(&out, &wanted)
}

fn add_scaled(cols: usize, pool: &Pool) -> Findings {
    let (mut x, y, _) = inputs(cols);
    let y: Vec<f32> = y.iter().cycle().take(x.len()).copied().collect();
    let sum = |(x, y): (&f32, &f32)| (f64::from(*x) + 0.25 * f64::from(*y), 4.0);
    let wanted: Vec<_> = x.iter().zip(&y).map(sum).collect();
    elementwise::add_scaled(&mut x, &y, 0.25, pool);
    Findings::compare(&x, &wanted)
}

fn add_bias(cols: usize, pool: &Pool) -> Findings {
    let (mut x, bias, _) = inputs(cols);
    let sum = |(x, b): (&f32, &f32)| (f64::from(*x) + f64::from(*b), 4.0);
    let wanted: Vec<_> = x.iter().zip(bias.iter().cycle()).map(sum).collect();
    elementwise::add_bias(RowsMut::new(&mut x, ROWS, cols), &bias, pool);
    Findings::compare(&x, &wanted)
}

fn scale(cols: usize, pool: &Pool) -> Findings {
    let (mut x, _, _) = inputs(cols);
    let wanted: Vec<_> = x.iter().map(|x| (f64::from(*x) * f64::from(1.7_f32), 4.0)).collect();
    elementwise::scale(&mut x, 1.7, pool);
    Findings::compare(&x, &wanted)
}

fn softcap(cols: usize, pool: &Pool) -> Findings {
    let (mut x, _, _) = inputs(cols);
    let wanted: Vec<_> = x.iter().map(|x| ((f64::from(*x) / 1.5).tanh() * 1.5, 1.0)).collect();
    elementwise::softcap(&mut x, 1.5, pool);
    Findings::compare(&x, &wanted)
}

fn glu(cols: usize, pool: &Pool) -> Findings {
    let (gate, up, _) = inputs(cols);
    let up: Vec<f32> = up.iter().cycle().take(gate.len()).copied().collect();
    let mut out = vec![f32::NAN; gate.len()];
    let rows = RowsMut::new(&mut out, ROWS, cols);
    let (gates, ups) = (Rows::new(&gate, ROWS, cols), Rows::new(&up, ROWS, cols));
    elementwise::glu(gates, ups, Activation::Silu, rows, pool);
    let product = |(g, u): (&f32, &f32)| (silu(f64::from(*g)) * f64::from(*u), 4.0);
    let wanted: Vec<_> = gate.iter().zip(&up).map(product).collect();
    Findings::compare(&out, &wanted)
}
