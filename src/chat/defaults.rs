//! How tokens are chosen where a request does not say it: as the model's makers advise, else as the
//! dialect documents, else as this program does everywhere.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::Sampling;
use crate::model::gguf::Metadata;

/// Values of the commonest sampling parameters; `None`: nothing is said of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingDefaults {
    /// 0 to 2.
    pub temperature: Option<f32>,
    /// 0 to 1.
    pub top_p: Option<f32>,
    /// 0: off.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// 0.01 to 100; 1: off.
    pub repetition_penalty: Option<f32>,
}

/// As GGUF files call them, and as `generation_config.json` does.
const NAMES: [(&str, &str); 5] = [
    ("temp", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("penalty_repeat", "repetition_penalty"),
];
/// What GGUF files may advise beyond that.
const UNHEEDED: [&str; 7] = [
    "sequence",
    "xtc_probability",
    "xtc_threshold",
    "penalty_last_n",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
];

impl SamplingDefaults {
    /// What this program does where neither a request nor the model nor the dialect says anything.
    pub const OURS: Self = Self {
        temperature: Some(0.7),
        top_p: Some(0.9),
        top_k: None,
        min_p: None,
        repetition_penalty: None,
    };

    /// The keys `general.sampling.*` of a GGUF file. What is out of bounds says nothing.
    #[must_use]
    pub fn from_gguf(metadata: &Metadata) -> Self {
        Self::read(|(name, _)| {
            let key = format!("general.sampling.{name}");
            let float = metadata.f32(&key).ok().flatten().map(f64::from);
            float.or_else(|| metadata.i64(&key).ok().flatten().map(|x| x as f64))
        })
    }

    /// Keys of a GGUF file that advise what is not heeded.
    #[must_use]
    pub fn unheeded(metadata: &Metadata) -> Vec<String> {
        let keys = UNHEEDED.iter().map(|name| format!("general.sampling.{name}"));
        keys.filter(|key| metadata.get(key).is_some()).collect()
    }

    /// A `generation_config.json`. What is out of bounds says nothing, nor does a model that is to
    /// choose the likeliest token always, which is what these files say by default.
    #[must_use]
    pub fn from_generation_config(config: &Value) -> Self {
        if config["do_sample"] == false {
            return Self::default();
        }
        Self::read(|(_, name)| config[name].as_f64())
    }

    fn read(value: impl Fn((&'static str, &'static str)) -> Option<f64>) -> Self {
        let [temperature, top_p, top_k, min_p, repetition_penalty] = NAMES.map(value);
        let within = |value: Option<f64>, min: f64, max: f64| {
            value.filter(|x| (min..=max).contains(x)).map(|x| x as f32)
        };
        Self {
            temperature: within(temperature, 0.0, 2.0),
            top_p: within(top_p, 0.0, 1.0).filter(|x| *x > 0.0),
            top_k: top_k.filter(|x| (-1.0..=f64::from(u32::MAX)).contains(x)).map(|x| x as u32),
            min_p: within(min_p, 0.0, 1.0),
            repetition_penalty: within(repetition_penalty, 0.01, 100.0),
        }
    }

    /// What is said here, and else there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            temperature: self.temperature.or(other.temperature),
            top_p: self.top_p.or(other.top_p),
            top_k: self.top_k.or(other.top_k),
            min_p: self.min_p.or(other.min_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
        }
    }

    /// Puts what is said into parameters.
    pub fn put_into(self, sampling: &mut Sampling) {
        let Self { temperature, top_p, top_k, min_p, repetition_penalty } = self;
        sampling.temperature = temperature.unwrap_or(sampling.temperature);
        sampling.top_p = top_p.unwrap_or(sampling.top_p);
        sampling.top_k = top_k.unwrap_or(sampling.top_k);
        sampling.min_p = min_p.unwrap_or(sampling.min_p);
        sampling.repetition_penalty = repetition_penalty.unwrap_or(sampling.repetition_penalty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_say_what_is_within_bounds() {
        let config = serde_json::json!({
            "temperature": 0.6, "top_p": 3, "top_k": 20, "min_p": 0, "repetition_penalty": "x",
        });
        let said = SamplingDefaults::from_generation_config(&config);
        let expected = SamplingDefaults {
            temperature: Some(0.6),
            top_k: Some(20),
            min_p: Some(0.0),
            ..SamplingDefaults::default()
        };
        assert_eq!(said, expected);
        assert_eq!(said.or(SamplingDefaults::OURS).top_p, Some(0.9));
        let greedy = serde_json::json!({"do_sample": false, "temperature": 1.0});
        assert_eq!(SamplingDefaults::from_generation_config(&greedy), SamplingDefaults::default());
    }
}
