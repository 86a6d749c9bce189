//! Random traffic on an engine without its thread: after every step the invariants hold, and every
//! sequence generates what it would generate alone. A failure names the seed that repeats it.

#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kolosal_server::engine::budget::StepBudget;
use kolosal_server::engine::stats::Meters;
use kolosal_server::engine::worker::{Submission, Worker};
use kolosal_server::engine::{
    EngineConfig, FinishReason, Job, MemoryRoom, Owner, Request, Sampling,
};
use kolosal_server::model::fake::{FakeConfig, FakeRunner};
use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::engine::expected;

/// Chance, with a few helpers.
struct Dice(Xoshiro256PlusPlus);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A request that can be made again, for the comparison.
#[derive(Clone, Debug)]
struct Plan {
    prompt: Vec<u32>,
    max_tokens: u32,
    min_tokens: u32,
    sampling: Sampling,
    salt: u64,
    prompt_logprobs: bool,
}

impl Plan {
    fn request(&self) -> Request {
        Request {
            prompt: self.prompt.clone(),
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            stop_tokens: vec![1],
            sampling: self.sampling.clone(),
            prompt_logprobs: self.prompt_logprobs.then_some(0),
            cache_salt: self.salt,
            ..Request::default()
        }
    }
}

/// Grants growth now and then.
#[derive(Default)]
struct Moody(AtomicU64);

impl MemoryRoom for Moody {
    fn take(&self, _: u64) -> bool {
        self.0.fetch_add(1, Relaxed).is_multiple_of(3)
    }

    fn give_back(&self, _: u64) {}
}

struct Simulation {
    seed: u64,
    dice: Dice,
    model: FakeConfig,
    max_rows: usize,
    worker: Worker,
    meters: Arc<Meters>,
    /// Jobs that have not ended, by id.
    jobs: BTreeMap<u64, (Job, Plan)>,
    /// Output of jobs that have, to be continued as a chat is.
    histories: Vec<Vec<u32>>,
    next_id: u64,
    num_checked: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let max_rows = dice.pick(&[9, 16, 40, 200]);
        let num_blocks = dice.pick(&[13, 14, 20, 60]);
        // Thirteen make a context, which is always there.
        let later_blocks = if dice.one_in(2) { num_blocks - 13 } else { 0 };
        let num_states = dice.pick(&[0, 0, 2, 7, 18, 40]);
        let model = FakeConfig {
            vocab_size: dice.pick(&[4, 64]),
            context_len: 400,
            num_blocks,
            later_blocks,
            num_states,
            max_rows,
            seed,
            eos: Some((1, dice.pick(&[0.01, 0.002]))),
            memory: dice.pick(&[None, Some(2)]),
            ..FakeConfig::default()
        };
        let config = EngineConfig {
            name: format!("simulation {seed}"),
            max_running: dice.pick(&[1, 3, 6, 9]),
            max_waiting: 20,
            max_batch_tokens: max_rows,
            prefix_cache: !dice.one_in(6),
            target_step_ms: 0,
            max_draft_tokens: dice.pick(&[0, 3]),
            drafts_always: dice.one_in(2),
            mask_threads: 0,
        };
        let meters = Arc::new(Meters::default());
        meters.set_room(Arc::new(Moody::default()));
        let runner = Box::new(FakeRunner::new(model.clone()));
        let worker = Worker::new(runner, &config, Arc::clone(&meters));
        Self {
            seed,
            dice,
            model,
            max_rows,
            worker,
            meters,
            jobs: BTreeMap::new(),
            histories: Vec::new(),
            next_id: 1,
            num_checked: 0,
        }
    }

    /// A prompt that shares a beginning with others more often than not.
    fn plan(&mut self) -> Plan {
        let vocab_size = self.model.vocab_size;
        let mut prompt: Vec<u32> = match self.dice.below(3) {
            0 if !self.histories.is_empty() => {
                let pick = self.dice.below(self.histories.len());
                self.histories[pick].clone()
            }
            1 => {
                let family = self.dice.below(3);
                (0..100).map(|i| ((i * i + family) % vocab_size) as u32).collect()
            }
            _ => Vec::new(),
        };
        let most = self.dice.pick(&[40, 300]);
        prompt.truncate(self.dice.below(most));
        let tail = 1 + self.dice.below(40);
        prompt.extend((0..tail).map(|_| self.dice.below(vocab_size) as u32));
        // The pool's 13 blocks hold 416 positions, the context 400.
        let room = 400 - prompt.len() as u32;
        let max_tokens = 1 + self.dice.below(room.min(200) as usize) as u32;
        Plan {
            min_tokens: self.dice.pick(&[0, max_tokens.min(10)]),
            max_tokens,
            prompt,
            sampling: Sampling {
                temperature: self.dice.pick(&[0.0, 0.3, 1.0]),
                top_k: self.dice.pick(&[0, 3]),
                frequency_penalty: self.dice.pick(&[0.0, 0.3]),
                repetition_penalty: self.dice.pick(&[1.0, 1.2]),
                seed: self.dice.below(5) as u64,
                ..Sampling::default()
            },
            salt: self.dice.pick(&[0, 0, 0, 9]),
            prompt_logprobs: self.dice.one_in(8),
        }
    }

    fn submit(&mut self) {
        let plan = self.plan();
        let copies = self.dice.pick(&[1, 1, 1, 4]);
        for _ in 0..copies {
            let request = plan.request();
            request.validate(self.worker.spec()).unwrap();
            let id = self.next_id;
            let Ok((job, submission)) = Submission::new(
                id,
                Owner { tenant: id % 3, group: id / 4 },
                request,
                &self.meters,
                24,
            ) else {
                return;
            };
            self.next_id += 1;
            self.worker.accept(submission);
            self.jobs.insert(id, (job, plan.clone()));
        }
    }

    fn disturb(&mut self) {
        if self.dice.one_in(5) {
            self.submit();
        }
        if self.dice.one_in(150)
            && let Some(&id) = self.jobs.keys().nth(self.dice.below(self.jobs.len().max(1)))
        {
            if self.dice.one_in(2) {
                self.jobs.remove(&id);
            } else {
                self.jobs[&id].0.cancel();
            }
        }
        if self.dice.one_in(20) {
            // At least a row for each that runs.
            let rows = 9.max(1 + self.dice.below(self.max_rows)).min(self.max_rows);
            self.worker.set_budget(StepBudget::new(rows, None));
        }
    }

    fn step(&mut self) {
        let seed = self.seed;
        self.worker.step().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        self.worker.check().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let stats = self.meters.snapshot();
        let blocks = stats.blocks_free + stats.blocks_used + stats.blocks_cached;
        assert_eq!(blocks, stats.blocks_total, "seed {seed}");
        let ended: Vec<u64> =
            self.jobs.iter().filter(|(_, (job, _))| job.is_finished()).map(|(&id, _)| id).collect();
        for id in ended {
            let (job, plan) = self.jobs.remove(&id).unwrap();
            self.compare(&job, &plan);
        }
    }

    fn compare(&mut self, job: &Job, plan: &Plan) {
        let (seed, id) = (self.seed, job.id());
        let result = job.result();
        assert_eq!(result.error, None, "seed {seed}, job {id}");
        let reason = result.outcome.unwrap().reason;
        let (tokens, expected_reason) = expected(&self.model, plan.request());
        if reason == FinishReason::Cancelled {
            assert!(tokens.starts_with(&result.tokens), "seed {seed}, job {id}");
            return;
        }
        assert_eq!((&result.tokens, reason), (&tokens, expected_reason), "seed {seed}, job {id}");
        if plan.prompt_logprobs {
            let reported = result.prompt_logprobs.unwrap();
            let ids = reported.iter().map(|logprobs| logprobs.id);
            assert!(ids.eq(plan.prompt[1..].iter().copied()), "seed {seed}, job {id}");
        }
        self.histories.push([plan.prompt.as_slice(), &tokens].concat());
        if self.histories.len() > 20 {
            self.histories.remove(0);
        }
        self.num_checked += 1;
    }

    fn run(mut self, num_steps: usize) -> Self {
        for _ in 0..num_steps {
            self.disturb();
            self.step();
        }
        // No starvation: what is left ends within the steps that one sequence after another takes,
        // recomputed each time another one comes to its end.
        let mut left = self.jobs.len() * 800 + 1;
        while !self.worker.is_idle() {
            self.step();
            left -= 1;
            assert!(left > 0, "seed {}: sequences starve", self.seed);
        }
        assert_eq!(self.meters.snapshot().blocks_used, 0, "seed {}", self.seed);
        assert_eq!(self.meters.in_flight(), 0, "seed {}", self.seed);
        assert!(self.jobs.is_empty());
        self
    }
}

