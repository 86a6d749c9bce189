//! `kolosal bench`: prefill, decode and batched decode over the runner itself.
//!
//! Repetitions of the different tests take turns, so that a machine that slows down for a while slows
//! all of them; the median counts. Beside tokens a second stand the bytes of weights and the
//! operations that those tokens took, how much of the memory's bandwidth that is, and how much of
//! the time the threads needed to start and end their work together.

use std::time::Instant;

use serde::Serialize;

use super::App;
use super::args::BenchArgs;
use super::compute::{Opened, Room};
use super::failure::{Failure, Outcome};
use super::lanes::{Lanes, Want, forward};
use super::output::human_bytes;
use super::roofline::Roofline;
use crate::model::{Batch, Runner};

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Prefill { tokens: usize },
    Decode { tokens: usize, batch: usize },
}

/// What one repetition took.
#[derive(Clone, Copy, Debug)]
struct Timing {
    seconds: f64,
    tokens: usize,
    steps: usize,
    logit_rows: usize,
    regions: u64,
}

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    test: String,
    batch: usize,
    /// Tokens a second over all sequences, the median of the repetitions.
    tok_s: f64,
    /// The same for each repetition.
    tok_s_all: Vec<f64>,
    /// Bytes of weights read a second, were each step to read once what it needs.
    gb_s: f64,
    /// Multiplications and additions of matrix products a second.
    gop_s: f64,
    /// What these threads can read of as many bytes, and `gb_s` as a part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_gb_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_part: Option<f64>,
    /// Parallel regions of a step, and the part of the time that it takes to begin and end them.
    #[serde(skip_serializing_if = "Option::is_none")]
    regions: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dispatch_part: Option<f64>,
    model: String,
    threads: usize,
    depth: usize,
    device: String,
    weight_bytes: usize,
}

impl Test {
    fn name(self) -> String {
        match self {
            Self::Prefill { tokens } => format!("pp{tokens}"),
            Self::Decode { tokens, batch } => format!("tg{tokens}@b{batch}"),
        }
    }

    fn batch(self) -> usize {
        match self {
            Self::Prefill { .. } => 1,
            Self::Decode { batch, .. } => batch,
        }
    }

    fn positions(self, depth: usize) -> usize {
        match self {
            Self::Prefill { tokens } | Self::Decode { tokens, .. } => depth + tokens,
        }
    }
}

pub(super) fn run(app: &App, args: &BenchArgs) -> Outcome {
    let tests = tests(args);
    if tests.is_empty() {
        return Err(Failure::usage("nothing to measure: all of -p and -n are 0"));
    }
    let longest = tests.iter().map(|test| test.positions(args.depth)).max().unwrap_or(1);
    let widest = tests.iter().map(|test| test.batch()).max().unwrap_or(1);
    let room = Room { positions: longest, sequences: widest };
    let mut opened = Opened::open(app, &args.runner, room)?;
    app.out.note(format!(
        "{}: {} of weights, {} threads, {}",
        opened.name,
        human_bytes(opened.runner.spec().weight_bytes as u64),
        opened.threads,
        opened.runner.spec().device
    ));
    let bytes = opened.runner.spec().weight_bytes;
    let is_cpu = opened.runner.spec().device == "cpu";
    let roofline = is_cpu.then(|| Roofline::measure(opened.threads, bytes));
    for test in &tests {
        measure(opened.runner.as_mut(), shortened(*test), 0)?;
    }
    let mut timings = vec![Vec::new(); tests.len()];
    for _ in 0..args.repetitions {
        for (test, timings) in tests.iter().zip(&mut timings) {
            timings.push(measure(opened.runner.as_mut(), *test, args.depth)?);
        }
    }
    let conditions = Conditions { opened: &opened, depth: args.depth, roofline };
    let measured = tests.iter().zip(&timings);
    let reports: Vec<Report> =
        measured.map(|(test, timings)| conditions.report(*test, timings)).collect();
    print(app, &reports)
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let prefill = args.prompt.iter().map(|&tokens| Test::Prefill { tokens });
    let decode = args
        .generate
        .iter()
        .flat_map(|&tokens| args.batch.iter().map(move |&batch| Test::Decode { tokens, batch }));
    let real = |test: &Test| test.positions(0) > 0 && test.batch() > 0;
    prefill.chain(decode).filter(real).collect()
}

/// The same shape with little work, to warm caches and threads.
fn shortened(test: Test) -> Test {
    match test {
        Test::Prefill { tokens } => Test::Prefill { tokens: tokens.min(64) },
        Test::Decode { tokens, batch } => Test::Decode { tokens: tokens.min(4), batch },
    }
}

