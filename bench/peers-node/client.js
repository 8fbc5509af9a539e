// A client of a Node lock library, started by `./dev bench lock`.
//
//   node client.js redlock|redis-semaphore URL LEASE_MS TASKS NAMES FILE
//
// Says `ready`, reads `START END GIVE_UP` (nanoseconds of CLOCK_MONOTONIC), takes turns until
// END and writes each to FILE: asked, begin, end, the last two 0 for a wait that was given up.

import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { Mutex } from "redis-semaphore";
import Redlock from "redlock";

const [library, url, lease, tasks, names, file] = process.argv.slice(2);
const now = () => process.hrtime.bigint();
const client = new Redis(url);

// Each with its own pauses between tries, and without an end to them.
const libraries = {
  redlock(name) {
    const redlock = new Redlock([client], { retryCount: -1 });
    return { acquire: () => redlock.lock(name, Number(lease)), release: (held) => held.unlock() };
  },
  "redis-semaphore"(name) {
    const limits = { lockTimeout: Number(lease), acquireTimeout: 3_600_000 };
    const mutex = new Mutex(client, name, limits);
    return { acquire: () => mutex.acquire(), release: () => mutex.release() };
  },
};

const turns = [];
const waiting = new Array(Number(tasks)).fill(0n);

async function takeTurns(task, end) {
  const lock = libraries[library](`lock-bench-${task % Number(names)}`);
  for (;;) {
    const asked = now();
    if (asked >= end) return;
    waiting[task] = asked;
    const held = await lock.acquire();
    const begin = now();
    waiting[task] = 0n;
    turns.push(asked, begin, now());
    await lock.release(held);
  }
}

// Connects, and loads what scripts there are.
const warm = libraries[library]("lock-bench-warm");
await warm.release(await warm.acquire());

const lines = createInterface({ input: process.stdin });
lines.once("line", async (line) => {
  const [start, end, giveUp] = line.split(" ").map(BigInt);
  await sleep(Math.max(0, Number(start - now()) / 1e6));
  const all = [...waiting.keys()].map((task) => takeTurns(task, end));
  await Promise.race([Promise.all(all), sleep(Number(giveUp - now()) / 1e6)]);
  for (const asked of waiting) if (asked) turns.push(asked, 0n, 0n);
  writeFileSync(file, BigUint64Array.from(turns));
  process.exit(0);
});
console.log("ready");
