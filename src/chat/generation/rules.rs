//! What an output must look like: a grammar for all of it, tools that it may call, or both.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::chat::easing;
use crate::chat::gate::{Gate, ReasoningStart, Wait};
use crate::chat::grammar::{CompiledGrammar, Grammar, GrammarError};
use crate::chat::tools::grammar as tool_grammar;
use crate::chat::{TextModel, ToolFormat};
use crate::engine::Constraint;
use crate::error::{Error, Result};

use super::Callable;
use super::GenerationRequest;

/// How long a request waits for its grammar.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(10);

/// Rules of one request's output.
#[derive(Clone, Debug, Default)]
pub struct OutputRules {
    /// What the text of the answer must look like.
    pub shape: Option<Shape>,
    pub tools: Option<ToolUse>,
}

/// A grammar and the request's field that brought it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub grammar: Grammar,
    /// Path of the field, for errors.
    pub field: String,
    /// What cannot be enforced is refused, and not left out and told.
    pub strict: bool,
}

/// Tools of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolUse {
    /// The definitions that the template gets.
    pub definitions: Value,
    /// Those that may be called now; not empty.
    pub callable: Vec<Callable>,
    /// The answer is a call and nothing else.
    pub must_call: bool,
    /// One answer may hold several calls.
    pub parallel: bool,
}

/// The rules of a request, compiled for one model.
pub(super) struct Compiled {
    grammar: CompiledGrammar,
    scope: Scope,
    /// The answer may be calls.
    calls: bool,
    /// Reasoning may end the answer: nothing is asked of it.
    may_end: bool,
    /// What of the schemas is not enforced.
    pub(super) notes: Vec<String>,
}

/// What the grammar speaks of.
enum Scope {
    /// The whole answer.
    Answer,
    /// What follows each marker of a call.
    Calls { wait: Wait, parallel: bool },
}

impl Compiled {
    /// A constraint for one choice; `in_reasoning` is `None` for an output that is no chat's, in which
    /// there is no reasoning.
    pub(super) fn constraint(
        &self,
        text: &TextModel,
        in_reasoning: Option<bool>,
    ) -> Box<dyn Constraint> {
        let tokenizer = &text.tokenizer;
        let answer = match &self.scope {
            Scope::Answer => self.grammar.constraint(),
            Scope::Calls { wait, parallel } => {
                let grammar = self.grammar.clone();
                Box::new(Gate::to_calls(Arc::clone(tokenizer), wait.clone(), grammar, *parallel))
            }
        };
        let is_call = matches!(self.scope, Scope::Calls { .. });
        match text.reasoning().zip(in_reasoning) {
            // Harmony's markers of calls do not stand in its reasoning.
            Some(_) if is_call && text.tool_format() == ToolFormat::Harmony => answer,
            Some((tags, in_reasoning)) => {
                let start =
                    ReasoningStart { in_reasoning, calls: self.calls, may_end: self.may_end };
                Box::new(Gate::after_reasoning(tokenizer, tags, start, answer))
            }
            None => answer,
        }
    }
}

/// Compiles the rules of all requests; those that share their rules share the result.
pub(super) async fn compile_all(
    text: &Arc<TextModel>,
    requests: &[GenerationRequest],
) -> Result<Vec<Option<Arc<Compiled>>>> {
    let mut all: Vec<Option<Arc<Compiled>>> = Vec::with_capacity(requests.len());
    let mut last: Option<&Arc<OutputRules>> = None;
    for request in requests {
        let compiled = match (&request.rules, last) {
            (None, _) => None,
            (Some(rules), Some(last)) if Arc::ptr_eq(rules, last) => all.last().cloned().flatten(),
            (Some(rules), _) => compile(text, rules).await?,
        };
        last = request.rules.as_ref();
        all.push(compiled);
    }
    Ok(all)
}

async fn compile(text: &Arc<TextModel>, rules: &Arc<OutputRules>) -> Result<Option<Arc<Compiled>>> {
    let is_free =
        rules.shape.is_none() && !rules.tools.as_ref().is_some_and(ToolUse::is_constrained);
    if is_free && (rules.tools.is_none() || !text.constrains_tools()) {
        return Ok(None);
    }
    let compiling = async {
        let permit = text.grammar_permit().await;
        let (text, rules) = (Arc::clone(text), Arc::clone(rules));
        let task = tokio::task::spawn_blocking(move || {
            let compiled = match &rules.tools {
                Some(tools) if is_free => Ok(compile_helpfully(&text, tools)),
                _ => compile_eased(&text, &rules).map(Some),
            };
            // A compilation that is given up goes on, and makes the next ones wait.
            drop(permit);
            compiled
        });
        let failed = |e| Error::internal(format!("the grammar was not compiled: {e}"));
        task.await.map_err(failed)?
    };
    let Ok(compiled) = tokio::time::timeout(COMPILE_TIMEOUT, compiling).await else {
        if is_free {
            return Ok(None);
        }
        let seconds = COMPILE_TIMEOUT.as_secs();
        let field = rules.shape.as_ref().map_or("tools", |shape| shape.field.as_str());
        let text = format!("{field}: compiling it takes more than {seconds} s");
        return Err(Error::invalid(field, text));
    };
    compiled.map(|compiled| compiled.map(Arc::new))
}

