//! From beats to a response: its events as they come, or the whole at its end.

use tokio_util::sync::CancellationToken;

use super::{
    events::{
        ArgumentsDeltaKind, ArgumentsDoneKind, InputDeltaKind, InputDoneKind, ItemEventKind,
        LifeKind, PartEventKind, ReasoningDeltaKind, ReasoningDoneKind, ResponsesArgumentsDelta,
        ResponsesArgumentsDone, ResponsesEvent, ResponsesInputDelta, ResponsesInputDone,
        ResponsesItemEvent, ResponsesLifeEvent, ResponsesOutputPart, ResponsesPartEvent,
        ResponsesReasoningDelta, ResponsesReasoningDone, ResponsesTextDelta, ResponsesTextDone,
        TextDeltaKind, TextDoneKind,
    },
    items::{
        CallKind, ItemStatus, OutputTextKind, ReasoningTextKind, ResponsesCall, ResponsesItem,
        ResponsesOutputText, ResponsesReasoningText,
    },
    object::{
        IncompleteDetails, IncompleteReason, ResponseError, ResponseObject, ResponseStatus,
        ResponseUsage,
    },
    store::Keeping,
    tools::{answered, is_custom},
};
use crate::{
    chat::generation::{Beat, Block, BlockKind, Collected, End, FinishReason, Piece, Step, Tally},
    error::{Error, Result},
    server::{
        desk::{Now, Render, random_id, unix_time_s},
        openai::logprobs::{ChatLogprobs, TokenLogprob},
    },
};

/// Whether anybody reads the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    Events,
    Whole,
}

/// What is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
}

/// The item that is being written.
struct Open {
    kind: Kind,
    id: String,
    text: String,
    logprobs: Vec<TokenLogprob>,
}

/// A response under way.
pub(super) struct ResponseRender {
    response: ResponseObject,
    /// If the response will be stored.
    keeping: Option<Keeping>,
    audience: Audience,
    ready: Vec<ResponsesEvent>,
    sequence_number: u64,
    open: Option<Open>,
    /// The call that is being written; then nothing else is open.
    calling: Option<ResponsesCall>,
}

impl Render for ResponseRender {
    type Event = ResponsesEvent;
    type Whole = ResponseObject;

    fn begin(&mut self, _now: Now<'_>) -> Vec<ResponsesEvent> {
        self.audience = Audience::Events;
        self.live(LifeKind::Created);
        self.live(LifeKind::InProgress);
        std::mem::take(&mut self.ready)
    }

    fn step(&mut self, Step { beats, .. }: Step, now: Now<'_>) -> Vec<ResponsesEvent> {
        for beat in beats {
            match beat {
                Beat::Open(Block::Call { id, name, .. }) => self.begin_call(id, name),
                Beat::Open(Block::Text) => self.begin_item(Kind::Text),
                Beat::Open(Block::Thinking) => self.begin_item(Kind::Reasoning),
                Beat::Piece(piece) => self.piece(piece),
                Beat::Close { is_whole } => self.close(is_whole),
                Beat::End(end) => self.end(end.reason, &now()),
                Beat::Progress { .. } | Beat::Failed(_) => {}
            }
        }
        std::mem::take(&mut self.ready)
    }

    /// A failure midway is an event.
    fn fail(&mut self, error: Error, now: Now<'_>) -> Result<Vec<ResponsesEvent>> {
        self.response.error = Some(ResponseError::from(&error));
        self.close(false);
        self.settle(ResponseStatus::Failed, &now());
        Ok(std::mem::take(&mut self.ready))
    }

    fn cancelled(&self) -> Option<CancellationToken> {
        self.keeping.as_ref().map(|keeping| keeping.cancel.clone())
    }

    fn whole(mut self, Collected { choices, tally }: Collected) -> ResponseObject {
        if let Some(choice) = choices.into_iter().next() {
            let mut beats = choice.beats();
            let (reason, stop_string) = (choice.reason, choice.stop_string);
            let (usage, timings) = (choice.usage, tally.timings);
            beats.push(Beat::End(End { reason, usage, timings, stop_string }));
            self.step(Step { index: 0, beats }, &|| tally.clone());
        }
        self.response
    }
}

impl ResponseRender {
    pub(super) fn new(response: ResponseObject, keeping: Option<Keeping>) -> Self {
        Self {
            response,
            keeping,
            audience: Audience::Whole,
            ready: Vec::new(),
            sequence_number: 0,
            open: None,
            calling: None,
        }
    }

