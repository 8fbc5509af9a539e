// The lanes: one canvas for each row of the table of locks. Time runs to the right; the newest is
// right of the middle line "now", and beyond it is what is left of the lease.

import { isMotionReduced } from "./page.js";

const HEIGHT = 44;
const BAR_TOP = 7;
const BAR_HEIGHT = 14;
const WAIT_TOP = 26;
const WAIT_STEP = 4;
const WAIT_ROWS = 4;
/** Share of the width before "now". */
const PAST = 0.86;
/** With reduced motion, lanes move only so often. */
const CALM_MS = 1_000;
/** Lanes are drawn again when they have moved so far, in pixels. */
const SMALLEST_STEP = 0.5;
const FONT = "11px system-ui, sans-serif";

export class Lanes {
  #history;
  #axis;
  /** The canvases in sight, and the lock of each. */
  #visible = new Map();
  #locks = new WeakMap();
  #width = 0;
  #colours = null;
  #drawnAt = 0;
  #observer = new IntersectionObserver((entries) => this.#seen(entries));
  seconds = 60;
  showsWaiting = true;
  /** Returns the time at which the lanes stand still, or null. */
  frozenAt = () => null;

  constructor(history, axis) {
    this.#history = history;
    this.#axis = axis;
    new ResizeObserver(() => this.#resize()).observe(document.getElementById("lock-rows"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.#colours = null;
      this.redraw();
    });
    requestAnimationFrame((at) => this.#tick(at));
  }

  /** Creates the canvas of a lock. */
  canvas(lock) {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    this.assign(canvas, lock);
    this.#observer.observe(canvas);
    return canvas;
  }

  /** Shows another lock on a canvas. */
  assign(canvas, lock) {
    this.#locks.set(canvas, lock);
    if (this.#visible.has(canvas)) this.#visible.set(canvas, lock);
  }

  remove(canvas) {
    this.#observer.unobserve(canvas);
    this.#visible.delete(canvas);
  }

  /** Draws all at the next frame, also if they stand still. */
  redraw() {
    this.#drawnAt = 0;
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.#visible.set(target, this.#locks.get(target));
      else this.#visible.delete(target);
    }
    this.#resize();
  }

