//! `/v1/responses` and what is below it.

use std::sync::Arc;

use futures_util::StreamExt;
use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};

use super::{
    Cancels,
    events::ResponsesEvent,
    object::{
        DeletedResponse, InputTokens, ResponseError, ResponseKind, ResponseObject, ResponseStatus,
        ResponsesItemList,
    },
    paging::{ItemOrder, LISTED, MAX_LISTED, page},
    render::ResponseRender,
    request::{Asked, CountResponseTokens, CreateResponse},
    tools::unenforced,
};
use crate::{
    error::{Error, Result},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{
            Ask, Begun, Body, Counts, Desk, Generates, Looks, Served, count_tokens, named_or_only,
        },
        openai::OpenAiTag,
        reply::{Answer, Content, Reply},
        sse::Events,
    },
};

/// One object, or a stream of events.
type ResponseBody = Served<Json<ResponseObject>, Events<ResponsesEvent>>;

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
        desk.tell(&unenforced(&response.tools));
        if response.background {
            let begun = in_background(state, &caller, Asked { ask, response, items })?;
            return Ok(Reply::new(Content(Served::Whole(Json(begun)))));
        }
        let render = |begun: &Begun| {
            response.ran_with(begun);
            let keeping = state.responses.begin(caller.owner(), &response, items);
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

/// Lets a response go on without anybody waiting for it; what it is when it begins.
///
/// # Errors
/// There is no such engine.
fn in_background(state: &Arc<AppState>, caller: &Caller, asked: Asked) -> Result<ResponseObject> {
    let Asked { ask, mut response, items } = asked;
    let model = named_or_only(state, ask.model.as_deref())?;
    state.registry.status(&model).map_err(|error| error.with_param("model"))?;
    response.model.clone_from(&model);
    let begun = response.clone();
    let keeping = state.responses.begin(caller.owner(), &response, items);
    let (state, caller) = (Arc::clone(state), caller.clone());
    tokio::spawn(async move {
        let desk = Desk::new(&state, &caller);
        let mut waiting = Some((response, keeping));
        let render = |begun: &Begun| {
            // Nobody has taken it yet: it is called once.
            let (mut response, keeping) = waiting.take().expect("a renderer is made once");
            response.ran_with(begun);
            ResponseRender::new(response, keeping)
        };
        // As a stream, a failure midway is an event, which the response keeps.
        let ask = Ask { is_stream: true, model: Some(model), ..ask };
        match desk.serve(ask, render).await {
            Ok(Served::Stream(mut events)) => while events.next().await.is_some() {},
            Ok(Served::Whole(_)) => {}
            Err(error) => {
                if let Some((mut response, Some(keeping))) = waiting {
                    response.error = Some(ResponseError::from(&error));
                    response.status = ResponseStatus::Failed;
                    keeping.keep(&response);
                }
            }
        }
    });
    Ok(begun)
}
