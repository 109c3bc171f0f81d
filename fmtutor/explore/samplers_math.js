// What every sampler asks for: the mean of the data given that x was seen at time t, for round bumps on the linear path.
function guess(bumps, t, x) {
  const { centres, weights, scale } = bumps, variance = (t * scale) ** 2 + (1 - t) ** 2;
  let top = -Infinity, total = 0, sum = 0;
  const logits = centres.map((m, i) => Math.log(weights[i]) - (x - t * m) ** 2 / (2 * variance));
  for (const logit of logits) top = Math.max(top, logit);
  logits.forEach((logit, i) => { const w = Math.exp(logit - top); total += w; sum += w * centres[i]; });
  const centre = sum / total;
  return centre + ((t * scale ** 2) / variance) * (x - t * centre);
}

function density(bumps, t, x) {
  const spread = Math.hypot(t * bumps.scale, 1 - t);
  return bumps.centres.reduce((p, m, i) => p + bumps.weights[i] * Math.exp(-0.5 * ((x - t * m) / spread) ** 2), 0) / spread;
}

// dX = (u + g^2/2 score) dt + g dW from 0 to 1, by Euler and Maruyama; g is held to what a step's end can take.
function shaken(bumps, x, g, shakes) {
  const n = shakes.length, h = 1 / n, line = [x];
  for (let k = 0; k < n; k++) {
    const t = k * h, z = guess(bumps, t, x), noise = Math.min(g, Math.sqrt(2 / h) * (1 - (k + 1) * h));
    const u = (z - x) / (1 - t), score = (t * z - x) / (1 - t) ** 2;
    x += h * (u + 0.5 * noise ** 2 * score) + noise * Math.sqrt(h) * shakes[k];
    line.push(x);
  }
  return line;
}

// Guess the end, go to the next time on the path that ends there, guess again; eta = 0 draws nothing: DDIM.
function redrawn(bumps, x, eta, steps, shakes) {
  const line = [x];
  for (let k = 0; k < steps; k++) {
    const s = k / steps, t = (k + 1) / steps, z = guess(bumps, s, x), noise = (x - s * z) / (1 - s);
    const kept = ((s / t) * ((1 - t) / (1 - s))) ** 2, fresh = eta ** 2 * (1 - kept);
    x = t * z + (1 - t) * (Math.sqrt(1 - fresh) * noise + Math.sqrt(fresh) * shakes[k]);
    line.push(x);
  }
  return line;
}

// The largest gap between the distribution function of the points and that of the data.
function gap(bumps, points) {
  const sorted = Float64Array.from(points).sort(), n = sorted.length;
  return sorted.reduce((worst, x, i) => {
    const below = bumps.centres.reduce((sum, m, j) => sum + bumps.weights[j] * normalShare((x - m) / bumps.scale), 0);
    return Math.max(worst, Math.abs(below - i / n), Math.abs(below - (i + 1) / n));
  }, 0);
}

// Phi(z) to seven digits: Abramowitz and Stegun, 26.2.17.
function normalShare(z) {
  const r = 1 / (1 + 0.2316419 * Math.abs(z)), bell = Math.exp(-z * z / 2) / Math.sqrt(2 * Math.PI);
  const tail = bell * r * (0.31938153 + r * (-0.356563782 + r * (1.781477937 + r * (-1.821255978 + r * 1.330274429))));
  return z > 0 ? 1 - tail : tail;
}

// Standard normal numbers, the same for the same seed (mulberry32, Box and Muller).
function normals(n, seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let a = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    a = (a + Math.imul(a ^ (a >>> 7), 61 | a)) ^ a;
    return (((a ^ (a >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return Float64Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}
