"""Judges a prediction: a pick from a few phrases, or one number, in whatever form a reader writes them.

"First half." is the first half, and "63 %" and "1 - 1/e" are numbers; what is refused is refused for its content.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fmtutor.check._diagnose import Unusable, kind, numbers

# Words that make no difference to a pick. What a check adds (`same`) is about its own phrases.
_EMPTY = {
    "a", "an", "the", "it", "its", "is", "are", "be", "would", "will", "of", "for", "in", "to", "that", "they", "own",
    "because", "and",
}  # fmt: skip
_SAME = {"halves": "half", "1st": "first", "2nd": "second", "none": "neither"}
_NEGATIONS = {"not", "no", "never", "nor"}

Mistakes = Mapping[str, float | tuple[float, ...]]

_NAMES = {"pi": math.pi, "e": math.e, "inf": math.inf, "infinity": math.inf}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "log": math.log, "ln": math.log, "log2": math.log2, "log10": math.log10, "exp": math.exp, "sqrt": math.sqrt
}  # fmt: skip
_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
_SPELLINGS = [
    (r"[`'\"\s.]+$|^[`'\"\s=~≈]+|^about |math\.|torch\.|np\.", ""),
    (r"−|\bminus ", "-"),
    (r"×|·", "*"),
    (r"\^", "**"),
    (r"π", "pi"),
    (r"√", "sqrt"),
    (r"\b(\d*)(ln|sqrt)\s*(\d+\.?\d*)|\b(\d*)(log|log2|log10|exp)\s+(\d+\.?\d*)", r"\1\4\2\5(\3\6)"),  # ln 2
    (r"[%％]|\bper ?cent\b", "/100"),
    (r"\b0,(?=\d)", "0."),
    (r"(?<=\d)[ ,_](?=\d{3}\b)", ""),  # 1 000
    (r"(?<=\d)\s*(?=(pi|log|ln|log2|sqrt|exp)\b|e\b(?![-+]?\d))", "*"),  # 2 pi, and not 2e-3
    (r"(?<=\d)\s*(x|-?fold)$|(?<=[\d)])(\s+[a-z]+)+$", ""),  # 100x, 512 passes
]


def choose(answer: Any, right: str, mistakes: Mapping[str, str], same: Mapping[str, str] | None = None) -> str | None:
    """What is wrong with a prediction picked from a few phrases, or `None` if it is `right`.

    Args:
        answer: The reader's pick. Case, articles, punctuation, plurals and words that add nothing do not count, and a
            part of a phrase will do where only one phrase has it.
        right: The right phrase.
        mistakes: Wrong phrase -> why it is wrong.
        same: Word -> the word of the phrases that it stands for, or "" for a word that adds nothing here.

    Example:
        >>> choose("The mean.", "a mean", {"a median": "For that the square would have to go."}) is None
        True
        >>> choose("median", "a mean", {"a median": "For that the square would have to go."})
        'For that the square would have to go.'
        >>> choose("no idea", "a mean", {"a median": "..."})
        "Pick one of 'a mean', 'a median'; you wrote 'no idea'."
    """
    if callable(answer):
        return f"A few words are wanted here, you gave {kind(answer)}."
    pick = _match(str(answer), [right, *mistakes], same or {})
    if pick == right:
        return None
    options = ", ".join(map(repr, sorted([right, *mistakes])))
    return mistakes[pick] if pick else f"Pick one of {options}; you wrote {str(answer)!r}."


def number(
    answer: Any,
    right: float,
    mistakes: Mistakes,
    *,
    decimals: int | None = None,
    tolerance: float = 1e-6,
    known: float = 0.01,
) -> str | None:
    """What is wrong with a predicted number, or `None` if it is `right`.

    Args:
        answer: The reader's number, as a number or as text: 0.632, "63.2 %" and "1 - 1/e" are read.
        right: The right one.
        mistakes: Message -> the wrong number that it explains, or several. First match wins.
        decimals: An answer may be rounded to so many decimals or more; without, it may not.
        tolerance: Error allowed besides that, relative to the size of `right`.
        known: How near an answer is to a number of `mistakes` that is meant, relative to that number. Smaller where
            two of them lie close together.

    Example:
        >>> [number(near, math.pi, {}, decimals=2) is None for near in (3.14, 3.142, "pi", 3.15, 3.143)]
        [True, True, True, False, False]
        >>> number(6.2832, math.pi, {"The radius is half of that.": 2 * math.pi})
        'The radius is half of that.'
    """
    try:
        given = _one_number(answer)
    except Unusable as error:
        return str(error)
    rounded = [round(right, k) for k in range(decimals, decimals + 8)] if decimals is not None else []
    if _near(given, right, tolerance) or any(_near(given, r, 1e-9) for r in rounded):
        return None
    for message, wrong in mistakes.items():
        if any(_near(given, w, known) for w in (wrong if isinstance(wrong, tuple) else (wrong,))):
            return message
    if not math.isfinite(given):
        return f"Your answer is {given}: a finite number is wanted."
    if _near(given, -right, 0.01):
        return "The size is right and the sign is wrong."
    if right and given and _near(1 / given, right, 0.01):
        return "It is upside down: yours is one over the right answer."
    if _near(given, right, 0.03) and decimals is None and tolerance <= 1e-6:
        return "Very close, and this number is exact: is there one too many, or one too few, in it?"
    if _near(given, right, 0.03):
        return "Very close, and not equal: is it rounded too early, cut off, or solved with few steps or few draws?"
    return f"Off by {abs(given - right):.3g}: look at it again."


def _near(given: float, other: float, tolerance: float) -> bool:
    return given == other or abs(given - other) <= tolerance * min(abs(other), 1e300)


def _one_number(answer: Any) -> float:
    if isinstance(answer, bool):
        raise Unusable(f"A number is wanted here, your answer is {answer}.")
    if isinstance(answer, str):
        value = read_number(answer)
        if value is None:
            raise Unusable(f"A number is wanted here, such as 0.25, '25 %' or 'exp(-2)'; you wrote {answer!r}.")
        return value
    if not isinstance(answer, Tensor) and hasattr(answer, "__float__") and not getattr(answer, "shape", ()):
        answer = float(answer)  # a Fraction or a Decimal, too
    values = numbers(answer)
    if values.numel() != 1:
        raise Unusable(f"One number is wanted here, your answer has shape {tuple(values.shape)}.")
    return values.item()


def read_number(text: str) -> float | None:
    """The number that a text stands for, or `None`.

    Example:
        >>> [read_number(text) for text in ("63 %", "10^2", "512 passes", "1 000", "log(e)", "soon")]
        [0.63, 100.0, 512.0, 1000.0, 1.0, None]
    """
    plain = text.strip().lower()
    for spelling, ours in _SPELLINGS:
        plain = re.sub(spelling, ours, plain)
    try:
        return _evaluate(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.AST) -> float:
    """Arithmetic and nothing else: no name, call or attribute that is not in the tables above."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.Name(id=name):
            return _NAMES[name]
        case ast.UnaryOp(op=op, operand=a):
            return _OPERATORS[type(op)](_evaluate(a))
        case ast.BinOp(left=a, op=op, right=b):
            return float(_OPERATORS[type(op)](_evaluate(a), _evaluate(b)))
        case ast.Call(func=ast.Name(id=name), args=[a]):
            return _FUNCTIONS[name](_evaluate(a))
    raise ValueError


def _match(text: str, options: list[str], same: Mapping[str, str]) -> str | None:
    """The one option that has the words of `text`, or whose words `text` has; `None` where that is none or several."""
    given, known = _words(text, same), {option: _words(option, same) for option in options}
    if not given:
        return None
    if equal := [option for option in options if known[option] == given]:
        return equal[0]
    if given & _NEGATIONS:
        return None
    within = [option for option in options if given < known[option]]
    within = [o for o in within if not any(known[other] < known[o] for other in within)]
    around = [option for option in options if known[option] < given]
    around = [o for o in around if not any(known[o] < known[other] for other in around)]
    found = within or around
    return found[0] if len(found) == 1 else None


def _words(text: str, same: Mapping[str, str]) -> set[str]:
    alike = _SAME | dict(same)
    words = (alike.get(word, word) for word in re.findall(r"[a-z0-9]+", text.lower()))
    singular = (word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word for word in words)
    return {alike.get(word, word) for word in singular} - _EMPTY - {""}
