//! `/tokenize`, `/detokenize` and `/apply-template`: the text side of a model by itself.
//!
//! Requests and answers are those of llama-server, with vLLM's names beside them: a client of either
//! finds what it knows.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, registry::MetaSchema};
use serde::{Deserialize, Serialize};

use super::{
    NativeTag, Translates,
    tokens_request::{
        ApplyTemplateRequest, DetokenizeRequest, MAX_TOKENS, Source, TextOrToken, Tokenization,
        TokenizeRequest,
    },
};
use crate::{
    chat::{
        Patience, Stopped, TextModel, Tokenizer, Unread, Until,
        preparation::{conversation_bytes, stopped},
    },
    error::{Error, Result},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{lease_named_or_only, unless_only},
        reply::{Answer, Reply},
        schema::{TextOr, wire_type},
    },
};

/// A token with its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct TokenPiece {
    pub id: u32,
    /// Text of the token; its bytes where they are not UTF-8.
    pub piece: TextOr<u8>,
}

/// Ids, or objects where pieces were asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenList {
    Ids(Vec<u32>),
    Pieces(Vec<TokenPiece>),
}

wire_type!(
    TokenList,
    "token_list",
    {
        // An empty list is both.
        let any_of = vec![<Vec<u32>>::schema_ref(), <Vec<TokenPiece>>::schema_ref()];
        MetaSchema { any_of, ..MetaSchema::ANY }
    },
    TokenPiece
);

/// Tokens of a text or a conversation.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct TokenizeAnswer {
    pub tokens: TokenList,
    /// Number of tokens.
    pub count: usize,
    /// Longest prompt and answer together, in tokens.
    pub max_model_len: usize,
    /// Texts of the tokens, with `return_token_strs`.
    #[oai(nullable)]
    pub token_strs: Option<Vec<String>>,
}

/// Text of tokens.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct DetokenizeAnswer {
    /// The text; special tokens stand in it as they are written.
    pub content: String,
    /// The same as `content`.
    pub prompt: String,
}

/// A rendered conversation.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ApplyTemplateAnswer {
    /// What the template wrote. A token that the model wants in front and the template leaves out is
    /// not in it; a chat completion adds it.
    pub prompt: String,
}

/// The routes of the text side.
pub(crate) struct TokenApi(pub Arc<AppState>);

#[OpenApi]
impl TokenApi {
    /// Turn text into tokens
    ///
    /// Takes llama-server's request with `content` and vLLM's with `prompt` or `messages`.
    #[oai(
        path = "/tokenize",
        method = "post",
        operation_id = "tokenize",
        tag = "NativeTag::Tokens"
    )]
    async fn tokenize(
        &self,
        caller: Data<&Caller>,
        request: Json<TokenizeRequest>,
    ) -> Answer<Json<TokenizeAnswer>, Translates> {
        let request = request.0;
        let model = request.model.clone();
        let with_pieces = request.with_pieces.unwrap_or(false);
        let with_texts = request.return_token_strs.unwrap_or(false);
        let tokenization = request.into_tokenization()?;
        let model = unless_only(&self.0, &caller, model);
        let lease = lease_named_or_only(&self.0, model.as_deref()).await?;
        let max_model_len = lease.engine.spec().context_len;
        let bytes = tokenization.num_bytes();
        let text = Arc::clone(&lease.text);
        let answer = lease.text.preparations().run(bytes, move |patience| {
            let (ids, left_out) = tokens(&tokenization, &text, patience)?;
            let tokenizer = &text.tokenizer;
            let text_of =
                |id: &u32| String::from_utf8_lossy(tokenizer.shown_bytes(*id)).into_owned();
            let token_strs = with_texts.then(|| ids.iter().map(text_of).collect());
            let count = ids.len();
            let tokens = if with_pieces {
                TokenList::Pieces(ids.into_iter().map(|id| piece(tokenizer, id)).collect())
            } else {
                TokenList::Ids(ids)
            };
            Ok((TokenizeAnswer { tokens, count, max_model_len, token_strs }, left_out))
        });
        let (answer, left_out) = answer.await?;
        caller.tell(&left_out);
        Ok(Reply::new(Json(answer)))
    }

    /// Turn tokens into text
    #[oai(
        path = "/detokenize",
        method = "post",
        operation_id = "detokenize",
        tag = "NativeTag::Tokens"
    )]
    async fn detokenize(
        &self,
        caller: Data<&Caller>,
        request: Json<DetokenizeRequest>,
    ) -> Answer<Json<DetokenizeAnswer>, Translates> {
        let request = request.0;
        request.check()?;
        let model = unless_only(&self.0, &caller, request.model.clone());
        let lease = lease_named_or_only(&self.0, model.as_deref()).await?;
        let text = Arc::clone(&lease.text);
        let bytes = size_of_val(request.tokens.as_slice());
        let answer = lease.text.preparations().run(bytes, move |_| {
            for (i, id) in request.tokens.iter().enumerate() {
                known(&text, *id, || format!("tokens[{i}]"))?;
            }
            let content = text.tokenizer.decode_shown(&request.tokens);
            Ok(DetokenizeAnswer { prompt: content.clone(), content })
        });
        Ok(Reply::new(Json(answer.await?)))
    }

    /// Turn a conversation into a prompt
    ///
    /// Shows the text that the model's chat template makes of the messages, and generates nothing.
    #[oai(
        path = "/apply-template",
        method = "post",
        operation_id = "applyTemplate",
        tag = "NativeTag::Tokens"
    )]
    async fn apply_template(
        &self,
        caller: Data<&Caller>,
        request: Json<ApplyTemplateRequest>,
    ) -> Answer<Json<ApplyTemplateAnswer>, Translates> {
        let request = request.0;
        let model = request.model.clone();
        let input = request.into_input()?;
        let model = unless_only(&self.0, &caller, model);
        let lease = lease_named_or_only(&self.0, model.as_deref()).await?;
        let text = Arc::clone(&lease.text);
        let bytes = conversation_bytes(&input);
        let answer =
            lease.text.preparations().run(bytes, move |patience| text.render(&input, patience));
        let rendered = answer.await?;
        caller.tell(&rendered.left_out);
        Ok(Reply::new(Json(ApplyTemplateAnswer { prompt: rendered.text })))
    }
}

