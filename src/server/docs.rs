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
    auth::Access,
    desk::status_word,
    spec::{openapi_json, service},
};
use crate::registry::Status;

const HTML: &str = "text/html; charset=utf-8";
/// The pages bring all they need; nothing may be loaded from elsewhere.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; \
                      style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; frame-ancestors 'none'";
const PAGE: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Kolosal Server</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }
code { background: #8882; padding: 0 .3em; border-radius: 3px }
td, th { text-align: left; padding: .1rem 1.5rem .1rem 0 }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } a { color: #8bf } }
</style>
</head>
<body>
<h1>Kolosal Server {version}</h1>
<p>An LLM server with OpenAI's API: point a client at <code>/v1</code> on this host.</p>
<ul>
<li><a href=\"/docs\">Try the API</a></li>
<li><a href=\"/openapi.json\">OpenAPI document</a></li>
<li><a href=\"/v1/models\">Models</a>, <a href=\"/engines\">engines</a>, <a href=\"/v1/health\">health</a></li>
</ul>
{engines}
</body>
</html>
";

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
        let is_granted = request.data::<Access>() == Some(&Access::Granted);
        let engines = if is_granted { engine_table(&self.0) } else { String::new() };
        let page =
            PAGE.replace("{version}", env!("CARGO_PKG_VERSION")).replace("{engines}", &engines);
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

fn engine_table(state: &AppState) -> String {
    let statuses = state.registry.list();
    if statuses.is_empty() {
        return "<p>No engines yet: <code>POST /engines</code> registers one.</p>".to_owned();
    }
    let row = |status: &Status| {
        let (id, word) = (escape(&status.spec.id), status_word(&status.state));
        format!("<tr><td><code>{id}</code></td><td>{word}</td></tr>")
    };
    let rows = statuses.iter().map(row).collect::<Vec<_>>().join("\n");
    format!("<table>\n<tr><th>Engine</th><th>Status</th></tr>\n{rows}\n</table>")
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
