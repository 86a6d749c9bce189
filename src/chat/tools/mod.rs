//! Tool calls that models write in their own ways, read as calls while they are written.
//!
//! A call begins when its name is known, and its arguments follow as JSON, piece by piece. What looks
//! like a call but is none before a name is known stays text, so nothing is lost.

mod call;
mod format;
pub(super) mod grammar;
mod loose;
mod marks;
mod notation;
mod objects;
mod pairs;
mod sink;

use serde_json::Value;

pub use call::{AnswerPart, CallDelta, CallStart, Callable, Ending, ToolCall};
pub use format::ToolFormat;

use super::scanner::{Piece, Scanner};
use call::{Definitions, Malformed};
use loose::LooseReader;
use marks::{Body, Marks};
use notation::QWEN_XML;
use objects::{Headed, Objects};
use pairs::PairReader;
use sink::Sink;

/// Reads what stands between the marks of a call.
enum Reader {
    /// Nothing has come that tells which it is.
    Undecided(String),
    Objects(Objects),
    Headed(Headed),
    Pairs(PairReader),
    Loose(LooseReader),
    /// What comes is of no use.
    Broken,
}

/// A body that is being read.
struct Open {
    /// The text that opened it, and what has come since, until a call has begun.
    raw: String,
    num_calls_before: u32,
    /// No mark opened it: only known tools are called so.
    is_bare: bool,
    reader: Reader,
}

/// Reads an answer for calls.
pub struct ToolParser {
    marks: &'static Marks,
    tools: Definitions,
    scanner: Scanner,
    open: Option<Open>,
    sink: Sink,
    /// Only white space has come; what follows may be a call without a mark.
    at_start: bool,
}

impl ToolParser {
    /// `tools` is the array of definitions of the request.
    pub fn new(format: ToolFormat, tools: Value) -> Self {
        let marks = format.marks();
        let mut texts = marks.open.to_vec();
        texts.extend(marks.noise);
        // Last, so that its index is known.
        texts.extend((!marks.close.is_empty()).then_some(marks.close));
        Self {
            marks,
            tools: Definitions(tools),
            scanner: Scanner::new(texts),
            open: None,
            sink: Sink::new(format),
            at_start: true,
        }
    }

    pub fn push(&mut self, text: &str) -> Vec<AnswerPart> {
        for piece in self.scanner.push(text) {
            match piece {
                Piece::Text(text) => self.text(&text),
                Piece::Marker(mark) => self.mark(mark),
            }
        }
        std::mem::take(&mut self.sink.parts)
    }

    /// The rest, when no more text comes. Of an answer that broke off, what began a call is no text,
    /// and a call that began has no end.
    pub fn flush(&mut self, ending: Ending) -> Vec<AnswerPart> {
        let is_whole = ending == Ending::Whole;
        let rest = if is_whole { self.scanner.flush() } else { self.scanner.flush_cut() };
        self.text(&rest);
        let is_cut = match ending {
            Ending::Whole => false,
            Ending::Stopped => self.open.as_ref().is_some_and(|open| open.is_amid(&self.sink)),
            Ending::Cut => true,
        };
        if is_cut {
            self.cut();
        } else {
            self.close("");
        }
        std::mem::take(&mut self.sink.parts)
    }

    /// Whether a call has begun that did not end.
    pub fn is_amid_call(&self) -> bool {
        self.sink.is_open()
    }

    /// Whether a call has begun.
    pub fn has_calls(&self) -> bool {
        self.sink.num_started > 0
    }

    /// Calls that are complete.
    pub fn num_complete(&self) -> u32 {
        self.sink.num_ended
    }

    fn text(&mut self, text: &str) {
        if self.open.is_some() {
            self.read(text);
            return;
        }
        let starts = text.trim_start();
        if self.at_start && self.marks.bare.is_some_and(|bare| starts.starts_with(bare)) {
            self.open("", true);
            self.read(text);
            return;
        }
        // White space between calls says nothing.
        if starts.is_empty() && self.sink.num_started > 0 {
            return;
        }
        self.at_start &= starts.is_empty();
        self.sink.text(text);
    }

    fn mark(&mut self, mark: usize) {
        let open = self.marks.open;
        let all = open.iter().chain(self.marks.noise).copied();
        let text = all.chain([self.marks.close]).nth(mark).unwrap_or_default();
        if self.open.as_ref().is_some_and(Open::in_text) {
            // A text may speak of marks.
            self.read(text);
        } else if mark < open.len() {
            // Some open each call again.
            self.close("");
            self.open(text, false);
        } else if mark == open.len() + self.marks.noise.len() {
            self.close(text);
        }
    }

    fn open(&mut self, mark: &str, is_bare: bool) {
        self.open = Some(Open {
            raw: mark.to_owned(),
            num_calls_before: self.sink.num_started,
            is_bare,
            reader: Reader::Undecided(String::new()),
        });
    }

