//! `/engines`: register, list, look at, load, unload and remove.

use std::sync::Arc;

use poem::http::{StatusCode, header};
use poem_openapi::{Object, OpenApi, param::Path};
use serde::Serialize;
use serde_json::json;

use super::{
    Changes, Creates, NativeTag,
    engine_request::{CreateEngineRequest, EffectiveParameters},
    engine_status::EngineStatus,
};
use crate::{
    error::{Error, Kind},
    registry::EngineSpec,
    server::{
        AppState,
        body::Json,
        desk::{Body, Lists, Looks},
        error::Failure,
        reply::{Answer, Reply},
        schema::wire_enum,
    },
};

/// Failures of a load that are the path's fault: 400, as they were in the original.
const PATH_CODES: [&str; 5] = [
    "model_path_not_found",
    "model_path_access_denied",
    "model_file_not_found",
    "invalid_model_format",
    "invalid_model_path_type",
];

wire_enum! {
    /// What became of a new engine.
    pub(crate) enum CreatedStatus {
        /// It is in memory.
        Loaded = "loaded",
        /// It is registered; the first request loads it.
        Created = "created",
    }
}

wire_enum! {
    /// What became of a removed engine.
    pub(crate) enum RemovedStatus {
        Removed = "removed",
    }
}

/// A new engine.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct CreatedEngine {
    pub engine_id: String,
    pub model_path: String,
    pub status: CreatedStatus,
    pub load_immediately: bool,
    pub loading_parameters: EffectiveParameters,
    /// The same as `loading_parameters`.
    pub parameters: EffectiveParameters,
    pub main_gpu_id: i32,
    pub message: String,
    /// Parameters without effect and the like.
    pub warnings: Vec<String>,
}

/// All engines.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct EngineList {
    pub engines: Vec<EngineStatus>,
    pub total_count: usize,
}

/// A removed engine.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct RemovedEngine {
    pub engine_id: String,
    pub status: RemovedStatus,
    pub message: String,
}

/// The engine routes.
pub(crate) struct EngineApi(pub Arc<AppState>);

