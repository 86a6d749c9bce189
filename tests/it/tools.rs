//! Tool calls as the templates of real models write them, read back.

use std::fs;
use std::path::Path;

use kolosal_server::chat::{AnswerPart, Ending, ToolFormat, ToolParser};
use serde_json::{Value, json};

/// Templates that write no calls, or refuse the conversation.
const WITHOUT_CALLS: &[&str] = &[
    "Kimi-K2-Instruct",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "fireworks-ai-llama-3-firefunction-v2",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-deepseek-r1",
];

#[test]
fn calls_of_real_templates_are_read_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates");
    let (mut wrong, mut num_read) = (Vec::new(), 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "json")
            || WITHOUT_CALLS.contains(&name.as_str())
        {
            continue;
        }
        let fixture: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let format = ToolFormat::detect(fixture["template"].as_str().unwrap());
        let cases = fixture["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == "tool_result").unwrap();
        let (_, answer) = case["expected"].as_str().unwrap().rsplit_once("Paris?").unwrap();
        // What templates write before an answer that is a call.
        let answer = match format {
            ToolFormat::Llama => &answer[answer.find("{\"name\"").unwrap()..],
            _ => answer,
        };
        let mut parser = ToolParser::new(format, case["tools"].clone());
        let mut calls = Vec::new();
        for part in parser.push(answer).into_iter().chain(parser.flush(Ending::Whole)) {
            if let AnswerPart::Call(delta) = part {
                delta.add_to(&mut calls);
            }
        }
        let call = calls.first().map(|call| (call.name.as_str(), call.arguments.as_str()));
        let arguments = call.map(|(_, arguments)| serde_json::from_str::<Value>(arguments));
        let wanted = json!({"city": "Paris", "unit": "celsius", "days": 2});
        if call.is_none_or(|(name, _)| name != "get_weather")
            || !arguments.is_some_and(|arguments| arguments.is_ok_and(|found| found == wanted))
        {
            wrong.push(format!("{name} ({format:?}): {call:?} of {answer}"));
        }
        num_read += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(num_read > 25, "{num_read} templates");
}
