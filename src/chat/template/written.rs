//! Arguments of an earlier call: an object to templates that look into it, and the model's own text
//! to those that write it out, so that a conversation reads as it was written and its cached prefix
//! is found again.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, Value};

/// A JSON object with the text that it was read from.
#[derive(Debug)]
pub(super) struct Written {
    object: Value,
    text: String,
}

impl Written {
    /// `object` is what `text` says.
    pub(super) fn value(object: Value, text: String) -> Value {
        Value::from_object(Self { object, text })
    }

    /// The text that a value was read from, if it is known.
    pub(super) fn text(value: &Value) -> Option<&str> {
        value.downcast_object_ref::<Self>().map(|written| written.text.as_str())
    }
}

impl Object for Written {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.object.get_item(key).ok().filter(|value| !value.is_undefined())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let keys = self.object.try_iter();
        keys.map_or(Enumerator::Empty, |keys| Enumerator::Values(keys.collect()))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
