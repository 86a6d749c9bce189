//! What deciding a step costs, without computing it.
//!
//! `cargo bench --bench scheduler`
//!
//! One line of JSON a measurement, in microseconds: planning and committing a step of N sequences
//! that decode, assembling its batch, admitting a prompt whose beginning is cached, and guessing
//! continuations.
#![allow(clippy::print_stdout)]

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{Dice, Options, median, micros, print};
use kolosal_server::engine::Owner;
use kolosal_server::engine::batch::assemble;
use kolosal_server::engine::draft::cost::RowCost;
use kolosal_server::engine::draft::{Drafter, Speculation};
use kolosal_server::engine::scheduler::{Budget, Scheduler, SchedulerConfig};
use kolosal_server::engine::sequence::NewSequence;
use serde_json::json;

const BUDGET: Duration = Duration::from_millis(200);
const PROMPT: usize = 1024;
const LIMITS: Budget = Budget { max_rows: 4096, chunk_rows: 4096, chunk_rows_beside_decode: 4096 };

fn main() {
    let options = Options::read(&["sequences"]);
    for sequences in options.numbers("sequences", "1,4,16,64,256") {
        decode(sequences);
    }
    admit();
    guess();
}

fn scheduler(max_running: usize) -> Scheduler {
    Scheduler::new(SchedulerConfig {
        num_blocks: 300 * PROMPT / 32,
        first_blocks: 300 * PROMPT / 32,
        num_states: 0,
        max_running,
        prefix_cache: true,
        whole_sequences: false,
    })
}

fn new(id: u64, prompt: Vec<u32>) -> NewSequence {
    NewSequence {
        id,
        owner: Owner::default(),
        prompt,
        marks: Vec::new(),
        max_tokens: 4096,
        salt: 0,
        prompt_logits: false,
        embedded: false,
        second_from: None,
    }
}

fn tokens(seed: u64, len: usize) -> Vec<u32> {
    let mut dice = Dice(seed);
    (0..len).map(|_| dice.below(50_000) as u32).collect()
}

/// Steps of sequences that decode: the plan with its commit, and the batch.
fn decode(sequences: usize) {
    let mut scheduler = scheduler(sequences);
    for id in 0..sequences as u64 {
        scheduler.submit(new(id, tokens(id, 256))).expect("a sequence fits");
    }
    while scheduler.running().len() < sequences
        || scheduler.running().iter().any(|sequence| sequence.num_pending() > 1)
    {
        let plan = scheduler.schedule(&LIMITS);
        scheduler.commit(&plan);
        for piece in plan.pieces.iter().filter(|piece| !piece.logits.is_empty()) {
            scheduler.push(piece.sequence, 1);
        }
    }
    let (mut plans, mut batches) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let begin = Instant::now();
        let plan = scheduler.schedule(&LIMITS);
        let planned = begin.elapsed();
        let begin = Instant::now();
        black_box(assemble(&plan, &scheduler));
        batches.push(begin.elapsed());
        let begin = Instant::now();
        scheduler.commit(&plan);
        for piece in &plan.pieces {
            scheduler.push(piece.sequence, 1);
        }
        plans.push(planned + begin.elapsed());
    }
    for (what, mut times) in [("plan and commit", plans), ("assemble", batches)] {
        times.sort_unstable();
        let us = micros(times[times.len() / 2]);
        print(&json!({"bench": "scheduler", "what": what, "sequences": sequences, "us": us}));
    }
}

/// A prompt of 1024 tokens whose beginning another sequence has computed.
fn admit() {
    for (what, shared) in [("admit, nothing cached", 0), ("admit, all cached", PROMPT)] {
        let mut scheduler = scheduler(2);
        scheduler.submit(new(0, tokens(1, PROMPT))).expect("a sequence fits");
        let plan = scheduler.schedule(&LIMITS);
        scheduler.commit(&plan);
        scheduler.remove(0);
        let mut id = 0;
        let time = median(BUDGET, || {
            id += 1;
            let mut prompt = tokens(1, shared);
            prompt.extend(tokens(id, PROMPT - shared));
            scheduler.submit(new(id, prompt)).expect("a sequence fits");
            black_box(scheduler.schedule(&LIMITS));
            scheduler.remove(id);
        });
        print(&json!({"bench": "scheduler", "what": what, "tokens": PROMPT, "us": micros(time)}));
    }
}

/// A guess at the end of 4096 tokens, the first of which indexes all of them.
fn guess() {
    let text = tokens(1, 3000).into_iter().map(|token| token % 500).collect::<Vec<u32>>();
    let text = [&text[..], &text[..1096]].concat();
    let mut speculation = Speculation::new(16, RowCost::default());
    let first = median(BUDGET, || {
        black_box(Drafter::default().guess(&text, Vec::new, 16, &speculation));
    });
    let (mut drafter, mut len) = (Drafter::default(), 3500);
    let next = median(BUDGET, || {
        drafter.guess(&text[..len], Vec::new, 16, &speculation);
        len = if len + 1 == text.len() { 3500 } else { len + 1 };
        black_box(drafter.observe(&text[len..=len], 0, &mut speculation));
    });
    for (what, time) in [("first guess", first), ("guess", next)] {
        print(&json!({"bench": "scheduler", "what": what, "tokens": 4096, "us": micros(time)}));
    }
}
