//! Counting the tokens of a conversation without answering it.

use std::sync::Arc;

use super::seat::lease_named_or_only;
use crate::{
    chat::{
        ChatInput, Patience, Unread, Until,
        preparation::{conversation_bytes, stopped},
    },
    error::Result,
    server::{AppState, auth::Caller},
};

/// Tokens of a conversation that are counted at least, however small the model's context.
const MAX_COUNTED: usize = 1 << 20;

/// Tokens of the prompt that a conversation makes on the engine of this name, which may have to load.
/// What of it cannot be read is told to the caller.
/// `field` is how the client calls the conversation.
pub(crate) async fn count_tokens(
    state: &AppState,
    caller: &Caller,
    model: Option<&str>,
    (input, field): (ChatInput, &'static str),
) -> Result<usize> {
    let lease = lease_named_or_only(state, model).await?;
    let text = Arc::clone(&lease.text);
    let max_tokens = (2 * lease.engine.spec().context_len).max(MAX_COUNTED);
    let bytes = conversation_bytes(&input);
    let counting = move |patience: &Patience| {
        let until = Until { max_tokens, patience: patience.clone() };
        match text.prompt(&input, &until) {
            Ok(prompt) => Ok((prompt.tokens.len(), prompt.left_out)),
            Err(Unread::Refused(error)) => Err(error),
            Err(Unread::Stopped(why)) => Err(stopped(why, field, |least| {
                format!("the conversation has at least {least} tokens, limit {max_tokens}")
            })),
        }
    };
    let (count, left_out) = lease.text.preparations().run(bytes, counting).await?;
    caller.tell(&left_out);
    Ok(count)
}
