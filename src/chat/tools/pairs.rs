//! Calls whose arguments come one by one, with marks around keys and values.

use super::call::{Definitions, Malformed};
use super::marks::Pairs;
use super::objects::check_name;
use super::sink::Sink;
use crate::chat::json_pieces::escaped;

/// Longest name, key or blank between marks.
const HEAD_MAX: usize = 4096;

pub(super) struct PairReader {
    marks: &'static Pairs,
    /// Text that is not read yet.
    held: String,
    state: State,
    name: String,
    num_arguments: usize,
}

enum State {
    /// Before the mark of a call.
    Call,
    Name,
    /// The rest of the mark with the name.
    Head,
    /// Before a key or the end of the call.
    Pairs,
    Key,
    /// The rest of the mark with the key.
    Opening {
        key: String,
    },
    /// Text, sent as it comes.
    Text {
        is_first: bool,
    },
    /// What may be JSON is judged as a whole.
    Whole {
        key: String,
        text: String,
    },
}

impl PairReader {
    pub(super) fn new(marks: &'static Pairs) -> Self {
        let state = if marks.call.is_empty() { State::Name } else { State::Call };
        Self { marks, held: String::new(), state, name: String::new(), num_arguments: 0 }
    }

    pub(super) fn push(
        &mut self,
        text: &str,
        tools: &Definitions,
        sink: &mut Sink,
    ) -> Result<(), Malformed> {
        self.held.push_str(text);
        while self.advance(tools, sink)? {}
        Ok(())
    }

    pub(super) fn is_amid_argument(&self) -> bool {
        !matches!(self.state, State::Call | State::Pairs)
    }

    /// The answer breaks off: sends what came of a value that was to be judged as a whole.
    pub(super) fn cut(&mut self, tools: &Definitions, sink: &mut Sink) {
        let State::Whole { key, text } = &self.state else { return };
        let text = if self.marks.on_lines { text.strip_prefix('\n').unwrap_or(text) } else { text };
        let is_json = text.starts_with(['{', '[', '"', '-'])
            || text.starts_with(|c: char| c.is_ascii_digit());
        if is_json && !tools.is_text(&self.name, key) {
            sink.arguments(text);
        } else if !text.is_empty() {
            sink.arguments(&format!("\"{}", escaped(text)));
        }
    }

    /// The mark that ends the calls has come.
    pub(super) fn close(&mut self, sink: &mut Sink) -> Result<(), Malformed> {
        match self.state {
            // A call without arguments, whose name nothing ends.
            State::Name if self.marks.call.is_empty() && self.num_arguments == 0 => {
                self.name = std::mem::take(&mut self.held);
                self.begin(sink)?;
            }
            State::Call | State::Pairs if self.held.trim().is_empty() => {}
            _ if sink.is_open() => {}
            _ => return Err(Malformed),
        }
        self.finish(sink);
        Ok(())
    }

    /// Whether there was enough to get on.
    fn advance(&mut self, tools: &Definitions, sink: &mut Sink) -> Result<bool, Malformed> {
        let marks = self.marks;
        match &mut self.state {
            State::Call => {
                let Some(before) = self.until(&[marks.call])? else { return Ok(false) };
                blank(&before.0)?;
                self.state = State::Name;
            }
            State::Name => {
                let Some((name, _)) = self.until(&[marks.name_end])? else { return Ok(false) };
                self.name = name;
                self.begin(sink)?;
                self.state = match (marks.name_end_opens_key, marks.head_end) {
                    (true, _) => State::Key,
                    (false, "") => State::Pairs,
                    (false, _) => State::Head,
                };
            }
            State::Head => {
                if self.until(&[marks.head_end])?.is_none() {
                    return Ok(false);
                }
                self.state = State::Pairs;
            }
            State::Pairs => {
                let Some((_, mark)) = self.until(&[marks.key, marks.call_end])? else {
                    return Ok(false);
                };
                if mark == 1 {
                    self.finish(sink);
                    self.state = State::Call;
                } else {
                    self.state = State::Key;
                }
            }
            State::Key => {
                let Some((key, _)) = self.until(&[marks.key_end])? else { return Ok(false) };
                let key = key.trim().to_owned();
                self.state = State::Opening { key };
                if marks.value.is_empty() {
                    self.open("", tools, sink);
                }
            }
            State::Opening { .. } => {
                let Some((mark, _)) = self.until(&[marks.value])? else { return Ok(false) };
                self.open(&mark, tools, sink);
            }
            State::Text { .. } | State::Whole { .. } => return Ok(self.value(tools, sink)),
        }
        Ok(true)
    }

