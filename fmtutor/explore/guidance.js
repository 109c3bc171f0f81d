const { asked, all, limit, noise } = data;
const ASKED = "#E69F00", POINTS = "#009E73", [red, green, blue] = [0, 158, 115];
const plane = find("plane"), tilted = find("tilted"), names = ["weight", "first", "last"];
const sliders = Object.fromEntries(names.map((name) => [name, find(name)]));
const grid = logGrid(data, 96), WAYS = 24, said = find("said");

const image = document.createElement("canvas");
image.width = image.height = grid.size;
function paint(shape) {
  const brush = image.getContext("2d"), pixels = brush.createImageData(grid.size, grid.size);
  shape.forEach((p, i) => pixels.data.set([red, green, blue, 230 * p], 4 * i));
  brush.putImageData(pixels, 0, 0);
}

// An empty square plane, and the two numbers that place a point on it.
function square(canvas) {
  const [pen, width, height] = blank(canvas), scale = Math.min(width, height) / 2 / limit;
  return { pen, width, height, X: (x) => width / 2 + x * scale, Y: (y) => height / 2 - y * scale, scale };
}

// Every bump as a ring at two standard deviations: in colour where the label is the one asked for.
function rings({ pen, X, Y, scale }) {
  const ring = (bumps, colour, lineWidth) => bumps.x.forEach((x, i) => {
    pen.strokeStyle = colour;
    pen.lineWidth = lineWidth;
    pen.beginPath();
    pen.arc(X(x), Y(bumps.y[i]), 2 * bumps.scale * scale, 0, 2 * Math.PI);
    pen.stroke();
  });
  ring(all, GREY, 1);
  ring(asked, ASKED, 2.5);
}

function title(at, text) {
  at.pen.fillStyle = getComputedStyle(root).color;
  at.pen.font = `13px ${getComputedStyle(root).fontFamily}`;
  at.pen.textAlign = "left";
  at.pen.fillText(text, 6, 16);
}

function drawPoints(ways) {
  const at = square(plane), { pen, X, Y, width, height } = at;
  if (!width) return;
  rings(at);
  pen.strokeStyle = GREY;
  pen.lineWidth = 0.8;
  pen.globalAlpha = 0.5;
  for (let i = 0; i < WAYS; i++) {
    pen.beginPath();
    for (const [x, y] of ways[Math.floor(((i + 0.5) * ways.length) / WAYS)]) pen.lineTo(X(x), Y(y));
    pen.stroke();
  }
  pen.globalAlpha = 0.75;
  pen.fillStyle = POINTS;
  let outside = 0;
  for (const way of ways) {
    const [x, y] = way[way.length - 1];
    if (Math.abs(X(x) - width / 2) > width / 2 || Math.abs(Y(y) - height / 2) > height / 2) outside++;
    pen.beginPath();
    pen.arc(X(x), Y(y), Math.max(1, width / 170), 0, 2 * Math.PI);
    pen.fill();
  }
  pen.globalAlpha = 1;
  title(at, "guided flow");
  if (outside) pen.fillText(`${outside} of ${ways.length} outside`, 6, height - 6);
}

function drawTilted() {
  const at = square(tilted), { pen, X, Y, width } = at;
  if (!width) return;
  pen.drawImage(image, X(-limit), Y(limit), X(limit) - X(-limit), Y(-limit) - Y(limit));
  rings(at);
  title(at, "tilted density");
}

let ways = [];
function draw() { drawPoints(ways); drawTilted(); }

function update() {
  const [w, first, last] = names.map((name) => +sliders[name].value);
  ways = noise.map((point) => follow(data, w, first, last, point));
  const ends = ways.map((way) => way[way.length - 1]), law = tilt(grid, w), nats = gap(data, w, ends, law.logTotal);
  paint(law.shape);
  for (const name of names) find(`${name}-readout`).textContent = (+sliders[name].value).toFixed(2);
  find("flow-spread").textContent = spreadOf(ends).toFixed(2);
  find("tilted-spread").textContent = law.spread.toFixed(2);
  find("gap").textContent = Math.max(nats, 0).toFixed(2);
  const measured = "Gap: the Kullback–Leibler divergence of the guided flow from the tilted density, KL(flow, tilted).";
  said.textContent = first < last ? measured : `Nothing is guided: these points follow the label alone. ${measured}`;
  draw();
}
for (const control of Object.values(sliders)) control.addEventListener("input", update);
for (const canvas of [plane, tilted]) keepFresh(canvas, draw);
update();
