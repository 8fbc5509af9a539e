// The stream of events: one per tab, closed while the tab is hidden or the page is paused, and
// resumed where it ended. Not an EventSource, which cannot send a key.

import { credentials } from "./api.js";
import { $, bind, clock, mention, say, url } from "./page.js";

const FIRST_RETRY_MS = 2_000;
const LAST_RETRY_MS = 15_000;
/** The server sends at least a comment every 15 s. */
const SILENCE_MS = 40_000;

export class Stream {
  #path;
  #receive;
  #abort = null;
  #lastId = null;
  #retry = FIRST_RETRY_MS;
  #failures = 0;
  #timer = 0;
  #watchdog = 0;
  #isPaused = false;
  /** Time of the last byte. */
  #heardAt = Date.now();
  /** `live`, `connecting`, `reconnecting`, `paused`, `full` or `denied`. */
  state = "connecting";
  /** Called with each new state. */
  onState = () => {};

  /** `receive` is called with the name and the data of each event. */
  constructor(path, receive) {
    this.#path = path;
    this.#receive = receive;
  }

  start() {
    const pause = $("pause");
    pause.hidden = false;
    pause.addEventListener("click", () => this.#toggle());
    bind("p", () => this.#toggle());
    document.addEventListener("visibilitychange", () => this.#settle());
    // A page in the back-forward cache must not keep its connection.
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", () => this.#settle());
    addEventListener("online", () => this.#reconnectNow());
    this.#settle();
  }

  /** Opens the stream again, with another key. */
  restart() {
    this.#close();
    this.#settle();
  }

  /** Since when the page shows nothing new. */
  get frozenAt() {
    return this.state === "live" ? null : this.#heardAt;
  }

  #toggle() {
    this.#isPaused = !this.#isPaused;
    const pause = $("pause");
    pause.setAttribute("aria-pressed", String(this.#isPaused));
    pause.textContent = this.#isPaused ? say("Continue", "계속") : say("Pause", "일시 정지");
    this.#settle();
  }

  /** Opens or closes the stream as the tab and the switch want it. */
  #settle() {
    if (this.#isPaused || document.hidden) {
      this.#close();
      this.#set(this.#isPaused ? "paused" : "connecting");
    } else if (!this.#abort) {
      this.#open();
    }
  }

  #reconnectNow() {
    if (this.state === "reconnecting" && !this.#abort) this.#settle();
  }

  #close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
    this.#abort?.abort();
    this.#abort = null;
  }

  async #open() {
    clearTimeout(this.#timer);
    const abort = (this.#abort = new AbortController());
    if (this.state === "paused") this.#set("connecting");
    let ended = "reconnecting";
    try {
      const headers = { Accept: "text/event-stream", ...credentials() };
      if (this.#lastId) headers["Last-Event-ID"] = this.#lastId;
      this.#watch(abort);
      const response = await fetch(url(this.#path), {
        headers,
        signal: abort.signal,
        cache: "no-store",
      });
      if (response.ok) {
        this.#failures = 0;
        await this.#read(response.body, abort);
      } else {
        if (response.status === 503) ended = "full";
        if (response.status === 401 || response.status === 403) ended = "denied";
        await response.body?.cancel();
      }
    } catch {
      // Not reached, broken, or closed here.
    }
    if (this.#abort !== abort) return;
    this.#close();
    this.#set(ended);
    if (ended !== "denied") this.#retryLater();
  }

  #retryLater() {
    const wait = Math.min(this.#retry * 2 ** this.#failures, LAST_RETRY_MS);
    this.#failures += 1;
    // Not all pages of a server that restarts return at once.
    this.#timer = setTimeout(() => this.#settle(), wait * (0.5 + Math.random()));
  }

  #watch(abort) {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
  }

  async #read(body, abort) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let event = { name: "message", data: [], id: null };
    for (;;) {
      const { value, done } = await reader.read();
      if (done || this.#abort !== abort) return;
      this.#heardAt = Date.now();
      this.#watch(abort);
      this.#set("live");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line !== "") {
          this.#field(line, event);
          continue;
        }
        if (event.id) this.#lastId = event.id;
        if (event.data.length > 0) this.#receive(event.name, JSON.parse(event.data.join("\n")));
        event = { name: "message", data: [], id: null };
      }
    }
  }

  #field(line, event) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") event.name = value;
    else if (name === "data") event.data.push(value);
    else if (name === "id") event.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.#retry = Number(value);
  }

  #set(state) {
    if (state === this.state) return;
    const before = this.state;
    this.state = state;
    this.onState(state);
    if (state === "reconnecting" && before === "live") {
      mention(say("The connection is lost. The page is frozen.", "연결이 끊겼습니다. 화면이 멈췄습니다."));
    } else if (state === "live" && (before === "reconnecting" || before === "full")) {
      mention(say("Live again.", "다시 실시간입니다."));
    }
  }
}

/** Shows the state of the stream, and greys what is frozen. */
export function showLight(stream, servers) {
  const { state, frozenAt } = stream;
  const since = frozenAt && clock(frozenAt);
  const texts = {
    live: servers > 1 ? say(`Live · ${servers} servers`, `실시간 · 서버 ${servers}대`) : say("Live", "실시간"),
    connecting: say("Connecting…", "연결 중…"),
    reconnecting: say(`Reconnecting · frozen since ${since}`, `다시 연결 중 · ${since}부터 멈춤`),
    full: say(`Too many watchers · frozen since ${since}`, `보는 사람이 너무 많음 · ${since}부터 멈춤`),
    denied: say("Not live: a key is needed", "실시간 아님: 키가 필요합니다"),
    paused: say(`Paused since ${since}`, `${since}부터 일시 정지`),
  };
  $("light").dataset.state = state;
  $("light-text").textContent = texts[state];
  document.body.dataset.live = state;
}
