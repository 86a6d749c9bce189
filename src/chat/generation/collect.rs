//! The whole of an answer: the fold of its beats.

use std::ops::Range;

use crate::chat::ToolCall;
use crate::engine::{Timings, Usage};
use crate::error::Result;

use super::beat::{Beat, Block, BlockKind, FinishReason, Piece, Step};
use super::logprobs::TextLogprobs;
use super::running::Running;
use super::{Generation, Group, Tally, longest};

/// Everything that a generation brought forth.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// In order of request, then of choice; the `n` best of each request, best first, where more were
    /// generated.
    pub choices: Vec<CollectedChoice>,
    /// Of all candidates, chosen or not; times from the ends of the choices.
    pub tally: Tally,
}

/// One complete choice.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectedChoice {
    pub index: u32,
    /// As the model wrote them.
    pub blocks: Vec<CollectedBlock>,
    pub tokens: Vec<u32>,
    /// One for each of `tokens` if asked for, else empty.
    pub logprobs: Vec<TextLogprobs>,
    pub reason: FinishReason,
    pub stop_string: Option<String>,
    /// Of this choice alone.
    pub usage: Usage,
    /// Tokens of its prompt.
    pub prompt: Vec<u32>,
    /// One for each of `prompt` if asked for.
    pub prompt_logprobs: Option<Vec<TextLogprobs>>,
}

/// One block of a choice.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectedBlock {
    pub block: Block,
    /// Of a call, its arguments as JSON text.
    pub text: String,
    pub is_whole: bool,
    /// Which of the choice's log-probabilities came while the block was open.
    pub logprobs: Range<usize>,
}

impl CollectedChoice {
    fn new(index: u32) -> Self {
        Self {
            index,
            blocks: Vec::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            reason: FinishReason::Stop,
            stop_string: None,
            usage: Usage::default(),
            prompt: Vec::new(),
            prompt_logprobs: None,
        }
    }

    /// All text for the reader.
    #[must_use]
    pub fn text(&self) -> String {
        self.all_of(BlockKind::Text)
    }

    /// All that the model thought.
    #[must_use]
    pub fn thinking(&self) -> String {
        self.all_of(BlockKind::Thinking)
    }

    fn all_of(&self, kind: BlockKind) -> String {
        let blocks = self.blocks.iter().filter(|told| told.block.kind() == kind);
        blocks.map(|told| told.text.as_str()).collect()
    }

    /// All calls, also one that broke off.
    #[must_use]
    pub fn calls(&self) -> Vec<ToolCall> {
        self.blocks.iter().filter_map(CollectedBlock::call).collect()
    }

    /// The beats that make these blocks: each is one piece. They have no end.
    #[must_use]
    pub fn beats(&self) -> Vec<Beat> {
        let beats = self.blocks.iter().flat_map(|told| {
            let logprobs = self.logprobs.get(told.logprobs.clone()).unwrap_or_default().to_vec();
            let (kind, text) = (told.block.kind(), told.text.clone());
            let piece = Piece { kind, text, tokens: Vec::new(), logprobs };
            let (block, is_whole) = (told.block.clone(), told.is_whole);
            [Beat::Open(block), Beat::Piece(piece), Beat::Close { is_whole }]
        });
        beats.collect()
    }
}

impl CollectedBlock {
    /// The block as a call, if it is one.
    #[must_use]
    pub fn call(&self) -> Option<ToolCall> {
        let Block::Call { index, id, name } = &self.block else { return None };
        let (id, name, arguments) = (id.clone(), name.clone(), self.text.clone());
        Some(ToolCall { index: *index, id, name, arguments })
    }
}

/// Puts choices together from their beats.
#[derive(Debug)]
pub struct Fold {
    choices: Vec<CollectedChoice>,
    timings: Timings,
}

impl Fold {
    /// For so many choices.
    #[must_use]
    pub fn new(num_choices: usize) -> Self {
        let choices = (0..num_choices as u32).map(CollectedChoice::new).collect();
        Self { choices, timings: Timings::default() }
    }

    /// # Errors
    /// The failure of a choice.
    pub fn take(&mut self, step: Step) -> Result<()> {
        let Some(choice) = self.choices.get_mut(step.index as usize) else { return Ok(()) };
        for beat in step.beats {
            match beat {
                Beat::Progress { .. } => {}
                Beat::Open(block) => {
                    let at = choice.logprobs.len();
                    let (text, logprobs) = (String::new(), at..at);
                    choice.blocks.push(CollectedBlock { block, text, is_whole: false, logprobs });
                }
                Beat::Piece(piece) => {
                    choice.tokens.extend(piece.tokens);
                    choice.logprobs.extend(piece.logprobs);
                    let last = choice.blocks.last_mut();
                    if let Some(open) = last.filter(|told| told.block.kind() == piece.kind) {
                        open.text.push_str(&piece.text);
                        open.logprobs.end = choice.logprobs.len();
                    }
                }
                Beat::Close { is_whole } => {
                    if let Some(open) = choice.blocks.last_mut() {
                        open.is_whole = is_whole;
                    }
                }
                Beat::End(end) => {
                    self.timings = longest(&self.timings, &end.timings);
                    (choice.reason, choice.stop_string) = (end.reason, end.stop_string);
                    choice.usage = end.usage;
                }
                Beat::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The choices as they came.
    #[must_use]
    pub fn into_choices(self) -> Vec<CollectedChoice> {
        self.choices
    }
}

impl Generation {
    /// Waits for all choices.
    ///
    /// # Errors
    /// The failure of any choice; the others are cancelled.
    pub async fn collect(mut self) -> Result<Collected> {
        let mut fold = Fold::new(self.num_choices());
        while let Some(step) = self.next().await {
            fold.take(step)?;
        }
        Ok(self.collected(fold))
    }

    /// What a fold of all beats comes to: the choices that are returned, and what all of them took.
    #[must_use]
    pub fn collected(&self, fold: Fold) -> Collected {
        let tally = Tally { timings: fold.timings, ..self.tally() };
        let mut candidates: Vec<_> = fold.into_choices().into_iter().map(Some).collect();
        for (at, candidate) in candidates.iter_mut().flatten().enumerate() {
            candidate.prompt = self.prompt(at as u32).to_vec();
            candidate.prompt_logprobs = self.running.get(at).and_then(Running::prompt_logprobs);
        }
        let chosen = self.groups.iter().flat_map(|group| self.best(group));
        let choices = chosen.filter_map(|at| candidates.get_mut(at)?.take()).enumerate();
        let choices = choices.map(|(at, choice)| CollectedChoice { index: at as u32, ..choice });
        Collected { choices: choices.collect(), tally }
    }

    /// The candidates of a request that are returned: the first of equals comes first.
    fn best(&self, group: &Group) -> Vec<usize> {
        let mut candidates: Vec<usize> =
            (group.first..group.first + group.num_candidates).collect();
        if group.num_candidates > group.n {
            candidates.sort_by(|a, b| self.mean_logprob(*b).total_cmp(&self.mean_logprob(*a)));
            candidates.truncate(group.n);
        }
        candidates
    }

    /// Lowest for a candidate without tokens: saying nothing is no achievement.
    fn mean_logprob(&self, at: usize) -> f64 {
        match self.running.get(at).map(|running| &running.choice) {
            Some(choice) if choice.num_tokens > 0 => {
                choice.logprob_sum / f64::from(choice.num_tokens)
            }
            _ => f64::NEG_INFINITY,
        }
    }
}
