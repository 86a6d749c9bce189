//! Conversations that are longer than the context, where whoever asks wants them cut.

use crate::chat::conversation::Role;
use crate::chat::{ChatInput, ChatPrompt, Patience, TextModel, Unread, Until};

/// Of the context, so much is for the answer if nobody says how long it is.
const ANSWER_SHARE: usize = 4;

/// The prompt of a conversation without as many of its oldest turns as do not fit the room that an
/// answer leaves. Words of the system at the beginning and the last turn stay.
///
/// # Errors
/// As [`TextModel::prompt`]; `None`: it does not fit even so.
pub(super) fn fitting(
    input: &ChatInput,
    text: &TextModel,
    (context, max_tokens): (usize, Option<u32>),
    patience: &Patience,
) -> Result<Option<ChatPrompt>, Unread> {
    let wanted = max_tokens.map_or(context / ANSWER_SHARE, |max| max as usize);
    let room = context.saturating_sub(wanted.min(context / 2)).max(1);
    let until = Until { max_tokens: room, patience: patience.clone() };
    let begin = input.messages.iter().take_while(|message| message.role == Role::System).count();
    let turns: Vec<usize> =
        (begin..input.messages.len()).filter(|at| input.messages[*at].role == Role::User).collect();
    // As few as do: the number is sought by halves, as each try reads the whole conversation.
    let (mut low, mut high, mut found) = (0, turns.len(), None);
    while low < high {
        let middle = usize::midpoint(low, high);
        let from = if middle == 0 { begin } else { turns[middle] };
        match text.prompt(&without(input, begin, from), &until) {
            Ok(mut prompt) => {
                if from > begin {
                    let all = input.messages.len();
                    let left_out =
                        format!("truncation: {} of {all} messages left out", from - begin);
                    prompt.left_out.push(left_out);
                }
                (found, high) = (Some(prompt), middle);
            }
            Err(Unread::Stopped(crate::chat::Stopped::TooLong { .. })) => low = middle + 1,
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

/// A conversation without its messages from `begin` to before `from`.
fn without(input: &ChatInput, begin: usize, from: usize) -> ChatInput {
    let mut cut = input.clone();
    cut.messages.drain(begin..from);
    cut
}