#[OpenApi]
impl EngineApi {
    /// Register an engine
    ///
    /// Names a model file and, unless told otherwise, loads it before answering.
    #[oai(
        path = "/engines",
        method = "post",
        operation_id = "createEngine",
        tag = "NativeTag::Engines"
    )]
    async fn create(
        &self,
        request: Body<CreateEngineRequest>,
    ) -> Answer<Json<CreatedEngine>, Creates> {
        let loads_now = request.0.loads_now();
        let spec = request.0.into_spec(&self.0.options.engine, &self.0.options.text)?;
        let checked = self.0.check_source(&spec.reference).await;
        checked.map_err(|error| error.with_param("model_path"))?;
        let added = self.0.registry.add(spec.clone(), loads_now).await;
        let status = added.map_err(|error| loading_failure(error, &spec))?;
        let location = format!("/engines/{}", percent_encode(&spec.id));
        let parameters = EffectiveParameters::from(&status.spec.params);
        let body = CreatedEngine {
            engine_id: spec.id,
            model_path: spec.reference,
            status: if loads_now { CreatedStatus::Loaded } else { CreatedStatus::Created },
            load_immediately: loads_now,
            main_gpu_id: parameters.main_gpu_id,
            loading_parameters: parameters.clone(),
            parameters,
            message: "Engine added successfully".to_owned(),
            warnings: status.info.map(|info| info.warnings).unwrap_or_default(),
        };
        Ok(Reply::new(Json(body)).with_header(header::LOCATION, &location))
    }

    /// List the engines
    ///
    /// Looking neither loads an engine nor keeps it loaded.
    #[oai(
        path = "/engines",
        method = "get",
        operation_id = "listEngines",
        tag = "NativeTag::Engines"
    )]
    async fn list(&self) -> Answer<Json<EngineList>, Lists> {
        let engines: Vec<_> = self.0.registry.list().iter().map(EngineStatus::new).collect();
        Ok(Reply::new(Json(EngineList { total_count: engines.len(), engines })))
    }

    /// Look at an engine
    #[oai(
        path = "/engines/:engine_id/status",
        method = "get",
        operation_id = "getEngineStatus",
        tag = "NativeTag::Engines"
    )]
    async fn status(&self, engine_id: Path<String>) -> Answer<Json<EngineStatus>, Looks> {
        let status = self.0.registry.status(&engine_id.0).map_err(engine_not_found)?;
        Ok(Reply::new(Json(EngineStatus::new(&status))))
    }

    /// Load an engine
    ///
    /// Answers when it is loaded; at once if it is already.
    #[oai(
        path = "/engines/:engine_id/load",
        method = "post",
        operation_id = "loadEngine",
        tag = "NativeTag::Engines"
    )]
    async fn load(&self, engine_id: Path<String>) -> Answer<Json<EngineStatus>, Changes> {
        let id = engine_id.0;
        let spec = self.0.registry.status(&id).map_err(engine_not_found)?.spec;
        let lease = self.0.registry.get(&id).await;
        let lease = lease.map_err(|error| loading_failure(error, &spec))?;
        let status = self.0.registry.status(lease.id())?;
        Ok(Reply::new(Json(EngineStatus::new(&status))))
    }

    /// Unload an engine
    ///
    /// Frees its memory and keeps its name; the next request loads it again. Running jobs get a few
    /// seconds to end.
    #[oai(
        path = "/engines/:engine_id/unload",
        method = "post",
        operation_id = "unloadEngine",
        tag = "NativeTag::Engines"
    )]
    async fn unload(&self, engine_id: Path<String>) -> Answer<Json<EngineStatus>, Changes> {
        self.0.registry.unload(&engine_id.0).await.map_err(engine_not_found)?;
        let status = self.0.registry.status(&engine_id.0).map_err(engine_not_found)?;
        Ok(Reply::new(Json(EngineStatus::new(&status))))
    }

    /// Remove an engine
    ///
    /// Requests for it are refused from now on. Running jobs get a few seconds to end; then its memory
    /// is freed.
    #[oai(
        path = "/engines/:engine_id",
        method = "delete",
        operation_id = "deleteEngine",
        tag = "NativeTag::Engines"
    )]
    async fn remove(&self, engine_id: Path<String>) -> Answer<Json<RemovedEngine>, Changes> {
        self.0.registry.remove(&engine_id.0).await.map_err(engine_not_found)?;
        Ok(Reply::new(Json(RemovedEngine {
            engine_id: engine_id.0,
            status: RemovedStatus::Removed,
            message: "Engine removed successfully".to_owned(),
        })))
    }
}

/// The parameter is called `engine_id` here and `model` elsewhere.
fn engine_not_found(error: Error) -> Error {
    if error.kind == Kind::NotFound { error.with_param("engine_id") } else { error }
}

/// Says in detail what could not be loaded.
fn loading_failure(error: Error, spec: &EngineSpec) -> Failure {
    if !matches!(error.kind, Kind::ModelLoading | Kind::ModelDownload) {
        return error.into();
    }
    let is_path = error.code.is_some_and(|code| PATH_CODES.contains(&code));
    let code = match error.kind {
        Kind::ModelDownload => "model_download_failed",
        _ => "model_loading_failed",
    };
    let error = Error {
        code: error.code.or(Some(code)),
        param: error.param.or_else(|| Some("model_path".to_owned())),
        ..error
    };
    let failure = Failure::from(error).with_details(json!({
        "engine_id": spec.id,
        "model_path": spec.reference,
        "n_ctx": spec.params.n_ctx,
        "n_gpu_layers": spec.params.n_gpu_layers,
        "main_gpu_id": spec.params.main_gpu_id,
    }));
    if is_path { failure.with_status(StatusCode::BAD_REQUEST) } else { failure }
}

/// An id as a segment of a path.
fn percent_encode(id: &str) -> String {
    use std::fmt::Write as _;

    id.bytes().fold(String::with_capacity(id.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
