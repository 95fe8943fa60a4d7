"""A ready model enters the chain: a package's GGUF file or `from_pretrained` directory becomes the chain's own.

`python -m tasks.finetune.adopt data/packages/smollm2 models/smollm2/base --track smollm2`

A package is one of `sources.packages`: of a registry, a directory here (kind: local), or a hub's by id and commit
(kind: huggingface, modelscope). The weights stay what it holds, in fp32: blocks of 4 bits (Q4_1) are dequantized,
fp16 would round them a second time. A directory's tokenizer gets the chat tokens it lacks, the model a row for each,
the mean of the others (Hewitt 2021, "Initializing new word embeddings for pretrained language models"). The tokenizer
gets the chain's chat template (same ChatML tokens, tools added) and, for GGUF's pre-tokenizer "smollm", the splitting
of single digits that the loader of transformers does not read from the file.
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
    probe: Probe | None = Field(description="null asks nothing: for a model that does not chat yet")


def adopt(package: Input, model: Output, *, adopt: AdoptParams, runtime: params.Runtime) -> None:
    """Convert the one model under `package` into the model directory `model` and ask it the probe.

    Raises StageError: no model or several, truncated file, another architecture, weights missing or not finite, a
    tokenizer that does not fit, probe failed.
    """
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tasks.finetune import checkpoint

    if (package / "config.json").is_file():
        llama, tokenizer = load_directory(package)
    else:
        file = find_gguf(package)
        pre_tokenizer = inspect_gguf(file)
        llama, tokenizer = load_gguf(file)
        if pre_tokenizer == "smollm":
            split_digits(tokenizer)
    tokenizer.chat_template = chat.TEMPLATE
    tokenizer.model_max_length = llama.config.max_position_embeddings = min(
        adopt.context, llama.config.max_position_embeddings)
    if adopt.probe:
        answer_probe(llama, tokenizer, adopt.probe)
    checkpoint.save(llama, tokenizer, model)


def find_gguf(package: Path) -> Path:
    """The one .gguf file under `package`. Raises StageError on none or several."""
    files = sorted(package.rglob("*.gguf"))
    if len(files) != 1:
        raise StageError(f"{package} holds {len(files)} .gguf files and no config.json; exactly one is adopted")
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


def load_directory(package: Path) -> tuple:
    """(LlamaForCausalLM in fp32, its tokenizer with the chain's chat tokens) of a `from_pretrained` directory.

    Raises StageError as checkpoint.load_model does, and where the tokenizer is unreadable, has no fast form, or has
    more ids than the model has rows.
    """
    from transformers import AutoTokenizer

    from tasks.finetune import checkpoint

    llama = checkpoint.load_model(package)
    try:
        tokenizer = AutoTokenizer.from_pretrained(package, local_files_only=True)
    except Exception as error:
        raise StageError(f"{package} holds no readable tokenizer: {stage.one_line(error)[:300]}") from None
    if not tokenizer.is_fast:
        raise StageError(f"{package}: the tokenizer has no fast form (tokenizer.json), which the masks need")
    if len(tokenizer) > llama.config.vocab_size:
        raise StageError(f"{package}: tokenizer of {len(tokenizer)} ids, model of {llama.config.vocab_size} rows: not "
                         "a pair")
    known = tokenizer.get_vocab()
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in (chat.START, chat.END)
                                                                if token not in known]})
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.add_special_tokens({"pad_token": chat.PAD})
    if tokenizer.bos_token is None:  # what stands between documents opens one too
        tokenizer.bos_token = tokenizer.eos_token or chat.END
    tokenizer.eos_token = chat.END
    llama.config.bos_token_id, llama.config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    grow(llama, len(tokenizer))
    return llama, tokenizer


def grow(llama, rows: int) -> None:
    """Give embedding and head `rows` rows at least, each new one the mean of the others."""
    import torch

    before = llama.config.vocab_size
    if rows <= before:
        return
    llama.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for table in {llama.get_input_embeddings().weight, llama.get_output_embeddings().weight}:
            table[before:] = table[:before].mean(0)


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
