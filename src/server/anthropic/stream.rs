//! The events of a streamed answer.
//!
//! ```text
//! message_start ping (content_block_start content_block_delta… content_block_stop)… message_delta message_stop
//! ```

use std::collections::VecDeque;

use futures_util::Stream;
use poem_openapi::{Object, Union};
use serde::Serialize;

use super::answer::{AnswerBlock, AnthropicAnswer, MessageUsage, StopReason, fills, stop_reason};
use crate::{
    chat::{
        CallDelta, CallStart,
        generation::{Delta, Finished, Output},
    },
    error::{Error, Result},
    server::{
        error::{Dialect, Failure},
        openai::Running,
        schema::{FreeObject, wire_constants},
        sse::Event,
    },
};

wire_constants! {
    StartKind = "message_start",
    PingKind = "ping",
    BlockStartKind = "content_block_start",
    BlockDeltaKind = "content_block_delta",
    BlockStopKind = "content_block_stop",
    MessageDeltaKind = "message_delta",
    StopKind = "message_stop",
    TextDeltaKind = "text_delta",
    ThinkingDeltaKind = "thinking_delta",
    InputDeltaKind = "input_json_delta",
}

/// The message begins; it has no content yet.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageStart {
    pub r#type: StartKind,
    pub message: AnthropicAnswer,
}

/// Nothing; it keeps the connection open.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Ping {
    pub r#type: PingKind,
}

/// A block begins, empty.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct BlockStart {
    pub r#type: BlockStartKind,
    pub index: u32,
    pub content_block: AnswerBlock,
}

/// A piece of text.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct TextDelta {
    pub r#type: TextDeltaKind,
    pub text: String,
}

/// A piece of what the model thinks.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ThinkingDelta {
    pub r#type: ThinkingDeltaKind,
    pub thinking: String,
}

/// A piece of a call's arguments.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct InputDelta {
    pub r#type: InputDeltaKind,
    /// Pieces put together are the arguments as JSON text.
    pub partial_json: String,
}

/// A piece of a block.
#[derive(Clone, Debug, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum BlockPiece {
    Text(TextDelta),
    Thinking(ThinkingDelta),
    Input(InputDelta),
}

/// A block goes on.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct BlockDelta {
    pub r#type: BlockDeltaKind,
    pub index: u32,
    pub delta: BlockPiece,
}

/// A block is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct BlockStop {
    pub r#type: BlockStopKind,
    pub index: u32,
}

/// Why the answer ends.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageEnd {
    pub stop_reason: StopReason,
    /// The string of `stop_sequences` that ended the answer.
    #[oai(nullable)]
    pub stop_sequence: Option<String>,
    /// Always null: models do not refuse in a way of their own.
    #[oai(nullable)]
    pub stop_details: Option<FreeObject>,
    /// Always null: the server runs no tools.
    #[oai(nullable)]
    pub container: Option<FreeObject>,
}

/// The message is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageDelta {
    pub r#type: MessageDeltaKind,
    pub delta: MessageEnd,
    /// Of the whole request.
    pub usage: MessageUsage,
}

/// The stream is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageStop {
    pub r#type: StopKind,
}

/// One event of a streamed answer. A failure midway is an event `error` with the body of failures.
#[derive(Clone, Debug, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum MessageEvent {
    Start(MessageStart),
    Ping(Ping),
    BlockStart(BlockStart),
    BlockDelta(BlockDelta),
    BlockStop(BlockStop),
    Delta(MessageDelta),
    Stop(MessageStop),
}

impl Event for MessageEvent {
    const PATIENCE: &'static [u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";
    const END: &'static [u8] = b"";

    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Start(_) => "message_start",
            Self::Ping(_) => "ping",
            Self::BlockStart(_) => "content_block_start",
            Self::BlockDelta(_) => "content_block_delta",
            Self::BlockStop(_) => "content_block_stop",
            Self::Delta(_) => "message_delta",
            Self::Stop(_) => "message_stop",
        })
    }

    fn failure(error: Error) -> Vec<u8> {
        let body = Dialect::anthropic_body(&Failure::from(error));
        format!("event: error\ndata: {body}\n\n").into_bytes()
    }
}

/// The kind of the block that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    Call,
}

/// How an answer is streamed.
pub(super) struct MessageStream {
    id: String,
    model: String,
    running: Running,
    has_started: bool,
    open: Option<Open>,
    /// Of the next block.
    index: u32,
    /// Blanks at the beginning of a text, which are none if a call follows.
    blanks: String,
}

impl MessageStream {
    pub(super) fn new(id: String, model: String, running: Running) -> Self {
        let blanks = String::new();
        Self { id, model, running, has_started: false, open: None, index: 0, blanks }
    }

