"""A number known to lie in one of several intervals, seen through Gaussian noise: what can be said of it.

The closed forms behind `Checkerboard`: a normal density cut off at both ends, in logarithms, so that they hold from no
information (interval far narrower than the noise) to certainty (noise far below the distance to the interval).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

_NARROW = 0.5  # below this width, or this fall of the log-density across it, quadrature is exact to rounding


@cache
def gauss_legendre(n: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """The n places and weights that integrate a polynomial of degree 2n - 1 exactly; high may be below low."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (low + high) / 2 + (high - low) / 2 * nodes, (high - low) / 2 * weights


def _mills(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """(1 - Phi(z)) / phi(z) for z >= 0, with a derivative that stays finite where that of `log_ndtr` is NaN."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(z / math.sqrt(2))


def _log_normal(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)


def _narrow(centre: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean density, and the mean place, over an interval so narrow that a polynomial follows the density."""
    nodes, weights = (
        torch.as_tensor(a, dtype=centre.dtype, device=centre.device) for a in gauss_legendre(6, -0.5, 0.5)
    )
    z = centre[..., None] + width[..., None] * nodes
    log_terms = _log_normal(z) + torch.log(weights)
    return torch.logsumexp(log_terms, -1), (torch.softmax(log_terms, -1) * nodes).sum(-1)


def _tail(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The same where both ends lie in the left tail: everything relative to the density at the upper end."""
    centre, width = (low + high) / 2, high - low
    fall = centre * width  # log(phi(low) / phi(high)), without subtracting two squares
    mass = _mills(-high) - _mills(-low) * torch.exp(fall)
    return _log_normal(high) + torch.log(mass / width), (torch.expm1(fall) / mass - centre) / width


def _across(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The same where the interval holds zero: one, less two tails."""
    centre, width = (low + high) / 2, high - low
    phi_low, phi_high = torch.exp(_log_normal(low)), torch.exp(_log_normal(high))
    mass = 1 - _mills(-low) * phi_low - _mills(high) * phi_high
    return torch.log(mass / width), ((phi_low - phi_high) / mass - centre) / width


def truncated_normal(
    low: Float[Tensor, "..."], high: Float[Tensor, "..."]
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Of a standard normal z cut to [low, high]: the log of its mean density there, and where its mean lies.

    Returns:
        `log((Phi(high) - Phi(low)) / (high - low))`, and `(E[z] - centre) / width`, from -1/2 at the lower end to 1/2
        at the upper one. Both have limits as the width goes to zero: the log-density at the centre, and 0.

    Source: Johnson, Kotz and Balakrishnan (1994), Continuous Univariate Distributions 1, section 10.1.

    Example:
        >>> low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([1.0, 9.0]).double()
        >>> truncated_normal(low, high)[1]  # in the middle; sqrt(2 / pi) from the lower end of 9
        tensor([ 0.0000, -0.4113], dtype=torch.float64)
    """
    flip = low + high > 0  # by symmetry, look at every interval from its left
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    centre, width = (low + high) / 2, high - low
    narrow = torch.maximum(width, -centre * width) < _NARROW
    across = ~narrow & (high >= 0)
    # each branch sees harmless numbers where another is used: a NaN there would enter the gradient through `where`
    log_density, mean = _narrow(torch.where(narrow, centre, 0.0), torch.where(narrow, width, 0.0))
    for branch, used, spare in ((_across, across, -0.5), (_tail, ~narrow & ~across, -2.5)):
        found = branch(torch.where(used, low, spare), torch.where(used, high, spare + 1))
        log_density, mean = torch.where(used, found[0], log_density), torch.where(used, found[1], mean)
    return log_density, torch.where(flip, -mean, mean)


def truncated_sample(
    low: Float[Tensor, "..."], high: Float[Tensor, "..."], generator: Generator | None = None
) -> Float[Tensor, "..."]:
    """A draw of a standard normal z cut to [low, high], as a place from 0 at the lower end to 1 at the upper one.

    Example:
        >>> place = truncated_sample(torch.zeros(10_000).double(), torch.full((10_000,), 9.0).double())
        >>> round(9 * place.mean().item(), 1)  # sqrt(2 / pi) = 0.80
        0.8
    """
    dtype, low, high = low.dtype, low.double(), high.double()  # float32 has no numbers for the mass of a far tail
    u = torch.rand(low.shape, generator=generator, dtype=low.dtype, device=low.device)
    flip = low + high > 0  # by symmetry, look at every interval from its left, where small masses keep their digits
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    # Phi by erfc: torch's `ndtr` is (1 + erf) / 2, which has lost its digits at -8
    below, above = (0.5 * torch.erfc(end / -math.sqrt(2)) for end in (low, high))
    place = ((torch.special.ndtri(below + u * (above - below)) - low) / (high - low)).clamp(0, 1)
    far = (above < 1e-200) | (high - low < 1e-6)  # so far out, or so narrow, that these numbers lose their digits
    if far.any():
        place[far] = _by_halves(u[far], low[far], high[far])
    return torch.where(flip, 1 - place, place).to(dtype)


def _by_halves(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The place below which the share u of the mass lies, by bisection of `truncated_normal`."""
    total, left, right = truncated_normal(low, high)[0], torch.zeros_like(u), torch.ones_like(u)
    for _ in range(50):
        middle = (left + right) / 2
        share = middle * torch.exp(truncated_normal(low, low + middle * (high - low))[0] - total)
        left, right = torch.where(share < u, middle, left), torch.where(share < u, right, middle)
    return (left + right) / 2
