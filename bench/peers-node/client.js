// A client of a Node lock library, which `./dev bench lock` starts.
//
//   node client.js redlock|redis-semaphore URL LEASE_MS TASKS NAMES FILE
//
// Prints `ready`, reads `START END GIVE_UP` (nanoseconds of CLOCK_MONOTONIC), and acquires and
// releases until END. Writes three numbers per acquisition to FILE: when acquire was called, when
// it returned, and when the release began. The last two are 0 for a wait that was given up.

import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { Mutex } from "redis-semaphore";
import Redlock from "redlock";

const [library, url, lease, tasks, names, file] = process.argv.slice(2);
const now = () => process.hrtime.bigint();
const client = new Redis(url);

// Each library with its default pauses between attempts, and without a limit of attempts.
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

const intervals = [];
const waiting = new Array(Number(tasks)).fill(0n);

async function runTask(task, end) {
  const lock = libraries[library](`lock-bench-${task % Number(names)}`);
  for (;;) {
    const requested = now();
    if (requested >= end) return;
    waiting[task] = requested;
    const held = await lock.acquire();
    const begin = now();
    waiting[task] = 0n;
    intervals.push(requested, begin, now());
    await lock.release(held);
  }
}

// Connects and loads the scripts of the library.
const warm = libraries[library]("lock-bench-warm");
await warm.release(await warm.acquire());

const lines = createInterface({ input: process.stdin });
lines.once("line", async (line) => {
  const [start, end, giveUp] = line.split(" ").map(BigInt);
  await sleep(Math.max(0, Number(start - now()) / 1e6));
  const all = [...waiting.keys()].map((task) => runTask(task, end));
  await Promise.race([Promise.all(all), sleep(Number(giveUp - now()) / 1e6)]);
  for (const requested of waiting) if (requested) intervals.push(requested, 0n, 0n);
  writeFileSync(file, BigUint64Array.from(intervals));
  process.exit(0);
});
console.log("ready");
