//! The pre-types that GGUF files name in `tokenizer.ggml.pre`, and what each means.
//!
//! A table of facts about published models: the patterns are those of their own tokenizers, the
//! names are those that converters to GGUF write. Where a converter's runtime approximates a pattern
//! (upper and lower case outside ASCII), the model's own pattern stands here.

use super::pre::{Contractions, Digits, Lead, Letters, PassSpec, Punct, Words};

/// What a pre-type decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreType {
    pub(super) passes: &'static [PassSpec],
    /// A piece that is a token as a whole is that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Default of `tokenizer.ggml.add_bos_token`.
    pub(super) add_bos: bool,
    /// Tokens are plain UTF-8 with U+2581 for spaces, not the byte alphabet of GPT-2.
    pub(super) escape_spaces: bool,
    /// Tokens are plain UTF-8.
    pub(super) plain_utf8: bool,
    /// The file may lack merges.
    pub(super) merges_optional: bool,
}

impl PreType {
    const fn of(passes: &'static [PassSpec]) -> Self {
        Self {
            passes,
            ignore_merges: false,
            add_bos: false,
            escape_spaces: false,
            plain_utf8: false,
            merges_optional: false,
        }
    }

    const fn whole_first(self) -> Self {
        Self { ignore_merges: true, ..self }
    }

    const fn with_bos(self) -> Self {
        Self { add_bos: true, ..self }
    }

    const fn escaped(self) -> Self {
        Self { escape_spaces: true, plain_utf8: true, ..self }
    }

    const fn without_merges(self) -> Self {
        Self { merges_optional: true, ..self }
    }

    const fn plain(self) -> Self {
        Self { plain_utf8: true, ..self }
    }
}

const RETURNS: &[char] = &['\r', '\n'];
const RETURNS_SLASH: &[char] = &['\r', '\n', '/'];

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
const GPT2_WORDS: Words = Words {
    contractions: Contractions::Lower,
    punct_word: false,
    lead: Lead::Space,
    letters: Letters::Plain,
    digits: Digits::Run,
    punct: Punct::Rest,
    punct_tail: &[],
    line_ends: false,
};

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|`
/// `\s*[\r\n]+|\s+(?!\S)|\s+`
const LLAMA3_WORDS: Words = Words {
    contractions: Contractions::AnyCase,
    punct_word: false,
    lead: Lead::NotLetterOrNumber,
    letters: Letters::Plain,
    digits: Digits::UpToThree,
    punct: Punct::Rest,
    punct_tail: RETURNS,
    line_ends: true,
};

/// Llama 3's with single digits.
const QWEN2_WORDS: Words = Words { digits: Digits::One, ..LLAMA3_WORDS };

/// Cased words with their contractions, and slashes after punctuation.
const GPT4O_WORDS: Words = Words {
    contractions: Contractions::Suffix,
    letters: Letters::Cased,
    punct_tail: RETURNS_SLASH,
    ..LLAMA3_WORDS
};

/// ``[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|``
/// `\s*[\r\n]+|\s+(?!\S)|\s+`
const DEEPSEEK3_WORDS: Words = Words {
    contractions: Contractions::None,
    punct_word: true,
    lead: Lead::NotLetterOrPunct,
    letters: Letters::WithMarks,
    digits: Digits::Never,
    punct: Punct::Only,
    punct_tail: RETURNS,
    line_ends: true,
};

const GPT2: &[PassSpec] = &[PassSpec::Words(GPT2_WORDS)];
const LLAMA3: &[PassSpec] = &[PassSpec::Words(LLAMA3_WORDS)];
const QWEN2: &[PassSpec] = &[PassSpec::Words(QWEN2_WORDS)];
const GPT4O: &[PassSpec] = &[PassSpec::Words(GPT4O_WORDS)];
const SINGLE_DIGITS: &[PassSpec] = &[PassSpec::Regex(r"\p{N}"), PassSpec::Words(GPT2_WORDS)];
const THREES: &[PassSpec] = &[PassSpec::Regex(r"\p{N}{1,3}"), PassSpec::Words(GPT2_WORDS)];
const QWEN35: &[PassSpec] = &[PassSpec::Words(Words {
    letters: Letters::WithMarks,
    punct: Punct::RestWithoutMarks,
    ..QWEN2_WORDS
})];
const UFAKZEKA: &[PassSpec] =
    &[PassSpec::Words(Words { contractions: Contractions::None, ..QWEN2_WORDS })];
const TEKKEN: &[PassSpec] = &[PassSpec::Words(Words {
    contractions: Contractions::None,
    digits: Digits::One,
    ..GPT4O_WORDS
})];
const SEED_CODER: &[PassSpec] = &[PassSpec::Words(Words { punct_tail: &[], ..QWEN2_WORDS })];
const MINICPM5: &[PassSpec] = &[
    PassSpec::Regex(r"\p{N}{1,3}"),
    PassSpec::Words(Words { digits: Digits::Run, ..LLAMA3_WORDS }),
];
const LAGUNA: &[PassSpec] = &[PassSpec::Lines, PassSpec::Words(QWEN2_WORDS)];
const TINY_AYA: &[PassSpec] =
    &[PassSpec::DigitTriples { bounded: true }, PassSpec::Words(GPT4O_WORDS)];
const LINES: &[PassSpec] = &[PassSpec::Lines];

const DEFAULT: &[PassSpec] = &[
    PassSpec::Regex(r"[\p{P}\$\+<=>\^~\|]+"),
    PassSpec::Words(GPT2_WORDS),
    PassSpec::Regex(r"\p{N}+"),
    PassSpec::Regex(r"[0-9][0-9][0-9]"),
];
const FALCON: &[PassSpec] = &[
    PassSpec::Regex(r"[\p{P}\$\+<=>\^~\|`]+"),
    PassSpec::Words(GPT2_WORDS),
    PassSpec::Regex(r"[0-9][0-9][0-9]"),
];
const BLOOM: &[PassSpec] = &[PassSpec::Regex(BLOOM_WORDS)];
const VIKING: &[PassSpec] = &[PassSpec::Regex(BLOOM_WORDS), PassSpec::Regex(r"\p{N}")];
/// ` ?[^(\s|.,!?…。，、।۔،)]+`, the brackets and bar included.
const BLOOM_WORDS: &str = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c})]+";

