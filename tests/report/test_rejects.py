"""Rejects are counted whole and sampled the same way each time."""

import json

from tasks.report import rejects


def test_every_reason_is_counted_and_a_few_are_shown(tmp_path):
    (tmp_path / "filter").mkdir()
    lines = [{"text": "word " * 200, "id": f"d{n}", "metadata": {"url": f"http://a/{n}", "reason": "short" if n < 7 else "odd"}}
             for n in range(9)]
    for number in (0, 1):
        (tmp_path / "filter" / f"0000{number}.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines[number::2]))
    found = rejects.sampled(tmp_path)
    assert [(stage, reason, count) for stage, reason, count, _ in found] == [("filter", "short", 7), ("filter", "odd", 2)]
    texts = found[0][3]
    assert len(texts) == rejects.SAMPLES and len(set(texts)) == len(texts)
    assert all(text.startswith("http://a/") and len(text) < rejects.CHARACTERS + 40 for text in texts)
    assert found == rejects.sampled(tmp_path)
