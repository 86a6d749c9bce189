//! How models write tool calls: one name a family.

/// How a model writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen; asked of models whose
    /// template has no form of its own.
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.
    QwenXml,
    /// As `QwenXml`, between `<seed:tool_call>` and its end.
    Seed,
    /// `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`.
    Glm,
    /// `<minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>…`.
    MiniMax,
    /// `<｜DSML｜tool_calls>`, and within as `MiniMax`: DeepSeek from V3.2 on.
    Dsml,
    /// `<|open|>call tool="NAME"<|sep|><|open|>argument key="KEY"<|sep|>VALUE<|close|>…`.
    KimiK3,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]` or `[TOOL_CALLS]NAME[ARGS]{…}`.
    Mistral,
    /// `{"name": …, "parameters": {…}}` as the whole answer, perhaps after `<|python_tag|>`.
    Llama,
    /// `[NAME(KEY=VALUE), …]` as the whole answer: Llama 4 and the small ones of 3.2.
    Pythonic,
    /// `<function=NAME>{…}</function>`.
    Functionary,
    /// `<｜tool▁call▁begin｜>…NAME…{…}<｜tool▁call▁end｜>`.
    DeepSeek,
    /// `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.
    Kimi,
    /// `<|tool_call:begin|>ID<|tool_call:name|>NAME<|tool_call:args|>{…}<|tool_call:end|>`.
    Solar,
    /// `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}`.
    Harmony,
    /// `<|tool_call>call:NAME{KEY:VALUE,…}<tool_call|>`, texts between `<|"|>`.
    Gemma,
    /// `<|tool_call_start|>[NAME(KEY=VALUE), …]<|tool_call_end|>`.
    Lfm,
    /// `<function_calls>`, a line `NAME(KEY=VALUE)` for each call, `</function_calls>`.
    Olmo,
    /// `<TOOLCALL>[{"name": …, "arguments": {…}}]</TOOLCALL>`.
    Nemotron,
    /// `<tool_calls>[{"name": …, "arguments": {…}}]</tool_calls>`: Apriel, Jamba.
    ToolCalls,
    /// `<|tool_call|>[{"name": …, "arguments": {…}}]`: Granite 3, Phi 4.
    Granite,
    /// `<|START_ACTION|>[{"tool_name": …, "parameters": {…}}]<|END_ACTION|>`.
    Cohere,
    /// `<|function_call|>{"name": …, "arguments": {…}}`.
    GigaChat,
    /// `<|action_start|><|plugin|>{"name": …, "parameters": {…}}<|action_end|>`.
    InternLm,
    /// `functools[{"name": …, "arguments": {…}}]`.
    Firefunction,
    /// `<|tools_prefix|>[{"NAME": {…}}]<|tools_suffix|>`.
    Apertus,
}
