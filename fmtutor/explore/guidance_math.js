// Round bumps through the noise of the linear path: the field at a point, its divergence, and log p_t there.
function look({ x: xs, y: ys, logs, scale }, t, x, y) {
  const n = xs.length, variance = (t * scale) ** 2 + (1 - t) ** 2, away = (i) => (x - t * xs[i]) ** 2 + (y - t * ys[i]) ** 2;
  let top = -Infinity, total = 0, mx = 0, my = 0, square = 0;
  for (let i = 0; i < n; i++) top = Math.max(top, logs[i] - away(i) / (2 * variance));
  for (let i = 0; i < n; i++) {
    const w = Math.exp(logs[i] - away(i) / (2 * variance) - top);
    total += w;
    mx += w * xs[i];
    my += w * ys[i];
    square += w * (xs[i] ** 2 + ys[i] ** 2);
  }
  mx /= total;
  my /= total;
  const a = (t * scale ** 2 - (1 - t)) / variance, b = 1 - a * t, spread = square / total - mx ** 2 - my ** 2;
  return [a * x + b * mx, a * y + b * my, 2 * a + ((b * t) / variance) * spread, top + Math.log(total / (2 * Math.PI * variance))];
}

// (1 - w) times one answer and w times the other.
const mixed2 = (free, asked, w) => free.map((value, i) => (1 - w) * value + w * asked[i]);

// One step of Kutta's 3/8 rule for a place and the logarithm of its density, which falls by the divergence.
function step(v, t, end, [x, y, log]) {
  const h = end - t, k1 = v(t, x, y), k2 = v(t + h / 3, x + (h / 3) * k1[0], y + (h / 3) * k1[1]);
  const k3 = v(t + (2 * h) / 3, ...[x, y].map((p, i) => p + h * (k2[i] - k1[i] / 3)));
  const k4 = v(end, ...[x, y].map((p, i) => p + h * (k1[i] - k2[i] + k3[i])));
  const [dx, dy, div] = [0, 1, 2].map((i) => (h / 8) * (k1[i] + 3 * (k2[i] + k3[i]) + k4[i]));
  return [x + dx, y + dy, log - div];
}

// From noise to the end, guided by w between two times; [x, y, log-density] at the end of every step.
function follow({ asked, all, steps }, w, first, last, [x, y]) {
  const guided = (t, x, y) => mixed2(look(all, t, x, y), look(asked, t, x, y), w), plain = (t, x, y) => look(asked, t, x, y);
  const parts = first < last ? [[0, first, plain], [first, last, guided], [last, 1, plain]] : [[0, 1, plain]];
  const way = [[x, y, -(x * x + y * y) / 2 - Math.log(2 * Math.PI)]];
  for (const [start, end, v] of parts) {
    if (start === end) continue;
    const n = Math.max(1, Math.ceil((end - start) * steps - 1e-3)), time = (k) => start + ((end - start) * k) / n;
    for (let k = 0; k < n; k++) way.push(step(v, time(k), time(k + 1), way[way.length - 1]));
  }
  return way;
}

// The logarithms of both densities on a grid of places, top row first: they do not change with the weight.
function logGrid({ asked, all, limit }, size) {
  const place = (k) => limit * ((2 * k + 1) / size - 1), grid = { size, cell: ((2 * limit) / size) ** 2, x: [], y: [], asked: [], all: [] };
  for (let j = 0; j < size; j++) {
    for (let i = 0; i < size; i++) {
      grid.x.push(place(i));
      grid.y.push(-place(j));
      grid.asked.push(look(asked, 1, place(i), -place(j))[3]);
      grid.all.push(look(all, 1, place(i), -place(j))[3]);
    }
  }
  return grid;
}

// p(x | y)^w p(x)^(1 - w) on that grid: its shape, the logarithm of what it adds up to, its mean and its spread.
function tilt({ asked, all, cell, x, y }, w) {
  const logs = asked.map((a, i) => w * a + (1 - w) * all[i]), top = logs.reduce((a, b) => Math.max(a, b));
  const shape = logs.map((log) => Math.exp(log - top)), total = shape.reduce((a, b) => a + b);
  const mean = (f) => shape.reduce((sum, p, i) => sum + p * f(i), 0) / total, [mx, my] = [mean((i) => x[i]), mean((i) => y[i])];
  return { shape, logTotal: top + Math.log(total * cell), spread: Math.sqrt(mean((i) => (x[i] - mx) ** 2 + (y[i] - my) ** 2)) };
}

// The mean over the ends of log of their own density minus log of the tilted one: a divergence in nats.
function gap({ asked, all }, w, ends, logTotal) {
  const tilted = ([x, y]) => w * look(asked, 1, x, y)[3] + (1 - w) * look(all, 1, x, y)[3] - logTotal;
  return ends.reduce((sum, end) => sum + end[2] - tilted(end), 0) / ends.length;
}

function spreadOf(ends) {
  const mean = (f) => ends.reduce((sum, end) => sum + f(end), 0) / ends.length, [mx, my] = [mean((e) => e[0]), mean((e) => e[1])];
  return Math.sqrt(mean(([x, y]) => (x - mx) ** 2 + (y - my) ** 2));
}
