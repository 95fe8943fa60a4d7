"""The dial's shapes, worked out by hand; what is given stands; what is wrong is one line."""

from pathlib import Path

import pytest

from flows import workspace
from tasks import dial, params
from tasks.model import ModelParams

ROOT = Path(__file__).resolve().parents[1]
COMMON = {"base": None, "positions": 512, "rope_theta": 10000.0}
NAMES = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim")


@pytest.mark.parametrize("depth, by_hand", (
    (1, (1, 64, 192, 1, 1, 64)),       # 64 * 8 / 3 = 170.7, the nearest multiple of 64 is 192
    (4, (4, 128, 320, 2, 1, 64)),      # 341.3
    (6, (6, 192, 512, 3, 1, 64)),
    (7, (7, 256, 704, 4, 1, 64)),      # 682.7; 4 heads are no three to each of 2
    (12, (12, 384, 1024, 6, 2, 64)),
    (64, (64, 2048, 5440, 32, 8, 64)), # 5461.3; 16 key heads would have two heads each
))
def test_a_size_is_a_shape(depth, by_hand):
    assert dial.shape(depth) == dict(zip(NAMES, by_hand))
    section = params.section(ModelParams, "model", {"model": COMMON | {"size": depth}})
    assert tuple(getattr(section, name) for name in NAMES) == by_hand


@pytest.mark.parametrize("given, by_hand", (
    ({"hidden": 256}, (6, 256, 704, 4, 1, 64)),
    ({"heads": 6, "head_dim": 32}, (6, 192, 512, 6, 2, 32)),
    ({"intermediate": 448, "layers": 2}, (2, 192, 448, 3, 1, 64)),
    ({"kv_heads": 3}, (6, 192, 512, 3, 3, 64)),
))
def test_what_is_given_stands_and_the_rest_follows(given, by_hand):
    nulls = dict.fromkeys(NAMES)
    section = params.section(ModelParams, "model", {"model": COMMON | nulls | {"size": 6} | given})
    assert tuple(getattr(section, name) for name in NAMES) == by_hand


@pytest.mark.parametrize("values, said", (
    ({"size": 0}, "model.size = 0: input should be greater than or equal to 1"),
    ({"size": 1000}, "model.size = 1000: input should be less than or equal to 128"),
    ({"size": "6"}, "model.size = '6': input should be a valid integer"),
    ({"size": 2.5}, "model.size = 2.5: input should be a valid integer"),
    ({"size": True}, "model.size = True: input should be a valid integer"),
    ({"size": 6, "hidden": 100}, "model.hidden = 100: input should be a multiple of 64"),
    ({"size": 6, "heads": -1}, "model.heads = -1: input should be greater than or equal to 1"),
    ({"size": 6, "hidden": "wide"}, "model.hidden = 'wide': input should be a valid integer"),
))
def test_a_wrong_value_is_the_only_one_named(values, said):
    with pytest.raises(params.ParamsError) as caught:
        params.section(ModelParams, "model", {"model": COMMON | values})
    assert str(caught.value) == f"params.yaml: {said}"


def test_without_a_size_all_must_be_given():
    whole = COMMON | dial.shape(2)
    assert params.section(ModelParams, "model", {"model": whole}).size is None
    for lacking in ({"model": whole | {"hidden": None}}, {"model": {k: v for k, v in whole.items() if k != "hidden"}}):
        with pytest.raises(params.ParamsError, match="model.hidden = None: .* give it, or model.size"):
            params.section(ModelParams, "model", lacking)


@pytest.mark.parametrize("name", ("tiny", "h200", "cluster"))
def test_a_profile_keeps_the_shape_it_gives(name):
    profile = workspace.read_profile(ROOT / f"profiles/{name}.yaml")
    values = workspace.overlay(params.load(ROOT / "params.yaml"), profile, name)
    section = params.section(ModelParams, "model", values)
    assert {key: getattr(section, key) for key in profile["model"]} == profile["model"] and section.head_dim >= 64
