// The table of episodes: each time that a lock was held, the newest first.

import { filter, holderName } from "./locks.js";
import { $, localise, number, say, setText, short } from "./page.js";

const MAX_ROWS = 200;

const ENDS = {
  released: say("released", "해제"),
  kept: say("kept", "유지"),
  expired: say("lease over", "임대 만료"),
  lost: say("lost", "잃음"),
  forced: say("forced", "강제 해제"),
};

export class EpisodeTable {
  #history;
  #filter = filter();
  /** By id of the episode. */
  #rows = new Map();
  #body = $("episode-rows");

  constructor(history) {
    this.#history = history;
    this.#body.replaceChildren();
  }

  update() {
    const now = this.#history.now();
    const shown = [];
    for (const episode of this.#history.episodes) {
      if (shown.length === MAX_ROWS) break;
      if (this.#matches(episode, now)) shown.push(episode);
    }
    const ids = new Set(shown.map(({ id }) => id));
    for (const [id, row] of this.#rows) {
      if (!ids.has(id)) {
        row.element.remove();
        this.#rows.delete(id);
      }
    }
    // From the oldest, so that each new row goes on top.
    for (const episode of shown.reverse()) {
      const row = this.#rows.get(episode.id) ?? this.#add(episode);
      patch(row, episode, now);
    }
    $("no-episodes").hidden = this.#rows.size > 0;
  }

  #matches(episode, now) {
    const { name, longer } = this.#filter;
    const lasted = (episode.to ?? now) - episode.from;
    return episode.lock.includes(name) && Math.max(lasted, episode.longest_wait_ms) >= longer;
  }

  #add(episode) {
    const element = $("episode-row").content.firstElementChild.cloneNode(true);
    const cell = (name) => element.querySelector(name);
    const time = cell("time");
    time.dateTime = new Date(episode.from).toISOString();
    localise(time);
    const link = cell(".lock a");
    link.textContent = episode.lock;
    link.title = episode.lock;
    link.href = `./?${new URLSearchParams({ lock: episode.lock })}`;
    const names = ["who", "lasted", "waited", "longest", "refused", "ended"];
    const row = { element };
    for (const name of names) row[name] = cell(`.${name}`);
    this.#rows.set(episode.id, row);
    this.#body.prepend(element);
    return row;
  }
}

function patch(row, episode, now) {
  const { grants } = episode;
  const who = grants
    ? say(`${number(grants)} grants`, `획득 ${number(grants)}회`)
    : holderName({ ...episode, id: episode.holder });
  setText(row.who, who);
  row.who.title = episode.request ?? "";
  setText(row.lasted, short((episode.to ?? now) - episode.from));
  setText(row.waited, episode.waited ? String(episode.waited) : "");
  setText(row.longest, episode.longest_wait_ms >= 0.05 ? short(episode.longest_wait_ms) : "");
  setText(row.refused, episode.refused ? number(episode.refused) : "");
  const isNow = episode.to === null;
  const current = episode.ended === "kept" ? say("kept now", "유지 중") : say("held now", "보유 중");
  setText(row.ended, isNow ? current : (ENDS[episode.ended] ?? ""));
  row.element.classList.toggle("now", isNow);
  row.ended.dataset.ended = episode.ended;
}
