"""Size expressions in a saved torch.export program, which sympy evaluates as Python.

torch writes them in sympy's notation (Add(Symbol('s0', integer=True), Integer(1))), older versions as Python (s0 + 1).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["LARGEST", "LONGEST", "check_expression", "shown"]

LARGEST, LONGEST = 2**63, 20_000
# The functions of sympy's notation, in which torch writes sizes.
_NUMBERS = ("Float", "Integer", "Rational")
_POWERS = ("FloatPow", "LShift", "Pow", "PowByNatural", "RShift")
_FUNCTIONS = """
    Abs Add And CeilDiv CeilToInt CleanDiv Eq Equality FloatTrueDiv FloorDiv FloorToInt Ge GreaterThan Gt Identity
    IntTrueDiv IsNonOverlappingAndDenseIndicator Le LessThan Lt Max Min Mod ModularIndexing Mul Ne Not Or PythonMod
    RoundDecimal RoundToInt StrictGreaterThan StrictLessThan ToFloat TruncToFloat TruncToInt Unequality Where ceiling
    floor
"""
_SYMBOL = re.compile(r"[a-z]{1,4}[0-9]{1,6}")
_DIGITS = re.compile(r"-?[0-9.]{1,40}(e[+-]?[0-9]{1,3})?")
_LARGEST_POWER, _LARGEST_PRECISION = 16, 1000
_OPERATORS = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Load),
)


def check_expression(text: str) -> None:
    """Raises ValueError for anything but symbols, numbers and known functions."""
    try:
        if len(text) > LONGEST:
            raise SyntaxError("too long")
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{shown(text)} is not an expression of a size") from error
    try:
        _check_term(tree, in_power=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"its size {shown(text)} is not an expression of symbols, numbers and known functions"
        ) from error


def _check_term(term: ast.AST, *, in_power: bool) -> None:
    """Raises ValueError for anything else. A power of a power could have more digits than fit into memory."""
    match term:
        case ast.Constant(value=int() | float() as number) if abs(number) <= LARGEST:
            return None
        case ast.Name(id="true" | "false" | "oo" | "int_oo"):
            return None
        case ast.Name(id=name) if _SYMBOL.fullmatch(name):
            return None
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)], keywords=options):
            if _SYMBOL.fullmatch(name) and all(_is_flag(option.value) for option in options):
                return None
        case ast.Call(func=ast.Name(id=name), args=numbers, keywords=options) if name in _NUMBERS:
            if all(map(_is_number, numbers)) and all(_is_precision(option) for option in options):
                return None
        case ast.Call(func=ast.Name(id=name), args=[base, exponent], keywords=[]) if name in _POWERS:
            return _check_power(base, exponent, in_power=in_power)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _check_power(base, exponent, in_power=in_power)
        case ast.Call(func=ast.Name(id=name), args=terms, keywords=options) if name in _FUNCTIONS.split():
            if all(option.arg == "evaluate" and _is_flag(option.value) for option in options):
                return _check_terms(terms, in_power=in_power)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
            return _check_terms([left, right], in_power=in_power)
        case ast.UnaryOp(op=op, operand=operand) if isinstance(op, _OPERATORS):
            return _check_terms([operand], in_power=in_power)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(op, _OPERATORS):
            return _check_terms([left, right], in_power=in_power)
    raise ValueError(type(term).__name__)


def _check_terms(terms: Sequence[ast.AST], *, in_power: bool) -> None:
    for term in terms:
        _check_term(term, in_power=in_power)


def _check_power(base: ast.AST, exponent: ast.AST, *, in_power: bool) -> None:
    number = exponent.operand if isinstance(exponent, ast.UnaryOp) else exponent
    if isinstance(number, ast.Call) and number.args:
        number = number.args[0]
    value = number.value if isinstance(number, ast.Constant) else None
    if in_power or not isinstance(value, int | float) or abs(value) > _LARGEST_POWER:
        raise ValueError("a power")
    _check_terms([base, exponent], in_power=True)


def _is_flag(value: ast.AST) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, bool)


def _is_precision(option: ast.keyword) -> bool:
    value = option.value.value if isinstance(option.value, ast.Constant) else None
    return option.arg == "precision" and isinstance(value, int) and 0 < value <= _LARGEST_PRECISION


def _is_number(term: ast.AST) -> bool:
    if isinstance(term, ast.UnaryOp):
        return isinstance(term.op, ast.USub) and _is_number(term.operand)
    if not isinstance(term, ast.Constant):
        return False
    if isinstance(term.value, str):
        return _DIGITS.fullmatch(term.value) is not None
    return isinstance(term.value, int | float) and abs(term.value) <= LARGEST


def shown(value: Any) -> str:
    """An untrusted text for an error message: short, without control characters of a terminal."""
    return repr(value if len(str(value)) <= 80 else f"{str(value)[:77]}...")
