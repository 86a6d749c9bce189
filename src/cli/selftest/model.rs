//! A short greedy run of a model.

use serde::Serialize;

use super::super::App;
use super::super::args::RunnerArgs;
use super::super::compute::{Opened, Room};
use super::super::failure::Outcome;
use super::super::lanes::{Lanes, Want, forward};
use crate::model::{Batch, DeviceChoice, Logits, Runner, memory, reference};

const PROMPT: &str = "The capital of France is";
/// What both sides lose by computing with few bits is less.
const MAX_DISTANCE: f64 = 0.2;
/// Tokens that are generated.
const NUM_TOKENS: usize = 16;

/// What a model did.
#[derive(Debug, Serialize)]
pub(super) struct ModelReport {
    name: String,
    device: String,
    pub(super) ok: bool,
    prompt: &'static str,
    tokens: Vec<u32>,
    text: String,
    /// How far the prompt's logits are from those of candle-transformers, as a share of their size; absent
    /// where it has no such model.
    second_opinion: Option<f64>,
    problems: Vec<String>,
}

impl ModelReport {
    pub(super) fn print(&self, app: &App) -> Outcome {
        let mark = if self.ok { "ok" } else { "FAIL" };
        app.out
            .line(format!("{mark} {} on {}: {}{:?}", self.name, self.device, PROMPT, self.text))?;
        let opinion = match self.second_opinion {
            Some(distance) => format!("candle-transformers differs by {:.2} %", distance * 100.0),
            None => "no second opinion from candle-transformers".to_owned(),
        };
        app.out.line(opinion)?;
        self.problems.iter().try_for_each(|problem| app.out.line(format!("FAIL {problem}")))
    }
}

pub(super) fn run(app: &App, name: &str, device: &DeviceChoice) -> Outcome<ModelReport> {
    let args =
        RunnerArgs { model: name.to_owned(), device: device.clone(), ..RunnerArgs::default() };
    let room = Room { positions: 256, sequences: 2 };
    let mut opened = Opened::open(app, &args, room)?;
    let tokenizer = opened.tokenizer()?;
    let prompt = tokenizer.encode_prompt(PROMPT);
    let runner = opened.runner.as_mut();
    let device = runner.spec().device.clone();
    let mut lanes = Lanes::new(runner, 2, prompt.len() + NUM_TOKENS)?;
    let at_once = lanes.prefill(runner, 0, &prompt)?;
    let mut one_by_one = Logits::default();
    for token in &prompt {
        one_by_one = step(runner, &mut lanes, 1, *token)?;
    }
    let mut problems = Vec::new();
    let is_same = if device == "cpu" {
        let bits = |logits: &Logits| logits.data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        bits(&at_once) == bits(&one_by_one)
    } else {
        likeliest(&at_once) == likeliest(&one_by_one)
    };
    if !is_same {
        problems.push("a prompt read token by token gives other logits than at once".to_owned());
    }
    let second_opinion = opened.second_opinion(app, &prompt, &at_once);
    if second_opinion.is_some_and(|distance| distance.is_nan() || distance > MAX_DISTANCE) {
        problems.push("candle-transformers computes other logits".to_owned());
    }
    let runner = opened.runner.as_mut();
    let mut logits = at_once;
    let mut tokens = Vec::with_capacity(NUM_TOKENS);
    for position in 0..NUM_TOKENS {
        if !logits.data.iter().all(|logit| logit.is_finite()) {
            problems.push(format!("logits after token {position} are not numbers"));
            break;
        }
        let Some(token) = likeliest(&logits) else { break };
        tokens.push(token);
        logits = step(runner, &mut lanes, 0, token)?;
    }
    Ok(ModelReport {
        name: opened.name,
        device,
        ok: problems.is_empty(),
        prompt: PROMPT,
        text: tokenizer.decode(&tokens),
        tokens,
        second_opinion,
        problems,
    })
}

fn step(runner: &mut dyn Runner, lanes: &mut Lanes, lane: usize, token: u32) -> Outcome<Logits> {
    let mut batch = Batch::default();
    lanes.push(&mut batch, lane, &[token], Want::Last);
    forward(runner, &batch)
}

impl Opened {
    /// The distance between our logits and those of candle-transformers: the root mean square of what they
    /// differ by, as a share of that of theirs.
    fn second_opinion(&self, app: &App, prompt: &[u32], ours: &Logits) -> Option<f64> {
        // It holds the weights a second time.
        let needed = self.gguf.file_bytes() / 4 * 5;
        if memory::available().is_some_and(|free| free < needed) {
            return None;
        }
        let theirs = match reference::logits(&self.gguf, prompt) {
            Ok(Some(theirs)) => theirs,
            Ok(None) => return None,
            // It reads fewer files than the decoder.
            Err(error) => {
                app.out.note(format!("candle-transformers: {error}"));
                return None;
            }
        };
        if theirs.len() != ours.data.len() {
            return None;
        }
        let mean = |values: &[f32]| {
            values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64
        };
        // What all logits have in common changes nothing.
        let (our_mean, their_mean) = (mean(&ours.data), mean(&theirs));
        let pairs = ours.data.iter().zip(&theirs);
        let pairs = pairs.map(|(a, b)| (f64::from(*a) - our_mean, f64::from(*b) - their_mean));
        let (differ, all) = pairs
            .fold((0.0, 0.0), |(differ, all), (a, b)| (differ + (a - b).powi(2), all + b.powi(2)));
        Some((differ / all).sqrt())
    }
}

fn likeliest(logits: &Logits) -> Option<u32> {
    let best = logits.data.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(id, _)| id as u32)
}
