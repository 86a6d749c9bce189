//! From the `model` of a request to an engine in memory, on which the request has a seat.

use std::time::Instant;

use super::Ledger;
use crate::{
    chat::{
        embedding::{EmbedForm, EmbedInput, Embeddings, embed},
        rerank::{RankRequest, Ranking, rank},
    },
    error::{Error, Kind, Result},
    registry::Lease,
    server::{AppState, auth::Caller, drain::Drain},
};

/// Bytes of an engine's id; nothing longer can be registered.
const MAX_MODEL_BYTES: usize = 256;

/// Where a caller is served.
pub(crate) struct Desk<'a> {
    pub(super) state: &'a AppState,
    pub(super) caller: &'a Caller,
}

/// An engine in memory, kept there for one request.
pub(crate) struct Seat {
    pub lease: Lease,
    /// The name by which it was asked for, or its own.
    pub model: String,
    /// When it was there.
    pub taken: Instant,
}

impl<'a> Desk<'a> {
    pub(crate) fn new(state: &'a AppState, caller: &'a Caller) -> Self {
        Self { state, caller }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        self.caller.ledger()
    }

    /// Gets the engine of this name, which may have to load; without a name, the only engine that is
    /// registered.
    ///
    /// # Errors
    /// The name is empty or unknown, there is none and several engines, or the registry's failure.
    pub(crate) async fn seat(&self, model: Option<&str>) -> Result<Seat> {
        let lease = lease_named_or_only(self.state, model).await?.of(self.caller.tenant());
        self.ledger().seated(lease.id());
        let model = model.map_or_else(|| lease.engine.config().name.clone(), str::to_owned);
        Ok(Seat { lease, model, taken: Instant::now() })
    }

    /// Tells the caller what is not heeded.
    pub(crate) fn tell(&self, notes: &[String]) {
        self.caller.tell(notes);
    }

    /// Does work, but not beyond a shutdown.
    ///
    /// # Errors
    /// That of the work, or the shutdown.
    pub(super) async fn finish<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.state.drain.expired() => Err(Drain::error()),
        }
    }

    /// Embeds texts.
    ///
    /// # Errors
    /// As [`embed`], or the shutdown.
    pub(crate) async fn embed(
        &self,
        seat: &Seat,
        inputs: Vec<EmbedInput>,
        form: EmbedForm,
    ) -> Result<Embeddings> {
        let work = embed(&seat.lease.text, &seat.lease.engine, inputs, form);
        let embedded = self.finish(work).await?;
        self.ledger().read(embedded.prompt_tokens);
        Ok(embedded)
    }

    /// Ranks documents.
    ///
    /// # Errors
    /// As [`rank`], or the shutdown.
    pub(crate) async fn rank(&self, seat: &Seat, request: RankRequest) -> Result<Ranking> {
        let ranking = self.finish(rank(&seat.lease.text, &seat.lease.engine, request)).await?;
        self.ledger().read(ranking.prompt_tokens);
        Ok(ranking)
    }
}

/// Gets the engine of this name, which may have to load; not beyond a shutdown.
///
/// # Errors
/// The name is empty or unknown, or the registry's failure.
pub(super) async fn lease(state: &AppState, model: &str) -> Result<Lease> {
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
    lease(state, &named_or_only(state, model)?).await
}

/// The name of an engine, which may be unknown; without one, that of the only engine.
///
/// # Errors
/// There is no name, and none or several engines.
pub(crate) fn named_or_only(state: &AppState, model: Option<&str>) -> Result<String> {
    if let Some(model) = model {
        return Ok(model.to_owned());
    }
    let engines = state.registry.list();
    match engines.as_slice() {
        [only] => Ok(only.spec.id.clone()),
        all => {
            let text =
                format!("model: the name of an engine is required, as there are {}", all.len());
            Err(Error::invalid("model", text))
        }
    }
}

/// For routes of servers that have one model and take any name for it: nobody's name is that of the only
/// engine, and the caller is told.
pub(crate) fn unless_only(
    state: &AppState,
    caller: &Caller,
    model: Option<String>,
) -> Option<String> {
    let engines = state.registry.list();
    let is_nobodys = |name: &String| engines.len() == 1 && engines[0].spec.id != *name;
    if model.as_ref().is_some_and(is_nobodys) {
        caller.tell(&["model".to_owned()]);
        return None;
    }
    model
}
