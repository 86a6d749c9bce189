//! What this machine can do at most, for comparison with what a model makes of it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kolosal_kernels::memory::Floats;
use kolosal_kernels::pool::Pool;

/// Bytes that a sweep reads at most; beyond the caches it makes no difference.
const MAX_SWEEP: usize = 1 << 30;

/// Time for each measurement.
const BUDGET: Duration = Duration::from_millis(300);

/// Floats that a thread takes at a time.
const PIECE: usize = 64 << 10;

/// Sums that grow side by side, as many as fill the registers.
const LANES: usize = 64;

/// Limits of one number of threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roofline {
    /// Bytes a second that all threads together can read, of as many bytes as the model has.
    pub(super) bandwidth: f64,
    /// Seconds that it takes to begin and end a parallel region.
    pub(super) region: f64,
}

impl Roofline {
    /// Measures with threads of its own.
    pub(super) fn measure(threads: usize, bytes: usize) -> Self {
        let pool = Pool::new(threads);
        Self { bandwidth: bandwidth(&pool, bytes.clamp(1 << 20, MAX_SWEEP)), region: region(&pool) }
    }
}

/// The best of several sweeps, after the first has touched everything.
fn bandwidth(pool: &Pool, bytes: usize) -> f64 {
    let mut buffer = Floats::new(bytes / 4);
    buffer.fill(1.0);
    let pieces: Vec<&[f32]> = buffer.chunks(PIECE).collect();
    let sweep = || {
        pool.for_each(pieces.len(), |_, piece| {
            black_box(checksum(pieces[piece]));
        });
    };
    (bytes / 4 * 4) as f64 / best(sweep)
}

/// Reads all of it, which addition in this order leaves to vector instructions.
fn checksum(values: &[f32]) -> u32 {
    let mut sums = [0_u32; LANES];
    for chunk in values.chunks_exact(LANES) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(value.to_bits());
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// What a region takes beyond the work of its threads, when regions follow one another closely, as
/// those of a model do, and each thread has a few microseconds of work.
fn region(pool: &Pool) -> f64 {
    if pool.threads() == 1 {
        return 0.0;
    }
    const REGIONS: usize = 500;
    const WORK: Duration = Duration::from_micros(4);
    let work = || {
        let begin = Instant::now();
        while begin.elapsed() < WORK {
            std::hint::spin_loop();
        }
    };
    let alone = best(|| (0..REGIONS).for_each(|_| work()));
    let together = best(|| {
        (0..REGIONS).for_each(|_| pool.for_each(pool.threads(), |_, _| work()));
    });
    (together - alone).max(0.0) / REGIONS as f64
}

/// Seconds of the fastest call.
fn best(call: impl Fn()) -> f64 {
    call();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < BUDGET {
        let begin = Instant::now();
        call();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}
