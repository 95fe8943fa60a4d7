"""Adopting a GGUF: weights and tokenizer of a file made here come back exact; broken files end in one line."""

import json

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks import chat
from tasks.finetune import adopt as stage_module
from tasks.finetune import checkpoint
from tasks.finetune.adopt import AdoptParams, Probe
from tasks.stage import StageError

from tests.finetune.test_sft import RUNTIME

HIDDEN, HEADS, KV, INNER, LAYERS = 32, 4, 2, 64, 2
HEAD = HIDDEN // HEADS


def permuted(weight, heads):
    """The row order of llama.cpp's query and key weights: each head's halves interleaved."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, tokenizer, architecture="llama"):
    """The Llama as a GGUF of fp32 tensors, written by the gguf package and laid out as llama.cpp does."""
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(1024)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    by_id = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    # the reader needs merges: one of two letters that make no token of ours would be refused, so one is added
    writer.add_token_list([*by_id[:-1], "th"])
    writer.add_token_types([3 if token in chat.SPECIALS else 1 for token in by_id])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    state = {name: weight.numpy() for name, weight in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}
    for layer in range(LAYERS):
        for theirs, ours in names.items():
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", state[f"model.layers.{layer}.{ours}.weight"])
        for theirs, ours, heads in (("attn_q", "q_proj", HEADS), ("attn_k", "k_proj", KV)):
            weight = state[f"model.layers.{layer}.self_attn.{ours}.weight"]
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", np.ascontiguousarray(permuted(weight, heads)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def package(tmp_path, llama, tokenizer):
    (tmp_path / "package").mkdir()
    write_gguf(tmp_path / "package/m.gguf", llama, tokenizer)
    return tmp_path / "package"


def adopt(package, out, expects=""):
    probe = None if expects is None else Probe.model_construct(question="What is 12?", expects=expects)
    stage_module.adopt(package, out, adopt=AdoptParams(context=512, probe=probe), runtime=RUNTIME)


def test_weights_come_back_and_the_template_is_ours(package, tmp_path, llama):
    adopt(package, tmp_path / "chat")
    model = checkpoint.load_model(tmp_path / "chat")
    ids = torch.arange(4, 60)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, llama(ids).logits, atol=1e-5)
    assert model.config.max_position_embeddings == 512 and model.generation_config.eos_token_id == 2
    tokenizer = checkpoint.load_tokenizer(tmp_path / "chat", model.config.vocab_size)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert tokenizer.decode(rendered["input_ids"]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert "quantization_config" not in json.loads((tmp_path / "chat/config.json").read_text())


def test_digits_stand_alone_after_saving(package, tmp_path):
    adopt(package, tmp_path / "chat")
    tokenizer = checkpoint.load_tokenizer(tmp_path / "chat")
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  123")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2", "3"]  # without: the second space goes with 123


def test_a_wrong_answer_to_the_probe_fails(package, tmp_path):
    with pytest.raises(StageError, match="answers 'What is 12\\?' with .*, without 'Paris'"):
        adopt(package, tmp_path / "chat", "Paris")


def test_a_truncated_file(package, tmp_path):
    file = package / "m.gguf"
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(StageError, match=r"m.gguf is no whole GGUF file \(\d+ bytes"):
        adopt(package, tmp_path / "chat")
    file.write_bytes(b"not a model")
    with pytest.raises(StageError, match="is no whole GGUF file"):
        adopt(package, tmp_path / "chat")


def test_another_architecture(package, tmp_path, llama, tokenizer):
    write_gguf(package / "m.gguf", llama, tokenizer, "gpt2")
    with pytest.raises(StageError, match="holds a 'gpt2' model"):
        adopt(package, tmp_path / "chat")


def directory(path, model, tokenizer):
    """A model as others save it: another template, no chat tokens."""
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def stranger():
    """A fast tokenizer of bytes with an end-of-text token and nothing of ours."""
    raw = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(
        ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<s>")
    made.chat_template = "{{ messages }}"
    return made


@pytest.mark.parametrize("tied", [True, False])
def test_a_directory_gets_the_chat_tokens_and_keeps_its_logits(tmp_path, tied):
    other = stranger()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(other), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=tied)).eval()
    adopt(directory(tmp_path / "theirs", model, other), tmp_path / "ours", None)
    made = checkpoint.load_model(tmp_path / "ours")
    tokenizer = checkpoint.load_tokenizer(tmp_path / "ours", made.config.vocab_size)
    assert len(tokenizer) == len(other) + 3 == made.config.vocab_size
    assert [tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token] == [chat.PAD, "<s>", chat.END]
    ids = torch.arange(1, 60)[None]
    with torch.no_grad():
        assert torch.allclose(made(ids).logits[..., :len(other)], model(ids).logits, atol=1e-5)
    for table in (made.get_input_embeddings().weight, made.get_output_embeddings().weight):
        assert torch.allclose(table[-3:], table[:-3].mean(0).expand(3, -1), atol=1e-6)
    assert (made.get_input_embeddings().weight is made.get_output_embeddings().weight) == tied


def test_a_directory_that_is_no_pair_or_no_llama(tmp_path, llama, tokenizer):
    small = stranger()
    small.add_tokens([f"word{n}" for n in range(20)])
    with pytest.raises(StageError, match="tokenizer of 277 ids, model of 260 rows: not a pair"):
        adopt(directory(tmp_path / "a", llama, small), tmp_path / "out", None)
    theirs = directory(tmp_path / "b", llama, tokenizer)
    (theirs / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(StageError, match="holds a 'qwen2' model"):
        adopt(theirs, tmp_path / "out", None)


def test_none_and_two_files(package, tmp_path):
    (package / "n.gguf").write_bytes(b"")
    with pytest.raises(StageError, match="holds 2 .gguf files"):
        adopt(package, tmp_path / "chat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="holds 0 .gguf files"):
        adopt(tmp_path / "empty", tmp_path / "chat")
