// What all pages share: texts, formats, the status line, dialogs and the keyboard.

export const isKorean = document.documentElement.lang === "ko";

/** Returns the text in the language of the page. */
export const say = (english, korean) => (isKorean ? korean : english);

export const $ = (id) => document.getElementById(id);

/** The URL of a path of this server, whatever prefix a proxy puts before it. */
export const url = (path) => new URL(document.body.dataset.root + path, document.baseURI).href;

const NUMBER = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});

export const number = (value) => NUMBER.format(value).replace("-", "−");
export const clock = (ms) => CLOCK.format(ms);

/** Formats a duration in few digits, as the server does. */
export function short(ms) {
  if (ms < 9.95) return `${Math.max(ms, 0).toFixed(1)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  return `${(ms / 60_000).toFixed(0)} min`;
}

/** Sets the text of an element only if it changes, so that a selection in it stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Creates an element with attributes and children. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const isMotionReduced = matchMedia("(prefers-reduced-motion: reduce)");

// --- the status line ---------------------------------------------------------

const STATUS_MS = 6_000;
const QUIET_MS = 10_000;
let spokenAt = -Infinity;
let clearing;

/** Reports the outcome of something that the user did. */
export function announce(text, kind = "done") {
  const status = $("status");
  status.dataset.kind = kind;
  status.textContent = text;
  spokenAt = performance.now();
  clearTimeout(clearing);
  clearing = setTimeout(() => (status.textContent = ""), kind === "failed" ? 2 * STATUS_MS : STATUS_MS);
}

/** Reports something that the user did not do, at most every ten seconds. */
export function mention(text) {
  if (performance.now() - spokenAt >= QUIET_MS) announce(text, "note");
}

// --- dialogs -----------------------------------------------------------------

/** Opens a dialog and returns the value of the button that closes it; `cancel` for Escape. */
export function ask(dialog) {
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }),
  );
}

// --- the keyboard ------------------------------------------------------------

const shortcuts = new Map();

/** Binds a key, unless the focus is in a field. */
export function bind(key, action) {
  shortcuts.set(key, action);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (document.querySelector("dialog[open]") || !$("keys-on").checked) return;
  if (event.target.closest("input:not([type=range], [type=checkbox]), select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  // By position where the keyboard writes Hangul.
  const key = /^Key[A-Z]$/.test(event.code) ? event.code[3].toLowerCase() : event.key;
  const action = shortcuts.get(event.shiftKey && key !== "?" && key !== "+" ? "" : key);
  if (action) {
    event.preventDefault();
    action();
  }
});

/** Wires what every page has. */
export function startPage() {
  const help = $("help");
  help.hidden = false;
  help.addEventListener("click", () => ask($("help-dialog")));
  bind("?", () => ask($("help-dialog")));
  const keys = $("keys-on");
  keys.checked = localStorage.getItem("lockstock-keys") !== "off";
  keys.addEventListener("change", () =>
    localStorage.setItem("lockstock-keys", keys.checked ? "on" : "off"),
  );
  for (const time of document.querySelectorAll("time")) localise(time);
}

/** Shows a time of the server in the zone of the browser. */
export function localise(time) {
  const at = Date.parse(time.dateTime);
  time.textContent = clock(at);
  time.title = new Date(at).toString();
}
