"""Alignment by verifiable rewards: GRPO (Shao et al. 2024, arXiv:2402.03300) on tool calls, arithmetic and form.

    python -m tasks.align.grpo models/T/dpo models/T/chat metrics/grpo/T.json metrics/grpo/T.csv --track T

A step samples a group of outputs for each prompt from the engine that serves (rollout.py), a program judges them
(verify.py), and low-rank adapters learn from what was better than its group (policy.py, equation 3 with the clipped
ratio and the divergence from the model it started from). The adapters are merged into a plain `from_pretrained`
directory. Held-out prompts are answered greedily before and after; a run that is killed ends in the same bytes.
"""

from __future__ import annotations

import atexit
import csv
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import params, progress, stage
from tasks.align.settings import GrpoParams
from tasks.finetune import environment
from tasks.pretrain.checkpoint import fingerprint
from tasks.stage import Input, Output, StageError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from tasks.align.policy import Learned
    from tasks.align.prompts import Prompt

Row = dict[str, float]
COLUMNS = ("reward", "right", "loss", "divergence", "clipped", "taught", "tokens", "drift")
MAX_DRIFT = 0.05  # nats a token, mean of a step: more, and the engine samples another model than the one that learns


def grpo(tuned: Input, model: Output, metrics: Output, curve: Output, *, grpo: GrpoParams, seed: int,
         runtime: params.Runtime) -> None:
    """Align `tuned` into the model directory `model`; metrics, and the curve (a line a step: COLUMNS).

    Raises StageError: unusable input, prompts that leave no room, loss not finite, a gate missed.
    """
    started = time.monotonic()
    environment.prepare(runtime, environment.LONG_SPIN)
    import torch

    from tasks.align import prompts, rollout
    from tasks.finetune import checkpoint, lora

    llama = checkpoint.load_model(tuned)
    tokenizer = checkpoint.load_tokenizer(tuned, llama.config.vocab_size)
    steps = prompts.draw(grpo.prompts, grpo.steps, "train", seed + 2, grpo.systems, tokenizer)
    checked = prompts.draw(grpo.checked, 1, "held_out", seed + 2, grpo.systems, tokenizer)[0]
    longest = max(len(prompt.ids) for prompt in [*checked, *(prompt for step in steps for prompt in step)])
    if longest + grpo.tokens > llama.config.max_position_embeddings:
        raise StageError(f"grpo.tokens = {grpo.tokens} after a prompt of {longest} tokens is beyond the model's "
                         f"{llama.config.max_position_embeddings} positions: lower it")
    adapted = lora.adapt(llama, grpo.lora, [], seed)
    decode = tokenizer.decode

    def judged() -> list[Any]:
        said = rollout.outputs(tuned, adapted, checked, grpo.tokens, [rollout.GREEDY] * len(checked), runtime.threads)
        return [prompt.verdict(decode(output.ids)) for prompt, output in zip(checked, said, strict=True)]

    before = judged()
    values = {"params": grpo.model_dump(exclude={"min_gain"}), "seed": seed, "threads": runtime.threads}
    resume = Path(".resume/grpo") / fingerprint(values, sorted(file for file in tuned.rglob("*") if file.is_file()))
    rows = list(train(adapted, tuned, steps, grpo, tokenizer, seed, resume, runtime.threads))
    write_curve(curve, rows)
    after = judged()
    merged, error = lora.merge(adapted, torch.tensor([checked[0].ids]), grpo.lora.max_merge_error)
    checkpoint.save(merged, tokenizer, model)
    gain, kinds = gained(before, after), by_kind(checked, before, after)
    stage.write_json(metrics, {
        "steps": len(rows), "outputs": sum(map(len, steps)) * grpo.group, "tokens": sum(row["tokens"] for row in rows),
        "before": told(checked, before), "after": told(checked, after), "paired": changed(before, after),
        "gain": gain["gain"], "gain_low": gain["low"], "gain_high": gain["high"], "by_kind": kinds,
        "divergence": rows[-1]["divergence"], "drift": max(row["drift"] for row in rows), "merge_error": error,
        "limits": {"gain": grpo.min_gain, "drift": MAX_DRIFT, "merge_error": grpo.lora.max_merge_error}})
    stage.write_timing(f"grpo-{tuned.parent.name}", {"seconds": round(time.monotonic() - started, 1)})
    if gain["gain"] < grpo.min_gain:
        # the stage publishes nothing of a refused run
        shutil.copyfile(metrics, resume / "metrics.json")
        shutil.copyfile(curve, resume / "curve.csv")
        told_kinds = ", ".join(f"{kind} {each['gain']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f}, "
                               f"{each['n']} prompts)" for kind, each in kinds.items())
        raise StageError(f"the held-out prompts' mean reward changed by {gain['gain']:+.3f}, below grpo.min_gain = "
                         f"{grpo.min_gain}: {told_kinds}: train on more steps, lower grpo.learning_rate, or lower the "
                         f"gate; figures and weights of this run stay in {resume}")
    atexit.register(stage.remove, resume)  # once the stage has published what it made