    /// The events of the answer; its first says how much of the prompt was in the cache, and comes when
    /// that is known.
    pub(super) fn events(self) -> impl Stream<Item = Result<MessageEvent>> + Send + 'static {
        let state = (VecDeque::new(), Some(self));
        futures_util::stream::unfold(state, |(mut ready, mut stream)| async move {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((Ok(event), (ready, stream)));
                }
                let mut messages = stream.take()?;
                match messages.running.generation.next().await {
                    None => {}
                    Some(Output::Failed { error, .. }) => return Some((Err(error), (ready, None))),
                    Some(output) => {
                        messages.start(&mut ready);
                        messages.translate(output, &mut ready);
                        stream = Some(messages);
                    }
                }
            }
        })
    }

    fn start(&mut self, events: &mut VecDeque<MessageEvent>) {
        if std::mem::replace(&mut self.has_started, true) {
            return;
        }
        let usage = self.running.generation.usage();
        let message = AnthropicAnswer::begin(&self.id, &self.model, usage);
        events.push_back(MessageEvent::Start(MessageStart { r#type: StartKind::Only, message }));
        events.push_back(MessageEvent::Ping(Ping { r#type: PingKind::Only }));
    }

    fn translate(&mut self, output: Output, events: &mut VecDeque<MessageEvent>) {
        match output {
            Output::Delta(delta) => self.pieces(delta, events),
            Output::Finished(finished) => self.end(finished, events),
            Output::Prefill { .. } | Output::Failed { .. } => {}
        }
    }

    fn pieces(&mut self, delta: Delta, events: &mut VecDeque<MessageEvent>) {
        if !delta.reasoning.is_empty() {
            self.be_in(Open::Thinking, events);
            let (kind, thinking) = (ThinkingDeltaKind::Only, delta.reasoning);
            let piece = ThinkingDelta { r#type: kind, thinking };
            events.push_back(self.piece(BlockPiece::Thinking(piece)));
        }
        // The rest of an open call stands before new text.
        let (rest, calls): (Vec<_>, Vec<_>) =
            delta.calls.into_iter().partition(|call| call.start.is_none());
        rest.into_iter().for_each(|call| self.call(call, events));
        self.text(&delta.text, events);
        for call in calls {
            self.blanks.clear();
            self.call(call, events);
        }
    }

    fn text(&mut self, text: &str, events: &mut VecDeque<MessageEvent>) {
        self.blanks.push_str(text);
        let is_blank = self.blanks.chars().all(char::is_whitespace);
        if self.open == Some(Open::Text) || !is_blank {
            self.say(events);
        }
    }

    /// Sends the text that is held back.
    fn say(&mut self, events: &mut VecDeque<MessageEvent>) {
        if self.blanks.is_empty() {
            return;
        }
        self.be_in(Open::Text, events);
        let text = std::mem::take(&mut self.blanks);
        let piece = TextDelta { r#type: TextDeltaKind::Only, text };
        events.push_back(self.piece(BlockPiece::Text(piece)));
    }

    fn call(&mut self, call: CallDelta, events: &mut VecDeque<MessageEvent>) {
        if let Some(CallStart { id, name }) = call.start {
            self.close(events);
            self.open_block(AnswerBlock::tool_use(id, name, FreeObject::default()), events);
            self.open = Some(Open::Call);
        }
        if !call.arguments.is_empty() {
            let (kind, partial_json) = (InputDeltaKind::Only, call.arguments);
            let piece = InputDelta { r#type: kind, partial_json };
            events.push_back(self.piece(BlockPiece::Input(piece)));
        }
        if call.ends {
            self.close(events);
        }
    }

    fn end(&mut self, finished: Finished, events: &mut VecDeque<MessageEvent>) {
        let is_full = fills(self.running.lease.engine.spec().context_len, finished.usage);
        let reason = stop_reason(finished.reason, finished.stop_string.is_some(), is_full);
        if reason != StopReason::ToolUse {
            self.say(events);
        }
        self.close(events);
        let delta = MessageEnd {
            stop_reason: reason,
            stop_sequence: finished.stop_string,
            stop_details: None,
            container: None,
        };
        let generation = &self.running.generation;
        let usage = MessageUsage::new(generation.usage(), generation.reasoning_tokens());
        let kind = MessageDeltaKind::Only;
        events.push_back(MessageEvent::Delta(MessageDelta { r#type: kind, delta, usage }));
        events.push_back(MessageEvent::Stop(MessageStop { r#type: StopKind::Only }));
    }

    /// Sees to it that a block of this kind is open.
    fn be_in(&mut self, kind: Open, events: &mut VecDeque<MessageEvent>) {
        if self.open == Some(kind) {
            return;
        }
        self.close(events);
        let block = match kind {
            Open::Thinking => AnswerBlock::thinking(String::new()),
            Open::Text | Open::Call => AnswerBlock::text(String::new()),
        };
        self.open_block(block, events);
        self.open = Some(kind);
    }

    fn open_block(&self, content_block: AnswerBlock, events: &mut VecDeque<MessageEvent>) {
        let (kind, index) = (BlockStartKind::Only, self.index);
        events.push_back(MessageEvent::BlockStart(BlockStart {
            r#type: kind,
            index,
            content_block,
        }));
    }

    fn piece(&self, delta: BlockPiece) -> MessageEvent {
        let (kind, index) = (BlockDeltaKind::Only, self.index);
        MessageEvent::BlockDelta(BlockDelta { r#type: kind, index, delta })
    }

    fn close(&mut self, events: &mut VecDeque<MessageEvent>) {
        if self.open.take().is_some() {
            self.stop_block(events);
        }
    }

    fn stop_block(&mut self, events: &mut VecDeque<MessageEvent>) {
        let (kind, index) = (BlockStopKind::Only, self.index);
        events.push_back(MessageEvent::BlockStop(BlockStop { r#type: kind, index }));
        self.index += 1;
    }
}
