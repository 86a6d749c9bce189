//! What a dialect asks the desk for.

use crate::{chat::generation::GenerationRequest, registry::KeepAlive};

/// A request for text, read and checked as far as that goes without the model.
pub(crate) struct Ask {
    /// The name of an engine; `None`: the only one that is registered.
    pub model: Option<String>,
    /// All are served or none.
    pub prompts: Vec<GenerationRequest>,
    pub is_stream: bool,
    /// How long the engine stays loaded; heeded once the request is accepted.
    pub keep_alive: Option<KeepAlive>,
    pub wanted: Wanted,
}

/// What of an answer was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub logprobs: bool,
    /// Token counts at the end of a stream.
    pub include_usage: bool,
    /// And with every piece of it.
    pub continuous_usage: bool,
    /// Pieces of a stream have their timings.
    pub timings: bool,
    /// A stream tells how much of the prompt was read.
    pub progress: bool,
    /// Token ids of prompt and answer.
    pub tokens: bool,
}
