const { bumps, limit, steps: fine, crowd } = data;
const ODE = "#009E73", SDE = "#2E8BC9", DDIM = "#D55E00", ANCESTRAL = "#CC79A7";
const canvas = find("canvas"), sliders = Object.fromEntries(["noise", "eta", "looks", "start"].map((name) => [name, find(name)]));
const margin = { left: 34, right: 14, top: 10, bottom: 36 };
let width = 1, height = 1, pen, down = false;

const X = (t) => margin.left + t * (width - margin.left - margin.right);
const Y = (x) => margin.top + ((limit - x) / (2 * limit)) * (height - margin.top - margin.bottom);
const mixed = (t) => [0, 1, 2].map((i) => [86, 180, 233][i] * (1 - t) + [230, 159, 0][i] * t);

const shakes = normals(fine, data.seed), redraws = normals(fine, data.seed + 1);
const many = { shakes: crowd.map((_, i) => normals(fine, 1000 + i)), redraws: crowd.map((_, i) => normals(fine, 9000 + i)) };
const last = (line) => line[line.length - 1];
const off = (sampler) => gap(bumps, crowd.map((x, i) => last(sampler(x, many.shakes[i], many.redraws[i]))));

// The density p_t(x), each column by its own maximum.
const backdrop = (() => {
  const size = 160, image = document.createElement("canvas");
  image.width = image.height = size;
  const brush = image.getContext("2d"), pixels = brush.createImageData(size, size);
  for (let i = 0; i < size; i++) {
    const t = i / (size - 1), [r, g, b] = mixed(t);
    const column = Array.from({ length: size }, (_, j) => density(bumps, t, limit - (2 * limit * (j + 0.5)) / size));
    const top = Math.max(...column);
    column.forEach((p, j) => pixels.data.set([r, g, b, 105 * Math.sqrt(p / top)], 4 * (j * size + i)));
  }
  brush.putImageData(pixels, 0, 0);
  return image;
})();

function stroke(line, colour, lineWidth, alpha = 1) {
  pen.globalAlpha = alpha;
  pen.strokeStyle = colour;
  pen.lineWidth = lineWidth;
  pen.beginPath();
  line.forEach((x, k) => (k ? pen.lineTo : pen.moveTo).call(pen, X(k / (line.length - 1)), Y(x)));
  pen.stroke();
  pen.globalAlpha = 1;
}

function dots(line, colour, more) {
  pen.fillStyle = colour;
  line.forEach((x, k) => {
    pen.beginPath();
    pen.arc(X(k / (line.length - 1)), Y(x), (line.length > 40 ? 2 : 3.5) + more, 0, 2 * Math.PI);
    pen.fill();
  });
}

const odeGap = off((x, w) => shaken(bumps, x, 0, w)); // no slider moves it

function lines() {
  const [g, eta, n, x] = ["noise", "eta", "looks", "start"].map((name) => +sliders[name].value);
  return {
    g, eta, n,
    ode: shaken(bumps, x, 0, shakes),
    sde: [g / 4, g / 2, g].map((level) => shaken(bumps, x, level, shakes)),
    ddim: redrawn(bumps, x, 0, n, redraws),
    ancestral: redrawn(bumps, x, eta, n, redraws),
  };
}

function tell({ g, eta, n, ode, sde, ddim, ancestral }) {
  const rows = {
    ode: [fine, last(ode), odeGap],
    sde: [fine, last(sde[2]), off((x, w) => shaken(bumps, x, g, w))],
    ddim: [n, last(ddim), off((x) => redrawn(bumps, x, 0, n, shakes))],
    ancestral: [n, last(ancestral), off((x, _, w) => redrawn(bumps, x, eta, n, w))],
  };
  for (const [name, [looks, end, distance]] of Object.entries(rows)) {
    find(`${name}-looks`).textContent = String(looks);
    find(`${name}-end`).textContent = signed(end);
    find(`${name}-gap`).textContent = distance.toFixed(3);
  }
  find("noise-readout").textContent = g.toFixed(2);
  find("eta-readout").textContent = eta.toFixed(2);
  find("looks-readout").textContent = String(n);
  find("start-readout").textContent = signed(+sliders.start.value);
}

function draw() {
  [pen, width, height] = blank(canvas);
  if (!width) return;
  const now = lines();
  pen.save();
  pen.beginPath();
  pen.rect(X(0) - 5, Y(limit), X(1) - X(0) + 10, Y(-limit) - Y(limit));
  pen.clip();
  pen.drawImage(backdrop, X(0), Y(limit), X(1) - X(0), Y(-limit) - Y(limit));
  now.sde.forEach((line, i) => stroke(line, SDE, [1, 1.5, 2][i], [0.7, 0.85, 1][i]));
  stroke(now.ode, ODE, 3);
  for (const [line, colour, more] of [[now.ancestral, ANCESTRAL, 1.5], [now.ddim, DDIM, 0]]) { // in one place: a ring
    stroke(line, colour, 1.2 + more, 0.8);
    dots(line, colour, more);
  }
  pen.restore();
  axes(pen, X, Y, limit, width);
  tell(now);
}

// The start is under the finger: dragging the plane up and down moves it.
function moveTo(event) {
  const box = canvas.getBoundingClientRect();
  sliders.start.value = limit - (2 * limit * (event.clientY - box.top - margin.top)) / (height - margin.top - margin.bottom);
  draw();
}
canvas.addEventListener("pointerdown", (event) => {
  if (event.pointerType !== "mouse") return; // a finger on the plane scrolls the page; the slider is there for it
  down = true;
  canvas.setPointerCapture(event.pointerId);
  moveTo(event);
});
canvas.addEventListener("pointermove", (event) => { if (down) moveTo(event); });
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { down = false; });
for (const control of Object.values(sliders)) control.addEventListener("input", draw);
keepFresh(canvas, draw);
draw();
