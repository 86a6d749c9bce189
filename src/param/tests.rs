//! Parameters as senders write them.

use std::cell::RefCell;

use serde_json::json;

use super::*;

#[derive(Debug, Default, PartialEq)]
struct Target {
    heat: f64,
    limit: Option<i64>,
    words: Vec<String>,
}

type Row = Param<Target>;

const LIMIT: Row = Row::integer("limit", "", (1, 9), |target: &mut Target, x| {
    target.limit = Some(x).filter(|x| *x > 0);
})
.unbounded();
const HEAT: Row = Row::number("heat", "", (0.0, 2.0), |target: &mut Target, x| target.heat = x)
    .defaulting(Scalar::Number(0.8));
const PARAMS: &[Row] = &[
    LIMIT,
    LIMIT.named("most"),
    Row::new(
        "words",
        "",
        Kind::Texts {
            max: 2,
            chars: (1, 3),
            or_one: true,
            set: |target: &mut Target, texts| target.words = texts,
        },
    ),
    Row::new("options", "", Kind::Table { title: "Options", params: &[HEAT] }),
];

fn reading(body: Value) -> (Result<Target>, Vec<String>) {
    let Value::Object(mut fields) = body else { panic!("an object") };
    let told = RefCell::new(Vec::new());
    let tell = |what| told.borrow_mut().push(what);
    let decides = |name: &str| name == "grammar";
    let place = Place { path: String::new(), tell: &tell, decides, is_strict: false };
    let mut target = Target::default();
    let read = read(PARAMS, &mut fields, &mut target, &place).map(|_| target);
    (read, told.into_inner())
}

#[test]
fn what_is_said_is_set_and_what_is_not_has_its_default() {
    let cases = [
        (json!({}), Target { heat: 0.8, ..Target::default() }),
        (json!({"options": null}), Target { heat: 0.8, ..Target::default() }),
        (json!({"options": {}}), Target { heat: 0.8, ..Target::default() }),
        (json!({"options": {"heat": 0}}), Target::default()),
        (json!({"limit": 4.0}), Target { heat: 0.8, limit: Some(4), ..Target::default() }),
        (json!({"limit": -1}), Target { heat: 0.8, ..Target::default() }),
        (json!({"limit": 4, "most": 4}), Target { heat: 0.8, limit: Some(4), ..Target::default() }),
        (
            json!({"words": "a"}),
            Target { heat: 0.8, words: vec!["a".to_owned()], ..Target::default() },
        ),
    ];
    for (body, expected) in cases {
        let shown = body.to_string();
        let (target, told) = reading(body);
        assert_eq!((target, told), (Ok(expected), Vec::new()), "{shown}");
    }
}

#[test]
fn errors_name_what_the_sender_wrote() {
    let cases = [
        (json!({"limit": 0}), "limit"),
        (json!({"limit": -2}), "limit"),
        (json!({"most": 10}), "most"),
        (json!({"limit": 1.5}), "limit"),
        (json!({"limit": "4"}), "limit"),
        (json!({"limit": 4, "most": 5}), "most"),
        (json!({"words": ["a", ""]}), "words[1]"),
        (json!({"words": ["a", "b", "c"]}), "words"),
        (json!({"words": "abcd"}), "words"),
        (json!({"options": 5}), "options"),
        (json!({"options": {"heat": 3}}), "options.heat"),
        (json!({"options": {"heats": 1}}), "options.heats"),
        (json!({"options": {"grammar": "x"}}), "options.grammar"),
    ];
    for (body, param) in cases {
        let shown = body.to_string();
        let error = reading(body).0.expect_err(&shown);
        assert_eq!(error.param.as_deref(), Some(param), "{shown}");
    }
    let (target, told) = reading(json!({"options": {"unheard_of": 1}}));
    assert!(target.is_ok() && told == ["options.unheard_of"], "{told:?}");
}
