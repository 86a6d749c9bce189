//! Templates for model files that have none.

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
