"""Evaluation sets of the user's own, four lines each in params.yaml under `evaluate.custom`:

    hellaswag:
      data: evalsets/hellaswag_val.jsonl
      template: {prompt: "{{ctx}}", choices: endings, answer: label}
      metric: acc_norm
      dimension: reasoning

`prompt` is a Jinja text, `choices` and `answer` are Jinja expressions over a line's fields. Metrics: `acc` and
`acc_norm` (the likeliest choice, the latter by its length in characters), `exact_match` (the answer's text),
`regex PATTERN` and `regex_first PATTERN` (the last or the first match of the pattern in what the model writes, its
first group where it has one), `pass@K` (programs in HumanEval's form, run against their tests: programs.py). What is
asked, and how it is judged, is what lm-eval does with a task of the same parts: see evalsets/README.md.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, field_validator, model_validator

from tasks import params
from tasks.evaluate import programs
from tasks.stage import StageError

FOLDER = Path("evalsets")   # a dep of the stage: what lies elsewhere could change unseen
Dimension = Literal["language", "knowledge", "reasoning", "mathematics", "code", "long text", "tools", "safety"]
CHOICE = ("acc", "acc_norm")
MATCHES = {"regex": -1, "regex_first": 0}
SEED = 1234     # lm-eval's own for the examples before a question
Item = dict[str, Any]
environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
environment.filters["remove"] = lambda text, pattern: re.sub(pattern, "", str(text))


def in_folder(path: str) -> str:
    """`path`. Raises ValueError where it lies outside FOLDER."""
    if Path(path).parts[:1] != FOLDER.parts or ".." in Path(path).parts:
        raise ValueError(f"{path}: put the file, or a link to it, into {FOLDER}/, where the DAG sees a change of it")
    return path


class Shots(params.Section):
    """Solved examples before each question: other ones for each, drawn as lm-eval draws them."""

    count: int = Field(ge=1, le=64)
    data: str = Field(pattern=r"\.jsonl$")
    answer: str | None = Field(default=None, description="expression: what follows an example's prompt; null: what "
                                                         "template.answer gives")

    @field_validator("data")
    @classmethod
    def seen(cls, value: str) -> str:
        """Raises ValueError where the file lies elsewhere."""
        return in_folder(value)


class Template(params.Section):
    """How a line becomes a question."""

    prompt: str = Field(description="Jinja text")
    choices: str | None = Field(default=None, description="expression of a list of texts")
    then: str | None = Field(default=None, description="expression: the text after every choice, which alone is scored")
    answer: str = Field(min_length=1, description="expression: place or text of the right choice, or the answer")
    delimiter: str = Field(default=" ", description="between what is given and what is scored or written")
    shots: Shots | None = None
    ignore: list[str] = Field(default=[], description="patterns taken out of answer and target first")
    language: str = Field(default="en", min_length=2, description="as reported")
    until: list[str] | None = Field(default=None, description="what ends a written answer; null: a line, a function")
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

    @field_validator("choices", "answer", "then")
    @classmethod
    def compiles(cls, value: str | None) -> str | None:
        """Raises ValueError where the text is no expression."""
        try:
            environment.compile_expression(value or "0")
        except TemplateError as error:
            raise ValueError(f"it is no Jinja expression (write endings, not {{{{endings}}}}): {error}") from None
        return value

    @field_validator("ignore")
    @classmethod
    def patterns(cls, value: list[str]) -> list[str]:
        """Raises ValueError where one does not compile."""
        for pattern in value:
            compiled(pattern)
        return value


class CustomSet(params.Section):
    """One entry of evaluate.custom."""

    data: str = Field(pattern=r"\.jsonl$")
    template: Template
    metric: str = Field(pattern=r"(?s)^(acc|acc_norm|exact_match|pass@[1-9][0-9]*|regex(_first)? .+)$")
    dimension: Dimension
    items: int | None = Field(default=None, ge=2, description="how many, by the hash of the line; null: all")

    @property
    def k(self) -> int:
        """The k of pass@k, 0 where the metric is another."""
        return int(self.metric[5:]) if self.metric.startswith("pass@") else 0

    def until(self, default: list[str]) -> list[str]:
        """What ends a written answer."""
        return default if self.template.until is None else self.template.until

    @model_validator(mode="after")
    def fits(self) -> CustomSet:
        """Raises ValueError where the metric and the template do not go together, or the file lies elsewhere."""
        if (self.metric in CHOICE) != (self.template.choices is not None):
            raise ValueError(f"metric {self.metric}: " + ("template.choices is needed" if self.metric in CHOICE else
                             "template.choices is for acc and acc_norm; remove it"))
        if self.template.then is not None and self.metric != "acc":
            raise ValueError(f"metric {self.metric}: template.then goes with acc, where every choice is scored by the "
                             "same text")
        if self.k and self.template.shots is not None:
            raise ValueError(f"metric {self.metric}: template.shots does not go with programs; remove it")
        if self.metric.split(" ")[0] in MATCHES:
            compiled(self.metric.partition(" ")[2])
        in_folder(self.data)
        return self


def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression. Raises ValueError where it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} does not compile: {error}") from None


def read(name: str, given: CustomSet) -> list[Item]:
    """The set's items: id, prompt, language, and choices and gold (and then), or target and metric. Raises StageError
    naming the key, or the file and line, that is wrong."""
    key, shots = f"evaluate.custom.{name}", given.template.shots
    table = lines(given.data, f"{key}.data")
    draw, examples = random.Random(SEED), []
    if shots:
        examples = lines(shots.data, f"{key}.template.shots.data")
        if len(examples) <= shots.count:
            raise StageError(f"{key}.template.shots.count: {shots.count} examples before each question, but "
                             f"{shots.data} has {len(examples)} lines: it must have more")
    items = []
    for number, fields in enumerate(table, 1):
        found = item(f"{name}-{number:06d}", fields, given, f"{given.data}:{number}: {key}.template")
        if shots:
            same = shots.data == given.data     # a question is no example of itself
            drawn = draw.sample(range(len(examples)), shots.count + same)
            before = "".join(example(examples[at], given, f"{shots.data}:{at + 1}: {key}.template")
                             for at in [at for at in drawn if not same or examples[at] != fields][:shots.count])
            found |= ({"prompt": before + found["prompt"]} if given.template.then is None else
                      {"choices": [before + choice for choice in found["choices"]]})
        items.append(found)
    if twice := next((one for one, count in Counter(one["id"] for one in items).items() if count > 1), None):
        raise StageError(f"{given.data}: task_id {twice!r} stands in two lines; {key} needs one of each")
    return items


def lines(path: str, key: str) -> list[Any]:
    """What a file of JSON lines holds. Raises StageError where it cannot be read, is empty, or a line is no JSON."""
    try:
        whole = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{key}: {path} cannot be read ({stated(error)})") from None
    found = []
    for number, line in enumerate(whole, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise StageError(f"{path}:{number} is no JSON ({stated(error)}): {key} must be one object a line"
                             ) from None
    if not found:
        raise StageError(f"{key}: {path} has no items")
    return found


def example(fields: Any, given: CustomSet, where: str) -> str:
    """A line as a solved example, an empty line after it. Raises StageError beginning with `where`."""
    solved, template = item("", fields, given, where), given.template
    try:
        stated_answer = template.shots and template.shots.answer
        said = (expression(stated_answer, fields) if stated_answer else solved["then"] if "then" in solved
                else solved["choices"][solved["gold"]] if "choices" in solved else solved["target"])
    except Exception as error:      # what a user's expression may raise is anything
        raise StageError(f"{where}.shots.answer: {stated(error)}; the line has {', '.join(sorted(fields))}") from None
    asked = solved["choices"][solved["gold"]] if "then" in solved else solved["prompt"]
    return f"{asked}{template.delimiter}{said}\n\n"


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
        if given.k:
            part = "a problem of HumanEval's form"
            return programs.problem(fields | {"prompt": prompt, "canonical_solution": answer,
                                              "language": template.language})
        if template.choices is None:
            return found | {"target": str(answer).strip()}
        part = "choices"
        choices = [str(choice) for choice in expression(template.choices, fields)]
        if len(choices) < 2 or not all(choices):
            raise ValueError(f"{choices!r} where two texts or more should be")
        part = "answer"
        found |= {"choices": choices, "gold": place(answer, choices)}
        if template.then is not None:
            part = "then"
            found["then"] = str(expression(template.then, fields))
    except Exception as error:      # what a user's expression may raise is anything
        raise StageError(f"{where}.{part}: {stated(error)}; the line has {', '.join(sorted(fields))}") from None
    return found


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
              "target_delimiter": given.template.delimiter}
    if given.metric in CHOICE:
        common |= {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold",
                   "metric_list": [{"metric": given.metric}]}
        # an int as the text tells lm-eval that the choices are what is given, the target what is scored
        return common if given.template.then is None else common | {"doc_to_text": "gold", "doc_to_target": "then"}
    return common | {"output_type": "generate_until", "doc_to_target": "target",
                     "process_results": matcher(given.metric, given.template.ignore),
                     "generation_kwargs": {"do_sample": False, "until": given.until(["\n"]),
                                           "max_gen_toks": given.template.tokens},
                     "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}


def matcher(metric: str, ignore: list[str]) -> Any:
    """What judges a written answer: 1 where what is taken from it is the target; spaces around, commas between
    digits and what `ignore` matches do not count."""
    kind, _, pattern = metric.partition(" ")

    def judge(document: Item, results: list[str]) -> dict[str, int]:
        said = results[0]
        if kind in MATCHES:
            matches = list(re.finditer(pattern, said))
            found = matches[MATCHES[kind]] if matches else None
            said = "" if found is None else next((group for group in found.groups() if group), found[0])
        return {"exact_match": int(plain(said, ignore) == plain(document["target"], ignore))}

    return judge


def plain(text: str, ignore: list[str]) -> str:
    """A text as it is compared."""
    for pattern in ignore:
        text = re.sub(pattern, "", text)
    return re.sub(r"(?<=\d),(?=\d{3})", "", text.strip())
