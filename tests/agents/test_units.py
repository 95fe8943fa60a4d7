"""Conversions against values worked by hand; a unit string can neither compute nor hang."""

import pytest

from tasks.agents.actions.units import convert
from tasks.agents.tools import Action, ActionError


@pytest.mark.parametrize("value, unit, to, expected", [
    (26.2, "mile", "km", "42.1648128 km"),          # 1 mile = 1.609344 km
    (100, "degC", "degF", "212 degF"),
    (-40, "degF", "degC", "-40 degC"),
    (1, "hour", "s", "3600 s"),
    (72, "km/hour", "m/s", "20 m/s"),
    (1, "inch^2", "cm^2", "6.4516 cm^2"),
    (0, "kg", "g", "0 g"),
])
def test_values(value, unit, to, expected):
    assert convert(value, unit, to) == expected


@pytest.mark.parametrize("unit, to, shown", [
    ("km", "kg", "no conversion"), ("furlonks", "km", "furlonks"), ("9**9**9**9", "km", "is no unit"),
    ("km^9999999", "km", "is no unit"), ("__import__('os')", "km", "is no unit"), ("", "km", "is no unit"),
])
def test_refusals_are_one_line(unit, to, shown):
    with pytest.raises(ActionError) as error:
        convert(1.0, unit, to)
    assert shown in str(error.value) and "\n" not in str(error.value)


def test_called_as_a_tool_with_bad_arguments():
    action = Action.of(convert)
    assert action.call('{"value": 2, "unit": "m", "to": "cm"}') == "200 cm"
    with pytest.raises(ActionError, match="value"):
        action.call('{"value": "two", "unit": "m", "to": "cm"}')
