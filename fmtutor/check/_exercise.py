"""What every exercise shares: an answer not tried yet is no error, an error in an answer is shown and not raised.

A chapter's file of checks writes one function per exercise, decorated with `exercise`, that returns what is wrong with
an answer or `None`; `diagnose`, `choose` and `number` recognise the typical mistakes.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmtutor.check._card import Entry, Result
from fmtutor.check._diagnose import names

EXERCISES: list[Entry] = []

_NOT_THE_READERS = (str(Path(__file__).parents[1]), *{sysconfig.get_path(k) for k in ("stdlib", "purelib", "platlib")})


_IDLE = {step.opname for step in dis.get_instructions(lambda: None)}


class _NotAttempted(Exception):
    """The answer is, or returned, `...` or `None`."""


class _Raised(Exception):
    """The reader's function raised; the message says what and where."""


def exercise(
    chapter: int, number: int, right: str = "That is right."
) -> Callable[[Callable[[Any], str | None]], Callable[[Any], Result]]:
    """Make an exercise of a function that returns what is wrong with an answer, or `None`.

    The first paragraph of its docstring is the statement in the catalogue. The check draws its points from torch's
    random numbers as they stand and puts their state back: after one seed it asks for the same points, after another
    for others, so that numbers kept from an earlier call do not pass; and the reader's next draw is what it would have
    been.

    Args:
        chapter: Number of the chapter that asks it.
        number: Its place among the exercises of the page, from 1. A small question that is asked inside another
            exercise has that one's number.
        right: What the reader is told when the answer is right.
    """

    def decorate(find_mistake: Callable[[Any], str | None]) -> Callable[[Any], Result]:
        name, statement = find_mistake.__name__, inspect.getdoc(find_mistake) or ""
        EXERCISES.append(Entry(chapter, number, name, " ".join(statement.split("\n\n")[0].split())))

        @functools.wraps(find_mistake)
        def check(answer: Any) -> Result:
            try:
                with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                    mistake = find_mistake(_guarded(answer))
            except _NotAttempted:
                return Result(False, "not attempted yet", name, pending=True)
            except (Exception, SystemExit) as error:  # the reader sees a card, whatever their code does
                if _met_a_blank(error):
                    return Result(False, "not attempted yet", name, pending=True)
                return Result(False, str(error) if isinstance(error, _Raised) else _describe(error), name)
            return Result(mistake is None, right if mistake is None else mistake, name)

        check.__annotations__ = {**find_mistake.__annotations__, "return": Result}
        check.__signature__ = inspect.signature(find_mistake).replace(return_annotation=Result)  # type: ignore[attr-defined]
        return check

    return decorate


def _met_a_blank(error: BaseException) -> bool:
    """Whether code stopped at something unwritten: `raise NotImplementedError`, or a sum with `...` in it."""
    root = error.__cause__ or error
    dots = "ellipsis" in str(root).lower() and not isinstance(root, IndexError)  # numpy allows one in an index
    return dots or isinstance(root, NotImplementedError)


def _blank(value: Any) -> bool:
    return value is None or value is ... or (isinstance(value, tuple | list) and any(_blank(item) for item in value))


def _guarded(answer: Any) -> Any:
    """`answer`; a function comes back as one that reports blanks and errors as ours."""
    if _blank(answer):
        raise _NotAttempted
    if not callable(answer) or isinstance(answer, type | nn.Module):
        return answer
    keywords = _keywords(answer)

    @functools.wraps(answer, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        places = len(args) - len(keywords)
        try:
            out = answer(*args[:places], **dict(zip(keywords, args[places:], strict=False)), **kwargs)
        except (Exception, SystemExit) as error:
            raise _Raised(f"{_describe(error)}{_shapes(answer, args)}") from error
        if out is None and _does_something(answer):
            raise _Raised("Your function returned None: is a `return` missing at its end?")
        if _blank(out):
            raise _NotAttempted
        return out

    return call


def _does_something(function: Callable[..., Any]) -> bool:
    """Whether a function has more in it than a docstring, `...` or `pass`."""
    code = getattr(function, "__code__", None)
    return code is not None and {step.opname for step in dis.get_instructions(code)} > _IDLE


def _describe(error: BaseException) -> str:
    """An error in a sentence, with the reader's own line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_NOT_THE_READERS)]
    where = ""
    if frames and (last := frames[-1]).lineno:
        where = f", in line {last.lineno} of your cell" + (f": `{last.line}`" if last.line else "")
    return f"Your code raised {type(error).__name__}: {error}{where}"


def _keywords(function: Any) -> list[str]:
    """The parameters that can only be given by name, which are then filled in their order."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]


def _shapes(answer: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """The shapes that `answer` was called with, which is where most errors of tensor code come from."""
    if len(parameters := names(answer)) != len(args):
        return ""
    shapes = [f"`{n}` {tuple(a.shape)}" for n, a in zip(parameters, args, strict=True) if isinstance(a, Tensor)]
    return f"\nIt was called with shapes {', '.join(shapes)}." if shapes else ""
