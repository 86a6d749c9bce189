//! `/v1/conversations` and what is below it.

use std::{collections::BTreeMap, sync::Arc};

use poem::web::Data;
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Deserialize;

use super::{
    Cancels,
    conversations::{ConversationObject, DeletedConversation, DeletedConversationKind, no_item},
    input::ResponsesInputItem,
    items::ResponsesItem,
    object::ResponsesItemList,
    paging::{ItemOrder, LISTED, MAX_LISTED, page},
    request::read_items,
};
use crate::{
    error::{Error, Result},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::Looks,
        openai::{OpenAiTag, options::check_metadata},
        reply::{Answer, Reply},
        schema::{objects, optional_objects},
    },
};

/// Items that one request adds.
const MAX_ADDED: usize = 1024;

/// A new conversation. Of parameters that are not listed here, those that decide what an answer is
/// are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CreateConversation {
    /// What it begins with.
    #[oai(nullable, validator(max_items = 1024))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub items: Option<Vec<ResponsesInputItem>>,
    /// Up to 16 labels.
    #[oai(nullable, validator(max_properties = 16))]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Other labels of a conversation. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct UpdateConversation {
    /// Up to 16 labels, in place of those that it has.
    #[oai(validator(max_properties = 16))]
    pub metadata: BTreeMap<String, String>,
}

/// Items for a conversation. Of parameters that are not listed here, those that decide what an answer
/// is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AddItems {
    #[oai(validator(min_items = 1, max_items = 1024))]
    #[serde(deserialize_with = "objects")]
    pub items: Vec<ResponsesInputItem>,
}

/// The routes of conversations.
pub(crate) struct ConversationApi(pub Arc<AppState>);