    fn piece(&mut self, Piece { kind, text, logprobs, .. }: Piece) {
        match kind {
            BlockKind::Call { .. } => self.arguments(text),
            BlockKind::Thinking => self.append(text, Vec::new()),
            // Of tokens, those count that make up the text.
            BlockKind::Text => self.append(text, ChatLogprobs::new(&logprobs).content),
        }
    }

    fn append(&mut self, delta: String, logprobs: Vec<TokenLogprob>) {
        let Some(open) = self.open.as_mut().filter(|_| !(delta.is_empty() && logprobs.is_empty()))
        else {
            return;
        };
        open.text.push_str(&delta);
        open.logprobs.extend_from_slice(&logprobs);
        let (kind, item_id) = (open.kind, open.id.clone());
        let (output_index, content_index) = (self.response.output.len(), 0);
        self.tell(|sequence_number| match kind {
            Kind::Text => ResponsesEvent::TextDelta(ResponsesTextDelta {
                r#type: TextDeltaKind::Only,
                sequence_number,
                item_id,
                output_index,
                content_index,
                delta,
                logprobs,
            }),
            Kind::Reasoning => ResponsesEvent::ReasoningDelta(ResponsesReasoningDelta {
                r#type: ReasoningDeltaKind::Only,
                sequence_number,
                item_id,
                output_index,
                content_index,
                delta,
            }),
        });
    }

    fn begin_item(&mut self, kind: Kind) {
        let (id, status) = (random_id(), ItemStatus::InProgress);
        let (id, item) = match kind {
            Kind::Text => {
                let id = format!("msg_{id}");
                (id.clone(), ResponsesItem::message(&id, status, None))
            }
            Kind::Reasoning => {
                let id = format!("rs_{id}");
                (id.clone(), ResponsesItem::reasoning(&id, status, None))
            }
        };
        self.tell_item(ItemEventKind::Added, item);
        let open = Open { kind, id, text: String::new(), logprobs: Vec::new() };
        self.tell_part(PartEventKind::Added, &open);
        self.open = Some(open);
    }

    /// Ends what is being written.
    fn close(&mut self, is_whole: bool) {
        let status = if is_whole { ItemStatus::Completed } else { ItemStatus::Incomplete };
        self.end_call(status);
        let Some(open) = self.open.take() else { return };
        let (output_index, content_index) = (self.response.output.len(), 0);
        let (item_id, text) = (open.id.clone(), open.text.clone());
        let logprobs = open.logprobs.clone();
        self.tell(|sequence_number| match open.kind {
            Kind::Text => ResponsesEvent::TextDone(ResponsesTextDone {
                r#type: TextDoneKind::Only,
                sequence_number,
                item_id,
                output_index,
                content_index,
                text,
                logprobs,
            }),
            Kind::Reasoning => ResponsesEvent::ReasoningDone(ResponsesReasoningDone {
                r#type: ReasoningDoneKind::Only,
                sequence_number,
                item_id,
                output_index,
                content_index,
                text,
            }),
        });
        self.tell_part(PartEventKind::Done, &open);
        let item = match open.kind {
            Kind::Text => {
                ResponsesItem::message(&open.id, status, Some((open.text, open.logprobs)))
            }
            Kind::Reasoning => ResponsesItem::reasoning(&open.id, status, Some(open.text)),
        };
        self.tell_item(ItemEventKind::Done, item.clone());
        self.response.output.push(item);
    }

    fn begin_call(&mut self, call_id: String, name: String) {
        let item = ResponsesCall {
            id: format!("fc_{}", random_id()),
            r#type: CallKind::Only,
            call_id,
            namespace: None,
            name,
            arguments: String::new(),
            status: ItemStatus::InProgress,
        };
        self.tell_item(ItemEventKind::Added, answered(item.clone(), &self.response.tools));
        self.calling = Some(item);
    }

    fn arguments(&mut self, delta: String) {
        let Some(item) = self.calling.as_mut().filter(|_| !delta.is_empty()) else { return };
        item.arguments.push_str(&delta);
        // The text of a custom tool is known when its JSON is complete.
        if is_custom(&item.name, &self.response.tools) {
            return;
        }
        let (item_id, output_index) = (item.id.clone(), self.response.output.len());
        let kind = ArgumentsDeltaKind::Only;
        self.tell(|sequence_number| {
            ResponsesEvent::ArgumentsDelta(ResponsesArgumentsDelta {
                r#type: kind,
                sequence_number,
                item_id,
                output_index,
                delta,
            })
        });
    }