const CJK: &str = r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+";
/// From U+0800 on, which takes in nearly all of Asia, as the model's own file has it.
const DEEPSEEK_CJK: &str = r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+";
const DEEPSEEK_LLM: &[PassSpec] = &[
    PassSpec::Regex(r"[\r\n]"),
    PassSpec::Regex(DEEPSEEK_LETTERS),
    PassSpec::Regex(
        r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+",
    ),
    PassSpec::Regex(r"\s+$"),
    PassSpec::Regex(DEEPSEEK_CJK),
    PassSpec::Regex(r"\p{N}+"),
];
const DEEPSEEK_CODER: &[PassSpec] = &[
    PassSpec::Regex(r"[\r\n]"),
    PassSpec::Regex(r"\s?\p{L}+"),
    PassSpec::Regex(r"\s?\p{P}+"),
    PassSpec::Regex(DEEPSEEK_CJK),
    PassSpec::Regex(r"\p{N}"),
];
const DEEPSEEK3: &[PassSpec] =
    &[PassSpec::Regex(r"\p{N}{1,3}"), PassSpec::Regex(CJK), PassSpec::Words(DEEPSEEK3_WORDS)];
const SPARK: &[PassSpec] = &[
    PassSpec::Regex(r"\p{N}{1,3}"),
    PassSpec::Regex(CJK),
    PassSpec::Regex(concat!(
        r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+",
        r"|[\r\n]|\s+(?!\S)|\s+"
    )),
    PassSpec::Regex(r"\p{N}"),
];
const AFMOE: &[PassSpec] = &[
    PassSpec::DigitTriples { bounded: false },
    PassSpec::Regex(ASIAN),
    PassSpec::Words(DEEPSEEK3_WORDS),
];
const YOUTU: &[PassSpec] = &[
    PassSpec::Regex(concat!(
        r"[\x{ac00}-\x{d7a3}\x{3131}-\x{318e}]+",
        r"|[\x{ff01}\x{2026}\x{201c}\x{201d}\x{2018}\x{2019}\x{2014}\x{ff1a}\x{ff1b}\x{ff0c}",
        r"\x{3001}-\x{303f}\x{fe30}-\x{fe4f}]+",
        r"|[\x{3105}-\x{312f}]+|[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+"
    )),
    PassSpec::Words(Words { digits: Digits::One, ..GPT4O_WORDS }),
];
const CHAMELEON: &[PassSpec] = &[
    PassSpec::Regex(r"<sentinel:[0-9]+>"),
    PassSpec::Regex(r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
    PassSpec::Regex(r"([\t\n]|    |  )"),
    PassSpec::Regex(r"\p{N}"),
    PassSpec::Regex(r"[\p{P}!-/:-@\[-`{-~]"),
    PassSpec::Words(GPT2_WORDS),
];
/// Letters outside the Han script, as words of upper and then lower case.
const KIMI: &[PassSpec] = &[PassSpec::Regex(concat!(
    r"\p{Han}+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
))];
const SUPERBPE: &[PassSpec] =
    &[PassSpec::Regex(r"\p{N}+"), PassSpec::DigitTriples { bounded: false }];
const BAILING: &[PassSpec] = &[PassSpec::Regex(concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
))];
const EXAONE_MOE: &[PassSpec] = &[PassSpec::Regex(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
))];
/// Runs of spaces are cut into powers of two.
const JAIS2: &[PassSpec] = &[PassSpec::Regex(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)",
    r"|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
))];
const GRANITE_EMBEDDING: &[PassSpec] = GPT4O;
const MARKED_WORDS: &[PassSpec] = &[PassSpec::Regex("\u{2581}[^\u{2581}]*|[^\u{2581}]+")];
const NON_SPACE: &[PassSpec] = &[PassSpec::Regex(r"\S+")];