    fn begin(&mut self, sink: &mut Sink) -> Result<(), Malformed> {
        let name = self.name.trim();
        check_name(name, None)?;
        sink.start(name);
        self.name = name.to_owned();
        self.num_arguments = 0;
        Ok(())
    }

    /// A value begins; `mark` is the rest of the mark with its key.
    fn open(&mut self, mark: &str, tools: &Definitions, sink: &mut Sink) {
        let State::Opening { key } = &mut self.state else { return };
        let key = std::mem::take(key);
        let says_text = !self.marks.is_text.is_empty() && mark.contains(self.marks.is_text);
        let separator = if self.num_arguments == 0 { "{" } else { ", " };
        self.num_arguments += 1;
        sink.arguments(&format!("{separator}\"{}\": ", escaped(&key)));
        self.state = if says_text || tools.is_text(&self.name, &key) {
            sink.arguments("\"");
            State::Text { is_first: true }
        } else {
            State::Whole { key, text: String::new() }
        };
    }

    /// Takes what is there of a value; whether it ends.
    fn value(&mut self, tools: &Definitions, sink: &mut Sink) -> bool {
        let end = self.held.find(self.marks.value_end);
        // A line end is held back too: it may be the last.
        let line = usize::from(self.marks.on_lines);
        let len = end.unwrap_or_else(|| {
            let safe = self.held.len() - undecided(&self.held, self.marks.value_end);
            safe - usize::from(line > 0 && self.held[..safe].ends_with('\n'))
        });
        let mut part: String = self.held.drain(..len).collect();
        if end.is_some() {
            self.held.drain(..self.marks.value_end.len());
        }
        match &mut self.state {
            State::Text { is_first } => {
                if *is_first && self.marks.on_lines && part.starts_with('\n') {
                    part.remove(0);
                }
                *is_first &= part.is_empty() && end.is_none() && len == 0;
                if end.is_some() && self.marks.on_lines && part.ends_with('\n') {
                    part.pop();
                }
                sink.arguments(&escaped(&part));
                if end.is_some() {
                    sink.arguments("\"");
                }
            }
            State::Whole { key, text } => {
                text.push_str(&part);
                if end.is_some() {
                    let text = if self.marks.on_lines {
                        let text = text.strip_prefix('\n').unwrap_or(text);
                        text.strip_suffix('\n').unwrap_or(text)
                    } else {
                        text.as_str()
                    };
                    sink.arguments(&tools.typed(&self.name, key, text).to_string());
                }
            }
            _ => {}
        }
        if end.is_some() {
            self.state = State::Pairs;
        }
        end.is_some()
    }

    fn finish(&mut self, sink: &mut Sink) {
        if sink.is_open() {
            sink.arguments(match (&self.state, self.num_arguments) {
                // Broken off within a value: what came stays as it is.
                (State::Text { .. } | State::Whole { .. }, _) => "",
                (_, 0) => "{}",
                _ => "}",
            });
            sink.end();
        }
    }

    /// The text before the first of these marks, and which it is; `None`: more text is needed.
    fn until(&mut self, marks: &[&str]) -> Result<Option<(String, usize)>, Malformed> {
        let found = marks.iter().enumerate().filter(|(_, mark)| !mark.is_empty());
        let found = found.filter_map(|(i, mark)| Some((self.held.find(mark)?, i)));
        let Some((at, mark)) = found.min() else {
            return if self.held.len() > HEAD_MAX { Err(Malformed) } else { Ok(None) };
        };
        let before = self.held.drain(..at).collect();
        self.held.drain(..marks[mark].len());
        Ok(Some((before, mark)))
    }
}

fn blank(text: &str) -> Result<(), Malformed> {
    if text.trim().is_empty() { Ok(()) } else { Err(Malformed) }
}

/// Length of the longest end of the text that the mark starts with.
fn undecided(text: &str, mark: &str) -> usize {
    let prefixes = mark.char_indices().map(|(len, _)| &mark[..len]).rev();
    prefixes.filter(|prefix| text.ends_with(prefix)).map(str::len).next().unwrap_or(0)
}
