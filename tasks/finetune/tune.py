"""Fine-tune a chat model on given conversations: all its weights, adapters, or adapters on a 4-bit base.

    python -m tasks.finetune.tune JOB.json          (flows/adapt.py writes the job; `Job` says what stands in it)

`full` trains every weight by AdamW; `lora` freezes them and trains low-rank adapters (lora.py); `qlora` does that over
a base in 4-bit NormalFloat (Dettmers et al. 2023, arXiv:2305.14314; bitsandbytes, CPU or GPU). The loop, masks and
resumption are those of sft.py. Adapters are folded into the base's own full-precision weights a tensor at a time, so
that what comes out is always a plain `from_pretrained` directory and folding never needs more than the weights once.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tasks import params, stage
from tasks.finetune import environment
from tasks.finetune.settings import LoraParams, TrainingParams
from tasks.stage import Input, Output, StageError

Kind = Literal["full", "lora", "qlora"]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGE = 2**16  # bytes of a tensor that is mapped on its own


class TuneParams(params.Section):
    """How a model is tuned on conversations that are given."""

    method: Kind
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
    from tasks.finetune import checkpoint, masking, training

    adapted = prepared(base, tune.method, tune.lora, tune.checkpointing, seed)
    config = training.plain(adapted).config
    tokenizer = checkpoint.load_tokenizer(base, config.vocab_size)
    length = min(tune.length, config.max_position_embeddings)
    given = read(conversations)
    examples, overlong = masking.fitting([masking.encode(each, tokenizer) for each in given], length)
    if len(examples) <= tune.checked:
        raise StageError(f"{len(examples)} of {len(given)} conversations have at most {length} tokens, {tune.checked} "
                         "of them are kept to check: give more, or raise `length`")
    checked, learned = examples[:tune.checked], examples[tune.checked:]
    before = training.checked_loss(adapted, checked, tokenizer.pad_token_id)
    points = list(training.train(adapted, learned, tune.training, tokenizer.pad_token_id, seed, resume))
    after = training.checked_loss(adapted, checked, tokenizer.pad_token_id)
    peak = peak_memory()
    longest = sorted(map(len, (example.ids for example in learned)))[-1]
    adapted.eval()
    error = 0.0
    if tune.method == "full":
        checkpoint.save(adapted, tokenizer, model)
    else:
        probe, _ = masking.batch(checked[:2], tokenizer.pad_token_id)
        error = fold(adapted, base, probe, tokenizer, model, tune)
    stage.write_json(metrics, {
        "method": tune.method, "conversations": len(given), "overlong": overlong, "steps": len(points),
        "tokens": sum(len(each.ids) for each in learned) * tune.training.epochs, "longest": longest,
        "learned_tokens": sum(sum(each.learned) for each in learned) * tune.training.epochs,
        "loss_before": before, "loss_after": after, "fold_error": error, "peak_bytes": peak,
        "curve": [round(loss, 6) for _, _, loss in points], "seconds": round(time.monotonic() - started, 1)})
    stage.remove(resume)


def prepared(base: Path, method: Kind, lora: LoraParams, checkpointing: bool, seed: int) -> Any:
    """The model in `base`, ready to train by `method`."""
    from tasks.finetune import checkpoint
    from tasks.finetune import lora as adapters

    if method == "full":
        made = checkpoint.load_model(base)
    elif method == "lora":
        made = adapters.adapt(checkpoint.load_model(base), lora, [], seed)
    else:
        made = adapters.adapt(four_bit(base), lora, [], seed)
    if checkpointing:
        from tasks.finetune.training import plain

        plain(made).gradient_checkpointing_enable({"use_reentrant": False})
    return made


def four_bit(base: Path) -> Any:
    """The Llama in `base` with its linear layers in NF4, scales quantized too; the rest in fp32.

    Raises StageError where bitsandbytes is not installed or the directory is none that can be loaded.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it offers a download for other processors
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from tasks.finetune import checkpoint

    try:
        import bitsandbytes
    except ImportError:
        raise StageError("qlora needs bitsandbytes: ./run setup installs it, or choose lora") from None
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=torch.bfloat16)
    try:
        model = AutoModelForCausalLM.from_pretrained(base, quantization_config=four, device_map={"": "cpu"},
                                                     dtype=torch.float32, local_files_only=True)
    except Exception as error:
        raise StageError(f"{base} cannot be loaded in 4 bits: {stage.one_line(error)[:300]}") from None
    checkpoint.require_finite(model, base)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # an evaluation would repack its weights for a kernel without a backward pass, and training after it would
            # lose every gradient that goes through (0.50.2, processors with AVX512-BF16)
            module.support_avx512bf16_for_cpu = False
    return model


def fold(adapted: Any, base: Path, probe: Any, tokenizer: Any, directory: Path, tune: TuneParams) -> float:
    """Write `base` with the adapters added, W + (alpha / rank) B A, to `directory`; the largest |logit| difference to
    `adapted` on int64 `probe` [B, T] (0 for qlora, whose base is rounded and so differs by more than folding).

    Raises StageError where that is above `lora.max_merge_error`.
    """
    import torch
    from safetensors import safe_open
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.finetune import checkpoint

    with torch.inference_mode():
        before = adapted(probe).logits if tune.method == "lora" else None
    pairs = {name: weight.detach().float() for name, weight in adapted.named_parameters() if "lora_" in name}
    del adapted
    gc.collect()
    weights = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():
                weights[name] = stored.get_tensor(name).float()
                part = f"base_model.model.{name.removesuffix('.weight')}"
                if (down := pairs.get(f"{part}.lora_A.default.weight")) is not None:
                    up = pairs[f"{part}.lora_B.default.weight"]
                    weights[name] += tune.lora.alpha / tune.lora.rank * (up @ down)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(base))
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    # the rotary angles are no weight: what stood on no device is computed anew
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    error = 0.0
    if before is not None:
        with torch.inference_mode():
            error = (model.eval()(probe).logits - before).abs().max().item()
        if not error <= tune.lora.max_merge_error:
            raise StageError(f"folding the adapters moved a logit by {error:.2e}, above lora.max_merge_error = "
                             f"{tune.lora.max_merge_error}")
    checkpoint.save(model, tokenizer, directory)
    return error


def read(path: Path) -> list[Any]:
    """Conversations of a jsonl file. Raises StageError naming file and line of a broken one."""
    from tasks.finetune.conversations import Conversation

    made = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            item = json.loads(line)
            made.append(Conversation(item.get("kind", "given"), item["messages"], item.get("tools") or []))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StageError(f"{path}:{number} is no conversation ({type(error).__name__}: {error})") from None
    return made


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
