//! Special tokens: which ones a model has, and where they stand in a text.

use std::collections::BTreeMap;
use std::ops::Range;

use super::TokenizerError;
use super::prefix::PrefixIndex;
use super::vocab::{Kind, Vocab};
use crate::model::gguf::Metadata;

/// Names of tokens that end a turn, for files that do not say so by id.
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
/// Names of tokens after which a model has nothing more to say.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Fill-in-the-middle tokens; the lists of prefix, suffix and middle, then those that also end a
/// generation: pad, repository and file separator.
const FILL_IN: &[&[&str]] = &[
    &[
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ],
    &[
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ],
    &[
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ],
];
/// Keys of those lists, and their older names.
const FILL_IN_KEYS: &[(&str, &str)] =
    &[("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle")];
const FILL_IN_END: &[(&str, &[&str])] = &[
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];
/// The channel markers of gpt-oss, without which its output cannot be read.
const MARKERS: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The ids with a role.
#[derive(Clone, Debug, Default)]
pub(super) struct Roles {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unk: Option<u32>,
    pub(super) sep: Option<u32>,
    /// All tokens that end a generation, ascending.
    pub(super) eog: Vec<u32>,
    pub(super) fill_in: FillIn,
}

/// Tokens that mark the parts of a text whose middle is to be filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillIn {
    pub prefix: Option<u32>,
    pub suffix: Option<u32>,
    pub middle: Option<u32>,
    /// Stands before the name of a repository.
    pub repository: Option<u32>,
    /// Stands before the name of a file.
    pub file: Option<u32>,
}

/// Reads the roles from the file, `defaults` where it is silent, and corrects the types of tokens
/// whose name says that they are control tokens.
pub(super) fn roles(
    meta: &Metadata,
    vocab: &mut Vocab,
    defaults: Roles,
) -> Result<Roles, TokenizerError> {
    let read = |name: &str, default: Option<u32>| -> Result<Option<u32>, TokenizerError> {
        let inside = |id: &u32| (*id as usize) < vocab.len();
        let default = default.filter(inside);
        // Files write -1 for "none"; an id outside the vocabulary is as good as none.
        let id = meta.i64(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok(id.and_then(|id| u32::try_from(id).ok()).filter(inside).or(default))
    };
    let mut roles = Roles {
        bos: read("bos", defaults.bos)?,
        eos: read("eos", defaults.eos)?,
        unk: read("unknown", defaults.unk)?,
        // Older files misspell it.
        sep: read("seperator", read("separator", defaults.sep)?)?,
        eog: Vec::new(),
        fill_in: FillIn::default(),
    };
    let by_id = [roles.eos, read("eot", None)?, read("eom", None)?];
    let read_fill_in = |(name, old): &(&str, &str)| read(name, read(old, None)?);
    let fill_in: Vec<Option<u32>> =
        FILL_IN_KEYS.iter().map(read_fill_in).collect::<Result<_, _>>()?;
    let fill_in_ends: Vec<Option<u32>> =
        FILL_IN_END.iter().map(|(name, _)| read(name, None)).collect::<Result<_, _>>()?;

    if by_id[1].is_none() {
        first_named(vocab, END_OF_TURN);
    }
    let mut marks = [None; 3];
    for ((names, id), mark) in FILL_IN.iter().zip(fill_in).zip(&mut marks) {
        let named = first_named(vocab, names);
        *mark = id.or(named);
    }
    let mut ends = [None; 3];
    for (((_, names), id), end) in FILL_IN_END.iter().zip(fill_in_ends).zip(&mut ends) {
        *end = id.or_else(|| first_named(vocab, names));
        roles.eog.extend(*end);
    }
    let ([prefix, suffix, middle], [_, repository, file]) = (marks, ends);
    roles.fill_in = FillIn { prefix, suffix, middle, repository, file };
    for name in END_OF_GENERATION {
        roles.eog.extend(first_named(vocab, &[name]));
    }
    roles.eog.extend(by_id.into_iter().flatten());
    roles.eog.sort_unstable();
    roles.eog.dedup();
    for name in MARKERS {
        if let Some(id) = vocab.id(name.as_bytes()) {
            vocab.set_kind(id, Kind::Marker);
        }
    }
    not_the_end(vocab, &mut roles.eog);
    Ok(roles)
}

/// The first of `names` in the vocabulary, made a control token.
fn first_named(vocab: &mut Vocab, names: &[&str]) -> Option<u32> {
    let id = names.iter().find_map(|name| vocab.id(name.as_bytes()))?;
    vocab.set_kind(id, Kind::Control);
    Some(id)
}

/// Takes back names that mean something else in this family.
fn not_the_end(vocab: &mut Vocab, eog: &mut Vec<u32>) {
    let has = |name: &str| vocab.id(name.as_bytes()).is_some_and(|id| eog.contains(&id));
    // gpt-oss and Solar end messages, not generations, with <|end|>.
    let calls = has("<|call|>") || has("<|calls|>");
    let messages = calls && (has("<|return|>") || has("<|flush|>"));
    // Gemma 4 and PLaMo have an ordinary </s>.
    let ordinary = has("<|tool_response>") || has("<|plamo:eos|>");
    for (applies, name, kind) in
        [(messages, "<|end|>", Kind::Marker), (ordinary, "</s>", Kind::Normal)]
    {
        if let Some(id) = vocab.id(name.as_bytes()).filter(|id| applies && eog.contains(id)) {
            eog.retain(|&other| other != id);
            vocab.set_kind(id, kind);
        }
    }
}

/// A stretch of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    Text(Range<usize>),
    Token(u32),
}

