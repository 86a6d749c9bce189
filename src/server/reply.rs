//! Answers that tell the generated document the truth: the status of success and every failure.

use std::marker::PhantomData;

use poem::{
    IntoResponse, Response,
    http::{HeaderName, HeaderValue, StatusCode},
};
use poem_openapi::{
    ApiResponse, ResponseContent,
    payload::Payload,
    registry::{
        MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
    },
};

use super::{body::Json, error::ErrorBody};

/// The outcomes of an operation, for the document.
pub(crate) trait Outcomes: Send {
    /// Status and description of success.
    const SUCCESS: (u16, &'static str);
    /// Statuses of failure.
    const FAILURES: &'static [u16];
}

/// A successful answer of an operation with these [`Outcomes`].
pub(crate) struct Reply<T, O> {
    payload: T,
    headers: Vec<(HeaderName, HeaderValue)>,
    outcomes: PhantomData<O>,
}

/// What a handler returns.
pub(crate) type Answer<T, O> = poem::Result<Reply<T, O>>;

impl<T, O> Reply<T, O> {
    pub(crate) fn new(payload: T) -> Self {
        Self { payload, headers: Vec::new(), outcomes: PhantomData }
    }

    /// Adds a header; a value that no header may have is left out.
    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }
}

impl<T: IntoResponse, O: Outcomes> IntoResponse for Reply<T, O> {
    fn into_response(self) -> Response {
        let mut response = self.payload.into_response();
        if response.status() == StatusCode::OK {
            response.set_status(StatusCode::from_u16(O::SUCCESS.0).unwrap_or_default());
        }
        response.headers_mut().extend(self.headers);
        response
    }
}

impl<T: ApiResponse, O: Outcomes> ApiResponse for Reply<T, O> {
    fn meta() -> MetaResponses {
        let mut responses = T::meta().responses;
        for response in &mut responses {
            response.status = Some(O::SUCCESS.0);
            response.description = O::SUCCESS.1;
        }
        // Every operation refuses query parameters that it does not have.
        let always = [400].into_iter().filter(|status| !O::FAILURES.contains(status));
        responses.extend(always.chain(O::FAILURES.iter().copied()).map(failure));
        MetaResponses { responses }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
        <Json<ErrorBody> as Payload>::register(registry);
    }
}

/// A body of one of several content types; poem-openapi has no answer made of these alone.
pub(crate) struct Content<C>(pub C);

impl<C: IntoResponse> IntoResponse for Content<C> {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl<C: ResponseContent> ApiResponse for Content<C> {
    fn meta() -> MetaResponses {
        let response = MetaResponse {
            description: "Success",
            status: Some(200),
            status_range: None,
            content: C::media_types(),
            headers: vec![],
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        C::register(registry);
    }
}

fn failure(status: u16) -> MetaResponse {
    let description = match status {
        400 => "The request is wrong; `error.param` names the field",
        401 => "No API key, or a wrong one",
        404 => "No such model, engine or response",
        408 => "The request body did not arrive in time",
        409 => "The name is taken, or the thing is in use",
        413 => "The request body is too large",
        422 => "The model file cannot be fetched or loaded",
        429 => "Too many requests",
        503 => "Loading, full or shutting down; try again later",
        504 => "The request's deadline passed",
        _ => "The server failed",
    };
    let retry_after = MetaHeader {
        name: "Retry-After".to_owned(),
        description: Some("Seconds after which another try may succeed".to_owned()),
        required: false,
        deprecated: false,
        schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("integer"))),
    };
    let schema = <Json<ErrorBody> as Payload>::schema_ref();
    let content_type = <Json<ErrorBody> as Payload>::CONTENT_TYPE;
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type, schema }],
        headers: if matches!(status, 429 | 503) { vec![retry_after] } else { vec![] },
    }
}
