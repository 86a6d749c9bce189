//! `/api/pull`, `/api/delete` and `/api/copy`: models on this machine, as Ollama keeps them.
//!
//! A model that was pulled is an engine of the same name. Its file stays when the server ends; the next
//! one finds it when its name is asked for.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, future::BoxFuture};
use poem_openapi::{Object, OpenApi, ResponseContent};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{OllamaTag, models::engine_id};
use crate::{
    error::{Error, Kind, Result},
    hub::{Hub, HubError, Progress, Reference},
    registry::EngineSpec,
    server::{
        AppState,
        body::Json,
        lines::Lines,
        reply::{Answer, Content, Outcomes, Reply},
    },
};

/// Time between two lines of progress.
const TICK: Duration = Duration::from_millis(100);

/// Which model to fetch. Of parameters that are not listed here, those that decide what an answer
/// is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaPullRequest {
    /// A catalogue name, `hf.co/org/repo:quant`, a URL or a package; `:latest` may follow.
    #[oai(nullable)]
    pub model: Option<String>,
    /// The older name of `model`.
    #[oai(nullable)]
    pub name: Option<String>,
    /// One object a line as the download goes on; true if absent.
    #[oai(nullable)]
    pub stream: Option<bool>,
    /// Connections are always checked: must be absent, null or false.
    #[oai(nullable)]
    pub insecure: Option<bool>,
}

/// Which model to delete. Of parameters that are not listed here, those that decide what an answer
/// is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaDeleteRequest {
    #[oai(nullable)]
    pub model: Option<String>,
    /// The older name of `model`.
    #[oai(nullable)]
    pub name: Option<String>,
}

/// Which model gets which second name. Of parameters that are not listed here, those that decide
/// what an answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaCopyRequest {
    pub source: String,
    /// A name that no engine has.
    pub destination: String,
}

/// How far a download is.
#[derive(Clone, Debug, Default, Serialize, Object)]
pub(crate) struct OllamaProgress {
    /// The last is `success`.
    pub status: String,
    /// The name of the file: its checksum is known only at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes that are here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
}

/// Nothing more to say.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaDone {
    /// Always `success`.
    pub status: String,
}

/// One object, or one a line.
#[derive(ResponseContent)]
pub(crate) enum PullBody {
    Full(Json<OllamaProgress>),
    Stream(Lines<OllamaProgress>),
}

/// Outcomes of fetching a model.
pub(crate) struct Pulls;

impl Outcomes for Pulls {
    const SUCCESS: (u16, &'static str) =
        (200, "Progress, one object a line; with `stream` false, one object at the end");
    const FAILURES: &'static [u16] = &[400, 401, 403, 404, 408, 413, 422, 500, 503];
}

/// Outcomes of a change to the models.
pub(crate) struct Keeps;

impl Outcomes for Keeps {
    const SUCCESS: (u16, &'static str) = (200, "Done");
    const FAILURES: &'static [u16] = &[400, 401, 403, 404, 408, 409, 413, 500, 503];
}

/// The routes that fetch and remove.
pub(crate) struct OllamaStoreApi(pub Arc<AppState>);

#[OpenApi]
impl OllamaStoreApi {
    /// Fetch a model, as Ollama does
    ///
    /// What is here already is not fetched again. A download that is broken off goes on where it
    /// stopped.
    #[oai(
        path = "/api/pull",
        method = "post",
        operation_id = "ollamaPull",
        tag = "OllamaTag::Ollama"
    )]
    async fn pull(&self, request: Json<OllamaPullRequest>) -> Answer<Content<PullBody>, Pulls> {
        let request = request.0;
        if request.insecure == Some(true) {
            let text = "insecure: connections are always checked";
            return Err(Error::invalid("insecure", text).into());
        }
        let name = name(request.model, request.name)?;
        let checked = self.0.check_source(plain(&name)).await;
        checked.map_err(|error| error.with_param("model"))?;
        let pulling = self.start_pull(name)?;
        if request.stream.unwrap_or(true) {
            let lines = Lines::new(pulling.lines(), self.0.drain.clone());
            return Ok(Reply::new(Content(PullBody::Stream(lines))));
        }
        let drain = &self.0.drain;
        tokio::select! {
            done = pulling.work => done?,
            () = drain.expired() => return Err(crate::server::Drain::error().into()),
        }
        Ok(Reply::new(Content(PullBody::Full(Json(OllamaProgress::status("success"))))))
    }