/// Names and meanings; several names may share one meaning.
const TABLE: &[(&[&str], PreType)] = &[
    (&["default"], PreType::of(DEFAULT)),
    (
        &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        PreType::of(LLAMA3).whole_first().with_bos(),
    ),
    (&["dbrx", "smaug-bpe", "chatglm-bpe"], PreType::of(LLAMA3)),
    (&["glm4", "glm5"], PreType::of(LLAMA3).whole_first()),
    (
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        PreType::of(GPT2),
    ),
    (
        &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        PreType::of(SINGLE_DIGITS),
    ),
    (
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "stablelm2",
            "megrez",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        PreType::of(QWEN2),
    ),
    (&["qwen35"], PreType::of(QWEN35)),
    (&["ufakzeka"], PreType::of(UFAKZEKA)),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], PreType::of(GPT4O)),
    (&["granite-embed-multi-97m"], PreType::of(GRANITE_EMBEDDING).whole_first()),
    (&["tekken"], PreType::of(TEKKEN).whole_first().with_bos()),
    (&["tiny_aya", "cohere2moe"], PreType::of(TINY_AYA)),
    (&["deepseek-llm"], PreType::of(DEEPSEEK_LLM)),
    (&["deepseek-coder"], PreType::of(DEEPSEEK_CODER)),
    (&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], PreType::of(DEEPSEEK3)),
    (&["spark2_5"], PreType::of(SPARK)),
    (&["youtu"], PreType::of(YOUTU).whole_first()),
    (&["afmoe"], PreType::of(AFMOE)),
    (&["falcon"], PreType::of(FALCON)),
    (&["poro-chat", "bloom", "gpt3-finnish"], PreType::of(BLOOM)),
    (&["viking"], PreType::of(VIKING)),
    (&["chameleon"], PreType::of(CHAMELEON).with_bos()),
    (&["kimi-k2"], PreType::of(KIMI).without_merges()),
    (&["superbpe"], PreType::of(SUPERBPE)),
    (&["bailingmoe", "bailingmoe2", "llada-moe"], PreType::of(BAILING)),
    (&["seed-coder"], PreType::of(SEED_CODER)),
    (&["exaone-moe"], PreType::of(EXAONE_MOE)),
    (&["jais-2"], PreType::of(JAIS2)),
    (&["minicpm5"], PreType::of(MINICPM5).whole_first()),
    (&["laguna"], PreType::of(LAGUNA)),
    (&["gemma4", "granite-embed-multi-311m"], PreType::of(LINES).escaped().with_bos()),
    (&["sarvam-moe"], PreType::of(LINES).escaped()),
    // Of `tokenizer.json` files: SentencePiece models as ranked merges, whole or word by word, and
    // patterns without the rule that whole pieces come first.
    (&["gpt-2-threes"], PreType::of(THREES)),
    (&["metaspace"], PreType::of(&[]).escaped()),
    (&["metaspace-words"], PreType::of(MARKED_WORDS).escaped()),
    (&["llama3-merged"], PreType::of(LLAMA3)),
    (&["tekken-merged"], PreType::of(TEKKEN)),
    (&["whitespace"], PreType::of(NON_SPACE).plain().without_merges()),
];

/// The pre-type called `name`.
pub(super) fn pre_type(name: &str) -> Option<PreType> {
    TABLE.iter().find(|(names, _)| names.contains(&name)).map(|&(_, pre)| pre)
}

/// All known names, for error messages.
pub(super) fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = TABLE.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    names.sort_unstable();
    names
}

