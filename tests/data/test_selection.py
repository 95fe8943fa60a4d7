"""Selection, retrieval and completion on rows: nothing is lost or made, bounds and budgets hold, gaps are told."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.domain import DOMAINS
from tasks.data.selection import POOL, Bound, Bounds, Row, Targets, complete, good, retrieve, select

OFF = {"limit": None, "keep": None}
NO_TARGETS = dict.fromkeys(DOMAINS)


def bounds(**given_bounds):
    return Bounds(**{name: Bound(**OFF | given_bounds.get(name, {})) for name in Bounds.model_fields})


def row(name, domain="knowledge", characters=100, language="en", source="s", reason=None, **scores):
    every = {"fluency": 0.5, "ads": 0.5, "density": 0.5, "education": 0.5} | scores
    return Row(name, source, language, domain, characters, every, reason)


unit = st.integers(0, 20).map(lambda n: n / 20)
rows = st.lists(st.builds(
    lambda domain, characters, language, source, fluency, ads, seed: (
        domain, characters, language, source, {"fluency": fluency, "ads": ads, "seed": seed}),
    st.sampled_from(DOMAINS), st.integers(0, 500), st.sampled_from(["en", "zh"]), st.sampled_from(["s", "t"]),
    unit, unit, unit), max_size=30).map(lambda made: [
        row(f"d{n:02d}", domain, size, language, source, **scores)
        for n, (domain, size, language, source, scores) in enumerate(made)])
maybe = st.none() | unit


def test_limits_and_quantiles_by_language_and_the_first_broken_is_the_reason():
    made = [row("a", fluency=0.1, ads=0.99), row("b", ads=0.95), row("c", education=0.2), row("d"),
            row("e", language="zh", fluency=0.1), row("f", language="fr", fluency=0.0), row("g", source="p")]
    held = select(made, {"en": bounds(fluency={"limit": 0.2}, ads={"limit": 0.9}, education={"keep": 0.75}),
                         "zh": bounds(fluency={"limit": 0.05})}, ["p"])
    assert {r.id: r.reason for r in made} == {"a": "fluency", "b": "ads", "c": "education", "d": None, "e": None,
                                              "f": None, "g": POOL}
    assert held == {"fluency": {"en": 0.2, "zh": 0.05}, "ads": {"en": 0.9}, "density": {}, "education": {"en": 0.5}}


@settings(max_examples=150, deadline=None)
@given(rows, maybe, st.none() | st.integers(1, 20).map(lambda n: n / 20))
def test_a_quantile_keeps_its_share_and_what_goes_is_worse_than_what_stays(made, limit, keep):
    select(made, {"en": bounds(ads={"limit": limit, "keep": keep})}, [])
    members = [r for r in made if r.language == "en"]
    kept, gone = ([r for r in members if (r.reason is None) is stays] for stays in (True, False))
    assert all(r.reason is None for r in made if r.language == "zh")
    if keep is None and limit is None:
        assert not gone
    if keep is not None and limit is None:
        assert len(kept) >= keep * len(members) - 1e-9
    if limit is not None:
        assert all(r.scores["ads"] <= limit for r in kept)
    if kept and gone:
        assert max(r.scores["ads"] for r in kept) < min(r.scores["ads"] for r in gone)


@settings(max_examples=150, deadline=None)
@given(rows, maybe, maybe, unit, st.tuples(*[st.none() | st.integers(0, 6).map(lambda n: n / 20)] * 3),
       st.randoms(use_true_random=False))
def test_every_row_is_selected_rescued_or_dropped_whatever_their_order(made, limit, threshold, share, wanted, draw):
    """Also: the budget of retrieval holds, and a target is met or its domain has nothing left."""
    targets = Targets(**dict(zip(DOMAINS, wanted)))

    def run(order):
        table = [Row(**vars(r)) for r in order]
        select(table, {"en": bounds(fluency={"limit": limit}), "zh": bounds(fluency={"limit": limit})}, ["t"])
        selected = {r.id for r in table if r.reason is None}
        before = {r.id: r.reason for r in table}
        size = sum(r.characters for r in table if r.id in selected)
        retrieve(table, threshold, share)
        assert sum(r.characters for r in table if r.by == "seed") <= share * size + 1e-9
        assert all(r.scores["seed"] >= threshold for r in table if r.by == "seed")
        gaps = complete(table, targets)
        for r in table:
            assert (r.reason, r.rescued) in ((before[r.id], None), (None, before[r.id]))
            assert (r.by is None) == (r.rescued is None) and not (r.id in selected and r.rescued)
        kept = [r for r in table if r.reason is None]
        assert {r.id for r in kept} == selected | {r.id for r in table if r.by}
        total = sum(r.characters for r in kept)
        for domain, goal in targets.model_dump().items():
            has = sum(r.characters for r in kept if r.domain == domain)
            if goal is None:
                assert domain not in gaps and not any(r.by == "target" and r.domain == domain for r in table)
            elif gaps[domain]:
                assert has < goal * total and not any(r.reason and r.domain == domain for r in table)
                more = gaps[domain]
                assert has + more >= goal * (total + more) - 1e-6  # filling the gap meets the target
                assert has + more - 1 < goal * (total + more - 1) + 1e-6
            else:
                assert has >= goal * total - 1e-6
        return {r.id: (r.reason, r.rescued, r.by) for r in table}, gaps

    turned = made[:]
    draw.shuffle(turned)
    assert run(made) == run(turned)


def test_completion_takes_the_best_of_the_missing_domain_and_no_more_than_needed():
    made = [row("k", characters=600), row("good", "code", 100, reason="fluency", education=0.9),
            row("bad", "code", 100, reason="fluency", education=0.1),
            row("fair", "code", 100, reason="education", education=0.5),
            row("math", "mathematics", 50, reason="density"), row("other", reason="ads")]
    assert complete(made, Targets(**NO_TARGETS | {"code": 0.2, "mathematics": 0.5})) == {"code": 0, "mathematics": 750}
    assert {r.id: r.rescued for r in made if r.rescued} == {"good": "fluency", "fair": "education", "math": "density"}
    assert made[2].reason == "fluency" and made[5].reason == "ads"


def test_retrieval_takes_the_most_alike_that_fit():
    made = [row("kept", characters=1000, seed=0.1)] + [
        row(name, characters=size, seed=seed, reason="density") for name, size, seed in
        (("huge", 900, 0.9), ("first", 60, 0.8), ("second", 60, 0.7), ("third", 40, 0.6), ("unlike", 1, 0.4))]
    made.append(row("unscored", reason="density"))
    retrieve(made, 0.5, 0.1)
    assert [r.id for r in made if r.by == "seed"] == ["first", "third"]
    retrieve(made, None, 1.0)
    assert sum(r.by is not None for r in made) == 2


@pytest.mark.parametrize("kind, values, message", [
    (Targets, {"knowledge": 0.7, "mathematics": 0.2, "code": 0.2}, "add up to 1.1"),
    (Targets, NO_TARGETS | {"poetry": 0.1}, "poetry"), (Targets, NO_TARGETS | {"code": math.nan}, "code"),
    (Bound, {"limit": 1.5, "keep": None}, "limit"), (Bound, {"limit": None, "keep": 0.0}, "keep"),
    (Bound, {"limit": "0.5", "keep": None}, "limit"),
])
def test_params_out_of_bounds_are_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_ads_are_better_when_fewer():
    assert good("ads", 0.9) == pytest.approx(0.1) and good("education", 0.9) == 0.9
    assert row("a", ads=0.1).order() < row("b", ads=0.9).order() and row("a").order() < row("b").order()