#[test]
fn random_traffic() {
    let (mut checked, mut preemptions, mut hits, mut guessed) = (0, 0, 0, 0);
    let mut grown = 0;
    for seed in 0..60 {
        let done = Simulation::new(seed).run(1000);
        let stats = done.meters.snapshot();
        checked += done.num_checked;
        preemptions += stats.preemptions;
        hits += stats.prefix_hit_tokens;
        guessed += stats.accepted_draft_tokens;
        let first = done.model.num_blocks - done.model.later_blocks;
        grown += done.worker.scheduler().pool().num_ready() - first;
    }
    // The traffic must have exercised what it is for.
    let exercised = [checked as u64, preemptions, hits, guessed];
    assert!(exercised.iter().all(|&count| count > 200), "{exercised:?}");
    assert!(grown > 100, "pools grew by {grown} blocks");
}

/// With prompts that share nothing, sequences of a tenant are admitted in order of arrival, whatever else
/// happens.
#[test]
fn first_come_first_served() {
    let mut total = 0;
    for seed in 0..20 {
        let tenants = 1 + seed % 3;
        let mut simulation = Simulation::new(seed);
        let mut admitted: Vec<u64> = Vec::new();
        for round in 0..300_u64 {
            if round % 3 == 0 && simulation.jobs.len() < 20 {
                let mut plan = simulation.plan();
                plan.salt = 1000 + round;
                let id = simulation.next_id;
                simulation.next_id += 1;
                let meters = &simulation.meters;
                let (job, submission) = Submission::new(
                    id,
                    Owner { tenant: id % tenants, group: id },
                    plan.request(),
                    meters,
                    24,
                )
                .unwrap();
                simulation.worker.accept(submission);
                simulation.jobs.insert(id, (job, plan));
            }
            simulation.step();
            for sequence in simulation.worker.scheduler().running() {
                if !admitted.contains(&sequence.id()) {
                    admitted.push(sequence.id());
                }
            }
        }
        for tenant in 0..tenants {
            let own = admitted.iter().filter(|id| *id % tenants == tenant);
            assert!(own.is_sorted(), "seed {seed}: {admitted:?}");
        }
        total += admitted.len();
    }
    assert!(total > 100, "{total}");
}