/// The tokens, of which there are no more than `/detokenize` takes, and what of a conversation cannot be
/// read.
fn tokens(
    tokenization: &Tokenization,
    text: &TextModel,
    patience: &Patience,
) -> Result<(Vec<u32>, Vec<String>)> {
    let until = Until { max_tokens: MAX_TOKENS, patience: patience.clone() };
    let too_long = |field: &'static str| {
        move |why| {
            stopped(why, field, |least| {
                format!("{field}: at least {least} tokens, limit {MAX_TOKENS}")
            })
        }
    };
    let (tokens, left_out) = match &tokenization.source {
        Source::Chat(input) => match text.prompt(input, &until) {
            Ok(prompt) => (prompt.tokens, prompt.left_out),
            Err(Unread::Refused(error)) => return Err(error),
            Err(Unread::Stopped(why)) => return Err(too_long("messages")(why)),
        },
        Source::Pieces { pieces, special } => {
            let mut tokens = Vec::new();
            for (i, piece) in pieces.iter().enumerate() {
                match piece {
                    TextOrToken::Text(part) => {
                        let read = text.tokenizer.encode_until(part, *special, &until);
                        tokens.extend(read.map_err(too_long("content"))?);
                    }
                    TextOrToken::Token(id) => {
                        known(text, *id, || format!("content[{i}]"))?;
                        tokens.push(*id);
                    }
                }
                if tokens.len() > MAX_TOKENS {
                    let at_least = tokens.len();
                    return Err(too_long("content")(Stopped::TooLong { at_least }));
                }
            }
            (tokens, Vec::new())
        }
    };
    let tokens = if tokenization.add_special { text.tokenizer.frame(tokens) } else { tokens };
    Ok((tokens, left_out))
}

fn known(text: &TextModel, id: u32, field: impl Fn() -> String) -> Result<()> {
    let vocab_size = text.tokenizer.vocab_size();
    if (id as usize) < vocab_size {
        return Ok(());
    }
    let problem = format!("token {id} is not in the vocabulary of {vocab_size} tokens");
    Err(Error::invalid(field(), problem))
}

fn piece(tokenizer: &Tokenizer, id: u32) -> TokenPiece {
    let bytes = tokenizer.shown_bytes(id);
    let piece = match str::from_utf8(bytes) {
        Ok(text) => TextOr::Text(text.to_owned()),
        Err(_) => TextOr::Items(bytes.to_vec()),
    };
    TokenPiece { id, piece }
}
