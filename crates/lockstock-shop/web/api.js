// Calls of the API, and the key that they need. The key stays in this tab.

import { $, ask, announce, bind, say, url } from "./page.js";

const STORED = "lockstock-key";
const needsKey = document.body.dataset.keys === "yes";
let secret = needsKey ? sessionStorage.getItem(STORED) : null;
let isWriter = !needsKey;
const listeners = new Set();

/** Calls `listener` now, and again when it changes whether this page may write. */
export function onScope(listener) {
  listeners.add(listener);
  listener(isWriter);
}

export const mayWrite = () => isWriter;

/** The headers that carry the key, if there is one. */
export function credentials() {
  return secret ? { Authorization: `Bearer ${secret}` } : {};
}

/**
 * Calls the API. Returns the status, the headers and the parsed body; the status is 0 if there was no
 * response.
 */
export async function call(method, path, body, headers = {}) {
  const sent = {
    Accept: "application/json",
    "Accept-Language": document.documentElement.lang,
    ...credentials(),
    ...headers,
  };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  try {
    const response = await fetch(url(path), {
      method,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, data: parsed(text) };
  } catch {
    return { status: 0, headers: new Headers(), data: null };
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Returns the reason of a failed call, as text. */
export function reason({ status, headers, data }) {
  if (status === 0) return say("The server does not answer.", "서버가 응답하지 않습니다.");
  const wait = headers.get("retry-after");
  const retry = wait ? say(` Retry after ${wait} s.`, ` ${wait}초 뒤에 다시 시도하세요.`) : "";
  const detail = data?.detail ?? firstOf(data);
  return `${status}: ${detail ?? say("no reason given", "이유 없음")}${retry}`;
}

/** Returns the first message of errors of fields. */
function firstOf(data) {
  const [field, messages] = Object.entries(data ?? {})[0] ?? [];
  return field && Array.isArray(messages) ? `${field}: ${messages[0]}` : undefined;
}

/** Makes sure that the page may write, asking for a key if necessary. */
export async function ensureWriter() {
  return isWriter || askForKey();
}

async function askForKey() {
  const field = $("key-secret");
  field.value = "";
  if ((await ask($("key-dialog"))) !== "ok" || !field.value.trim()) return false;
  secret = field.value.trim();
  await learnScope();
  if (isWriter) {
    sessionStorage.setItem(STORED, secret);
    announce(say("This key may write.", "이 키는 쓸 수 있습니다."));
  } else {
    announce(say("This key may not write: the page stays read-only.", "이 키는 쓸 수 없습니다. 읽기 전용으로 유지합니다."), "failed");
  }
  return isWriter;
}

/** Learns whether the key may write: the description of the products lists POST only then. */
async function learnScope() {
  const { status, data } = await call("OPTIONS", "api/products/");
  isWriter = status === 200 && data?.actions?.POST !== undefined;
  if (status === 401) {
    secret = null;
    sessionStorage.removeItem(STORED);
  }
  for (const listener of listeners) listener(isWriter);
}

/** Wires the key's button. */
export async function startKeys() {
  if (!needsKey) return;
  $("key").hidden = false;
  $("key").addEventListener("click", askForKey);
  bind("k", askForKey);
  if (secret) await learnScope();
}
