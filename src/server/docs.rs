//! Pages for people: a start page, Swagger UI, the document. Everything is in the program.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use poem::{
    Endpoint, IntoEndpoint, Request, Response, Result, RouteMethod, endpoint::BoxEndpoint, get,
    http::header,
};
use poem_openapi::OpenApiService;

use super::{
    AppState,
    spec::{openapi_json, service},
    start_page::start_page,
};

const HTML: &str = "text/html; charset=utf-8";
/// The pages bring all they need; nothing may be loaded from elsewhere.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; \
                      style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; frame-ancestors 'none'";
/// The start page at `/`, and all documented routes below it: poem's router takes one of the two there.
pub(crate) struct Home {
    page: RouteMethod,
    routes: BoxEndpoint<'static>,
}

impl Home {
    pub(crate) fn new(state: &Arc<AppState>) -> Self {
        let page = get(StartPage(Arc::clone(state)));
        Self { page, routes: service(state).into_endpoint() }
    }
}

impl Endpoint for Home {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        match request.uri().path() {
            "/" => self.page.call(request).await,
            _ => self.routes.call(request).await,
        }
    }
}

struct StartPage(Arc<AppState>);

impl Endpoint for StartPage {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        if !wants_page(&request) {
            // What Ollama's clients look for before they say more.
            return Ok(Response::builder().content_type("text/plain").body("Ollama is running"));
        }
        let page = start_page(&self.0, &request);
        Ok(Response::builder()
            .content_type(HTML)
            .header(header::CONTENT_SECURITY_POLICY, POLICY)
            .body(page))
    }
}

/// Browsers ask for HTML by name; programs take anything, or do not say.
fn wants_page(request: &Request) -> bool {
    let accept = request.header(header::ACCEPT).unwrap_or_default();
    ["text/html", "text/*", "application/xhtml+xml"].iter().any(|kind| accept.contains(kind))
}

/// The page at `/docs`.
pub(crate) struct SwaggerPage;

impl Endpoint for SwaggerPage {
    type Output = Response;

    async fn call(&self, _: Request) -> Result<Response> {
        Ok(Response::builder()
            .content_type(HTML)
            .header(header::CONTENT_SECURITY_POLICY, POLICY)
            .body(swagger_html()))
    }
}

/// `/openapi.json`.
pub(crate) struct Document;

impl Endpoint for Document {
    type Output = Response;

    async fn call(&self, _: Request) -> Result<Response> {
        Ok(Response::builder().content_type("application/json").body(openapi_json()))
    }
}

/// poem's page with our document in place of the one it was made with.
fn swagger_html() -> Bytes {
    static PAGE: LazyLock<Bytes> = LazyLock::new(|| {
        const PLACE: &str = "\"kolosal-document\"";
        let page = OpenApiService::new((), PLACE, "").swagger_ui_html();
        let begin = page.find("let spec = ").map(|at| at + "let spec = ".len());
        let end = page.rfind("let oauth2RedirectUrl;");
        let (Some(begin), Some(end)) = (begin, end) else {
            return Bytes::from(page);
        };
        // A closing tag within a script ends the script, wherever it stands.
        let document = openapi_json().trim_end().replace("</", "<\\/");
        let parts =
            ["<!DOCTYPE html>\n", page[..begin].trim_start(), &document, ";\n    ", &page[end..]];
        Bytes::from(parts.concat())
    });
    PAGE.clone()
}
