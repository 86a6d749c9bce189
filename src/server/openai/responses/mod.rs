//! OpenAI's Responses: conversations of items, which the server keeps if it may.

mod conversation;
mod conversation_routes;
mod conversations;
mod events;
mod input;
mod items;
mod limits;
mod object;
mod paging;
mod render;
mod request;
mod routes;
mod settings;
mod store;
mod tools;

pub(crate) use conversation_routes::ConversationApi;
pub use limits::ResponseLimits;
pub(crate) use object::InputTokens;
pub(crate) use request::CreateResponse;
pub(crate) use routes::ResponseApi;
pub(crate) use store::ResponseStore;

use crate::server::reply::Outcomes;

/// Outcomes of a change to a stored response.
pub(crate) struct Cancels;

impl Outcomes for Cancels {
    const SUCCESS: (u16, &'static str) = (200, "Done");
    const FAILURES: &'static [u16] = &[400, 401, 404, 409, 500, 503];
}
