//! JSON in and out: poem-openapi describes the types, serde reads and writes them.
//!
//! Reading through serde gives errors that name the field, a body limit that works for chunked
//! bodies, and little regard for the content type: `curl -d` sends a form type with JSON in it. Types in
//! which any page may send JSON without asking are refused.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use poem::{Body, IntoResponse, Request, RequestBody, Response, Result, http::StatusCode};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry},
    types::Type,
};
use serde::{Serialize, de::DeserializeOwned};

use super::coding::{Coding, Undecoded, codings, decode};
use super::connection::{BodyBudget, Held, State};
use super::desk::decides;
use super::error::Failure;
use super::ignored::Ignored;
use super::lenient::Reading;
use crate::error::{Error, Kind};
use crate::param::Place;

/// Limits on reading a body; placed in the request's data by the server.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    pub max_bytes: usize,
    /// A body that has not arrived by then is refused: 408.
    pub read_timeout: Duration,
    /// Bytes of all bodies that are being read at the same time; beyond them 503.
    pub max_bytes_in_flight: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            max_bytes: 16 << 20,
            read_timeout: Duration::from_mins(1),
            max_bytes_in_flight: 256 << 20,
        }
    }
}

/// Characters of an error's text or path.
const MAX_TEXT: usize = 300;

/// A JSON body, request or response.
#[derive(Clone, Debug)]
pub(crate) struct Json<T>(pub T);

impl<T: Type> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<'a, T: Type + DeserializeOwned> ApiExtractor<'a> for Json<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let schema = Self::schema_ref();
        let content = vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        let bytes = read_body(request, body).await?;
        let ignored = request.data::<Ignored>().cloned().unwrap_or_default();
        Ok(Self(parse(&bytes, &ignored)?))
    }
}

impl<T: Type + Serialize> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        let content =
            vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() }];
        let response = MetaResponse {
            description: "Success",
            status: Some(200),
            status_range: None,
            content,
            headers: vec![],
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }
}

impl<T: Serialize + Send> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => Response::builder().content_type("application/json").body(bytes),
            Err(error) => {
                tracing::error!(%error, "a response could not be written as JSON");
                Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).finish()
            }
        }
    }
}

/// Browsers send these for a page of anybody without asking the server first.
const PAGE_TYPES: [&str; 2] = ["text/plain", "multipart/form-data"];

/// # Errors
/// 415 for one of [`PAGE_TYPES`].
fn check_type(request: &Request) -> Result<()> {
    let kind = request.content_type().unwrap_or_default().split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    if PAGE_TYPES.contains(&kind.as_str()) {
        let text =
            format!("a body of the type {kind} is not read; send Content-Type: application/json");
        let error = Error::new(Kind::UnsupportedMedia, text).with_param("Content-Type");
        return Err(Failure::from(error.with_code("unsupported_media_type")).into());
    }
    Ok(())
}

pub(super) async fn read_body(request: &Request, body: &mut RequestBody) -> Result<Vec<u8>> {
    check_type(request)?;
    let codings = codings(request)?;
    let limits = request.data::<BodyLimits>().copied().unwrap_or_default();
    // A client that announces too much is told before it sends it.
    if let Some(length) = request.headers().get(poem::http::header::CONTENT_LENGTH) {
        let length = length.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        if length.is_some_and(|length| length > limits.max_bytes as u64) {
            return Err(Unread::TooLarge.into_failure(&limits).into());
        }
    }
    let receiving = request.extensions().get::<Arc<State>>().map(|state| state.receive());
    let budget = request.data::<BodyBudget>().cloned();
    let budget = budget.unwrap_or_else(|| BodyBudget::new(limits.max_bytes_in_flight));
    let mut held = budget.hold();
    let read = collect(body.take()?, limits.max_bytes, &mut held);
    let read = tokio::time::timeout(limits.read_timeout, read).await.unwrap_or(Err(Unread::Late));
    drop(receiving);
    let decoded = match read {
        Ok(bytes) => decoded(bytes, codings, limits.max_bytes, held).await,
        unread => unread,
    };
    decoded.map_err(|unread| unread.into_failure(&limits).into())
}

