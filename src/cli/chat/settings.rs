//! What a chat asks for beside its messages, by the names that `/v1/chat/completions` has.

use serde_json::{Map, Value, json};

use crate::cli::args::RunArgs;
use crate::server;

/// Other usual names.
const ALIASES: [(&str, &str); 6] = [
    ("temp", "temperature"),
    ("num_predict", "max_tokens"),
    ("n_predict", "max_tokens"),
    ("max_completion_tokens", "max_tokens"),
    ("repetition_penalty", "repeat_penalty"),
    ("think", "reasoning_effort"),
];
/// What a chat decides by itself.
const NOT_HERE: [&str; 5] = ["n", "stream", "stream_options", "store", "return_progress"];

/// Parameters of requests, and what is printed beside answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    fields: Map<String, Value>,
    /// Tokens and times follow each answer.
    pub(super) is_verbose: bool,
}

impl Settings {
    /// What the flags say.
    ///
    /// # Errors
    /// A value that the parameter does not have.
    pub(super) fn new(args: &RunArgs, is_verbose: bool) -> Result<Self, String> {
        let mut settings = Self { fields: Map::new(), is_verbose };
        let number = |value: Option<f32>| value.map(|value| json!(value));
        let flags = [
            ("temperature", number(args.temperature)),
            ("top_p", number(args.top_p)),
            ("top_k", args.top_k.map(Value::from)),
            ("min_p", number(args.min_p)),
            ("repeat_penalty", number(args.repeat_penalty)),
            ("presence_penalty", number(args.presence_penalty)),
            ("frequency_penalty", number(args.frequency_penalty)),
            ("seed", args.seed.map(Value::from)),
            ("max_tokens", args.max_tokens.map(Value::from)),
            ("stop", (!args.stop.is_empty()).then(|| json!(args.stop))),
            ("reasoning_effort", args.think.as_deref().map(effort)),
        ];
        for (name, value) in flags {
            settings.fields.extend(value.map(|value| (name.to_owned(), value)));
        }
        settings.check()?;
        Ok(settings)
    }

    /// Sets a parameter as a person writes it; `default` takes back what was said of it.
    ///
    /// # Errors
    /// There is no such parameter, or it does not have this value.
    pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let name = name.replace('-', "_").to_ascii_lowercase();
        let known = ALIASES.iter().find(|(alias, _)| *alias == name);
        let known = known.map_or(&*name, |(_, known)| known);
        if name == "verbose" {
            self.is_verbose = !matches!(text, "off" | "false" | "0");
            return Ok(());
        }
        if !is_parameter(known) {
            return Err(format!("there is no parameter {name}; /set lists them"));
        }
        let before = self.fields.clone();
        if text == "default" {
            self.fields.remove(known);
            return Ok(());
        }
        let value = match name.as_str() {
            "think" => effort(text),
            _ => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        };
        self.fields.insert(known.to_owned(), value);
        self.check().inspect_err(|_| self.fields = before)
    }

    /// What was set, one a line.
    pub(super) fn shown(&self) -> String {
        let lines = self.fields.iter().map(|(name, value)| format!("{name} {value}"));
        let verbose = format!("verbose {}", if self.is_verbose { "on" } else { "off" });
        lines.chain([verbose]).collect::<Vec<_>>().join("\n")
    }

    /// A request for an answer.
    pub(super) fn body(&self, messages: &[Value]) -> Value {
        let mut body = self.fields.clone();
        body.insert("messages".to_owned(), messages.into());
        Value::Object(body)
    }

    /// What was set, to be kept.
    pub(super) fn kept(&self) -> Value {
        Value::Object(self.fields.clone())
    }

    /// Takes what was kept.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(super) fn restore(&mut self, kept: &Value) -> Result<(), String> {
        let fields = kept.as_object().cloned().unwrap_or_default();
        let before = std::mem::replace(&mut self.fields, fields);
        self.check().inspect_err(|_| self.fields = before)
    }

    /// Reads the parameters as the server would.
    fn check(&self) -> Result<(), String> {
        let body = self.body(&[json!({"role": "user", "content": "x"})]);
        server::read_chat(&body).map(drop).map_err(|error| error.message)
    }
}

/// How `/set think on` and `--think off` are said to a template.
fn effort(text: &str) -> Value {
    match text {
        "on" | "true" => "medium".into(),
        "off" | "false" => "none".into(),
        other => other.into(),
    }
}

/// Names of all parameters that can be set.
pub(super) fn names() -> Vec<String> {
    let all = server::parameters().into_iter();
    let here = all.filter(|parameter| {
        let is_nested = parameter.name.contains('.');
        parameter.route == "/v1/chat/completions" && parameter.status == "implemented" && !is_nested
    });
    here.map(|parameter| parameter.name).filter(|name| !NOT_HERE.contains(&name.as_str())).collect()
}

fn is_parameter(name: &str) -> bool {
    names().iter().any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_by_their_usual_names() {
        let mut settings = Settings::default();
        for (name, text) in [
            ("temp", "0.5"),
            ("top-k", "7"),
            ("num_predict", "9"),
            ("stop", "\"x\""),
            ("think", "off"),
        ] {
            settings.set(name, text).unwrap();
        }
        let body = settings.body(&[]);
        assert_eq!((&body["temperature"], &body["top_k"]), (&json!(0.5), &json!(7)));
        assert_eq!((&body["max_tokens"], &body["reasoning_effort"]), (&json!(9), &json!("none")));
        settings.set("top_k", "default").unwrap();
        assert!(settings.body(&[]).get("top_k").is_none());
        for (name, text, problem) in [
            ("temperature", "9", "temperature must be from 0 to 2"),
            ("temprature", "1", "no parameter temprature"),
            ("stream", "true", "no parameter stream"),
        ] {
            let error = settings.set(name, text).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        assert_eq!(settings.body(&[])["temperature"], 0.5);
    }
}