/// Which special tokens a search recognises.
#[derive(Clone, Copy, Debug)]
pub(super) enum Recognise<'a> {
    /// User-defined tokens only.
    Plain,
    /// Control tokens too.
    Parse,
    /// Control tokens too, but none that reaches over one of these places (ascending byte offsets)
    /// if `protected` says so.
    ParseExcept(&'a [usize]),
}

/// Finds special tokens in a text.
pub(super) struct Specials {
    index: PrefixIndex,
    /// Tokens that swallow the white space before and after them, ascending.
    strip_left: Vec<u32>,
    strip_right: Vec<u32>,
}

impl Specials {
    pub(super) fn new(meta: &Metadata, vocab: &Vocab) -> Self {
        let special = |id: &u32| {
            matches!(vocab.kind(*id), Kind::Control | Kind::Marker | Kind::User | Kind::Unknown)
        };
        let ids: Vec<u32> = vocab.ids().filter(special).collect();
        let (strip_left, strip_right) = stripping(meta, vocab, &ids);
        Self { index: PrefixIndex::new(vocab, ids), strip_left, strip_right }
    }

    /// Whether some of them swallow white space.
    pub(super) fn strips(&self) -> bool {
        !(self.strip_left.is_empty() && self.strip_right.is_empty())
    }

    /// Cuts `text` at special tokens. Where they overlap the longest one wins wherever it stands,
    /// then the first.
    pub(super) fn split(
        &self,
        vocab: &Vocab,
        text: &str,
        recognise: Recognise<'_>,
    ) -> Vec<Fragment> {
        let whole = || if text.is_empty() { vec![] } else { vec![Fragment::Text(0..text.len())] };
        if self.index.is_empty() {
            return whole();
        }
        let search = Search { index: &self.index, vocab, text: text.as_bytes(), recognise };
        let mut waiting = search.occurrences();
        if waiting.is_empty() {
            return whole();
        }
        let mut taken = vec![false; text.len()];
        let mut chosen: Vec<(Range<usize>, u32)> = Vec::new();
        while let Some((len, mut longest)) = waiting.pop_last() {
            longest.sort_unstable();
            for (id, start) in longest {
                let place = start as usize;
                if taken[place..place + len].contains(&true) {
                    // Where the place itself is free, a shorter token may stand.
                    if !taken[place]
                        && let Some((len, id)) = search.longest(place, len)
                    {
                        waiting.entry(len).or_default().push((id, start));
                    }
                    continue;
                }
                let range = self.stripped(text.as_bytes(), &taken, place..place + len, id);
                taken[range.clone()].fill(true);
                chosen.push((range, id));
            }
        }
        chosen.sort_unstable_by_key(|(range, _)| range.start);
        fragments(text.len(), &chosen)
    }

