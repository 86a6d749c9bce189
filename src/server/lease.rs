//! From the `model` of a request to an engine in memory.

use super::{AppState, drain::Drain};
use crate::{
    error::{Error, Kind, Result},
    registry::Lease,
};

/// Bytes of an engine's id; nothing longer can be registered.
const MAX_MODEL_BYTES: usize = 256;

/// Gets the engine of this name, which may have to load; not beyond a shutdown.
///
/// # Errors
/// The name is empty or unknown, or the registry's failure.
pub(crate) async fn lease(state: &AppState, model: &str) -> Result<Lease> {
    if model.is_empty() {
        return Err(Error::invalid("model", "model: the name of an engine is required"));
    }
    if model.len() > MAX_MODEL_BYTES {
        let bytes = model.len();
        let text = format!("no model has a name of {bytes} bytes, limit {MAX_MODEL_BYTES}");
        let error = Error::new(Kind::NotFound, text).with_param("model");
        return Err(error.with_code("model_not_found"));
    }
    let lease = tokio::select! {
        biased;
        lease = state.registry.get(model) => lease,
        () = state.drain.expired() => Err(Drain::error()),
    };
    lease.map_err(|error| match error.param {
        None => error.with_param("model"),
        Some(_) => error,
    })
}

/// As [`lease`]; without a name, the only engine that is registered.
pub(crate) async fn lease_named_or_only(state: &AppState, model: Option<&str>) -> Result<Lease> {
    if let Some(model) = model {
        return lease(state, model).await;
    }
    let engines = state.registry.list();
    match engines.as_slice() {
        [only] => lease(state, &only.spec.id).await,
        all => {
            let text =
                format!("model: the name of an engine is required, as there are {}", all.len());
            Err(Error::invalid("model", text))
        }
    }
}
