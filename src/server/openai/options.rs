//! Small request types that chat and text completions share, and checks of them.

use std::collections::BTreeMap;

use poem_openapi::Object;
use serde::Deserialize;

use crate::{
    error::{Error, Result},
    server::schema::wire_enum,
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
