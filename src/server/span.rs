//! How long an engine stays loaded, as requests say it: seconds, or a duration in Go's form.

use std::time::Duration;

use poem_openapi::registry::MetaSchema;
use serde::{Deserialize, Serialize};

use super::schema::wire_type;
use crate::{
    error::{Error, Result},
    registry::KeepAlive,
};

/// How long a model stays loaded: seconds, or a text such as `5m`; negative: for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected seconds or a duration such as \"5m\"")]
pub(crate) enum Span {
    Seconds(f64),
    Text(String),
}

wire_type!(Span, "duration", {
    let one_of = vec![f64::schema_ref(), String::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

impl Span {
    pub(crate) fn keep_alive(&self) -> Result<KeepAlive> {
        let seconds = match self {
            Self::Seconds(seconds) => Some(*seconds),
            Self::Text(text) => seconds(text),
        };
        let Some(seconds) = seconds.filter(|seconds| seconds.is_finite()) else {
            let text = "keep_alive: seconds or a duration such as 5m or 1h30m is required";
            return Err(Error::invalid("keep_alive", text));
        };
        if seconds < 0.0 {
            return Ok(KeepAlive::Forever);
        }
        // Beyond a century there is no difference.
        Ok(KeepAlive::After(Duration::from_secs_f64(seconds.min(3.2e9))))
    }
}

/// Go's durations: numbers with units, one after another; without a unit, seconds.
fn seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    if let Ok(seconds) = rest.parse::<f64>() {
        return Some(sign * seconds);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let units =
            [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        sum += number.parse::<f64>().ok()? * factor;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then_some(sign * sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let cases = [
            ("5m", Some(300.0)),
            ("1h30m", Some(5400.0)),
            ("500ms", Some(0.5)),
            ("1.5s", Some(1.5)),
            ("30", Some(30.0)),
            ("0", Some(0.0)),
            ("-1", Some(-1.0)),
            ("-1m", Some(-60.0)),
            ("", None),
            ("m", None),
            ("5 minutes", None),
            ("5x", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }
}
