// The table of products: numbers, sparklines, and the buttons to buy and to hold.

import { call, ensureWriter, reason } from "./api.js";
import { KEEP_MS } from "./history.js";
import { $, announce, clock, make, number, say, setText } from "./page.js";

const WIDTH = 64;
const HEIGHT = 18;
const MAX_POINTS = 120;
const MAX_ROWS = 500;
const SVG = "http://www.w3.org/2000/svg";

export class ProductTable {
  #history;
  #body;
  /** By id. */
  #rows = new Map();

  constructor(history) {
    this.#history = history;
    const body = $("product-rows");
    this.#body = body;
    for (const element of body.rows) this.#adopt(element);
    body.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-do]");
      const row = button && this.#rows.get(Number(button.closest("tr").dataset.product));
      if (row) sell(button.dataset.do, row.id, row.name);
    });
  }

  /** Returns the name of a product, if it is in the table. */
  name(id) {
    return this.#rows.get(id)?.name ?? "";
  }

  /** Shows products that have changed. */
  update(products) {
    const now = this.#history.now();
    for (const product of products ?? []) {
      if (product.deleted) {
        this.#rows.get(product.id)?.element.remove();
        this.#rows.delete(product.id);
        continue;
      }
      const row = this.#rows.get(product.id) ?? this.#add(product);
      // Frames of several servers may arrive out of order.
      if (!row || product.version < row.version) continue;
      const isChanged = row.stock !== product.stock;
      Object.assign(row, { version: product.version, stock: product.stock });
      setText(row.cells.stock, number(product.stock));
      setText(row.cells.held, number(product.reserved ?? 0));
      setText(row.cells.available, number(product.available));
      setText(row.cells.price, number(product.price));
      setText(row.link, (row.name = product.name));
      row.element.classList.toggle("sold-out", product.available === 0);
      if (isChanged) {
        row.points.push([now, product.stock]);
        row.element.classList.remove("changed");
        requestAnimationFrame(() => row.element.classList.add("changed"));
      }
      spark(row, now);
    }
  }

  /** Moves the sparklines that are not flat. */
  age() {
    const now = this.#history.now();
    for (const row of this.#rows.values()) if (row.points.length > 1) spark(row, now);
  }

  #add({ id, name, stock, available }) {
    if (this.#rows.size >= MAX_ROWS) return null;
    const element = $("product-row").content.firstElementChild.cloneNode(true);
    element.dataset.product = id;
    const link = element.querySelector("a");
    link.textContent = name;
    link.href = link.getAttribute("href").replace("/0/", `/${id}/`);
    element.querySelector(".stock").textContent = number(stock);
    element.querySelector(".available").textContent = number(available);
    for (const button of element.querySelectorAll("button")) {
      button.setAttribute("aria-label", button.getAttribute("aria-label") + name);
    }
    this.#body.append(element);
    $("no-products").hidden = true;
    return this.#adopt(element);
  }

  #adopt(element) {
    const cell = (name) => element.querySelector(`.${name}`);
    const stock = value(cell("stock"));
    const row = {
      element,
      id: Number(element.dataset.product),
      link: element.querySelector("a"),
      name: element.querySelector("a").textContent,
      version: 0,
      stock,
      points: [[0, stock]],
      cells: Object.fromEntries(["stock", "held", "available", "price"].map((it) => [it, cell(it)])),
      line: null,
    };
    element.classList.toggle("sold-out", value(row.cells.available) === 0);
    const line = document.createElementNS(SVG, "polyline");
    const picture = document.createElementNS(SVG, "svg");
    picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    picture.setAttribute("aria-hidden", "true");
    picture.append(line);
    cell("spark").append(picture);
    row.line = line;
    for (const button of element.querySelectorAll("button")) button.disabled = false;
    this.#rows.set(row.id, row);
    spark(row, this.#history.now());
    return row;
  }
}

const value = (cell) => Number(cell.textContent.replace(/,/g, "").replace("−", "-"));

