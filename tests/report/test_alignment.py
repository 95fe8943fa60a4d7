"""The report's account of alignment: paired gains and losses a step, red above one standard error."""

from tasks.report import alignment

DEFAULT = {"a-sft": "models/a/sft", "a-chat": "models/a/chat", "a-int4": "models/a/int4", "b-chat": "models/b/chat"}
WHOLE = {"a-sft": "models/a/sft", "a-dpo": "models/a/dpo", "a-chat": "models/a/chat"}


def answered(right, bits=0):
    lines = [{"task": "tools", "id": f"t{at}", "target": "x", "right": int(at < right)} for at in range(40)]
    return lines + [{"task": "held_out", "id": f"h{at}", "prompt": f"text {at}", "bytes": 100,
                     "answer": -100.0 - bits * (1 + at % 2 / 10) - at % 3} for at in range(8)]


def test_the_steps_follow_the_way_of_a_track():
    everyone = dict.fromkeys(WHOLE | DEFAULT, [])
    assert alignment.steps(DEFAULT, everyone) == [("a-sft", "a-chat", "DPO")]
    assert alignment.steps(WHOLE, everyone) == [("a-sft", "a-dpo", "DPO"), ("a-dpo", "a-chat", "GRPO")]
    assert alignment.steps(WHOLE, {"a-dpo": [], "a-chat": []}) == [("a-dpo", "a-chat", "GRPO")]
    assert alignment.steps({"b-chat": "models/b/chat"}, everyone) == []


def test_a_gain_is_told_and_a_loss_is_red():
    answers = {"a-sft": answered(10), "a-dpo": answered(10), "a-chat": answered(25, bits=5)}
    rows = {(row[0], row[1]): row for row in alignment.table(WHOLE, answers)["rows"]}
    gained = rows["GRPO: a-dpo → a-chat", "tool calls, exact"]
    assert gained[2].startswith("+0.375") and gained[4] == "gained" and gained[5] == "40"
    assert rows["DPO: a-sft → a-dpo", "tool calls, exact"][4] == "cannot tell"
    lost = rows["GRPO: a-dpo → a-chat", "held-out bits per byte saved"]
    assert lost[2].startswith("-0.076") and lost[4] == "lost"    # 5.25 / ln 2 / 100
    costs = alignment.costs(WHOLE, answers)
    assert len(costs) == 1 and costs[0].startswith("GRPO: a-dpo → a-chat lost 0.076 ± ") and "held-out" in costs[0]
