"""LoRA adapters: what peft computes, side by side in one batch, and every way a directory can be wrong."""

import asyncio
import json
import shutil

import httpx
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tasks.serve.app import application
from tasks.serve.engine import adapters
from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError, read_json
from tasks.serve.engine.request import Request
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.start import Options
from tasks.serve.engine.text import Vocabulary
from tasks.serve.registry import Registry
from tests.serve.driven import Driven

PROMPTS = [tuple(range(20, 60)), (5, 6, 7, 8)]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write(chat, directory, seed, **settings):
    """An adapter with random B (peft begins with zeros), saved by peft."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(LlamaForCausalLM.from_pretrained(chat), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    model.save_pretrained(directory)
    return model.eval()


def continued(model, prompt):
    return model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
                          max_new_tokens=16, eos_token_id=None, pad_token_id=3)[0, len(prompt):].tolist()


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """(directories by name, expected greedy tokens by (name or None, prompt))."""
    root = tmp_path_factory.mktemp("adapters")
    models = {None: LlamaForCausalLM.from_pretrained(tiny / "chat").eval(),
              "wide": write(tiny / "chat", root / "wide", 1, r=8, lora_alpha=16, target_modules=ALL),
              "few": write(tiny / "chat", root / "few", 2, r=3, lora_alpha=9, target_modules=["q_proj", "down_proj"],
                           use_rslora=True, alpha_pattern={"down_proj": 4})}
    expected = {(name, prompt): continued(model, prompt) for name, model in models.items() for prompt in PROMPTS}
    return root, expected


@pytest.fixture
def engine(tiny, made):
    backend = backends.load(backends.read_files(tiny / "chat"), threads=1, slots=6, backend="torch")
    engine = Driven(backend, Vocabulary(tiny / "chat"), slots=6)
    engine.add_adapter("wide", made[0] / "wide")
    engine.add_adapter("few", made[0] / "few")
    return engine


def test_adapters_side_by_side_are_pefts(engine, made):
    asked = list(made[1])
    assert len({tuple(tokens) for tokens in made[1].values()}) == len(asked)   # they do change the answer
    requests = [Request(prompt, 16, Sampling(temperature=0), ignore_eos=True, adapter=name) for name, prompt in asked]
    for _ in range(2):   # the second time from the prefix cache, which must tell them apart
        assert engine.tokens(requests) == list(made[1].values())
    assert engine.metrics.prefix_hits._value.get() == 3 * 32
    engine.check_empty()


def test_an_unknown_name_and_a_second_one_are_refused(engine, made):
    with pytest.raises(ModelError, match="no adapter 'french' here; there are: wide, few"):
        engine.submit([Request((5,), 1, adapter="french")], [print])
    with pytest.raises(ModelError, match="two adapters named 'few'"):
        engine.add_adapter("few", made[0] / "few")
    engine.check_empty()


def broken(made, tmp_path, config=None, change=None):
    directory = tmp_path / "broken"
    shutil.copytree(made[0] / "few", directory)
    stated = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(stated | (config or {})))
    if change:
        save_file(change(load_file(directory / "adapter_model.safetensors")),
                  directory / "adapter_model.safetensors")
    return directory


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("config, change, message", [
    ({"peft_type": "IA3"}, None, "peft_type is 'IA3'"),
    ({"use_dora": True}, None, "use_dora is not served"),
    ({"bias": "all"}, None, "bias 'all' is not served"),
    (None, renamed("layers.1", "layers.7"), "layers.7.* is no linear layer of this model"),
    (None, renamed("q_proj", "c_attn"), "c_attn.* is no linear layer"),
    (None, lambda t: {n: x[:, :-1].contiguous() if "lora_A" in n else x for n, x in t.items()}, "of another model"),
    (None, lambda t: {n: x for n, x in t.items() if "lora_B" not in n}, "of another model"),
    (None, lambda t: {}, "is empty")])
def test_what_does_not_fit_is_refused(tiny, made, tmp_path, config, change, message):
    directory = broken(made, tmp_path, config, change)
    with pytest.raises(ModelError, match=message):
        adapters.read(directory, read_json(tiny / "chat" / "config.json"))


def test_files_missing_or_torn(tiny, made, tmp_path):
    config = read_json(tiny / "chat" / "config.json")
    with pytest.raises(ModelError, match="adapter_config.json is not readable"):
        adapters.read(tmp_path, config)
    directory = broken(made, tmp_path)
    (directory / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="adapter_model.safetensors is not readable"):
        adapters.read(directory, config)


def test_bf16_adapters_are_read(tiny, made, tmp_path):
    directory = broken(made, tmp_path, change=lambda t: {name: tensor.bfloat16() for name, tensor in t.items()})
    config = read_json(tiny / "chat" / "config.json")
    exact, rounded = adapters.read(made[0] / "few", config), adapters.read(directory, config)
    assert exact.keys() == rounded.keys() and len(exact) == 4
    for place, (a, b) in exact.items():
        for found, wanted in zip(rounded[place], (a, b)):
            assert abs(found - wanted).max() <= abs(wanted).max() / 128


def test_an_adapter_is_asked_for_by_name_over_http(tiny, made):
    """The chat endpoint's greedy tokens under `model: wide` are those of the peft model on the rendered prompt."""
    messages = [{"role": "user", "content": "What is 12 * 7?"}]
    words = Vocabulary(tiny / "chat")
    tuned = peft.PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny / "chat"), made[0] / "wide").eval()

    async def asked():
        registry = Registry({"base": tiny / "chat"}, {"wide": made[0] / "wide", "few": made[0] / "few"}, threads=1,
                            slots=2, options=Options(backend="torch"))
        over = httpx.ASGITransport(application(registry))
        try:
            async with httpx.AsyncClient(transport=over, base_url="http://server", timeout=120) as http:
                cards = (await http.get("/v1/models")).json()["data"]
                prompt = (await http.post("/tokenize", json={"messages": messages})).json()["tokens"]
                answers = await asyncio.gather(*(http.post("/v1/chat/completions", json={
                    "model": name, "messages": messages, "temperature": 0, "max_tokens": 16, "logprobs": True})
                    for name in ("wide", "base", "absent")))
                return cards, prompt, answers
        finally:
            registry.close()

    cards, prompt, (wide, base, absent) = asyncio.run(asked())
    assert [(card["id"], card["parent"]) for card in cards] == [("base", None), ("wide", "base"), ("few", "base")]
    expected = continued(tuned, prompt)
    stop = next((place for place, token in enumerate(expected) if token in (0, 2)), len(expected))
    found = [bytes(entry["bytes"]) for entry in wide.json()["choices"][0]["logprobs"]["content"]]
    assert stop > 3 and found[:stop] == [words.pieces[token] for token in expected[:stop]]
    assert wide.json()["model"] == "wide" and wide.headers["x-model-digest"] == cards[1]["digest"]
    assert base.json()["choices"][0]["message"] != wide.json()["choices"][0]["message"]
    assert base.headers["x-model-digest"] == cards[0]["digest"] != cards[1]["digest"]
    assert absent.status_code == 404 and absent.json()["error"]["param"] == "model"
