//! How an engine treats texts where a request says nothing: whoever registers it may know better than
//! the model's file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::SamplingDefaults;
use super::conversation::{Message, Role};

/// What holds where a request says nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextDefaults {
    /// A chat template in place of the model's own, in Jinja's language.
    pub template: Option<String>,
    /// Variables of the template.
    pub kwargs: Map<String, Value>,
    /// System message of conversations that begin without one.
    pub system: Option<String>,
    /// How tokens are chosen; comes before what the model's makers advise.
    pub sampling: SamplingDefaults,
    /// Texts that end an answer.
    pub stop: Vec<String>,
}

impl TextDefaults {
    /// Turns reasoning off, by the names that templates have for it.
    #[must_use]
    pub fn without_reasoning(mut self) -> Self {
        for name in ["enable_thinking", "thinking"] {
            self.kwargs.entry(name).or_insert(Value::Bool(false));
        }
        self
    }

    /// Whether conversations are rendered as they come.
    pub(super) fn change_nothing(&self) -> bool {
        self.kwargs.is_empty() && self.system.is_none()
    }

    /// Puts what holds into a conversation that does not say otherwise.
    pub(super) fn complete(&self, messages: &mut Vec<Message>, kwargs: &mut Map<String, Value>) {
        let begins_with_system = messages.first().is_some_and(|first| first.role == Role::System);
        if let Some(system) = self.system.as_ref().filter(|_| !begins_with_system) {
            messages.insert(0, Message::text(Role::System, system));
        }
        for (name, value) in &self.kwargs {
            kwargs.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}
