//! What happens to an answer, told as beats, and the one rule about blanks before a call.
//!
//! ```text
//! Progress…  ( Open Piece… Close )…  End | Failed
//! ```
//!
//! Blocks stand in the order in which the model wrote them. Whoever streams passes beats on; whoever
//! wants the whole folds the same beats, see [`super::Fold`].

use crate::chat::{AnswerPart, CallDelta, CallStart};
use crate::engine::{Timings, Usage};
use crate::error::Error;

use super::logprobs::TextLogprobs;

/// What a part of an answer is, as told when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// What the model thinks before it answers; chats only.
    Thinking,
    /// Text for the reader.
    Text,
    /// A call of a tool; its text is the arguments as JSON.
    Call {
        /// Position among the calls of the answer.
        index: u32,
        /// Unique, in the form that the model's template accepts.
        id: String,
        name: String,
    },
}

impl Block {
    #[must_use]
    pub fn kind(&self) -> BlockKind {
        match self {
            Self::Thinking => BlockKind::Thinking,
            Self::Text => BlockKind::Text,
            Self::Call { index, .. } => BlockKind::Call { index: *index },
        }
    }
}

/// [`Block`] without what is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    Thinking,
    Text,
    Call { index: u32 },
}

impl BlockKind {
    fn is_call(self) -> bool {
        matches!(self, Self::Call { .. })
    }
}

/// New text of a block with the tokens it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// That of the open block; `Text` where none is open, and then there is no text.
    pub kind: BlockKind,
    /// Empty where tokens became marks, or where a call has no arguments yet.
    pub text: String,
    /// Tokens whose text begins in this piece or before and that were in no earlier one.
    pub tokens: Vec<u32>,
    /// One for each of `tokens` if asked for, else empty.
    pub logprobs: Vec<TextLogprobs>,
}

/// Something that happens to a choice. After `End` or `Failed` nothing more is told of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Beat {
    /// A part of the prompt was read; all in tokens.
    Progress {
        processed: u32,
        cached: u32,
        total: u32,
    },
    /// A block begins; the one before is closed. A call's first piece follows in the same step, even
    /// if it is empty.
    Open(Block),
    Piece(Piece),
    /// The open block ends; it is not whole if the answer broke off in it.
    Close {
        is_whole: bool,
    },
    End(End),
    /// The choice ends by a failure, perhaps within a block.
    Failed(Error),
}

/// How a choice ended and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub reason: FinishReason,
    /// Of this choice alone; see [`super::Tally`] for all. Tokens that a stop string swallowed are
    /// counted, as they were generated; what the engine ran ahead afterwards is not.
    pub usage: Usage,
    pub timings: Timings,
    /// The stop string that ended it.
    pub stop_string: Option<String>,
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token, a stop string, or the grammar is complete.
    Stop,
    /// The model calls tools.
    ToolCalls,
    /// `max_tokens`, or the time is up.
    Length,
    /// Somebody ended it, see [`super::Generation::cancel`].
    Cancelled,
}

impl FinishReason {
    /// Whether the model was done.
    #[must_use]
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Stop | Self::ToolCalls)
    }
}

/// Beats of one choice that belong together, such as those of one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub index: u32,
    pub beats: Vec<Beat>,
}

/// Turns parts of an answer into beats.
///
/// Where tools may be called, blanks at the beginning of a text are held back: they are text if more
/// text follows or the answer ends without a call, and nothing if a call opens. Their tokens go with
/// the next piece.
#[derive(Debug, Default)]
pub struct Teller {
    holds_blanks: bool,
    open: Option<BlockKind>,
    has_calls: bool,
    blanks: String,
    /// Of the next piece.
    tokens: Vec<u32>,
    logprobs: Vec<TextLogprobs>,
    beats: Vec<Beat>,
}

impl Teller {
    #[must_use]
    pub fn new(may_call: bool) -> Self {
        Self { holds_blanks: may_call, ..Self::default() }
    }

