//! Sampling parameters that chat and text completions share: ranges, limits, meaning.

use std::{fmt, ops::RangeInclusive};

use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::{
    chat::generation::{
        GenerationRequest, MAX_CHOICES, MAX_STOP_BYTES, MAX_STOP_TOKENS, MAX_STOPS,
    },
    engine::Sampling,
    error::{Error, Result},
    server::schema::{TextOr, wire_type},
};

/// Entries of `logit_bias`.
const MAX_LOGIT_BIAS: usize = 4096;
/// Bytes of a text that has a bias.
const MAX_BIAS_BYTES: usize = 256;
/// Characters of a cache salt.
const MAX_SALT_CHARS: usize = 1024;

/// The shared fields of a request, as they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct SamplingFields {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub repeat_penalty: Option<f64>,
    pub logit_bias: Option<LogitBias>,
    pub seed: Option<i64>,
    pub stop: Option<TextOr<String>>,
    pub stop_token_ids: Option<Vec<u32>>,
    pub n: Option<u32>,
    pub cache_salt: Option<String>,
}

impl SamplingFields {
    /// Checks every range and fills in the request; absent fields get OpenAI's defaults.
    pub(crate) fn apply(self, request: &mut GenerationRequest) -> Result<()> {
        let mut sampling = Sampling::default();
        if let Some(value) = self.temperature {
            sampling.temperature = within("temperature", value, 0.0..=2.0)? as f32;
        }
        if let Some(value) = self.top_p {
            sampling.top_p = within("top_p", value, 0.0..=1.0)? as f32;
        }
        if let Some(value) = self.top_k {
            // -1 switches it off in other servers, 0 does here.
            let value = if value == -1 { 0 } else { value };
            sampling.top_k = u32::try_from(value).map_err(|_| {
                let text = format!("top_k must be 0 (off) or more, is {value}");
                Error::invalid("top_k", text)
            })?;
        }
        if let Some(value) = self.min_p {
            sampling.min_p = within("min_p", value, 0.0..=1.0)? as f32;
        }
        if let Some(value) = self.presence_penalty {
            sampling.presence_penalty = within("presence_penalty", value, -2.0..=2.0)? as f32;
        }
        if let Some(value) = self.frequency_penalty {
            sampling.frequency_penalty = within("frequency_penalty", value, -2.0..=2.0)? as f32;
        }
        if let Some((name, value)) = self.repetition()? {
            sampling.repetition_penalty = within(name, value, 0.01..=100.0)? as f32;
        }
        (sampling.logit_bias, request.text_bias) = logit_bias(self.logit_bias.unwrap_or_default())?;
        let n = self.n.unwrap_or(1);
        if !(1..=MAX_CHOICES).contains(&n) {
            let text = format!("n must be from 1 to {MAX_CHOICES}, is {n}");
            return Err(Error::invalid("n", text));
        }
        request.n = n;
        request.sampling = sampling;
        // A negative seed is a number like any other: same seed, same tokens.
        request.seed = self.seed.map(i64::cast_unsigned);
        request.stop = stops(self.stop)?;
        request.stop_token_ids = stop_tokens(self.stop_token_ids)?;
        request.cache_salt = salt(self.cache_salt)?;
        Ok(())
    }

    /// `repetition_penalty`, or its other name.
    fn repetition(&self) -> Result<Option<(&'static str, f64)>> {
        match (self.repetition_penalty, self.repeat_penalty) {
            (Some(_), Some(_)) => {
                let text = "repeat_penalty is another name of repetition_penalty; send one of them";
                Err(Error::invalid("repeat_penalty", text))
            }
            (Some(value), None) => Ok(Some(("repetition_penalty", value))),
            (None, Some(value)) => Ok(Some(("repeat_penalty", value))),
            (None, None) => Ok(None),
        }
    }
}

/// Checks a number against an inclusive range.
pub(crate) fn within(name: &str, value: f64, range: RangeInclusive<f64>) -> Result<f64> {
    if range.contains(&value) {
        return Ok(value);
    }
    let text = format!("{name} must be from {} to {}, is {value}", range.start(), range.end());
    Err(Error::invalid(name, text))
}

/// Biases of token ids, and of texts, which stand for each of their tokens.
type Biases = (Vec<(u32, f32)>, Vec<(String, f32)>);