/// Why a body is not here.
enum Unread {
    TooLarge,
    NoRoom,
    Late,
    Failed(std::io::Error),
    Broken(String),
}

impl Unread {
    fn into_failure(self, limits: &BodyLimits) -> Failure {
        let max_bytes = limits.max_bytes;
        match self {
            Self::TooLarge => {
                let text = format!("the request body is over the limit of {max_bytes} bytes");
                Error::new(Kind::TooLarge, text).with_code("request_too_large").into()
            }
            Self::NoRoom => {
                let text = format!(
                    "the request bodies that are being read have reached {} bytes together",
                    limits.max_bytes_in_flight
                );
                Error::unavailable(text, 1).with_code("too_many_body_bytes").into()
            }
            Self::Late => {
                let seconds = limits.read_timeout.as_secs();
                let text = format!("the request body did not arrive within {seconds} s");
                let failure = Failure::from(Error::new(Kind::Timeout, text));
                failure.with_status(StatusCode::REQUEST_TIMEOUT)
            }
            Self::Failed(error) => {
                invalid(format!("the request body could not be read: {error}")).into()
            }
            Self::Broken(why) => {
                let text = format!("the request body is not of its Content-Encoding: {why}");
                Error::invalid("Content-Encoding", text).into()
            }
        }
    }
}

impl From<Undecoded> for Unread {
    fn from(undecoded: Undecoded) -> Self {
        match undecoded {
            Undecoded::TooLarge => Self::TooLarge,
            Undecoded::NoRoom => Self::NoRoom,
            Undecoded::Broken(why) => Self::Broken(why),
        }
    }
}

/// Takes memory as bytes come and not as they are promised; the budget counts them until the whole
/// body is here.
async fn collect(body: Body, max: usize, held: &mut Held) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    let mut stream = body.into_bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(Unread::Failed)?;
        if bytes.len() + piece.len() > max {
            return Err(Unread::TooLarge);
        }
        if !held.grow(piece.len()) {
            return Err(Unread::NoRoom);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// A body without its codings, the last of which is the outermost.
async fn decoded(
    mut bytes: Vec<u8>,
    codings: Vec<Coding>,
    max: usize,
    mut held: Held,
) -> Result<Vec<u8>, Unread> {
    if codings.is_empty() {
        return Ok(bytes);
    }
    let work = move || {
        for coding in codings.into_iter().rev() {
            bytes = decode(coding, &bytes, max, &mut held)?;
        }
        Ok(bytes)
    };
    let work = tokio::task::spawn_blocking(work).await;
    work.unwrap_or_else(|error| Err(Unread::Broken(error.to_string())))
}

/// The text of a JSON object, as far as that can be seen at its beginning.
///
/// # Errors
/// It is empty, or an array: serde would read one as a struct's fields in order.
pub(super) fn json_object(bytes: &[u8]) -> Result<&[u8], Error> {
    // A byte-order mark is legal in no JSON text and harmless in every one.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => Err(invalid("the request body is empty; a JSON object is expected")),
        Some(b'[') => Err(invalid("the request body is an array, not a JSON object")),
        Some(_) => Ok(bytes),
    }
}

/// Reads a JSON object; an error names the field. What may be left out is noted in `ignored`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], ignored: &Ignored) -> Result<T, Error> {
    let bytes = json_object(bytes)?;
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let value = match serde_path_to_error::deserialize(&mut input) {
        Ok(value) => value,
        Err(error) if error.inner().is_data() && !is_repeated(&error) => {
            let body = serde_json::from_slice(bytes);
            let body = body.map_err(|error| invalid(format!("invalid JSON: {error}")))?;
            let tell = |what: String| ignored.note(what);
            let (path, is_strict) = (String::new(), ignored.is_strict());
            let place = Place { path, tell: &tell, decides, is_strict };
            let reading = Reading { num_bytes: bytes.len(), place: &place, is_near: &|_| false };
            return reading.read(body);
        }
        Err(error) => return Err(describe(&error, "")),
    };
    input.end().map_err(|error| invalid(format!("invalid JSON: {error}")))?;
    Ok(value)
}

