// The table of locks, patched in place: rows stay, so that focus and selection stay.

import { call, ensureWriter, mayWrite, onScope, reason } from "./api.js";
import { waiting } from "./history.js";
import { $, announce, ask, make, say, setText, short } from "./page.js";

/** Reads a duration like `500ms`, `2s` or `1m`; 0 for anything else. */
function milliseconds(text) {
  const match = /^(\d+)(ms|s|m)$/.exec(text.trim());
  return match ? Number(match[1]) * { ms: 1, s: 1_000, m: 60_000 }[match[2]] : 0;
}

/** The filter in the address. */
export function filter() {
  const query = new URLSearchParams(location.search);
  const name = query.get("lock") ?? "";
  const longer = milliseconds(query.get("longer") ?? "");
  return { name, longer, isEmpty: name === "" && longer === 0 };
}

/** Returns who holds a lock: the caller, its address, or the client of another program. */
export function holderName(holder) {
  if (!holder) return "";
  const { caller, address, id } = holder;
  return caller || address || (id ? say(`client ${id.slice(0, 8)}`, `클라이언트 ${id.slice(0, 8)}`) : "");
}

const STATES = {
  held: say("held", "보유"),
  kept: say("kept", "유지"),
  free: say("free", "비어 있음"),
};

export class LockTable {
  #history;
  #lanes;
  #productName;
  #filter = filter();
  /** By name. */
  #rows = new Map();
  #body = $("lock-rows");

  /** `productName` returns the name of a product. */
  constructor(history, lanes, productName) {
    this.#productName = productName;
    this.#history = history;
    this.#lanes = lanes;
    this.#body.replaceChildren();
    this.#body.addEventListener("click", (event) => {
      const row = event.target.closest("button.release")?.closest("tr");
      if (row) this.#release(history.locks.get(row.dataset.lock));
    });
    onScope(() => this.update());
  }

  /** Shows what the history has. */
  update() {
    for (const [name, row] of this.#rows) {
      if (!this.#history.locks.has(name)) this.#remove(name, row);
    }
    let [held, kept, queued] = [0, 0, 0];
    for (const lock of this.#history.locks.values()) {
      if (!this.#matches(lock)) continue;
      const row = this.#rows.get(lock.name) ?? this.#add(lock);
      if (row.lock !== lock) {
        row.lock = lock;
        this.#lanes.assign(row.canvas, lock);
      }
      patch(row, lock, this.#history.now());
      held += lock.state === "held";
      kept += lock.state === "kept";
      queued += waiting(lock);
    }
    $("no-locks").hidden = this.#rows.size > 0;
    $("incomplete").hidden = this.#history.isComplete;
    const sum = say(
      `${held} held · ${kept} kept · ${queued} waiting`,
      `보유 ${held} · 유지 ${kept} · 대기 ${queued}`,
    );
    setText($("lock-sum"), this.#rows.size > 0 ? sum : "");
  }

  /** Finds the lock with exactly the name of the filter, which the stream may not have. */
  async find() {
    const { name } = this.#filter;
    if (name === "" || this.#history.locks.has(name)) return;
    const { status, data } = await call("GET", `api/locks/?${new URLSearchParams({ lock: name })}`);
    if (status !== 200) return;
    this.#history.list(data);
    this.update();
  }

  /** Counts down what is left of the leases. */
  countDown(now) {
    for (const row of this.#rows.values()) patchLeft(row, row.lock, now);
  }

  #matches(lock) {
    if (!lock.name.includes(this.#filter.name)) return false;
    if (this.#filter.longer === 0 || this.#rows.has(lock.name)) return true;
    const now = this.#history.now();
    const isLong = (it) => (it.to ?? now) - it.from >= this.#filter.longer;
    return lock.items.some((it) => it.kind === "held" && isLong(it)) || lock.waits.some(isLong);
  }

  #add(lock) {
    const element = $("lock-row").content.firstElementChild.cloneNode(true);
    element.dataset.lock = lock.name;
    const cell = (name) => element.querySelector(name);
    const name = cell(".name");
    name.textContent = lock.name;
    name.title = lock.name;
    name.href = `./?${new URLSearchParams({ ...language(), lock: lock.name })}`;
    cell(".product").textContent = this.#productName(lock.product);
    const canvas = this.#lanes.canvas(lock);
    cell(".lane").append(canvas);
    const row = {
      lock,
      element,
      canvas,
      state: cell(".state"),
      who: cell(".who"),
      release: cell(".release"),
      waiting: cell("td.waiting"),
      left: cell("td.left"),
    };
    row.release.setAttribute(
      "aria-label",
      say(`Release ${lock.name} by force`, `${lock.name} 강제 해제`),
    );
    this.#rows.set(lock.name, row);
    this.#body.append(element);
    return row;
  }

  #remove(name, row) {
    // The focus must not vanish.
    if (row.element.contains(document.activeElement)) return;
    this.#lanes.remove(row.canvas);
    row.element.remove();
    this.#rows.delete(name);
  }

  /** Shows the holder, asks, and releases the lock if it still has that holder. */
  async #release(lock) {
    if (!(await ensureWriter())) return;
    const { name, holder } = lock;
    if (!holder?.id) {
      announce(say("Nothing to release: the lock is free by now.", "해제할 것이 없습니다. 락이 이미 비었습니다."));
      return;
    }
    const now = this.#history.now();
    const facts = [
      [say("Lock", "락"), name],
      [say("Holder", "보유자"), holderName(holder)],
      [say("Address", "주소"), holder.address],
      [say("Request", "요청"), holder.request],
      [say("Fence", "펜스"), holder.fence],
      [say("Held for", "보유 시간"), short(now - holder.since)],
      [say("Waiting", "대기"), waiting(lock)],
    ];
    const known = facts.filter(([, value]) => value !== undefined && value !== "");
    $("release-facts").replaceChildren(
      ...known.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, String(value))]),
    );
    if ((await ask($("release-dialog"))) !== "release") return;
    const query = new URLSearchParams({ lock: name, holder: holder.id });
    const result = await call("DELETE", `api/locks/?${query}`);
    if (result.status === 204) announce(say(`${name} is released.`, `${name} 락을 해제했습니다.`));
    else announce(reason(result), "failed");
  }
}

function patch(row, lock, now) {
  const { state, who, release } = row;
  if (state.dataset.state !== lock.state) {
    state.dataset.state = lock.state;
    state.textContent = STATES[lock.state];
  }
  setText(who, lock.state === "free" ? "" : holderName(lock.holder));
  release.hidden = lock.state === "free" || !lock.holder?.id || !mayWrite();
  const count = waiting(lock);
  setText(row.waiting, count === 0 ? "" : String(count));
  patchLeft(row, lock, now);
}

function patchLeft(row, lock, now) {
  const left = lock.state === "free" ? 0 : (lock.holder?.until ?? 0) - now;
  setText(row.left, left > 0 ? short(Math.ceil(left / 100) * 100) : "");
}

function language() {
  const chosen = new URLSearchParams(location.search).get("lang");
  return chosen ? { lang: chosen } : {};
}
