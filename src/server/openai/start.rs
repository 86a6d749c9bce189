//! From a checked request to a generation that runs.

use super::answer::Running;
use crate::{
    chat::generation::{GenerationRequest, generate},
    error::{Error, Result},
    registry::Lease,
    server::AppState,
};

/// Starts one generation on the engine that the request names.
pub(crate) async fn start(
    state: &AppState,
    model: &str,
    request: GenerationRequest,
) -> Result<Running> {
    let lease = lease(state, model).await?;
    start_on(lease, request).await
}

/// Starts a generation for each prompt; if one cannot be started none runs.
pub(crate) async fn start_all(
    state: &AppState,
    model: &str,
    requests: Vec<GenerationRequest>,
) -> Result<Vec<Running>> {
    let is_only = requests.len() == 1;
    let mut running = Vec::with_capacity(requests.len());
    for (i, request) in requests.into_iter().enumerate() {
        let lease = lease(state, model).await?;
        let started = start_on(lease, request).await.map_err(|error| match &error.param {
            Some(param) if param == "prompt" && !is_only => {
                error.with_param(format!("prompt[{i}]"))
            }
            _ => error,
        });
        running.push(started?);
    }
    Ok(running)
}

async fn lease(state: &AppState, model: &str) -> Result<Lease> {
    if model.is_empty() {
        return Err(Error::invalid("model", "model: the name of an engine is required"));
    }
    state.registry.get(model).await.map_err(|error| match error.param {
        None => error.with_param("model"),
        Some(_) => error,
    })
}

async fn start_on(lease: Lease, request: GenerationRequest) -> Result<Running> {
    check_vocabulary(&request, lease.text.tokenizer.vocab_size())?;
    let generation = generate(&lease.text, &lease.engine, request).await?;
    Ok(Running { generation, lease })
}

/// Token ids that the model does not have are wrong, not ignored.
fn check_vocabulary(request: &GenerationRequest, vocab_size: usize) -> Result<()> {
    let outside = |id: &u32| *id as usize >= vocab_size;
    let biased = request.sampling.logit_bias.iter().map(|(id, _)| id).find(|id| outside(id));
    if let Some(id) = biased {
        let text = format!("logit_bias: token {id} is outside the vocabulary of {vocab_size}");
        return Err(Error::invalid(format!("logit_bias.{id}"), text));
    }
    if let Some(id) = request.stop_token_ids.iter().find(|id| outside(id)) {
        let text = format!("stop_token_ids: token {id} is outside the vocabulary of {vocab_size}");
        return Err(Error::invalid("stop_token_ids", text));
    }
    Ok(())
}
