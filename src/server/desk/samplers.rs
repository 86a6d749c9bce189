//! The order of samplers, by llama.cpp's names and letters.

use crate::{
    engine::sampling::{MAX_STAGES, Stage},
    error::Result,
    param::Place,
    server::schema::TextOr,
};

/// llama.cpp's name and letter of adaptive-p, which comes last wherever it stands.
const ADAPTIVE: (&str, &str) = ("adaptivep", "a");

/// llama.cpp's samplers with the letters of its short form.
const STAGES: &[(&str, char, Stage)] = &[
    ("penalties", 'e', Stage::Penalties),
    ("dry", 'd', Stage::Dry),
    ("topnsigma", 's', Stage::TopNSigma),
    ("topk", 'k', Stage::TopK),
    ("typp", 'y', Stage::TypicalP),
    ("typ", 'y', Stage::TypicalP),
    ("typicalp", 'y', Stage::TypicalP),
    ("topp", 'p', Stage::TopP),
    ("nucleus", 'p', Stage::TopP),
    ("minp", 'm', Stage::MinP),
    ("xtc", 'x', Stage::Xtc),
    ("temperature", 't', Stage::Temperature),
    ("temp", 't', Stage::Temperature),
];

/// The stages, and whether adaptive-p is among the samplers.
pub(super) fn stages(samplers: TextOr<String>, place: &Place) -> Result<(Vec<Stage>, bool)> {
    let (names, are_letters): (Vec<String>, bool) = match samplers {
        TextOr::Text(text) => (text.chars().take(MAX_STAGES + 1).map(String::from).collect(), true),
        TextOr::Items(names) => (names, false),
    };
    if names.len() > MAX_STAGES {
        return Err(place.error(format!("{} entries, limit {MAX_STAGES}", names.len())));
    }
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let adaptive = if are_letters { ADAPTIVE.1 } else { ADAPTIVE.0 };
    let is_adaptive = |name: &str| plain(name) == adaptive;
    let stage = |(i, name): (usize, &String)| {
        let plain = plain(name);
        let known = STAGES.iter().find(|(long, short, _)| {
            if are_letters { plain.starts_with(*short) } else { plain == *long }
        });
        known.map(|(_, _, stage)| *stage).ok_or_else(|| {
            let name: String = name.chars().take(32).collect();
            place.item(i).error(format!("there is no sampler {name:?}"))
        })
    };
    let others = names.iter().enumerate().filter(|(_, name)| !is_adaptive(name));
    let stages = others.map(stage).collect::<Result<_>>()?;
    Ok((stages, names.iter().any(|name| is_adaptive(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_have_names_and_letters() {
        use Stage::{Dry, MinP, Penalties, Temperature, TopK, TopNSigma, TopP, TypicalP, Xtc};
        let all = [Penalties, Dry, TopNSigma, TopK, TypicalP, TopP, MinP, Xtc, Temperature];
        let names =
            ["penalties", "dry", "top_n_sigma", "TOP-K", "typ_p", "topp", "min_p", "xtc", "temp"];
        let names = TextOr::Items(names.map(str::to_owned).to_vec());
        let place = Place {
            path: "samplers".to_owned(),
            tell: &|_| {},
            decides: |_| false,
            is_strict: false,
        };
        for samplers in [names, TextOr::Text("edskypmxt".to_owned())] {
            assert_eq!(stages(samplers, &place).expect("known"), (all.to_vec(), false));
        }
        let names = TextOr::Items(vec!["adaptive_p".to_owned(), "top_k".to_owned()]);
        for samplers in [names, TextOr::Text("ka".to_owned())] {
            assert_eq!(stages(samplers, &place).expect("known"), (vec![TopK], true));
        }
    }

    #[test]
    fn unknown_samplers_are_named() {
        let names = |names: &[&str]| TextOr::Items(names.iter().map(|&s| s.to_owned()).collect());
        let place = Place {
            path: "samplers".to_owned(),
            tell: &|_| {},
            decides: |_| false,
            is_strict: false,
        };
        let cases = [
            (names(&["top_k", "infill"]), "samplers[1]"),
            (TextOr::Text("kz".into()), "samplers[1]"),
            (names(&["dry"; 40]), "samplers"),
        ];
        for (samplers, param) in cases {
            let error = stages(samplers, &place).expect_err("refused");
            assert_eq!(error.param.as_deref(), Some(param));
        }
    }
}
