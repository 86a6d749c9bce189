//! Prompts as several dialects write them: texts, or token ids.

use std::fmt;

use poem_openapi::registry::MetaSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};

use crate::{
    chat::{
        embedding::{EmbedInput, MAX_INPUTS},
        generation::PromptInput,
    },
    error::{Error, Result},
    server::schema::wire_type,
};

/// Prompts in one request.
const MAX_PROMPTS: usize = 256;

/// One prompt or several, as text or as token ids.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

wire_type!(Prompt, "prompt", {
    let one_of = vec![
        String::schema_ref(),
        <Vec<String>>::schema_ref(),
        <Vec<u32>>::schema_ref(),
        <Vec<Vec<u32>>>::schema_ref(),
    ];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

/// An element of a prompt array.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string, a token id or an array of token ids")]
enum PromptItem {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;

        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, token ids, or an array of those")
            }

            fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Prompt, E> {
                Ok(Prompt::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
                let mut prompt: Option<Prompt> = None;
                while let Some(item) = items.next_element::<PromptItem>()? {
                    match (&mut prompt, item) {
                        (None, PromptItem::Text(text)) => prompt = Some(Prompt::Texts(vec![text])),
                        (None, PromptItem::Token(id)) => prompt = Some(Prompt::Tokens(vec![id])),
                        (None, PromptItem::Tokens(ids)) => {
                            prompt = Some(Prompt::TokenLists(vec![ids]));
                        }
                        (Some(Prompt::Texts(texts)), PromptItem::Text(text)) => texts.push(text),
                        (Some(Prompt::Tokens(ids)), PromptItem::Token(id)) => ids.push(id),
                        (Some(Prompt::TokenLists(lists)), PromptItem::Tokens(ids)) => {
                            lists.push(ids);
                        }
                        _ => {
                            let text = "texts, token ids and arrays must not be mixed";
                            return Err(serde::de::Error::custom(text));
                        }
                    }
                }
                Ok(prompt.unwrap_or(Prompt::Texts(Vec::new())))
            }
        }

        deserializer.deserialize_any(PromptVisitor)
    }
}

impl Prompt {
    /// Texts to embed.
    ///
    /// # Errors
    /// None or too many, named by `field`.
    pub(crate) fn into_embed_inputs(self, field: &'static str) -> Result<Vec<EmbedInput>> {
        let inputs: Vec<EmbedInput> = match self {
            Self::Text(text) => vec![EmbedInput::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(EmbedInput::Text).collect(),
            Self::Tokens(ids) => vec![EmbedInput::Tokens(ids)],
            Self::TokenLists(lists) => lists.into_iter().map(EmbedInput::Tokens).collect(),
        };
        if inputs.is_empty() || inputs.len() > MAX_INPUTS {
            let text = format!("{field}: from 1 to {MAX_INPUTS} texts, are {}", inputs.len());
            return Err(Error::invalid(field, text));
        }
        Ok(inputs)
    }

    /// Up to 256 prompts.
    ///
    /// # Errors
    /// More, named by `field`.
    pub(crate) fn into_inputs(self, field: &'static str) -> Result<Vec<PromptInput>> {
        let inputs: Vec<_> = match self {
            Self::Text(text) => vec![PromptInput::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(PromptInput::Text).collect(),
            Self::Tokens(ids) => vec![PromptInput::Tokens(ids)],
            Self::TokenLists(lists) => lists.into_iter().map(PromptInput::Tokens).collect(),
        };
        if inputs.len() > MAX_PROMPTS {
            let text = format!("{field}: {} prompts, limit {MAX_PROMPTS}", inputs.len());
            return Err(Error::invalid(field, text));
        }
        Ok(inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::Prompt;

    #[test]
    fn prompts_have_four_forms() {
        let cases = [
            (r#""a""#, Some(Prompt::Text("a".into()))),
            (r#"["a", "b"]"#, Some(Prompt::Texts(vec!["a".into(), "b".into()]))),
            ("[1, 2]", Some(Prompt::Tokens(vec![1, 2]))),
            ("[[1], [2, 3]]", Some(Prompt::TokenLists(vec![vec![1], vec![2, 3]]))),
            ("[]", Some(Prompt::Texts(vec![]))),
            (r#"["a", 1]"#, None),
            ("[[1], 2]", None),
            ("[-1]", None),
            ("[[[1]]]", None),
            ("{}", None),
            ("5", None),
        ];
        for (json, expected) in cases {
            assert_eq!(serde_json::from_str::<Prompt>(json).ok(), expected, "{json}");
        }
    }
}
