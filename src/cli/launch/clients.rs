//! Agents that can be launched, and how each is told where its model is, for one run.

use serde_json::json;

/// The variable that has the key where a client is told the name of one.
const KEY_VARIABLE: &str = "LAUNCHED_API_KEY";
/// Clients refuse to run without a key; a server without keys takes any.
const NO_KEY: &str = "none";

/// Where a client finds its model.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Of the server, without a slash at the end.
    pub(super) url: String,
    pub(super) key: Option<String>,
    /// The engine's name.
    pub(super) model: String,
    /// Tokens of prompt and answer together, if that is known.
    pub(super) context: Option<u64>,
}

/// A program with its arguments and what its environment has beside ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) program: &'static str,
    pub(super) args: Vec<String>,
    pub(super) variables: Vec<(&'static str, String)>,
}

/// An agent.
pub(super) struct Client {
    pub(super) name: &'static str,
    /// How it is installed.
    pub(super) install: &'static str,
    run: fn(&Target) -> Run,
}

pub(super) const CLIENTS: [Client; 6] = [
    Client { name: "claude", install: "npm install -g @anthropic-ai/claude-code", run: claude },
    Client { name: "codex", install: "npm install -g @openai/codex", run: codex },
    Client { name: "opencode", install: "npm install -g opencode-ai", run: opencode },
    Client { name: "qwen", install: "npm install -g @qwen-code/qwen-code", run: qwen },
    Client { name: "aider", install: "python3 -m pip install aider-chat", run: aider },
    Client { name: "goose", install: "its page says how: github.com/block/goose", run: goose },
];

impl Client {
    /// How it is run, with arguments of the caller's behind its own.
    pub(super) fn run(&self, target: &Target, args: &[String]) -> Run {
        let mut run = (self.run)(target);
        run.program = self.name;
        // Without a command of its own, goose explains itself.
        if self.name == "goose" && args.is_empty() {
            run.args.push("session".to_owned());
        }
        run.args.extend_from_slice(args);
        run
    }
}

impl Target {
    fn key(&self) -> String {
        self.key.clone().unwrap_or_else(|| NO_KEY.to_owned())
    }

    fn v1(&self) -> String {
        format!("{}/v1", self.url)
    }
}

fn claude(target: &Target) -> Run {
    let model = || target.model.clone();
    let mut variables = vec![
        ("ANTHROPIC_BASE_URL", target.url.clone()),
        ("ANTHROPIC_AUTH_TOKEN", target.key()),
        // Another key in the environment would come before it.
        ("ANTHROPIC_API_KEY", String::new()),
        ("ANTHROPIC_MODEL", model()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
    ];
    // Titles and summaries are asked of smaller models, which are not here.
    let others = [
        "ANTHROPIC_DEFAULT_OPUS_MODEL",
        "ANTHROPIC_DEFAULT_SONNET_MODEL",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
        "ANTHROPIC_SMALL_FAST_MODEL",
        "CLAUDE_CODE_SUBAGENT_MODEL",
    ];
    variables.extend(others.map(|name| (name, model())));
    let args = vec!["--model".to_owned(), model()];
    Run { args, variables, ..Run::default() }
}

fn codex(target: &Target) -> Run {
    let text = |text: &str| json!(text).to_string();
    let mut settings = vec![
        format!("model={}", text(&target.model)),
        "model_provider=\"kolosal\"".to_owned(),
        "model_providers.kolosal.name=\"Kolosal\"".to_owned(),
        format!("model_providers.kolosal.base_url={}", text(&target.v1())),
        format!("model_providers.kolosal.env_key={}", text(KEY_VARIABLE)),
        "model_providers.kolosal.wire_api=\"responses\"".to_owned(),
    ];
    settings.extend(target.context.map(|tokens| format!("model_context_window={tokens}")));
    let args = settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]);
    Run { args: args.collect(), variables: vec![(KEY_VARIABLE, target.key())], ..Run::default() }
}

fn opencode(target: &Target) -> Run {
    let mut model = json!({ "name": target.model });
    if let Some(context) = target.context {
        model["limit"] = json!({ "context": context, "output": context / 4 });
    }
    let named = format!("kolosal/{}", target.model);
    let config = json!({
        "model": named,
        "small_model": named,
        "provider": { "kolosal": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Kolosal",
            "options": { "baseURL": target.v1(), "apiKey": format!("{{env:{KEY_VARIABLE}}}") },
            "models": { &*target.model: model },
        }},
    });
    let variables =
        vec![("OPENCODE_CONFIG_CONTENT", config.to_string()), (KEY_VARIABLE, target.key())];
    Run { variables, ..Run::default() }
}

fn qwen(target: &Target) -> Run {
    let variables = vec![
        ("OPENAI_BASE_URL", target.v1()),
        ("OPENAI_API_KEY", target.key()),
        ("OPENAI_MODEL", target.model.clone()),
    ];
    let args = ["--auth-type", "openai", "--model", &target.model].map(str::to_owned).to_vec();
    Run { args, variables, ..Run::default() }
}

fn aider(target: &Target) -> Run {
    let variables = vec![("OPENAI_API_BASE", target.v1()), ("OPENAI_API_KEY", target.key())];
    let model = format!("openai/{}", target.model);
    let args = vec!["--model".to_owned(), model, "--no-show-model-warnings".to_owned()];
    Run { args, variables, ..Run::default() }
}

fn goose(target: &Target) -> Run {
    let variables = vec![
        ("GOOSE_PROVIDER", "openai".to_owned()),
        ("GOOSE_MODEL", target.model.clone()),
        ("OPENAI_HOST", target.url.clone()),
        ("OPENAI_BASE_PATH", "v1/chat/completions".to_owned()),
        ("OPENAI_API_KEY", target.key()),
    ];
    Run { variables, ..Run::default() }
}

impl Run {
    /// As a person would type it into a shell; `secret` is not shown.
    pub(super) fn as_shell(&self, secret: Option<&str>) -> String {
        let hidden = |text: &str| match secret {
            Some(secret) => text.replace(secret, "***"),
            None => text.to_owned(),
        };
        let variables = self.variables.iter();
        let variables = variables.map(|(name, value)| format!("{name}={}", quoted(&hidden(value))));
        let args = self.args.iter().map(|arg| quoted(&hidden(arg)));
        let words: Vec<_> = variables.chain([self.program.to_owned()]).chain(args).collect();
        words.join(" ")
    }
}

/// A word of a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for (text, word) in
            [("a/b:c", "a/b:c"), ("", "''"), ("a b", "'a b'"), ("it's", "'it'\\''s'")]
        {
            assert_eq!(quoted(text), word);
        }
    }
}