    /// Delete a model, as Ollama does
    ///
    /// Removes the engine, and the file if it was fetched. Files that were never fetched stay.
    #[oai(
        path = "/api/delete",
        method = "delete",
        operation_id = "ollamaDelete",
        tag = "OllamaTag::Ollama"
    )]
    async fn delete(&self, request: Json<OllamaDeleteRequest>) -> Answer<Json<OllamaDone>, Keeps> {
        let name = name(request.0.model, request.0.name)?;
        let id = engine_id(&self.0, &name).await;
        let status = self.0.registry.status(&id).map_err(|error| error.with_param("model"))?;
        let reference = status.spec.reference;
        let others = self.0.registry.list();
        let is_shared =
            others.iter().any(|other| other.spec.id != id && other.spec.reference == reference);
        self.0.registry.remove(&id).await?;
        let hub = self.0.options.hub.as_ref();
        if hub.is_some_and(|hub| hub.forget_made(&id).unwrap_or(false)) {
            // It never had a file of its own.
            return Ok(Reply::new(Json(OllamaDone { status: "success".to_owned() })));
        }
        if let Some(hub) = self.0.options.hub.clone().filter(|_| !is_shared) {
            remove_file(hub, reference).await?;
        }
        Ok(Reply::new(Json(OllamaDone { status: "success".to_owned() })))
    }

    /// Give a model a second name, as Ollama does
    ///
    /// The file is not copied: both names mean the same.
    #[oai(
        path = "/api/copy",
        method = "post",
        operation_id = "ollamaCopy",
        tag = "OllamaTag::Ollama"
    )]
    async fn copy(&self, request: Json<OllamaCopyRequest>) -> Answer<Json<OllamaDone>, Keeps> {
        let OllamaCopyRequest { source, destination } = request.0;
        let id = engine_id(&self.0, &source).await;
        let status = self.0.registry.status(&id).map_err(|error| error.with_param("source"))?;
        let spec = EngineSpec { id: plain(&destination).to_owned(), ..status.spec };
        self.0.registry.add(spec, false).await.map_err(|error| error.with_param("destination"))?;
        Ok(Reply::new(Json(OllamaDone { status: "success".to_owned() })))
    }
}

pub(super) fn name(model: Option<String>, name: Option<String>) -> Result<String> {
    match model.or(name).filter(|name| !name.is_empty()) {
        Some(name) => Ok(name),
        None => {
            let text = "model: this required field is missing";
            Err(Error::invalid("model", text).with_code("missing_required_parameter"))
        }
    }
}

