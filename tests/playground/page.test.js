// The page itself, without a browser: what it asks the service, and what it shows of a refusal.
// Run by test_scripts.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, test } from "node:test";

import { documentOf } from "./document.js";

const limits = { flag: 0.72, block: 0.9 };
const overall = { prompt: limits, response: limits, toxicity: limits };
const rule = { ...limits, definition: "", given: {} };
const offered = (name, categories) => ({
  name, description: "", mode: "enforce", sensitivity: "balanced", severity: { borderline: "allow" },
  judge: null, deadline_ms: null, overall, categories,
});
const POLICIES = { default: "usual", policies: [offered("usual", { hate: rule, weapons: rule }), offered("other", { hate: rule })] };

const byId = (id) => document.getElementById(id);
const settle = async () => {
  for (let n = 0; n < 10; n++) await new Promise(setImmediate);
};
let pages = 0;

/**
 * A page, opened anew. `answers` are by path, each as a status and what is said; null never comes.
 *
 * @returns {Promise<{asked: any[], pause(): Promise<void>}>} the bodies for /moderate, and a way to
 *   let pass what the page waits before it asks.
 */
async function open(context, answers = {}) {
  const asked = [];
  globalThis.fetch = async (path, { body }) => {
    if (path === "moderate") asked.push(JSON.parse(body));
    const [status, said] = { "health/ready": [200, { model: "small@1" }], policies: [200, POLICIES], ...answers }[path] ?? [];
    if (status === undefined) return new Promise(() => {});
    return new Response(JSON.stringify(said), { status });
  };
  context.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  await import(`./app.js?${(pages += 1)}`);
  await settle();
  const pause = async () => {
    context.mock.timers.tick(500);
    await settle();
  };
  return { asked, pause };
}

beforeEach(() => {
  globalThis.window = globalThis;
  globalThis.document = documentOf(readFileSync("index.html", "utf8"));
  globalThis.addEventListener = () => {};
  globalThis.tamisTheme = { current: "system" };
  Object.defineProperty(globalThis, "navigator", { value: { platform: "" }, configurable: true });
});

const edits = () => byId("editor").querySelectorAll("li");
const box = (n) => edits()[n].querySelector("input");
const numbers = (n) => edits()[n].querySelectorAll("input").filter(({ type }) => type === "number");

test("a request is of the rules as they are switched, and there is none where nothing is asked", async (context) => {
  const { asked, pause } = await open(context);
  byId("first").enter("a calm pond");
  await pause();
  assert.deepEqual(asked.pop(), { input: { prompt: "a calm pond" }, policy: "usual", explain: "evidence" });
  box(1).enter(false);
  await pause();
  assert.deepEqual(Object.keys(asked.pop().policy.categories), ["weapons"]);
  box(2).enter(false);
  await pause();
  assert.deepEqual(asked.pop().policy.categories, {});
  box(0).enter(false);
  await pause();
  assert.equal(asked.length, 0);
  box(2).enter(true);
  await pause();
  assert.deepEqual(asked.map(({ policy }) => policy), [{ name: "usual-edited", categories: { weapons: {} } }]);
});

test("until the policies are known, the key's own judges", async (context) => {
  const { asked, pause } = await open(context, { policies: [503, {}] });
  byId("first").enter("a calm pond");
  await pause();
  assert.deepEqual(asked, [{ input: { prompt: "a calm pond" }, explain: "evidence" }]);
});

test("another key leaves edits alone, where it has their policy", async (context) => {
  const answers = { policies: [200, POLICIES] };
  const { asked, pause } = await open(context, answers);
  byId("policy").enter("other");
  box(1).enter(false);
  byId("first").enter("a calm pond");
  byId("key").value = "tamis_1";
  byId("key-form").dispatch("submit");
  await settle();
  assert.equal(byId("policy").value, "other");
  assert.equal(byId("edited").hidden, false);
  byId("ask").dispatch("submit");
  await pause();
  assert.equal(asked.pop().policy.name, "other-edited");
  answers.policies = [200, { ...POLICIES, policies: POLICIES.policies.slice(0, 1) }];
  byId("key-form").dispatch("submit");
  await settle();
  assert.equal(byId("policy").value, "usual");
  assert.equal(byId("edited").hidden, true);
});

test("a threshold that is typed moves the other one no further than it must", async (context) => {
  await open(context);
  const [flag, block] = numbers(0);
  block.focus();
  for (const typed of ["0", "0.", "0.7", "0.75"]) block.enter(typed);
  assert.deepEqual([flag.value, block.value], ["0.72", "0.75"]);
  block.enter("0.5");
  assert.deepEqual([flag.value, block.value], ["0.5", "0.5"]);
  flag.focus();
  flag.enter("0.9");
  flag.enter("0.4");
  assert.deepEqual([flag.value, block.value], ["0.4", "0.5"]);
});

test("it says why a long text is not judged as it is typed", async (context) => {
  const { asked, pause } = await open(context);
  byId("first").enter("a".repeat(10_000));
  await pause();
  assert.deepEqual([asked.length, byId("long").hidden], [1, true]);
  byId("first").enter("a".repeat(10_001));
  await pause();
  assert.deepEqual([asked.length, byId("long").hidden], [1, false]);
  byId("live-typing").enter(false);
  assert.equal(byId("long").hidden, true);
});

test("a refusal that comes again is not put there again, and takes no focus away", async (context) => {
  const busy = [429, { error: { message: "the service is at capacity" } }];
  const answers = { moderate: busy };
  const { asked, pause } = await open(context, answers);
  byId("first").enter("a calm pond");
  await pause();
  const shown = byId("problem").firstElementChild;
  const again = shown.querySelector("button");
  again.focus();
  again.click();
  await settle();
  assert.equal(asked.length, 2);
  assert.equal(byId("problem").firstElementChild, shown);
  assert.equal(document.activeElement, again);
  answers.moderate = [503, { error: { message: "the model is being loaded" } }];
  again.click();
  await settle();
  assert.match(byId("problem").textContent, /^Not ready yetThe model is being loaded\./);
  const other = byId("problem").querySelector("button");
  assert.notEqual(other, again);
  assert.equal(document.activeElement, other);
  byId("live-typing").checked = false;
  byId("first").enter("a calm pond, a heron");
  assert.equal(byId("problem").textContent, "");
  assert.equal(document.activeElement, byId("judge"));
});