    /// Gives text to the reader of the open body.
    fn read(&mut self, text: &str) {
        let Some(open) = &mut self.open else { return };
        let has_begun = |sink: &Sink| sink.num_started > open.num_calls_before;
        if !has_begun(&self.sink) {
            open.raw.push_str(text);
        }
        let result = open.reader.push(text, self.marks, &self.tools, open.is_bare, &mut self.sink);
        if result.is_ok() {
            return;
        }
        if has_begun(&self.sink) {
            open.reader = Reader::Broken;
            self.sink.end();
        } else if open.is_bare {
            self.give_up("");
        } else {
            // The mark that closes it is text as well.
            open.reader = Reader::Broken;
        }
    }

    fn close(&mut self, mark: &str) {
        let Some(open) = &mut self.open else { return };
        // What is wrong at the end shows in that no call has begun.
        let _ = open.reader.close(&mut self.sink);
        if self.sink.num_started > open.num_calls_before {
            self.sink.end();
            self.open = None;
            self.at_start = false;
        } else {
            self.give_up(mark);
        }
    }

    /// The answer breaks off.
    fn cut(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if self.sink.num_started > open.num_calls_before {
            open.reader.cut(&self.tools, &mut self.sink);
            return;
        }
        let is_call = match open.reader {
            Reader::Broken => false,
            _ => !open.is_bare || self.tools.begins_call(&open.raw),
        };
        if !is_call {
            self.sink.text(&open.raw);
        }
    }

    /// What looked like a call is text.
    fn give_up(&mut self, mark: &str) {
        let Some(open) = self.open.take() else { return };
        self.at_start = false;
        self.sink.text(&open.raw);
        self.sink.text(mark);
    }
}

impl Open {
    /// Whether something of a call is missing here.
    fn is_amid(&self, sink: &Sink) -> bool {
        if sink.num_started == self.num_calls_before {
            return !matches!(self.reader, Reader::Broken);
        }
        sink.is_open() && self.reader.is_amid_argument()
    }

    fn in_text(&self) -> bool {
        match &self.reader {
            Reader::Objects(reader) => reader.in_text(),
            Reader::Headed(reader) => reader.in_text(),
            Reader::Loose(reader) => reader.in_text(),
            Reader::Undecided(_) | Reader::Pairs(_) | Reader::Broken => false,
        }
    }
}

impl Reader {
    fn push(
        &mut self,
        text: &str,
        marks: &Marks,
        tools: &Definitions,
        known_only: bool,
        sink: &mut Sink,
    ) -> Result<(), Malformed> {
        if let Self::Undecided(held) = self {
            held.push_str(text);
            let Some(reader) = Self::choose(held, marks, known_only) else { return Ok(()) };
            let held = std::mem::take(held);
            *self = reader;
            return self.push(&held, marks, tools, known_only, sink);
        }
        match self {
            Self::Objects(reader) => reader.push(text, tools, sink),
            Self::Headed(reader) => reader.push(text, sink),
            Self::Pairs(reader) => reader.push(text, tools, sink),
            Self::Loose(reader) => reader.push(text, tools, sink),
            Self::Undecided(_) | Self::Broken => Ok(()),
        }
    }

    /// Which notation it is: that of the format, or JSON, which we ask of models whose own notation
    /// cannot be constrained.
    fn choose(held: &str, marks: &Marks, known_only: bool) -> Option<Self> {
        let text = held.trim_start();
        let first = text.chars().next()?;
        let objects = |by_name| Some(Self::Objects(Objects::new(by_name, known_only)));
        match (marks.body, first) {
            (Body::JsonByName, _) => objects(true),
            (Body::Json, '<') => {
                // Some models that were taught JSON have learnt this too.
                if !text.starts_with(QWEN_XML.call) {
                    let may_be = QWEN_XML.call.starts_with(text);
                    return if may_be { None } else { objects(false) };
                }
                Some(Self::Pairs(PairReader::new(&QWEN_XML)))
            }
            (Body::Json, _) | (_, '{') => objects(false),
            (Body::Loose(notation), '[') => match text[1..].trim_start().chars().next()? {
                '{' => objects(false),
                _ => Some(Self::Loose(LooseReader::new(notation, known_only))),
            },
            (_, '[') => objects(false),
            (Body::Loose(notation), _) => Some(Self::Loose(LooseReader::new(notation, known_only))),
            (Body::Headed(name), _) => Some(Self::Headed(Headed::new(name))),
            (Body::Pairs(marks), _) => Some(Self::Pairs(PairReader::new(marks))),
        }
    }

    /// Whether an argument is missing its end.
    fn is_amid_argument(&self) -> bool {
        match self {
            Self::Pairs(reader) => reader.is_amid_argument(),
            Self::Undecided(_) | Self::Objects(_) | Self::Headed(_) | Self::Loose(_) => true,
            Self::Broken => false,
        }
    }

    /// The answer breaks off: sends what was held back of an argument.
    fn cut(&mut self, tools: &Definitions, sink: &mut Sink) {
        match self {
            Self::Pairs(reader) => reader.cut(tools, sink),
            Self::Loose(reader) => reader.cut(sink),
            Self::Undecided(_) | Self::Objects(_) | Self::Headed(_) | Self::Broken => {}
        }
    }

    fn close(&mut self, sink: &mut Sink) -> Result<(), Malformed> {
        match self {
            Self::Headed(reader) => reader.close(sink),
            Self::Pairs(reader) => reader.close(sink),
            Self::Undecided(_) | Self::Objects(_) | Self::Loose(_) | Self::Broken => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
