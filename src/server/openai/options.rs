//! Small request types that chat and text completions share, and checks of them.

use std::collections::BTreeMap;

use poem_openapi::Object;
use serde::Deserialize;

use super::{local::label, message::Part};
use crate::{
    error::{Error, Result},
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
    /// How many words an answer has.
    pub(crate) enum Verbosity {
        Low = "low",
        Medium = "medium",
        High = "high",
    }
}

impl Verbosity {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

wire_enum! {
    /// How long a prompt's prefix is kept.
    pub(crate) enum CacheRetention {
        InMemory = "in_memory",
        /// The older form.
        InMemoryDash = "in-memory",
        Day = "24h",
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

/// Writes a request's labels to the log, where there are any.
pub(crate) fn log_labels(user: Option<&str>, metadata: Option<&BTreeMap<String, String>>) {
    if user.is_some() || metadata.is_some() {
        tracing::debug!(user = ?user.map(label), metadata = ?metadata, "labels of a request");
    }
}

/// Options of a streamed answer; only with `stream`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// Send the token counts in a last chunk without choices.
    #[oai(nullable)]
    pub include_usage: Option<bool>,
    /// Pad events to hide their length; not supported: must be absent, null or false.
    #[oai(nullable)]
    pub include_obfuscation: Option<bool>,
}

pub(crate) fn check_stream_options(stream: bool, options: Option<&StreamOptions>) -> Result<()> {
    let Some(options) = options else { return Ok(()) };
    if !stream {
        let text = "stream_options is only allowed when stream is true";
        return Err(Error::invalid("stream_options", text));
    }
    if options.include_obfuscation == Some(true) {
        let text = "stream_options.include_obfuscation: padding is not supported";
        return Err(Error::invalid("stream_options.include_obfuscation", text));
    }
    Ok(())
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
