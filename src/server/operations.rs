//! What the document says of a path: its methods, and the query parameters that they have.

use std::{collections::BTreeMap, sync::LazyLock};

use poem::{Request, http::Method};
use serde_json::Value;

use super::{auth::Purpose, ignored::Ignored, spec::openapi_json};
use crate::error::{Error, Result};
use crate::param::is_nearly;

/// Of a name, characters that an error repeats.
const NAME_CHARS_MAX: usize = 64;

/// One path of the document.
struct Operations {
    /// Segments; those that begin with `{` are parameters.
    path: Vec<String>,
    /// Methods in capitals with the names of their query parameters, unless any will do.
    methods: BTreeMap<String, Vec<String>>,
    /// Methods that answer 403 to those who may not manage engines.
    managing: Vec<String>,
    /// For the header `Allow`.
    allow: String,
}

/// Methods of a path, for `Allow`; `None` for a path that the document does not have.
#[must_use]
pub(crate) fn allowed_methods(path: &str) -> Option<String> {
    find(path).map(|operations| operations.allow.clone())
}

/// A path as the document has it, with names in place of parameters; `None` if it does not have it.
pub(crate) fn route(path: &str) -> Option<String> {
    find(path).map(|operations| operations.path.join("/"))
}

/// Whether a request uses engines or manages them: the document says of those that it may be forbidden.
pub(crate) fn purpose(method: &Method, path: &str) -> Purpose {
    let manages =
        |operations: &Operations| operations.managing.iter().any(|m| m == method.as_str());
    if find(path).is_some_and(manages) { Purpose::Manage } else { Purpose::Use }
}

/// Refuses query parameters that were meant for one that the operation has, and notes others that it does
/// not have. What the document does not have, pages and routes of others, takes any.
///
/// # Errors
/// A parameter that is mistyped or comes twice, or a query that is none.
pub(crate) fn check_query(request: &Request, ignored: &Ignored) -> Result<()> {
    let uri = request.uri();
    let Some(query) = uri.query().filter(|query| !query.is_empty()) else { return Ok(()) };
    let Some(operations) = find(uri.path()) else { return Ok(()) };
    let method = if request.method() == Method::HEAD { "GET" } else { request.method().as_str() };
    let Some(known) = operations.methods.get(method) else { return Ok(()) };
    let pairs: Vec<(String, String)> = request.params().map_err(|error| {
        Error::invalid("query", format!("query {query:?} cannot be read: {error}"))
    })?;
    for (index, (name, _)) in pairs.iter().enumerate() {
        let shown: String = name.chars().take(NAME_CHARS_MAX).collect();
        if !known.contains(name) {
            if let Some(meant) = known.iter().find(|known| is_nearly(name, known)) {
                let text = format!("query parameter {shown:?} is unknown here; there is {meant}");
                return Err(Error::invalid(shown, text));
            }
            ignored.note(format!("?{shown}"));
            continue;
        }
        if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
            let text = format!("query parameter {shown:?} comes twice");
            return Err(Error::invalid(shown, text));
        }
    }
    Ok(())
}

fn find(path: &str) -> Option<&'static Operations> {
    static TABLE: LazyLock<Vec<Operations>> = LazyLock::new(table);
    let segments: Vec<_> = path.split('/').collect();
    let fits = |operations: &&Operations| {
        let template = &operations.path;
        template.len() == segments.len()
            && template.iter().zip(&segments).all(|(t, s)| t.starts_with('{') || t == s)
    };
    TABLE.iter().find(fits)
}

fn table() -> Vec<Operations> {
    let document: Value = serde_json::from_str(openapi_json()).unwrap_or_default();
    let paths = document["paths"].as_object().cloned().unwrap_or_default();
    let documented = paths.into_iter().map(|(path, operations)| {
        let operations = operations.as_object().into_iter().flatten();
        let methods = operations.map(|(method, operation)| Documented {
            name: method.to_uppercase(),
            query: Some(query_names(operation)),
            manages: operation["responses"].get("403").is_some(),
        });
        (path, methods.collect::<Vec<_>>())
    });
    let page = || vec![Documented { name: "GET".to_owned(), query: None, manages: false }];
    let pages = ["/", "/docs", "/openapi.json"].map(|path| (path.to_owned(), page()));
    documented.chain(pages).map(|(path, methods)| operations(&path, methods)).collect()
}

/// One method of a path.
struct Documented {
    name: String,
    /// Names of query parameters, unless any will do.
    query: Option<Vec<String>>,
    manages: bool,
}

fn operations(path: &str, methods: Vec<Documented>) -> Operations {
    let mut allow: Vec<_> = methods.iter().map(|method| method.name.as_str()).collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.push("OPTIONS");
    let allow = allow.join(", ");
    let path = path.split('/').map(str::to_owned).collect();
    let managing = methods.iter().filter(|method| method.manages).map(|method| method.name.clone());
    let managing = managing.collect();
    let known = methods.into_iter().filter_map(|method| Some((method.name, method.query?)));
    Operations { path, methods: known.collect(), managing, allow }
}

fn query_names(operation: &Value) -> Vec<String> {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let names = parameters.filter(|parameter| parameter["in"] == "query");
    names.filter_map(|parameter| Some(parameter["name"].as_str()?.to_owned())).collect()
}