def train(adapted: PeftModel, directory: Path, steps: list[list[Prompt]], grpo: GrpoParams, tokenizer: Any, seed: int,
          resume: Path, threads: int) -> Iterator[Row]:
    """Train the adapters in place; yields a row (COLUMNS) a step, those of an earlier, killed run first.

    Raises StageError where the loss is not finite or the engine samples another policy than the one that learns.
    """
    import torch

    from tasks.align import rollout
    from tasks.pretrain import model as models
    from tasks.pretrain.checkpoint import Checkpoints

    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=grpo.learning_rate, weight_decay=0.0)
    checkpoints = Checkpoints(resume)
    rows: list[Row] = []
    if found := checkpoints.latest(lambda line: print(line, file=sys.stderr)):
        folder, kept = found
        state = torch.load(folder / "state.pt", weights_only=True)
        adapted.load_state_dict(state["weights"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        rows = kept["rows"]
        print(f"resuming after step {len(rows)} of {len(steps)}", file=sys.stderr)
        yield from rows
    llama = adapted.get_base_model()
    stock = llama.config._attn_implementation
    models.use_products(llama)
    bar = progress.track(total=len(steps), what="grpo", unit="step")
    bar.update(len(rows))
    for step in range(len(rows), len(steps)):
        asked = [prompt for prompt in steps[step] for _ in range(grpo.group)]
        draws = [rollout.seeded(seed, step, *divmod(number, grpo.group)) for number in range(len(asked))]
        said = rollout.outputs(directory, adapted, asked, grpo.tokens, draws, threads)
        verdicts = [prompt.verdict(tokenizer.decode(output.ids)) for prompt, output in zip(asked, said, strict=True)]
        learned, sampled = taught(asked, said, [verdict.reward for verdict in verdicts], grpo.group)
        for group in optimizer.param_groups:
            group["lr"] = grpo.learning_rate * (1 - step / len(steps))
        found = improve(adapted, learned, sampled, optimizer, grpo, tokenizer.pad_token_id)
        if not abs(found["loss"]) < float("inf"):
            raise StageError(f"the loss is {found['loss']} at step {step}: lower grpo.learning_rate "
                             f"({grpo.learning_rate})")
        if found["drift"] > MAX_DRIFT:
            raise StageError(f"the engine's log-probabilities are {found['drift']:.3f} nats a token from the model's "
                             f"at step {step}, above {MAX_DRIFT}: it does not sample the policy that learns")
        rows.append({"reward": round(mean_reward(verdicts), 6),
                     "right": round(sum(verdict.right for verdict in verdicts) / len(verdicts), 6),
                     "taught": len(learned), "tokens": sum(len(output.ids) for output in said), **found})
        bar.update()
        if (step + 1) % grpo.keep_every == 0 or step + 1 == len(steps):
            partial = checkpoints.path(step + 1)
            partial.mkdir(parents=True, exist_ok=True)
            torch.save({"weights": {name: weight.detach() for name, weight in trained.items()},
                        "optimizer": optimizer.state_dict()}, partial / "state.pt")
            checkpoints.seal(step + 1, {"rows": rows})
        yield rows[-1]
    llama.set_attn_implementation(stock)
    bar.close()


def taught(asked: list[Prompt], said: list[Any], rewards: list[float], group: int
           ) -> tuple[list[Learned], list[list[float]]]:
    """(outputs of the groups that differ in reward, the engine's log-probabilities of their tokens), sorted by their
    prompt's length, a group together: the others have no advantage, and are left out of the divergence too."""
    from tasks.align.policy import Learned, advantages

    gains = [gain for start in range(0, len(rewards), group) for gain in advantages(rewards[start:start + group])]
    kept = [number for number, gain in enumerate(gains) if gain]
    kept.sort(key=lambda number: len(asked[number].ids))  # stable: policy.token_logprobs reads neighbours' prompt once
    return ([Learned(asked[number].ids, said[number].ids, gains[number]) for number in kept],
            [said[number].logprobs for number in kept])


def improve(adapted: PeftModel, learned: list[Learned], sampled: list[list[float]], optimizer: torch.optim.Optimizer,
            grpo: GrpoParams, pad: int) -> Row:
    """`grpo.passes` updates on one step's outputs; loss and clipped share of the last of them, the divergence from
    the reference before them, and how far (nats, mean of tokens) the engine's log-probabilities were from ours."""
    import torch

    from tasks.align import policy

    row = {"loss": 0.0, "divergence": 0.0, "clipped": 0.0, "drift": 0.0}
    if not learned:  # all groups right, or all wrong
        return row
    parts = [slice(start, start + grpo.batch) for start in range(0, len(learned), grpo.batch)]
    with torch.no_grad(), adapted.disable_adapter():
        reference = [policy.token_logprobs(adapted, learned[part], pad)[0] for part in parts]
    old: list[torch.Tensor] = []
    for number in range(grpo.passes):
        optimizer.zero_grad(set_to_none=True)
        total = dict.fromkeys(row, 0.0)
        for at, part in enumerate(parts):
            logprobs, mask = policy.token_logprobs(adapted, learned[part], pad)
            if not number:
                old.append(logprobs.detach())
                seen = torch.tensor([value for output in sampled[part] for value in output])
                total["drift"] += (old[at][mask] - seen).abs().sum().item()
            gain = torch.tensor([each.advantage for each in learned[part]])
            losses, divergence, clipped = policy.loss(logprobs, old[at], reference[at], gain, mask, grpo.clip,
                                                      grpo.beta)
            (losses.sum() / len(learned)).backward()
            for name, values in (("loss", losses), ("divergence", divergence), ("clipped", clipped)):
                total[name] += values.sum().item() / len(learned)
        torch.nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]],
                                       grpo.max_norm)
        optimizer.step()
        if not number:
            row |= {"divergence": round(total["divergence"], 6),
                    "drift": round(total["drift"] / sum(map(len, sampled)), 8)}
        row |= {"loss": total["loss"], "clipped": round(total["clipped"], 6)}
    return row


