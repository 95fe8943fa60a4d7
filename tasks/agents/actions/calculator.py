"""The calculator action: exact arithmetic over integers and fractions, parsed by Python's grammar, never evaluated.

`12 * 7`, `(3 + 4) ** 2 / 7`, `0.1 + 0.2`: numbers, + - * / // % **, signs and brackets, nothing else. Decimals
are exact fractions, so 0.1 + 0.2 is 0.3. Sizes are bounded before a number is made, so no expression takes long.
"""

from __future__ import annotations

import ast
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from tasks.agents.tools import ActionError

PATTERN = r"^[0-9]{1,9}( [-+*/] [0-9]{1,9}){1,3}$"   # what models are told; `evaluate` reads more
LENGTH = 200        # characters of an expression
DEPTH = 50          # nested operations
BITS = 4_096        # of a numerator or denominator: about 1,200 digits
DIGITS = 12         # decimal places shown where a fraction has no finite decimal form


def calculator(expression: Annotated[str, Field(max_length=45, pattern=PATTERN)]) -> str:
    """exact arithmetic"""
    return render(evaluate(expression))


def evaluate(expression: str) -> Fraction:
    """The exact value of an arithmetic expression. Raises ActionError saying what is wrong with it."""
    if len(expression) > LENGTH:
        raise ActionError(f"the expression is {len(expression)} characters long, at most {LENGTH} are read")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ActionError(f"{expression!r} is not an arithmetic expression") from None
    return value(tree.body, expression)


def value(node: ast.expr, source: str, depth: int = 0) -> Fraction:
    """The value of one node of the parsed expression; `source` gives a decimal's digits as written."""
    if depth > DEPTH:
        raise ActionError(f"the expression is nested deeper than {DEPTH} operations")
    match node:
        case ast.Constant(value=bool()):
            raise ActionError(f"{node.value} is not a number")
        case ast.Constant(value=int()):
            return bounded(Fraction(node.value))
        case ast.Constant(value=float()):
            return decimal(ast.get_source_segment(source.strip(), node) or "")
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return value(operand, source, depth + 1)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value(operand, source, depth + 1)
        case ast.BinOp(left=left, op=operator, right=right):
            return apply(operator, value(left, source, depth + 1), value(right, source, depth + 1))
        case _:
            raise ActionError(f"{type(node).__name__} is not arithmetic: numbers, + - * / // % ** and brackets are")


def decimal(text: str) -> Fraction:
    """A decimal literal as an exact fraction; its exponent is bounded before the number is made."""
    mantissa, _, exponent = text.lower().replace("_", "").partition("e")
    if exponent and abs(int(exponent)) > BITS // 4:
        raise ActionError(f"{text} is too large or too small a number")
    return bounded(Fraction(mantissa) * Fraction(10) ** int(exponent or 0))


def apply(operator: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    """`left operator right`, exactly."""
    match operator:
        case ast.Add():
            return bounded(left + right)
        case ast.Sub():
            return bounded(left - right)
        case ast.Mult():
            return bounded(left * right)
        case ast.Pow():
            return power(left, right)
        case ast.Div() | ast.FloorDiv() | ast.Mod() if right == 0:
            raise ActionError("division by zero")
        case ast.Div():
            return bounded(left / right)
        case ast.FloorDiv():
            return Fraction(left // right)
        case ast.Mod():
            return bounded(left % right)
        case _:
            raise ActionError(f"{type(operator).__name__} is not one of + - * / // % **")


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent for a whole exponent, refused before it is computed where the result would be too long."""
    if exponent.denominator != 1:
        raise ActionError("only whole exponents are exact")
    if base == 0 and exponent < 0:
        raise ActionError("division by zero")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and (size - 1) * abs(exponent) > BITS:
        raise ActionError(f"the result would have more than {BITS} bits")
    return bounded(base ** (int(exponent) if abs(base) != 1 else int(exponent) % 2))


def bounded(number: Fraction) -> Fraction:
    """`number` itself, refused where it has more than BITS bits."""
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > BITS:
        raise ActionError(f"the result has more than {BITS} bits")
    return number


def render(number: Fraction) -> str:
    """A whole number or a finite decimal exactly; any other fraction rounded to DIGITS places, marked as about."""
    if number.denominator == 1:
        return str(number.numerator)
    twos, rest = 0, number.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    fives = 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    exact = rest == 1 and max(twos, fives) <= 100
    places = max(twos, fives) if exact else DIGITS
    scaled = round(abs(number) * 10**places)
    digits = str(scaled).rjust(places + 1, "0")
    sign = "-" if number < 0 and scaled else ""
    return f"{'' if exact else 'about '}{sign}{digits[:-places]}.{digits[-places:]}"
