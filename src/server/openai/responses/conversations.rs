//! Conversations that the server keeps: items to which responses add what they read and wrote.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use poem_openapi::Object;
use serde::Serialize;

use super::{items::ResponsesItem, limits::ResponseLimits};
use crate::{
    error::{Error, Kind, Result},
    server::{
        auth::Owner,
        common::MAX_MESSAGES,
        desk::{random_id, unix_time_s},
        schema::wire_constants,
    },
};

wire_constants! {
    ConversationKind = "conversation",
    DeletedConversationKind = "conversation.deleted",
}

/// A conversation, without its items.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ConversationObject {
    /// `conv_` and 24 letters and digits.
    pub id: String,
    pub object: ConversationKind,
    /// Unix time in seconds.
    pub created_at: u64,
    pub metadata: BTreeMap<String, String>,
}

/// A conversation that is gone.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct DeletedConversation {
    pub id: String,
    pub object: DeletedConversationKind,
    /// Always true.
    pub deleted: bool,
}

/// All conversations, within limits of count, bytes and age; the least recently used go first. Each is
/// visible to the key alone that made it.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    limits: ResponseLimits,
    all: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    owner: Owner,
    object: ConversationObject,
    items: Vec<ResponsesItem>,
    bytes: usize,
    used_at: Instant,
}

impl Kept {
    /// Adds items, unless there would be too many.
    fn add(&mut self, items: &[ResponsesItem], max_bytes: usize) -> Result<()> {
        let bytes = items.iter().map(size).fold(self.bytes, usize::saturating_add);
        let count = self.items.len() + items.len();
        if count > MAX_MESSAGES || bytes > max_bytes {
            let text = format!(
                "a conversation of {count} items and {bytes} bytes, limits {MAX_MESSAGES} and {max_bytes}"
            );
            return Err(Error::invalid("items", text));
        }
        self.items.extend_from_slice(items);
        self.bytes = bytes;
        Ok(())
    }
}

impl Conversations {
    pub(super) fn new(limits: ResponseLimits) -> Self {
        Self { limits, all: Mutex::default() }
    }

    /// Begins a conversation with these items.
    ///
    /// # Errors
    /// None is kept here, or it has too many items.
    pub(super) fn create(
        &self,
        owner: Owner,
        metadata: BTreeMap<String, String>,
        items: &[ResponsesItem],
    ) -> Result<ConversationObject> {
        if self.limits.max_count == 0 {
            let text = "this server is configured to keep no conversations (responses.max_count)";
            return Err(Error::new(Kind::Invalid, text));
        }
        let object = ConversationObject {
            id: format!("conv_{}", random_id()),
            object: ConversationKind::Only,
            created_at: unix_time_s(),
            metadata,
        };
        let (used_at, kept) = (Instant::now(), object.clone());
        // What the map needs, and the labels.
        let mut kept = Kept { owner, object: kept, items: Vec::new(), bytes: 4096, used_at };
        kept.add(items, self.limits.max_bytes)?;
        let mut all = self.lock();
        all.insert(object.id.clone(), kept);
        shrink(&mut all, &self.limits);
        Ok(object)
    }

    /// Does something with a conversation of this owner.
    ///
    /// # Errors
    /// There is none, or no longer.
    fn with<T>(&self, owner: &Owner, id: &str, act: impl FnOnce(&mut Kept) -> T) -> Result<T> {
        let mut all = self.lock();
        shrink(&mut all, &self.limits);
        let kept = all.get_mut(id).filter(|kept| kept.owner == *owner);
        let kept = kept.ok_or_else(|| not_found(id))?;
        kept.used_at = Instant::now();
        Ok(act(kept))
    }

    pub(super) fn get(&self, owner: &Owner, id: &str) -> Result<ConversationObject> {
        self.with(owner, id, |kept| kept.object.clone())
    }

    /// Gives a conversation other labels.
    pub(super) fn relabel(
        &self,
        owner: &Owner,
        id: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<ConversationObject> {
        self.with(owner, id, |kept| {
            kept.object.metadata = metadata;
            kept.object.clone()
        })
    }

    pub(super) fn remove(&self, owner: &Owner, id: &str) -> Result<()> {
        self.get(owner, id)?;
        self.lock().remove(id);
        Ok(())
    }

    /// Its items, oldest first.
    pub(super) fn items(&self, owner: &Owner, id: &str) -> Result<Vec<ResponsesItem>> {
        self.with(owner, id, |kept| kept.items.clone())
    }

    /// Adds items at the end.
    pub(super) fn add(&self, owner: &Owner, id: &str, items: &[ResponsesItem]) -> Result<()> {
        let max_bytes = self.limits.max_bytes;
        self.with(owner, id, |kept| kept.add(items, max_bytes))??;
        shrink(&mut self.lock(), &self.limits);
        Ok(())
    }

    /// Takes one item out.
    pub(super) fn remove_item(
        &self,
        owner: &Owner,
        id: &str,
        item: &str,
    ) -> Result<ConversationObject> {
        self.with(owner, id, |kept| {
            let at = kept.items.iter().position(|kept| kept.id() == item);
            let gone = kept.items.remove(at.ok_or_else(|| no_item(item))?);
            kept.bytes -= size(&gone).min(kept.bytes);
            Ok(kept.object.clone())
        })?
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        // The map is whole after every statement, so a panic elsewhere does not spoil it.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of an item as text, which is about what it takes up here.
fn size(item: &ResponsesItem) -> usize {
    serde_json::to_vec(item).map_or(usize::MAX, |text| text.len())
}

/// Brings conversations within their limits.
fn shrink(all: &mut HashMap<String, Kept>, limits: &ResponseLimits) {
    all.retain(|_, kept| kept.used_at.elapsed() <= limits.max_age);
    let mut bytes: usize = all.values().map(|kept| kept.bytes).sum();
    while all.len() > limits.max_count || bytes > limits.max_bytes {
        let oldest = all.iter().min_by_key(|(_, kept)| kept.used_at).map(|(id, _)| id.clone());
        let Some(kept) = oldest.and_then(|id| all.remove(&id)) else { return };
        bytes -= kept.bytes;
    }
}

fn not_found(id: &str) -> Error {
    let shown: String = id.chars().take(64).collect();
    let text = format!("there is no conversation {shown}, or no longer");
    Error::new(Kind::NotFound, text).with_param("conversation").with_code("conversation_not_found")
}

/// There is no such item.
pub(super) fn no_item(id: &str) -> Error {
    let shown: String = id.chars().take(64).collect();
    let text = format!("the conversation has no item {shown}");
    Error::new(Kind::NotFound, text).with_param("item_id")
}
