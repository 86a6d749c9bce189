//! `/props` and `/slots` of llama-server, and vLLM's `/tokenizer_info`: what an engine is, without
//! asking it for anything.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Query};
use serde::Serialize;

use super::{NativeTag, Translates, llama_answer::GenerationSettings};
use crate::{
    chat::{SamplingDefaults, Tokenizer},
    error::Result,
    registry::Status,
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{Looks, lease_named_or_only, named_or_only, unless_only},
        reply::{Answer, Reply},
    },
};

/// What holds where a request says nothing.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct DefaultGenerationSettings {
    /// Longest prompt and answer together, in tokens.
    pub n_ctx: usize,
    pub params: GenerationSettings,
}

/// What the model takes beside text.
#[derive(Clone, Copy, Debug, Serialize, Object)]
pub(crate) struct Modalities {
    pub vision: bool,
    pub audio: bool,
}

/// An engine. What is known of it only while it is loaded is null before.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Props {
    pub default_generation_settings: DefaultGenerationSettings,
    /// Sequences that run at once.
    pub total_slots: u32,
    /// The `engine_id`.
    pub model_alias: String,
    pub model_path: String,
    /// The chat template, in Jinja's language.
    #[oai(nullable)]
    pub chat_template: Option<String>,
    #[oai(nullable)]
    pub bos_token: Option<String>,
    #[oai(nullable)]
    pub eos_token: Option<String>,
    pub modalities: Modalities,
    /// Name and version of this program.
    pub build_info: String,
    /// It is not loaded; the next request loads it.
    pub is_sleeping: bool,
}

/// A place for a sequence. Sequences have no fixed places here: as many are shown as busy as run.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct SlotStatus {
    pub id: u32,
    /// Longest prompt and answer together, in tokens.
    pub n_ctx: usize,
    /// Tokens are computed ahead as guesses.
    pub speculative: bool,
    pub is_processing: bool,
}

/// The vocabulary of a model and how its texts are framed.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct TokenizerInfo {
    pub model: String,
    pub vocab_size: usize,
    #[oai(nullable)]
    pub bos_token: Option<String>,
    #[oai(nullable)]
    pub eos_token: Option<String>,
    /// Ids of all tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// A text begins with the BOS token.
    pub add_bos_token: bool,
    /// Longest prompt and answer together, in tokens.
    pub model_max_length: usize,
    /// The chat template, in Jinja's language.
    pub chat_template: String,
}

/// The routes that describe an engine.
pub(crate) struct PropsApi(pub Arc<AppState>);

#[OpenApi]
impl PropsApi {
    /// Describe an engine, as llama-server does
    ///
    /// Looking neither loads an engine nor keeps it loaded.
    #[oai(path = "/props", method = "get", operation_id = "llamaProps", tag = "NativeTag::Llama")]
    async fn props(
        &self,
        caller: Data<&Caller>,
        /// The `engine_id`; absent or any name if there is only one.
        model: Query<Option<String>>,
    ) -> Answer<Json<Props>, Looks> {
        let status = self.status(&caller, model.0).await?;
        let text = match status.is_ready() {
            true => Some(self.0.registry.get(&status.spec.id).await?.loaded()),
            false => None,
        };
        let text = text.as_ref().map(|loaded| &loaded.text);
        let token = |id: fn(&Tokenizer) -> Option<u32>| {
            let tokenizer = &text?.tokenizer;
            tokenizer.token(id(tokenizer)?).map(str::to_owned)
        };
        let advised = status.known.as_ref().map(|known| known.sampling).unwrap_or_default();
        Ok(Reply::new(Json(Props {
            default_generation_settings: DefaultGenerationSettings {
                n_ctx: context(&status),
                params: advised.or(SamplingDefaults::OURS).into(),
            },
            total_slots: slots(&status),
            model_path: status.known.as_ref().map_or_else(
                || status.spec.reference.clone(),
                |known| known.path.display().to_string(),
            ),
            chat_template: text.map(|text| text.template.source().to_owned()),
            bos_token: token(Tokenizer::bos),
            eos_token: token(Tokenizer::eos),
            modalities: Modalities { vision: false, audio: false },
            build_info: format!("kolosal-server {}", env!("CARGO_PKG_VERSION")),
            is_sleeping: !status.is_ready(),
            model_alias: status.spec.id,
        })))
    }

    /// List the places for sequences, as llama-server does
    ///
    /// Looking neither loads an engine nor keeps it loaded.
    #[oai(path = "/slots", method = "get", operation_id = "llamaSlots", tag = "NativeTag::Llama")]
    async fn slots(
        &self,
        caller: Data<&Caller>,
        /// The `engine_id`; absent or any name if there is only one.
        model: Query<Option<String>>,
    ) -> Answer<Json<Vec<SlotStatus>>, Looks> {
        let status = self.status(&caller, model.0).await?;
        let running = status.stats.as_ref().map_or(0, |stats| stats.running);
        let n_ctx = context(&status);
        let slot = |id| SlotStatus {
            id,
            n_ctx,
            speculative: status.stats.as_ref().is_some_and(|stats| stats.draft_tokens > 0),
            is_processing: (id as usize) < running,
        };
        Ok(Reply::new(Json((0..slots(&status)).map(slot).collect())))
    }

    /// Describe a model's tokenizer, as vLLM does
    ///
    /// The engine is loaded if it is not.
    #[oai(
        path = "/tokenizer_info",
        method = "get",
        operation_id = "tokenizerInfo",
        tag = "NativeTag::Tokens"
    )]
    async fn tokenizer_info(
        &self,
        /// The `engine_id`; may be absent if there is only one.
        model: Query<Option<String>>,
    ) -> Answer<Json<TokenizerInfo>, Translates> {
        let lease = lease_named_or_only(&self.0, model.0.as_deref()).await?;
        let tokenizer = &lease.text.tokenizer;
        let token = |id: Option<u32>| tokenizer.token(id?).map(str::to_owned);
        Ok(Reply::new(Json(TokenizerInfo {
            model: lease.id().to_owned(),
            vocab_size: tokenizer.vocab_size(),
            bos_token: token(tokenizer.bos()),
            eos_token: token(tokenizer.eos()),
            eos_token_ids: tokenizer.eog().to_vec(),
            add_bos_token: tokenizer.add_bos(),
            model_max_length: lease.engine.spec().context_len,
            chat_template: lease.text.template.source().to_owned(),
        })))
    }

    async fn status(&self, caller: &Caller, model: Option<String>) -> Result<Status> {
        let model = unless_only(&self.0, caller, model);
        let id = named_or_only(&self.0, model.as_deref())?;
        let status = self.0.registry.describe(&id).await;
        status.map_err(|error| error.with_param("model"))
    }
}

fn context(status: &Status) -> usize {
    let known = status.info.as_ref().or(status.known.as_ref());
    known.map_or(status.spec.params.n_ctx as usize, |known| known.context_len)
}

fn slots(status: &Status) -> u32 {
    u32::try_from(status.spec.params.max_running()).unwrap_or(u32::MAX)
}
