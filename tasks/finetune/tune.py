"""Fine-tune a chat model on given conversations: all its weights, adapters, or adapters on a 4-bit base.

    python -m tasks.finetune.tune JOB.json          (flows/adapt.py writes the job; `Job` says what stands in it)

Methods, loop, masks, resumption and merge are those of sft.py (method.py, training.py, masking.py).
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from tasks import params, stage
from tasks.finetune import environment
from tasks.finetune.settings import LoraParams, Method, TrainingParams
from tasks.stage import Input, Output, StageError

if TYPE_CHECKING:
    from tasks.finetune.conversations import Conversation

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGE = 2**16  # bytes of a tensor that is mapped on its own


class TuneParams(params.Section):
    """How a model is tuned on conversations that are given."""

    method: Method
    length: int = Field(ge=16, le=1_000_000, description="tokens of the longest conversation; longer ones are left out")
    checked: int = Field(ge=1, le=10_000, description="conversations kept from training to watch the loss on")
    checkpointing: bool = Field(description="recompute each layer in the backward pass instead of keeping it")
    lora: LoraParams
    training: TrainingParams


class Job(params.Section):
    """Where a run reads and writes, and its values; paths as text."""

    base: str
    conversations: str = Field(description="jsonl: messages, and tools where any are offered")
    model: str
    metrics: str
    resume: str = Field(description="where a killed run keeps what it goes on from")
    tune: TuneParams
    seed: int
    runtime: params.Runtime


def tune(base: Input, conversations: Input, model: Output, metrics: Output, *, tune: TuneParams, seed: int,
         resume: Path, runtime: params.Runtime) -> None:
    """Write the tuned model of `base` and what its training came to.

    Raises StageError: unusable base, a broken conversation, none that fits, loss not finite, a fold that changes what
    is computed.
    """
    started = time.monotonic()
    environment.prepare(runtime, environment.SHORT_SPIN)  # other work is likely beside it
    give_back()
    from tasks.finetune import checkpoint, masking, method, training
    from tasks.pretrain.best import Best

    config = checkpoint.config(base)
    tokenizer = checkpoint.load_tokenizer(base, config.vocab_size)
    length = min(tune.length, config.max_position_embeddings)
    given = read(conversations)
    examples, overlong = masking.fitting([masking.encode(each, tokenizer) for each in given], length)
    if len(examples) <= tune.checked:
        raise StageError(f"{len(examples)} of {len(given)} conversations have at most {length} tokens, {tune.checked} "
                         "of them are kept to check: give more, or raise `length`")
    checked, learned = examples[:tune.checked], examples[tune.checked:]
    adapted = method.prepared(base, tune.method, tune.lora, [], tune.checkpointing, seed)
    before = training.checked_loss(adapted, checked, tokenizer.pad_token_id)
    best = Best(tune.training.patience or None)
    points = list(training.train(adapted, learned, tune.training, tokenizer.pad_token_id, seed, resume, checked, best))
    seen = [each for step in training.batches(learned, tune.training, seed)[:len(points)] for each in step]
    after = training.checked_loss(adapted, checked, tokenizer.pad_token_id)
    peak = peak_memory()
    longest = sorted(map(len, (example.ids for example in learned)))[-1]
    probe, _ = masking.batch(checked[:2], tokenizer.pad_token_id)
    merged, moved = method.merged(adapted, base, tune.method, tune.lora, probe)
    if tune.method == "qlora":  # what is written stands on other weights than those it was trained on
        moved["loss_merged"] = training.checked_loss(merged, checked, tokenizer.pad_token_id)
    checkpoint.save(merged, tokenizer, model)
    stage.write_json(metrics, {
        "method": tune.method, "conversations": len(given), "overlong": overlong, "steps": len(points),
        "tokens": sum(len(each.ids) for each in seen), "longest": longest,
        "learned_tokens": sum(sum(each.learned) for each in seen),
        "loss_before": before, "loss_after": after, **moved, **training.ending(best, len(points)), "peak_bytes": peak,
        "curve": [round(loss, 6) for _, _, loss in points], "seconds": round(time.monotonic() - started, 1)})
    stage.remove(resume)


def read(path: Path) -> list[Conversation]:
    """Conversations of a jsonl file of OpenAI messages. Raises StageError naming file and line of a broken one."""
    from tasks.finetune import given

    return given.read(path, "openai", 0, "given")[0]


def give_back() -> None:
    """Map every large tensor on its own, so that it leaves this process when it is freed; elsewhere nothing happens.

    Here memory is budgeted. tasks/memory.py keeps what is freed, which is quicker, but leaves holes: the peak was a
    quarter to two thirds above what was alive (docs/LOG.md).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 2**20)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(M_TRIM_THRESHOLD, LARGE)


def peak_memory() -> int:
    """The largest resident memory of this process so far, bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Run the job in the file named on the command line. Exit codes: 0 done, 1 it failed, 2 no job."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if len(sys.argv) == 2 else 2
    stage.die_with_parent()
    try:
        job = Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        return stage.fail(2, f"{sys.argv[1]} is no job: {stage.one_line(error)[:300]}")
    try:
        stage.execute(tune, {
            "base": ("input", Path(job.base)), "conversations": ("input", Path(job.conversations)),
            "model": ("output", Path(job.model)), "metrics": ("output", Path(job.metrics))},
            {"tune": job.tune, "seed": job.seed, "resume": Path(job.resume), "runtime": job.runtime})
    except StageError as error:
        return stage.fail(1, str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