/** Draws the stock of the last five minutes as steps. */
function spark(row, now) {
  const begin = now - KEEP_MS;
  while (row.points.length > 1 && (row.points[1][0] < begin || row.points.length > MAX_POINTS)) {
    row.points.shift();
  }
  const stocks = row.points.map(([, stock]) => stock);
  const [low, high] = [Math.min(...stocks), Math.max(...stocks)];
  const y = (stock) => (high === low ? HEIGHT / 2 : HEIGHT - 2 - ((stock - low) / (high - low)) * (HEIGHT - 4));
  const x = (at) => Math.max(0, ((at - begin) / KEEP_MS) * WIDTH);
  let line = "";
  let before = null;
  for (const [at, stock] of row.points) {
    if (before !== null) line += `${x(at).toFixed(1)},${y(before).toFixed(1)} `;
    line += `${x(at).toFixed(1)},${y(stock).toFixed(1)} `;
    before = stock;
  }
  line += `${WIDTH},${y(before).toFixed(1)}`;
  if (row.line.getAttribute("points") !== line) row.line.setAttribute("points", line);
}

/** Buys or holds, and reports the outcome. */
export async function sell(what, product, name, quantity = 1, hold = 60) {
  if (!(await ensureWriter())) return;
  const key = { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
  if (what === "buy") {
    const result = await call("POST", `api/products/${product}/purchases/`, { quantity }, key);
    if (result.status === 201) {
      const left = number(result.data.stock_after);
      announce(say(`Bought ${quantity} × ${name}: ${left} left.`, `${name} ${quantity}개 구매: 남은 재고 ${left}.`));
    } else {
      announce(`${name}: ${reason(result)}`, "failed");
    }
    return;
  }
  const path = `api/products/${product}/reservations/`;
  const result = await call("POST", path, { quantity, hold }, key);
  if (result.status !== 201) {
    announce(`${name}: ${reason(result)}`, "failed");
    return;
  }
  const { id, expires_at } = result.data;
  remember([...holds(), { id, product, name, quantity, until: Date.parse(expires_at) }]);
  showHolds();
  const end = clock(Date.parse(expires_at));
  announce(say(`Held ${quantity} × ${name} until ${end}.`, `${name} ${quantity}개를 ${end}까지 예약했습니다.`));
}

// --- the holds of this tab ----------------------------------------------------

const STORED = "lockstock-holds";

function holds() {
  const all = JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
  return all.filter(({ until }) => until > Date.now());
}

function remember(all) {
  sessionStorage.setItem(STORED, JSON.stringify(all));
}

/** Shows the holds of this tab, each with its buttons; of one product, if there is one. */
export function showHolds(product) {
  const list = $("hold-rows");
  if (product !== undefined) list.dataset.product = product;
  const only = list.dataset.product;
  const shown = holds().filter((it) => only === undefined || it.product === Number(only));
  $("holds").hidden = shown.length === 0;
  const known = new Map([...list.children].map((item) => [item.dataset.hold, item]));
  for (const hold of shown) {
    const item = known.get(hold.id) ?? list.appendChild(holdItem(hold));
    const seconds = Math.ceil((hold.until - Date.now()) / 1000);
    setText(item.querySelector(".left"), `${seconds} s`);
    known.delete(hold.id);
  }
  for (const item of known.values()) item.remove();
}

function holdItem(hold) {
  const text = `${hold.quantity} × ${hold.name}`;
  const item = make("li", { "data-hold": hold.id }, make("span", {}, text), make("span", { class: "left" }));
  const confirm = make("button", { type: "button", "aria-label": say(`Confirm ${text}`, `${text} 확정`) }, say("Confirm", "확정"));
  const cancel = make("button", { type: "button", class: "quiet", "aria-label": say(`Cancel ${text}`, `${text} 취소`) }, say("Cancel", "취소"));
  confirm.addEventListener("click", () => finish("POST", hold, "confirm/"));
  cancel.addEventListener("click", () => finish("DELETE", hold, ""));
  item.append(confirm, cancel);
  return item;
}

async function finish(method, hold, action) {
  if (!(await ensureWriter())) return;
  const path = `api/products/${hold.product}/reservations/${hold.id}/${action}`;
  const result = await call(method, path);
  const isDone = result.status === 201 || result.status === 204;
  if (isDone || result.status === 404 || result.status === 409) {
    remember(holds().filter(({ id }) => id !== hold.id));
    showHolds();
  }
  if (!isDone) announce(`${hold.name}: ${reason(result)}`, "failed");
  else if (method === "POST") announce(say(`Bought ${hold.quantity} × ${hold.name}.`, `${hold.name} ${hold.quantity}개를 구매했습니다.`));
  else announce(say(`The hold of ${hold.name} is cancelled.`, `${hold.name} 예약을 취소했습니다.`));
}
