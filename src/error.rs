//! The one error that crosses layers: a kind that a caller acts on, and a sentence for a person.
//!
//! Modules have their own error enums; what reaches a client is turned into [`Error`] at the module's
//! border. [`Kind`] alone decides HTTP status, wire `type` and metric label.

use std::fmt;

/// What a failure means to whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request itself is wrong: 400.
    Invalid,
    /// No or wrong credentials: 401.
    Unauthorized,
    /// Somebody else may, whoever asks may not: 403.
    Forbidden,
    /// The path, model or engine does not exist: 404.
    NotFound,
    /// The path exists, the method does not: 405.
    MethodNotAllowed,
    /// The name is taken: 409.
    Conflict,
    /// A body or an input over its limit: 413.
    TooLarge,
    /// A content type that cannot be read: 415.
    UnsupportedMedia,
    /// The model file cannot be loaded: 422.
    ModelLoading,
    /// The model file cannot be fetched: 422.
    ModelDownload,
    /// Too many requests from one client: 429.
    RateLimited,
    /// We failed: 500.
    Internal,
    /// Loading, full or shutting down; worth another try: 503.
    Unavailable,
    /// The request's deadline passed: 504.
    Timeout,
}

impl Kind {
    /// HTTP status code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMedia => 415,
            Self::ModelLoading | Self::ModelDownload => 422,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// `error.type` on the OpenAI wire, and the metric label.
    #[must_use]
    pub fn wire_type(self) -> &'static str {
        match self {
            Self::Invalid | Self::Conflict | Self::TooLarge | Self::UnsupportedMedia => {
                "invalid_request_error"
            }
            Self::Unauthorized => "authentication_error",
            Self::Forbidden => "permission_error",
            Self::NotFound => "not_found_error",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ModelLoading => "model_loading_error",
            Self::ModelDownload => "model_download_error",
            Self::RateLimited => "rate_limit_exceeded",
            Self::Internal => "server_error",
            Self::Unavailable => "service_unavailable",
            Self::Timeout => "timeout_error",
        }
    }
}

/// A failure as a client sees it. The message is lower case and names limit and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    /// Path of the offending field, such as `messages[0].content`.
    pub param: Option<String>,
    /// Stable machine-readable word, such as `model_not_found`.
    pub code: Option<&'static str>,
    /// When another try may succeed, in seconds.
    pub retry_after_s: Option<u32>,
}

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, code: None, retry_after_s: None }
    }

    /// A wrong field of the request; `param` is its path.
    #[must_use]
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message).with_param(param)
    }

    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Loading, full or draining: another try may succeed after `retry_after_s` seconds.
    #[must_use]
    pub fn unavailable(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(Kind::Unavailable, message) }
    }

    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