fn logit_bias(LogitBias(entries): LogitBias) -> Result<Biases> {
    if entries.len() > MAX_LOGIT_BIAS {
        let text = format!("logit_bias has {} entries, limit {MAX_LOGIT_BIAS}", entries.len());
        return Err(Error::invalid("logit_bias", text));
    }
    let mut biases = Biases::default();
    for (key, bias) in entries {
        let name = match &key {
            BiasKey::Id(id) => id.to_string(),
            BiasKey::Text(text) => text.chars().take(32).collect(),
        };
        let field = || format!("logit_bias.{name}");
        let bias = match bias {
            Bias::Number(bias) if (-100.0..=100.0).contains(&bias) => bias as f32,
            Bias::Ban(false) => -100.0,
            Bias::Number(_) | Bias::Ban(true) => {
                let text = "values must be from -100 to 100, or false for a ban";
                let text = format!("logit_bias: {text}; {name:?} has another");
                return Err(Error::invalid(field(), text));
            }
        };
        match key {
            BiasKey::Id(id) => {
                let unknown = |_| {
                    let text = format!("logit_bias: {id} is no token id");
                    Error::invalid(field(), text)
                };
                biases.0.push((u32::try_from(id).map_err(unknown)?, bias));
            }
            BiasKey::Text(text) if text.is_empty() || text.len() > MAX_BIAS_BYTES => {
                let text = format!("logit_bias: a text has 1 to {MAX_BIAS_BYTES} bytes");
                return Err(Error::invalid(field(), text));
            }
            BiasKey::Text(text) => biases.1.push((text, bias)),
        }
    }
    Ok(biases)
}

/// Scores that are added to tokens: an object, or a list of pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct LogitBias(Vec<(BiasKey, Bias)>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a token id or a text")]
pub(crate) enum BiasKey {
    Id(i64),
    Text(String),
}

impl BiasKey {
    /// Keys of JSON objects are texts.
    fn of(text: String) -> Self {
        text.parse().map_or(Self::Text(text), Self::Id)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or false")]
pub(crate) enum Bias {
    Number(f64),
    Ban(bool),
}

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct BiasVisitor;

        impl<'de> Visitor<'de> for BiasVisitor {
            type Value = LogitBias;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or a list of pairs")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<LogitBias, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, bias)) = map.next_entry::<String, Bias>()? {
                    entries.push((BiasKey::of(key), bias));
                }
                Ok(LogitBias(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                items: A,
            ) -> std::result::Result<LogitBias, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(LogitBias)
            }
        }

        deserializer.deserialize_any(BiasVisitor)
    }
}

wire_type!(LogitBias, "logit_bias", {
    let bias = || {
        let one_of = vec![f64::schema_ref(), bool::schema_ref()];
        MetaSchemaRef::Inline(Box::new(MetaSchema { one_of, ..MetaSchema::ANY }))
    };
    let object = MetaSchema {
        additional_properties: Some(Box::new(bias())),
        max_properties: Some(MAX_LOGIT_BIAS),
        ..MetaSchema::new("object")
    };
    let item = MetaSchema {
        one_of: vec![
            i64::schema_ref(),
            String::schema_ref(),
            f64::schema_ref(),
            bool::schema_ref(),
        ],
        ..MetaSchema::ANY
    };
    let pair = MetaSchema {
        items: Some(Box::new(MetaSchemaRef::Inline(Box::new(MetaSchema {
            any_of: item.one_of,
            ..MetaSchema::ANY
        })))),
        min_items: Some(2),
        max_items: Some(2),
        ..MetaSchema::new("array")
    };
    let list = MetaSchema {
        items: Some(Box::new(MetaSchemaRef::Inline(Box::new(pair)))),
        max_items: Some(MAX_LOGIT_BIAS),
        ..MetaSchema::new("array")
    };
    let inline = |schema| MetaSchemaRef::Inline(Box::new(schema));
    MetaSchema { one_of: vec![inline(object), inline(list)], ..MetaSchema::ANY }
});

fn stops(stop: Option<TextOr<String>>) -> Result<Vec<String>> {
    let stops = match stop {
        None => return Ok(Vec::new()),
        Some(TextOr::Text(text)) => vec![text],
        Some(TextOr::Items(texts)) => texts,
    };
    if stops.len() > MAX_STOPS {
        let text = format!("stop has {} strings, limit {MAX_STOPS}", stops.len());
        return Err(Error::invalid("stop", text));
    }
    for (i, stop) in stops.iter().enumerate() {
        let field = || if stops.len() == 1 { "stop".to_owned() } else { format!("stop[{i}]") };
        if stop.is_empty() {
            return Err(Error::invalid(field(), "stop: a stop string must not be empty"));
        }
        if stop.len() > MAX_STOP_BYTES {
            let text = format!("stop: a string of {} bytes, limit {MAX_STOP_BYTES}", stop.len());
            return Err(Error::invalid(field(), text));
        }
    }
    Ok(stops)
}

