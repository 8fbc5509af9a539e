#!/usr/bin/env node
// Runs the binary of the package for this platform. npm installs that package, because it is an
// optional dependency whose `os`, `cpu` and `libc` match.
"use strict";

const { spawn } = require("node:child_process");

const PACKAGES = { "linux x64": "lockstock-linux-x64" };
// A second signal makes the server exit at once. One press of Ctrl-C arrives here twice under npm:
// from the terminal, and passed on by npm.
const SAME_SIGNAL_MS = 500;

function fail(message) {
  console.error(`lockstock: ${message}`);
  process.exit(1);
}

function binary() {
  const platform = `${process.platform} ${process.arch}`;
  const name = PACKAGES[platform];
  if (!name) {
    fail(`there is no binary for ${platform}, only for ${Object.keys(PACKAGES)}: build it with cargo`);
  }
  try {
    return require.resolve(`${name}/bin/lockstock`);
  } catch {
    fail(`the package ${name} is missing: install without --omit=optional, on a system with glibc`);
  }
}

// In a process group of its own, so that a signal for the group comes only through this process.
const server = spawn(binary(), process.argv.slice(2), { detached: true, stdio: "inherit" });
server.on("error", (error) => fail(error.message));

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  let last = -Infinity;
  process.on(signal, () => {
    const now = performance.now();
    if (now - last >= SAME_SIGNAL_MS) {
      last = now;
      server.kill(signal);
    }
  });
}

server.on("exit", (code, signal) => {
  if (signal) {
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  } else {
    process.exitCode = code;
  }
});
