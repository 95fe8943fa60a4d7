"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on a Llama, by peft, and their merge back into plain weights."""

from __future__ import annotations

import logging

# peft imports bitsandbytes, which takes our kernels/ for a package of that name and warns that it lacks a function
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from tasks.finetune.settings import LoraParams  # noqa: E402
from tasks.stage import StageError  # noqa: E402


def configuration(model: LlamaForCausalLM, lora: LoraParams, rows: list[int] | None = None) -> LoraConfig:
    """peft's configuration; `rows` of the embedding are trained too. Raises StageError on a target that is none."""
    names = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    unknown = sorted(set(lora.targets) - names)
    if unknown:
        raise StageError(f"lora.targets: no linear layer is called {', '.join(unknown)} (there are "
                         f"{', '.join(sorted(names))})")
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=sorted(lora.targets), lora_dropout=0.0,
                      bias="none", task_type="CAUSAL_LM",
                      trainable_token_indices={"embed_tokens": sorted(rows)} if rows else None)


def adapt(model: LlamaForCausalLM, lora: LoraParams, rows: list[int], seed: int) -> PeftModel:
    """`model` with trainable adapters and trainable `rows` of the embedding, tied head included; the rest is frozen."""
    torch.manual_seed(seed)
    return get_peft_model(model, configuration(model, lora, rows))


def merge(adapted: PeftModel, probe: torch.Tensor, limit: float) -> tuple[LlamaForCausalLM, float]:
    """(the plain Llama with the adapters folded in, largest |logit| difference on int64 `probe` [B, T]).

    Both are computed in double precision, the folded weights as the single ones they are kept as: in single precision
    rounding alone moves a logit of a trained adapter by up to 1e-3, which tells nothing of the merge.
    Raises StageError naming difference and limit where merging changed what the model computes.
    """
    kept_as = next(adapted.parameters()).dtype
    adapted.eval().double()
    with torch.inference_mode():
        before = adapted(probe).logits
    merged = adapted.merge_and_unload().to(kept_as).double()
    with torch.inference_mode():
        error = (merged(probe).logits - before).abs().max().item()
    if not error <= limit:
        raise StageError(f"merging the adapters moved a logit by {error:.2e}, above lora.max_merge_error = {limit}")
    return merged.to(kept_as), error
