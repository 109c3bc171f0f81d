"""Runs a figure's whole script in node, before a page that notes down what is drawn and what is written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

WIDTH, HEIGHT = 600, 400

PAGE = """
const log = [];
function pen(where) {
  const own = {};
  let way = [];
  const note = (what, more) => log.push({ where, what, colour: own[what === "stroke" ? "strokeStyle" : "fillStyle"],
    alpha: own.globalAlpha ?? 1, ...more });
  const acts = {
    beginPath() { way = []; },
    moveTo(x, y) { way.push([x, y]); }, lineTo(x, y) { way.push([x, y]); },
    arc(x, y) { way.push([x, y]); },
    stroke() { note("stroke", { way }); }, fill() { note("fill", { way }); },
    fillText(text, x, y) { note("text", { text: String(text), way: [[x, y]] }); },
    createImageData: (width, height) => ({ data: new Uint8ClampedArray(4 * width * height) }),
    putImageData(image) { note("image", { pixels: where ? [] : Array.from(image.data) }); },
  };
  return new Proxy(own, { get: (o, key) => acts[key] ?? (key in o ? o[key] : () => {}) });
}
function element(where, value = "0") {
  return { value, textContent: "", clientWidth: WIDTH, clientHeight: HEIGHT, style: {}, selectedIndex: 0,
    setAttribute() {}, setPointerCapture() {}, getContext() { return (this.pen ??= pen(where)); },
    addEventListener() {} };
}
const parts = {};
const part = (name) => (parts[name] ??= Object.assign(element(name, STARTS[name] ?? "0"),
  { selectedIndex: +(STARTS[name] ?? 0) }, RANGES[name] ?? {}));
const root = { querySelector: (key) => part(/"(.*)"/.exec(key)[1]), isConnected: true };
const document = { createElement: () => element(""), documentElement: {}, body: null };
const window = { devicePixelRatio: 1 }, matchMedia = () => ({ matches: true, addEventListener() {} });
const getComputedStyle = () => ({ color: "ink", fontFamily: "sans" });
class ResizeObserver { observe() {} }
class MutationObserver { observe() {} }
const requestAnimationFrame = () => 0, cancelAnimationFrame = () => {};
"""


def drawn(page: str, starts: dict[str, float], slip: tuple[str, str] = ("", "")) -> Any:
    """What the figure of a page draws when its controls stand at `starts`, and what its parts say."""
    node = shutil.which("node") or pytest.skip("no node here")
    (script,) = re.findall(r"\(\(\) => \{ (const data = .*) \}\)\(\); \}</script>", page, re.S)
    assert slip[0] in script
    ranges = {
        name: {"min": low, "max": high}
        for name, low, high in re.findall(r'<input[^>]*? data-fx="([^"]*)"[^>]*? min="([^"]*)" max="([^"]*)"', page)
    }
    said = "Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, part.textContent]))"
    script = script.replace(*slip) if slip[0] else script
    program = (
        f"const WIDTH = {WIDTH}, HEIGHT = {HEIGHT}, STARTS = {json.dumps(starts)}, RANGES = {json.dumps(ranges)};"
        f"{PAGE}\n(() => {{ {script} }})();\nconsole.log(JSON.stringify({{ log, said: {said} }}))"
    )
    return json.loads(subprocess.run([node], input=program, capture_output=True, text=True, check=True).stdout)
