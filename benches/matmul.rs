//! Our matrix product against candle's quantised one, same bytes, alternating:
//! `cargo bench --bench matmul -- [type,..] [n x k,..]`, for instance `-- Q4_0,Q6_K 4096x2048`.
//!
//! Both use as many threads as `RAYON_NUM_THREADS` says, or as there are processors. With up to 8
//! rows of activations, matrices rotate through more memory than caches hold. Medians; both times
//! include the quantisation of activations.
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use kolosal_kernels::linear::{Acts, Packed, linear};
use kolosal_kernels::memory::Floats;
use kolosal_kernels::pool::Pool;
use kolosal_kernels::quant::{GgmlType, quantize};
use kolosal_kernels::{Rows, RowsMut, detect};

const TYPES: [(&str, GgmlDType); 13] = [
    ("Q4_0", GgmlDType::Q4_0),
    ("Q4_1", GgmlDType::Q4_1),
    ("Q5_0", GgmlDType::Q5_0),
    ("Q5_1", GgmlDType::Q5_1),
    ("Q8_0", GgmlDType::Q8_0),
    ("Q2_K", GgmlDType::Q2K),
    ("Q3_K", GgmlDType::Q3K),
    ("Q4_K", GgmlDType::Q4K),
    ("Q5_K", GgmlDType::Q5K),
    ("Q6_K", GgmlDType::Q6K),
    ("F16", GgmlDType::F16),
    ("BF16", GgmlDType::BF16),
    ("F32", GgmlDType::F32),
];
/// More than the caches of the machines we have met.
const COLD_BYTES: usize = 128 << 20;
const ROUNDS: usize = 5;
const BURST: Duration = Duration::from_millis(40);
/// Long enough for the other's threads to stop spinning.
const REST: Duration = Duration::from_millis(6);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let types = args.first().map(String::as_str);
    let shapes = args.get(1).map_or("4096x2048", String::as_str);
    let pool = Pool::new(candle_core::utils::get_num_threads());
    println!("{} threads, {}", pool.threads(), detect::tier().name());
    println!("type  n x k  rows  ours us  GOP/s  GB/s  candle us  GOP/s  GB/s  ratio");
    for shape in shapes.split(',') {
        let (n, k) = shape.split_once('x').expect("n x k");
        let shape = (n.parse().expect("n"), k.parse().expect("k"));
        for (name, dtype) in TYPES {
            if types.is_none_or(|types| types.split(',').any(|ty| ty == name)) {
                let ty = GgmlType::from_name(name).expect("a type of ours");
                compare(ty, dtype, shape, &pool);
            }
        }
    }
}

fn compare(ty: GgmlType, dtype: GgmlDType, (n, k): (usize, usize), pool: &Pool) {
    let mut state = 1u32;
    let mut values = |len: usize| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len).map(|_| next()).collect()
    };
    let mut bytes = Vec::new();
    quantize(ty, &values(n * k), &mut bytes).expect("a shape that the type can have");
    let copies = COLD_BYTES.div_ceil(bytes.len());
    let pack = |_| Packed::pack(ty, n, k, &bytes, pool).expect("a matrix");
    let ours: Vec<Packed> = (0..copies).map(pack).collect();
    let theirs: Vec<QMatMul> = (0..copies)
        .map(|_| {
            let storage = QStorage::from_data(Cow::Borrowed(&bytes), &Device::Cpu, dtype);
            let tensor = QTensor::new(storage.expect("the type's bytes"), (n, k));
            QMatMul::from_arc(Arc::new(tensor.expect("a matrix"))).expect("a matrix")
        })
        .collect();
    for m in [1, 8, 512] {
        let matrices = if m <= 8 { copies } else { 1 };
        let x = values(m * k);
        let tensor = Tensor::from_slice(&x, (m, k), &Device::Cpu).expect("a matrix");
        let mut acts = Acts::for_weights(&ours);
        let mut out = Floats::new(m * n);
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            burst(&mut times[0], || {
                for weights in &ours[..matrices] {
                    acts.set(Rows::new(&x, m, k), pool);
                    linear(&acts, &mut [(weights, RowsMut::new(&mut out, m, n))], pool);
                }
            });
            burst(&mut times[1], || {
                for weights in &theirs[..matrices] {
                    std::hint::black_box(weights.forward(&tensor).expect("a product"));
                }
            });
        }
        let [ours, theirs] = times.map(|times| median(times) / matrices as f64);
        let rates = |seconds: f64| {
            let gops = 2.0 * (m * n * k) as f64 / seconds / 1e9;
            let gbs = bytes.len() as f64 / seconds / 1e9;
            format!("{:9.1} {gops:5.0} {gbs:6.1}", seconds * 1e6)
        };
        let ratio = theirs / ours;
        println!("{ty:5} {n}x{k} {m:4} {} {} {ratio:6.2}", rates(ours), rates(theirs));
    }
}

/// Calls `f` once to warm up and then for a while, and appends the seconds of each call.
fn burst(times: &mut Vec<f64>, mut f: impl FnMut()) {
    f();
    let start = Instant::now();
    while start.elapsed() < BURST {
        let call = Instant::now();
        f();
        times.push(call.elapsed().as_secs_f64());
    }
    std::thread::sleep(REST);
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
