"""Formulas that chapter 9 prints, read from the page and evaluated: at its own numbers a wrong power can look right."""

from __future__ import annotations

import math
import re
from typing import Any

from pages import BOOK, Slip, cells, judge, with_slips
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm

PAGE = "09_guidance"
PLACES = [(1.0, 2.0, 3.0), (0.4, 1.3, 1.7), (2.0, 0.7, 1.3)]


def printed(pattern: str, slip: Slip) -> str:
    """The one formula between two others, as Python: powers, fractions, and products without a sign."""
    (tex,) = re.findall(pattern, (BOOK / f"{PAGE}.md").read_text())
    if slip[0]:
        assert slip[0] in tex
        tex = tex.replace(*slip)
    tex = re.sub(r"\\[,;]", " ", tex.replace("m_i^{(2)}", "m"))
    while "^" in tex:
        tex = re.sub(r"\^(\w|\{[^{}]*\})", lambda power: f"**({power[1].strip('{}')})", tex)
    tex = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", tex)
    tex = re.sub(r"/ (.*)\)$", r"/ (\1))", tex)  # all that stands behind a slash is below it
    return re.sub(r"(?<=[\w)])\s*(?=[A-Za-z(])", "*", tex)


def ode(a: float, b: float, w: float) -> float:
    """x times x along the rates of growth of both deviations, on the path alpha = t, sigma = 1 - t."""
    grown = lambda s2: lambda t: (t * s2 - (1 - t)) / (t * t * s2 + (1 - t) ** 2)  # noqa: E731
    return math.exp(2 * quad(lambda t: w * grown(a)(t) + (1 - w) * grown(b)(t), 0, 1, epsabs=1e-10)[0])


def ddpm(a: float, b: float, w: float) -> float:
    """The variance of DDPM's sampler, followed in the logarithm of tau from far away."""
    rate = lambda s, v: (2 * (w / (a + math.exp(s)) + (1 - w) / (b + math.exp(s))) * v - 1) * math.exp(s)  # noqa: E731
    return solve_ivp(rate, (math.log(1e6), math.log(1e-9)), [1e6], rtol=1e-9, atol=1e-12).y[0, -1]


def most(formula: str, truth: Any) -> float:
    """The largest error at three places; at the first, that of the page, powers of a do not show."""
    return max(abs(eval(formula, {"a": a, "b": b, "w": w}) / truth(a, b, w) - 1) for a, b, w in PLACES)


@with_slips(("{1 - w}", "{w - 1}"), ("a^w", "a^{w - 1}"), ("a^w", "a^{2w}"))
def test_where_the_theorem_says_that_guided_gaussians_end(slip: Slip) -> None:
    judge(most(printed(r"\\Normal\\big\(0,\\; (a.*?)\\big\)", slip), ode), slip, 1e-6, 0.1)


@with_slips(("a^{2w}", "a^{w}"), ("{2 - 2w}", "{1 - 2w}"), ("(b/a)", "(a/b)"), ("(2w - 1)\\,", ""))
def test_where_the_formula_in_print_says_that_ddpm_ends(slip: Slip) -> None:
    judge(most(printed(r"\$\$\n(.*) ,\n\$\$ \(ddpm-end\)", slip), ddpm), slip, 1e-4, 0.05)


@with_slips(
    ("a**w * b", "a ** (w - 1) * b"), ("a ** (2 * w) *", "a**w *"),
    ("((2 * w - 1) * (b - a))", "((2 * w - 1) * b / 2)"),
)  # fmt: skip
def test_the_theory_of_the_table_holds_for_other_variances(slip: Slip) -> None:
    (cell,) = [cell for cell in cells(PAGE) if "theory = {" in cell]
    lines = "\n".join(line for line in cell.splitlines() if line.startswith(("ddpm =", "theory =")))
    lines, off = lines.replace(*slip) if slip[0] else lines, 0.0
    for a, b, w in PLACES:
        known: dict[str, Any] = {"a": a, "b": b, "w": w}
        exec(lines, known)
        for name, truth in (("ODE", ode), ("DDPM's sampler", ddpm)):
            off = max(off, abs(known["theory"][name] / truth(a, b, w) - 1))
    judge(off, slip, 1e-4, 0.1)


@with_slips(("/ 2 s", "/ s"), ("s^2", "s"), ("-(c", "(c"))
def test_the_weights_of_bumps_that_are_cut(slip: Slip) -> None:
    """They are in proportion to the normal density at the height c."""
    formula = printed(r"weights proportional to \$(.*?)\$", slip)
    heights, s, c = (0.5, -0.5), 0.7, 0.4
    one, other = (eval(formula, {"e": math.e, "c": c, "m": m, "s": s}) for m in heights)
    truth = norm.pdf(c, heights[0], s) / norm.pdf(c, heights[1], s)
    judge(abs(one / other / truth - 1), slip, 1e-9, 0.1)
