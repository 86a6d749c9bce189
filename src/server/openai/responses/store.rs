//! Stored responses: those that can be retrieved and continued.
//!
//! Responses live in memory, within limits of count, bytes and age; the least recently used go first. A
//! response that continues another one refers to it, so that a long conversation is held once. Each is
//! visible to the key alone that asked for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{
    conversations::Conversations,
    items::ResponsesItem,
    limits::ResponseLimits,
    object::{ResponseObject, ResponseStatus},
};
pub(super) use crate::server::auth::Owner;

use crate::error::{Error, Kind, Result};

/// All stored responses, and those that run and will be stored.
#[derive(Debug, Default)]
pub(crate) struct ResponseStore {
    limits: ResponseLimits,
    inner: Mutex<Inner>,
    pub(super) conversations: Conversations,
}

#[derive(Debug, Default)]
struct Inner {
    stored: HashMap<String, Stored>,
    running: HashMap<String, Running>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug)]
struct Stored {
    owner: Owner,
    response: ResponseObject,
    /// What the request added to the conversation.
    input: Vec<ResponsesItem>,
    bytes: usize,
    used_at: Instant,
    /// Number of the last use. What precedes a response is used with it, and counts as used later.
    used: u64,
}

#[derive(Debug)]
struct Running {
    owner: Owner,
    response: ResponseObject,
    cancel: CancellationToken,
}

/// A response under way; dropping it forgets the response.
pub(super) struct Keeping {
    store: Arc<ResponseStore>,
    id: String,
    owner: Owner,
    input: Vec<ResponsesItem>,
    /// Somebody wants it to end.
    pub(super) cancel: CancellationToken,
}

impl Keeping {
    /// Stores the response as it ended, and adds what it read and wrote to its conversation.
    pub(super) fn keep(mut self, response: &ResponseObject) {
        let input = std::mem::take(&mut self.input);
        let is_worth = !matches!(response.status, ResponseStatus::Failed);
        if let Some(conversation) = response.conversation.as_ref().filter(|_| is_worth) {
            let items: Vec<_> = input.iter().chain(&response.output).cloned().collect();
            let added = self.store.conversations.add(&self.owner, &conversation.id, &items);
            if let Err(error) = added {
                tracing::warn!("a conversation was not gone on with: {error}");
            }
        }
        if response.store {
            self.store.insert(self.owner, response.clone(), input);
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.store.lock().running.remove(&self.id);
    }
}

impl ResponseStore {
    pub(crate) fn new(limits: ResponseLimits) -> Self {
        Self { limits, inner: Mutex::default(), conversations: Conversations::new(limits) }
    }

    /// Whether anything is stored.
    pub(super) fn is_on(&self) -> bool {
        self.limits.max_count > 0
    }

    /// Notes a response that begins, if anything of it is to be kept.
    pub(super) fn begin(
        self: &Arc<Self>,
        owner: Owner,
        response: &ResponseObject,
        input: Vec<ResponsesItem>,
    ) -> Option<Keeping> {
        if !response.store && response.conversation.is_none() {
            return None;
        }
        let (id, cancel) = (response.id.clone(), CancellationToken::new());
        let running = Running { owner, response: response.clone(), cancel: cancel.clone() };
        self.lock().running.insert(id.clone(), running);
        Some(Keeping { store: Arc::clone(self), id, owner, input, cancel })
    }

    fn insert(&self, owner: Owner, response: ResponseObject, input: Vec<ResponsesItem>) {
        let size = |text: serde_json::Result<Vec<u8>>| text.map_or(usize::MAX, |text| text.len());
        let bytes = size(serde_json::to_vec(&response))
            .saturating_add(size(serde_json::to_vec(&input)))
            // What the maps need.
            .saturating_add(256);
        if bytes > self.limits.max_bytes {
            tracing::warn!(
                bytes,
                limit = self.limits.max_bytes,
                "a response is too large to store"
            );
            return;
        }
        let mut inner = self.lock();
        inner.clock += 1;
        let (id, used_at, used) = (response.id.clone(), Instant::now(), inner.clock);
        inner.bytes += bytes;
        inner.stored.insert(id, Stored { owner, response, input, bytes, used_at, used });
        inner.shrink(&self.limits);
    }

