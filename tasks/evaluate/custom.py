"""Evaluation sets of the user's own, four lines each in params.yaml under `evaluate.custom`:

    hellaswag:
      data: evalsets/hellaswag_val.jsonl
      template: {prompt: "{{ctx}}", choices: endings, answer: label}
      metric: acc_norm
      dimension: reasoning

`prompt` is a Jinja text, `choices` and `answer` are Jinja expressions over a line's fields. Metrics: `acc` and
`acc_norm` (the likeliest choice, the latter by its length in characters), `exact_match` (the answer's text),
`regex PATTERN` (the last match of the pattern in what the model writes, its first group where it has one).
See evalsets/README.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, field_validator, model_validator

from tasks import params
from tasks.stage import StageError

FOLDER = Path("evalsets")   # a dep of the stage: what lies elsewhere could change unseen
Dimension = Literal["language", "knowledge", "reasoning", "mathematics", "code", "long text", "tools", "safety"]
CHOICE = ("acc", "acc_norm")
Item = dict[str, Any]
environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


class Template(params.Section):
    """How a line becomes a question."""

    prompt: str = Field(description="Jinja text")
    choices: str | None = Field(default=None, description="expression of a list of texts")
    answer: str = Field(min_length=1, description="expression: place or text of the right choice, or the answer")
    language: str = Field(default="en", min_length=2, description="as reported")
    until: list[str] = Field(default=["\n"], description="what ends a written answer")
    tokens: int = Field(default=128, ge=1, le=2048, description="of a written answer at most")

    @field_validator("prompt")
    @classmethod
    def parses(cls, value: str) -> str:
        """Raises ValueError where the text is no template."""
        try:
            environment.from_string(value)
        except TemplateError as error:
            raise ValueError(f"it is no Jinja template: {error}") from None
        return value

    @field_validator("choices", "answer")
    @classmethod
    def compiles(cls, value: str | None) -> str | None:
        """Raises ValueError where the text is no expression."""
        try:
            environment.compile_expression(value or "0")
        except TemplateError as error:
            raise ValueError(f"it is no Jinja expression (write endings, not {{{{endings}}}}): {error}") from None
        return value


class CustomSet(params.Section):
    """One entry of evaluate.custom."""

    data: str = Field(pattern=r"\.jsonl$")
    template: Template
    metric: str = Field(pattern=r"(?s)^(acc|acc_norm|exact_match|regex .+)$")
    dimension: Dimension
    items: int | None = Field(default=None, ge=2, description="how many, by the hash of the line; null: all")

    @model_validator(mode="after")
    def fits(self) -> CustomSet:
        """Raises ValueError where the metric and the template do not go together, or the file lies elsewhere."""
        if (self.metric in CHOICE) != (self.template.choices is not None):
            raise ValueError(f"metric {self.metric}: " + ("template.choices is needed" if self.metric in CHOICE else
                             "template.choices is for acc and acc_norm; remove it"))
        if self.metric.startswith("regex "):
            try:
                re.compile(self.metric[6:])
            except re.error as error:
                raise ValueError(f"metric {self.metric}: the pattern does not compile: {error}") from None
        if Path(self.data).parts[:1] != FOLDER.parts or ".." in Path(self.data).parts:
            raise ValueError(f"data {self.data}: put the file, or a link to it, into {FOLDER}/, where the DAG sees a "
                             "change of it")
        return self


def read(name: str, given: CustomSet) -> list[Item]:
    """The set's items: id, prompt, language, and choices and gold, or target and metric. Raises StageError naming the
    key, or the file and line, that is wrong."""
    key, path = f"evaluate.custom.{name}", Path(given.data)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{key}.data: {path} cannot be read ({stated(error)})") from None
    items = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise StageError(f"{path}:{number} is no JSON ({stated(error)}): {key}.data must be one object a line"
                             ) from None
        items.append(item(f"{name}-{number:06d}", fields, given, f"{path}:{number}: {key}.template"))
    if not items:
        raise StageError(f"{key}.data: {path} has no items")
    return items


def item(identity: str, fields: Any, given: CustomSet, where: str) -> Item:
    """One line as a question. Raises StageError beginning with `where`."""
    if not isinstance(fields, dict):
        raise StageError(f"{where}: the line is no object of fields")
    template, part = given.template, "prompt"
    try:
        prompt = environment.from_string(template.prompt).render(fields)
        part = "answer"
        answer = expression(template.answer, fields)
        found: Item = {"id": identity, "prompt": prompt, "language": template.language}
        if template.choices is None:
            return found | {"target": str(answer).strip()}
        part = "choices"
        choices = [str(choice) for choice in expression(template.choices, fields)]
        if len(choices) < 2 or not all(choices):
            raise ValueError(f"{choices!r} where two texts or more should be")
        part = "answer"
        gold = place(answer, choices)
    except Exception as error:      # what a user's expression may raise is anything
        raise StageError(f"{where}.{part}: {stated(error)}; the line has {', '.join(sorted(fields))}") from None
    spaced = [choice if not prompt or choice[0].isspace() or prompt[-1].isspace() else f" {choice}"
              for choice in choices]
    return found | {"choices": spaced, "gold": gold}


def expression(text: str, fields: Item) -> Any:
    """The value of an expression. Raises what it raises; a field that is not there is an error, not None."""
    value = environment.compile_expression(text, undefined_to_none=False)(**fields)
    str(value)              # an undefined value tells its name
    return value


def place(answer: Any, choices: list[str]) -> int:
    """Which choice is right: a place from 0 on, one of the texts, or a letter from A on. Raises ValueError."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        at = answer
    elif str(answer) in choices:
        at = choices.index(str(answer))
    elif str(answer).isdigit():
        at = int(answer)
    elif len(str(answer)) == 1 and str(answer).isalpha():
        at = ord(str(answer).upper()) - ord("A")
    else:
        at = -1
    if not 0 <= at < len(choices):
        raise ValueError(f"{answer!r} is no place 0 to {len(choices) - 1}, no choice and no letter of one")
    return at


def stated(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def task(given: CustomSet) -> dict[str, Any]:
    """The set's lm-eval task, but for its name and data."""
    common = {"dataset_path": "json", "test_split": "test", "doc_to_text": "prompt", "num_fewshot": 0,
              "target_delimiter": ""}
    if given.metric in CHOICE:
        return common | {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold",
                         "metric_list": [{"metric": given.metric}]}
    return common | {"output_type": "generate_until", "doc_to_target": "target",
                     "process_results": matcher(given.metric),
                     "generation_kwargs": {"do_sample": False, "until": given.template.until,
                                           "max_gen_toks": given.template.tokens},
                     "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}


def matcher(metric: str) -> Any:
    """What judges a written answer: 1 where what is taken from it is the target, spaces around and commas between
    digits aside."""
    pattern = re.compile(metric[6:]) if metric.startswith("regex ") else None

    def judge(document: Item, results: list[str]) -> dict[str, int]:
        said = results[0]
        if pattern is not None:
            matches = list(pattern.finditer(said))
            said = (matches[-1][1 if pattern.groups else 0] or "") if matches else ""
        return {"exact_match": int(plain(said) == plain(document["target"]))}

    return judge


def plain(text: str) -> str:
    """A text as it is compared."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", text.strip())
