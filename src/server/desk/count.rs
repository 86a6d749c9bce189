//! Counting the tokens of a conversation without answering it.

use std::sync::Arc;

use super::seat::lease;
use crate::{
    chat::{
        ChatInput, Patience, Unread, Until,
        preparation::{conversation_bytes, stopped},
    },
    error::Result,
    server::AppState,
};

/// Tokens of a conversation that are counted at least, however small the model's context.
const MAX_COUNTED: usize = 1 << 20;

/// Tokens of the prompt that a conversation makes on the engine of this name, which may have to load.
/// `field` is how the client calls the conversation.
pub(crate) async fn count_tokens(
    state: &AppState,
    model: &str,
    (input, field): (ChatInput, &'static str),
) -> Result<usize> {
    let lease = lease(state, model).await?;
    let text = Arc::clone(&lease.text);
    let max_tokens = (2 * lease.engine.spec().context_len).max(MAX_COUNTED);
    let bytes = conversation_bytes(&input);
    let counting = move |patience: &Patience| {
        let until = Until { max_tokens, patience: patience.clone() };
        match text.prompt(&input, &until) {
            Ok(prompt) => Ok(prompt.tokens.len()),
            Err(Unread::Refused(error)) => Err(error),
            Err(Unread::Stopped(why)) => Err(stopped(why, field, |least| {
                format!("the conversation has at least {least} tokens, limit {max_tokens}")
            })),
        }
    };
    lease.text.preparations().run(bytes, counting).await
}
