//! One error shape for every failure, whatever raised it: a handler, poem's router, a bad body.
//!
//! Handlers return [`Failure`]; poem's own errors are recognised by status. The path decides which
//! dialect's shape is written, see [`Dialect`].

use poem::{
    IntoResponse, Response,
    error::ResponseError,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::Object;
use serde::Serialize;
use serde_json::Value;

use super::absent::instead_of;
use super::body::Json;
use crate::error::{Error, Kind};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Object)]
pub struct ErrorBody {
    pub error: ErrorObject,
}

/// What went wrong, in OpenAI's shape.
#[derive(Clone, Debug, Serialize, Object)]
pub struct ErrorObject {
    /// A sentence for a person; names the limit and the value.
    pub message: String,
    /// The class of the failure, such as `invalid_request_error`.
    pub r#type: String,
    /// Path of the offending field, such as `messages[0].content`.
    #[oai(nullable)]
    pub param: Option<String>,
    /// A stable word for programs, such as `model_not_found`.
    #[oai(nullable)]
    pub code: Option<String>,
    /// More about the failure, when there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// A failure on its way to the client.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    pub error: Error,
    /// `None`: what the kind says.
    pub status: Option<StatusCode>,
    pub details: Option<Value>,
}

impl Failure {
    /// Adds machine-readable details.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Overrides the status that the kind implies.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The wire form.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        let Error { kind, message, param, code, .. } = &self.error;
        ErrorBody {
            error: ErrorObject {
                message: message.clone(),
                r#type: kind.wire_type().to_owned(),
                param: param.clone(),
                code: code.map(str::to_owned),
                details: self.details.clone(),
            },
        }
    }

    fn status_code(&self) -> StatusCode {
        let kind = self.error.kind.status();
        self.status
            .or_else(|| StatusCode::from_u16(kind).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, status: None, details: None }
    }
}

impl ResponseError for Error {
    fn status(&self) -> StatusCode {
        Failure::from(self.clone()).status_code()
    }

    fn as_response(&self) -> Response {
        Failure::from(self.clone()).into_response()
    }
}

impl ResponseError for Failure {
    fn status(&self) -> StatusCode {
        self.status_code()
    }

    fn as_response(&self) -> Response {
        self.clone().into_response()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Json(self.body()).into_response();
        response.set_status(self.status_code());
        if let Some(seconds) = self.error.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.error.kind == Kind::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// Which protocol's error shape a path speaks. Further dialects add their prefix and their shape here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {message, type, param, code}}`
    OpenAi,
    /// `{"error": message}`
    Ollama,
    /// `{"type": "error", "error": {type, message}}`
    Anthropic,
}

impl Dialect {
    /// The dialect of a request path.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let below_v1 = path.strip_prefix("/v1").unwrap_or(path);
        if path.starts_with("/api/") {
            Self::Ollama
        } else if below_v1 == "/messages" || below_v1.starts_with("/messages/") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }

    /// Writes a failure in this dialect's shape.
    #[must_use]
    pub fn render(self, failure: Failure) -> Response {
        let body = match self {
            Self::OpenAi => return failure.into_response(),
            Self::Ollama => serde_json::json!({ "error": failure.error.message }),
            Self::Anthropic => Self::anthropic_body(&failure),
        };
        let mut response = failure.into_response();
        response.set_body(body.to_string());
        response
    }

    /// The body of a failure in Anthropic's shape; its types are fewer than ours.
    #[must_use]
    pub fn anthropic_body(failure: &Failure) -> Value {
        let kind = match failure.error.kind {
            Kind::Invalid
            | Kind::MethodNotAllowed
            | Kind::Conflict
            | Kind::UnsupportedMedia
            | Kind::ModelLoading
            | Kind::ModelDownload => "invalid_request_error",
            Kind::Unauthorized => "authentication_error",
            Kind::Forbidden => "permission_error",
            Kind::NotFound => "not_found_error",
            Kind::TooLarge => "request_too_large",
            Kind::RateLimited => "rate_limit_error",
            Kind::Internal => "api_error",
            Kind::Unavailable => "overloaded_error",
            Kind::Timeout => "timeout_error",
        };
        let message = &failure.error.message;
        serde_json::json!({ "type": "error", "error": { "type": kind, "message": message } })
    }
}

/// Turns any error of poem or of ours into a [`Failure`].
#[must_use]
pub(crate) fn from_poem(error: &poem::Error, path: &str) -> Failure {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.clone();
    }
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.clone().into();
    }
    let status = error.status();
    let (kind, message) = match status {
        StatusCode::NOT_FOUND => match instead_of(path) {
            Some(sentence) => (Kind::NotFound, format!("{path} is not served: {sentence}")),
            None => (Kind::NotFound, format!("unknown path {path}")),
        },
        StatusCode::METHOD_NOT_ALLOWED => {
            (Kind::MethodNotAllowed, format!("{path} does not support this method"))
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            (Kind::TooLarge, "the request body is too large".to_owned())
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (Kind::UnsupportedMedia, error.to_string()),
        StatusCode::UNAUTHORIZED => (Kind::Unauthorized, error.to_string()),
        status if status.is_client_error() => (Kind::Invalid, error.to_string()),
        _ => {
            tracing::error!(%error, path, "request failed");
            (Kind::Internal, "internal server error".to_owned())
        }
    };
    let code = match kind {
        Kind::NotFound if instead_of(path).is_some() => Some("route_not_served"),
        Kind::NotFound => Some("not_found"),
        Kind::MethodNotAllowed => Some("method_not_allowed"),
        Kind::TooLarge => Some("request_too_large"),
        _ => None,
    };
    let error = Error { code, ..Error::new(kind, message) };
    Failure::from(error).with_status(status)
}