    fn end_call(&mut self, status: ItemStatus) {
        let Some(call) = self.calling.take() else { return };
        let item = answered(ResponsesCall { status, ..call }, &self.response.tools);
        let output_index = self.response.output.len();
        match item.clone() {
            ResponsesItem::CustomCall(call) => {
                let (item_id, delta) = (call.id.clone(), call.input.clone());
                self.tell(|sequence_number| {
                    ResponsesEvent::InputDelta(ResponsesInputDelta {
                        r#type: InputDeltaKind::Only,
                        sequence_number,
                        item_id,
                        output_index,
                        delta,
                    })
                });
                self.tell(|sequence_number| {
                    ResponsesEvent::InputDone(ResponsesInputDone {
                        r#type: InputDoneKind::Only,
                        sequence_number,
                        item_id: call.id,
                        output_index,
                        input: call.input,
                    })
                });
            }
            ResponsesItem::Call(call) => self.tell(|sequence_number| {
                ResponsesEvent::ArgumentsDone(ResponsesArgumentsDone {
                    r#type: ArgumentsDoneKind::Only,
                    sequence_number,
                    item_id: call.id,
                    output_index,
                    name: call.name,
                    arguments: call.arguments,
                })
            }),
            _ => {}
        }
        self.tell_item(ItemEventKind::Done, item.clone());
        self.response.output.push(item);
    }

    fn end(&mut self, reason: FinishReason, tally: &Tally) {
        let status = match reason {
            FinishReason::Length => ResponseStatus::Incomplete,
            FinishReason::Stop | FinishReason::ToolCalls => ResponseStatus::Completed,
            FinishReason::Cancelled => ResponseStatus::Cancelled,
        };
        // Clients look for a text; even one that has no characters is one.
        if reason.is_whole() && self.response.output.is_empty() {
            self.begin_item(Kind::Text);
            self.close(true);
        }
        self.settle(status, tally);
    }

    fn settle(&mut self, status: ResponseStatus, tally: &Tally) {
        let is_complete = status == ResponseStatus::Completed;
        self.response.status = status;
        self.response.completed_at = is_complete.then(unix_time_s);
        self.response.incomplete_details = (status == ResponseStatus::Incomplete)
            .then_some(IncompleteDetails { reason: IncompleteReason::MaxOutputTokens });
        self.response.usage = Some(ResponseUsage::new(tally));
        self.live(match status {
            ResponseStatus::Failed => LifeKind::Failed,
            ResponseStatus::Completed => LifeKind::Completed,
            _ => LifeKind::Incomplete,
        });
        if let Some(keeping) = self.keeping.take() {
            keeping.keep(&self.response);
        }
    }

    fn live(&mut self, kind: LifeKind) {
        if self.audience == Audience::Events {
            let response = self.response.clone();
            self.tell(|sequence_number| {
                ResponsesEvent::Life(ResponsesLifeEvent { r#type: kind, sequence_number, response })
            });
        }
    }

    fn tell_item(&mut self, kind: ItemEventKind, item: ResponsesItem) {
        let output_index = self.response.output.len();
        self.tell(|sequence_number| {
            ResponsesEvent::Item(ResponsesItemEvent {
                r#type: kind,
                sequence_number,
                output_index,
                item,
            })
        });
    }

    fn tell_part(&mut self, kind: PartEventKind, open: &Open) {
        let text = open.text.clone();
        let part = match open.kind {
            Kind::Text => ResponsesOutputPart::Text(ResponsesOutputText {
                r#type: OutputTextKind::Only,
                text,
                annotations: Vec::new(),
                logprobs: open.logprobs.clone(),
            }),
            Kind::Reasoning => ResponsesOutputPart::Reasoning(ResponsesReasoningText {
                r#type: ReasoningTextKind::Only,
                text,
            }),
        };
        let (item_id, output_index) = (open.id.clone(), self.response.output.len());
        self.tell(|sequence_number| {
            ResponsesEvent::Part(ResponsesPartEvent {
                r#type: kind,
                sequence_number,
                item_id,
                output_index,
                content_index: 0,
                part,
            })
        });
    }

    fn tell(&mut self, event: impl FnOnce(u64) -> ResponsesEvent) {
        if self.audience == Audience::Events {
            self.ready.push(event(self.sequence_number));
            self.sequence_number += 1;
        }
    }
}
