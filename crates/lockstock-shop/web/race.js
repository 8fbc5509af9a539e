// The race: the same change several times at once, and a bar for each request.

import { call, ensureWriter, onScope, reason } from "./api.js";
import { $, announce, bind, make, say, setText, short, url } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
/** Width of the picture that is saved. */
const SAVED_WIDTH = 720;
const LABEL = 26;
const RESULT = 148;
/** Height of the line with the name of a server. */
const NAME = 22;
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
      const { product, servers } = form.elements;
      this.#run(Number(product.value), Number(count.value), chosenServers(servers));
    });
    bind("r", () => form.requestSubmit());
    $("race-save").addEventListener("click", () => this.#save());
    new ResizeObserver(() => this.#draw()).observe($("race-chart"));
    this.#draw();
  }

  /** Offers new products, and names the processes as soon as the stream has reported them. */
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
      const process = this.#history.requests.get(result.id);
      isNews ||= process !== result.process;
      result.process = process;
    }
    if (isNews) this.#show();
  }

  async #run(product, count, servers) {
    if (product === 0) {
      announce(say("There is no product yet. Create one first.", "아직 상품이 없습니다. 먼저 만들어 주세요."), "failed");
      return;
    }
    if (this.#isRunning || !(await ensureWriter())) return;
    this.#isRunning = true;
    $("race-start").disabled = true;
    try {
      const found = await call("GET", `api/products/${product}/`);
      if (found.status !== 200) {
        announce(reason(found), "failed");
        return;
      }
      const { stock, name } = found.data;
      const change = { stock: stock > 0 ? stock - 1 : 1 };
      const results = await send(product, change, count, servers);
      this.#round = { at: Date.now(), name, change, servers, results };
      this.update();
      this.#show();
      // The chart shows it already.
      announce(summary(this.#round), "spoken");
    } finally {
      this.#isRunning = false;
      $("race-start").disabled = false;
    }
  }

  #show() {
    this.#draw();
    const { results, servers } = this.#round;
    $("race-save").hidden = $("race-details").hidden = false;
    $("race-rows").replaceChildren(
      ...results.map((result) => {
        const cell = (text, name = "num") => make("td", { class: name }, text);
        return make(
          "tr",
          {},
          make("th", { scope: "row" }, String(result.n)),
          cell([resultText(result), result.detail].filter(Boolean).join(": "), ""),
          cell(short(result.sent)),
          cell(short(result.heard)),
          cell(result.retryAfter === null ? "" : `${result.retryAfter} s`),
          make("td", { class: "server" }, ...serverCell(result, servers)),
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
    const { results, servers } = this.#round;
    const isQueued = results.length > CONNECTIONS;
    const queued = say(
      `The thin line is time in the browser, which sends about ${CONNECTIONS} requests at a time unless the server speaks HTTP/2.`,
      `가는 선은 브라우저 안에서 기다린 시간입니다. HTTP/2가 아니면 브라우저는 한 번에 ${CONNECTIONS}개쯤만 보냅니다.`,
    );
    const relayed = say(
      "This server passes the requests to the other servers on: their times include that way.",
      "다른 서버로 가는 요청은 이 서버가 전달합니다. 그 시간도 포함됩니다.",
    );
    const hints = [...(isQueued ? [queued] : []), ...(servers.length > 1 ? [relayed] : [])];
    chart.replaceChildren(
      make("p", { class: "outcome" }, summary(this.#round)),
      drawing(this.#round, inner),
      ...hints.map((hint) => make("p", { class: "hint" }, hint)),
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
    named.textContent = `${title}. ${summary(this.#round)}`;
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
.title { font-weight: 600; font-size: 14px } .server { font-weight: 600; paint-order: stroke; stroke: #fff; stroke-width: 6px } .quiet { fill: #60646c }
.paper { fill: #fff; stroke: #e0e1e6 } .grid { stroke: #e8e8ec } .queue { stroke: #b9bbc6 }
.won { fill: #5b5bd6 } .lost { fill: url(#race-hatch); stroke: #b5443b } .failed { fill: #b5443b }
.hatch { fill: #fdeceb } .hatch-line { stroke: #d9837b } .end { stroke: #b5443b } .winner { font-weight: 600; fill: #4a4ac4 }
@media (prefers-color-scheme: dark) {
text { fill: #edeef0 } .server { stroke: #17181b } .quiet { fill: #b0b4ba } .paper { fill: #17181b; stroke: #2e3035 } .grid { stroke: #2a2c31 }
.queue { stroke: #5a6169 } .won { fill: #7b7bf0 } .lost { stroke: #ec8e86 } .failed { fill: #ec8e86 }
.hatch { fill: #3b1f1d } .hatch-line { stroke: #8c4a44 } .end { stroke: #ec8e86 } .winner { fill: #b1b1ff } }
`;

/** The servers of a race: the names of those that `choice` includes, this one first. */
function chosenServers(choice) {
  const isAll = choice?.value === "all";
  return [say("This server", "이 서버"), ...(isAll ? choice.dataset.replicas.split(" ") : [])];
}

/** The path of a product at a server of the race. This server relays the requests to the others. */
function path(product, server) {
  return server === 0 ? `api/products/${product}/` : `board/replicas/${server - 1}/products/${product}/`;
}

/** Sends the requests, to each server in turn, and measures when each really went out and was answered. */
async function send(product, change, count, servers) {
  const race = Math.random().toString(36).slice(2, 8);
  performance.setResourceTimingBufferSize(count + 250);
  const begun = performance.now();
  const requests = Array.from({ length: count }, async (_, index) => {
    const n = index + 1;
    const id = `race-${race}-${n}`;
    const server = index % servers.length;
    // Unknown parameters are ignored. This one tells the timings of the browser apart.
    const target = `${path(product, server)}?race=${race}-${n}`;
    const answer = await call("PATCH", target, change, { "X-Request-ID": id });
    const heard = performance.now() - begun;
    return { n, id, server, target, answer, heard };
  });
  const results = await Promise.all(requests);
  const timed = results.map(({ n, id, server, target, answer, heard }) => {
    const [timing] = performance.getEntriesByName(url(target));
    const isTimed = timing?.requestStart > 0;
    const wait = answer.headers.get("retry-after");
    return {
      n,
      id,
      server,
      status: answer.status,
      detail: answer.status >= 400 && answer.status !== 429 ? answer.data?.detail : undefined,
      sent: isTimed ? Math.max(timing.requestStart - begun, 0) : 0,
      heard: isTimed ? timing.responseEnd - begun : heard,
      retryAfter: wait === null ? null : Number(wait),
      process: undefined,
    };
  });
  performance.clearResourceTimings();
  return timed;
}

const isWon = ({ status }) => status >= 200 && status < 300;
const isRefused = ({ status }) => status === 429;

/** The server of a result: its name if there are several, and the process that the stream reports. */
function serverCell({ server, process = "" }, servers) {
  const id = process.slice(0, 8);
  return servers.length > 1 ? [servers[server], " ", make("span", { class: "process" }, id)] : [id];
}

function resultText({ status, retryAfter }) {
  if (status === 0) return say("no answer", "응답 없음");
  if (status === 429) {
    const wait = retryAfter === null ? "" : say(`, retry in ${retryAfter} s`, `, ${retryAfter}초 뒤 재시도`);
    return say(`429 refused${wait}`, `429 거부${wait}`);
  }
  return isWon({ status }) ? say(`${status} written`, `${status} 저장됨`) : String(status);
}

function summary({ results, servers }) {
  const winners = results.filter(isWon);
  const refused = results.filter(isRefused);
  const failed = results.length - winners.length - refused.length;
  const parts = [];
  if (winners.length === 0) parts.push(say("No request won.", "이긴 요청이 없습니다."));
  if (winners.length > 1) {
    parts.push(say(`${winners.length} requests wrote.`, `요청 ${winners.length}개가 저장했습니다.`));
  }
  if (winners.length === 1) {
    const [{ n, server }] = winners;
    const place = server === 0 ? say("this server", "이 서버") : servers[server];
    parts.push(
      servers.length > 1
        ? say(`Request ${n} won at ${place}.`, `${n}번 요청이 ${place}에서 이겼습니다.`)
        : say(`Request ${n} won.`, `${n}번 요청이 이겼습니다.`),
    );
  }
  if (winners.length === 1 && refused.length > 0) {
    const last = short(Math.max(...refused.map(({ sent, heard }) => heard - sent)));
    parts.push(
      say(
        `${refused.length} were refused, each within ${last}.`,
        `${failed > 0 ? "" : "나머지 "}${refused.length}개는 각각 ${last} 안에 거부되었습니다.`,
      ),
    );
  }
  if (failed > 0) parts.push(say(`${failed} failed.`, `${failed}개는 실패했습니다.`));
  return parts.join(" ");
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

function drawing(round, width, top = 0) {
  const { results, servers } = round;
  const row = results.length > 12 ? 15 : 22;
  const bar = results.length > 12 ? 9 : 12;
  const space = width - LABEL - RESULT;
  const longest = Math.max(...results.map(({ heard }) => heard), 0.1);
  const named = servers.length > 1 ? NAME : 0;
  const groups = servers
    .map((name, index) => ({ name, results: results.filter(({ server }) => server === index) }))
    .filter((group) => group.results.length > 0);
  const height = top + results.length * row + groups.length * named + 20;
  const x = (ms) => LABEL + (ms / longest) * space;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  picture.setAttribute("aria-label", summary(round));
  picture.append(hatch());
  if (top > 0) picture.append(text(0, top - 16, summary(round), "quiet"));
  for (const ms of ticks(longest, space)) {
    const at = Math.round(x(ms)) + 0.5;
    picture.append(svg("path", { class: "grid", d: `M${at} ${top}V${height - 18}` }));
    picture.append(text(at, height - 4, `${ms} ms`, "quiet", ms === 0 ? "start" : "middle"));
  }
  let y = top + 2;
  for (const group of groups) {
    if (named) picture.append(text(0, y + NAME - 8, fitted(group.name, width), "server"));
    y += named;
    for (const result of group.results) {
      drawResult(picture, result, { x, y, bar, width });
      y += row;
    }
  }
  return picture;
}

/** Draws the bar of a request, with its number and its result. */
function drawResult(picture, result, { x, y, bar, width }) {
  const middle = y + bar / 2;
  const [from, to] = [x(result.sent), x(result.heard)];
  const kind = isWon(result) ? "won" : isRefused(result) ? "lost" : "failed";
  picture.append(text(LABEL - 8, middle + 4, String(result.n), "quiet", "end"));
  if (from - LABEL > 2) picture.append(svg("path", { class: "queue", d: `M${LABEL} ${middle}H${from}` }));
  picture.append(svg("rect", { class: kind, x: from, y, width: Math.max(to - from, 2), height: bar, rx: 2 }));
  if (kind === "lost") {
    picture.append(svg("path", { class: "end", "stroke-width": 2, d: `M${to} ${y - 2}V${y + bar + 2}` }));
  }
  const took = short(result.heard - result.sent);
  picture.append(text(width - RESULT + 56, middle + 4, took, kind === "won" ? "winner" : "", "end"));
  const outcome = isRefused(result) ? say("429 refused", "429 거부") : resultText(result);
  picture.append(text(width - RESULT + 66, middle + 4, outcome, kind === "won" ? "winner" : "quiet"));
}

/** Shortens a name to this width in pixels. */
function fitted(name, width) {
  const length = Math.floor(width / 7.5);
  return name.length > length ? `${name.slice(0, length - 1)}…` : name;
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