/// A name without the tag that means nothing.
pub(super) fn plain(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// Deletes a model that was fetched; what was not is not touched.
async fn remove_file(hub: Arc<Hub>, reference: String) -> Result<()> {
    let removed = tokio::task::spawn_blocking(move || match hub.remove(&reference) {
        Err(HubError::NotFound(_)) | Ok(_) => Ok(()),
        Err(error) => Err(Error::from(error)),
    });
    let failed = |e| Error::internal(format!("the model was not deleted: {e}"));
    removed.await.map_err(failed)?
}

/// Registers a model of the store under its name, if it is there and nothing else has the name.
pub(super) async fn find(state: &AppState, name: &str) -> Option<String> {
    let hub = state.options.hub.clone()?;
    let id = plain(name).to_owned();
    let reference = id.clone();
    let found = tokio::task::spawn_blocking(move || hub.find(&reference).is_some()).await;
    if !found.unwrap_or(false) {
        return None;
    }
    let (params, text) = (state.options.engine.clone(), state.options.text.clone());
    let spec = EngineSpec { params, text, ..EngineSpec::new(&id, &id) };
    // Somebody may have been faster, which is as good.
    let _ = state.registry.add(spec, false).await;
    Some(id)
}

impl OllamaStoreApi {
    fn start_pull(&self, name: String) -> Result<Pulling> {
        let hub = self.0.options.hub.clone().ok_or_else(|| {
            let text = "this server has no store of models to pull into";
            Error::new(Kind::Unavailable, text).with_param("model")
        })?;
        let id = plain(&name).to_owned();
        // An engine of this name says where its model is.
        let known = self.0.registry.status(&id).ok().map(|status| status.spec.reference);
        let text = known.clone().unwrap_or_else(|| id.clone());
        let reference = Reference::parse(&text).map_err(|e| Error::from(e).with_param("model"))?;
        if known.is_none() && !reference.is_remote() {
            let text = "model: a path is no model that could be fetched";
            return Err(Error::invalid("model", text));
        }
        let (report, reported) = watch::channel(OllamaProgress::status("pulling manifest"));
        let state = Arc::clone(&self.0);
        let work = Box::pin(async move {
            let fetched = hub.fetch(&reference, &Report(report)).await;
            fetched.map_err(|error| Error::from(error).with_param("model"))?;
            if known.is_none() {
                let (params, defaults) = (state.options.engine.clone(), state.options.text.clone());
                let spec = EngineSpec { params, text: defaults, ..EngineSpec::new(&id, text) };
                match state.registry.add(spec, false).await {
                    Err(error) if error.kind != Kind::Conflict => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        });
        Ok(Pulling { work, reported })
    }
}

/// Tells the latest state; whoever listens may miss some.
struct Report(watch::Sender<OllamaProgress>);

impl Progress for Report {
    fn start(&self, file: &str, total: Option<u64>) {
        self.0.send_replace(OllamaProgress {
            status: format!("pulling {file}"),
            digest: Some(file.to_owned()),
            total,
            completed: Some(0),
        });
    }

    fn advance(&self, bytes: u64) {
        self.0.send_modify(|progress| *progress.completed.get_or_insert(0) += bytes);
    }

    fn finish(&self) {
        self.0.send_modify(|progress| progress.total = progress.total.or(progress.completed));
    }

    fn note(&self, text: &str) {
        self.0.send_replace(OllamaProgress::status(text));
    }
}

impl OllamaProgress {
    pub(super) fn status(text: &str) -> Self {
        Self { status: text.to_owned(), ..Self::default() }
    }
}

/// A download under way; dropping it breaks it off.
struct Pulling {
    work: BoxFuture<'static, Result<()>>,
    reported: watch::Receiver<OllamaProgress>,
}

/// What is said next.
enum Saying {
    Begin(Pulling),
    Progress(Pulling, Interval),
    Success,
}

impl Pulling {
    fn lines(self) -> impl Stream<Item = Result<OllamaProgress>> + Send + 'static {
        futures_util::stream::unfold(Some(Saying::Begin(self)), |saying| async move {
            match saying? {
                Saying::Begin(pulling) => {
                    let mut ticks = interval(TICK);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    let line = OllamaProgress::status("pulling manifest");
                    Some((Ok(line), Some(Saying::Progress(pulling, ticks))))
                }
                Saying::Progress(mut pulling, mut ticks) => match pulling.next(&mut ticks).await {
                    Ok(Some(line)) => Some((Ok(line), Some(Saying::Progress(pulling, ticks)))),
                    Ok(None) => {
                        let last = pulling.reported.borrow().clone();
                        Some((Ok(last), Some(Saying::Success)))
                    }
                    Err(error) => Some((Err(error), None)),
                },
                Saying::Success => Some((Ok(OllamaProgress::status("success")), None)),
            }
        })
    }

    /// The next state that is new; `None` when the model is here.
    async fn next(&mut self, ticks: &mut Interval) -> Result<Option<OllamaProgress>> {
        loop {
            tokio::select! {
                biased;
                done = &mut self.work => return done.map(|()| None),
                _ = ticks.tick() => {
                    if self.reported.has_changed().unwrap_or(false) {
                        return Ok(Some(self.reported.borrow_and_update().clone()));
                    }
                }
            }
        }
    }
}
