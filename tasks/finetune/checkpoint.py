"""A model directory in and out: every checkpoint of the chain is a `from_pretrained` directory of a Llama.

Reading checks what later code relies on (architecture, finite weights, a tokenizer whose ids fit the model and which
carries the chain's chat template), so that a wrong directory ends in one line instead of a wrong model.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM
from transformers import PretrainedConfig, PreTrainedTokenizerFast, logging

from tasks import chat
from tasks.stage import StageError

logging.set_verbosity_error()
logging.disable_progress_bar()


def load_model(directory: Path, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """The Llama in `directory` on the CPU as `dtype`, in eval mode.

    Raises StageError where the directory holds no readable Llama, is a quantized one, or a weight is not finite.
    """
    config(directory)
    try:
        model, read = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True,
                                                           output_loading_info=True)
    except Exception as error:
        raise StageError(f"{directory} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    if missing := sorted(read["missing_keys"]):
        raise StageError(f"{directory} lacks {len(missing)} of the model's weights, {missing[0]} first: copy it again")
    require_finite(model, directory)
    return model.eval()


def config(directory: Path) -> PretrainedConfig:
    """The configuration of the full-precision Llama in `directory`. Raises StageError where it is not that of one."""
    config_file = directory / "config.json"
    try:
        values = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StageError(f"{directory} is no model directory: {config_file.name} cannot be read ({error})") from None
    if values.get("model_type") != "llama":
        raise StageError(f"{directory} holds a {values.get('model_type')!r} model; this chain handles 'llama' only "
                         "after pretraining (model_type in config.json): pretrain with model.qk_norm: false and "
                         "model.sliding_window: null")
    if "quantization_config" in values:
        raise StageError(f"{directory} is already quantized; give the full-precision directory it was made from")
    return AutoConfig.from_pretrained(directory, local_files_only=True)


def require_finite(model: torch.nn.Module, where: Path) -> None:
    """Raise StageError naming the first weight of `model` that holds a NaN or an infinity."""
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise StageError(f"{where}: {name} holds values that are not finite; make the directory again")


def load_tokenizer(directory: Path, vocabulary: int | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer in `directory`. Raises StageError where it is absent, lacks the chain's chat template or chat
    tokens, or has ids at or above `vocabulary` (rows of the embedding)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise StageError(f"{directory} holds no readable tokenizer: {' '.join(str(error).split())[:300]}") from None
    if tokenizer.chat_template != chat.TEMPLATE:
        raise StageError(f"{directory}: the tokenizer's chat template is not the chain's (tasks/chat.py)")
    missing = [token for token in (chat.START, chat.END) if token not in tokenizer.get_vocab()]
    if missing:
        raise StageError(f"{directory}: the tokenizer lacks {', '.join(missing)}")
    if vocabulary is not None and len(tokenizer) > vocabulary:
        raise StageError(f"{directory}: tokenizer of {len(tokenizer)} ids, model of {vocabulary} rows: not a pair")
    return tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write model, tokenizer and generation settings (a turn ends at `<|im_end|>`) as a `from_pretrained` directory."""
    require_finite(model, directory)
    end = tokenizer.convert_tokens_to_ids(chat.END)
    model.config.eos_token_id = end
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=end, pad_token_id=tokenizer.pad_token_id, do_sample=False,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
