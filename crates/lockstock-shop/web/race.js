// The race: the same change several times at once, and a bar for each request.

import { call, ensureWriter, onScope, reason } from "./api.js";
import { $, announce, bind, make, say, setText, short, url } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
/** Width of the picture that is saved. */
const SAVED_WIDTH = 720;
const LABEL = 26;
const RESULT = 148;
/** A browser opens six connections to a server at most, and the stream of the page has one. */
const CONNECTIONS = 5;

export class Race {
  #history;
  #round = null;
  #isRunning = false;

  constructor(history) {
    this.#history = history;
    const form = $("race-form");
    const count = $("race-count");
    const start = $("race-start");
    const label = () => {
      setText($("race-count-shown"), count.value);
      setText(start, say(`Send ${count.value} requests`, `요청 ${count.value}개 보내기`));
    };
    count.addEventListener("input", label);
    label();
    onScope(() => (start.disabled = false));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#run(Number(form.elements.product.value), Number(count.value));
    });
    bind("r", () => form.requestSubmit());
    $("race-save").addEventListener("click", () => this.#save());
    new ResizeObserver(() => this.#draw()).observe($("race-chart"));
    this.#draw();
  }

  /** Offers new products, and names the servers as soon as the stream has reported them. */
  update(products = []) {
    const choice = $("race-product");
    for (const { id, name, deleted } of products) {
      const option = choice.querySelector(`[value="${id}"]`);
      if (deleted) option?.remove();
      else if (option) setText(option, name);
      else choice.append(make("option", { value: id }, name));
    }
    if (!this.#round) return;
    let isNews = false;
    for (const result of this.#round.results) {
      const server = this.#history.requests.get(result.id);
      isNews ||= server !== result.server;
      result.server = server;
    }
    if (isNews) this.#show();
  }

  async #run(product, count) {
    if (product === 0) {
      announce(say("There is no product yet. Create one first.", "아직 상품이 없습니다. 먼저 만들어 주세요."), "failed");
      return;
    }
    if (this.#isRunning || !(await ensureWriter())) return;
    this.#isRunning = true;
    $("race-start").disabled = true;
    try {
      const path = `api/products/${product}/`;
      const found = await call("GET", path);
      if (found.status !== 200) {
        announce(reason(found), "failed");
        return;
      }
      const { stock, name } = found.data;
      const change = { stock: stock > 0 ? stock - 1 : 1 };
      const results = await send(path, change, count);
      this.#round = { at: Date.now(), name, change, results };
      this.update();
      this.#show();
      // The chart shows it already.
      announce(summary(results), "spoken");
    } finally {
      this.#isRunning = false;
      $("race-start").disabled = false;
    }
  }

  #show() {
    this.#draw();
    const { results } = this.#round;
    $("race-save").hidden = $("race-details").hidden = false;
    $("race-rows").replaceChildren(
      ...results.map((result) => {
        const cell = (text, name = "num") => make("td", { class: name }, text);
        return make(
          "tr",
          {},
          make("th", { scope: "row" }, String(result.n)),
          cell(resultText(result), ""),
          cell(short(result.sent)),
          cell(short(result.heard)),
          cell(result.retryAfter === null ? "" : `${result.retryAfter} s`),
          cell((result.server ?? "").slice(0, 8), "server"),
        );
      }),
    );
  }

  #draw() {
    const chart = $("race-chart");
    const width = Math.floor(chart.clientWidth);
    if (width < 40) return;
    const inner = width - 2 * parseFloat(getComputedStyle(chart).paddingLeft);
    if (!this.#round) {
      chart.replaceChildren(preview(inner));
      return;
    }
    const { results } = this.#round;
    const isQueued = results.length > CONNECTIONS;
    const queued = say(
      `The thin line is time in the browser, which sends about ${CONNECTIONS} requests at a time unless the server speaks HTTP/2.`,
      `가는 선은 브라우저 안에서 기다린 시간입니다. HTTP/2가 아니면 브라우저는 한 번에 ${CONNECTIONS}개쯤만 보냅니다.`,
    );
    chart.replaceChildren(
      make("p", { class: "outcome" }, summary(results)),
      drawing(this.#round, inner),
      ...(isQueued ? [make("p", { class: "hint" }, queued)] : []),
    );
  }

  /** Saves the race as one file that needs nothing else. */
  #save() {
    const picture = drawing(this.#round, SAVED_WIDTH - 32, 52);
    const height = Number(picture.getAttribute("height"));
    const { name, at, results } = this.#round;
    const title = say(
      `${results.length} × the same PATCH of “${name}” at once`,
      `“${name}”에 같은 PATCH ${results.length}개를 동시에`,
    );
    picture.prepend(text(0, 16, title, "title"), text(SAVED_WIDTH - 32, 16, new Date(at).toISOString().slice(0, 16).replace("T", " ") + " UTC", "quiet", "end"));
    const root = svg("svg", {
      xmlns: SVG,
      viewBox: `0 0 ${SAVED_WIDTH} ${height + 32}`,
      width: SAVED_WIDTH,
      height: height + 32,
      role: "img",
    });
    const style = svg("style", {});
    style.textContent = SAVED_STYLE;
    picture.setAttribute("x", 16);
    picture.setAttribute("y", 16);
    const named = svg("title", {});
    named.textContent = `${title}. ${summary(results)}`;
    root.append(named, style, svg("rect", { class: "paper", width: "100%", height: "100%", rx: 8 }), picture);
    const file = new Blob([new XMLSerializer().serializeToString(root), "\n"], { type: "image/svg+xml" });
    const link = make("a", { href: URL.createObjectURL(file), download: "race.svg" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

/** The styles of a saved picture, in both themes. In the page, board.css has them. */
const SAVED_STYLE = `
text { font: 12px system-ui, sans-serif; fill: #1c2024; font-variant-numeric: tabular-nums }
.title { font-weight: 600; font-size: 14px } .quiet { fill: #60646c }
.paper { fill: #fff; stroke: #e0e1e6 } .grid { stroke: #e8e8ec } .queue { stroke: #b9bbc6 }
.won { fill: #5b5bd6 } .lost { fill: url(#race-hatch); stroke: #b5443b } .failed { fill: #b5443b }
.hatch { fill: #fdeceb } .hatch-line { stroke: #d9837b } .end { stroke: #b5443b } .winner { font-weight: 600; fill: #4a4ac4 }
@media (prefers-color-scheme: dark) {
text { fill: #edeef0 } .quiet { fill: #b0b4ba } .paper { fill: #17181b; stroke: #2e3035 } .grid { stroke: #2a2c31 }
.queue { stroke: #5a6169 } .won { fill: #7b7bf0 } .lost { stroke: #ec8e86 } .failed { fill: #ec8e86 }
.hatch { fill: #3b1f1d } .hatch-line { stroke: #8c4a44 } .end { stroke: #ec8e86 } .winner { fill: #b1b1ff } }
`;

/** Sends the requests, and measures when each really went out and was answered. */
async function send(path, change, count) {
  const race = Math.random().toString(36).slice(2, 8);
  performance.setResourceTimingBufferSize(count + 250);
  const begun = performance.now();
  const requests = Array.from({ length: count }, async (_, index) => {
    const n = index + 1;
    const id = `race-${race}-${n}`;
    // Unknown parameters are ignored. This one tells the timings of the browser apart.
    const target = `${path}?race=${race}-${n}`;
    const answer = await call("PATCH", target, change, { "X-Request-ID": id });
    const heard = performance.now() - begun;
    return { n, id, target, answer, heard };
  });
  const results = await Promise.all(requests);
  const timed = results.map(({ n, id, target, answer, heard }) => {
    const [timing] = performance.getEntriesByName(url(target));
    const isTimed = timing?.requestStart > 0;
    const wait = answer.headers.get("retry-after");
    return {
      n,
      id,
      status: answer.status,
      sent: isTimed ? Math.max(timing.requestStart - begun, 0) : 0,
      heard: isTimed ? timing.responseEnd - begun : heard,
      retryAfter: wait === null ? null : Number(wait),
      server: undefined,
    };
  });
  performance.clearResourceTimings();
  return timed;
}

const isWon = ({ status }) => status >= 200 && status < 300;

function resultText({ status, retryAfter }) {
  if (status === 0) return say("no answer", "응답 없음");
  if (status === 429) {
    const wait = retryAfter === null ? "" : say(`, retry in ${retryAfter} s`, `, ${retryAfter}초 뒤 재시도`);
    return say(`429 refused${wait}`, `429 거부${wait}`);
  }
  return isWon({ status }) ? say(`${status} written`, `${status} 저장됨`) : String(status);
}

function summary(results) {
  const winners = results.filter(isWon);
  const others = results.filter((it) => !isWon(it));
  if (winners.length === 0) return say("No request won.", "이긴 요청이 없습니다.");
  const [winner] = winners;
  if (winners.length > 1) {
    return say(`${winners.length} requests wrote.`, `요청 ${winners.length}개가 저장했습니다.`);
  }
  const last = Math.max(...others.map(({ sent, heard }) => heard - sent));
  return say(
    `Request ${winner.n} won. ${others.length} were refused, each within ${short(last)}.`,
    `${winner.n}번 요청이 이겼습니다. 나머지 ${others.length}개는 각각 ${short(last)} 안에 거부되었습니다.`,
  );
}

// --- the chart ----------------------------------------------------------------

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function text(x, y, content, name, anchor = "start") {
  const element = svg("text", { x, y, class: name, "text-anchor": anchor });
  element.textContent = content;
  return element;
}

function drawing({ results }, width, top = 0) {
  const row = results.length > 12 ? 15 : 22;
  const bar = results.length > 12 ? 9 : 12;
  const space = width - LABEL - RESULT;
  const longest = Math.max(...results.map(({ heard }) => heard), 0.1);
  const height = top + results.length * row + 20;
  const x = (ms) => LABEL + (ms / longest) * space;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  picture.setAttribute("aria-label", summary(results));
  picture.append(hatch());
  if (top > 0) picture.append(text(0, top - 16, summary(results), "quiet"));
  for (const ms of ticks(longest, space)) {
    const at = Math.round(x(ms)) + 0.5;
    picture.append(svg("path", { class: "grid", d: `M${at} ${top}V${height - 18}` }));
    picture.append(text(at, height - 4, `${ms} ms`, "quiet", ms === 0 ? "start" : "middle"));
  }
  results.forEach((result, index) => {
    const y = top + 2 + index * row;
    const middle = y + bar / 2;
    const [from, to] = [x(result.sent), x(result.heard)];
    const kind = isWon(result) ? "won" : result.status === 429 ? "lost" : "failed";
    picture.append(text(LABEL - 8, middle + 4, String(result.n), "quiet", "end"));
    if (from - LABEL > 2) picture.append(svg("path", { class: "queue", d: `M${LABEL} ${middle}H${from}` }));
    picture.append(svg("rect", { class: kind, x: from, y, width: Math.max(to - from, 2), height: bar, rx: 2 }));
    if (kind === "lost") {
      picture.append(svg("path", { class: "end", "stroke-width": 2, d: `M${to} ${y - 2}V${y + bar + 2}` }));
    }
    const took = short(result.heard - result.sent);
    picture.append(text(width - RESULT + 56, middle + 4, took, kind === "won" ? "winner" : "", "end"));
    const outcome = result.status === 429 ? say("429 refused", "429 거부") : resultText(result);
    picture.append(text(width - RESULT + 66, middle + 4, outcome, kind === "won" ? "winner" : "quiet"));
  });
  return picture;
}

/** What stands in place of the chart before the first race: what it will look like. */
function preview(width) {
  const picture = svg("svg", { width, height: 122, viewBox: `0 0 ${width} 122`, class: "preview", "aria-hidden": "true" });
  const space = width - LABEL - 60;
  [0.62, 0.64, 0.66, 0.67, 0.69].forEach((share, index) => {
    const y = 4 + index * 22;
    picture.append(text(LABEL - 8, y + 10, String(index + 1), "quiet", "end"));
    picture.append(svg("rect", { x: LABEL, y, width: space * share, height: 12, rx: 2 }));
    picture.append(text(LABEL + space * share + 10, y + 10, index === 0 ? "200" : "429", "quiet"));
  });
  return picture;
}

function hatch() {
  const pattern = svg("pattern", { id: "race-hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  pattern.append(svg("rect", { class: "hatch", width: 5, height: 5 }), svg("path", { class: "hatch-line", d: "M0 0V5", "stroke-width": 2 }));
  const definitions = svg("defs", {});
  definitions.append(pattern);
  return definitions;
}

/** Returns round numbers of milliseconds for the axis. */
function ticks(longest, space) {
  const steps = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];
  const step = steps.find((it) => (it / longest) * space >= 64) ?? 20_000;
  return Array.from({ length: Math.floor(longest / step) + 1 }, (_, index) => index * step);
}