/// The cased letters of Unicode as the model's own file lists them, after an optional space.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}",
    r"\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}",
    r"\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}",
    r"-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-",
    r"\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-",
    r"\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}",
    r"\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-",
    r"\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}",
    r"\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-",
    r"\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}",
    r"\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-",
    r"\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-",
    r"\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-",
    r"\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}",
    r"\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+",
);
/// Scripts without spaces between words.
const ASIAN: &str = concat!(
    r"[\x{4e00}-\x{9fff}\x{3400}-\x{4dbf}\x{f900}-\x{faff}\x{3040}-\x{30ff}\x{ff65}-\x{ff9f}",
    r"\x{2f00}-\x{2fdf}\x{e40}-\x{e7f}\x{e80}-\x{eff}\x{1780}-\x{17ff}\x{1000}-\x{109f}",
    r"\x{aa60}-\x{aa7f}\x{a9e0}-\x{a9ff}\x{ac00}-\x{d7af}\x{1100}-\x{11ff}]+",
);

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::pre::PreTokenizer;
    use super::*;

    /// The patterns that the scanner stands for, as the models publish them.
    const PUBLISHED: &[(&str, &[PassSpec], &str)] = &[
        (
            "gpt-2",
            GPT2,
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        ),
        (
            "llama3",
            LLAMA3,
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        (
            "qwen2",
            QWEN2,
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        (
            "qwen35",
            QWEN35,
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        (
            "seed-coder",
            SEED_CODER,
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        (
            "gpt-4o",
            GPT4O,
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        (
            "tekken",
            TEKKEN,
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        (
            "deepseek-v3, last pass",
            &[PassSpec::Words(DEEPSEEK3_WORDS)],
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
        ),
    ];

    static COMPILED: LazyLock<Vec<(&str, PreTokenizer, PreTokenizer)>> = LazyLock::new(|| {
        let compile = |(name, passes, pattern): &(&'static str, &[PassSpec], &'static str)| {
            let theirs = PreTokenizer::new(&[PassSpec::Regex(pattern)]).unwrap();
            (*name, PreTokenizer::new(passes).unwrap(), theirs)
        };
        PUBLISHED.iter().map(compile).collect()
    });

    static ALL: LazyLock<Vec<(&[&str], PreTokenizer)>> = LazyLock::new(|| {
        let compile = |(names, kind): &(&'static [&'static str], PreType)| {
            (*names, PreTokenizer::new(kind.passes).unwrap())
        };
        TABLE.iter().map(compile).collect()
    });

    fn split<'t>(pre: &PreTokenizer, text: &'t str) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        let taken = pre.split(text, &mut |piece| {
            pieces.push(piece);
            Ok(())
        });
        assert_eq!(taken, Ok(()));
        pieces
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]
        #[test]
        fn scanners_split_as_the_published_patterns(
            text in "(['’ \t\r\n/.,!<_$+#-]|[sStTrReEvVmMlLdD]|[0-9½٣]|[a-zA-ZéÉßǅʰªﬁ中あกΩя]|[\u{301}\u{e31}\u{200d}\u{a0}\u{3000}🦙]){0,24}",
        ) {
            for (name, ours, theirs) in &*COMPILED {
                prop_assert_eq!(split(ours, &text), split(theirs, &text), "{}", name);
            }
        }

        #[test]
        fn pieces_are_the_text(text in "[ab1 '\r\n\u{301}中<(.?é🦙]{0,30}") {
            for (names, pre) in &*ALL {
                prop_assert_eq!(split(pre, &text).concat(), &text[..], "{:?}", names);
            }
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        let names = names();
        assert!(names.len() > 70 && names.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(names.iter().all(|name| pre_type(name).is_some()));
        assert!(pre_type("unheard-of").is_none());
    }

    #[test]
    fn pieces_are_those_of_the_models() {
        let cases: &[(&str, &str, &[&str])] = &[
            (
                "llama-bpe",
                "I'LL pay 12345 €!\n\n  ok",
                &["I", "'LL", " pay", " ", "123", "45", " €!\n\n", " ", " ok"],
            ),
            ("gpt-2", "it's 2024  x", &["it", "'s", " 2024", " ", " x"]),
            ("smollm", "ab12 c", &["ab", "1", "2", " c"]),
            ("tiny_aya", "1234567 1234abc", &["1", "234", "567", " ", "123", "4", "abc"]),
            ("afmoe", "12345", &["12", "345"]),
            ("superbpe", "x12345", &["x", "12", "345"]),
            ("gemma4", "a b\n\nc", &["a b", "\n\n", "c"]),
            ("falcon", "a+b 1234", &["a", "+", "b", " ", "123", "4"]),
            ("kimi-k2", "你好World'S", &["你好", "World'S"]),
            ("deepseek-v3", "你好a1234", &["你好", "a", "123", "4"]),
            ("bloom", "a b,c", &["a", " b", ",", "c"]),
            ("viking", "a b12", &["a", " b", "1", "2"]),
            ("chameleon", "a  b\n1", &["a", "  ", "b", "\n", "1"]),
        ];
        for (name, text, expected) in cases {
            let pre = PreTokenizer::new(pre_type(name).unwrap().passes).unwrap();
            assert_eq!(split(&pre, text), *expected, "{name}");
        }
    }
}