def mean_reward(verdicts: list[Any]) -> float:
    """Mean of the rewards."""
    return sum(verdict.reward for verdict in verdicts) / len(verdicts)


def told(prompts: list[Prompt], verdicts: list[Any]) -> dict[str, dict[str, float]]:
    """kind ("all" among them) -> shares valid, of the right tool and wholly right (with its 95 % interval, Wilson
    1927), the mean reward, how many."""
    from scipy.stats import binomtest

    found = {}
    for kind in dict.fromkeys(["all", *(prompt.kind for prompt in prompts)]):
        of = [verdict for prompt, verdict in zip(prompts, verdicts, strict=True) if kind in ("all", prompt.kind)]
        right = sum(verdict.right for verdict in of)
        bounds = binomtest(right, len(of)).proportion_ci(method="wilson")
        found[kind] = {"valid": round(sum(verdict.valid for verdict in of) / len(of), 6),
                       "tool": round(sum(verdict.tool for verdict in of) / len(of), 6),
                       "right": round(right / len(of), 6), "low": round(float(bounds.low), 6),
                       "high": round(float(bounds.high), 6), "reward": round(mean_reward(of), 6), "n": len(of)}
    return found


def gained(before: list[Any], after: list[Any]) -> dict[str, float]:
    """{gain, low, high, n}: the change of the mean reward, paired on the prompts, with its 95 % interval (Student)."""
    from scipy.stats import ttest_1samp

    changes = [new.reward - old.reward for old, new in zip(before, after, strict=True)]
    mean = sum(changes) / len(changes)
    bounds = ttest_1samp(changes, 0.0).confidence_interval() if len(set(changes)) > 1 else (mean, mean)
    return {"gain": round(mean, 6), "low": round(float(bounds[0]), 6), "high": round(float(bounds[1]), 6),
            "n": len(changes)}


def by_kind(prompts: list[Prompt], before: list[Any], after: list[Any]) -> dict[str, dict[str, float]]:
    """kind -> `gained` of its prompts."""
    found = {}
    for kind in dict.fromkeys(prompt.kind for prompt in prompts):
        of = [(old, new) for prompt, old, new in zip(prompts, before, after, strict=True) if prompt.kind == kind]
        found[kind] = gained([old for old, _ in of], [new for _, new in of])
    return found


def changed(before: list[Any], after: list[Any]) -> dict[str, float]:
    """How many held-out prompts became right, how many ceased to be, and the exact two-sided p of that (McNemar)."""
    from scipy.stats import binomtest

    gained = sum(new.right and not old.right for old, new in zip(before, after, strict=True))
    lost = sum(old.right and not new.right for old, new in zip(before, after, strict=True))
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p": round(p, 6)}


def write_curve(path: Path, rows: list[Row]) -> None:
    """The curve as csv: step, then COLUMNS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("step", *COLUMNS))
        writer.writerows((number, *(f"{row[name]:.6g}" for name in COLUMNS)) for number, row in enumerate(rows, 1))


if __name__ == "__main__":
    stage.run(grpo)
