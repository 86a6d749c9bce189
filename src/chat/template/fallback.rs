//! Templates that come with the program: for model files that have none, and to be named.

/// The turns of ChatML, which many models were trained on.
pub(super) const CHATML: &str = "\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Turns that base models understand too.
pub(super) const PLAIN: &str = "\
{%- for message in messages %}
{%- if message.role == 'user' %}{{ 'User: ' }}
{%- elif message.role == 'assistant' %}{{ 'Assistant: ' }}
{%- elif message.role == 'tool' %}{{ 'Tool: ' }}
{%- endif %}
{{- (message.content or '') + '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/// The turns of Llama 3.
const LLAMA3: &str = "\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + (message.content or '') | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/// The turns of Gemma: a system message stands at the beginning of the first user's.
const GEMMA: &str = "\
{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- for message in messages if message.role != 'system' %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}
{%- if loop.first and system %}{{ system + '\\n\\n' }}{% endif %}
{{- (message.content or '') | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";

/// The turns of Mistral's first models: a system message stands at the beginning of the first user's.
const MISTRAL: &str = "\
{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- for message in messages if message.role != 'system' %}
{%- if message.role == 'assistant' %}{{ ' ' + (message.content or '') + eos_token }}
{%- else %}{{ '[INST] ' + (system + '\\n\\n' if loop.first and system else '') + (message.content or '') + ' [/INST]' }}
{%- endif %}
{%- endfor %}";

/// Templates by their names.
const BUILTIN: [(&str, &str); 5] = [
    ("chatml", CHATML),
    ("plain", PLAIN),
    ("llama3", LLAMA3),
    ("gemma", GEMMA),
    ("mistral", MISTRAL),
];

/// The text of a template that comes with the program: `chatml`, `plain`, `llama3`, `gemma`, `mistral`.
#[must_use]
pub fn builtin(name: &str) -> Option<&'static str> {
    BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, source)| *source)
}
