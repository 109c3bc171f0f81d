"""The tables "Names that readers of other code look for" of the notation page, against formulas written as theirs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fmtutor import (
    AffinePath,
    Cosine,
    GaussianMixture,
    Linear,
    Polynomial,
    VarianceExploding,
    VariancePreserving,
    ancestral,
    solve,
)

F64 = torch.float64
STEPS, VP = 1000, VariancePreserving()
BETAS = np.linspace(1e-4, 0.02, STEPS)  # DDPM's own, of steps 1 to 1000, counted from data to noise
LINE = GaussianMixture(torch.tensor([[-1.5], [0.5], [2.0]], dtype=F64), 0.3)


def alpha(t: float) -> float:
    return VP.alpha(torch.tensor(t, dtype=F64)).item()


def test_ddpm_counts_the_other_way_and_its_alphas_cumprod_are_squares() -> None:
    """`t = 1 - k / 1000`; `alphas_cumprod` is `alpha(t)^2`, `betas` what is lost of it in a step, VP the same betas."""
    cumprod = np.cumprod(1 - BETAS)
    ours = [1 - (alpha(1 - k / STEPS) / alpha(1 - (k - 1) / STEPS)) ** 2 for k in range(1, STEPS + 1)]
    assert np.allclose(np.cumprod(1 - np.array(ours)), [alpha(1 - k / STEPS) ** 2 for k in range(1, STEPS + 1)])
    assert np.allclose(ours, BETAS, rtol=0.12)  # 2 % from step 20 on
    kept = np.sqrt(cumprod)
    assert max(abs(kept[k - 1] - alpha(1 - k / STEPS)) for k in range(1, STEPS + 1)) < 0.0015
    assert max(abs(kept[k - 1] - alpha(k / STEPS)) for k in range(1, STEPS)) > 0.5  # the clock not turned
    assert max(abs(cumprod[k - 1] - alpha(1 - k / STEPS)) for k in range(1, STEPS)) > 0.1  # the square forgotten


def test_ddpms_epsilon_and_x0_are_our_noise_and_data() -> None:
    path, k = AffinePath(VP), 300
    t, clean, epsilon = 1 - k / STEPS, torch.randn(5, 2, dtype=F64), torch.randn(5, 2, dtype=F64)
    kept = alpha(t) ** 2  # alphas_cumprod
    noisy = math.sqrt(kept) * clean + math.sqrt(1 - kept) * epsilon
    torch.testing.assert_close(path.sample(epsilon, clean, t).xt, noisy)
    torch.testing.assert_close(path.convert(t, noisy, epsilon, source="noise", to="data"), clean)
    torch.testing.assert_close(
        path.convert(t, noisy, epsilon, source="noise", to="score"), -epsilon / math.sqrt(1 - kept)
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddims_step_with_its_eta(eta: float) -> None:
    """Song, Meng and Ermon, equations 12 and 16, with `alphas_cumprod` a (later in their time) and b."""
    path, (s, t) = AffinePath(VP), (0.6, 0.7)
    a, b = alpha(s) ** 2, alpha(t) ** 2
    x, clean = torch.full((200_000, 1), 0.8, dtype=F64), torch.full((200_000, 1), -0.5, dtype=F64)
    sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
    epsilon = (x - math.sqrt(a) * clean) / math.sqrt(1 - a)
    mean = math.sqrt(b) * clean + math.sqrt(1 - b - sigma**2) * epsilon
    ours = ancestral(lambda t, x: clean, path, x, times=[s, t], eta=eta).x
    assert abs(ours.mean() - mean.mean()) < 5 * sigma / math.sqrt(len(x)) + 1e-12
    assert abs(ours.std() - sigma) < 5 * sigma / math.sqrt(2 * len(x)) + 1e-12


def test_v_prediction_is_the_velocity_of_the_cosine_path_up_to_a_factor() -> None:
    t, noise, clean = torch.linspace(0, 1, 9, dtype=F64), torch.randn(9, 1, dtype=F64), torch.randn(9, 1, dtype=F64)
    schedule = Cosine()
    v = schedule.alpha(t)[:, None] * noise - schedule.sigma(t)[:, None] * clean
    torch.testing.assert_close(v, -2 / math.pi * AffinePath(schedule).sample(noise, clean, t).ut)


@pytest.mark.parametrize("schedule", [VP, VarianceExploding()], ids=["vp", "ve"])
def test_songs_equation_read_backwards_is_ours(schedule: VariancePreserving | VarianceExploding) -> None:
    """dx = f dt + g dW from data to noise; reversed, -f + g^2 score. Ours is u + g^2/2 score with the same g."""
    path, s = AffinePath(schedule), 0.35
    t, x = 1 - s, torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    if schedule is VP:
        beta = 0.1 + s * (20 - 0.1)
        f, g = -0.5 * beta * x, math.sqrt(beta)
        c = path.coefficients(t, x)
        torch.testing.assert_close((2 * c.d_alpha / c.alpha)[0, 0], torch.tensor(beta, dtype=F64))
    else:
        sigma = 0.01 * (10 / 0.01) ** s
        f, g = 0 * x, sigma * math.sqrt(2 * math.log(10 / 0.01))
        assert schedule.sigma(torch.tensor(t, dtype=F64)).item() == pytest.approx(sigma)
    score, u = path.marginal_score(t, x, LINE), path.marginal_velocity(t, x, LINE)
    torch.testing.assert_close(u + 0.5 * g**2 * score, -f + g**2 * score)
    torch.testing.assert_close(u, -(f - 0.5 * g**2 * score))  # the probability flow
    assert not torch.allclose(u, f - 0.5 * g**2 * score)  # with their clock


@pytest.mark.parametrize("schedule", [Linear(), VP, VarianceExploding()], ids=["linear", "vp", "ve"])
def test_edms_sigma_and_denoiser(schedule: Linear) -> None:
    """Their x is x / alpha, their sigma is sigma / alpha, D the posterior mean: dx/dsigma = (x - D) / sigma."""
    path, t, x = AffinePath(schedule), 0.6, torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    c, u = path.coefficients(t, x), path.marginal_velocity(t, x, LINE)
    denoised = LINE.posterior_mean(x, c.alpha.flatten(), c.sigma.flatten())
    moves = (u * c.alpha - x * c.d_alpha) / c.alpha**2  # d(x / alpha) / dt
    rises = (c.d_sigma * c.alpha - c.sigma * c.d_alpha) / c.alpha**2
    theirs = (x / c.alpha - denoised) / (c.sigma / c.alpha)
    torch.testing.assert_close(moves / rises, theirs)
    score = (denoised - x / c.alpha) / (c.sigma / c.alpha) ** 2  # of x / alpha
    torch.testing.assert_close(score / c.alpha, path.marginal_score(t, x, LINE))


def test_diffusers_flow_matching_counts_noise() -> None:
    """`sigma = 1 - t`, `timestep = 1000 sigma`; the model's output is noise minus data, our velocity with a minus."""
    noise, clean = torch.randn(6, 2, dtype=F64), torch.randn(6, 2, dtype=F64)
    sigma, after, path = 0.7, 0.55, AffinePath()
    theirs = sigma * noise + (1 - sigma) * clean
    _, xt, ut = path.sample(noise, clean, 1 - sigma)
    torch.testing.assert_close(xt, theirs)
    torch.testing.assert_close(ut, -(noise - clean))
    step = solve(lambda t, x: ut, xt, 1 - sigma, 1 - after, method="euler", steps=1).x
    torch.testing.assert_close(step, theirs + (after - sigma) * (noise - clean))


