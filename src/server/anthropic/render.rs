//! How an answer is written: its beats as events, or its blocks as one message.

use super::{
    answer::{AnswerBlock, AnthropicAnswer, MessageUsage, StopReason},
    events::{
        BlockDelta, BlockDeltaKind, BlockPiece, BlockStart, BlockStartKind, BlockStop,
        BlockStopKind, InputDelta, InputDeltaKind, MessageDelta, MessageDeltaKind, MessageEnd,
        MessageEvent, MessageStart, MessageStop, Ping, PingKind, StartKind, StopKind, TextDelta,
        TextDeltaKind, ThinkingDelta, ThinkingDeltaKind,
    },
};
use crate::{
    chat::generation::{
        Beat, Block, BlockKind, Collected, CollectedBlock, End, FinishReason, Piece, Step,
    },
    engine::Usage,
    server::{
        desk::{Begun, Now, Render, random_id},
        schema::FreeObject,
    },
};

/// A message under way.
pub(super) struct MessageRender {
    id: String,
    model: String,
    /// Tokens that prompt and answer may have together.
    context_len: usize,
    has_started: bool,
    /// Of the block that is open or comes next.
    index: u32,
}

impl MessageRender {
    pub(super) fn new(begun: &Begun) -> Self {
        Self {
            id: format!("msg_{}", random_id()),
            model: begun.model.clone(),
            context_len: begun.context_len,
            has_started: false,
            index: 0,
        }
    }

    fn stop_reason(&self, reason: FinishReason, by_string: bool, usage: Usage) -> StopReason {
        // Whether the answer ends where the context does.
        let is_full = (usage.prompt_tokens + usage.completion_tokens) as usize >= self.context_len;
        match reason {
            FinishReason::Stop if by_string => StopReason::StopSequence,
            FinishReason::Stop | FinishReason::Cancelled => StopReason::EndTurn,
            FinishReason::Length if is_full => StopReason::ContextFull,
            FinishReason::Length => StopReason::MaxTokens,
            FinishReason::ToolCalls => StopReason::ToolUse,
        }
    }

    /// The message begins with the first step: by then it is known how much of the prompt was cached.
    fn start(&mut self, now: Now<'_>) -> Vec<MessageEvent> {
        if std::mem::replace(&mut self.has_started, true) {
            return Vec::new();
        }
        let message = AnthropicAnswer::begin(&self.id, &self.model, now().usage);
        let start = MessageStart { r#type: StartKind::Only, message };
        vec![MessageEvent::Start(start), MessageEvent::Ping(Ping { r#type: PingKind::Only })]
    }

    fn open(&self, block: Block) -> MessageEvent {
        let content_block = match block {
            Block::Thinking => AnswerBlock::thinking(String::new()),
            Block::Text => AnswerBlock::text(String::new()),
            Block::Call { id, name, .. } => {
                AnswerBlock::tool_use(own_id(&id), name, FreeObject::default())
            }
        };
        let (kind, index) = (BlockStartKind::Only, self.index);
        MessageEvent::BlockStart(BlockStart { r#type: kind, index, content_block })
    }

    fn piece(&self, Piece { kind, text, .. }: Piece) -> Option<MessageEvent> {
        if text.is_empty() {
            return None;
        }
        let delta = match kind {
            BlockKind::Text => BlockPiece::Text(TextDelta { r#type: TextDeltaKind::Only, text }),
            BlockKind::Thinking => {
                let (kind, thinking) = (ThinkingDeltaKind::Only, text);
                BlockPiece::Thinking(ThinkingDelta { r#type: kind, thinking })
            }
            BlockKind::Call { .. } => {
                let (kind, partial_json) = (InputDeltaKind::Only, text);
                BlockPiece::Input(InputDelta { r#type: kind, partial_json })
            }
        };
        let (kind, index) = (BlockDeltaKind::Only, self.index);
        Some(MessageEvent::BlockDelta(BlockDelta { r#type: kind, index, delta }))
    }

    fn close(&mut self) -> MessageEvent {
        let (kind, index) = (BlockStopKind::Only, self.index);
        self.index += 1;
        MessageEvent::BlockStop(BlockStop { r#type: kind, index })
    }

    fn last(&self, end: End, now: Now<'_>) -> [MessageEvent; 2] {
        let delta = MessageEnd {
            stop_reason: self.stop_reason(end.reason, end.stop_string.is_some(), end.usage),
            stop_sequence: end.stop_string,
            stop_details: None,
            container: None,
        };
        let (kind, usage) = (MessageDeltaKind::Only, MessageUsage::new(&now()));
        let delta = MessageEvent::Delta(MessageDelta { r#type: kind, delta, usage });
        [delta, MessageEvent::Stop(MessageStop { r#type: StopKind::Only })]
    }
}

impl Render for MessageRender {
    type Event = MessageEvent;
    type Whole = AnthropicAnswer;

    fn step(&mut self, Step { beats, .. }: Step, now: Now<'_>) -> Vec<MessageEvent> {
        let mut events = self.start(now);
        for beat in beats {
            match beat {
                Beat::Open(block) => events.push(self.open(block)),
                Beat::Piece(piece) => events.extend(self.piece(piece)),
                Beat::Close { .. } => events.push(self.close()),
                Beat::End(end) => events.extend(self.last(end, now)),
                Beat::Progress { .. } | Beat::Failed(_) => {}
            }
        }
        events
    }

    fn whole(self, Collected { choices, tally }: Collected) -> AnthropicAnswer {
        let mut answer = AnthropicAnswer::begin(&self.id, &self.model, tally.usage);
        answer.usage = MessageUsage::new(&tally);
        if let Some(choice) = choices.into_iter().next() {
            let by_string = choice.stop_string.is_some();
            answer.stop_reason = Some(self.stop_reason(choice.reason, by_string, tally.usage));
            answer.stop_sequence = choice.stop_string;
            answer.content = choice.blocks.into_iter().map(AnswerBlock::from).collect();
        }
        answer
    }
}

impl From<CollectedBlock> for AnswerBlock {
    fn from(told: CollectedBlock) -> Self {
        // An input is an object in any case: of a call that was cut, as much as came.
        match told.call() {
            Some(call) => {
                Self::tool_use(own_id(&call.id), call.name.clone(), FreeObject(call.object()))
            }
            None if told.block == Block::Thinking => Self::thinking(told.text),
            None => Self::text(told.text),
        }
    }
}

/// The id of a call as this dialect begins it. Ids that a model's template needs in its own form stay.
fn own_id(id: &str) -> String {
    id.strip_prefix("call_").map_or_else(|| id.to_owned(), |rest| format!("toolu_{rest}"))
}
