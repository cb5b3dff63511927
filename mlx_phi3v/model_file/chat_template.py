"""The chat template of a folder with a `model_file`: for tools that fill in one themselves, such as LM Studio.

It gives the ids of the training's prompt. The published template has a line break behind `<|end|>`, which is a token, and one
behind `<|assistant|>`, of which LM Studio's engine makes an unknown token; and it leaves `<s>` to others, which that engine
does not add.
"""

from __future__ import annotations

CHAT_TEMPLATE = """\
{{- '<s>' -}}{%- set image = namespace(number=0) -%}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] != 'text' -%}
{%- set image.number = image.number + 1 -%}
{{- ('' if loop.first else '\\n') + '<|image_' + image.number|string + '|>' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
