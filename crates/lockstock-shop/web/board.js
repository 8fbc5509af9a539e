// The board at `/`.

import { onScope, startKeys } from "./api.js";
import { EpisodeTable } from "./episodes.js";
import { History } from "./history.js";
import { Lanes } from "./lanes.js";
import { LockTable } from "./locks.js";
import { $, bind, say, startPage } from "./page.js";
import { ProductTable, showHolds } from "./products.js";
import { Race } from "./race.js";
import { showLight, Stream } from "./stream.js";

const COUNT_DOWN_MS = 100;
const HOUSEKEEPING_MS = 1_000;
const FIND_MS = 5_000;

startPage();

const history = new History();
const lanes = new Lanes(history, axis());
const products = new ProductTable(history);
const locks = new LockTable(history, lanes, (id) => products.name(id));
const episodes = new EpisodeTable(history);
const race = new Race(history);

const stream = new Stream("api/locks/events", (name, data) => {
  if (name === "bye" || name === "reset") return;
  if (name === "snapshot") {
    history.snapshot(data);
    locks.find();
  } else {
    history.frame(data);
  }
  products.update(data.products);
  race.update(data.products);
  show();
  lanes.redraw();
});

let frozenAt = null;
lanes.frozenAt = () => frozenAt;
stream.onState = (state) => {
  // Where the clock of the page stood.
  frozenAt = state === "live" ? null : (frozenAt ?? history.now());
  showLight(stream, history.servers.size);
  lanes.redraw();
};

function show() {
  locks.update();
  episodes.update();
  showLight(stream, history.servers.size);
}

setInterval(() => {
  if (!frozenAt && !document.hidden) locks.countDown(history.now());
}, COUNT_DOWN_MS);

setInterval(() => {
  showHolds();
  if (frozenAt || document.hidden) return;
  history.prune();
  products.age();
  show();
}, HOUSEKEEPING_MS);

setInterval(() => {
  if (!frozenAt && !document.hidden) locks.find();
}, FIND_MS);

/** Puts the axis of the lanes into the head of their column. */
function axis() {
  const title = $("lane-title");
  title.className = "unseen";
  const cell = document.createElement("span");
  cell.className = "axis";
  cell.append(document.createElement("canvas"));
  title.parentElement.append(cell);
  return cell;
}

const zoom = $("zoom");
zoom.hidden = false;
const steps = [...zoom.querySelectorAll("button")];

function showSeconds(button) {
  for (const other of steps) other.setAttribute("aria-pressed", String(other === button));
  lanes.seconds = Number(button.dataset.seconds);
  lanes.redraw();
}

function step(by) {
  const at = steps.findIndex((it) => it.getAttribute("aria-pressed") === "true");
  showSeconds(steps[Math.min(Math.max(at + by, 0), steps.length - 1)]);
}

zoom.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) showSeconds(button);
});
bind("+", () => step(-1));
bind("=", () => step(-1));
bind("-", () => step(1));

const waiting = $("waiting-switch");
waiting.disabled = false;
function toggleWaiting() {
  lanes.showsWaiting = !lanes.showsWaiting;
  waiting.setAttribute("aria-pressed", String(lanes.showsWaiting));
  lanes.redraw();
}
waiting.addEventListener("click", toggleWaiting);
bind("w", toggleWaiting);
bind("/", () => $("filter-lock").focus());

// An empty field has no place in a link that is sent to others.
$("filter").addEventListener("submit", (event) => {
  for (const field of event.target.elements) if (field.name && field.value === "") field.disabled = true;
});

showLight(stream, 1);
onScope((isWriter) => {
  // Perhaps the new key may read.
  if (stream.state === "denied") stream.restart();
  $("key").textContent = isWriter ? say("Change the key", "키 바꾸기") : say("Read-only · enter a key", "읽기 전용 · 키 입력");
});

await startKeys();
stream.start();
