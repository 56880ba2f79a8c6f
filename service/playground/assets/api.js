// Talking to the service. Paths are relative: the page works behind a gateway's prefix too.

import { eventsOf } from "./events.js";

const KEY = "tamis-key";
// Linux takes 128 KiB for one argument of a command.
const LONGEST_ARGUMENT = 100_000;
let inMemory = null; // Where storage is forbidden.

/** The API key that was given in this tab, or null. */
export function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? inMemory;
  } catch {
    return inMemory;
  }
}

/** Keep a key for this tab; null forgets it. */
export function storeKey(key) {
  inMemory = key;
  try {
    if (key === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, key);
  } catch {
    // In memory, then.
  }
}

/** Why there is no answer: the service's own words, or that it could not be reached (status 0). */
export class Refusal extends Error {
  constructor(status, error = {}, retryAfter = null) {
    super(error.message ?? (status ? `the service answered ${status}` : "the service cannot be reached"));
    this.status = status;
    this.code = error.code ?? null;
    this.param = error.param ?? null;
    /** Milliseconds, where the service says when to come back. */
    this.retryAfter = retryAfter;
  }
}

/**
 * Send a request and read the answer.
 *
 * @returns {Promise<{response: Response, text: string, ms: number}>} with the time from sending to
 *   the last byte.
 * @throws {Refusal} for an answer that is an error, or none; AbortError where `signal` aborted it.
 */
export async function call(path, { body, signal, headers = {} } = {}) {
  const began = performance.now();
  let response;
  let text;
  try {
    response = await send(path, body, signal, headers);
    text = await response.text();
  } catch (error) {
    throw unreached(error);
  }
  const ms = performance.now() - began;
  if (!response.ok) throw refusal(response, text);
  return { response, text, ms };
}

/**
 * What an answer's text says.
 *
 * @throws {Refusal} where it is not JSON: a gateway's page to sign in, perhaps, with a status of 200.
 */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refusal(0, { message: "something else answers in the service’s place" });
  }
}

/**
 * Send a request and read the answer's events as they come, `{name, data}` with the data parsed.
 *
 * Who stops listening, or aborts `signal`, closes the connection.
 *
 * @throws {Refusal} for an answer or an event that is an error, or where the connection breaks;
 *   AbortError where `signal` aborted it.
 */
export async function* stream(path, { body, signal }) {
  try {
    const response = await send(path, body, signal);
    if (!response.ok) throw refusal(response, await response.text());
    for await (const { name, data } of eventsOf(response.body)) {
      if (name === "error") throw refusal(response, data);
      yield { name, data: JSON.parse(data) };
    }
  } catch (error) {
    throw unreached(error);
  }
}

/** A command line that sends the same; the key stays out of it. */
export function asCurl(path, body) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -s ${quoted(new URL(path, document.baseURI).href)}`];
  if (storedKey() !== null) lines.push(`-H "Authorization: Bearer $TAMIS_KEY"`);
  const json = JSON.stringify(body);
  const long = new TextEncoder().encode(json).length > LONGEST_ARGUMENT;
  // JSON of one line cannot hold the line that ends it.
  const data = long ? `--data-binary @- <<'TAMIS'\n${json}\nTAMIS` : `-d ${quoted(json)}`;
  lines.push(`-H 'content-type: application/json'`, data);
  return lines.join(" \\\n  ");
}

async function send(path, body, signal, headers = {}) {
  const key = storedKey();
  // No header can hold it, and fetch would say that there is no connection.
  if (key !== null && !/^[\x21-\x7e]+$/.test(key)) throw new Refusal(401, { message: "no key looks like this one" });
  return fetch(path, {
    method: body === undefined ? "GET" : "POST",
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: {
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...(key === null ? {} : { authorization: `Bearer ${key}` }),
      ...headers,
    },
    cache: "no-store",
    credentials: "same-origin",
    signal,
  });
}

/** What `fetch` throws of its own is that there is no connection; browsers word it differently. */
const unreached = (error) =>
  error instanceof Refusal || error.name === "AbortError" ? error : new Refusal(0);

const refusal = ({ status, headers }, text) => new Refusal(status, envelope(text), retryAfter(headers));

function envelope(text) {
  try {
    return JSON.parse(text).error ?? {};
  } catch {
    return {}; // A gateway's own page, perhaps.
  }
}

function retryAfter(headers) {
  const ms = Number(headers.get("retry-after-ms") ?? Number.NaN);
  if (ms > 0) return ms;
  const seconds = Number(headers.get("retry-after") ?? Number.NaN);
  return seconds > 0 ? seconds * 1000 : null;
}
