"""Answers to the exercises of chapter 5.

Name -> (right, [(wrong, words of its own message), ...], [right in unusual form, ...]).
"""

import math

import numpy
import torch

from fmtutor import AffinePath, Cosine, StandardNormal, VariancePreserving, solve

QUARTER = math.pi / 2


def _sin(t):
    return torch.sin(QUARTER * t)


def _cos(t):
    return torch.cos(QUARTER * t)


def _clock(t):
    return _sin(t) / (_sin(t) + _cos(t))


def _by_bisection(t):
    """The time at which the linear path's ratio has climbed to that of the cosine path."""
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(60):
        middle = (low + high) / 2
        behind = middle / (1 - middle) < torch.tan(QUARTER * t)
        low, high = torch.where(behind, middle, low), torch.where(behind, high, middle)
    return low


def _converted(velocity, t, x):
    t = torch.as_tensor(t)
    c = _sin(t) + _cos(t)
    return QUARTER * ((_cos(t) - _sin(t)) * x / c + velocity(_clock(t), x / c) / c)


def _by_autodiff(velocity, t, x):
    """The point of the linear path scaled by c(t): its derivative by machine."""
    t = torch.as_tensor(t, dtype=x.dtype)

    def scale_and_clock(t):
        return _sin(t) + _cos(t), _clock(t)

    (c, s), (dc, ds) = torch.func.jvp(scale_and_clock, (t,), (torch.ones_like(t),))
    return dc * x / c + c * ds * velocity(s, x / c)


def _by_the_data(velocity, t, x):
    """Through the expected data, which both paths share."""
    s, t = _clock(torch.as_tensor(t)), torch.as_tensor(t)
    at = x / (_sin(t) + _cos(t))
    data = at + (1 - s) * velocity(s, at)
    return QUARTER * (_cos(t) * data - _sin(t) * (x - _sin(t) * data) / _cos(t))


def _field(rule):
    def wrong(velocity, t, x):
        t = torch.as_tensor(t)
        return rule(velocity, _sin(t), _cos(t), _sin(t) + _cos(t), _clock(t), x)

    return wrong


def _with_the_inverse_clock(velocity, t, x):
    t = torch.as_tensor(t)
    c, inverse = _sin(t) + _cos(t), torch.atan(t / (1 - t)) / QUARTER
    return QUARTER * ((_cos(t) - _sin(t)) * x / c + velocity(inverse, x / c) / c)


def _with_the_angle_t(velocity, t, x):
    sin, cos = torch.as_tensor(t).sin(), torch.as_tensor(t).cos()
    return (cos - sin) * x / (sin + cos) + velocity(sin / (sin + cos), x / (sin + cos)) / (sin + cos)


def _one_step(x0, m):
    return x0 + QUARTER * m


def _by_the_solver(x0, m):
    """One step along the field of data that lie around m."""
    path, target = AffinePath(Cosine()), StandardNormal(2, scale=1.0)
    centred = solve(lambda t, x: path.marginal_velocity(t, x, target), x0, method="euler", steps=1).x
    return centred + QUARTER * m


def _straight(t, s):
    return torch.sqrt((1 + (s - 1) * t) ** 2 - (t * s) ** 2)


def _nats(sd=60.0, power=2, turned=False):
    p = torch.distributions.Normal
    alpha = VariancePreserving().alpha(torch.zeros((), dtype=torch.float64)) ** (power / 2)
    pair = p(120 * alpha, (sd**2 * alpha**2 + 1 - alpha**2).sqrt()), p(torch.zeros_like(alpha), 1.0)
    return 3072 * torch.distributions.kl_divergence(*pair[:: -1 if turned else 1])


NATS = float(_nats())