fn stop_tokens(ids: Option<Vec<u32>>) -> Result<Vec<u32>> {
    let ids = ids.unwrap_or_default();
    if ids.len() > MAX_STOP_TOKENS {
        let text = format!("stop_token_ids has {} entries, limit {MAX_STOP_TOKENS}", ids.len());
        return Err(Error::invalid("stop_token_ids", text));
    }
    Ok(ids)
}

fn salt(salt: Option<String>) -> Result<Option<String>> {
    match salt {
        Some(salt) if salt.chars().nth(MAX_SALT_CHARS).is_some() => {
            let chars = salt.chars().count();
            let text = format!("cache_salt has {chars} characters, limit {MAX_SALT_CHARS}");
            Err(Error::invalid("cache_salt", text))
        }
        salt => Ok(salt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::generation::PromptInput;

    #[test]
    fn ranges_are_checked_and_named() {
        let base = SamplingFields::default;
        let bias = |json: &str| Some(serde_json::from_str(json).expect("biases"));
        let many = (0..20).map(|i| i.to_string()).collect::<Vec<_>>();
        let cases = [
            (SamplingFields { temperature: Some(-1.0), ..base() }, "temperature"),
            (SamplingFields { temperature: Some(2.1), ..base() }, "temperature"),
            (SamplingFields { top_p: Some(5.0), ..base() }, "top_p"),
            (SamplingFields { top_k: Some(-5), ..base() }, "top_k"),
            (SamplingFields { top_k: Some(1 << 40), ..base() }, "top_k"),
            (SamplingFields { min_p: Some(2.0), ..base() }, "min_p"),
            (SamplingFields { presence_penalty: Some(-1e9), ..base() }, "presence_penalty"),
            (SamplingFields { frequency_penalty: Some(1e9), ..base() }, "frequency_penalty"),
            (SamplingFields { repetition_penalty: Some(0.0), ..base() }, "repetition_penalty"),
            (
                SamplingFields {
                    repetition_penalty: Some(1.1),
                    repeat_penalty: Some(1.1),
                    ..base()
                },
                "repeat_penalty",
            ),
            (SamplingFields { n: Some(0), ..base() }, "n"),
            (SamplingFields { n: Some(129), ..base() }, "n"),
            (SamplingFields { logit_bias: bias(r#"{"-1": 1}"#), ..base() }, "logit_bias.-1"),
            (SamplingFields { logit_bias: bias(r#"{"1": 1e30}"#), ..base() }, "logit_bias.1"),
            (SamplingFields { logit_bias: bias(r#"[["", 1]]"#), ..base() }, "logit_bias."),
            (SamplingFields { logit_bias: bias("[[1, true]]"), ..base() }, "logit_bias.1"),
            (SamplingFields { stop: Some(TextOr::Text(String::new())), ..base() }, "stop"),
            (SamplingFields { stop: Some(TextOr::Items(many)), ..base() }, "stop"),
            (SamplingFields { stop_token_ids: Some(vec![1; 1000]), ..base() }, "stop_token_ids"),
            (SamplingFields { cache_salt: Some("x".repeat(2000)), ..base() }, "cache_salt"),
        ];
        for (fields, param) in cases {
            let error = fields.clone().apply(&mut request()).expect_err("out of range");
            assert_eq!(error.param.as_deref(), Some(param), "{fields:?}");
        }
    }

    #[test]
    fn biases_have_two_forms() {
        let ids = |bias: f32| (vec![(5, bias)], Vec::new());
        let cases = [
            (r#"{"5": 1.5}"#, Some(ids(1.5))),
            ("[[5, 1.5]]", Some(ids(1.5))),
            (r#"{"5": false}"#, Some(ids(-100.0))),
            (r#"[["yes", -2]]"#, Some((Vec::new(), vec![("yes".to_owned(), -2.0)]))),
            (r#"{"yes": -2}"#, Some((Vec::new(), vec![("yes".to_owned(), -2.0)]))),
            ("[[5]]", None),
            ("[5]", None),
            ("5", None),
        ];
        for (json, expected) in cases {
            let parsed =
                serde_json::from_str(json).ok().map(|bias| logit_bias(bias).expect("valid"));
            assert_eq!(parsed, expected, "{json}");
        }
    }

    #[test]
    fn absent_fields_have_openai_defaults() {
        let mut request = request();
        SamplingFields::default().apply(&mut request).expect("valid");
        assert_eq!((request.sampling, request.n, request.seed), (Sampling::default(), 1, None));
    }

    fn request() -> GenerationRequest {
        GenerationRequest::new(PromptInput::Text("x".to_owned()))
    }
}