/// For tools that nobody asked to be strict about: calls that the model begins by itself follow the
/// schemas, as far as these can be compiled and the model writes calls in a form that is certain.
fn compile_helpfully(text: &TextModel, tools: &ToolUse) -> Option<Compiled> {
    let compiler = text.grammars().ok().filter(|_| text.tool_format().is_marked_json())?;
    let compile = |callable: &[Callable]| {
        let calls = tool_grammar::Calls {
            format: text.tool_format(),
            tokenizer: &text.tokenizer,
            tools: callable,
            parallel: tools.parallel,
            lenient: true,
        };
        let grammar = compiler.compile(&Grammar::Lark(calls.after_marker())).ok()?;
        let scope = Scope::Calls { wait: calls.wait(), parallel: tools.parallel };
        Some(Compiled { grammar, scope, calls: true, may_end: true, notes: Vec::new() })
    };
    compile(&tools.callable).or_else(|| {
        let mut callable = tools.callable.clone();
        for tool in &mut callable {
            let schema = Grammar::JsonSchema(tool_grammar::parameters(&tool.parameters));
            if compiler.compile(&schema).is_err() {
                tool.parameters = serde_json::json!({"type": "object"});
            }
        }
        compile(&callable)
    })
}

/// As [`compile_now`]; where that fails, without what the schemas ask for and nobody can enforce, as far as
/// that may be left out.
fn compile_eased(text: &TextModel, rules: &OutputRules) -> Result<Compiled> {
    let error = match compile_now(text, rules) {
        Ok(compiled) => return Ok(compiled),
        Err(error) => error,
    };
    let compiler = text.grammars().map_err(|error| refused("grammar", &error))?;
    let (mut eased, mut notes) = (rules.clone(), Vec::new());
    let mut ease = |schema: &Value, is_strict: bool, field: &str| {
        let eased = easing::ease(compiler, schema, is_strict)?;
        notes.extend(eased.left_out.iter().map(|what| format!("{field} ({what})")));
        Some(eased)
    };
    if let Some(Shape { grammar, field, strict }) = &mut eased.shape
        && let Grammar::JsonSchema(schema) = &grammar
        && let Some(other) = ease(schema, *strict, field)
    {
        *grammar = other.grammar();
    }
    for tool in eased.tools.iter_mut().flat_map(|tools| &mut tools.callable) {
        let schema = tool_grammar::parameters(&tool.parameters);
        if let Some(other) = ease(&schema, tool.strict, &tool.field) {
            (tool.parameters, tool.loose) = (other.schema, other.is_loose);
        }
    }
    if notes.is_empty() {
        return Err(error);
    }
    let compiled = compile_now(text, &eased).map_err(|_| error)?;
    Ok(Compiled { notes, ..compiled })
}

fn compile_now(text: &TextModel, rules: &OutputRules) -> Result<Compiled> {
    let compiler = text.grammars().map_err(|error| refused("grammar", &error))?;
    let (tools, shape) = match (&rules.tools, &rules.shape) {
        (Some(tools), shape) => (tools, shape),
        (None, Some(shape)) => {
            let grammar = compiler.compile(&shape.grammar);
            let grammar = grammar.map_err(|error| refused(&shape.field, &error))?;
            return Ok(Compiled {
                grammar,
                scope: Scope::Answer,
                calls: false,
                may_end: false,
                notes: Vec::new(),
            });
        }
        (None, None) => return Err(Error::internal("there is nothing to compile")),
    };
    let calls = tool_grammar::Calls {
        format: text.tool_format(),
        tokenizer: &text.tokenizer,
        tools: &tools.callable,
        parallel: tools.parallel,
        lenient: false,
    };
    let (source, scope) = match shape {
        _ if tools.must_call => (calls.answer(None), Scope::Answer),
        Some(shape) => {
            let content = tool_grammar::content(&shape.grammar).ok_or_else(|| {
                let text = "a grammar of this kind cannot be combined with tools";
                Error::invalid(&shape.field, format!("{}: {text}", shape.field))
            })?;
            (calls.answer(Some(&content)), Scope::Answer)
        }
        None => {
            (calls.after_marker(), Scope::Calls { wait: calls.wait(), parallel: tools.parallel })
        }
    };
    let grammar = compiler.compile(&Grammar::Lark(source)).map_err(|error| {
        // The whole does not tell which part is at fault.
        let schemas = tools.callable.iter().map(|tool| {
            (&tool.field, Grammar::JsonSchema(tool_grammar::parameters(&tool.parameters)))
        });
        let shapes = shape.iter().map(|shape| (&shape.field, shape.grammar.clone()));
        let mut parts = schemas.chain(shapes);
        parts
            .find_map(|(field, part)| Some(refused(field, &compiler.compile(&part).err()?)))
            .unwrap_or_else(|| refused("tools", &error))
    })?;
    Ok(Compiled { grammar, scope, calls: true, may_end: false, notes: Vec::new() })
}

fn refused(field: &str, error: &GrammarError) -> Error {
    Error::invalid(field, format!("{field}: {error}"))
}

impl ToolUse {
    /// Whether the output is constrained on behalf of the tools.
    fn is_constrained(&self) -> bool {
        self.must_call || self.callable.iter().any(|tool| tool.strict)
    }
}
