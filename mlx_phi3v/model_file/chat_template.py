"""The chat template of a folder with a `model_file`: for tools that fill in one themselves, such as LM Studio.

It gives the ids of the training's prompt. The published template has a line break behind `<|end|>`, which is a token, and one
behind `<|assistant|>`, of which LM Studio's engine makes an unknown token; and it leaves `<s>` to others, which that engine
does not add. Text stays text, as `task.defused` keeps it, with two differences: `<|` is replaced also where no `|>` follows,
and image tags stay in what a user's message has as one text, where tools put them.
"""

from __future__ import annotations

_BEGINS = "{{- '<s>' -}}{%- set image = namespace(number=0) -%}\n"  # so did every version

CHAT_TEMPLATE = (
    _BEGINS
    + """\
{%- macro defused(text) -%}
{{- text|replace('<|', '‹|')|replace('<s>', '‹s>')|replace('</s>', '‹/s>')|replace('<unk>', '‹unk>') -}}
{%- endmacro -%}
{%- for message in messages -%}
{%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
{%- if role not in ['user', 'assistant', 'system'] -%}
{{- raise_exception('the role of a message must be user, assistant or system') -}}
{%- endif -%}
{{- '<|' + role + '|>\\n' -}}
{%- if message['content'] is string and role == 'user' -%}
{{- defused(message['content'])|replace('‹|image_', '<|image_') -}}
{%- elif message['content'] is string -%}
{{- defused(message['content']) -}}
{%- else -%}
{%- for part in message['content'] if part['type'] != 'text' -%}
{%- set image.number = image.number + 1 -%}
{{- ('' if loop.first else '\\n') + '<|image_' + image.number|string + '|>' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- defused(part['text']) -}}{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
)


def is_ours(template: object) -> bool:
    """Whether a folder's chat template is `CHAT_TEMPLATE`, of this version or an earlier one."""
    return isinstance(template, str) and template.startswith(_BEGINS)
