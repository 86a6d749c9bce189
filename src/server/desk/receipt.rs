//! One end of every request: who asked whom for what, what it took, and how it ended.
//!
//! A [`Ledger`] goes with a request and is filled in on its way; when the body of the answer has been
//! taken or dropped, or the client left before there was one, its [`Receipt`] is made, once.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    chat::generation::{Beat, FinishReason, Step, Tally},
    engine::{Timings, Usage},
    error::{Error, Kind},
    server::drain::Drain,
};

/// Who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Among whom places and caches are divided; 0: nobody was told apart.
    pub tenant: u64,
    /// A short hash of the API key, where keys are configured and it was right.
    pub key: Option<u64>,
    /// Where the request came from, if through a socket.
    pub address: Option<IpAddr>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of the answer was taken; with the reason of the first choice where text was generated.
    Done(Option<FinishReason>),
    /// Refused, before or after admission, or failed midway.
    Failed(Kind),
    /// A shutdown refused or ended it.
    Drained,
    /// The client went away.
    Gone,
}

impl Outcome {
    /// A stable word for logs and metrics: `done`, a finish reason, an error's type, `shutting_down`
    /// or `client_gone`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done(None) => "done",
            Self::Done(Some(FinishReason::Stop)) => "stop",
            Self::Done(Some(FinishReason::Length)) => "length",
            Self::Done(Some(FinishReason::ToolCalls)) => "tool_calls",
            Self::Done(Some(FinishReason::Cancelled)) => "cancelled",
            Self::Failed(kind) => kind.wire_type(),
            Self::Drained => "shutting_down",
            Self::Gone => "client_gone",
        }
    }

    fn of_error(error: &Error) -> Self {
        match error.code {
            Some(code) if Drain::error().code == Some(code) => Self::Drained,
            _ => Self::Failed(error.kind),
        }
    }
}

/// What is known of a request when it has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    pub identity: Identity,
    /// The protocol that the path belongs to: `openai`, `anthropic`, `ollama`, `llama` or `kolosal`.
    pub dialect: &'static str,
    /// The path as the document has it; empty for a path that it does not have.
    pub route: String,
    /// The id of the engine that was asked; `None` where none was, or before it was found.
    pub engine: Option<String>,
    /// Tokens of all choices, those from the prefix cache and of drafts among them.
    pub usage: Usage,
    /// The longest of each kind among the choices, in milliseconds.
    pub timings: Timings,
    pub outcome: Outcome,
}

/// Who is told of every receipt.
#[derive(Clone, Default)]
pub struct OnReceipt(Option<Arc<dyn Fn(&Receipt) + Send + Sync>>);

impl OnReceipt {
    /// Calls `told` once for each request that has ended, on the thread on which it ends.
    pub fn new(told: impl Fn(&Receipt) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    pub(crate) fn tell(&self, receipt: &Receipt) {
        if let Some(told) = &self.0 {
            told(receipt);
        }
    }
}

impl fmt::Debug for OnReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OnReceipt(told)" } else { "OnReceipt(nobody)" })
    }
}

/// What is known of a request so far; cheap to clone, and all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    identity: Identity,
    path: String,
    route: String,
    engine: Option<String>,
    usage: Usage,
    timings: Timings,
    reason: Option<FinishReason>,
    /// Why there is no whole answer.
    outcome: Option<Outcome>,
}

impl Ledger {
    fn note(&self, note: impl FnOnce(&mut Entries)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn came_from(&self, identity: Identity) {
        self.note(|all| all.identity = identity);
    }

    /// `path` is that of the request without `/v1`, `route` the document's for it.
    pub(crate) fn routed(&self, path: &str, route: Option<String>) {
        self.note(|all| (all.path, all.route) = (path.to_owned(), route.unwrap_or_default()));
    }

    pub(super) fn seated(&self, engine: &str) {
        self.note(|all| all.engine = Some(engine.to_owned()));
    }

    pub(super) fn read(&self, prompt_tokens: u32) {
        self.note(|all| all.usage.prompt_tokens += prompt_tokens);
    }

    pub(super) fn saw(&self, step: &Step) {
        if let (0, Some(Beat::End(end))) = (step.index, step.beats.last()) {
            self.note(|all| all.reason = Some(end.reason));
        }
    }

    pub(super) fn took(&self, tally: &Tally) {
        self.note(|all| (all.usage, all.timings) = (tally.usage, tally.timings));
    }

    /// The first failure is what the request ends by.
    pub(crate) fn failed(&self, error: &Error) {
        let outcome = Outcome::of_error(error);
        self.note(|all| _ = all.outcome.get_or_insert(outcome));
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn left(&self) {
        self.note(|all| _ = all.outcome.get_or_insert(Outcome::Gone));
    }

    /// What is known now.
    pub(crate) fn receipt(&self) -> Receipt {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Receipt {
            identity: all.identity,
            dialect: dialect(&all.path),
            route: all.route.clone(),
            engine: all.engine.clone(),
            usage: all.usage,
            timings: all.timings,
            outcome: all.outcome.unwrap_or(Outcome::Done(all.reason)),
        }
    }
}

/// The protocol that a path without `/v1` belongs to.
fn dialect(path: &str) -> &'static str {
    let segment = path.split('/').nth(1).unwrap_or_default();
    match segment {
        "api" => "ollama",
        "messages" => "anthropic",
        "infill" | "completion" | "embedding" | "props" | "slots" | "tokenize" | "detokenize"
        | "apply-template" => "llama",
        "inference" | "engines" | "health" | "livez" | "readyz" => "kolosal",
        _ => "openai",
    }
}
