// alpha, sigma and their derivatives at t: cubic Hermite between the rows of the table, exact for the linear path.
function coefficients(table, tMax, t) {
  const n = table.alpha.length - 1, h = tMax / n, i = Math.min(Math.floor(t / h), n - 1), s = t / h - i;
  const between = (value, slope) => {
    const [a, b, p, q] = [value[i], value[i + 1], h * slope[i], h * slope[i + 1]];
    const c2 = 3 * (b - a) - 2 * p - q, c3 = 2 * (a - b) + p + q;
    return [a + s * (p + s * (c2 + s * c3)), (p + s * (2 * c2 + s * 3 * c3)) / h];
  };
  const [alpha, dAlpha] = between(table.alpha, table.d_alpha), [sigma, dSigma] = between(table.sigma, table.d_sigma);
  return { alpha, sigma, dAlpha, dSigma };
}

// What passes through x: each data point's posterior weight and conditional velocity, their mean, and log p_t(x).
function weigh(c, points, weights, x) {
  const logits = points.map((point, i) => Math.log(weights[i]) - 0.5 * ((x - c.alpha * point) / c.sigma) ** 2);
  const top = Math.max(...logits), scaled = logits.map((logit) => Math.exp(logit - top));
  const total = scaled.reduce((sum, e) => sum + e, 0), posterior = scaled.map((e) => e / total);
  const velocities = points.map((point) => c.dAlpha * point + (c.dSigma * (x - c.alpha * point)) / c.sigma);
  const velocity = posterior.reduce((sum, w, i) => sum + w * velocities[i], 0);
  const logDensity = top + Math.log(total) - Math.log(c.sigma) - 0.5 * Math.log(2 * Math.PI);
  return { posterior, velocities, velocity, logDensity };
}

// The trajectory of the marginal field from (t, x) to the time `end`, by Runge-Kutta, as [t, x] pairs.
function trajectory(table, tMax, points, weights, t, x, end, steps) {
  const v = (s, y) => weigh(coefficients(table, tMax, clampTime(s)), points, weights, y).velocity;
  const clampTime = (s) => Math.min(Math.max(s, 0), tMax), h = (end - t) / steps, line = [[t, x]];
  for (let k = 0; k < steps; k++) {
    const s = t + k * h, k1 = v(s, x), k2 = v(s + h / 2, x + (h * k1) / 2), k3 = v(s + h / 2, x + (h * k2) / 2);
    x += (h / 6) * (k1 + 2 * k2 + 2 * k3 + v(s + h, x + h * k3));
    line.push([s + h, x]);
  }
  return line;
}
