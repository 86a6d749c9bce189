//! `/api/create`: a model made of another one, with a system message, a template and parameters.
//!
//! It is an engine of its own on the same file. What it is made of is kept beside the models, so that
//! the next server has it too.

use std::sync::Arc;

use futures_util::StreamExt;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    OllamaTag,
    modelfile::{self, Making},
    models::engine_id,
    request::{OLLAMA_OPTIONS, OllamaOptions},
    store::{Keeps, OllamaProgress, PullBody, name, plain},
};
use crate::{
    chat::{TextDefaults, builtin_template},
    error::{Error, Kind, Result},
    hub::Reference,
    param::{self, Place},
    registry::EngineSpec,
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{Draft, decides},
        lines::Lines,
        reply::{Answer, Content, Reply},
        schema::FreeObject,
    },
};

/// What a model keeps of Ollama's options.
const KEPT: [&str; 8] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop",
    "num_ctx",
    // Taken and told wherever it stands.
    "n_keep",
];
/// How Go's templates begin, which are not run here.
const GO_TEMPLATE: [&str; 8] =
    ["{{ .", "{{.", "{{- .", "{{-.", "{{ if", "{{- if", "{{ range", "{{- range"];

/// What a model is made of. Of parameters that are not listed here, those that decide what an answer
/// is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaCreateRequest {
    /// The name of the new model.
    #[oai(nullable)]
    pub model: Option<String>,
    /// The older name of `model`.
    #[oai(nullable)]
    pub name: Option<String>,
    /// The model that it is made of: an engine, a catalogue name, `hf.co/org/repo:quant` or a URL.
    #[oai(nullable)]
    pub from: Option<String>,
    /// The system message of conversations that begin without one.
    #[oai(nullable)]
    pub system: Option<String>,
    /// A chat template in Jinja's language, or the name of one. Go's templates are not run here.
    #[oai(nullable)]
    pub template: Option<String>,
    /// Options that hold where a request does not say otherwise: `temperature`, `top_p`, `top_k`, `min_p`,
    /// `repeat_penalty`, `stop` and `num_ctx`.
    #[oai(nullable)]
    pub parameters: Option<FreeObject>,
    /// A Modelfile with `FROM`, `SYSTEM`, `TEMPLATE` and `PARAMETER`, as older clients send it.
    #[oai(nullable)]
    pub modelfile: Option<String>,
    /// One object a line; true if absent.
    #[oai(nullable)]
    pub stream: Option<bool>,
}

/// A model that was made, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct MadeModel {
    reference: String,
    n_ctx: u32,
    text: TextDefaults,
}

/// The route that makes models.
pub(crate) struct OllamaCreateApi(pub Arc<AppState>);

#[OpenApi]
impl OllamaCreateApi {
    /// Make a model of another one, as Ollama does
    ///
    /// The new model is an engine on the same file, and is there again when the server is. A model of
    /// this name that was made before is replaced.
    #[oai(
        path = "/api/create",
        method = "post",
        operation_id = "ollamaCreate",
        tag = "OllamaTag::Ollama"
    )]
    async fn create(
        &self,
        caller: Data<&Caller>,
        request: Json<OllamaCreateRequest>,
    ) -> Answer<Content<PullBody>, Keeps> {
        let request = request.0;
        let is_stream = request.stream.unwrap_or(true);
        let model = plain(&name(request.model, request.name)?).to_owned();
        let mut making = Making {
            from: request.from,
            system: request.system,
            template: request.template,
            parameters: request.parameters.unwrap_or_default().0,
        };
        if let Some(text) = &request.modelfile {
            modelfile::read(text, &mut making)?;
        }
        let spec = self.spec(&caller, model, making).await?;
        self.put(spec).await?;
        let lines = ["creating model", "writing manifest", "success"];
        let mut lines = lines.map(OllamaProgress::status).to_vec();
        let body = if is_stream {
            let lines = futures_util::stream::iter(lines.into_iter().map(Ok));
            PullBody::Stream(Lines::new(lines.boxed(), self.0.drain.clone()))
        } else {
            PullBody::Full(Json(lines.pop().unwrap_or_default()))
        };
        Ok(Reply::new(Content(body)))
    }
}

impl OllamaCreateApi {
    /// The engine that is to be made.
    async fn spec(&self, caller: &Caller, model: String, making: Making) -> Result<EngineSpec> {
        let from = making.from.filter(|from| !from.trim().is_empty()).ok_or_else(|| {
            let error = Error::invalid("from", "from: this required field is missing");
            error.with_code("missing_required_parameter")
        })?;
        let base = self.base(&from).await?;
        let mut text = base.text.clone();
        let template = making.template.filter(|template| !template.is_empty());
        text.template = match template {
            Some(template) => Some(jinja(template)?),
            None => text.template,
        };
        text.system = making.system.filter(|system| !system.is_empty()).or(text.system);
        let n_ctx = parameters(making.parameters, &mut text, caller)?;
        let mut params = base.params;
        params.n_ctx = n_ctx.unwrap_or(params.n_ctx);
        params.bound_n_keep();
        let spec = EngineSpec { params, text, ..EngineSpec::new(model, base.reference) };
        spec.validate()?;
        Ok(spec)
    }

