//! The steps of `tokenizer.json` around its model: normalizer, pre-tokenizer, post-processor.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::json::Json;
use crate::model::gguf::GgufError;

/// Our key: text is brought to Unicode's composed form first.
pub(super) const NFC_KEY: &str = "tokenizer.kolosal.nfc";
/// Our key: text is brought to the composed form of its compatible characters first.
pub(super) const NFKC_KEY: &str = "tokenizer.kolosal.nfkc";
/// Our key: longer words are unknown as a whole.
pub(super) const WORD_KEY: &str = "tokenizer.kolosal.max_word_chars";
/// Our key: a space is put before the whole text alone, not before each part between special tokens.
pub(super) const FIRST_KEY: &str = "tokenizer.kolosal.space_prefix_first";
/// Steps inside one step.
const MAX_STEPS: usize = 64;

/// Patterns of byte-level tokenizers, as the files write them, and our names for them.
const PATTERNS: &[(&str, &str)] = &[
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "tekken",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "gpt-4o",
    ),
];

/// Numbers in threes from the left, in a step of their own.
const THREES: &str = r"\p{N}{1,3}";
/// Steps of DeepSeek V3 and its descendants after that of numbers.
const DEEPSEEK: [&str; 2] = [
    "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// The steps, flattened.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    normal: Vec<Json>,
    pre: Vec<Json>,
    character_map: Option<Vec<u8>>,
}

/// How BERT writes words.
pub(super) struct Bert {
    pub(super) lower_case: bool,
    pub(super) strip_accents: bool,
}

impl Pieces {
    pub(super) fn read(json: &Json) -> Result<Self, GgufError> {
        let mut pieces = Self {
            normal: steps(json, "normalizer", "normalizers")?,
            pre: steps(json, "pre_tokenizer", "pretokenizers")?,
            character_map: None,
        };
        for step in &pieces.normal {
            match kind(step)? {
                "Precompiled" => {
                    let text = step.opt_str("precompiled_charsmap")?.unwrap_or_default();
                    let map = STANDARD.decode(text);
                    let bad = |_| step.bad("precompiled_charsmap", "not base64");
                    pieces.character_map = Some(map.map_err(bad)?);
                }
                "NFC" | "NFKC" | "Prepend" | "Replace" | "Strip" | "BertNormalizer" => {}
                other => return Err(unsupported(step, other)),
            }
        }
        for step in &pieces.pre {
            match kind(step)? {
                "ByteLevel" | "Split" | "Digits" | "Metaspace" | "WhitespaceSplit"
                | "BertPreTokenizer" => {}
                other => return Err(unsupported(step, other)),
            }
        }
        Ok(pieces)
    }

    fn pre(&self, name: &str) -> Option<&Json> {
        self.pre.iter().find(|step| kind(step).ok() == Some(name))
    }

    fn normal(&self, name: &str) -> Option<&Json> {
        self.normal.iter().find(|step| kind(step).ok() == Some(name))
    }

    pub(super) fn character_map(&self) -> Option<&[u8]> {
        self.character_map.as_deref()
    }

    /// Text is brought to Unicode's composed form.
    pub(super) fn composes(&self) -> bool {
        self.normal("NFC").is_some()
    }

    /// Text is brought to the composed form of its compatible characters.
    pub(super) fn composes_compatibly(&self) -> bool {
        self.normal("NFKC").is_some()
    }

    /// Spaces are U+2581, and tokens plain text.
    pub(super) fn escapes_spaces(&self) -> bool {
        self.pre("Metaspace").is_some() || self.replaces_spaces()
    }

    fn replaces_spaces(&self) -> bool {
        self.normal.iter().any(|step| {
            let pattern = step.get("pattern").and_then(|pattern| pattern.get("String")?.as_str());
            pattern == Some(" ") && step.opt_str("content").ok().flatten() == Some("\u{2581}")
        })
    }

    /// A space is put before a text.
    pub(super) fn adds_space(&self) -> bool {
        if self.normal("Prepend").is_some() {
            return true;
        }
        self.pre("Metaspace").is_some_and(|step| {
            let scheme = step.opt_str("prepend_scheme").ok().flatten();
            let adds = step.flag("add_prefix_space").ok().flatten();
            match scheme {
                Some(scheme) => scheme != "never",
                None => adds.unwrap_or(true),
            }
        })
    }

    /// Of a text with special tokens inside, the first part alone gets the space.
    pub(super) fn adds_space_at_start_only(&self) -> bool {
        let scheme = |step: &Json| step.opt_str("prepend_scheme").ok().flatten() == Some("first");
        self.pre("Metaspace").is_some_and(scheme)
    }

    /// Runs of spaces count as one, and those at the ends not at all.
    pub(super) fn joins_spaces(&self) -> bool {
        let has_runs = self.normal.iter().any(|step| {
            let pattern = step.get("pattern").and_then(|pattern| pattern.get("Regex")?.as_str());
            pattern == Some(" {2,}")
        });
        self.pre("WhitespaceSplit").is_some() || has_runs
    }

    pub(super) fn bert(&self) -> Result<Bert, GgufError> {
        let steps = (self.normal("BertNormalizer"), self.pre("BertPreTokenizer"));
        let (Some(step), Some(_)) = steps else {
            let problem = "WordPiece without BERT's normalizer and pre-tokenizer";
            return Err(GgufError::malformed("tokenizer.json", problem));
        };
        for key in ["clean_text", "handle_chinese_chars"] {
            if step.flag(key)? == Some(false) {
                return Err(step.bad(key, "false is not supported"));
            }
        }
        let lower_case = step.flag("lowercase")?.unwrap_or(true);
        let strip_accents = step.flag("strip_accents")?.unwrap_or(lower_case);
        Ok(Bert { lower_case, strip_accents })
    }

