// The curve of a product's stock, from its ledger.

import { call } from "./api.js";
import { $, number, say } from "./page.js";

const PAGE = 100;
/** The latest entries only: ten pages. */
const MAX_ENTRIES = 1_000;
const HEIGHT = 220;
const HOUR = 3_600;
/** Seconds between labels of the time axis. */
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR, 168 * HOUR, 720 * HOUR, 8_760 * HOUR];
const STOCK_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000, 1_000_000];

export class Curve {
  #path;
  #seconds = [];
  #stocks = [];
  #count = 0;
  #plot = null;
  #loading = null;

  constructor(product) {
    this.#path = `api/products/${product}/ledger/?page_size=${PAGE}`;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.#create());
    new ResizeObserver(([entry]) => {
      this.#plot?.setSize({ width: Math.floor(entry.contentRect.width), height: HEIGHT });
    }).observe($("curve"));
  }

  /** Reads the entries that are new. Returns them, the oldest first. */
  async load() {
    // One at a time; a call meanwhile is not lost, because it is repeated.
    if (this.#loading) await this.#loading.catch(() => {});
    this.#loading = this.#read();
    return this.#loading;
  }

  async #read() {
    let page = Math.floor(this.#count / PAGE) + 1;
    const added = [];
    for (;;) {
      const { status, data } = await call("GET", `${this.#path}&page=${page}`);
      if (status !== 200) {
        // Without a key of its own, the page has the entries that the server has rendered.
        if (!this.#plot) this.#adopt();
        break;
      }
      const pages = Math.ceil(data.count / PAGE);
      const first = Math.max(1, pages - MAX_ENTRIES / PAGE + 1);
      if (page < first) {
        page = first;
        this.#count = (first - 1) * PAGE;
        continue;
      }
      const known = this.#count - (page - 1) * PAGE;
      added.push(...data.results.slice(Math.max(known, 0)));
      this.#count = (page - 1) * PAGE + data.results.length;
      if (page >= pages) break;
      page += 1;
    }
    for (const entry of added) {
      this.#seconds.push(Date.parse(entry.at) / 1000);
      this.#stocks.push(entry.stock_after);
    }
    if (added.length > 0 || !this.#plot) this.#draw();
    return added;
  }

  #adopt() {
    for (const row of [...$("entry-rows").rows].reverse()) {
      this.#seconds.push(Date.parse(row.querySelector("time").dateTime) / 1000);
      this.#stocks.push(Number(row.querySelector(".after").textContent.replace(/,/g, "")));
    }
  }

  /** The number of entries that the ledger has. */
  get count() {
    return this.#count;
  }

  #draw() {
    // The last stock still holds now.
    const now = Math.max(Date.now() / 1000, this.#seconds.at(-1) ?? 0);
    const data = [[...this.#seconds, now], [...this.#stocks, this.#stocks.at(-1)]];
    if (this.#plot) this.#plot.setData(data);
    else this.#create(data);
    const [first, last] = [this.#stocks[0] ?? 0, this.#stocks.at(-1) ?? 0];
    $("curve").setAttribute("role", "img");
    $("curve").setAttribute(
      "aria-label",
      say(
        `Stock over time: from ${number(first)} to ${number(last)} in ${this.#stocks.length} entries.`,
        `시간에 따른 재고: 기록 ${this.#stocks.length}건 동안 ${number(first)}에서 ${number(last)}(으)로.`,
      ),
    );
  }

  #create(data = this.#plot?.data) {
    this.#plot?.destroy();
    const host = $("curve");
    const style = getComputedStyle(host);
    const colour = (name) => {
      const probe = host.appendChild(document.createElement("i"));
      probe.style.color = `var(--${name})`;
      const { color } = getComputedStyle(probe);
      probe.remove();
      return color;
    };
    const font = `11px ${style.fontFamily}`;
    const axis = {
      stroke: colour("text-quiet"),
      font,
      grid: { stroke: colour("line"), width: 1 },
      ticks: { show: false },
    };
    const stepped = uPlot.paths.stepped({ align: 1 });
    this.#plot = new uPlot(
      {
        width: Math.floor(host.clientWidth),
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, drag: { x: true, y: false } },
        scales: { y: { range: (_, low, high) => [Math.min(0, low), Math.max(high, 1) * 1.08] } },
        axes: [{ ...axis, size: 30, space: 76, incrs: TIME_STEPS, values: times }, { ...axis, size: 44, incrs: STOCK_STEPS }],
        series: [
          {},
          { stroke: colour("held"), width: 1.5, fill: colour("held-soft"), paths: stepped, points: { show: false } },
        ],
      },
      data,
      host,
    );
  }
}

/** Labels of the time axis, in 24 hours. */
function times(_, splits, __, ___, step) {
  const options = step < 60 ? { timeStyle: "medium" } : step < 86_400 ? { timeStyle: "short" } : { dateStyle: "short" };
  const format = new Intl.DateTimeFormat("en-GB", options);
  return splits.map((seconds) => format.format(seconds * 1000));
}
