"""What of a model is trained, by one value: all weights, adapters, adapters on a 4-bit base, or DoRA's.

`full` trains every weight by AdamW; `lora` freezes them and trains low-rank adapters (lora.py); `dora` trains the
length of each row beside them; `qlora` trains adapters over a base in 4-bit NormalFloat (Dettmers et al. 2023,
arXiv:2305.14314; bitsandbytes, CPU or GPU). What comes out is always a plain model in the base's own precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedModel

from tasks import stage
from tasks.finetune import checkpoint
from tasks.finetune import lora as adapters
from tasks.finetune.settings import LoraParams, Method
from tasks.stage import StageError


def plain(model: torch.nn.Module) -> LlamaForCausalLM:
    """The Llama inside a peft model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def prepared(base: Path, method: Method, lora: LoraParams, rows: list[int], checkpointing: bool,
             seed: int) -> PreTrainedModel | PeftModel:
    """The model in `base`, ready to train by `method`; `rows` of the embedding learn beside the adapters.

    Raises StageError where the directory is none that can be trained.
    """
    if method == "full":
        made: Any = checkpoint.load_model(base)
    else:
        loaded = four_bit(base) if method == "qlora" else checkpoint.load_model(base)
        made = adapters.adapt(loaded, lora, rows, seed, dora=method == "dora")
    if checkpointing:
        plain(made).gradient_checkpointing_enable({"use_reentrant": False})
    return made


def four_bit(base: Path) -> PreTrainedModel:
    """The Llama in `base` with its linear layers in NF4, scales quantized too; the rest in fp32.

    Raises StageError where bitsandbytes is not installed or the directory is none that can be loaded.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    try:
        import bitsandbytes
    except ImportError:
        raise StageError("qlora needs bitsandbytes: ./run setup installs it, or choose lora") from None
    checkpoint.config(base)
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


def merged(trained: PreTrainedModel | PeftModel, base: Path, method: Method, lora: LoraParams,
           probe: torch.Tensor) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """(the plain Llama that `trained` amounts to, what making it moved on int64 `probe` [B, T]).

    `merge_error` is the largest |logit| difference between adapters beside the weights and folded into them, gated by
    `lora.max_merge_error`. With `qlora` the adapters go into the base's own full-precision weights, not the 4-bit ones
    they were trained on: `rounding_error`, the largest |logit| difference to the model as it was trained, is that of
    the 4 bits, and is reported, not gated. Raises StageError where the gate is missed.
    """
    trained.eval()
    if method == "full":
        return trained, {"merge_error": 0.0}
    if method != "qlora":
        model, error = adapters.merge(trained, probe, lora.max_merge_error)
        return model, {"merge_error": error}
    with torch.inference_mode():
        before = trained(probe).logits
    whole = get_peft_model(checkpoint.load_model(base), trained.peft_config["default"])
    whole.load_state_dict({name: weight for name, weight in trained.named_parameters() if weight.requires_grad},
                          strict=False)
    model, error = adapters.merge(whole, probe, lora.max_merge_error)
    with torch.inference_mode():
        rounding = (model(probe).logits - before).abs().max().item()
    return model, {"merge_error": error, "rounding_error": rounding}
