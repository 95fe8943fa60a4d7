"""What the report says in red: a general score of the base that the tuned model lost."""

from tasks.report import forgetting

MODELS = {"a-base": "models/a/base", "a-chat": "models/a/chat", "a-int4": "models/a/int4", "b-chat": "models/b/chat"}


def scores(pairs, bits, tools):
    return {"scores": {"pairs": {"acc": {"value": pairs, "stderr": 0.02, "n": 64}},
                       "held_out": {"bits_per_byte": {"value": bits, "stderr": 0.05, "n": 16}},
                       "tools": {"exact_match": {"value": tools, "stderr": 0.01, "n": 48}}}}


def test_a_loss_above_one_standard_error_of_the_base_is_told():
    found = {"a-base": scores(0.8, 1.5, 0.9), "a-chat": scores(0.75, 1.56, 0.1), "b-chat": scores(0.1, 9, 0)}
    first, second = forgetting.forgotten(MODELS, found)
    assert first == "a-chat lost 2.5 standard errors of a-base in pairs acc: 0.800 → 0.750, n=64."
    assert second.startswith("a-chat lost 1.2 standard errors of a-base in held_out bits_per_byte: 1.500 → 1.560")


def test_what_got_better_or_lost_less_is_not():
    assert forgetting.forgotten(MODELS, {"a-base": scores(0.8, 1.5, 0.9), "a-chat": scores(0.79, 1.2, 0.0)}) == []
    assert forgetting.forgotten(MODELS, {"a-chat": scores(0.1, 9, 0)}) == []
