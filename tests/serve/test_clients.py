"""Programs that people already have, unmodified, against the server: LangChain, smolagents, lm-eval."""

import json

import pytest

from tests.serve.tiny import TEXTS

CALCULATOR = {"title": "calculator", "description": "computes", "type": "object",
              "properties": {"expression": {"type": "string", "maxLength": 12}}, "required": ["expression"]}


def test_langchain_chats_streams_calls_tools_and_fills_schemas(server):
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="default", base_url=server[1], api_key="none", temperature=0, max_tokens=60, max_retries=0)
    question = HumanMessage("What is 12 * 7?")
    whole = model.invoke([question])
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in model.stream([question])) == whole.content
    bound = model.bind_tools([CALCULATOR], tool_choice="calculator")
    called = bound.invoke([question], max_tokens=200)
    (call,) = called.tool_calls
    assert call["name"] == "calculator" and list(call["args"]) == ["expression"]
    gathered = None
    for chunk in bound.stream([question], max_tokens=200):
        gathered = chunk if gathered is None else gathered + chunk
    assert gathered.tool_calls[0]["args"] == call["args"]
    after = model.bind_tools([CALCULATOR]).invoke([question, AIMessage("", tool_calls=[call]),
                                                   ToolMessage("84", tool_call_id=call["id"])])
    assert isinstance(after, AIMessage)
    filled = model.with_structured_output({"title": "answer", "description": "an answer", "type": "object",
                                           "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]},
                                          method="json_schema").invoke([question])
    assert isinstance(filled["sure"], bool)


def test_smolagents_calls_a_tool(server):
    from smolagents import OpenAIServerModel, tool

    @tool
    def calculator(expression: str) -> str:
        """Computes.

        Args:
            expression: what to compute
        """
        return expression

    model = OpenAIServerModel(model_id="default", api_base=server[1], api_key="none", max_tokens=400, temperature=0)
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is 12 * 7?"}]}]
    answer = model.generate(asked, tools_to_call_from=[calculator])
    (call,) = answer.tool_calls
    assert call.function.name == "calculator" and isinstance(call.function.arguments, (str, dict))
    assert answer.token_usage.output_tokens > 0
    streamed = "".join(delta.content or "" for delta in model.generate_stream(asked))
    assert streamed == model.generate(asked).content


def cases(path):
    """A task of lm-eval over two choices a question."""
    rows = [{"question": text[:20], "choices": [text[20:30], text[5:12]], "answer": i % 2} for i, text in
            enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return {"task": "served", "dataset_path": "json", "dataset_kwargs": {
        "data_files": {"test": str(path)}, "cache_dir": str(path.parent)}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "choices",
        "doc_to_target": "answer", "target_delimiter": "", "metric_list": [{"metric": "acc"}]}


def test_lm_eval_scores_choices_over_completions(server, tiny, tmp_path):
    """Log-likelihoods over HTTP near those of lm-eval's own hf backend on the weights that the export came from."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    def scores(model, arguments):
        found = simple_evaluate(model=model, model_args=arguments, tasks=[cases(tmp_path / "cases.jsonl")],
                                bootstrap_iters=0, log_samples=True, verbosity="ERROR",
                                task_manager=TaskManager(include_defaults=False))["samples"]["served"]
        return [value for sample in found for (value, _), in sample["resps"]]

    served = scores("local-completions", {
        "model": "default", "base_url": f"{server[1]}/completions", "tokenizer": str(tiny / "chat"),
        "tokenizer_backend": "huggingface", "max_length": 512, "num_concurrent": 2, "seed": 1})
    direct = scores("hf", {"pretrained": str(tiny / "chat"), "dtype": "float32", "device": "cpu"})
    assert len(served) == len(direct) == 2 * len(TEXTS)
    # the export is int4: near, and in the same order
    assert max(abs(a - b) / abs(b) for a, b in zip(served, direct)) < 0.2


def test_lm_eval_generates_over_chat(server, tiny, tmp_path):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    task = cases(tmp_path / "cases.jsonl") | {
        "output_type": "generate_until", "doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match"}],
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}}
    task.pop("doc_to_choice")
    found = simple_evaluate(model="local-chat-completions", model_args={
        "model": "default", "base_url": f"{server[1]}/chat/completions"}, tasks=[task], bootstrap_iters=0,
        log_samples=True, apply_chat_template=True, verbosity="ERROR",
        task_manager=TaskManager(include_defaults=False))["samples"]["served"]
    assert len(found) == len(TEXTS) and any(sample["resps"][0][0] for sample in found)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing here may look for a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
