const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const find = (name) => root.querySelector(`[data-fx="${name}"]`);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const GREY = "#767676";
const signed = (value, digits = 2) => {
  const size = Math.abs(value).toFixed(digits);
  return (value < 0 && +size > 0 ? "−" : "") + size;
};

// Redraws when the canvas changes its size and when the reader switches between light and dark.
function keepFresh(canvas, redraw) {
  const later = () => requestAnimationFrame(redraw);
  new ResizeObserver(later).observe(canvas);
  const theme = new MutationObserver(later);
  theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "data-mode", "class"] });
  if (document.body) theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
}

// An empty canvas with as many pixels as the screen has there; lengths are CSS pixels.
function blank(canvas) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return [pen, width, height];
}

// The frame of a plane of time and place, from noise on the left to data on the right; X and Y give its pixels.
function axes(pen, X, Y, limit, width) {
  pen.fillStyle = pen.strokeStyle = GREY;
  pen.lineWidth = 1;
  pen.font = `12px ${getComputedStyle(root).fontFamily}`;
  pen.strokeRect(X(0), Y(limit), X(1) - X(0), Y(-limit) - Y(limit));
  pen.textAlign = "center";
  for (const t of [0, 0.25, 0.5, 0.75, 1]) pen.fillText(String(t), clamp(X(t), 0, width - 8), Y(-limit) + 15);
  pen.fillText("time t", X(0.5), Y(-limit) + 31);
  pen.textAlign = "left";
  pen.fillText("noise", X(0), Y(-limit) + 31);
  pen.textAlign = "right";
  pen.fillText("data", X(1), Y(-limit) + 31);
  const step = limit > 8 ? 5 : limit > 4 ? 2 : 1;
  for (let x = -Math.floor(limit / step) * step; x <= limit; x += step) pen.fillText(signed(x, 0), X(0) - 5, Y(x) + 4);
}

// A slider and a button that moves it from end to end; show(position) is called for every move.
function player(slider, button, seconds, show) {
  const low = +slider.min, high = +slider.max;
  let position = +slider.value, last = 0, request = 0;
  const label = (text) => { button.textContent = text; };
  function set(value) {
    position = clamp(value, low, high);
    slider.value = position;
    show(position);
  }
  function pause() {
    cancelAnimationFrame(request);
    request = 0;
    label("▶ Play");
  }
  function tick(now) {
    if (!root.isConnected) return;
    set(position + (high - low) * Math.min(now - last, 100) / 1000 / seconds);
    last = now;
    if (position < high) request = requestAnimationFrame(tick);
    else pause();
  }
  function play() {
    if (position >= high) set(low);
    label("❚❚ Pause");
    last = performance.now();
    request = requestAnimationFrame(tick);
  }
  button.addEventListener("click", () => (request ? pause() : play()));
  slider.addEventListener("input", () => { pause(); set(+slider.value); });
  pause();
  return { set, play, pause };
}

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// A square of opacities, top row first, as an image in the colour of data.
function shadeImage(text) {
  const values = bytes(text), size = Math.sqrt(values.length), image = document.createElement("canvas");
  image.width = image.height = size;
  const brush = image.getContext("2d"), pixels = brush.createImageData(size, size);
  values.forEach((value, i) => pixels.data.set([230, 159, 0, value], 4 * i));
  brush.putImageData(pixels, 0, 0);
  return image;
}
