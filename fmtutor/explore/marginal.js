const { table, t_max: tMax, points, weights, limit } = data;
const NOISE = "#56B4E9", DATA = "#E69F00", PATH = "#009E73";
const canvas = find("canvas"), tSlider = find("t"), xSlider = find("x"), rows = [...find("rows").rows];
const margin = { left: 34, right: 14, top: 10, bottom: 36 };
let width = 1, height = 1, pen, held = false, down = null;

const X = (t) => margin.left + t * (width - margin.left - margin.right);
const Y = (x) => margin.top + ((limit - x) / (2 * limit)) * (height - margin.top - margin.bottom);
const mixed = (t) => [0, 1, 2].map((i) => [86, 180, 233][i] * (1 - t) + [230, 159, 0][i] * t);

// The density p_t(x), each column by its own maximum. Narrower than a pixel, a bump would be missed: it is widened.
const backdrop = (() => {
  const size = 140, image = document.createElement("canvas");
  image.width = image.height = size;
  const brush = image.getContext("2d"), pixels = brush.createImageData(size, size);
  for (let i = 0; i < size; i++) {
    const c = coefficients(table, tMax, (tMax * i) / (size - 1)), [r, g, b] = mixed(i / (size - 1));
    c.sigma = Math.max(c.sigma, (2 * limit) / size);
    const column = Array.from({ length: size }, (_, j) => weigh(c, points, weights, limit - (2 * limit * (j + 0.5)) / size).logDensity);
    const top = Math.max(...column);
    column.forEach((value, j) => pixels.data.set([r, g, b, 95 * Math.exp(0.5 * (value - top))], 4 * (j * size + i)));
  }
  brush.putImageData(pixels, 0, 0);
  return image;
})();
const flow = data.starts.map((x) => trajectory(table, tMax, points, weights, 0, x, tMax, 100));

function stroke(line, colour, lineWidth, alpha = 1) {
  pen.globalAlpha = alpha;
  pen.strokeStyle = colour;
  pen.lineWidth = lineWidth;
  pen.beginPath();
  line.forEach(([t, x], i) => (i ? pen.lineTo(X(t), Y(x)) : pen.moveTo(X(t), Y(x))));
  pen.stroke();
  pen.globalAlpha = 1;
}

function dot(t, x, radius, colour, alpha = 1) {
  pen.globalAlpha = alpha;
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(X(t), Y(x), radius, 0, 2 * Math.PI);
  pen.fill();
  pen.globalAlpha = 1;
}

// The velocity v at (t, x) as an arrow on the plane: as far as it leads in the time `dt`.
function arrow(t, x, v, dt, colour, lineWidth, alpha = 1) {
  const dx = X(t + dt) - X(t), dy = Y(x + v * dt) - Y(x), length = Math.hypot(dx, dy), head = 5 + 1.8 * lineWidth;
  const short = Math.min(1, (0.42 * height) / length), [tipX, tipY] = [X(t) + dx * short, Y(x) + dy * short];
  const [ux, uy] = [dx / length, dy / length], [endX, endY] = [tipX - ux * head, tipY - uy * head];
  pen.globalAlpha = alpha;
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = lineWidth;
  pen.beginPath();
  pen.moveTo(X(t), Y(x));
  pen.lineTo(endX, endY);
  pen.stroke();
  pen.beginPath();
  pen.moveTo(tipX, tipY);
  pen.lineTo(endX - 0.5 * head * uy, endY + 0.5 * head * ux);
  pen.lineTo(endX + 0.5 * head * uy, endY - 0.5 * head * ux);
  pen.fill();
  pen.globalAlpha = 1;
}

// The conditional paths through (t, x): one for each data point, from the noise it would have come from.
function paths(t, x, c, here) {
  points.forEach((point, i) => {
    const x0 = (x - c.alpha * point) / c.sigma, w = here.posterior[i];
    const line = table.alpha.map((alpha, k) => [(tMax * k) / (table.alpha.length - 1), alpha * point + table.sigma[k] * x0]);
    stroke([...line, [1, data.end[0] * point + data.end[1] * x0]], DATA, 1 + 4 * w, 0.2 + 0.8 * w);
    dot(0, line[0][1], 3.5, NOISE, 0.15 + 0.85 * w);
    dot(1, point, 3 + 5 * w, DATA, 0.35 + 0.65 * w);
  });
}

function tell(t, x, here) {
  here.posterior.forEach((w, i) => {
    const cells = rows[i].cells, v = here.velocities[i];
    [signed(points[i]), w.toFixed(3), signed(v), signed(w * v)].forEach((text, k) => { cells[k].textContent = text; });
    const share = `${(100 * w).toFixed(1)}%`;
    cells[1].style.background = `linear-gradient(to left, rgba(230, 159, 0, .4) ${share}, transparent ${share})`;
  });
  find("mean").textContent = signed(here.velocity);
  find("t-readout").textContent = t.toFixed(2);
  find("x-readout").textContent = signed(x);
}

function draw() {
  const t = +tSlider.value, x = +xSlider.value, c = coefficients(table, tMax, t), here = weigh(c, points, weights, x);
  [pen, width, height] = blank(canvas);
  if (!width) return;
  pen.save();
  pen.beginPath();
  pen.rect(X(0) - 5, Y(limit), X(1) - X(0) + 13, Y(-limit) - Y(limit));
  pen.clip();
  pen.drawImage(backdrop, X(0), Y(limit), X(1) - X(0), Y(-limit) - Y(limit));
  flow.forEach((line) => stroke(line, GREY, 1, 0.45));
  paths(t, x, c, here);
  for (const end of [0, tMax]) stroke(trajectory(table, tMax, points, weights, t, x, end, 80), PATH, 2, 0.9);
  const dt = Math.min(0.16, 0.7 * (1 - t));
  points.forEach((_, i) => arrow(t, x, here.velocities[i], dt, DATA, 1 + 3 * here.posterior[i], 0.2 + 0.8 * here.posterior[i]));
  arrow(t, x, here.velocity, dt, PATH, 4.5);
  dot(t, x, 6, getComputedStyle(root).color);
  pen.restore();
  axes(pen, X, Y, limit, width);
  tell(t, x, here);
}

function moveTo(event) {
  const box = canvas.getBoundingClientRect();
  tSlider.value = (event.clientX - box.left - margin.left) / (width - margin.left - margin.right);
  xSlider.value = limit - (2 * limit * (event.clientY - box.top - margin.top)) / (height - margin.top - margin.bottom);
  draw();
}

canvas.addEventListener("pointerdown", (event) => {
  down = [event.clientX, event.clientY];
  canvas.setPointerCapture(event.pointerId);
  moveTo(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (down || (event.pointerType === "mouse" && !held)) moveTo(event);
});
canvas.addEventListener("pointerup", (event) => {
  // A click without a drag holds the point, so that the mouse can leave it; the next click lets it go.
  if (down && event.pointerType === "mouse") held = Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 4 ? !held : held;
  down = null;
});
canvas.addEventListener("pointercancel", () => { down = null; });
// A finger near the point moves the point; elsewhere it scrolls the page.
canvas.addEventListener("touchstart", (event) => {
  const box = canvas.getBoundingClientRect(), touch = event.touches[0];
  const away = Math.hypot(touch.clientX - box.left - X(+tSlider.value), touch.clientY - box.top - Y(+xSlider.value));
  if (away < 44) event.preventDefault();
}, { passive: false });
for (const slider of [tSlider, xSlider]) slider.addEventListener("input", draw);
keepFresh(canvas, draw);
draw();
