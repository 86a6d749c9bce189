//! Pre-tokenizers: text into the pieces within which BPE may merge.
//!
//! The regular expressions of published models are nearly all one family: contractions, words,
//! digits, punctuation, line ends, spaces. That family is scanned by hand ([`Words`]): several times
//! faster than a backtracking regex engine, and without its limits on hostile input. The few others
//! run as regexes. Passes apply one after another, each inside the pieces that the last one left;
//! what a pass does not match stays a piece of its own.

use tokenizers::utils::SysRegex;

use super::TokenizerError;
use super::unicode::{self, LETTER, LOWER, MARK, MODIFIER, NUMBER, OTHER_LETTER, PUNCTUATION};
use super::unicode::{SYMBOL, Set, TITLE, UPPER};
use super::until::Stopped;

/// One pass as the table of pre-types writes it down.
#[derive(Clone, Copy, Debug)]
pub(super) enum PassSpec {
    Words(Words),
    Regex(&'static str),
    /// Runs of digits cut into threes from the right; with `bounded` only where no word character
    /// follows the run.
    DigitTriples {
        bounded: bool,
    },
    /// Runs of line feeds and runs of anything else.
    Lines,
}

/// The common family of patterns. Alternatives are tried in the order of the fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    pub(super) contractions: Contractions,
    /// `[!-/:-@\[-`{-~][A-Za-z]+` comes before words.
    pub(super) punct_word: bool,
    pub(super) lead: Lead,
    pub(super) letters: Letters,
    pub(super) digits: Digits,
    pub(super) punct: Punct,
    /// Characters taken after a run of punctuation.
    pub(super) punct_tail: &'static [char],
    /// `\s*[\r\n]+` is one piece.
    pub(super) line_ends: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contractions {
    None,
    /// `'s|'t|'re|'ve|'m|'ll|'d` as pieces, in lower case.
    Lower,
    /// The same in any case.
    AnyCase,
    /// The same in any case, as the tail of a word.
    Suffix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// ` ?` before words and digits.
    Space,
    /// `[^\r\n\p{L}\p{N}]?` before words.
    NotLetterOrNumber,
    /// `[^\r\n\p{L}\p{P}\p{S}]?` before words.
    NotLetterOrPunct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letters {
    /// `\p{L}+`
    Plain,
    /// `[\p{L}\p{M}]+`
    WithMarks,
    /// Upper case, then lower case: `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`, or
    /// the same with `+` and `*` exchanged.
    Cased,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digits {
    /// `\p{N}`
    One,
    /// `\p{N}{1,3}`
    UpToThree,
    /// `\p{N}+`, after the lead if that is a space.
    Run,
    /// Digits match nothing.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Punct {
    /// ` ?[^\s\p{L}\p{N}]+`
    Rest,
    /// ` ?[^\s\p{L}\p{M}\p{N}]+`
    RestWithoutMarks,
    /// ` ?[\p{P}\p{S}]+`
    Only,
}

/// Passes ready to run.
pub(super) struct PreTokenizer {
    passes: Vec<Pass>,
}

enum Pass {
    Words(Words),
    Regex(SysRegex),
    DigitTriples { bounded: bool },
    Lines,
}

/// All of the text was split, or whoever takes the pieces wants no more of them.
type Done = Result<(), Stopped>;
/// Takes a piece of the text.
type Pieces<'a, 't> = dyn FnMut(&'t str) -> Done + 'a;
/// Takes a match of a pass: its start and end.
type Matches<'a> = dyn FnMut(usize, usize) -> Done + 'a;

impl PreTokenizer {
    pub(super) fn new(specs: &[PassSpec]) -> Result<Self, TokenizerError> {
        let compile = |spec: &PassSpec| -> Result<Pass, TokenizerError> {
            Ok(match *spec {
                PassSpec::Words(words) => Pass::Words(words),
                PassSpec::DigitTriples { bounded } => Pass::DigitTriples { bounded },
                PassSpec::Lines => Pass::Lines,
                PassSpec::Regex(text) => Pass::Regex(SysRegex::new(text).map_err(|e| {
                    TokenizerError::Internal(format!("pre-tokenizer regex does not compile: {e}"))
                })?),
            })
        };
        Ok(Self { passes: specs.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Calls `piece` with each piece of `text`, in order; together they are `text`.
    pub(super) fn split<'t>(&self, text: &'t str, piece: &mut Pieces<'_, 't>) -> Done {
        run(&self.passes, text, piece)
    }
}

fn run<'t>(passes: &[Pass], text: &'t str, piece: &mut Pieces<'_, 't>) -> Done {
    let Some((pass, rest)) = passes.split_first() else {
        return if text.is_empty() { Ok(()) } else { piece(text) };
    };
    let mut done = 0;
    let mut matched = |start: usize, end: usize| {
        if done < start {
            run(rest, &text[done..start], piece)?;
        }
        done = end;
        run(rest, &text[start..end], piece)
    };
    match pass {
        Pass::Words(words) => words.find(text, &mut matched)?,
        Pass::DigitTriples { bounded } => digit_triples(text, *bounded, &mut matched)?,
        Pass::Lines => lines(text, &mut matched)?,
        Pass::Regex(regex) => {
            for (start, end) in regex.find_iter(text).filter(|(start, end)| start < end) {
                matched(start, end)?;
            }
        }
    }
    if done < text.len() { run(rest, &text[done..], piece) } else { Ok(()) }
}

fn lines(text: &str, matched: &mut Matches<'_>) -> Done {
    let mut start = 0;
    while start < text.len() {
        let feeds = text.as_bytes()[start] == b'\n';
        let run = text.as_bytes()[start..].iter().take_while(|&&b| (b == b'\n') == feeds).count();
        matched(start, start + run)?;
        start += run;
    }
    Ok(())
}

fn digit_triples(text: &str, bounded: bool, matched: &mut Matches<'_>) -> Done {
    let mut rest = text;
    while let Some(skip) = rest.find(|c| unicode::is(c, NUMBER)) {
        let start = text.len() - rest.len() + skip;
        let after = &rest[skip..];
        let run = after.find(|c| !unicode::is(c, NUMBER)).unwrap_or(after.len());
        rest = &after[run..];
        let word_follows =
            rest.chars().next().is_some_and(|c| c == '_' || unicode::is(c, LETTER | MARK));
        if bounded && word_follows {
            continue;
        }
        let ends = after[..run].char_indices().map(|(at, c)| start + at + c.len_utf8());
        let count = after[..run].chars().count();
        let first = if count.is_multiple_of(3) { 3 } else { count % 3 };
        let mut from = start;
        for end in ends.skip(first - 1).step_by(3) {
            matched(from, end)?;
            from = end;
        }
    }
    Ok(())
}

/// The character at byte `at`, and the byte after it.
fn char_at(text: &str, at: usize) -> Option<(char, usize)> {
    let byte = *text.as_bytes().get(at)?;
    if byte < 0x80 {
        return Some((byte as char, at + 1));
    }
    let c = text[at..].chars().next()?;
    Some((c, at + c.len_utf8()))
}

/// End of the run of characters from `at` for which `keep` holds.
fn run_end(text: &str, mut at: usize, keep: impl Fn(char) -> bool) -> usize {
    while let Some((c, next)) = char_at(text, at)
        && keep(c)
    {
        at = next;
    }
    at
}

fn is_line_end(c: char) -> bool {
    c == '\r' || c == '\n'
}

impl Words {
    fn find(&self, text: &str, matched: &mut Matches<'_>) -> Done {
        let mut at = 0;
        while let Some((c, next)) = char_at(text, at) {
            match self.end_of_match(text, at, c, next) {
                Some(end) => {
                    matched(at, end)?;
                    at = end;
                }
                None => at = next,
            }
        }
        Ok(())
    }

    fn end_of_match(&self, text: &str, at: usize, c: char, next: usize) -> Option<usize> {
        if c == '\'' && matches!(self.contractions, Contractions::Lower | Contractions::AnyCase) {
            let end = contraction(text, at, self.contractions == Contractions::AnyCase);
            if end.is_some() {
                return end;
            }
        }
        if self.punct_word && c.is_ascii_punctuation() {
            let end = run_end(text, next, |c| c.is_ascii_alphabetic());
            if end > next {
                return Some(end);
            }
        }
        self.word(text, at, c, next)
            .or_else(|| self.digits(text, at, c, next))
            .or_else(|| self.punctuation(text, at, c, next))
            .or_else(|| self.spaces(text, at, c))
    }

    fn word(&self, text: &str, at: usize, c: char, next: usize) -> Option<usize> {
        let leads = match self.lead {
            Lead::Space => c == ' ',
            Lead::NotLetterOrNumber => !is_line_end(c) && !unicode::is(c, LETTER | NUMBER),
            Lead::NotLetterOrPunct => {
                !is_line_end(c) && !unicode::is(c, LETTER | PUNCTUATION | SYMBOL)
            }
        };
        if self.letters == Letters::Cased {
            return cased(text, at, leads.then_some(next)).map(|end| self.with_suffix(text, end));
        }
        let set = if self.letters == Letters::Plain { LETTER } else { LETTER | MARK };
        let run = |from| {
            let end = run_end(text, from, |c| unicode::is(c, set));
            (end > from).then_some(end)
        };
        leads.then(|| run(next)).flatten().or_else(|| run(at))
    }

    fn with_suffix(&self, text: &str, end: usize) -> usize {
        match self.contractions {
            Contractions::Suffix => contraction(text, end, true).unwrap_or(end),
            _ => end,
        }
    }

    fn digits(&self, text: &str, at: usize, c: char, next: usize) -> Option<usize> {
        let most = match self.digits {
            Digits::One => 1,
            Digits::UpToThree => 3,
            Digits::Run => usize::MAX,
            Digits::Never => return None,
        };
        let spaced = self.digits == Digits::Run && self.lead == Lead::Space && c == ' ';
        let from = if spaced { next } else { at };
        let (mut end, mut count) = (from, 0);
        while count < most
            && let Some((c, next)) = char_at(text, end)
            && unicode::is(c, NUMBER)
        {
            end = next;
            count += 1;
        }
        (count > 0).then_some(end)
    }

    fn punctuation(&self, text: &str, at: usize, c: char, next: usize) -> Option<usize> {
        let holds = |c: char| match self.punct {
            Punct::Rest => !c.is_whitespace() && !unicode::is(c, LETTER | NUMBER),
            Punct::RestWithoutMarks => {
                !c.is_whitespace() && !unicode::is(c, LETTER | NUMBER | MARK)
            }
            Punct::Only => unicode::is(c, PUNCTUATION | SYMBOL),
        };
        let from = if c == ' ' { next } else { at };
        let end = run_end(text, from, holds);
        (end > from).then(|| run_end(text, end, |c| self.punct_tail.contains(&c)))
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`
    fn spaces(&self, text: &str, at: usize, first: char) -> Option<usize> {
        if !first.is_whitespace() {
            return None;
        }
        let (mut end, mut last, mut after_line_end) = (at, at, None);
        while let Some((c, next)) = char_at(text, end)
            && c.is_whitespace()
        {
            last = end;
            end = next;
            if is_line_end(c) {
                after_line_end = Some(end);
            }
        }
        if self.line_ends && after_line_end.is_some() {
            return after_line_end;
        }
        let leave_last = end < text.len() && last > at;
        Some(if leave_last { last } else { end })
    }
}

/// End of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at `at`.
fn contraction(text: &str, at: usize, any_case: bool) -> Option<usize> {
    let bytes = text.as_bytes().get(at..)?;
    let letter =
        |i: usize| bytes.get(i).map_or(0, |&b| if any_case { b.to_ascii_lowercase() } else { b });
    if letter(0) != b'\'' {
        return None;
    }
    match (letter(1), letter(2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
        _ => None,
    }
}

/// End of a word of upper and then lower case; `after_lead` is where it starts if a lead is taken.
fn cased(text: &str, at: usize, after_lead: Option<usize>) -> Option<usize> {
    const BOTH: Set = MODIFIER | OTHER_LETTER | MARK;
    let upper = |c| unicode::is(c, UPPER | TITLE | BOTH);
    let lower = |c| unicode::is(c, LOWER | BOTH);
    // `upper* lower+` with the backtracking of a regex: where no lower case follows, the last
    // character of the run that counts as both is given back.
    let ends_lower = |from: usize| {
        let uppers = run_end(text, from, upper);
        let end = run_end(text, uppers, lower);
        if end > uppers {
            return Some(end);
        }
        let run = &text[from..uppers];
        run.char_indices().rev().find(|&(_, c)| lower(c)).map(|(i, c)| from + i + c.len_utf8())
    };
    let ends_upper = |from: usize| {
        let end = run_end(text, from, upper);
        (end > from).then(|| run_end(text, end, lower))
    };
    after_lead
        .and_then(ends_lower)
        .or_else(|| ends_lower(at))
        .or_else(|| after_lead.and_then(ends_upper))
        .or_else(|| ends_upper(at))
}
