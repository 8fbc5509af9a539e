// The page of one product.

import { call, ensureWriter, onScope, reason, startKeys } from "./api.js";
import { Curve } from "./curve.js";
import { $, announce, bind, localise, number, say, setText, startPage } from "./page.js";
import { sell, showHolds } from "./products.js";
import { showLight, Stream } from "./stream.js";

const MAX_ROWS = 100;
const id = Number(document.body.dataset.product);
let version = Number(document.body.dataset.version);
const name = () => document.querySelector("h1").textContent;

startPage();
showHolds(id);
setInterval(() => showHolds(), 1_000);

// --- live ----------------------------------------------------------------------

const curve = new Curve(id);
let servers = 1;
let isBehind = false;

const stream = new Stream("api/locks/events", (event, data) => {
  if (data.servers) servers = data.servers.length;
  const product = data.products?.find((it) => it.id === id);
  if (product?.deleted) announce(say("This product is deleted.", "이 상품은 삭제되었습니다."), "failed");
  else if (product && product.version >= version) show(product);
  // What happened while the page was frozen.
  if (event === "snapshot") follow();
  showLight(stream, servers);
});
stream.onState = () => showLight(stream, servers);

function show(product) {
  const isNew = product.version > version;
  version = product.version;
  const figure = (field, value) => setText($("figures").querySelector(`.${field}`), number(value));
  figure("stock", product.stock);
  figure("held", product.reserved ?? 0);
  figure("available", product.available);
  figure("version", product.version);
  if (product.price !== undefined) figure("price", product.price);
  if (product.name) setText(document.querySelector("h1"), product.name);
  $("patch-stock").placeholder = product.stock;
  if (isNew) follow();
}

/** Reads the new entries of the ledger; once for changes that come in quick succession. */
async function follow() {
  if (isBehind) return;
  isBehind = true;
  const added = await curve.load();
  isBehind = false;
  const body = $("entry-rows");
  const known = Number(body.rows[0]?.querySelector(".version").textContent ?? 0);
  for (const entry of added) if (entry.version > known) body.prepend(row(entry));
  while (body.rows.length > MAX_ROWS) body.rows[body.rows.length - 1].remove();
  if (curve.count > 0) setText($("entry-count"), number(curve.count));
  if (added.length > 0 && added.at(-1).version < version) follow();
}

const REASONS = {
  opening: say("opening", "시작 재고"),
  created: say("created", "생성"),
  changed: say("changed", "변경"),
  purchase: say("purchase", "구매"),
  confirmed: say("confirmed hold", "예약 확정"),
  deleted: say("deleted", "삭제"),
};

function row(entry) {
  const element = $("entry-row").content.firstElementChild.cloneNode(true);
  const set = (name, text) => (element.querySelector(`.${name}`).textContent = text);
  const time = element.querySelector("time");
  time.dateTime = entry.at;
  localise(time);
  set("version", entry.version);
  set("reason", REASONS[entry.reason] ?? entry.reason);
  set("delta", entry.delta > 0 ? `+${number(entry.delta)}` : number(entry.delta));
  set("after", number(entry.stock_after));
  set("who", entry.caller ?? "");
  set("fence", entry.fence ?? "");
  set("request", entry.request);
  return element;
}

// --- the forms -------------------------------------------------------------------

const forms = [$("sell"), $("patch")];
showLight(stream, servers);
onScope((isWriter) => {
  // Perhaps the new key may read.
  if (stream.state === "denied") stream.restart();
  for (const form of forms) for (const button of form.querySelectorAll("button")) button.disabled = false;
  $("key").textContent = isWriter ? say("Change the key", "키 바꾸기") : say("Read-only · enter a key", "읽기 전용 · 키 입력");
});

$("sell").addEventListener("submit", (event) => {
  event.preventDefault();
  const { quantity, hold } = event.target.elements;
  sell(event.submitter?.value ?? "buy", id, name(), Number(quantity.value), Number(hold.value));
});
bind("b", () => $("sell").requestSubmit($("sell").querySelector("[value=buy]")));
bind("h", () => $("sell").requestSubmit($("sell").querySelector("[value=hold]")));

$("patch").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const change = {};
  for (const field of ["stock", "price"]) {
    if (form.elements[field].value !== "") change[field] = Number(form.elements[field].value);
  }
  if (form.elements.name.value !== "") change.name = form.elements.name.value;
  if (Object.keys(change).length === 0) {
    announce(say("Nothing to change: fill in a field.", "변경할 것이 없습니다. 칸을 채워 주세요."), "failed");
    return;
  }
  if (!(await ensureWriter())) return;
  const headers = form.elements.match.checked ? { "If-Match": `"${version}"` } : {};
  const result = await call("PATCH", `api/products/${id}/`, change, headers);
  if (result.status === 200) {
    form.reset();
    show({ ...result.data, ...levels(result.data) });
    announce(say(`Version ${result.data.version} is written.`, `버전 ${result.data.version} 저장.`));
  } else {
    announce(reason(result), "failed");
  }
});

/** The reserved units, which an update leaves as they are, and what is left. */
function levels({ stock }) {
  const reserved = Number($("figures").querySelector(".held").textContent.replace(/,/g, ""));
  return { reserved, available: Math.max(stock - reserved, 0) };
}

await startKeys();
follow();
stream.start();
