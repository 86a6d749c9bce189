//! `GET /v1/models`: the engines, in OpenAI's shape.

use std::sync::Arc;

use poem_openapi::{Object, OpenApi, param::Path};
use serde::Serialize;

use super::OpenAiTag;
use crate::{
    chat::SamplingDefaults,
    registry::Status,
    server::{
        AppState,
        body::Json,
        desk::{Lists, Looks, status_word},
        reply::{Answer, Reply},
        schema::wire_enum,
    },
};

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum ListKind {
        List = "list",
    }
}

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum ModelKind {
        Model = "model",
    }
}

/// All models.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ModelList {
    pub object: ListKind,
    pub data: Vec<Model>,
    /// The same models in the shape that kolosal's own clients read.
    pub models: Vec<ModelSummary>,
    pub total_count: usize,
}

/// One model; in this server, one registered engine.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Model {
    /// The `engine_id`, to be sent as `model`.
    pub id: String,
    pub object: ModelKind,
    /// When it was registered, Unix time in seconds.
    pub created: u64,
    pub owned_by: String,
    /// `loaded`, `loading`, `unloaded`, `draining` or `failed`; an unloaded model loads when asked.
    pub status: String,
    /// Longest prompt and answer together, in tokens.
    #[oai(nullable)]
    pub max_model_len: Option<u32>,
    /// How tokens are chosen where a request says nothing: as the model's makers advise, else as this
    /// server does.
    pub default_sampling: DefaultSampling,
}

/// How tokens are chosen where a request says nothing; null: the parameter is off.
#[derive(Clone, Copy, Debug, Serialize, Object)]
pub(crate) struct DefaultSampling {
    #[oai(nullable)]
    pub temperature: Option<f32>,
    #[oai(nullable)]
    pub top_p: Option<f32>,
    #[oai(nullable)]
    pub top_k: Option<u32>,
    #[oai(nullable)]
    pub min_p: Option<f32>,
    #[oai(nullable)]
    pub repetition_penalty: Option<f32>,
}

impl From<SamplingDefaults> for DefaultSampling {
    fn from(said: SamplingDefaults) -> Self {
        let SamplingDefaults { temperature, top_p, top_k, min_p, repetition_penalty } = said;
        Self { temperature, top_p, top_k, min_p, repetition_penalty }
    }
}

/// One model in kolosal's shape.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ModelSummary {
    pub model_id: String,
    pub status: String,
    /// Always `llm`.
    pub r#type: String,
}

impl Model {
    fn new(status: &Status, created: u64) -> Self {
        Self {
            id: status.spec.id.clone(),
            object: ModelKind::Model,
            created,
            owned_by: "kolosal".to_owned(),
            status: status_word(&status.state).to_owned(),
            default_sampling: {
                let known = status.known.as_ref().map(|known| known.sampling);
                known.unwrap_or_default().or(SamplingDefaults::OURS).into()
            },
            // What the loaded engine serves, which may be less than was asked for.
            max_model_len: status.info.as_ref().and_then(|info| info.context_len.try_into().ok()),
        }
    }
}

/// The model routes.
pub(crate) struct ModelApi(pub Arc<AppState>);

#[OpenApi]
impl ModelApi {
    /// List the models
    ///
    /// Looking neither loads a model nor keeps it loaded.
    #[oai(path = "/models", method = "get", operation_id = "listModels", tag = "OpenAiTag::Models")]
    async fn list(&self) -> Answer<Json<ModelList>, Lists> {
        let statuses = self.0.registry.list();
        let summary = |status: &Status| ModelSummary {
            model_id: status.spec.id.clone(),
            status: status_word(&status.state).to_owned(),
            r#type: "llm".to_owned(),
        };
        Ok(Reply::new(Json(ModelList {
            object: ListKind::List,
            data: statuses.iter().map(|s| Model::new(s, self.0.started_unix_s)).collect(),
            models: statuses.iter().map(summary).collect(),
            total_count: statuses.len(),
        })))
    }

    /// Look up a model
    #[oai(
        path = "/models/:model",
        method = "get",
        operation_id = "retrieveModel",
        tag = "OpenAiTag::Models"
    )]
    async fn retrieve(
        &self,
        /// The `engine_id`; a slash in it must be sent as `%2F`.
        model: Path<String>,
    ) -> Answer<Json<Model>, Looks> {
        let status = self.0.registry.status(&model.0).map_err(|error| error.with_param("model"))?;
        Ok(Reply::new(Json(Model::new(&status, self.0.started_unix_s))))
    }
}
