//! A deterministic runner without tensors, for tests and simulation.
//!
//! Its logits are a hash of the tokens that it reads back through its own KV slots, and each slot
//! remembers position and history of what was written there. A wrong block table, slot, prefix hit
//! or copy is thus either refused or changes the output.

use std::collections::HashMap;
use std::time::Duration;

use super::batch::{BLOCK, Batch, Span, StateSave};
use super::runner::{KvGrowth, Logits, Pooling, Runner, RunnerError, RunnerSpec};

/// Values of a hidden state.
const HIDDEN: usize = 8;

/// How a [`FakeRunner`] behaves.
#[derive(Clone, Debug)]
pub struct FakeConfig {
    pub vocab_size: usize,
    pub context_len: usize,
    pub num_blocks: usize,
    /// Of them, those that are only there when they were asked for.
    pub later_blocks: usize,
    /// Pages of state; without, it carries none.
    pub num_states: usize,
    pub max_rows: usize,
    /// Other seeds are other models.
    pub seed: u64,
    pub pooling: Pooling,
    /// A token that is certain with this probability, and else impossible.
    pub eos: Option<(u32, f64)>,
    /// Logits depend on this many last tokens alone, so that greedy output soon repeats itself.
    pub memory: Option<usize>,
    /// Time that each step takes.
    pub step_delay: Duration,
    /// Steps, counted from 0, that end with an error.
    pub fail_at: Vec<u64>,
    /// A step that panics.
    pub panic_at: Option<u64>,
    /// A step whose logits are not numbers.
    pub nan_at: Option<u64>,
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self {
            vocab_size: 64,
            context_len: 4096,
            num_blocks: 256,
            later_blocks: 0,
            num_states: 0,
            max_rows: 256,
            seed: 0,
            pooling: Pooling::Mean,
            eos: None,
            memory: None,
            step_delay: Duration::ZERO,
            fail_at: Vec::new(),
            panic_at: None,
            nan_at: None,
        }
    }
}

/// What a slot of the fake KV pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    position: u32,
    token: u32,
    /// Hash of all tokens up to this one, as they were when it was written.
    history: u64,
}

/// Called with the step's number before it is computed.
type Hook = Box<dyn FnMut(u64) + Send>;

/// See the module.
pub struct FakeRunner {
    config: FakeConfig,
    spec: RunnerSpec,
    slots: Vec<Option<Slot>>,
    /// Pages of state: how many tokens were read, and the hash of them.
    states: Vec<Option<(u32, u64)>>,
    /// Blocks of the pool that are there.
    ready_blocks: usize,
    steps: u64,
    hook: Option<Hook>,
    /// Of the last batch, until they are taken.
    hidden: Vec<f32>,
}

impl FakeRunner {
    #[must_use]
    pub fn new(config: FakeConfig) -> Self {
        let spec = RunnerSpec {
            vocab_size: config.vocab_size,
            context_len: config.context_len,
            num_blocks: config.num_blocks,
            kv_growth: KvGrowth { later_blocks: config.later_blocks, step_blocks: 3 },
            max_rows: config.max_rows,
            kv_bytes_per_block: BLOCK * size_of::<Slot>(),
            weight_bytes: 0,
            hidden: HIDDEN,
            pooling: config.pooling,
            device: "cpu".to_owned(),
            num_states: config.num_states,
            state_bytes: if config.num_states == 0 { 0 } else { 12 },
            ..RunnerSpec::default()
        };
        let slots = vec![None; config.num_blocks * BLOCK];
        let ready_blocks = spec.first_blocks();
        let states = vec![None; config.num_states];
        Self { config, spec, slots, states, ready_blocks, steps: 0, hook: None, hidden: Vec::new() }
    }

