//! What an answer is made of: reasoning, text for the reader, and calls of tools.

use crate::chat::{AnswerPart, Ending, Part, ReasoningSplitter, TextModel, ToolParser};

use super::request::{GenerationRequest, PromptInput};

/// Splits one choice of a chat; text completions are text throughout.
pub(super) struct Reader {
    splitter: Option<ReasoningSplitter>,
    parser: Option<ToolParser>,
    /// The first call ends the answer.
    one_call: bool,
}

/// Reasoning and the rest of a piece of text.
#[derive(Default)]
pub(super) struct Split {
    pub(super) reasoning: String,
    pub(super) content: String,
}

impl Reader {
    pub(super) fn new(request: &GenerationRequest, text: &TextModel, in_reasoning: bool) -> Self {
        let (PromptInput::Chat(input) | PromptInput::Following { chat: input, .. }) =
            &request.prompt
        else {
            return Self { splitter: None, parser: None, one_call: false };
        };
        let splitter = text.reasoning().map(|tags| {
            let splitter = ReasoningSplitter::new(tags, in_reasoning);
            if input.continue_final_message { splitter.continuing() } else { splitter }
        });
        let tools = request.tools();
        let parser =
            tools.map(|tools| ToolParser::new(text.tool_format(), tools.definitions.clone()));
        Self { splitter, parser, one_call: tools.is_some_and(|tools| !tools.parallel) }
    }

    pub(super) fn in_reasoning(&self) -> bool {
        self.splitter.as_ref().is_some_and(ReasoningSplitter::in_reasoning)
    }

    /// Bytes that [`Self::split`] was given and has not returned.
    pub(super) fn held_len(&self) -> usize {
        self.splitter.as_ref().map_or(0, ReasoningSplitter::held_len)
    }

    pub(super) fn split(&mut self, text: String) -> Split {
        match &mut self.splitter {
            None => Split { reasoning: String::new(), content: text },
            Some(splitter) => gather(splitter.push(&text)),
        }
    }

    /// The rest of what was split.
    pub(super) fn split_rest(&mut self, is_cut: bool) -> Split {
        let flush = |splitter: &mut ReasoningSplitter| gather(splitter.flush(is_cut));
        self.splitter.as_mut().map_or_else(Split::default, flush)
    }

    /// Text and calls of a piece of content, as the model wrote them; with `last`, of all that there is.
    pub(super) fn parse(&mut self, content: String, last: Option<Ending>) -> Vec<AnswerPart> {
        let Some(parser) = &mut self.parser else { return vec![AnswerPart::Text(content)] };
        let mut parts = parser.push(&content);
        if let Some(ending) = last {
            parts.extend(parser.flush(ending));
        }
        if self.one_call {
            parts.retain(|part| !matches!(part, AnswerPart::Call(call) if call.index > 0));
        }
        parts
    }

    pub(super) fn has_calls(&self) -> bool {
        self.parser.as_ref().is_some_and(ToolParser::has_calls)
    }

    /// Whether the answer ended within a call.
    pub(super) fn is_amid_call(&self) -> bool {
        self.parser.as_ref().is_some_and(ToolParser::is_amid_call)
    }

    /// Whether nothing more is wanted.
    pub(super) fn is_over(&self) -> bool {
        self.one_call && self.parser.as_ref().is_some_and(|parser| parser.num_complete() > 0)
    }
}

fn gather(parts: Vec<Part>) -> Split {
    let mut split = Split::default();
    for part in parts {
        match part {
            Part::Reasoning(text) => split.reasoning.push_str(&text),
            Part::Content(text) => split.content.push_str(&text),
        }
    }
    split
}
