//! chat.
pub mod generation;
pub struct Tokenizer;
impl Tokenizer {
    pub fn vocab_size(&self) -> usize {
        1000
    }
}
pub struct TextModel {
    pub tokenizer: std::sync::Arc<Tokenizer>,
}
#[derive(Clone, Debug, Default)]
pub struct ChatInput {
    pub messages: Vec<serde_json::Value>,
    pub tools: Option<serde_json::Value>,
    pub add_generation_prompt: bool,
    pub continue_final_message: bool,
    pub kwargs: serde_json::Map<String, serde_json::Value>,
}
