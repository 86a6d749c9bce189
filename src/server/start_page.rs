//! The start page: what is served, and how a client is pointed at it.

use poem::{
    Request,
    http::{header, uri::Authority},
};

use super::{AppState, auth::Access, desk::status_word};
use crate::registry::Status;

const PAGE: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Kolosal Server</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 3rem auto; padding: 0 1rem }
code, pre { background: #8882; border-radius: 3px }
code { padding: 0 .3em }
pre { padding: .7rem; overflow-x: auto; font-size: 14px }
pre code { background: none; padding: 0 }
td, th { text-align: left; padding: .1rem 1.5rem .1rem 0 }
h3 { display: flex; gap: 1rem; align-items: center; margin-bottom: .3rem }
button, select { font: inherit; font-size: 14px }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } a { color: #8bf } }
</style>
</head>
<body>
<h1>Kolosal Server {version}</h1>
<p>An LLM server with the APIs of OpenAI, Anthropic and Ollama. Point a client at <code>{url}/v1</code>.</p>
<ul>
<li><a href=\"/docs\">Try the API</a></li>
<li><a href=\"/openapi.json\">OpenAPI document</a></li>
<li><a href=\"/v1/models\">Models</a>, <a href=\"/engines\">engines</a>, <a href=\"/v1/health\">health</a></li>
</ul>
{models}
<h2>Use it</h2>
{choice}
{snippets}
<script>
const shown = [...document.querySelectorAll('pre code')].map(code => [code, code.textContent]);
const choice = document.querySelector('select');
const first = choice && choice.value;
if (choice) choice.onchange = () => {
  for (const [code, text] of shown) code.textContent = text.replaceAll(first, choice.value);
};
for (const button of document.querySelectorAll('button')) button.onclick = async () => {
  const code = button.parentElement.nextElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'copied';
    setTimeout(() => { button.textContent = 'copy'; }, 1500);
  } catch {
    getSelection().selectAllChildren(code);
  }
};
</script>
</body>
</html>
";

/// A name where none may be shown, or there is none.
const SOME_MODEL: &str = "my-model";

/// Titles and texts to copy; `{url}`, `{model}` and `{key}` are filled in.
const SNIPPETS: [(&str, &str); 5] = [
    (
        "curl",
        "curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
  -H 'Authorization: Bearer {key}' \\
  -d '{\"model\": \"{model}\",
    \"messages\": [{\"role\": \"user\", \"content\": \"Say hello.\"}]}'",
    ),
    (
        "Python",
        "from openai import OpenAI

client = OpenAI(base_url=\"{url}/v1\", api_key=\"{key}\")
answer = client.chat.completions.create(
    model=\"{model}\",
    messages=[{\"role\": \"user\", \"content\": \"Say hello.\"}],
)
print(answer.choices[0].message.content)",
    ),
    (
        "JavaScript",
        "const response = await fetch(\"{url}/v1/chat/completions\", {
  method: \"POST\",
  headers: { \"Content-Type\": \"application/json\", Authorization: \"Bearer {key}\" },
  body: JSON.stringify({
    model: \"{model}\",
    messages: [{ role: \"user\", content: \"Say hello.\" }],
  }),
});
console.log((await response.json()).choices[0].message.content);",
    ),
    (
        "Claude Code",
        "ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN={key} \\
  ANTHROPIC_MODEL={model} ANTHROPIC_DEFAULT_HAIKU_MODEL={model} claude",
    ),
    (
        "Open WebUI",
        "docker run --network=host -e PORT=3000 \\
  -e OPENAI_API_BASE_URL={url}/v1 -e OPENAI_API_KEY={key} \\
  -v open-webui:/app/backend/data ghcr.io/open-webui/open-webui:main",
    ),
];

/// The page for whoever sends this request.
pub(super) fn start_page(state: &AppState, request: &Request) -> String {
    let is_granted = request.data::<Access>() == Some(&Access::Granted);
    let statuses = if is_granted { state.registry.list() } else { Vec::new() };
    let model = statuses.first().map_or(SOME_MODEL, |first| &first.spec.id);
    let key = if state.options.keys.is_needed() { "YOUR_KEY" } else { "none" };
    let url = escape(&address(request));
    let parts = [
        ("{version}", env!("CARGO_PKG_VERSION").to_owned()),
        ("{models}", if is_granted { table(&statuses) } else { String::new() }),
        ("{choice}", choice(&statuses)),
        ("{snippets}", snippets(model, key)),
        ("{url}", url),
    ];
    parts.into_iter().fold(PAGE.to_owned(), |page, (place, text)| page.replace(place, &text))
}

/// The server as the browser calls it.
fn address(request: &Request) -> String {
    let host = request.header(header::HOST).or(request.uri().authority().map(Authority::as_str));
    let is_host = |host: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".:-[]_".contains(c);
        !host.is_empty() && host.chars().all(plain)
    };
    let scheme = request.header("x-forwarded-proto").filter(|scheme| *scheme == "https");
    let host = host.filter(is_host).unwrap_or("localhost:8080");
    format!("{}://{host}", scheme.unwrap_or("http"))
}

fn table(statuses: &[Status]) -> String {
    if statuses.is_empty() {
        return "<p>No engines yet: <code>POST /engines</code> registers one.</p>".to_owned();
    }
    let row = |status: &Status| {
        let (id, word) = (escape(&status.spec.id), status_word(&status.state));
        let known = status.info.as_ref().or(status.known.as_ref());
        let context = known.map(|known| known.context_len.to_string()).unwrap_or_default();
        format!("<tr><td><code>{id}</code></td><td>{word}</td><td>{context}</td></tr>")
    };
    let rows = statuses.iter().map(row).collect::<Vec<_>>().join("\n");
    format!(
        "<h2>Models</h2>\n<table>\n<tr><th>Engine</th><th>Status</th><th>Context</th></tr>\n{rows}\n\
         </table>"
    )
}

/// A choice among several models, for the snippets.
fn choice(statuses: &[Status]) -> String {
    if statuses.len() < 2 {
        return String::new();
    }
    let option = |status: &Status| format!("<option>{}</option>", escape(&status.spec.id));
    let options: String = statuses.iter().map(option).collect();
    format!("<p><label>Model <select>{options}</select></label></p>")
}

fn snippets(model: &str, key: &str) -> String {
    let snippet = |(title, text): &(&str, &str)| {
        // Names with other characters than these would need quotes of each language.
        let plain = |c: char| c.is_alphanumeric() || "-_./:@+".contains(c);
        let model = if model.chars().all(plain) { model } else { SOME_MODEL };
        let text = escape(&text.replace("{model}", model).replace("{key}", key));
        format!("<h3>{title} <button>copy</button></h3>\n<pre><code>{text}</code></pre>")
    };
    SNIPPETS.iter().map(snippet).collect::<Vec<_>>().join("\n")
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
