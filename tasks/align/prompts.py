"""Prompts whose outputs a program can judge, from the exercises that fine-tuning's own questions come from.

The split of an exercise is a hash of its call (tasks/exercises.py), so no call that evaluation asks is ever trained on,
and the phrasings that are kept for evaluation are never shown in training.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks import exercises
from tasks.align import verify
from tasks.align.settings import MixParams
from tasks.align.verify import Verdict
from tasks.exercises import Exercise
from tasks.stage import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """What is asked (`ids`: rendered to where the assistant begins) and the exercise that its output is judged by."""

    kind: str
    exercise: Exercise
    ids: tuple[int, ...]

    def verdict(self, text: str) -> Verdict:
        """Judge an output, `<|im_end|>` included where it ended itself."""
        return (verify.answer if self.kind == "answers" else verify.call)(text, self.exercise)


def draw(mix: MixParams, times: int, split: exercises.Split, seed: int, systems: list[str],
         tokenizer: PreTrainedTokenizerBase) -> list[list[Prompt]]:
    """`times` lists of the prompts of `mix`, all different exercises of `split`. Raises StageError where the closed
    world of the exercises holds fewer."""
    choose = random.Random(f"alignment {split} {seed}")
    # twice as many calls where results are asked after: those of no known result cannot be
    answered = [family for family in exercises.CALLS if family != "search"]
    try:
        asked = {"calls": exercises.tool_calls(times * mix.calls, split, seed),
                 "arithmetic": exercises.arithmetic(times * mix.arithmetic, split, seed),
                 "answers": exercises.tool_calls(times * mix.answers // 2, split, seed + 1, answered)
                 + exercises.arithmetic(times * mix.answers - times * mix.answers // 2, split, seed + 1)}
    except ValueError as error:
        raise StageError(f"grpo.prompts or grpo.checked: {error}") from None
    choose.shuffle(asked["answers"])
    made = {kind: [Prompt(kind, exercise, render(kind, exercise, choose.choice(systems), tokenizer))
                   for exercise in of] for kind, of in asked.items()}
    return [[prompt for kind, of in made.items() for prompt in part(of, step, times)] for step in range(times)]


def part(prompts: list[Prompt], step: int, steps: int) -> list[Prompt]:
    """A step's share of `prompts`, as many for every step."""
    size = len(prompts) // steps
    return prompts[step * size:(step + 1) * size]


def render(kind: str, exercise: Exercise, system: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids of the conversation up to the turn that is judged."""
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": exercise.question})
    if kind == "answers":
        function = {"name": exercise.tool, "arguments": exercise.arguments}
        turns += [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
                  {"role": "tool", "content": exercise.result}]
    text = tokenizer.apply_chat_template(turns, tools=exercises.schemas(exercise.tools), tokenize=False,
                                         add_generation_prompt=True)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