    /// Calls `hook` with the step's number at the start of every step, on the engine's thread.
    #[must_use]
    pub fn on_step(mut self, hook: impl FnMut(u64) + Send + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    fn check(&self, batch: &Batch) -> Result<(), String> {
        let rows = batch.len();
        if rows == 0 || rows > self.config.max_rows {
            return Err(format!("{rows} rows, limits 1 and {}", self.config.max_rows));
        }
        if batch.positions.len() != rows || batch.slots.len() != rows {
            return Err("columns differ in length".to_owned());
        }
        for wanted in [&batch.logit_rows, &batch.hidden_rows] {
            let is_within = wanted.last().is_none_or(|&row| (row as usize) < rows);
            if !is_within || !wanted.is_sorted_by(|a, b| a < b) {
                return Err(format!("wanted rows {wanted:?} of {rows}"));
            }
        }
        if let Some(token) = batch.tokens.iter().find(|&&t| t as usize >= self.config.vocab_size) {
            return Err(format!("token {token} is not in the vocabulary"));
        }
        let mut next = 0;
        for span in &batch.spans {
            if span.rows.start != next || span.rows.is_empty() {
                return Err(format!("span {:?} follows row {next}", span.rows));
            }
            next = span.rows.end;
            self.check_span(batch, span)?;
        }
        if next as usize != rows {
            return Err(format!("spans end at row {next} of {rows}"));
        }
        let mut slots = batch.slots.clone();
        slots.sort_unstable();
        slots.dedup();
        if slots.len() != rows {
            return Err("a slot is written twice".to_owned());
        }
        self.check_states(batch)
    }

    /// Every span has its pages where there are any, and no page is written twice or read by another.
    fn check_states(&self, batch: &Batch) -> Result<(), String> {
        let has_states = self.config.num_states > 0;
        if batch.spans.iter().any(|span| span.state.is_some() != has_states) {
            return Err(format!("state, where there are {} pages", self.config.num_states));
        }
        let mut writers = HashMap::new();
        for (at, state) in batch.spans.iter().filter_map(|span| span.state.as_ref()).enumerate() {
            for page in state.saves.iter().map(|save| save.page).chain([state.to]) {
                if page as usize >= self.config.num_states || writers.insert(page, at).is_some() {
                    return Err(format!("page {page} is none or written twice"));
                }
            }
        }
        for (at, state) in batch.spans.iter().filter_map(|span| span.state.as_ref()).enumerate() {
            let writer = state.from.and_then(|page| writers.get(&page));
            if writer.is_some_and(|&writer| writer != at) {
                return Err(format!("page {:?} is read and written", state.from));
            }
        }
        Ok(())
    }

    /// Reads the state before a span's rows, which have these histories, the one before them first, and
    /// leaves that after them, and its copies.
    fn carry(&mut self, span: &Span, histories: &[u64]) -> Result<(), String> {
        let Some(state) = &span.state else { return Ok(()) };
        let first = span.kv_len - span.rows.len() as u32;
        let read = match state.from {
            Some(page) => self.states[page as usize],
            None => Some((0, self.config.seed)),
        };
        if read != Some((first, histories[0])) {
            return Err(format!("the state {read:?} is not that after {first} tokens"));
        }
        let last = StateSave { rows: span.rows.len() as u32, page: state.to };
        for save in state.saves.iter().chain([&last]) {
            let history = histories.get(save.rows as usize).filter(|_| save.rows > 0);
            let history = *history.ok_or_else(|| format!("a copy after row {}", save.rows))?;
            self.states[save.page as usize] = Some((first + save.rows, history));
        }
        Ok(())
    }

    fn check_span(&self, batch: &Batch, span: &Span) -> Result<(), String> {
        let kv_len = span.kv_len as usize;
        if kv_len > self.config.context_len || span.blocks.len() * BLOCK < kv_len {
            return Err(format!("{kv_len} positions in {} blocks", span.blocks.len()));
        }
        if let Some(block) = span.blocks.iter().find(|&&b| b as usize >= self.ready_blocks) {
            return Err(format!("block {block} is not in the pool"));
        }
        for (row, position) in
            span.rows.clone().zip((span.kv_len - span.rows.len() as u32)..span.kv_len)
        {
            let (at, row) = (position as usize, row as usize);
            let slot = span.blocks[at / BLOCK] as usize * BLOCK + at % BLOCK;
            if batch.positions[row] != position || batch.slots[row] as usize != slot {
                return Err(format!("row {row} is not position {position} in slot {slot}"));
            }
        }
        Ok(())
    }

    /// Reads a span's history from the slots, writing its rows on the way: the state after each
    /// row of the span.
    fn run_span(&mut self, batch: &Batch, span: &Span) -> Result<Vec<u64>, String> {
        let first = span.kv_len - span.rows.len() as u32;
        let mut history = self.config.seed;
        let mut tokens = Vec::with_capacity(span.kv_len as usize);
        let mut states = Vec::with_capacity(span.rows.len());
        let mut histories = Vec::with_capacity(span.rows.len() + 1);
        for position in 0..span.kv_len {
            let at = position as usize;
            let slot = span.blocks[at / BLOCK] as usize * BLOCK + at % BLOCK;
            if position >= first {
                histories.push(history);
                let token = batch.tokens[(span.rows.start + position - first) as usize];
                let history = extend(history, token);
                self.slots[slot] = Some(Slot { position, token, history });
            }
            let Some(read) = self.slots[slot] else {
                return Err(format!("position {position} in slot {slot} was never written"));
            };
            history = extend(history, read.token);
            if read.position != position || read.history != history {
                return Err(format!("slot {slot} has another sequence's position: {read:?}"));
            }
            tokens.push(read.token);
            if position >= first {
                states.push(state(&self.config, history, &tokens));
            }
        }
        histories.push(history);
        self.carry(span, &histories)?;
        Ok(states)
    }
}

impl Runner for FakeRunner {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn grow_kv(&mut self, num_blocks: usize) -> usize {
        self.ready_blocks = self.ready_blocks.max(num_blocks.min(self.config.num_blocks));
        self.ready_blocks
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError> {
        let step = self.steps;
        self.steps += 1;
        if let Some(hook) = &mut self.hook {
            hook(step);
        }
        if !self.config.step_delay.is_zero() {
            std::thread::sleep(self.config.step_delay);
        }
        assert!(self.config.panic_at != Some(step), "step {step} was told to panic");
        if self.config.fail_at.contains(&step) {
            return Err(RunnerError(format!("step {step} was told to fail")));
        }
        self.check(batch).map_err(RunnerError)?;
        let mut states = Vec::with_capacity(batch.len());
        for span in &batch.spans {
            states.extend(self.run_span(batch, span).map_err(RunnerError)?);
        }
        let mut data = Vec::with_capacity(batch.logit_rows.len() * self.config.vocab_size);
        for &row in &batch.logit_rows {
            write_logits(&self.config, states[row as usize], &mut data);
        }
        self.hidden.clear();
        for &row in &batch.hidden_rows {
            self.hidden.extend(hidden_values(states[row as usize]));
        }
        if self.config.nan_at == Some(step) {
            data.fill(f32::NAN);
            self.hidden.fill(f32::NAN);
        }
        Ok(Logits { data: data.into(), vocab_size: self.config.vocab_size })
    }