    /// Tokens that what is told next came from.
    pub fn bring(&mut self, tokens: Vec<u32>, logprobs: Vec<TextLogprobs>) {
        let first = self.beats.iter_mut().find_map(|beat| match beat {
            Beat::Piece(piece) => Some(piece),
            _ => None,
        });
        match first {
            // Those of a step go with its first piece.
            Some(piece) if self.blanks.is_empty() => {
                piece.tokens.extend(tokens);
                piece.logprobs.extend(logprobs);
            }
            _ => {
                self.tokens.extend(tokens);
                self.logprobs.extend(logprobs);
            }
        }
    }

    pub fn think(&mut self, text: &str) {
        if !text.is_empty() {
            self.go_on(Block::Thinking, text);
        }
    }

    /// Text for the reader, or a piece of a call.
    pub fn part(&mut self, part: AnswerPart) {
        match part {
            AnswerPart::Text(text) => self.text(&text),
            AnswerPart::Call(call) => self.call(call),
        }
    }

    fn text(&mut self, text: &str) {
        self.blanks.push_str(text);
        let is_held = self.holds_blanks
            && self.open != Some(BlockKind::Text)
            && self.blanks.chars().all(char::is_whitespace);
        if !is_held {
            self.say_held();
        }
    }

    fn say_held(&mut self) {
        let text = std::mem::take(&mut self.blanks);
        if !text.is_empty() {
            self.go_on(Block::Text, &text);
        }
    }

    fn call(&mut self, call: CallDelta) {
        let CallDelta { index, start, arguments, ends } = call;
        if let Some(CallStart { id, name }) = start {
            self.has_calls = true;
            self.blanks.clear();
            self.open(Block::Call { index, id, name });
            self.piece(BlockKind::Call { index }, &arguments);
        } else if !arguments.is_empty() || (ends && !self.tokens.is_empty()) {
            self.piece(BlockKind::Call { index }, &arguments);
        }
        if ends {
            self.close_as(true);
        }
    }

    /// More text of a block, which opens if it is not the open one.
    fn go_on(&mut self, block: Block, text: &str) {
        let kind = block.kind();
        if self.open != Some(kind) {
            self.open(block);
        }
        self.piece(kind, text);
    }

    fn open(&mut self, block: Block) {
        // A call that is open still broke off.
        self.close_as(!self.is_amid_call());
        self.open = Some(block.kind());
        self.beats.push(Beat::Open(block));
    }

    fn piece(&mut self, kind: BlockKind, text: &str) {
        let (tokens, logprobs) =
            (std::mem::take(&mut self.tokens), std::mem::take(&mut self.logprobs));
        if let Some(Beat::Piece(last)) = self.beats.last_mut().filter(|_| !kind.is_call()) {
            last.text.push_str(text);
            last.tokens.extend(tokens);
            last.logprobs.extend(logprobs);
        } else {
            let text = text.to_owned();
            self.beats.push(Beat::Piece(Piece { kind, text, tokens, logprobs }));
        }
    }

    fn close_as(&mut self, is_whole: bool) {
        if self.open.take().is_some() {
            self.beats.push(Beat::Close { is_whole });
        }
    }

    /// No more text comes: blanks that are still held are text, unless the answer has calls.
    pub fn finish(&mut self) {
        if self.has_calls {
            self.blanks.clear();
        }
        self.say_held();
    }

    fn is_amid_call(&self) -> bool {
        self.open.is_some_and(BlockKind::is_call)
    }

    /// Closes the open block.
    pub fn close(&mut self, reason: FinishReason) {
        self.close_as(reason.is_whole() && !self.is_amid_call());
    }

    /// What has been told since the last time. Tokens without text are a piece of their own, unless
    /// they wait with blanks.
    pub fn take(&mut self) -> Vec<Beat> {
        if !self.tokens.is_empty() && self.blanks.is_empty() {
            self.piece(self.open.unwrap_or(BlockKind::Text), "");
        }
        std::mem::take(&mut self.beats)
    }
}
