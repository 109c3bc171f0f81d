"""Diffusion models in the words of this book: four predictions that are one, and samplers that add noise on the way.

Chapter 6 derives the conversions, the stochastic differential equation and the ancestral sampler, and measures each
against the exact law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from fmtutor import _validate
from fmtutor.distributions.target import wide
from fmtutor.fields import Bound, Velocity, evaluate, field
from fmtutor.fields.inside import is_trained
from fmtutor.ode import Solution
from fmtutor.ode.steps import shares
from fmtutor.paths import PREDICTIONS, AffinePath

SDE_METHODS = ("euler_maruyama", "heun")


class Converted(nn.Module):
    """A model read in other words: what it predicts, turned by the path into another of the four predictions."""

    def __init__(self, model: Callable[[Tensor, Tensor], Tensor], path: AffinePath, source: str, to: str) -> None:
        super().__init__()
        if isinstance(model, partial) and not model.args:
            model = Bound(model.func, **model.keywords)  # a module: its network and its label are seen, and move along
        self.model, self.path = field(_validate.function("model", model)), _validate.kind("path", path, AffinePath)
        self.source, self.wanted = _validate.choice("predict", source, PREDICTIONS), to
        self.training = is_trained(model)  # and the parts of the model stay in the modes they are in

    def forward(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        own = torch.as_tensor(t).clone(), x.clone()  # a model may change what it is handed
        predicted = _validate.output_like("model", self.model(*own), x)
        return self.path.convert(t, x, predicted, source=self.source, to=self.wanted)


def as_velocity(model: Callable[[Tensor, Tensor], Tensor], path: AffinePath, predict: str) -> Converted:
    """A model that predicts "noise", "data", "score" or "velocity", as a velocity field `v(t, x)`.

    Papers on diffusion count time from data to noise. With `s = 1 - t`, their epsilon-prediction `eps(x, s)` is our
    "noise", and their x0-prediction our "data" (x0 is data there). Of DDPM's K steps, k = 1 next to the data, step k is
    our `t = 1 - k / K`, with `alpha(t) = sqrt(alphas_cumprod[k])`, `sigma(t) = sqrt(1 - alphas_cumprod[k])` and
    `beta_k = 1 - alphas_cumprod[k] / alphas_cumprod[k - 1]`; their v-prediction is `alpha x0 - sigma x1` in our names,
    on their paths the velocity up to a factor of time.

    Args:
        model: `m(t, x)`, which returns the shape of x; a label is bound before, by `partial` or `Bound`.
        path: the path on which it was trained.
        predict: what it predicts: "velocity", "score", "noise" or "data".

    Raises:
        TypeError: the model cannot be called, or the path is no AffinePath.
        ValueError: an unknown prediction; when it is called, a time at which the prediction does not determine the
            velocity (noise at alpha = 0, data at sigma = 0, the score at both): start a solver a little later, or
            stop it a little earlier, as with the `t1` of `ContinuousFlow`.

    Source: Lipman et al. (2024), "Flow Matching Guide and Code", table 1.

    Example:
        >>> path, x = AffinePath(), torch.tensor([[0.5]])
        >>> as_velocity(lambda t, x: 0 * x, path, predict="data")(0.5, x)  # straight towards 0
        tensor([[-1.]])
    """
    return Converted(model, path, predict, "velocity")


def as_score(model: Callable[[Tensor, Tensor], Tensor], path: AffinePath, predict: str) -> Converted:
    """A model as the score `grad log p_t(x)`; arguments and errors as in `as_velocity`.

    Example:
        >>> as_score(lambda t, x: 0 * x, AffinePath(), predict="data")(0.5, torch.tensor([[0.5]]))
        tensor([[-2.]])
    """
    return Converted(model, path, predict, "score")


@torch.no_grad()
def solve_sde(
    velocity: Velocity,
    path: AffinePath,
    x: Float[Tensor, "batch *event"],
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    noise: float | Callable[[float], float] = 1.0,
    method: str = "euler_maruyama",
    steps: int = 200,
    times: Tensor | Iterable[float] | None = None,
    generator: Generator | None = None,
) -> Solution:
    """Points that follow the velocity and are shaken on the way, with the same densities p_t at every time.

    It solves `dX = (u + g^2/2 score) dt + g dW`, with the score read from the velocity by the path. Noise spreads the
    points, and the score pulls them back by just as much, so the densities do not depend on g; with g = 0 this is the
    ordinary differential equation.

    Args:
        velocity: `v(t, x)`, the marginal velocity or a model of it.
        path: the path that it belongs to.
        x: the state at t0, `(batch, *event)`.
        t0: where to start, at least 0.
        t1: where to end, above t0 and at most 1.
        noise: g, a number or a function of the time, at least 0, in units of x per square root of time. A step of
            length h takes at most `sqrt(2 / h)` times the sigma at its end, since more would carry a point past the
            data that the score pulls it to. So the step onto data without noise draws none.
        method: "euler_maruyama", of weak order 1, or "heun", of weak order 2 where the noise is smooth in time.
            A step of Heun that ends where the path has no noise left is one of Euler.
        steps: how many equal steps; with `times`, each interval gets its share, rounded up.
        times: the times at which to keep the state, strictly rising; their ends replace t0 and t1.
        generator: where the noise comes from; torch's global generator unless given.

    Returns:
        The `Solution`; its `nfe` counts evaluations of the velocity.

    Raises:
        TypeError: x does not hold floating-point numbers, or an argument is of the wrong kind.
        ValueError: x or a velocity is not finite, times do not rise or leave [0, 1], the method is unknown, g is
            negative, or the velocity does not tell the score at a time that is asked for.

    Source: Song et al. (2021), equation 6 and appendix D.1; Albergo, Boffi and Vanden-Eijnden (2023),
        "Stochastic Interpolants", on generative models.

    Example:
        >>> from fmtutor.distributions import StandardNormal
        >>> path, target = AffinePath(), StandardNormal(1)
        >>> exact = lambda t, x: path.marginal_velocity(t, x, target)
        >>> x = solve_sde(exact, path, torch.randn(10_000, 1), t1=0.5, noise=2.0, steps=50).x
        >>> round(x.std().item(), 1)  # sqrt(0.5^2 + 0.5^2)
        0.7
    """
    _validate.choice("method", method, SDE_METHODS), _validate.random(generator)
    field(velocity), _validate.kind("path", path, AffinePath)
    _validate.per_row("t0", t0, _validate.finite("x", x))
    g = noise if callable(noise) else lambda t: noise
    grid, kept = _grid(times if times is not None else (t0, t1), _validate.whole("steps", steps))
    state, calls = wide(x), 0
    at = state.new_tensor(grid)
    sigma = path.coefficients(at, at).sigma.tolist()

    def drift(t: float, state: Tensor, g: float) -> Tensor:
        nonlocal calls
        calls += 1
        now = torch.as_tensor(t, dtype=state.dtype, device=x.device)
        u = evaluate(velocity, now, state.to(x.dtype))
        u = _validate.finite(f"velocity at t = {t:g}", u).to(state)
        if not g:
            return u
        return u + 0.5 * g**2 * path.convert(t, state, u, source="velocity", to="score")

    states = [x]
    for k, (t, end) in enumerate(pairwise(grid)):
        h = end - t
        now, then = (min(_noise(g, s), (2 / h) ** 0.5 * sigma[k + 1]) for s in (t, end))
        slope = drift(t, state, now)
        if method == "euler_maruyama" or not sigma[k + 1]:
            state = state + h * slope + now * h**0.5 * _normal_like(state, generator)
        else:
            shaken = (0.5 * (now**2 + then**2) * h) ** 0.5 * _normal_like(state, generator)
            ahead = drift(end, state + h * slope + shaken, then)
            state = state + 0.5 * h * (slope + ahead) + shaken
        if k + 1 in kept:
            states.append(state.to(x.dtype))
    return Solution(states[-1], at[sorted({0, *kept})], torch.stack(states), calls)


@torch.no_grad()
def ancestral(
    data: Callable[[Tensor, Tensor], Tensor],
    path: AffinePath,
    x: Float[Tensor, "batch *event"],
    *,
    steps: int = 50,
    eta: float = 1.0,
    times: Tensor | Iterable[float] | None = None,
    generator: Generator | None = None,
) -> Solution:
    """The sampler of DDPM and DDIM: guess the end, go to the next time on the path that ends there, guess again.

    From x at time s, with the end z and the noise `e = (x - alpha_s z) / sigma_s` that would have led here, the next
    state is `alpha_t z + sqrt(sigma_t^2 - c^2) e + c w` with fresh noise w. With `eta = 1`, c is the spread at t, given
    x and z, of the diffusion that turns data into noise step by step: DDPM, whose step from k to k - 1 of K is ours
    from `t = 1 - k / K` to `1 - (k - 1) / K`; their posterior variance is c^2, which is
    `beta_k (1 - alphas_cumprod[k - 1]) / (1 - alphas_cumprod[k])`. With `eta = 0` nothing is drawn: DDIM, which is
    Euler's method for `x / alpha` against `sigma / alpha`.

    If `data` draws z from its exact posterior, the densities at the visited times are exact for any number of steps;
    with the mean of z, which is what a network knows, only for many.

    Args:
        data: `data(t, x)`, a guess of x1 for each x, of the shape of x; see `Target.sample_posterior` and
            `AffinePath.convert`.
        path: the path.
        x: the state at the first time, `(batch, *event)`.
        steps: how many equal steps from 0 to 1; ignored where `times` are given.
        eta: how much of the noise is drawn anew, from 0 to 1.
        times: the times to visit, strictly rising.
        generator: where fresh noise comes from; torch's global generator unless given.

    Returns:
        The `Solution`, with the state at every visited time.

    Raises:
        TypeError: x does not hold floating-point numbers, or an argument is of the wrong kind.
        ValueError: x or a guess is not finite, times do not rise or leave [0, 1], eta is outside [0, 1], or noise
            grows along the path.

    Source: Ho et al. (2020), equation 7; Song, Meng and Ermon (2021), DDIM, equations 12 and 16.

    Example:
        >>> x0 = torch.randn(3, 1)
        >>> ends = ancestral(lambda t, x: torch.ones_like(x), AffinePath(), x0, steps=4, eta=0.0)
        >>> ends.x.flatten(), ends.nfe
        (tensor([1., 1., 1.]), 4)
    """
    field(_validate.function("data", data)), _validate.kind("path", path, AffinePath)
    _validate.random(generator)
    if not 0 <= _validate.number("eta", eta) <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    _validate.per_row("t", 0.0, _validate.finite("x", x))
    if times is None:
        grid, _ = _grid((0.0, 1.0), _validate.whole("steps", steps))
    else:
        grid, _ = _grid(times, 1)
    state, states = wide(x), [x]
    at = state.new_tensor(grid)
    for k, (s, t) in enumerate(pairwise(grid)):
        asked = data(_validate.rounded(at[k], x.dtype), state.to(x.dtype, copy=True))
        z = _validate.finite(f"data at t = {s:g}", _validate.output_like("data", asked, x))
        now, then = path.coefficients(s, state), path.coefficients(t, state)
        if not (now.sigma > 0).all():
            none_left = f"but at t = {s:g} there is none left to remove"
            raise ValueError(f"times must end where the noise does, {none_left}")
        # of the noise at s, the share that t has too
        kept = (now.alpha / then.alpha * then.sigma / now.sigma).square()
        if (kept > 1).any():
            grows = f"but from t = {s:g} to {t:g} it grows against the data"
            raise ValueError(f"noise must fall along the path, {grows}")
        fresh = eta**2 * (1 - kept)
        old = kept + (1 - eta**2) * (1 - kept)  # 1 - fresh, with its digits where little is kept
        state = then.alpha * z + then.sigma * old.sqrt() * (state - now.alpha * z) / now.sigma
        if eta:
            state = state + then.sigma * fresh.sqrt() * _normal_like(state, generator)
        states.append(state.to(x.dtype))
    return Solution(states[-1], at, torch.stack(states), len(grid) - 1)


def _normal_like(x: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _noise(g: Callable[[float], float], t: float) -> float:
    """g at a time, checked."""
    return float(_validate.positive(f"noise at t = {t:g}", g(t), or_zero=True))


def _grid(times: Any, steps: int) -> tuple[list[float], set[int]]:
    """The ends of all steps, and which of them are `times`: each interval in equal steps, about `steps` in all."""
    try:
        wanted = [float(t) for t in times]
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"times must be a row of numbers, got {times!r}") from None
    if len(wanted) < 2 or not all(a < b for a, b in pairwise(wanted)):
        raise ValueError(f"times must strictly rise (noise is removed from t0 to t1), got {wanted}")
    if wanted[0] < 0 or wanted[-1] > 1:
        raise ValueError(f"times must lie in [0, 1], got {wanted}")
    grid, kept = wanted[:1], set()
    for (a, b), n in zip(pairwise(wanted), shares(wanted, steps), strict=True):
        grid += [a + (b - a) * (k + 1) / n for k in range(n - 1)] + [b]
        kept.add(len(grid) - 1)
    return grid, kept