    fn hidden(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.hidden)
    }
}

/// The logits after `tokens`, computed without batches and KV: what [`FakeRunner`] must give.
#[must_use]
pub fn expected_logits(config: &FakeConfig, tokens: &[u32]) -> Vec<f32> {
    let history = tokens.iter().fold(config.seed, |history, &token| extend(history, token));
    let mut data = Vec::with_capacity(config.vocab_size);
    write_logits(config, state(config, history, tokens), &mut data);
    data
}

/// The hidden state of the last of `tokens`, as [`expected_logits`].
#[must_use]
pub fn expected_hidden(config: &FakeConfig, tokens: &[u32]) -> Vec<f32> {
    let history = tokens.iter().fold(config.seed, |history, &token| extend(history, token));
    hidden_values(state(config, history, tokens)).collect()
}

/// What the logits are made from.
fn state(config: &FakeConfig, history: u64, tokens: &[u32]) -> u64 {
    match config.memory {
        None => history,
        Some(count) => {
            let last = &tokens[tokens.len().saturating_sub(count)..];
            last.iter().fold(config.seed, |state, &token| extend(state, token))
        }
    }
}

fn extend(history: u64, token: u32) -> u64 {
    mix(history ^ mix(u64::from(token) + 1))
}

/// One step of SplitMix64.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Values in 0 to 1.
fn unit(x: u64) -> f32 {
    (mix(x) >> 40) as f32 / (1_u32 << 24) as f32
}

/// A hidden state in -1 to 1.
fn hidden_values(state: u64) -> impl Iterator<Item = f32> {
    (0..HIDDEN as u64).map(move |i| unit(!state ^ (i << 32)) * 2.0 - 1.0)
}

/// Logits in -4 to 4.
fn write_logits(config: &FakeConfig, state: u64, out: &mut Vec<f32>) {
    let start = out.len();
    out.extend((0..config.vocab_size as u64).map(|v| unit(state ^ (v << 32)) * 8.0 - 4.0));
    if let Some((token, probability)) = config.eos
        && let Some(logit) = out.get_mut(start + token as usize)
    {
        *logit = if f64::from(unit(!state)) < probability { 100.0 } else { -100.0 };
    }
}
