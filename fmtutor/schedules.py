"""Schedules: how much data, `alpha(t)`, and how much noise, `sigma(t)`, a path holds at each time.

Chapter 3 introduces them with the linear one; chapter 5 compares all five.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fmtutor import _validate


class Schedule:
    """The two coefficients of `xt = alpha(t) x1 + sigma(t) x0`, and their derivatives.

    A new schedule writes `alpha` and `sigma`, elementwise functions of a tensor; forward-mode autodiff supplies the
    derivatives. Override those too where a formula reads better, or keeps digits at the ends: near t = 1 what is small
    is best written in 1 - t, which is exact there.

    Example:
        >>> class Cubic(Schedule):
        ...     def alpha(self, t): return t**3
        ...     def sigma(self, t): return 1 - t**3
        >>> Cubic().d_alpha(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.7500, 3.0000])
    """

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The weight of the data, same shape as `t`."""
        raise NotImplementedError

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The weight of the noise, same shape as `t`."""
        raise NotImplementedError

    def d_alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The derivative of `alpha` with respect to time, same shape as `t`."""
        return _derivative(self.alpha, t)

    def d_sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The derivative of `sigma` with respect to time, same shape as `t`."""
        return _derivative(self.sigma, t)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


def _derivative(f: Callable[[Tensor], Tensor], t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    t = t.contiguous()  # autodiff cannot attach a tangent to numbers that share memory
    return torch.func.jvp(f, (t,), (torch.ones_like(t),))[1].to(t.dtype)  # torch widens the tangent of a single number


class Linear(Schedule):
    """The conditional optimal-transport path: `alpha = t`, `sigma = 1 - (1 - sigma_min) t`.

    Source: Lipman et al. (2023), equation 20; with `sigma_min = 0`, rectified flow (Liu et al., 2023).

    Args:
        sigma_min: the noise left at t = 1, in units of the data; from 0 to 1.

    Raises:
        ValueError: `sigma_min` is outside [0, 1].

    Example:
        >>> t = torch.tensor([0.0, 0.25, 1.0])
        >>> Linear().sigma(t), Linear().d_sigma(t)
        (tensor([1.0000, 0.7500, 0.0000]), tensor([-1., -1., -1.]))
    """

    def __init__(self, sigma_min: float = 0.0) -> None:
        self.sigma_min = _validate.positive("sigma_min", sigma_min, or_zero=True)
        if sigma_min > 1:
            raise ValueError(f"sigma_min must be at most 1, the noise at t = 0, got {sigma_min}: noise falls with time")

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return t

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (1 - t) + self.sigma_min * t

    def d_alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)

    def d_sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.full_like(t, self.sigma_min - 1)


class VariancePreserving(Schedule):
    """The path of the variance-preserving diffusion: `alpha^2 + sigma^2 = 1`, with a noise rate linear in time.

    `alpha(t) = exp(-T(1 - t) / 2)` with `T(s) = beta_min s + (beta_max - beta_min) s^2 / 2`. Two things to know about
    its ends: `alpha(0)` is not 0 (0.0066 for the defaults), so the path never quite starts at pure noise; and
    `d_sigma` is infinite at t = 1.

    Source: Song et al. (2021), appendix B, with time reversed; Lipman et al. (2023), equation 18.

    Args:
        beta_min: the noise rate at the data end, above 0.
        beta_max: the noise rate at the noise end, above 0.

    Raises:
        ValueError: a rate is not above 0.

    Example:
        >>> vp, t = VariancePreserving(), torch.tensor([0.0, 0.5])
        >>> vp.alpha(t)
        tensor([0.0066, 0.2812])
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min = _validate.positive("beta_min", beta_min)
        self.beta_max = _validate.positive("beta_max", beta_max)

    def _total_noise(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        s = 1 - t
        return self.beta_min * s + 0.5 * (self.beta_max - self.beta_min) * s**2

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.exp(-0.5 * self._total_noise(t))

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.sqrt(-torch.expm1(-self._total_noise(t)))  # sqrt(1 - alpha^2) without the cancellation near t = 1

    def d_alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        rate = self.beta_min + (self.beta_max - self.beta_min) * (1 - t)
        return 0.5 * rate * self.alpha(t)

    def d_sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)  # alpha^2 + sigma^2 stays 1


class VarianceExploding(Schedule):
    """The path of the variance-exploding diffusion: `alpha = 1`, `sigma` falls geometrically to `sigma_min`.

    Its source is not standard normal: at t = 0 it is the data with noise of scale `sigma_max` on top, so what is drawn
    to start from is `StandardNormal(dim, scale=sigma_max)`.

    Source: Song et al. (2021), appendix B, with time reversed; Lipman et al. (2023), equation 16.

    Args:
        sigma_min: the noise at t = 1, in units of the data, above 0.
        sigma_max: the noise at t = 0, in units of the data, above 0.

    Raises:
        ValueError: a scale is not above 0, or `sigma_max` is not above `sigma_min`.

    Example:
        >>> VarianceExploding(sigma_max=1.0).sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.1000, 0.0100])
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 10.0) -> None:
        self.sigma_min = _validate.positive("sigma_min", sigma_min)
        self.sigma_max = _validate.positive("sigma_max", sigma_max)
        if sigma_max <= sigma_min:
            raise ValueError(
                f"sigma_max must be above sigma_min, got {sigma_max} and {sigma_min}: noise falls with time"
            )

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)

    def d_alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.zeros_like(t)  # a constant carries no tangent for autodiff to find

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** (1 - t)

    def d_sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return math.log(self.sigma_min / self.sigma_max) * self.sigma(t)


class Cosine(Schedule):
    """The trigonometric path: `alpha = sin(pi t / 2)`, `sigma = cos(pi t / 2)`, so `alpha^2 + sigma^2 = 1`.

    Source: Albergo and Vanden-Eijnden (2023), trigonometric interpolant; Nichol and Dhariwal (2021), cosine schedule.

    Example:
        >>> Cosine().alpha(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.7071, 1.0000])
    """

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.sin(0.5 * math.pi * t)

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.sin(0.5 * math.pi * (1 - t))  # cos(pi t / 2), but exactly 0 at t = 1

    def d_alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 0.5 * math.pi * self.sigma(t)

    def d_sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -0.5 * math.pi * self.alpha(t)


class Polynomial(Schedule):
    """A convex path that starts late or early: `alpha = t^n`, `sigma = 1 - t^n`.

    Source: the polynomial scheduler of the code that goes with Lipman et al. (2024), "Flow Matching Guide and Code".

    Args:
        n: the exponent, at least 1, so that the velocity is finite at t = 0.

    Raises:
        ValueError: `n` is below 1 or not finite.

    Example:
        >>> Polynomial(2).sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.7500, 0.0000])
    """

    def __init__(self, n: float) -> None:
        if not 1 <= _validate.number("n", n) < math.inf:
            raise ValueError(f"n must be at least 1 and finite, got {n}")
        self.n = n

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return t**self.n

    def sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        late = t.clamp(min=0.5)  # there 1 - t is exact, and expm1 and log1p keep its digits
        near_one = 0 - torch.expm1(self.n * torch.log1p(late - 1))
        return torch.where(t < 0.5, 1 - t**self.n, near_one)

    def d_alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.n * t ** (self.n - 1)

    def d_sigma(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -self.d_alpha(t)
