"""A packaged model enters the chain: the GGUF file of a package becomes a `from_pretrained` directory.

`python -m tasks.finetune.adopt data/packages/smollm2 models/smollm2/base --track smollm2`

The weights stay what the package holds: blocks of 4 bits (Q4_1), dequantized to fp32. fp16 would round them a second
time. The tokenizer gets the chain's chat template (same ChatML tokens, tools added) and, for GGUF's pre-tokenizer
"smollm", the splitting of single digits that the loader of transformers does not read from the file.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tasks import chat, params, stage
from tasks.finetune import environment
from tasks.stage import Input, Output, StageError


class Probe(params.Section):
    """One question that a whole model answers: wrong weight order or a wrong tokenizer shows at once."""

    question: str = Field(min_length=1)
    expects: str = Field(min_length=1, description="must be in the greedy answer")


class AdoptParams(params.Section):
    """How a packaged model is taken in."""

    context: int = Field(ge=128, le=1_000_000, description="positions the chain uses of the model's own limit")
    probe: Probe


def adopt(package: Input, model: Output, *, adopt: AdoptParams, runtime: params.Runtime) -> None:
    """Convert the one GGUF under `package` into the model directory `model` and ask it the probe.

    Raises StageError: no GGUF or several, truncated file, another architecture, weights not finite, probe failed.
    """
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tasks.finetune import checkpoint

    file = find_gguf(package)
    pre_tokenizer = inspect_gguf(file)
    llama, tokenizer = load_gguf(file)
    if pre_tokenizer == "smollm":
        split_digits(tokenizer)
    tokenizer.chat_template = chat.TEMPLATE
    tokenizer.model_max_length = llama.config.max_position_embeddings = min(
        adopt.context, llama.config.max_position_embeddings)
    answer_probe(llama, tokenizer, adopt.probe)
    checkpoint.save(llama, tokenizer, model)


def find_gguf(package: Path) -> Path:
    """The one .gguf file under `package`. Raises StageError on none or several."""
    files = sorted(package.rglob("*.gguf"))
    if len(files) != 1:
        raise StageError(f"{package} holds {len(files)} .gguf files; exactly one is adopted")
    return files[0]


def inspect_gguf(file: Path) -> str:
    """Check header, architecture and extent of a GGUF; returns the name of its pre-tokenizer ("" where unnamed).

    Raises StageError naming what is wrong, a truncated file before any of it is converted.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        for tensor in reader.tensors:
            if tensor.data.nbytes != tensor.n_bytes:
                raise ValueError(f"tensor {tensor.name} has {tensor.data.nbytes} of {tensor.n_bytes} bytes")
    except Exception as error:
        raise StageError(f"{file} is no whole GGUF file ({file.stat().st_size} bytes: "
                         f"{' '.join(str(error).split())[:160]}): fetch the package again") from None
    architecture = reader.get_field("general.architecture").contents()
    if architecture != "llama":
        raise StageError(f"{file} holds a {architecture!r} model; this chain adopts 'llama' only")
    field = reader.get_field("tokenizer.ggml.pre")
    return field.contents() if field else ""


def load_gguf(file: Path) -> tuple:
    """(LlamaForCausalLM in fp32, its tokenizer) of a GGUF, free of the marks that say it is still quantized."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # the weights are plain fp32 now, but these two make save_pretrained refuse the model as "not serializable"
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    return model.eval(), tokenizer


def split_digits(tokenizer) -> None:
    """Split every digit off before the byte-level rule, as the model was trained (GGUF pre-tokenizer "smollm")."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])


def answer_probe(model, tokenizer, probe: Probe) -> None:
    """Ask `probe` greedily through the chat template. Raises StageError with the answer where it lacks `expects`."""
    import torch

    prompt = tokenizer.apply_chat_template([{"role": "user", "content": probe.question}], add_generation_prompt=True,
                                           return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        out = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    answer = tokenizer.decode(out[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True)
    if probe.expects not in answer:
        raise StageError(f"the adopted model answers {probe.question!r} with {answer!r}, without {probe.expects!r}: "
                         "its weights or tokenizer were not read as they were meant")


if __name__ == "__main__":
    stage.run(adopt)
