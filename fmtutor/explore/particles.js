const canvas = find("canvas"), slider = find("slider"), readout = find("readout");
const { times, count, low, high, limit, palette } = data;
const positions = new Uint16Array(bytes(data.states).buffer), shades = bytes(data.shades);
let width = 1, height = 1, now = +slider.value;

// Position of every particle at time t: straight between frames, in the data's own units.
function place(t, out) {
  let k = 0;
  while (k < times.length - 2 && times[k + 1] <= t) k++;
  const s = clamp((t - times[k]) / (times[k + 1] - times[k]), 0, 1), size = 2 * count, unit = (high - low) / 65535;
  for (let i = 0; i < size; i++) {
    const a = positions[k * size + i];
    out[i] = low + unit * (a + s * (positions[(k + 1) * size + i] - a));
  }
  return out;
}
const here = new Float32Array(2 * count), before = new Float32Array(2 * count);
const start = place(times[0], new Float32Array(2 * count));

// The cloud travels from the left, where it is noise, to the right, where it is data.
const scale = () => height / 2 / limit;
const reach = () => (data.travel ? Math.max(0, width - height) / 2 : 0);
const X = (x, t) => width / 2 + reach() * (2 * t - 1) + x * scale();
const Y = (y) => height / 2 - y * scale();

function sprite(colour, dark) {
  const size = 32, image = document.createElement("canvas"), brush = image.getContext("2d");
  image.width = image.height = size;
  const glow = brush.createRadialGradient(size / 2, size / 2, 0, size / 2, size / 2, size / 2);
  const stops = dark ? [[0, 0.95], [0.3, 0.55], [1, 0]] : [[0, 0.95], [0.5, 0.75], [1, 0]];
  for (const [at, alpha] of stops) glow.addColorStop(at, `rgba(${colour}, ${alpha})`);
  brush.fillStyle = glow;
  brush.fillRect(0, 0, size, size);
  return image;
}
const sprites = { true: palette.map((colour) => sprite(colour, true)), false: palette.map((colour) => sprite(colour, false)) };

const backdrop = data.density ? shadeImage(data.density) : null;

// Light text means a dark page: there colours add up to light. On a light page a sum would end in mud.
function isDark() {
  const [r, g, b] = getComputedStyle(root).color.match(/[\d.]+/g).map(Number);
  return 0.3 * r + 0.6 * g + 0.1 * b > 128;
}

const shade = (i, t) => (data.gradient ? Math.round(t * (palette.length - 1)) : shades[i]);

// Tails: where each particle was a moment ago, and for some of them the whole way from the noise.
function tails(pen, t, dark) {
  const lines = palette.map(() => new Path2D()), since = Math.max(times[0], t - 0.07);
  place(since, before);
  for (let i = 0; i < count; i++) {
    const line = lines[shade(i, t)];
    line.moveTo(X(before[2 * i], since), Y(before[2 * i + 1]));
    line.lineTo(X(here[2 * i], t), Y(here[2 * i + 1]));
  }
  pen.lineWidth = Math.max(0.8, height / 420);
  lines.forEach((line, k) => {
    pen.strokeStyle = `rgba(${palette[k]}, ${dark ? 0.3 : 0.35})`;
    pen.stroke(line);
  });
}

function ways(pen, t, dark) {
  const steps = times.filter((time) => time < t), size = 2 * count, unit = (high - low) / 65535;
  const every = Math.ceil(count / 160);
  pen.lineWidth = 0.7;
  for (let i = 0; i < count; i += every) {
    pen.strokeStyle = `rgba(${palette[shade(i, t)]}, ${dark ? 0.22 : 0.3})`;
    pen.beginPath();
    steps.forEach((time, k) => {
      const x = low + unit * positions[k * size + 2 * i], y = low + unit * positions[k * size + 2 * i + 1];
      pen.lineTo(X(x, time), Y(y));
    });
    pen.lineTo(X(here[2 * i], t), Y(here[2 * i + 1]));
    pen.stroke();
  }
}

function dots(pen, at, t, dark, alpha, size) {
  pen.globalAlpha = alpha;
  for (let i = 0; i < count; i++) {
    pen.drawImage(sprites[dark][shade(i, t)], X(at[2 * i], t) - size / 2, Y(at[2 * i + 1]) - size / 2, size, size);
  }
  pen.globalAlpha = 1;
}

function draw() {
  let pen;
  [pen, width, height] = blank(canvas);
  if (!width) return;
  const dark = isDark(), size = Math.max(3.2, height / 62);
  place(now, here);
  if (dark) pen.globalCompositeOperation = "lighter";
  if (data.travel) {
    dots(pen, start, times[0], dark, 0.18, size);
    ways(pen, now, dark);
  }
  tails(pen, now, dark);
  dots(pen, here, now, dark, dark ? 0.6 : 0.8, size);
  if (backdrop) {
    pen.globalCompositeOperation = "destination-over"; // behind what is there, so that it takes no colour away
    pen.globalAlpha = (0.15 + 0.4 * now) * (dark ? 0.6 : 1);
    const [left, top, side] = [X(-limit, times[times.length - 1]), Y(limit), 2 * limit * scale()];
    pen.drawImage(backdrop, left, top, side, side);
    pen.globalAlpha = 1;
  }
  pen.globalCompositeOperation = "source-over";
}

const time = player(slider, find("button"), data.seconds, (t) => {
  now = t;
  readout.textContent = t.toFixed(2);
  slider.setAttribute("aria-valuetext", `t = ${t.toFixed(2)}`);
  draw();
});

// Time under the finger: the cloud follows it across the picture.
function scrub(event) {
  const box = canvas.getBoundingClientRect(), edge = Math.max(0.08 * width, width / 2 - reach() - 0.35 * height);
  const part = (event.clientX - box.left - edge) / (width - 2 * edge);
  time.pause();
  time.set(times[0] + part * (times[times.length - 1] - times[0]));
}
let held = false;
canvas.addEventListener("pointerdown", (event) => { held = true; canvas.setPointerCapture(event.pointerId); scrub(event); });
canvas.addEventListener("pointermove", (event) => { if (held) scrub(event); });
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = false; });
keepFresh(canvas, draw);

// Once, when the picture comes into view; readers who asked for less motion get the end of it and the slider.
if (calm || !data.autoplay) time.set(calm ? times[times.length - 1] : times[0]);
else {
  time.set(times[0]);
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    setTimeout(() => { if (now === times[0] && !held) time.play(); }, 500);
  }, { threshold: 0.4 });
  seen.observe(canvas);
}
