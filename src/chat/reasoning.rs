//! Reasoning that models write before their answers, told apart from the answers.

use super::scanner::{Piece, Scanner};

/// How a model marks its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasoningTags {
    pub open: &'static str,
    pub close: &'static str,
    /// What templates that know these tags mention.
    mark: &'static str,
    /// Markers of the answer, which are no part of it.
    noise: &'static [&'static str],
}

const fn tags(open: &'static str, close: &'static str) -> ReasoningTags {
    ReasoningTags { open, close, mark: open, noise: &[] }
}

/// In the order in which templates are searched for them.
const KNOWN: &[ReasoningTags] = &[
    ReasoningTags {
        open: "<|channel|>analysis<|message|>",
        close: "<|end|>",
        mark: "<|channel|>",
        noise: &[
            "<|start|>assistant",
            "<|channel|>final<|message|>",
            "<|channel|>commentary<|message|>",
            "<|return|>",
        ],
    },
    ReasoningTags {
        open: "<|open|>think<|sep|>",
        close: "<|close|>think<|sep|>",
        mark: "open_tag('think')",
        noise: &[
            "<|open|>response<|sep|>",
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|close|>message<|sep|>",
        ],
    },
    tags("<|channel>thought\n", "<channel|>"),
    tags("<|START_THINKING|>", "<|END_THINKING|>"),
    tags("<|inner_prefix|>", "<|inner_suffix|>"),
    tags("<seed:think>", "</seed:think>"),
    tags("◁think▷", "◁/think▷"),
    tags("[THINK]", "[/THINK]"),
    tags("<think>", "</think>"),
    tags("<thinking>", "</thinking>"),
];

/// A stretch of a model's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Reasoning(String),
    Content(String),
}

impl ReasoningTags {
    /// The tags that a chat template mentions.
    pub fn detect(template: &str) -> Option<Self> {
        // Templates may write a line end as the escape that it is in theirs.
        let mentions = |mark: &str| template.contains(mark.trim_end());
        KNOWN.iter().find(|tags| mentions(tags.mark)).copied()
    }

    /// Whether a prompt ends inside reasoning that it opened itself.
    pub fn open_at_end(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.open.trim_end())
    }

    /// Whether each answer opens its reasoning itself.
    pub(super) fn opens_always(&self) -> bool {
        !self.noise.is_empty()
    }

    /// The text that the answer follows on. With `calls` it may be one, which channels announce
    /// themselves.
    pub(super) fn ends_before(&self, calls: bool) -> &'static str {
        match self.noise {
            [] => self.close,
            [start, ..] if calls => start,
            [_, answer, ..] => answer,
            [_] => self.close,
        }
    }

    /// All texts that are no part of reasoning or answer.
    pub fn markers(&self) -> impl Iterator<Item = &'static str> {
        [self.open, self.close].into_iter().chain(self.noise.iter().copied())
    }

    /// All texts that a tokenizer must show for these tags to be seen: some are made of several tokens.
    pub fn shown(&self) -> impl Iterator<Item = &'static str> {
        self.markers().flat_map(|marker| special_parts(marker).chain([marker]))
    }
}

/// What of a text looks like control tokens: `<|…|>`, `<|…>` or `<…|>`.
fn special_parts(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split_inclusive('>').filter_map(|part| Some(&part[part.find('<')?..]))
}

/// Splits a stream of text. White space around the tags is dropped.
pub struct ReasoningSplitter {
    scanner: Scanner,
    in_reasoning: bool,
    /// White space that is dropped if a tag follows.
    space: String,
    /// No text of the current stretch has come.
    at_start: bool,
}

impl ReasoningSplitter {
    /// `in_reasoning` if the prompt opened it.
    pub fn new(tags: ReasoningTags, in_reasoning: bool) -> Self {
        let scanner = Scanner::new(tags.markers().collect());
        Self { scanner, in_reasoning, space: String::new(), at_start: true }
    }

    /// A splitter of text that goes on with other text: white space at its beginning stays.
    #[must_use]
    pub fn continuing(self) -> Self {
        Self { at_start: false, ..self }
    }

    /// Whether the next text is reasoning.
    pub fn in_reasoning(&self) -> bool {
        self.in_reasoning
    }