    /// Offsets after the first character of every control token, and of every token of `others`, in
    /// `text`.
    pub(super) fn places(&self, vocab: &Vocab, text: &str, others: &[u32]) -> Vec<usize> {
        let mut places = Vec::new();
        for (start, c) in text.char_indices() {
            let mut meant = false;
            self.index.each(vocab, &text.as_bytes()[start..], |_, id| {
                meant |= vocab.kind(id) != Kind::User || others.binary_search(&id).is_ok();
            });
            if meant {
                places.push(start + c.len_utf8());
            }
        }
        places
    }

    /// The range with the free white space that the token swallows.
    fn stripped(&self, text: &[u8], taken: &[bool], range: Range<usize>, id: u32) -> Range<usize> {
        let space = |i: usize| {
            matches!(text.get(i), Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c))
                && taken.get(i) == Some(&false)
        };
        let Range { mut start, mut end } = range;
        while self.strip_left.binary_search(&id).is_ok() && start > 0 && space(start - 1) {
            start -= 1;
        }
        while self.strip_right.binary_search(&id).is_ok() && space(end) {
            end += 1;
        }
        start..end
    }
}

/// Tokens that may be chosen, by their length: ids and places.
type Waiting = BTreeMap<usize, Vec<(u32, u32)>>;

/// Looks for special tokens in one text.
struct Search<'a> {
    index: &'a PrefixIndex,
    vocab: &'a Vocab,
    text: &'a [u8],
    recognise: Recognise<'a>,
}

impl Search<'_> {
    /// The longest token at each place. One a place: there may be as many as a token has bytes, and in
    /// a vocabulary of runs, a text that is one run would take gigabytes.
    fn occurrences(&self) -> Waiting {
        let mut waiting = Waiting::new();
        for start in 0..self.text.len() {
            if let Some((len, id)) = self.longest(start, usize::MAX) {
                waiting.entry(len).or_default().push((id, start as u32));
            }
        }
        waiting
    }

    /// The longest token at `start` that is shorter than `limit` bytes.
    fn longest(&self, start: usize, limit: usize) -> Option<(usize, u32)> {
        let mut longest = None;
        self.index.each(self.vocab, self.text.get(start..)?, |len, id| {
            let counts = len < limit
                && match (self.vocab.kind(id), self.recognise) {
                    (_, Recognise::Parse) | (Kind::User, Recognise::Plain) => true,
                    (_, Recognise::Plain) => false,
                    (_, Recognise::ParseExcept(places)) => {
                        let next = places.partition_point(|&place| place <= start);
                        places.get(next).is_none_or(|&place| place >= start + len)
                    }
                };
            if counts {
                longest = Some((len, id));
            }
        });
        longest
    }
}

fn fragments(len: usize, chosen: &[(Range<usize>, u32)]) -> Vec<Fragment> {
    let mut fragments = Vec::with_capacity(chosen.len() * 2 + 1);
    let mut at = 0;
    for (range, id) in chosen {
        if at < range.start {
            fragments.push(Fragment::Text(at..range.start));
        }
        fragments.push(Fragment::Token(*id));
        at = range.end;
    }
    if at < len {
        fragments.push(Fragment::Text(at..len));
    }
    fragments
}

/// GGUF has no place for the stripping of special tokens; three families are known by name.
fn stripping(meta: &Metadata, vocab: &Vocab, ids: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let text = |key| meta.str(key).ok().flatten().unwrap_or_default();
    let name = text("general.name").to_lowercase();
    let pre = text("tokenizer.ggml.pre");
    let architecture = text("general.architecture");
    let jina = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|p| pre.contains(p));
    let bert = ["nomic-bert-moe", "jina-bert-v3"].iter().any(|a| architecture.contains(a));
    let named = |name: &str| Vec::from_iter(vocab.id(name.as_bytes()));
    if jina || bert {
        return (named("<mask>"), vec![]);
    }
    if name.contains("phi-3") || name.contains("phi3") {
        let keeps = ["<unk>", "<s>", "<|endoftext|>"].map(|name| vocab.id(name.as_bytes()));
        let mut right: Vec<u32> = ids.to_vec();
        right.extend(named("</s>"));
        right.retain(|id| !keeps.contains(&Some(*id)));
        right.sort_unstable();
        right.dedup();
        return (vec![], right);
    }
    if name.contains("modern-bert") {
        return (named("[MASK]"), vec![]);
    }
    (vec![], vec![])
}