    /// A response, as far as it is.
    pub(super) fn get(&self, owner: &Owner, id: &str) -> Result<ResponseObject> {
        let mut inner = self.lock();
        if let Some(running) = inner.running.get(id).filter(|found| found.owner == *owner) {
            return Ok(running.response.clone());
        }
        inner.shrink(&self.limits);
        let stored = inner.touch(owner, id).ok_or_else(|| not_found(id))?;
        Ok(stored.response.clone())
    }

    /// Removes a response.
    pub(super) fn remove(&self, owner: &Owner, id: &str) -> Result<()> {
        let mut inner = self.lock();
        if inner.running.get(id).is_some_and(|found| found.owner == *owner) {
            let text = format!("response {} is in progress; cancel it first", shown(id));
            return Err(Error::new(Kind::Conflict, text).with_param("response_id"));
        }
        inner.shrink(&self.limits);
        inner.touch(owner, id).ok_or_else(|| not_found(id))?;
        inner.remove(id);
        Ok(())
    }

    /// Ends a running response.
    pub(super) fn cancel(&self, owner: &Owner, id: &str) -> Result<ResponseObject> {
        let inner = self.lock();
        if let Some(running) = inner.running.get(id).filter(|found| found.owner == *owner) {
            running.cancel.cancel();
            return Ok(ResponseObject {
                status: ResponseStatus::Cancelled,
                ..running.response.clone()
            });
        }
        drop(inner);
        let status = self.get(owner, id)?.status.wire_text();
        let text = format!(
            "response {} is {status}; only one that is in progress can be cancelled",
            shown(id)
        );
        Err(Error::invalid("response_id", text))
    }

    /// What a request for a response added to its conversation.
    pub(super) fn input(&self, owner: &Owner, id: &str) -> Result<Vec<ResponsesItem>> {
        let mut inner = self.lock();
        inner.shrink(&self.limits);
        let stored = inner.touch(owner, id).ok_or_else(|| not_found(id))?;
        Ok(stored.input.clone())
    }

    /// Everything up to the end of a response, oldest first.
    pub(super) fn conversation(&self, owner: &Owner, id: &str) -> Result<Vec<ResponsesItem>> {
        let mut inner = self.lock();
        inner.shrink(&self.limits);
        let mut turns = Vec::new();
        let mut next = Some(id.to_owned());
        while let Some(id) = next.take() {
            let stored = inner.touch(owner, &id).ok_or_else(|| lost(&id))?;
            turns.push(stored.input.iter().chain(&stored.response.output).cloned().collect());
            next.clone_from(&stored.response.previous_response_id);
        }
        turns.reverse();
        Ok(turns.into_iter().flat_map(|turn: Vec<_>| turn).collect())
    }

    /// The item with this id.
    pub(super) fn item(&self, owner: &Owner, id: &str) -> Option<ResponsesItem> {
        let inner = self.lock();
        let mine = inner.stored.values().filter(|stored| stored.owner == *owner);
        let mut items = mine.flat_map(|stored| stored.input.iter().chain(&stored.response.output));
        items.find(|item| item.id() == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The maps are whole after every statement, so a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn touch(&mut self, owner: &Owner, id: &str) -> Option<&Stored> {
        let stored = self.stored.get_mut(id).filter(|stored| stored.owner == *owner)?;
        self.clock += 1;
        (stored.used, stored.used_at) = (self.clock, Instant::now());
        Some(stored)
    }

    fn remove(&mut self, id: &str) {
        if let Some(stored) = self.stored.remove(id) {
            self.bytes -= stored.bytes;
        }
    }

    /// Brings the store within its limits.
    fn shrink(&mut self, limits: &ResponseLimits) {
        let oldest = |inner: &Self| {
            let (id, stored) = inner.stored.iter().min_by_key(|(_, stored)| stored.used)?;
            Some((id.clone(), stored.used_at))
        };
        while let Some((id, used_at)) = oldest(self) {
            let is_within = self.stored.len() <= limits.max_count && self.bytes <= limits.max_bytes;
            if is_within && used_at.elapsed() <= limits.max_age {
                break;
            }
            self.remove(&id);
        }
    }
}

fn shown(id: &str) -> String {
    id.chars().take(64).collect()
}

fn not_found(id: &str) -> Error {
    let text = format!("there is no response {}, or no longer", shown(id));
    Error::new(Kind::NotFound, text).with_param("response_id").with_code("response_not_found")
}

fn lost(id: &str) -> Error {
    let text = format!("previous_response_id: there is no response {}, or no longer", shown(id));
    Error::invalid("previous_response_id", text).with_code("previous_response_not_found")
}