    /// Bytes of text that were taken and not returned yet.
    pub fn held_len(&self) -> usize {
        self.scanner.held_len() + self.space.len()
    }

    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        for piece in self.scanner.push(text) {
            match piece {
                Piece::Text(text) => self.text(&text, &mut parts),
                Piece::Marker(marker) => {
                    match marker {
                        0 => self.in_reasoning = true,
                        1 => self.in_reasoning = false,
                        _ => {}
                    }
                    self.space.clear();
                    self.at_start = true;
                }
            }
        }
        parts
    }

    /// The rest, when no more text comes; `is_cut`: although the model would go on.
    pub fn flush(&mut self, is_cut: bool) -> Vec<Part> {
        let mut parts = Vec::new();
        let rest = if is_cut { self.scanner.flush_cut() } else { self.scanner.flush() };
        self.text(&rest, &mut parts);
        if !self.in_reasoning && !self.at_start && !self.space.is_empty() {
            parts.push(Part::Content(std::mem::take(&mut self.space)));
        }
        parts
    }

    fn text(&mut self, text: &str, parts: &mut Vec<Part>) {
        let text = if self.at_start { text.trim_start() } else { text };
        let kept = text.trim_end();
        if kept.is_empty() {
            self.space.push_str(text);
            return;
        }
        let mut out = std::mem::take(&mut self.space);
        out.push_str(kept);
        self.space.push_str(&text[kept.len()..]);
        self.at_start = false;
        parts.push(if self.in_reasoning { Part::Reasoning(out) } else { Part::Content(out) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(tags: ReasoningTags, opened: bool, chunks: &[&str]) -> (String, String) {
        let mut splitter = ReasoningSplitter::new(tags, opened);
        let mut parts: Vec<Part> = chunks.iter().flat_map(|chunk| splitter.push(chunk)).collect();
        parts.extend(splitter.flush(false));
        let (mut reasoning, mut content) = (String::new(), String::new());
        for part in parts {
            match part {
                Part::Reasoning(text) => reasoning.push_str(&text),
                Part::Content(text) => content.push_str(&text),
            }
        }
        (reasoning, content)
    }

    #[test]
    fn reasoning_is_split_off() {
        let think = ReasoningTags::detect("{{ '<think>' }}").unwrap();
        let harmony = ReasoningTags::detect("<|channel|>analysis").unwrap();
        let cases = [
            (think, false, "<think>\nHm.\n</think>\n\n4", "Hm.", "4"),
            (think, true, "Hm.\n</think>\n\n4 ", "Hm.", "4 "),
            (think, false, " 4 <b", "", "4 <b"),
            (think, true, "never ends ", "never ends", ""),
            (
                harmony,
                false,
                "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>4",
                "Hm",
                "4",
            ),
        ];
        for (tags, opened, text, reasoning, content) in cases {
            let expected = (reasoning.to_owned(), content.to_owned());
            assert_eq!(split(tags, opened, &[text]), expected, "{text}");
        }
        assert!(think.open_at_end("<|assistant|>\n<think>\n"));
        let shown: Vec<&str> = harmony.shown().collect();
        assert!(
            ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"]
                .iter()
                .all(|t| shown.contains(t))
        );
        let gemma = ReasoningTags::detect("{{- '<|channel>thought\\n' -}}").unwrap();
        let answer = "<|channel>thought\nHm<channel|>4";
        assert_eq!(split(gemma, false, &[answer]), ("Hm".to_owned(), "4".to_owned()));
        let kimi = ReasoningTags::detect("{{- open_tag('think') -}}").unwrap();
        let answer = "Hm<|close|>think<|sep|><|open|>response<|sep|>4<|close|>response<|sep|>";
        assert_eq!(split(kimi, true, &[answer]), ("Hm".to_owned(), "4".to_owned()));
        assert_eq!(ReasoningTags::detect("plain"), None);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(
            text in "(<think>|</think>|<|think|>| |\n|a){0,12}",
            cuts in prop::collection::vec(0usize..60, 0..5),
        ) {
            let think = ReasoningTags::detect("<think>").unwrap();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(think, false, &chunks), split(think, false, &[&text]));
        }
    }
}
