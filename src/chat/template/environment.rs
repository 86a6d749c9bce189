//! The Jinja environment that chat templates are written for: Python's Jinja2 as Hugging Face
//! transformers sets it up, rebuilt on minijinja.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};

use super::time::strftime;
use super::{bounds, indent, json};

/// Work that one render may do. Rendering a conversation takes a few hundred units a message; a unit
/// also pays for 64 bytes, so this bounds memory too.
const FUEL: u64 = 20_000_000;
/// Work for each of the small conversations that find out what a template takes.
const PROBE_FUEL: u64 = 500_000;
/// Name of the template in its environment.
pub(super) const NAME: &str = "chat_template";
/// Variable with the seconds since 1970 at which a render takes place.
pub(super) const NOW: &str = "_kolosal_now_s";

/// Stack of the thread that compiles, for each byte of the source and at least. Chains of operators make a syntax tree as deep as they are long,
/// and conditions one as deep as they are many; only pages that are used cost memory.
const COMPILER_STACK: [usize; 2] = [4 << 10, 4 << 20];

/// An environment with the one template `source`, compiled on a thread of its own.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let [per_byte, least] = COMPILER_STACK;
    let stack = source.len().saturating_mul(per_byte).max(least);
    let compiler = std::thread::Builder::new().stack_size(stack);
    std::thread::scope(|scope| {
        let failed = |problem: String| Error::new(ErrorKind::InvalidOperation, problem);
        let thread = compiler
            .name("template".to_owned())
            .spawn_scoped(scope, || compile(source))
            .map_err(|e| failed(format!("no thread to compile on: {e}")))?;
        thread.join().map_err(|_| failed("the compiler panicked".to_owned()))?
    })
}

/// Gives renders all the fuel, once probing is done.
pub(super) fn refuel(env: &mut Environment<'static>) {
    env.set_fuel(Some(FUEL));
}

fn compile(source: &str) -> Result<Environment<'static>, Error> {
    bounds::check_tags(source)?;
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    env.set_syntax(syntax);
    env.set_fuel(Some(PROBE_FUEL));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", json::to_json);
    env.add_filter("indent", indent::indent);
    env.add_filter("from_json", json::from_json);
    env.add_test("iterable", is_iterable);
    env.add_filter(bounds::FILTER, bounds::bounded);
    env.add_template_owned(NAME, bounds::with_bounds(&without_generation_tags(source)))?;
    Ok(env)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

/// Marks an error that the template raised itself, about the conversation it was given.
#[derive(Debug)]
pub(super) struct Raised;

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

/// As in Jinja2, where None is not iterable and an undefined value is.
fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

fn strftime_now(state: &mut State<'_, '_>, format: &str) -> String {
    let now = state.lookup(NOW).and_then(|now| now.as_i64()).unwrap_or(0);
    strftime(now, format)
}

/// `{% generation %}` marks what a model wrote, for training; here it only groups.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        let Some(close) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(close + 2);
        let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
        let name = inner.trim_matches(['-', '+']).trim();
        match name {
            "generation" => out.push_str(&tag.replacen(name, "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen(name, "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_groups() {
        let source = "{% if a %}{%- generation -%}x{% endgeneration %}{% endif %}{% raw";
        let expected = "{% if a %}{%- if true -%}x{% endif %}{% endif %}{% raw";
        assert_eq!(without_generation_tags(source), expected);
    }
}
