//! Small request types that chat and text completions share, and checks of them.

use std::collections::BTreeMap;

use poem_openapi::Object;
use serde::Deserialize;

use crate::{
    error::{Error, Result},
    server::common::Part,
    server::schema::{TextOr, text_or_objects, wire_enum},
};

/// Labels of a request.
const MAX_METADATA: usize = 16;

wire_enum! {
    /// What an answer can be made of.
    pub(crate) enum Modality {
        Text = "text",
    }
}

wire_enum! {
    /// A class of service.
    pub(crate) enum ServiceTier {
        Auto = "auto",
        Default = "default",
        Flex = "flex",
        Scale = "scale",
        Priority = "priority",
    }
}

wire_enum! {
    /// What a prediction is.
    pub(crate) enum PredictionKind {
        Content = "content",
    }
}

/// What most of the answer is expected to be.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct Prediction {
    pub r#type: PredictionKind,
    /// Text, or texts that follow one another.
    #[serde(deserialize_with = "text_or_objects")]
    pub content: Option<TextOr<Part>>,
}

impl Prediction {
    pub(crate) fn into_text(self) -> Result<String> {
        match self.content {
            Some(TextOr::Text(text)) => Ok(text),
            Some(TextOr::Items(parts)) => {
                let text = |(i, part): (usize, Part)| {
                    part.text.ok_or_else(|| {
                        let field = format!("prediction.content[{i}].text");
                        let text = format!("{field}: this required field is missing");
                        Error::invalid(field, text)
                    })
                };
                parts.into_iter().enumerate().map(text).collect()
            }
            None => {
                let text = "prediction.content: text is required";
                Err(Error::invalid("prediction.content", text))
            }
        }
    }
}

pub(crate) fn check_metadata(metadata: Option<&BTreeMap<String, String>>) -> Result<()> {
    match metadata {
        Some(metadata) if metadata.len() > MAX_METADATA => {
            let text = format!("metadata has {} entries, limit {MAX_METADATA}", metadata.len());
            Err(Error::invalid("metadata", text))
        }
        _ => Ok(()),
    }
}