fn measure(runner: &mut dyn Runner, test: Test, depth: usize) -> Outcome<Timing> {
    let mut lanes = Lanes::new(runner, test.batch(), test.positions(depth))?;
    let mut tokens = Tokens::new(runner.spec().vocab_size);
    for lane in 0..test.batch() {
        lanes.prefill(runner, lane, &tokens.take(depth))?;
    }
    let regions = runner.num_regions();
    let timing = match test {
        Test::Prefill { tokens: length } => {
            let prompt = tokens.take(length);
            let start = Instant::now();
            lanes.prefill(runner, 0, &prompt)?;
            let seconds = start.elapsed().as_secs_f64();
            let steps = length.div_ceil(runner.spec().max_rows);
            Timing { seconds, tokens: length, steps, logit_rows: 1, regions: 0 }
        }
        Test::Decode { tokens: steps, batch: width } => {
            let start = Instant::now();
            for _ in 0..steps {
                let mut batch = Batch::default();
                for lane in 0..width {
                    lanes.push(&mut batch, lane, &tokens.take(1), Want::Last);
                }
                let logits = forward(runner, &batch)?;
                runner.recycle(logits);
            }
            let seconds = start.elapsed().as_secs_f64();
            let rows = steps * width;
            Timing { seconds, tokens: rows, steps, logit_rows: rows, regions: 0 }
        }
    };
    Ok(Timing { regions: runner.num_regions() - regions, ..timing })
}

/// Arbitrary but always the same token ids; speed does not depend on them.
struct Tokens {
    state: u32,
    vocab_size: u32,
}

impl Tokens {
    fn new(vocab_size: usize) -> Self {
        Self { state: 1, vocab_size: vocab_size.max(1) as u32 }
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        let next = |_| {
            // Knuth's MMIX-style linear congruential step; the high bits are the random ones.
            self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.state >> 8) % self.vocab_size
        };
        (0..count).map(next).collect()
    }
}

/// Under which all tests ran.
struct Conditions<'a> {
    opened: &'a Opened,
    depth: usize,
    roofline: Option<Roofline>,
}

impl Conditions<'_> {
    fn report(&self, test: Test, timings: &[Timing]) -> Report {
        let Self { opened, depth, roofline } = *self;
        let spec = opened.runner.spec();
        let rates = timings.iter().map(|timing| timing.tokens as f64 / timing.seconds);
        let mut sorted = timings.to_vec();
        sorted.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let median = sorted[sorted.len() / 2];
        let operations = 2.0
            * (opened.work.body as f64 * median.tokens as f64
                + opened.work.head as f64 * median.logit_rows as f64);
        let bytes_s =
            spec.weight_bytes as f64 * opened.work.part_read * median.steps as f64 / median.seconds;
        let regions = median.regions as f64 / median.steps.max(1) as f64;
        let dispatch =
            |roofline: Roofline| roofline.region * median.regions as f64 / median.seconds;
        Report {
            test: test.name(),
            batch: test.batch(),
            tok_s: round(median.tokens as f64 / median.seconds),
            tok_s_all: rates.map(round).collect(),
            gb_s: round(bytes_s / 1e9),
            gop_s: round(operations / median.seconds / 1e9),
            bandwidth_gb_s: roofline.map(|roofline| round(roofline.bandwidth / 1e9)),
            bandwidth_part: roofline.map(|roofline| fine(bytes_s / roofline.bandwidth)),
            regions: roofline.map(|_| round(regions)),
            dispatch_part: roofline.map(|roofline| fine(dispatch(roofline))),
            model: opened.name.clone(),
            threads: opened.threads,
            depth,
            device: spec.device.clone(),
            weight_bytes: spec.weight_bytes,
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn fine(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn print(app: &App, reports: &[Report]) -> Outcome {
    if app.out.json {
        return reports.iter().try_for_each(|report| app.out.json(report));
    }
    let heading = ["TEST", "TOK/S", "MIN", "MAX", "GB/S", "GOP/S", "BANDWIDTH", "DISPATCH"]
        .map(str::to_owned)
        .to_vec();
    let rows = reports.iter().map(|report| {
        let min = report.tok_s_all.iter().copied().fold(f64::INFINITY, f64::min);
        let max = report.tok_s_all.iter().copied().fold(0.0, f64::max);
        let numbers = [report.tok_s, min, max, report.gb_s, report.gop_s];
        let cells = numbers.iter().map(|number| format!("{number:.2}"));
        let parts = [report.bandwidth_part, report.dispatch_part];
        let percent = |part: Option<f64>| {
            part.map_or("-".to_owned(), |part| format!("{:.1} %", part * 100.0))
        };
        std::iter::once(report.test.clone()).chain(cells).chain(parts.map(percent)).collect()
    });
    app.out.table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}
