//! `kolosal selftest`: does this machine compute what the formulas say?
//!
//! Every kernel runs on every tier of instructions that the processor has, at odd shapes, and is
//! compared with the plain formula in f64. All tiers must also agree bit for bit. With a model, a short
//! greedy run follows: the same prompt at once and token by token.

mod kernels;
mod linear;
mod model;
mod oracle;
mod recurrence;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kolosal_kernels::detect::{self, Tier, with_tier};
use kolosal_kernels::pool::Pool;
use serde::Serialize;

use super::App;
use super::args::SelftestArgs;
use super::failure::{Failure, Outcome};
use crate::model::DeviceChoice;
use model::ModelReport;
use oracle::Findings;

/// Threads of the kernels under test: enough for work to be split.
const THREADS: usize = 2;

/// One kernel on one tier.
#[derive(Debug, Serialize)]
struct Check {
    kernel: String,
    tier: &'static str,
    ok: bool,
    /// Largest error, as a share of the size of what was added up.
    error: Option<f64>,
    /// What `error` may be.
    limit: f64,
    /// What is wrong.
    problem: Option<String>,
}

/// All of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    processor: String,
    tiers: Vec<&'static str>,
    checks: Vec<Check>,
    model: Option<ModelReport>,
}

/// A kernel under test.
struct Test {
    name: String,
    /// What the error may be.
    limit: f64,
    run: Box<dyn Fn(&Pool) -> Findings>,
}

pub(super) fn run(app: &App, args: &SelftestArgs) -> Outcome {
    let is_cpu = matches!(args.device, DeviceChoice::Auto | DeviceChoice::Cpu);
    if args.model.is_none() && !is_cpu {
        return Err(Failure::usage("--device needs a MODEL to run there"));
    }
    let pool = Pool::new(THREADS);
    let tests = linear::tests().into_iter().chain(kernels::tests());
    let tests: Vec<Test> = tests.chain(recurrence::tests()).collect();
    let checks: Vec<Check> = tests.iter().flat_map(|test| check(test, &pool)).collect();
    drop(pool);
    let model = args.model.as_ref().map(|name| model::run(app, name, &args.device)).transpose()?;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        processor: processor(),
        tiers: detect::available().into_iter().map(Tier::name).collect(),
        checks,
        model,
    };
    if app.out.json {
        app.out.json_pretty(&report)?;
    } else {
        print(app, &report, &tests)?;
    }
    let failed = report.checks.iter().filter(|check| !check.ok).count();
    let model_failed = report.model.as_ref().is_some_and(|model| !model.ok);
    match (failed, model_failed) {
        (0, false) => Ok(()),
        (0, true) => Err(Failure::failed("the model does not compute as it should")),
        (failed, _) => {
            let all = report.checks.len();
            Err(Failure::failed(format!("{failed} of {all} checks of kernels failed")))
        }
    }
}

/// One kernel on all tiers. The first is plain Rust, whose bits the others must give too.
fn check(test: &Test, pool: &Pool) -> Vec<Check> {
    let mut first: Option<Vec<u32>> = None;
    let check = |tier: Tier| {
        let found = catch_unwind(AssertUnwindSafe(|| with_tier(tier, || (test.run)(pool))));
        let (error, problem) = match found {
            Err(_) => (None, Some("panicked".to_owned())),
            Ok(found) => {
                let differs = first.as_ref().is_some_and(|bits| *bits != found.bits);
                let problem = if found.error.is_nan() || found.error > test.limit {
                    Some(format!("error {:e} exceeds {:e}", found.error, test.limit))
                } else if differs {
                    Some("other bits than plain Rust".to_owned())
                } else {
                    None
                };
                first.get_or_insert(found.bits);
                (Some(found.error), problem)
            }
        };
        let ok = problem.is_none();
        let (kernel, limit) = (test.name.clone(), test.limit);
        Check { kernel, tier: tier.name(), ok, error, limit, problem }
    };
    detect::available().into_iter().map(check).collect()
}

fn print(app: &App, report: &Report, tests: &[Test]) -> Outcome {
    app.out.line(format!("kolosal {} on {}", report.version, report.processor))?;
    let mut heading = vec!["KERNEL".to_owned()];
    heading.extend(report.tiers.iter().map(|tier| tier.to_uppercase()));
    heading.push("LIMIT".to_owned());
    let rows = tests.iter().map(|test| {
        let cells = report.checks.iter().filter(|check| check.kernel == test.name).map(cell);
        let ends = std::iter::once(format!("{:.0e}", test.limit));
        std::iter::once(test.name.clone()).chain(cells).chain(ends).collect()
    });
    app.out.table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())?;
    for check in report.checks.iter().filter(|check| !check.ok) {
        let problem = check.problem.as_deref().unwrap_or_default();
        app.out.line(format!("FAIL {} on {}: {problem}", check.kernel, check.tier))?;
    }
    let ok = report.checks.iter().filter(|check| check.ok).count();
    app.out.line(format!("{ok} of {} checks of kernels passed", report.checks.len()))?;
    report.model.as_ref().map_or(Ok(()), |model| model.print(app))
}

fn cell(check: &Check) -> String {
    let mark = if check.ok { "ok" } else { "FAIL" };
    check.error.map_or_else(|| mark.to_owned(), |error| format!("{mark} {error:.0e}"))
}

/// The processor's name, where the system tells.
fn processor() -> String {
    let name = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let name = name.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{name}, {cores} cores, {}", std::env::consts::OS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(run: impl Fn(&Pool) -> Findings + 'static) -> Vec<Check> {
        let test = Test { name: "fake".to_owned(), limit: 1e-6, run: Box::new(run) };
        check(&test, &Pool::new(1))
    }

    #[test]
    fn wrong_numbers_and_panics_are_found() {
        let good = outcome(|_| Findings::compare(&[1.0], &[(1.0, 1.0)]));
        assert!(good.iter().all(|check| check.ok), "{good:?}");
        let wrong = outcome(|_| Findings::compare(&[1.001], &[(1.0, 1.0)]));
        assert!(wrong.iter().all(|check| !check.ok), "{wrong:?}");
        let nan = outcome(|_| Findings::compare(&[f32::NAN], &[(1.0, 1.0)]));
        assert!(nan.iter().all(|check| !check.ok), "{nan:?}");
        let short = outcome(|_| Findings::compare(&[], &[(1.0, 1.0)]));
        assert!(short.iter().all(|check| !check.ok), "{short:?}");
    }

    #[test]
    fn tiers_must_agree() {
        let by_tier = outcome(|_| {
            let off = if detect::tier() == Tier::Scalar { 0.0 } else { 1e-7 };
            Findings::compare(&[1.0 + off], &[(1.0, 1.0)])
        });
        let agree = by_tier.iter().all(|check| check.ok == (check.tier == "scalar"));
        assert!(agree, "{by_tier:?}");
    }
}
