"""A chat as the model reads it: the template that lies in the model directory, rendered as transformers renders it.

Rendered here with jinja2 alone, because loading transformers would take the server seconds and hundreds of megabytes;
tests/serve/test_template.py holds the two equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.serve.engine.directory import ModelError, read_json


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}`...`{% endgeneration %}` marks what is learnt in training; here its body is plain output."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """The compiled chat template of a model directory."""

    def __init__(self, directory: Path) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols])
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        tokenizer = directory / "tokenizer_config.json"
        config = read_json(tokenizer) if tokenizer.is_file() else {}
        file = directory / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if not isinstance(source, str):
            raise ModelError(f"{directory} has no chat template (chat_template.jinja)")
        self.tokens = {key: value for key in ("bos_token", "eos_token") if isinstance(value := config.get(key), str)}
        try:
            self.template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"{directory}: the chat template does not compile: {error}") from None

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        """The prompt that the assistant's next turn continues. Raises jinja2.TemplateError for what it refuses."""
        return self.template.render(messages=messages, tools=tools, add_generation_prompt=True, **self.tokens)
