//! What it takes to begin and end a parallel region: `cargo bench -p kolosal-kernels --bench pool --
//! [threads]`. Prints nanoseconds beyond the work of the threads, by the work of each.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use kolosal_kernels::pool::Pool;

const BUDGET: Duration = Duration::from_millis(400);
const REGIONS: u32 = 1000;

fn main() {
    let argument = std::env::args().skip(1).find(|arg| arg != "--bench");
    let threads = argument.map_or(2, |text| text.parse().expect("a number of threads"));
    let pool = Pool::new(threads);
    for items_each in [1, 4] {
        for micros in [0, 1, 4, 16] {
            let work = || busy(Duration::from_micros(micros) / items_each);
            let alone = median(|| (0..items_each).for_each(|_| work()));
            let items = pool.threads() * items_each as usize;
            let together = median(|| pool.for_each(items, |_, _| work()));
            let extra = together.saturating_sub(alone).as_nanos() / u128::from(REGIONS);
            println!("{threads} threads, {micros:2} us in {items_each} items each: {extra:5} ns");
        }
    }
}

fn busy(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// The time of so many calls.
fn median(call: impl Fn()) -> Duration {
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < BUDGET {
        let begin = Instant::now();
        (0..REGIONS).for_each(|_| call());
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}
