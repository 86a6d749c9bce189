//! From a generation to a response: its events as they come, or the whole at its end.

use std::collections::VecDeque;

use futures_util::Stream;

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
    chat::{
        CallDelta, CallStart,
        generation::{Delta, FinishReason, Output},
    },
    error::{Error, Result},
    server::{
        drain::Drain,
        openai::{
            Running,
            logprobs::{ChatLogprobs, TokenLogprob},
            random_id, unix_time_s,
        },
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
pub(super) struct Responding {
    response: ResponseObject,
    running: Running,
    drain: Drain,
    /// If the response will be stored.
    keeping: Option<Keeping>,
    audience: Audience,
    ready: VecDeque<ResponsesEvent>,
    sequence_number: u64,
    open: Option<Open>,
    /// The call that is being written; then nothing else is open.
    calling: Option<ResponsesCall>,
    /// Blanks at the beginning of a text, which are none if a call follows.
    blanks: String,
    blank_logprobs: Vec<TokenLogprob>,
    is_over: bool,
    failure: Option<Error>,
}

impl Responding {
    pub(super) fn new(
        response: ResponseObject,
        running: Running,
        drain: Drain,
        keeping: Option<Keeping>,
    ) -> Self {
        Self {
            response,
            running,
            drain,
            keeping,
            audience: Audience::Whole,
            ready: VecDeque::new(),
            sequence_number: 0,
            open: None,
            calling: None,
            blanks: String::new(),
            blank_logprobs: Vec::new(),
            is_over: false,
            failure: None,
        }
    }

    /// The events. A failure midway is one of them.
    pub(super) fn events(mut self) -> impl Stream<Item = Result<ResponsesEvent>> + Send + 'static {
        self.audience = Audience::Events;
        self.live(LifeKind::Created);
        self.live(LifeKind::InProgress);
        futures_util::stream::unfold(self, |mut responding| async move {
            loop {
                if let Some(event) = responding.ready.pop_front() {
                    return Some((Ok(event), responding));
                }
                if responding.is_over {
                    return None;
                }
                responding.step().await;
            }
        })
    }

    /// The response at its end.
    pub(super) async fn whole(mut self) -> Result<ResponseObject> {
        while !self.is_over {
            self.step().await;
        }
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.response),
        }
    }

    async fn step(&mut self) {
        let cancelled = async {
            match &self.keeping {
                Some(keeping) => keeping.cancel.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let output = tokio::select! {
            biased;
            () = cancelled => return self.end(ResponseStatus::Cancelled),
            output = self.running.generation.next() => output,
            () = self.drain.expired() => return self.fail(Drain::error()),
        };
        match output {
            Some(Output::Prefill { .. }) => {}
            Some(Output::Delta(delta)) => self.write(delta),
            Some(Output::Finished(finished)) => {
                if finished.reason != FinishReason::ToolCalls {
                    self.say();
                }
                self.end(match finished.reason {
                    FinishReason::Length => ResponseStatus::Incomplete,
                    FinishReason::Stop | FinishReason::ToolCalls => ResponseStatus::Completed,
                });
            }
            Some(Output::Failed { error, .. }) => self.fail(error),
            None => self.fail(Error::internal("the answer broke off")),
        }
    }

    fn write(&mut self, delta: Delta) {
        if !delta.reasoning.is_empty() {
            self.be_in(Kind::Reasoning);
            self.append(delta.reasoning, Vec::new());
        }
        // The rest of an open call stands before new text.
        let (rest, calls): (Vec<_>, Vec<_>) =
            delta.calls.into_iter().partition(|call| call.start.is_none());
        rest.into_iter().for_each(|call| self.call(call));
        let is_text = self.open.as_ref().is_some_and(|open| open.kind == Kind::Text);
        // Of tokens, those count that make up the text.
        if is_text || !delta.text.is_empty() {
            self.blank_logprobs.extend(ChatLogprobs::new(&delta.logprobs).content);
        }
        self.blanks.push_str(&delta.text);
        if is_text || !self.blanks.chars().all(char::is_whitespace) {
            self.say();
        }
        for call in calls {
            self.blanks.clear();
            self.blank_logprobs.clear();
            self.call(call);
        }
    }

    /// Writes the text that is held back.
    fn say(&mut self) {
        let text = std::mem::take(&mut self.blanks);
        let logprobs = std::mem::take(&mut self.blank_logprobs);
        if !(text.is_empty() && logprobs.is_empty()) {
            self.be_in(Kind::Text);
            self.append(text, logprobs);
        }
    }

    fn append(&mut self, delta: String, logprobs: Vec<TokenLogprob>) {
        let Some(open) = &mut self.open else { return };
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

    /// Sees to it that an item of this kind is being written.
    fn be_in(&mut self, kind: Kind) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.close(ItemStatus::Completed);
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

    fn close(&mut self, status: ItemStatus) {
        // A call that is open still was cut.
        self.end_call(ItemStatus::Incomplete);
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

    /// A piece of a call.
    fn call(&mut self, piece: CallDelta) {
        if let Some(CallStart { id, name }) = piece.start {
            self.close(ItemStatus::Completed);
            let item = ResponsesCall {
                id: format!("fc_{}", random_id()),
                r#type: CallKind::Only,
                call_id: id,
                namespace: None,
                name,
                arguments: String::new(),
                status: ItemStatus::InProgress,
            };
            self.tell_item(ItemEventKind::Added, answered(item.clone(), &self.response.tools));
            self.calling = Some(item);
        }
        let output_index = self.response.output.len();
        let calling = self.calling.as_mut().filter(|_| !piece.arguments.is_empty());
        let is_custom = calling.as_ref().is_some_and(|c| is_custom(&c.name, &self.response.tools));
        if let Some(item) = calling {
            item.arguments.push_str(&piece.arguments);
            let item_id = item.id.clone();
            // The text of a custom tool is known when its JSON is complete.
            if !is_custom {
                self.tell(|sequence_number| {
                    ResponsesEvent::ArgumentsDelta(ResponsesArgumentsDelta {
                        r#type: ArgumentsDeltaKind::Only,
                        sequence_number,
                        item_id,
                        output_index,
                        delta: piece.arguments,
                    })
                });
            }
        }
        if piece.ends {
            self.end_call(ItemStatus::Completed);
        }
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

    fn fail(&mut self, error: Error) {
        self.response.error = Some(ResponseError::from(&error));
        self.failure = Some(error);
        self.end(ResponseStatus::Failed);
    }

    fn end(&mut self, status: ResponseStatus) {
        let is_complete = status == ResponseStatus::Completed;
        // Clients look for a text; even one that has no characters is one.
        if is_complete && self.open.is_none() && self.response.output.is_empty() {
            self.be_in(Kind::Text);
        }
        self.close(if is_complete { ItemStatus::Completed } else { ItemStatus::Incomplete });
        let generation = &self.running.generation;
        self.response.status = status;
        self.response.completed_at = is_complete.then(unix_time_s);
        self.response.incomplete_details = (status == ResponseStatus::Incomplete)
            .then_some(IncompleteDetails { reason: IncompleteReason::MaxOutputTokens });
        self.response.usage =
            Some(ResponseUsage::new(generation.usage(), generation.reasoning_tokens()));
        self.live(match status {
            ResponseStatus::Failed => LifeKind::Failed,
            ResponseStatus::Completed => LifeKind::Completed,
            _ => LifeKind::Incomplete,
        });
        self.is_over = true;
        // Nobody knows the id of a response that failed before it was sent.
        let is_known = self.failure.is_none() || self.audience == Audience::Events;
        if let Some(keeping) = self.keeping.take().filter(|_| is_known) {
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
            self.ready.push_back(event(self.sequence_number));
            self.sequence_number += 1;
        }
    }
}