    /// Our name for how text is cut before merging.
    pub(super) fn pre_type(&self, ignores_merges: bool) -> Result<&'static str, GgufError> {
        let bad = |problem: String| GgufError::malformed("tokenizer.json: pre_tokenizer", problem);
        if self.escapes_spaces() {
            let splits_elsewhere = self.pre.iter().any(|step| match kind(step) {
                Ok("Metaspace") => step.flag("split").ok().flatten() != Some(false),
                // Spaces are gone when it looks for them.
                Ok("Split") => split_pattern(step) != Some(" "),
                _ => true,
            });
            if splits_elsewhere && self.pre("Metaspace").is_none() {
                return Err(bad("text with U+2581 for spaces is cut in a way not known".into()));
            }
            return Ok(if self.pre("Metaspace").is_some() && splits_elsewhere {
                "metaspace-words"
            } else {
                "metaspace"
            });
        }
        let Some(bytes) = self.pre("ByteLevel") else {
            return Err(bad("neither bytes nor U+2581 for spaces".into()));
        };
        if bytes.flag("add_prefix_space")? == Some(true) {
            return Err(bytes.bad("add_prefix_space", "true is not supported"));
        }
        let uses_own = bytes.flag("use_regex")?.unwrap_or(true);
        let splits: Vec<&str> = self
            .pre
            .iter()
            .filter(|step| kind(step).ok() == Some("Split"))
            .filter_map(split_pattern)
            .collect();
        let name = match (self.pre("Split"), self.pre("Digits"), uses_own) {
            // What the second pattern says of numbers finds them in threes already.
            (Some(_), None, true) if splits == [THREES] => "gpt-2-threes",
            (Some(_), None, false) if splits == [THREES, DEEPSEEK[0], DEEPSEEK[1]] => "deepseek-v3",
            (Some(_), None, false) if splits.len() > 1 => {
                let shown: String = splits.join(" then ").chars().take(300).collect();
                return Err(bad(format!("the patterns {shown:?} are not known")));
            }
            (None, None, true) => "gpt-2",
            (None, Some(digits), true) if digits.flag("individual_digits")? == Some(true) => {
                "smollm"
            }
            (Some(split), None, false) => {
                let pattern = split_pattern(split).unwrap_or_default();
                let known = PATTERNS.iter().find(|(known, _)| *known == pattern);
                let shown: String = pattern.chars().take(300).collect();
                known.ok_or_else(|| bad(format!("the pattern {shown:?} is not known")))?.1
            }
            _ => return Err(bad("a combination of steps that is not known".into())),
        };
        match (name, ignores_merges) {
            ("llama-bpe" | "tekken", true) => Ok(name),
            ("llama-bpe", false) => Ok("llama3-merged"),
            ("tekken", false) => Ok("tekken-merged"),
            (_, false) => Ok(name),
            (_, true) => Err(bad(format!("ignore_merges with {name} is not supported"))),
        }
    }
}

/// Tokens that frame a single text.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) first: Option<u32>,
    pub(super) last: Option<u32>,
    /// The file has a post-processor that says so.
    pub(super) is_given: bool,
}

/// What the post-processor puts around a text.
pub(super) fn frame(json: &Json) -> Result<Frame, GgufError> {
    let mut frame = Frame::default();
    for step in steps(json, "post_processor", "processors")? {
        match kind(&step)? {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                frame.is_given = true;
                template(&step, &mut frame)?;
            }
            "BertProcessing" | "RobertaProcessing" => {
                let id = |key: &str| -> Option<u32> {
                    step.get(key)?.as_array()?.get(1)?.as_u64()?.try_into().ok()
                };
                frame = Frame { first: id("cls"), last: id("sep"), is_given: true };
            }
            other => return Err(unsupported(&step, other)),
        }
    }
    Ok(frame)
}

fn template(step: &Json, frame: &mut Frame) -> Result<(), GgufError> {
    let specials = step.object("special_tokens")?;
    let mut after_text = false;
    for item in step.objects("single")? {
        if item.get("Sequence").is_some() {
            after_text = true;
            continue;
        }
        let name = item.object("SpecialToken")?;
        let name = name.opt_str("id")?.unwrap_or_default().to_owned();
        let ids = specials.object(&name)?;
        let id = match ids.array("ids")? {
            [id] => id.as_u64().and_then(|id| u32::try_from(id).ok()),
            _ => None,
        };
        let id = id.ok_or_else(|| step.bad("special_tokens", format!("{name:?} is not one id")))?;
        let place = if after_text { &mut frame.last } else { &mut frame.first };
        if place.replace(id).is_some() {
            return Err(step.bad("single", "several tokens at one end are not supported"));
        }
    }
    Ok(())
}

fn split_pattern(step: &Json) -> Option<&str> {
    let pattern = step.get("pattern")?;
    pattern.get("Regex").or_else(|| pattern.get("String"))?.as_str()
}

fn kind(step: &Json) -> Result<&str, GgufError> {
    step.opt_str("type")?.ok_or_else(|| step.bad("type", "it is missing"))
}

fn unsupported(step: &Json, name: &str) -> GgufError {
    step.bad("type", format!("'{name}' is not supported"))
}

/// The step `key`, or those of a sequence that it is.
fn steps(json: &Json, key: &str, inner: &str) -> Result<Vec<Json>, GgufError> {
    let Some(step) = json.opt_object(key)? else { return Ok(Vec::new()) };
    if kind(&step)? != "Sequence" {
        return Ok(vec![step]);
    }
    let steps = step.objects(inner)?;
    if steps.len() > MAX_STEPS {
        return Err(step.bad(inner, format!("{} steps, limit {MAX_STEPS}", steps.len())));
    }
    Ok(steps)
}
