//! Products with packed weights of every type.

use kolosal_kernels::linear::{Acts, Packed, linear};
use kolosal_kernels::pool::Pool;
use kolosal_kernels::quant::{GgmlType, dequantize, quantize};
use kolosal_kernels::{Rows, RowsMut};

use super::Test;
use super::oracle::{Findings, Random};

/// Rows of activations, rows of weights, and columns in units of the type's blocks.
const SHAPES: [(usize, usize, usize); 4] = [(1, 33, 3), (3, 17, 2), (9, 50, 1), (20, 31, 2)];

/// Rounding of sums of floats.
const LIMIT: f64 = 2e-6;

/// Blocks beyond this are drawn again: sums of them tell nothing.
const MAX_WEIGHT: f32 = 1e4;

pub(super) fn tests() -> Vec<Test> {
    let types = GgmlType::all().filter(|ty| Packed::takes(*ty));
    let test = |ty: GgmlType| Test {
        name: format!("linear {ty}"),
        limit: LIMIT,
        run: Box::new(move |pool| {
            let found = SHAPES.iter().map(|&shape| product(ty, shape, pool));
            found.fold(Findings::default(), Findings::join)
        }),
    };
    types.map(test).collect()
}

fn product(ty: GgmlType, (m, n, blocks): (usize, usize, usize), pool: &Pool) -> Findings {
    let k = blocks * ty.block_len().max(32);
    let mut random = Random::new(m * 1000 + n);
    let (bytes, values) = weights(ty, n * k, &mut random);
    let x = activations(m * k, &mut random);
    let packed = Packed::pack(ty, n, k, &bytes, pool).expect("a type of weights packs");
    let mut acts = Acts::for_weights([&packed]);
    acts.set(Rows::new(&x, m, k), pool);
    let mut out = vec![f32::NAN; m * n];
    linear(&acts, &mut [(&packed, RowsMut::new(&mut out, m, n))], pool);
    let wanted: Vec<(f64, f64)> = x
        .chunks_exact(k)
        .flat_map(|x| values.chunks_exact(k).map(move |w| (x, w)))
        .map(|(x, w)| {
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
        })
        .collect();
    Findings::compare(&out, &wanted).join(rows(&packed, &values))
}

/// Rows read back, which must be what the file says.
fn rows(packed: &Packed, values: &[f32]) -> Findings {
    let mut out = vec![f32::NAN; packed.n() * packed.k()];
    for (i, row) in out.chunks_exact_mut(packed.k()).enumerate() {
        packed.row(i, row);
    }
    let wanted: Vec<(f64, f64)> =
        values.iter().map(|value| (f64::from(*value), f64::from(value.abs()))).collect();
    let found = Findings::compare(&out, &wanted);
    // The sign of zero may be lost, and with it equality of bits.
    Findings { bits: Vec::new(), ..found }
}

/// Weights as in a file, and their values.
fn weights(ty: GgmlType, count: usize, random: &mut Random) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut values = vec![0.0; count];
    if quantize(ty, &random.values(count), &mut bytes).is_err() {
        // Types that have no quantiser are made of random bytes.
        for values in values.chunks_exact_mut(ty.block_len()) {
            bytes.extend(random_block(ty, values, random));
        }
    }
    dequantize(ty, &bytes, &mut values).expect("whole blocks");
    (bytes, values)
}

fn random_block(ty: GgmlType, values: &mut [f32], random: &mut Random) -> Vec<u8> {
    loop {
        let block: Vec<u8> = (0..ty.block_bytes()).map(|_| (random.next() >> 8) as u8).collect();
        let is_read = dequantize(ty, &block, values).is_ok();
        if is_read && values.iter().all(|value| value.abs() < MAX_WEIGHT) {
            return block;
        }
    }
}

/// Values that eight bits hold exactly: whole numbers of steps, the largest in each block of 32. The
/// formula thus sees what the kernel sees.
fn activations(count: usize, random: &mut Random) -> Vec<f32> {
    let step =
        |i: usize| if i.is_multiple_of(32) { 127.0 } else { (random.next() % 255) as f32 - 127.0 };
    (0..count).map(step).map(|steps| steps / 128.0).collect()
}
