//! `/v1/responses` and what is below it.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};

use super::{
    Cancels,
    events::ResponsesEvent,
    items::ResponsesItem,
    object::{
        DeletedResponse, InputTokens, ItemListKind, ResponseKind, ResponseObject, ResponsesItemList,
    },
    render::ResponseRender,
    request::{Asked, CountResponseTokens, CreateResponse},
    tools::unenforced,
};
use crate::{
    error::{Error, Kind, Result},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{Begun, Body, Counts, Desk, Generates, Looks, Served, count_tokens},
        openai::OpenAiTag,
        reply::{Answer, Content, Reply},
        schema::wire_enum,
        sse::Events,
    },
};

/// Items of one list at most, and if nothing is said.
const MAX_LISTED: usize = 100;
const LISTED: usize = 20;

/// One object, or a stream of events.
type ResponseBody = Served<Json<ResponseObject>, Events<ResponsesEvent>>;

wire_enum! {
    /// Which items come first.
    pub(crate) enum ItemOrder {
        /// The oldest.
        Ascending = "asc",
        /// The newest.
        Descending = "desc",
    }
}

impl poem_openapi::types::ParseFromParameter for ItemOrder {
    fn parse_from_parameter(value: &str) -> poem_openapi::types::ParseResult<Self> {
        match value {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            _ => Err(poem_openapi::types::ParseError::custom("asc or desc is expected")),
        }
    }
}

/// The routes of responses.
pub(crate) struct ResponseApi(pub Arc<AppState>);

#[OpenApi]
impl ResponseApi {
    /// Create a response
    ///
    /// Renders the items with the model's chat template and generates what follows: thoughts, text,
    /// calls of functions. With `stream`, it comes as named server-sent events, numbered by
    /// `sequence_number`.
    #[oai(
        path = "/responses",
        method = "post",
        operation_id = "createResponse",
        tag = "OpenAiTag::Responses"
    )]
    async fn create(
        &self,
        caller: Data<&Caller>,
        request: Body<CreateResponse>,
    ) -> Answer<Content<ResponseBody>, Generates> {
        let state = &self.0;
        let asked = request.0.into_asked(&state.responses, &caller.owner())?;
        let Asked { ask, mut response, items } = asked;
        let desk = Desk::new(state, &caller);
        let render = |begun: &Begun| {
            response.ran_with(begun);
            desk.tell(&unenforced(&response.tools));
            let store = &state.responses;
            let keeping = response.store.then(|| store.begin(caller.owner(), &response, items));
            ResponseRender::new(response, keeping)
        };
        let served = desk.serve(ask, render).await?;
        Ok(Reply::new(Content(served.events(&state.drain))))
    }

    /// Look up a stored response
    ///
    /// One that is still being generated is in progress, and its output is empty.
    #[oai(
        path = "/responses/:response_id",
        method = "get",
        operation_id = "getResponse",
        tag = "OpenAiTag::Responses"
    )]
    async fn retrieve(
        &self,
        caller: Data<&Caller>,
        response_id: Path<String>,
        /// Stored responses are not streamed again: absent or false.
        stream: Query<Option<bool>>,
        /// Stored responses are not streamed again: absent.
        starting_after: Query<Option<u64>>,
    ) -> Answer<Json<ResponseObject>, Looks> {
        for (name, is_given) in
            [("stream", stream.0 == Some(true)), ("starting_after", starting_after.0.is_some())]
        {
            if is_given {
                let text = format!("{name}: stored responses are not streamed again");
                return Err(Error::invalid(name, text).into());
            }
        }
        Ok(Reply::new(Json(self.0.responses.get(&caller.owner(), &response_id.0)?)))
    }

    /// Remove a stored response
    ///
    /// Responses that continue it can be looked up, but not continued any more.
    #[oai(
        path = "/responses/:response_id",
        method = "delete",
        operation_id = "deleteResponse",
        tag = "OpenAiTag::Responses"
    )]
    async fn delete(
        &self,
        caller: Data<&Caller>,
        response_id: Path<String>,
    ) -> Answer<Json<DeletedResponse>, Cancels> {
        self.0.responses.remove(&caller.owner(), &response_id.0)?;
        let (id, object) = (response_id.0, ResponseKind::Only);
        Ok(Reply::new(Json(DeletedResponse { id, object, deleted: true })))
    }

    /// End a response that is being generated
    ///
    /// Its stream ends at the next token with `response.incomplete`; what was generated until then is
    /// stored.
    #[oai(
        path = "/responses/:response_id/cancel",
        method = "post",
        operation_id = "cancelResponse",
        tag = "OpenAiTag::Responses"
    )]
    async fn cancel(
        &self,
        caller: Data<&Caller>,
        response_id: Path<String>,
    ) -> Answer<Json<ResponseObject>, Cancels> {
        Ok(Reply::new(Json(self.0.responses.cancel(&caller.owner(), &response_id.0)?)))
    }

    /// List what a response read
    ///
    /// The items that its own request brought; those before are in the response that it continues.
    #[oai(
        path = "/responses/:response_id/input_items",
        method = "get",
        operation_id = "listInputItems",
        tag = "OpenAiTag::Responses"
    )]
    async fn input_items(
        &self,
        caller: Data<&Caller>,
        response_id: Path<String>,
        /// 1 to 100; 20 if absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
        limit: Query<Option<u32>>,
        /// `desc` if absent.
        order: Query<Option<ItemOrder>>,
        /// Only what comes behind this item.
        after: Query<Option<String>>,
    ) -> Answer<Json<ResponsesItemList>, Looks> {
        let mut items = self.0.responses.input(&caller.owner(), &response_id.0)?;
        if order.0.unwrap_or(ItemOrder::Descending) == ItemOrder::Descending {
            items.reverse();
        }
        let limit = limit.0.map_or(LISTED, |limit| (limit as usize).min(MAX_LISTED));
        Ok(Reply::new(Json(page(items, after.0.as_deref(), limit)?)))
    }

    /// Count the tokens of a response's input
    ///
    /// Exactly the tokens that `/v1/responses` makes of the same request.
    #[oai(
        path = "/responses/input_tokens",
        method = "post",
        operation_id = "countResponseTokens",
        tag = "OpenAiTag::Responses"
    )]
    async fn input_tokens(
        &self,
        caller: Data<&Caller>,
        request: Json<CountResponseTokens>,
    ) -> Answer<Json<InputTokens>, Counts> {
        let request = request.0;
        let model = request.model.clone();
        let input = request.into_input(&self.0.responses, &caller.owner())?;
        let count = count_tokens(&self.0, &caller, Some(&model), (input, "input")).await?;
        Ok(Reply::new(Json(InputTokens::new(count))))
    }
}

fn page(
    mut items: Vec<ResponsesItem>,
    after: Option<&str>,
    limit: usize,
) -> Result<ResponsesItemList> {
    if let Some(after) = after {
        let at = items.iter().position(|item| item.id() == after).ok_or_else(|| {
            let text = "after: the response has no such item";
            Error::new(Kind::NotFound, text).with_param("after")
        })?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    Ok(ResponsesItemList {
        object: ItemListKind::Only,
        first_id: items.first().map(|item| item.id().to_owned()),
        last_id: items.last().map(|item| item.id().to_owned()),
        data: items,
        has_more,
    })
}