/// Of a field that appears twice, a second reading would not know.
fn is_repeated(error: &serde_path_to_error::Error<serde_json::Error>) -> bool {
    error.inner().to_string().starts_with("duplicate field ")
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

/// Names the field: the path to the value, and for a missing or unknown field its name as well.
/// `place`: where what was read stands.
pub(super) fn describe(
    error: &serde_path_to_error::Error<serde_json::Error>,
    place: &str,
) -> Error {
    let inner = error.inner();
    if inner.is_syntax() || inner.is_eof() {
        let message = format!("invalid JSON: {inner}");
        return invalid(message).with_code("invalid_json");
    }
    let path = match error.path().to_string() {
        path if path == "." || path == "?" => place.to_owned(),
        path => join(place, path.trim_end_matches(".?")),
    };
    let text = shorten(strip_position(&inner.to_string()), MAX_TEXT);
    let path = shorten(&path, MAX_TEXT);
    let named = |prefix: &str| {
        let name = text.strip_prefix(prefix)?.split('`').next()?.to_owned();
        // The path may end with the field's own name, but not with a part of another one.
        let parent = match path.strip_suffix(&name) {
            Some(parent) if parent.is_empty() || parent.ends_with('.') => parent,
            _ => &path,
        };
        let parent = parent.trim_end_matches('.');
        Some(if parent.is_empty() { name } else { format!("{parent}.{name}") })
    };
    if let Some(field) = named("missing field `") {
        Error::invalid(&field, format!("{field}: this required field is missing"))
            .with_code("missing_required_parameter")
    } else if let Some(field) = named("unknown field `") {
        Error::invalid(&field, format!("unknown or unsupported parameter {field}"))
            .with_code("unknown_parameter")
    } else if let Some(field) = named("duplicate field `") {
        Error::invalid(&field, format!("{field}: this field appears twice"))
    } else if path.is_empty() {
        Error::new(Kind::Invalid, text)
    } else {
        Error::invalid(&path, format!("{path}: {text}"))
    }
}

/// The path of what stands at `path` within what stands at `place`.
pub(super) fn join(place: &str, path: &str) -> String {
    match (place, path) {
        ("", path) => path.to_owned(),
        (place, "") => place.to_owned(),
        (place, path) if path.starts_with('[') => format!("{place}{path}"),
        (place, path) => format!("{place}.{path}"),
    }
}

/// serde_json appends ` at line 1 column 20`, which says nothing once the field is named.
fn strip_position(text: &str) -> &str {
    text.rfind(" at line ").map_or(text, |position| &text[..position])
}

/// Errors quote what they met, which may be megabytes.
fn shorten(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::{Ignored, parse};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        model: String,
        inner: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        role: String,
        size: Option<u8>,
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (r"{}", Some("model"), "model: this required field is missing"),
            (
                r#"{"model": 5}"#,
                Some("model"),
                "model: invalid type: integer `5`, expected a string",
            ),
            (r#"{"model": "m", "innr": 1}"#, Some("innr"), "unknown or unsupported parameter innr"),
            (r#"{"model": "m", "model": "n"}"#, Some("model"), "model: this field appears twice"),
            (
                r#"{"model": "m", "inner": [{}]}"#,
                Some("inner[0].role"),
                "inner[0].role: this required field is missing",
            ),
            (
                r#"{"model": "m", "inner": [{"role": "a", "size": 300}]}"#,
                Some("inner[0].size"),
                "inner[0].size: invalid value: integer `300`, expected u8",
            ),
            ("[]", None, "the request body is an array, not a JSON object"),
            ("\u{feff}{", None, "invalid JSON: EOF while parsing an object at line 1 column 1"),
            ("", None, "the request body is empty; a JSON object is expected"),
        ];
        for (body, param, message) in cases {
            let error = parse::<Outer>(body.as_bytes(), &Ignored::default()).expect_err(body);
            assert_eq!(
                (error.param.as_deref(), error.message.as_str()),
                (param, message),
                "{body}"
            );
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_an_overflow() {
        let body = format!("{{\"model\": {}", "[".repeat(200_000));
        assert!(parse::<Outer>(body.as_bytes(), &Ignored::default()).is_err());
        let body = format!("{{\"x\": {}", "[".repeat(200_000));
        assert!(parse::<serde_json::Value>(body.as_bytes(), &Ignored::default()).is_err());
    }
}
