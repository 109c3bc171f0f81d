const plane = find("plane"), chart = find("chart"), slider = find("slider"), readout = find("readout"), said = find("said");
const menus = { path: find("path"), method: find("method") };
const { count, limit, reach, palette, steps, looks, errors } = data;
const ends = new Uint16Array(bytes(data.ends).buffer), corners = new Uint16Array(bytes(data.corners).buffer);
const goals = new Uint16Array(bytes(data.goals).buffer);
const shades = bytes(data.shades), backdrop = data.density ? shadeImage(data.density) : null;
const unit = (2 * reach) / 65535;
const perRun = data.knots.map((n) => 2 * n * data.ways), perMethod = perRun.reduce((a, b) => a + b, 0);

// Which run is chosen, and where its numbers lie in the two long rows.
const chosen = () => ({ path: menus.path.selectedIndex, method: menus.method.selectedIndex, k: Math.round(+slider.value) });
const runOf = ({ path, method, k }) => (path * data.methods.length + method) * steps.length + k;
function cornersOf({ path, method, k }) {
  const before = perRun.slice(0, k).reduce((a, b) => a + b, 0);
  return (path * data.methods.length + method) * perMethod + before;
}

// The ends as they are drawn; after a change they glide to their new places.
let now = null, from = null, began = 0;
function endsOf(run, out) {
  for (let i = 0; i < 2 * count; i++) out[i] = unit * ends[2 * count * run + i] - reach;
  return out;
}

function drawPlane() {
  const [pen, width, height] = blank(plane);
  if (!width) return;
  const choice = chosen(), scale = Math.min(width, height) / 2 / limit;
  const X = (x) => width / 2 + x * scale, Y = (y) => height / 2 - y * scale;
  if (backdrop) {
    pen.globalAlpha = 0.5;
    pen.drawImage(backdrop, X(-limit), Y(limit), 2 * limit * scale, 2 * limit * scale);
    pen.globalAlpha = 1;
  }
  pen.strokeStyle = "rgba(118, 118, 118, .5)";
  pen.lineWidth = 0.8;
  const first = cornersOf(choice), each = 2 * data.ways;
  for (let i = 0; i < data.ways; i++) {
    pen.beginPath();
    for (let n = 0; n < data.knots[choice.k]; n++) {
      const at = first + n * each + 2 * i;
      pen.lineTo(X(unit * corners[at] - reach), Y(unit * corners[at + 1] - reach));
    }
    pen.stroke();
  }
  for (let i = 0; i < count; i++) {
    pen.fillStyle = `rgba(${palette[shades[i]]}, .85)`;
    pen.beginPath();
    pen.arc(X(now[2 * i]), Y(now[2 * i + 1]), Math.max(1.8, width / 150), 0, 7);
    pen.fill();
  }
  const place = endsOf(runOf(choice), new Float32Array(2 * count)), ink = getComputedStyle(root).color;
  let outside = 0;
  pen.strokeStyle = pen.fillStyle = ink;
  pen.lineWidth = 1;
  for (let i = 0; i < count; i++) {  // a ring around what is far from where the exact flow takes it
    const [x, y] = [place[2 * i], place[2 * i + 1]];
    if (Math.max(Math.abs(x) * scale - width / 2, Math.abs(y) * scale - height / 2) > 0) outside++;
    if (Math.hypot(x - unit * goals[2 * i] + reach, y - unit * goals[2 * i + 1] + reach) <= data.ring) continue;
    pen.beginPath();
    pen.arc(X(now[2 * i]), Y(now[2 * i + 1]), Math.max(1.8, width / 150) + 2, 0, 7);
    pen.stroke();
  }
  pen.font = "12px sans-serif";
  pen.textAlign = "left";
  if (outside) pen.fillText(`${outside} of ${count} points outside the picture`, 6, height - 6);
}

// From the decade below the smallest error of all runs to the one above the largest.
const every = errors.flat(2).map((e) => Math.max(e, 1e-6));
const low = Math.floor(Math.log10(every.reduce((a, b) => Math.min(a, b))));
const high = Math.ceil(Math.log10(every.reduce((a, b) => Math.max(a, b))));

