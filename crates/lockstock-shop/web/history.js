// The last five minutes of each lock, built from the snapshot and the frames of the stream.
//
// All times are those of the server, in milliseconds.

export const KEEP_MS = 300_000;
const MAX_LOCKS = 200;
/** Of one lock, of each kind. */
const MAX_ITEMS = 1_000;
const MAX_EPISODES = 500;
const MAX_REQUESTS = 2_000;
/** Refused requests that are drawn of those that were only counted. */
const MAX_CROSSES = 4;
/** Time between two frames of a server. */
const FRAME_MS = 200;

export class History {
  /** By name. */
  locks = new Map();
  /** The newest first. */
  episodes = [];
  servers = new Set();
  isComplete = true;
  /** The server of each request, by its id. */
  requests = new Map();
  /** Server time minus browser time: the largest seen is the one with the least delay. */
  #offset = -Infinity;
  #episodeCount = 0;

  /** The time of the server now. */
  now() {
    return Date.now() + (Number.isFinite(this.#offset) ? this.#offset : 0);
  }

  snapshot(data) {
    this.#offset = data.at - Date.now();
    this.servers = new Set(data.servers ?? [data.server]);
    this.isComplete = data.complete !== false;
    this.episodes = [];
    for (const lock of this.locks.values()) {
      lock.items = [];
      lock.waits = [];
      lock.waiting.clear();
      lock.open = lock.episode = null;
      lock.state = "free";
    }
    for (const episode of [...(data.episodes ?? [])].reverse()) this.#past(episode);
    for (const entry of data.locks ?? []) {
      this.#apply(entry, data.server, data.at);
      const lock = this.locks.get(entry.name);
      for (const waiter of entry.waiters ?? []) {
        this.#wait(lock, waiter.request, data.at - (waiter.waited_ms ?? 0));
      }
    }
  }

  frame(data) {
    this.#offset = Math.max(this.#offset - 0.05, data.at - Date.now());
    if (data.server) this.servers.add(data.server);
    for (const entry of data.locks ?? []) this.#apply(entry, data.server, data.at);
    for (const episode of data.episodes ?? []) this.#over(episode);
  }

  /** Adds locks of a list, which no event has mentioned. */
  list(data) {
    for (const entry of data.locks) {
      if (!this.locks.has(entry.name)) this.#apply(entry, data.server, data.at);
    }
  }

  /** Forgets what is older than five minutes, and locks that have been free for so long. */
  prune() {
    const end = this.now() - KEEP_MS;
    const isOver = (it) => it.to !== null && it.to < end;
    for (const [name, lock] of this.locks) {
      if (lock.open?.until < this.now()) {
        this.#close(lock, lock.open.until, "expired");
        lock.state = "free";
      }
      drop(lock.items, isOver);
      drop(lock.waits, isOver);
      if (lock.state === "free" && lock.items.length === 0 && lock.waits.length === 0) {
        this.locks.delete(name);
      }
    }
    while (this.episodes.length > 0 && isOver(this.episodes.at(-1))) this.episodes.pop();
  }

  #lock(name, product) {
    let lock = this.locks.get(name);
    if (!lock) {
      if (this.locks.size >= MAX_LOCKS) this.#evict();
      lock = {
        name,
        product,
        state: "free",
        holder: null,
        /** Number of waiters, by server. */
        waiting: new Map(),
        /** Times during which it was held or kept, and bursts. The oldest first. */
        items: [],
        /** Waits, refused or not. */
        waits: [],
        open: null,
        episode: null,
      };
      this.locks.set(name, lock);
    }
    return lock;
  }

  #evict() {
    for (const [name, lock] of this.locks) {
      if (lock.state === "free") {
        this.locks.delete(name);
        return;
      }
    }
    this.locks.delete(this.locks.keys().next().value);
  }