CASES = {
    "cosine_clock": (
        _clock,
        [
            (lambda t: torch.tan(QUARTER * t), "solve for `tau`"),
            (lambda t: torch.atan(t / (1 - t)) / QUARTER, "turned round"),
            (_sin, "*amount of data*"),
            (lambda t: 1 - _cos(t), "*amount of noise*"),
            (lambda t: t, "both clocks would be one"),
            (lambda t: _sin(t) ** 2, "share of the *variance*"),
            (lambda t: _cos(t) / (_sin(t) + _cos(t)), "changed places"),
            (lambda t: torch.tan(math.pi * t) / (1 + torch.tan(math.pi * t)), "A factor 1/2"),
            (lambda t: torch.tan(QUARTER * t) / (1 - torch.tan(QUARTER * t)), "The sign is turned"),
            (lambda t: 1 + 1 / torch.tan(QUARTER * t), "noise over data"),
            (lambda t: torch.sin(t) / (torch.sin(t) + torch.cos(t)), "and yours is `t`"),
            (lambda t: torch.sin(90 * t) / (torch.sin(90 * t) + torch.cos(90 * t)), "in radians"),
            (lambda t: t.mean(), "has shape ()"),
            (lambda t: 0.5, "is the number 0.5, whatever"),
            (0.5, "A function is wanted"),
        ],
        [
            _by_bisection,
            lambda time: 1 / (1 + 1 / torch.tan(QUARTER * time)),
            lambda t: (numpy.tan(QUARTER * t.numpy()) / (1 + numpy.tan(QUARTER * t.numpy()))).tolist(),
            lambda *, t: (1 + torch.tan(QUARTER * (t - 0.5))) / 2,
        ],
    ),
    "cosine_from_linear": (
        _converted,
        [
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * ((cos - sin) * x + v(s, x) / c)),
                "The scale is missing",
            ),
            (
                lambda v, t, x: _field(
                    lambda v, sin, cos, c, s, x: QUARTER * ((cos - sin) * x / c + v(torch.as_tensor(t), x / c) / c)
                )(v, t, x),
                "The clock is missing",
            ),
            (_field(lambda v, sin, cos, c, s, x: QUARTER * (cos - sin) * x / c + c * v(s, x / c)), "the chain rule"),
            (_field(lambda v, sin, cos, c, s, x: QUARTER * v(s, x / c) / c), "the product rule has a second term"),
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * ((cos - sin) * x + v(s, x / c) / c)),
                "The second term of the product rule has",
            ),
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * ((cos - sin) * x / c + v(s, x) / c)),
                "that is handed to the linear field",
            ),
            (lambda v, t, x: v(t, x), "as it stands"),
            (_field(lambda v, sin, cos, c, s, x: v(s, x)), "The time is right. What"),
            (_field(lambda v, sin, cos, c, s, x: v(s, x / c)), "Time and place are right"),
            (_field(lambda v, sin, cos, c, s, x: QUARTER / c**2 * v(s, x / c)), "how fast `z` moves"),
            (_field(lambda v, sin, cos, c, s, x: QUARTER * (cos - sin) * x / c), "as if the linear point stood still"),
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * ((cos - sin) * x / c - v(s, x / c) / c)),
                "a minus between",
            ),
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * (cos - sin) * x / c + c**3 / QUARTER * v(s, x / c)),
                "turned over",
            ),
            (_with_the_inverse_clock, "The clock is turned round"),
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * ((cos - sin) * x / c + v(cos / c, x / c) / c)),
                "or the time is reversed",
            ),
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * ((cos - sin) * x / c + v(sin / cos, x / c) / c)),
                "at the ratio itself",
            ),
            (_with_the_angle_t, "`pi / 2` is missing in it"),
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * ((sin - cos) * x / c + v(s, x / c) / c)),
                "The derivative of `c` is turned",
            ),
            (_field(lambda v, sin, cos, c, s, x: (cos - sin) * x / c + v(s, x / c) / c), "of both derivatives"),
            (
                _field(lambda v, sin, cos, c, s, x: QUARTER * ((cos - sin) * x / c + v(s, x / c))),
                "one `c` cancels",
            ),
            (lambda v, t, x: v(t, x).sum(1), "has shape (12,)"),
        ],
        [
            _by_autodiff,
            _by_the_data,
            lambda field, time, place: _converted(field, time, place).numpy(),
            lambda *, velocity, t, x: _converted(velocity, t, x).tolist(),
        ],
    ),
    "what_a_path_changes": (
        "cde",
        [
            ("abf", "three that are the same"),
            ("acde", "from one start"),
            ("bcde", "whatever the way"),
            ("de", "normal data"),
            ("ce", "cut in `t`"),
            ("cd", "no small thing"),
            ("cdef", "no schedule in it"),
            ("xyz", "you wrote 'xyz'"),
            (lambda: "cde", "gave a function"),
            (torch.tensor(1.0), "gave a Tensor"),
            (5, "gave an int"),
        ],
        [
            "C, D and E.",
            ["e", "d", "c"],
            {"c", "d", "e"},
            {"a": False, "b": False, "c": True, "d": True, "e": True, "f": False},
            "(c) (d) (e)",
        ],
    ),
    "cosine_step": (
        _one_step,
        [
            (lambda x0, m: math.cos(QUARTER) * x0 + math.sin(QUARTER) * m, "`sin` and `cos` of the end"),
            (lambda x0, m: QUARTER * m, "That is the velocity"),
            (lambda x0, m: QUARTER * x0 + m, "`x0` and `m` have changed places"),
            (lambda x0, m: QUARTER * (m - x0), "with the noise fading"),
            (lambda x0, m: x0 + m, "`pi / 2`, not 1"),
            (lambda x0, m: x0 + QUARTER * (m - x0), "does not fade"),
            (lambda x0, m: x0, "It does move"),
            (lambda x0, m: x0 - QUARTER * m, "of the data is turned"),
            (lambda x0, m: x0 + math.pi * m, "and yours is `pi`"),
            (lambda x0, m: x0 + m / QUARTER, "turn the factor over"),
            (lambda x0, m: m - QUARTER * x0, "took data for noise"),
            (lambda x0, m: (x0 + m) / 2, "middle of the two"),
            (lambda x0, m: QUARTER * m - x0, "goes *from*"),
            (lambda x0, m: x0 + QUARTER * m / 2, "Why half"),
        ],
        [
            _by_the_solver,
            lambda noise, mean: noise.double() + math.pi * mean / 2,
            lambda *, x0, m: torch.stack([row + m * QUARTER for row in x0]).numpy(),
            lambda x0, m: (x0 + QUARTER * m).tolist(),
        ],
    ),
    "straight_noise": (
        _straight,
        [
            (lambda t, s: 1 - t, "which is no line"),
            (lambda t, s: 1 - t + s * t, "the spread itself"),
            (lambda t, s: _straight(t, s) ** 2, "Take its root"),
            (lambda t, s: torch.sqrt(1 + (s**2 - 1) * t - (t * s) ** 2), "on a straight line. It"),
            (lambda t, s: torch.sqrt(1 - t**2), "keeps the spread at 1"),
            (lambda t, s: (1 + (s - 1) * t) ** 2, "the square of the spread. Take"),
            (lambda t, s: _straight(1 - t, s), "Your time is reversed"),
            (lambda t, s: torch.sqrt((1 + (1 - s) * t) ** 2 - (t * s) ** 2), "its slope is"),
            (lambda t, s: (1 - t) * (1 + 2 * s * t).sqrt(), "cannot be taken out"),
            (lambda t, s: torch.sqrt((1 - t) * (1 - t + 4 * s * t)), "you have 4"),
            (lambda t, s: torch.sqrt((t * s) ** 2 - (1 + (s - 1) * t) ** 2), "negative under the root"),
            (lambda t, s: torch.sqrt((1 + (s - 1) * t) ** 2 - t**2), "and yours is `t^2`"),
            (lambda t, s: torch.sqrt(((1 + (s - 1) * t) ** 2 - t**2 * s).clamp(min=0)), "is not squared"),
            (lambda t, s: torch.sqrt(((s + (1 - s) * t) ** 2 - (t * s) ** 2).clamp(min=0)), "the other way"),
            (lambda t, s: torch.sqrt(((1 - t) ** 2 - (t * s) ** 2).clamp(min=0)), "ends with a spread of 0"),
            (lambda t, s: torch.sqrt((1 - t) * (1 - t + s * t)), "a factor 2"),
            (lambda t, s: torch.sqrt((1 + (s - 1) * t) ** 2 + (t * s) ** 2), "The signs are turned"),
        ],
        [
            lambda time, spread: ((1 - time) * (1 + (2 * spread - 1) * time)) ** 0.5,
            lambda *, t, s: (t**2 * (1 - 2 * s) + 2 * (s - 1) * t + 1).sqrt(),
            lambda t, s: numpy.sqrt((1 + (s - 1) * t.numpy()) ** 2 - (t.numpy() * s) ** 2),
            lambda t, s: torch.stack([(1 - u).sqrt() * math.sqrt(1 + (2 * s - 1) * u) for u in t]),
        ],
    ),
    "unscaled_start": (
        round(NATS, 1),
        [
            (NATS / 3072, "for one number"),
            (2 * NATS, "Twice as much"),
            (3072 / 2 * (0.155476 - math.log(1.155476)), "The mean is missing"),
            (0, "as they ought to be"),
            (NATS / math.log(2), "in bits"),
            (float(_nats(sd=60**0.5)), "next to nothing of the spread"),
            (float(_nats(power=1)), "its *square* multiplies"),
            (float(_nats(turned=True)), "The data come first"),
            (1415.8, "The sign of the logarithm"),
            (1927.2, "counted twice"),
            (0.04125, "squared it once more"),
            (324.0, "the three colours"),
            (2517.2, "The noise is missing"),
            (1194.0, "The logarithm is left out"),
            (1050.0, "and in yours `alpha`"),
            (5000, "Off by"),
        ],
        [f"{NATS:.0f} nats", torch.tensor([NATS]), numpy.float32(NATS), _nats()],
    ),
}
