"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on a Llama, by peft, and their merge back into plain weights;
with `dora` each row's length is trained apart from its direction (Liu et al. 2024, arXiv:2402.09353)."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

# peft imports bitsandbytes, which takes our kernels/ for a package of that name and warns that it lacks a function
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from tasks.finetune.settings import LoraParams  # noqa: E402
from tasks.stage import StageError  # noqa: E402


def configuration(model: LlamaForCausalLM, lora: LoraParams, rows: list[int] | None = None,
                  dora: bool = False) -> LoraConfig:
    """peft's configuration; `rows` of the embedding are trained too. Raises StageError on a target that is none."""
    names = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    unknown = sorted(set(lora.targets) - names)
    if unknown:
        raise StageError(f"lora.targets: no linear layer is called {', '.join(unknown)} (there are "
                         f"{', '.join(sorted(names))})")
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=sorted(lora.targets), lora_dropout=0.0,
                      bias="none", task_type="CAUSAL_LM", use_dora=dora,
                      trainable_token_indices={"embed_tokens": sorted(rows)} if rows else None)


def adapt(model: LlamaForCausalLM, lora: LoraParams, rows: list[int], seed: int, dora: bool = False) -> PeftModel:
    """`model` with trainable adapters and trainable `rows` of the embedding, tied head included; the rest is frozen."""
    torch.manual_seed(seed)
    return get_peft_model(model, configuration(model, lora, rows, dora))


@contextlib.contextmanager
def in_double(llama: LlamaForCausalLM) -> Iterator[None]:
    """Compute in double precision, one block's weights at a time, which go back to what they were without a loss."""
    hooks = []
    for part in (llama.model.embed_tokens, *llama.model.layers, llama.model.norm, llama.lm_head):
        kept_as = next(part.parameters()).dtype
        hooks += [part.register_forward_pre_hook(lambda module, _: module.double() and None),
                  part.register_forward_hook(lambda module, _, out, kept_as=kept_as: module.to(kept_as) and None)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def merge(adapted: PeftModel, probe: torch.Tensor, limit: float) -> tuple[LlamaForCausalLM, float]:
    """(the plain Llama with the adapters folded in, largest |logit| difference on int64 `probe` [B, T]).

    Both are computed in double precision, the folded weights as the single ones they are kept as: in single precision
    rounding alone moves a logit of a trained adapter by up to 1e-3, which tells nothing of the merge. It happens in
    place and a matrix at a time, so memory for one block in double is all it needs.
    Raises StageError naming difference and limit where merging changed what the model computes.
    """
    adapted.eval()
    with torch.no_grad(), in_double(adapted.get_base_model()):
        before = adapted(probe).logits
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All adapters are already merged")  # matrix by matrix, below
        warnings.filterwarnings("ignore", "Already following adapters were merged")
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                kept_as = module.get_base_layer().weight.dtype
                module.double().merge()
                module.to(kept_as)
        merged = adapted.merge_and_unload()
    with torch.no_grad(), in_double(merged):
        error = (merged(probe).logits - before).abs().max().item()
    if not error <= limit:
        raise StageError(f"merging the adapters moved a logit by {error:.2e}, above lora.max_merge_error = {limit}")
    return merged, error