#[OpenApi]
impl ConversationApi {
    /// Begin a conversation
    ///
    /// A response whose request names it reads its items, and adds its own input and output.
    #[oai(
        path = "/conversations",
        method = "post",
        operation_id = "createConversation",
        tag = "OpenAiTag::Responses"
    )]
    async fn create(
        &self,
        caller: Data<&Caller>,
        request: Json<CreateConversation>,
    ) -> Answer<Json<ConversationObject>, Cancels> {
        let CreateConversation { items, metadata } = request.0;
        check_metadata(metadata.as_ref())?;
        let items = self.read(&caller, items.unwrap_or_default())?;
        let store = &self.0.responses.conversations;
        Ok(Reply::new(Json(store.create(caller.owner(), metadata.unwrap_or_default(), &items)?)))
    }

    /// Look up a conversation
    #[oai(
        path = "/conversations/:conversation_id",
        method = "get",
        operation_id = "getConversation",
        tag = "OpenAiTag::Responses"
    )]
    async fn retrieve(
        &self,
        caller: Data<&Caller>,
        conversation_id: Path<String>,
    ) -> Answer<Json<ConversationObject>, Looks> {
        let store = &self.0.responses.conversations;
        Ok(Reply::new(Json(store.get(&caller.owner(), &conversation_id.0)?)))
    }

    /// Give a conversation other labels
    #[oai(
        path = "/conversations/:conversation_id",
        method = "post",
        operation_id = "updateConversation",
        tag = "OpenAiTag::Responses"
    )]
    async fn update(
        &self,
        caller: Data<&Caller>,
        conversation_id: Path<String>,
        request: Json<UpdateConversation>,
    ) -> Answer<Json<ConversationObject>, Cancels> {
        let metadata = request.0.metadata;
        check_metadata(Some(&metadata))?;
        let store = &self.0.responses.conversations;
        Ok(Reply::new(Json(store.relabel(&caller.owner(), &conversation_id.0, metadata)?)))
    }

    /// Remove a conversation
    #[oai(
        path = "/conversations/:conversation_id",
        method = "delete",
        operation_id = "deleteConversation",
        tag = "OpenAiTag::Responses"
    )]
    async fn delete(
        &self,
        caller: Data<&Caller>,
        conversation_id: Path<String>,
    ) -> Answer<Json<DeletedConversation>, Cancels> {
        self.0.responses.conversations.remove(&caller.owner(), &conversation_id.0)?;
        let (id, object) = (conversation_id.0, DeletedConversationKind::Only);
        Ok(Reply::new(Json(DeletedConversation { id, object, deleted: true })))
    }

    /// List the items of a conversation
    #[oai(
        path = "/conversations/:conversation_id/items",
        method = "get",
        operation_id = "listConversationItems",
        tag = "OpenAiTag::Responses"
    )]
    async fn items(
        &self,
        caller: Data<&Caller>,
        conversation_id: Path<String>,
        /// 1 to 100; 20 if absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<Option<u32>>,
        /// `desc` if absent.
        order: Query<Option<ItemOrder>>,
        /// Only what comes behind this item.
        after: Query<Option<String>>,
    ) -> Answer<Json<ResponsesItemList>, Looks> {
        let store = &self.0.responses.conversations;
        let mut items = store.items(&caller.owner(), &conversation_id.0)?;
        if order.0.unwrap_or(ItemOrder::Descending) == ItemOrder::Descending {
            items.reverse();
        }
        let limit = limit.0.map_or(LISTED, |limit| (limit as usize).min(MAX_LISTED));
        Ok(Reply::new(Json(page(items, after.0.as_deref(), limit)?)))
    }

    /// Add items to a conversation
    #[oai(
        path = "/conversations/:conversation_id/items",
        method = "post",
        operation_id = "addConversationItems",
        tag = "OpenAiTag::Responses"
    )]
    async fn add(
        &self,
        caller: Data<&Caller>,
        conversation_id: Path<String>,
        request: Json<AddItems>,
    ) -> Answer<Json<ResponsesItemList>, Cancels> {
        let items = self.read(&caller, request.0.items)?;
        let store = &self.0.responses.conversations;
        store.add(&caller.owner(), &conversation_id.0, &items)?;
        let count = items.len();
        Ok(Reply::new(Json(page(items, None, count)?)))
    }

    /// Look up an item of a conversation
    #[oai(
        path = "/conversations/:conversation_id/items/:item_id",
        method = "get",
        operation_id = "getConversationItem",
        tag = "OpenAiTag::Responses"
    )]
    async fn item(
        &self,
        caller: Data<&Caller>,
        conversation_id: Path<String>,
        item_id: Path<String>,
    ) -> Answer<Json<ResponsesItem>, Looks> {
        let store = &self.0.responses.conversations;
        let items = store.items(&caller.owner(), &conversation_id.0)?;
        let item = items.into_iter().find(|item| item.id() == item_id.0);
        Ok(Reply::new(Json(item.ok_or_else(|| no_item(&item_id.0))?)))
    }

    /// Take an item out of a conversation
    #[oai(
        path = "/conversations/:conversation_id/items/:item_id",
        method = "delete",
        operation_id = "deleteConversationItem",
        tag = "OpenAiTag::Responses"
    )]
    async fn remove_item(
        &self,
        caller: Data<&Caller>,
        conversation_id: Path<String>,
        item_id: Path<String>,
    ) -> Answer<Json<ConversationObject>, Cancels> {
        let store = &self.0.responses.conversations;
        let removed = store.remove_item(&caller.owner(), &conversation_id.0, &item_id.0)?;
        Ok(Reply::new(Json(removed)))
    }

    /// Items as they are kept.
    fn read(&self, caller: &Caller, items: Vec<ResponsesInputItem>) -> Result<Vec<ResponsesItem>> {
        if items.len() > MAX_ADDED {
            let text = format!("items: {} items, limit {MAX_ADDED}", items.len());
            return Err(Error::invalid("items", text));
        }
        read_items(items, "items", (&self.0.responses, &caller.owner()))
    }
}