def test_diffusers_shift_is_a_clock() -> None:
    """`sigma' = shift sigma / (1 + (shift - 1) sigma)`: noise over data, times shift; in t, towards the noise."""
    sigma, shift = np.linspace(0.01, 0.99, 9), 3.0
    moved = shift * sigma / (1 + (shift - 1) * sigma)
    assert np.allclose(moved / (1 - moved), shift * sigma / (1 - sigma))
    t = 1 - sigma
    assert np.allclose(1 - moved, t / (t + shift * (1 - t)))
    assert (1 - moved < t).all()


def test_schedulers_of_flow_matching() -> None:
    """CondOT, PolynomialConvex, Cosine and VP of `flow_matching.path.scheduler`, in its own formulas."""
    t = torch.linspace(0.01, 0.99, 33, dtype=F64)
    total = 0.5 * (1 - t) ** 2 * (20.0 - 0.1) + (1 - t) * 0.1
    for ours, a, s in (
        (Linear(), t, 1 - t),
        (Polynomial(3), t**3, 1 - t**3),
        (Cosine(), torch.sin(math.pi / 2 * t), torch.cos(math.pi / 2 * t)),
        (VP, torch.exp(-0.5 * total), torch.sqrt(1 - torch.exp(-total))),
    ):
        torch.testing.assert_close(ours.alpha(t), a)
        torch.testing.assert_close(ours.sigma(t), s)


def test_the_sigmas_of_torchcfm() -> None:
    """Of its matcher with a target, sigma is our sigma_min; of its plain one, the scale of noise that never fades."""
    sigma, x1, x = 0.1, torch.randn(7, 2, dtype=F64), torch.randn(7, 2, dtype=F64)
    t = torch.full((7, 1), 0.4, dtype=F64)
    theirs = (x1 - (1 - sigma) * x) / (1 - (1 - sigma) * t)
    torch.testing.assert_close(AffinePath(Linear(sigma_min=sigma)).conditional_velocity(0.4, x, x1), theirs)
    c = AffinePath(Linear(sigma_min=sigma)).coefficients(0.4, x)
    torch.testing.assert_close(c.sigma, 1 - (1 - sigma) * t)
    assert not torch.allclose(c.sigma, (1 - t) + 0 * c.sigma + sigma)  # the plain one's: (1 - t) of noise, and sigma
