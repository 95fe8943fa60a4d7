"""Converts between units. `pint` knows them; what it is given is checked first, as its parser evaluates powers."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tasks.agents.tools import ActionError

if TYPE_CHECKING:
    import pint

UNIT = re.compile(r"[A-Za-zµ°Å]+(\^-?[1-3])?([ *·/][A-Za-zµ°Å]+(\^-?[1-3])?)*")  # no numbers: nothing to blow up
Unit = Annotated[str, Field(min_length=1, max_length=40, description="such as km, mile, degC, kg*m/s^2")]
DIGITS = 10     # significant digits of the answer


@functools.cache
def registry() -> pint.UnitRegistry:
    """pint's units, read once (0.3 s)."""
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


def convert(value: float, unit: Unit, to: Unit) -> str:
    """convert a value from one unit to another"""
    import pint

    for name in (unit, to):
        if not UNIT.fullmatch(name):
            raise ActionError(f"convert: {name!r} is no unit: write it such as km, mile, degC, kg*m/s^2")
    try:
        units = registry()
        found = units.Quantity(value, units.parse_units(unit)).to(units.parse_units(to))
    except pint.UndefinedUnitError as error:
        raise ActionError(f"convert: {' '.join(str(error).split())}") from None
    except pint.DimensionalityError as error:
        raise ActionError(f"convert: {unit} is {error.dim1}, {to} is {error.dim2}: no conversion") from None
    except (pint.errors.PintError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ActionError(f"convert: {' '.join(str(error).split())[:120]}") from None
    return f"{found.magnitude:.{DIGITS}g} {to}"