    /// The model of which another one is made.
    async fn base(&self, from: &str) -> Result<EngineSpec> {
        let id = engine_id(&self.0, from).await;
        if let Ok(status) = self.0.registry.status(&id) {
            return Ok(status.spec);
        }
        let named = |error: Error| error.with_param("from");
        let reference = Reference::parse(plain(from)).map_err(|error| named(error.into()))?;
        let reference = reference.to_string();
        self.0.check_source(&reference).await.map_err(named)?;
        let options = &self.0.options;
        let (params, text) = (options.engine.clone(), options.text.clone());
        Ok(EngineSpec { params, text, ..EngineSpec::new(plain(from), reference) })
    }

    /// Registers the engine, in place of one that was made before, and keeps what it is made of.
    async fn put(&self, spec: EngineSpec) -> Result<()> {
        let hub = self.0.options.hub.clone();
        let name = spec.id.clone();
        let was_made =
            hub.as_ref().is_some_and(|hub| hub.all_made().iter().any(|(made, _)| *made == name));
        if was_made {
            self.0.registry.remove(&name).await?;
        }
        let made = MadeModel {
            reference: spec.reference.clone(),
            n_ctx: spec.params.n_ctx,
            text: spec.text.clone(),
        };
        let added = self.0.registry.add(spec, false).await;
        added.map_err(|error| error.with_param("model"))?;
        let what = serde_json::to_value(&made).map_err(|e| Error::internal(e.to_string()))?;
        if let Some(hub) = hub {
            let kept = tokio::task::spawn_blocking(move || hub.keep_made(&name, &what)).await;
            let failed = |error| Error::internal(format!("the model was not kept: {error}"));
            kept.map_err(failed)?.map_err(Error::from)?;
        }
        Ok(())
    }
}

/// Registers the models that an earlier server made. Those whose names are taken are left alone.
pub(crate) async fn register_made(state: &AppState) {
    let Some(hub) = &state.options.hub else { return };
    for (name, what) in hub.all_made() {
        let Ok(made) = serde_json::from_value::<MadeModel>(what) else {
            tracing::warn!(name, "what this model is made of cannot be read");
            continue;
        };
        let mut params = state.options.engine.clone();
        params.n_ctx = made.n_ctx;
        params.bound_n_keep();
        let spec = EngineSpec { params, text: made.text, ..EngineSpec::new(name, made.reference) };
        match state.registry.add(spec, false).await {
            Err(error) if error.kind != Kind::Conflict => {
                tracing::warn!("a model that was made is left out: {error}");
            }
            _ => {}
        }
    }
}

/// A template that can be run here.
fn jinja(template: String) -> Result<String> {
    let is_go = GO_TEMPLATE.iter().any(|begin| template.contains(begin));
    let is_jinja = builtin_template(&template).is_some() || template.contains("{%");
    if is_go && !is_jinja {
        let text = "template: this is one of Go's, which are not run here; leave it out, as the model has its \
                    own, or send one in Jinja's language";
        return Err(Error::invalid("template", text));
    }
    Ok(template)
}

/// Puts options into what holds for texts; the context that is asked for.
fn parameters(
    mut fields: Map<String, Value>,
    text: &mut TextDefaults,
    caller: &Caller,
) -> Result<Option<u32>> {
    let tell = |what: String| caller.tell(&[what]);
    let place = Place { path: "parameters".to_owned(), tell: &tell, decides, is_strict: false };
    let mut draft = Draft::default();
    let given = param::read(OLLAMA_OPTIONS, &mut fields, &mut draft, &place)?;
    for row in OLLAMA_OPTIONS.iter().filter(|row| given.has(row.key)) {
        let is_idle = matches!(row.effect, param::Effect::Nothing(_));
        if is_idle && row.key != "num_ctx" {
            tell(format!("parameters.{}", row.name));
        } else if !KEPT.contains(&row.key) {
            let text = "is not kept with a model; send it with requests";
            return Err(given.error(row.key, text));
        }
    }
    fields.keys().for_each(|name| tell(format!("parameters.{name}")));
    draft.settle(&given)?;
    text.sampling = draft.request.said.or(text.sampling);
    if given.has("stop") {
        text.stop = draft.request.stop;
    }
    Ok(OllamaOptions::of(&given).num_ctx)
}