  /** All lanes are as wide as the first in sight. */
  #resize() {
    const [canvas] = this.#visible.keys();
    this.#width = Math.floor(canvas?.clientWidth ?? this.#width);
    this.#drawnAt = 0;
  }

  #tick(at) {
    requestAnimationFrame((next) => this.#tick(next));
    const frozen = this.frozenAt();
    if (this.#width < 40) return;
    const pixels = (at - this.#drawnAt) * ((this.#width * PAST) / (this.seconds * 1000));
    const isCalm = frozen || isMotionReduced.matches;
    const isDue = isCalm ? at - this.#drawnAt >= CALM_MS : pixels >= SMALLEST_STEP;
    if (this.#drawnAt !== 0 && !isDue) return;
    this.#drawnAt = at;
    this.#colours ??= colours(this.#axis);
    const now = frozen ?? this.#history.now();
    const view = {
      now,
      scale: (this.#width * PAST) / (this.seconds * 1000),
      width: this.#width,
      edge: this.#width * PAST,
      colours: this.#colours,
    };
    drawAxis(prepared(this.#axis.firstElementChild, this.#width, 18), view, this.seconds);
    for (const [canvas, lock] of this.#visible) {
      this.#draw(prepared(canvas, this.#width, HEIGHT), lock, view);
    }
  }

  #draw(context, lock, view) {
    grid(context, view, this.seconds);
    const begin = view.now - this.seconds * 1000;
    for (let at = lock.items.length - 1; at >= 0; at -= 1) {
      const item = lock.items[at];
      if (item.to !== null && item.to < begin) break;
      drawItem(context, item, view);
    }
    if (this.showsWaiting) drawWaits(context, lock.waits, view, begin);
    context.fillStyle = view.colours.now;
    context.fillRect(Math.round(view.edge), 0, 1, HEIGHT);
  }
}

/** Returns the context of a canvas of this size, empty. */
function prepared(canvas, width, height) {
  const ratio = devicePixelRatio;
  const context = canvas.getContext("2d");
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function colours(element) {
  const style = getComputedStyle(element);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  const resolved = Object.fromEntries(
    ["held", "kept", "kept-line", "wait", "refused", "mark", "grid", "now", "text"].map((name) => [
      name,
      resolve(of(name)),
    ]),
  );
  return { ...resolved, hatch: hatch(resolved.kept, resolved["kept-line"]) };
}

/** Returns a colour that a canvas understands: it knows no light-dark(). */
function resolve(colour) {
  const probe = document.createElement("i");
  probe.style.color = colour;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** Returns the pattern of kept time. */
function hatch(background, line) {
  const tile = new OffscreenCanvas(6, 6);
  const context = tile.getContext("2d");
  context.fillStyle = background;
  context.fillRect(0, 0, 6, 6);
  context.strokeStyle = line;
  context.lineWidth = 1.2;
  context.beginPath();
  for (const shift of [-6, 0, 6]) {
    context.moveTo(shift - 1, 7);
    context.lineTo(shift + 7, -1);
  }
  context.stroke();
  return context.createPattern(tile, "repeat");
}

/** Milliseconds between lines of the grid. */
function step(seconds) {
  return seconds <= 10 ? 2_000 : seconds <= 60 ? 10_000 : 60_000;
}

function grid(context, view, seconds) {
  context.fillStyle = view.colours.grid;
  for (let age = step(seconds); age <= seconds * 1000; age += step(seconds)) {
    context.fillRect(Math.round(view.edge - age * view.scale), 0, 1, HEIGHT);
  }
}

function drawAxis(context, view, seconds) {
  context.fillStyle = view.colours.text;
  context.font = FONT;
  context.textBaseline = "middle";
  context.textAlign = "center";
  context.fillText("0", view.edge, 9);
  for (let age = step(seconds); age <= seconds * 1000; age += step(seconds)) {
    const x = view.edge - age * view.scale;
    if (x < 16) break;
    context.fillText(age >= 60_000 ? `−${age / 60_000} min` : `−${age / 1000} s`, x, 9);
  }
}

function drawItem(context, item, view) {
  const { now, scale, edge, width, colours } = view;
  const x = (at) => edge - (now - at) * scale;
  const from = Math.max(x(item.from), -4);
  const isOver = item.to === null && item.until !== undefined && item.until < now;
  const end = item.to ?? (isOver ? item.until : now);
  const length = Math.max(x(end) - from, 2);
  if (item.kind === "burst") {
    context.fillStyle = colours.held;
    // Stripes, because it is many grants and not one.
    for (let at = 0; at < length; at += 3) context.fillRect(from + at, BAR_TOP, 2, BAR_HEIGHT);
    return;
  }
  if (item.kind === "kept") {
    context.fillStyle = colours.hatch;
    context.fillRect(from, BAR_TOP, length, BAR_HEIGHT);
    context.strokeStyle = colours["kept-line"];
    context.strokeRect(from + 0.5, BAR_TOP + 0.5, Math.max(length - 1, 1), BAR_HEIGHT - 1);
  } else {
    context.fillStyle = colours.held;
    context.beginPath();
    context.roundRect(from, BAR_TOP, length, BAR_HEIGHT, 2);
    context.fill();
  }
  if (item.to === null && !isOver && item.until > now) {
    const right = Math.min(x(item.until), width - 1);
    context.strokeStyle = item.kind === "kept" ? colours["kept-line"] : colours.held;
    context.setLineDash([2, 2]);
    context.strokeRect(edge + 0.5, BAR_TOP + 0.5, Math.max(right - edge, 1), BAR_HEIGHT - 1);
    context.setLineDash([]);
  }
  drawHandOver(context, item.by, from, colours);
  if (item.ended === "lost" || item.ended === "forced") cross(context, x(item.to), BAR_TOP + 7, 5, colours.refused);
}

/** A mark above the bar: how the lock came to this holder. */
function drawHandOver(context, by, x, colours) {
  const y = 3.5;
  context.fillStyle = colours.mark;
  context.strokeStyle = colours.refused;
  context.beginPath();
  if (by === "local") {
    context.moveTo(x - 2, y - 3.5);
    context.lineTo(x + 4, y);
    context.lineTo(x - 2, y + 3.5);
    context.fill();
  } else if (by === "remote") {
    context.moveTo(x + 1, y - 3.5);
    context.lineTo(x + 4.5, y);
    context.lineTo(x + 1, y + 3.5);
    context.lineTo(x - 2.5, y);
    context.fill();
  } else if (by === "expired") {
    context.arc(x + 1, y, 2.8, 0, 2 * Math.PI);
    context.stroke();
  }
}

/** Waits as thin lines below the bar: in few rows, the rest is a number. */
function drawWaits(context, waits, view, begin) {
  const { now, scale, edge, colours } = view;
  const x = (at) => edge - (now - at) * scale;
  const ends = new Array(WAIT_ROWS).fill(-Infinity);
  let hidden = 0;
  let crossed = -Infinity;
  let stacked = 0;
  context.fillStyle = colours.wait;
  for (const wait of waits) {
    if (wait.to !== null && wait.to < begin) continue;
    const from = Math.max(x(wait.from), 0);
    const to = x(wait.to ?? now);
    let row = ends.findIndex((end) => end <= from);
    if (row < 0) {
      if (wait.to === null) hidden += 1;
      row = WAIT_ROWS - 1;
      if (wait.to === null) continue;
    }
    ends[row] = Math.max(ends[row], to + 3);
    const y = WAIT_TOP + row * WAIT_STEP;
    context.fillRect(from, y - 0.75, Math.max(to - from, 1), 1.5);
    if (!wait.isRefused) continue;
    // Refusals of one moment stand above each other only so often.
    stacked = to - crossed < 4 ? stacked + 1 : 0;
    if (stacked < WAIT_ROWS) cross(context, to + 1.5, y, 2.5, colours.refused);
    crossed = to;
  }
  if (hidden > 0) {
    context.fillStyle = colours.text;
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillText(`+${hidden}`, edge + 5, WAIT_TOP + 6);
  }
}

function cross(context, x, y, size, colour) {
  context.strokeStyle = colour;
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(x - size, y - size);
  context.lineTo(x + size, y + size);
  context.moveTo(x + size, y - size);
  context.lineTo(x - size, y + size);
  context.stroke();
  context.lineWidth = 1;
}