function drawChart() {
  const [pen, width, height] = blank(chart);
  if (!width) return;
  const { path, method, k } = chosen(), ink = getComputedStyle(root).color;
  const most = looks.reduce((a, b) => Math.max(a, b)) * steps[steps.length - 1];
  const [left, right, top, bottom] = [54, width - 64, 26, height - 38];
  const X = (n) => left + ((right - left) * Math.log(n)) / Math.log(most);
  const Y = (e) => bottom - ((bottom - top) * (Math.log10(Math.max(e, 1e-6)) - low)) / (high - low);
  pen.font = "12px sans-serif";
  pen.fillStyle = ink;
  pen.strokeStyle = "rgba(127, 127, 127, .25)";
  pen.lineWidth = 1;
  pen.textAlign = "right";
  for (let decade = low; decade <= high; decade++) {
    const e = 10 ** decade;
    pen.fillText(decade < -4 ? `1e${decade}` : +e.toPrecision(1), left - 6, Y(e) + 4);
    pen.beginPath(); pen.moveTo(left, Y(e)); pen.lineTo(right, Y(e)); pen.stroke();
  }
  pen.textAlign = "center";
  for (let n = 1; n <= most; n *= 4) pen.fillText(n, X(n), bottom + 16);
  pen.fillText("evaluations of the field", (left + right) / 2, bottom + 33);
  pen.textAlign = "left";
  pen.fillText("rms error", 4, 14);
  const line = (m) => {
    pen.beginPath();
    errors[path][m].forEach((e, i) => pen.lineTo(X(looks[m] * steps[i]), Y(e)));
    pen.stroke();
  };
  let above = -99;  // names stand in a column on the right, each at the height of its line's end, and joined to it
  const last = steps.length - 1, ends = looks.map((n, m) => [X(n * steps[last]), Y(errors[path][m][last]), data.methods[m]]);
  pen.setLineDash([2, 3]);
  for (const [x, y, name] of ends.sort((one, other) => one[1] - other[1])) {
    above = Math.max(y, above + 14);
    pen.fillText(name, right + 8, above + 4);
    pen.beginPath(); pen.moveTo(x, y); pen.lineTo(right + 6, above); pen.stroke();
  }
  pen.setLineDash([]);
  pen.strokeStyle = "rgba(127, 127, 127, .7)";
  pen.lineWidth = 1;
  errors[path].forEach((_, m) => line(m));
  pen.strokeStyle = pen.fillStyle = "#E69F00";
  pen.lineWidth = 2.5;
  line(method);
  pen.beginPath();
  pen.arc(X(looks[method] * steps[k]), Y(errors[path][method][k]), 6, 0, 7);
  pen.fill();
}

function redraw() { drawPlane(); drawChart(); }

function tick(time) {
  const part = calm ? 1 : clamp((time - began) / 350, 0, 1), ease = part * part * (3 - 2 * part);
  const goal = endsOf(runOf(chosen()), new Float32Array(2 * count));
  now = goal.map((x, i) => from[i] + ease * (x - from[i]));
  drawPlane();
  if (part < 1 && root.isConnected) requestAnimationFrame(tick);
}

function show() {
  const { path, method, k } = chosen(), n = steps[k];
  readout.textContent = n;
  slider.setAttribute("aria-valuetext", `${n} steps`);
  const told = errors[path][method][k];
  said.textContent = `${data.paths[path]}, ${data.methods[method]}: ${n} ${n === 1 ? "step" : "steps"}, ` +
    `${looks[method] * n} ${looks[method] * n === 1 ? "evaluation" : "evaluations"}, rms error ${told >= 0.001 ? told.toPrecision(3) : told.toExponential(1)}`;
  from = now ?? endsOf(runOf(chosen()), new Float32Array(2 * count));
  began = performance.now();
  if (calm) tick(began);
  else requestAnimationFrame(tick);
  drawChart();
}

let shown = -1;
const run = player(slider, find("button"), 7, () => {
  const next = runOf(chosen());
  if (next !== shown) { shown = next; show(); }
});
for (const menu of Object.values(menus)) menu.addEventListener("change", () => { run.pause(); shown = runOf(chosen()); show(); });
shown = runOf(chosen());
now = endsOf(shown, new Float32Array(2 * count));
show();
keepFresh(plane, redraw);
