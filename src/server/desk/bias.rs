//! Scores that requests add to tokens.

use std::fmt;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::{error::Result, param::Place, server::schema::wire_type};

/// Entries of one request.
const MAX_LOGIT_BIAS: usize = 4096;
/// Bytes of a text that has a bias.
const MAX_BIAS_BYTES: usize = 256;

/// Biases of token ids, and of texts, which stand for each of their tokens.
pub(super) type Biases = (Vec<(u32, f32)>, Vec<(String, f32)>);

/// Checks what stands at a place.
pub(super) fn biases(LogitBias(entries): LogitBias, place: &Place) -> Result<Biases> {
    if entries.len() > MAX_LOGIT_BIAS {
        return Err(place.error(format!("{} entries, limit {MAX_LOGIT_BIAS}", entries.len())));
    }
    let mut biases = Biases::default();
    for (key, bias) in entries {
        let name = match &key {
            BiasKey::Id(id) => id.to_string(),
            BiasKey::Text(text) => text.chars().take(32).collect(),
        };
        let here = place.at(&name);
        let bias = match bias {
            Bias::Number(bias) if (-100.0..=100.0).contains(&bias) => bias as f32,
            Bias::Ban(false) => -100.0,
            Bias::Number(_) | Bias::Ban(true) => {
                return Err(here.error("must be from -100 to 100, or false for a ban"));
            }
        };
        match key {
            BiasKey::Id(id) => {
                let unknown = |_| here.error("not the id of a token");
                biases.0.push((u32::try_from(id).map_err(unknown)?, bias));
            }
            BiasKey::Text(text) if text.is_empty() || text.len() > MAX_BIAS_BYTES => {
                return Err(here.error(format!("a text has 1 to {MAX_BIAS_BYTES} bytes")));
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let place = Place {
            path: "logit_bias".to_owned(),
            tell: &|_| {},
            decides: |_| false,
            is_strict: false,
        };
        for (json, expected) in cases {
            let parsed =
                serde_json::from_str(json).ok().map(|bias| biases(bias, &place).expect("valid"));
            assert_eq!(parsed, expected, "{json}");
        }
    }
}