  /** An episode that was over before this page was opened. */
  #past(episode) {
    const lock = this.#lock(episode.lock, episode.product);
    this.#episode(episode);
    // When the work was done is not known: of a lock that was kept, most of the time is.
    const isKept = episode.ended === "kept";
    const to = isKept ? episode.from : episode.to;
    push(lock.items, { kind: "held", from: episode.from, to, ended: episode.ended });
    if (isKept) push(lock.items, { kind: "kept", from: to, to: episode.to, ended: "" });
  }

  /** An episode that the server reports as over: what this page has counted itself is corrected. */
  #over(episode) {
    const isSame = (it) =>
      it.lock === episode.lock &&
      (Math.abs(it.from - episode.from) < 2 || (it.request && it.request === episode.request));
    const known = this.episodes.find(isSame);
    if (known) Object.assign(known, episode, { grants: undefined });
    else this.#episode(episode);
  }

  #apply(entry, server, at) {
    const lock = this.#lock(entry.name, entry.product);
    if (entry.waiting !== undefined) lock.waiting.set(server, entry.waiting);
    if (entry.events) {
      for (const event of entry.events) this.#event(lock, event, server);
    } else if (entry.granted || entry.refused) {
      this.#counted(lock, entry, at);
    }
    if (entry.state) this.#settle(lock, entry, at);
  }

  #event(lock, event, server) {
    if (event.request) this.#remember(event.request, server);
    switch (event.kind) {
      case "waiting":
        this.#wait(lock, event.request, event.at);
        break;
      case "granted":
        this.#granted(lock, event, server);
        break;
      case "refused":
        this.#endWait(lock, event, true);
        if (lock.episode) lock.episode.refused += 1;
        break;
      case "cancelled":
      case "failed":
        this.#endWait(lock, event, false);
        break;
      case "released":
      case "kept":
      case "lost":
      case "forced":
        this.#ended(lock, event);
        break;
    }
  }

  #wait(lock, request, from) {
    push(lock.waits, { request, from, to: null, isRefused: false });
    if (lock.episode) lock.episode.waited += 1;
  }

  #endWait(lock, event, isRefused) {
    const waited = event.waited_ms ?? 0;
    let wait = lock.waits.findLast((it) => it.to === null && it.request === event.request);
    if (!wait && (isRefused || waited >= 1)) {
      wait = { request: event.request, from: event.at - waited };
      push(lock.waits, wait);
      if (lock.episode) lock.episode.waited += 1;
    }
    if (!wait) return;
    wait.to = event.at;
    wait.isRefused = isRefused;
    const { episode } = lock;
    if (episode) episode.longest_wait_ms = Math.max(episode.longest_wait_ms, wait.to - wait.from, waited);
  }

  #granted(lock, event, server) {
    this.#close(lock, event.at, "expired");
    this.#endWait(lock, event, false);
    const still = lock.waits.filter((it) => it.to === null).length;
    const caller = event.caller ?? event.address;
    const { request, holder, by, fence } = event;
    lock.open = { kind: "held", from: event.at, to: null, until: event.until, by, request };
    push(lock.items, lock.open);
    lock.episode = this.#episode({
      lock: lock.name,
      product: lock.product,
      from: event.at,
      to: null,
      caller,
      server,
      request,
      holder,
      fence,
      waited: still,
      refused: 0,
      longest_wait_ms: event.waited_ms ?? 0,
      ended: "",
    });
  }

  #ended(lock, event) {
    if (event.kind !== "kept") {
      this.#close(lock, event.at, event.kind);
      return;
    }
    this.#closeItem(lock, event.at, "kept");
    lock.open = { kind: "kept", from: event.at, to: null, until: event.until };
    push(lock.items, lock.open);
    // Its episode lasts until the lock can be granted again.
    if (lock.episode) lock.episode.ended = "kept";
  }

  #close(lock, at, ended) {
    this.#closeItem(lock, at, ended);
    const { episode } = lock;
    if (episode && episode.to === null) {
      episode.to = at;
      episode.ended ||= ended;
    }
  }

  #closeItem(lock, at, ended) {
    if (!lock.open) return;
    const { until } = lock.open;
    lock.open.to = until ? Math.min(at, until) : at;
    lock.open.ended = ended;
    lock.open = null;
  }

  /** What happened to a lock that was too busy to report each event. */
  #counted(lock, entry, at) {
    const grants = Object.values(entry.granted ?? {}).reduce((sum, count) => sum + count, 0);
    const refused = entry.refused ?? 0;
    const longest = entry.longest_wait_ms ?? 0;
    if (grants > 1) this.#burst(lock, grants, at);
    else if (grants === 1) this.#grantedOnce(lock, entry, at);
    for (let shown = 0; shown < Math.min(refused, MAX_CROSSES); shown += 1) {
      push(lock.waits, { from: at - longest, to: at, isRefused: true });
    }
    const { episode } = lock;
    if (!episode) return;
    episode.refused += refused;
    episode.waited = Math.max(episode.waited, episode.refused);
    episode.longest_wait_ms = Math.max(episode.longest_wait_ms, longest);
  }

  #grantedOnce(lock, entry, at) {
    const { since, until, caller, address, request, id, fence } = entry.holder ?? {};
    const [by] = Object.keys(entry.granted);
    const granted = { at: since ?? at, until, by, caller, address, request, holder: id, fence };
    this.#granted(lock, granted, undefined);
    if (entry.state === "kept") this.#ended(lock, { kind: "kept", at, until });
  }

  #burst(lock, grants, at) {
    this.#closeItem(lock, at, "");
    const last = lock.items.at(-1);
    const isSame = last?.kind === "burst" && at - last.to < 1_000;
    if (isSame && at - last.from < 1_000) {
      last.to = at;
    } else {
      const from = isSame ? last.to : at - FRAME_MS;
      push(lock.items, { kind: "burst", from, to: at, ended: "" });
    }
    const { episode } = lock;
    if (episode?.grants && at - episode.to < 1_000) {
      episode.to = at;
      episode.grants += grants;
      return;
    }
    this.#close(lock, at, "");
    lock.episode = this.#episode({
      lock: lock.name,
      product: lock.product,
      from: at - FRAME_MS,
      to: at,
      grants,
      waited: 0,
      refused: 0,
      longest_wait_ms: 0,
      ended: "",
    });
  }

  /** Corrects what is open by the state that the server reports. */
  #settle(lock, entry, at) {
    lock.state = entry.state;
    lock.holder = entry.holder ?? null;
    // Waits whose end was not reported.
    if (waiting(lock) === 0) for (const wait of lock.waits) wait.to ??= at;
    if (entry.state === "free") {
      if (lock.open) this.#close(lock, at, lock.open.kind === "kept" ? "" : "released");
      return;
    }
    const { until, caller, address, request, id, fence } = entry.holder ?? {};
    const since = entry.holder?.since ?? at;
    const isReported = entry.events || (entry.granted && entry.state === "held");
    if (lock.open?.kind !== entry.state && !isReported) {
      if (lock.open) this.#close(lock, at, "");
      lock.open = { kind: entry.state, from: since, to: null, until, request };
      push(lock.items, lock.open);
    }
    if (lock.open) lock.open.until = until ?? lock.open.until;
    if (lock.episode && lock.episode.to === null) {
      Object.assign(lock.episode, { holder: id, fence });
      lock.episode.caller ??= caller ?? address;
    }
  }

  #episode(fields) {
    const episode = { id: ++this.#episodeCount, ...fields };
    this.episodes.unshift(episode);
    if (this.episodes.length > MAX_EPISODES) this.episodes.pop();
    return episode;
  }

  #remember(request, server) {
    this.requests.set(request, server);
    if (this.requests.size > MAX_REQUESTS) this.requests.delete(this.requests.keys().next().value);
  }
}

/** Number of waiters at all servers. */
export function waiting(lock) {
  let sum = 0;
  for (const count of lock.waiting.values()) sum += count;
  return sum;
}

function push(items, item) {
  items.push(item);
  if (items.length > MAX_ITEMS) items.shift();
}

/** Removes items from the front while they are over. */
function drop(items, isOver) {
  let over = 0;
  while (over < items.length && isOver(items[over])) over += 1;
  if (over > 0) items.splice(0, over);
}
