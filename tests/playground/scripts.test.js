// What the page computes, without a browser. Run by test_scripts.py.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Refusal, asCurl, call, parsed, storeKey, stream } from "./api.js";
import { ceiling } from "./chart.js";
import { Events, eventsOf } from "./events.js";
import { explain, figures, list, scores } from "./explain.js";
import { between, parse, quantile, snapshot } from "./metrics.js";
import { asksSomething, draftOf, filed, inForce, isEdited, limitsOf, namesOf, setLimit, written, yaml } from "./policy.js";
import { told } from "./reasons.js";
import { codePoints, segments, utf16Offsets } from "./spans.js";

test("offsets in code points become offsets in UTF-16 units", () => {
  const text = "a🪿b👩‍👩‍👧c"; // The family is three emoji and two joiners: five code points.
  assert.equal(codePoints(text), 9);
  const points = [...text];
  for (let start = 0; start <= points.length; start++) {
    const expected = points.slice(0, start).join("").length;
    assert.equal(utf16Offsets(text, [start]).get(start), expected);
  }
  assert.equal(utf16Offsets(text, [99]).get(99), text.length);
  assert.equal(utf16Offsets("", [0]).get(0), 0);
});

test("a text is cut where evidence begins or ends, overlaps included", () => {
  const a = { start: 2, end: 7 };
  const b = { start: 5, end: 9 };
  const parts = segments("🪿 silly goose", [a, b]);
  assert.deepEqual(parts.map((p) => p.text), ["🪿 ", "sil", "ly", " g", "oose"]);
  assert.deepEqual(parts.map((p) => p.evidence.length), [0, 1, 2, 1, 0]);
  assert.equal(segments("calm", []).map((p) => p.text).join(), "calm");
  assert.deepEqual(segments("", []), []);
});

test("the exposition format is read with escapes, timestamps and infinities", () => {
  const families = parse(
    [
      "# HELP a_total Things.",
      'a_total{path="/x",said="quote \\" back \\\\ line \\n end"} 3.0 1700000000',
      "b 1e-3",
      'c_bucket{le="+Inf"} +Inf',
      "d NaN",
      "not a sample line at all {",
      "",
    ].join("\n"),
  );
  assert.deepEqual(families.get("a_total"), [
    { labels: { path: "/x", said: 'quote " back \\ line \n end' }, value: 3 },
  ]);
  assert.equal(families.get("b")[0].value, 0.001);
  assert.equal(families.get("c_bucket")[0].value, Infinity);
  assert.ok(Number.isNaN(families.get("d")[0].value));
  assert.equal(families.size, 4);
});

const exposition = (ok, refused, [fast, slow]) => `
tamis_request_duration_seconds_bucket{le="0.01",outcome="ok",route="/moderate"} ${fast}
tamis_request_duration_seconds_bucket{le="0.1",outcome="ok",route="/moderate"} ${fast + slow}
tamis_request_duration_seconds_bucket{le="+Inf",outcome="ok",route="/moderate"} ${ok}
tamis_request_duration_seconds_bucket{le="+Inf",outcome="ok",route="/metrics"} 999
tamis_request_duration_seconds_count{outcome="ok",route="/moderate"} ${ok}
tamis_request_duration_seconds_count{outcome="overloaded",route="/v1/moderations"} ${refused}
tamis_request_duration_seconds_count{outcome="ok",route="/metrics"} 999
tamis_queued_tokens 120
tamis_requests_in_flight 3`;

test("rates and quantiles are of what happened between two looks, in moderation alone", () => {
  const before = snapshot(parse(exposition(10, 0, [10, 0])), 1000);
  const after = snapshot(parse(exposition(30, 4, [20, 10])), 3000);
  assert.deepEqual([after.queued, after.inFlight], [120, 3]);
  const step = between(before, after);
  assert.deepEqual(step.rates, { ok: 10, overloaded: 2 });
  assert.equal(quantile(0.5, step.buckets), 0.01);
  assert.ok(Math.abs(quantile(0.75, step.buckets) - 0.055) < 1e-9);
  assert.equal(between(after, before), null, "a counter that fell is a restart");
});

test("quantiles at the edges", () => {
  assert.equal(quantile(0.5, []), null);
  assert.equal(quantile(0.5, [{ bound: 1, count: 0 }]), null);
  const beyond = [{ bound: 1, count: 1 }, { bound: Infinity, count: 10 }];
  assert.equal(quantile(0.99, beyond), 1, "the highest finite bound, as Prometheus says it");
  const gap = [{ bound: 1, count: 0 }, { bound: 2, count: 4 }, { bound: 3, count: 4 }];
  assert.equal(quantile(0.5, gap), 1.5);
});

test("axes end at round numbers", () => {
  assert.deepEqual([0, 0.3, 1, 7, 10, 11, 400_000].map(ceiling), [1, 0.5, 1, 10, 10, 20, 500_000]);
});

const byQuestion = {
  prompt: { flag: 0.3, block: 0.7 },
  response: { flag: 0.6, block: 0.65 },
  toxicity: { flag: 0.31, block: 0.8 },
};
const usual = {
  name: "default",
  description: "Every category, at the bundle's own thresholds.",
  mode: "enforce",
  sensitivity: "balanced",
  severity: { borderline: "allow" },
  judge: null,
  deadline_ms: null,
  overall: byQuestion,
  categories: {
    hate: { flag: 0.4, block: 0.9, definition: "", given: {} },
    toxicity: { flag: 0.3, block: 0.8, definition: "", given: { flag: 0.3 } },
    weapons: { flag: null, block: null, definition: "", given: {} },
  },
};
const bare = { ...usual, name: "bare", mode: "score", overall: null, categories: { hate: { flag: 0.2, block: 0.5, given: { flag: 0.2, block: 0.5 } } } };

test("a draft that nobody touched decides as its policy", () => {
  const draft = draftOf(usual, [usual, bare], "prompt");
  assert.equal(isEdited(draft), false);
  // The overall thresholds differ by question: written as one pair they would not mean the same.
  assert.deepEqual(written(draft).overall, {});
  assert.deepEqual(written(draft).categories.weapons, {});
  // Another bundle than the first has thresholds of its own, which these would replace.
  assert.deepEqual(written(draft).categories.hate, {});
  assert.deepEqual(written(draft).categories.toxicity, { flag: 0.3 });
  const strict = { ...usual, overall: Object.fromEntries(Object.entries(byQuestion).map(([q, o]) => [q, { ...o, flag: 0.2 }])) };
  assert.deepEqual(written(draftOf(strict, [strict], "prompt")).overall, { flag: 0.2 });
});

test("what is edited is written, and flag never exceeds block", () => {
  const draft = draftOf(usual, [usual, bare], "toxicity");
  setLimit(draft.categories.hate, "flag", 0.5);
  assert.deepEqual(written(draft).categories.hate, { flag: 0.5 });
  assert.deepEqual(written(draft).categories.weapons, {});
  setLimit(draft.categories.hate, "flag", 0.95);
  assert.deepEqual(written(draft).categories.hate, { flag: 0.95, block: 0.95 });
  setLimit(draft.categories.hate, "block", 0.1);
  assert.deepEqual(written(draft).categories.hate, { flag: 0.1, block: 0.1 });
  setLimit(draft.categories.hate, "flag", 7);
  assert.equal(draft.categories.hate.flag, 1);
  assert.equal(draft.overall.flag, 0.31);
  setLimit(draft.overall, "flag", 0.5);
  assert.deepEqual(written(draft).overall, { flag: 0.5, block: 0.8 });
  assert.deepEqual(inForce(draft).overall.response, { flag: 0.5, block: 0.8 });
  draft.categories.toxicity.on = false;
  assert.ok(isEdited(draft));
  assert.ok(!("toxicity" in written(draft).categories));
  assert.equal(usual.categories.hate.flag, 0.4, "the policy itself stays as it was");
});

test("a policy without the overall question, and one that asks nothing", () => {
  const draft = draftOf(bare, [usual, bare], "prompt");
  assert.equal(isEdited(draft), false);
  assert.equal(draft.overall.on, false);
  assert.equal(draft.categories.toxicity.on, false);
  assert.deepEqual(written(draft), {
    name: "bare-edited",
    description: usual.description,
    mode: "score",
    categories: { hate: { flag: 0.2, block: 0.5 } },
  });
  draft.categories.hate.on = false;
  assert.equal(asksSomething(draft), false);
});

test("categories of a policy's own stay its own, and keep their definitions", () => {
  const rule = { flag: null, block: null, definition: "Promises a loan." };
  const bank = { ...bare, name: "bank", own: ["loan promises"], categories: { ...bare.categories, "loan promises": rule } };
  const offered = [{ ...usual, own: [] }, bank];
  assert.ok(!("loan promises" in draftOf(offered[0], offered, "prompt").categories));
  assert.deepEqual(namesOf(offered), ["hate", "toxicity", "weapons"]);
  const draft = draftOf(bank, offered, "prompt");
  assert.equal(isEdited(draft), false);
  setLimit(draft.categories.hate, "flag", 0.3);
  assert.deepEqual(written(draft).categories, { hate: { flag: 0.3, block: 0.5 }, "loan promises": { definition: rule.definition } });
  assert.match(yaml(written(draft)), /\n  "loan promises": \{definition: "Promises a loan."\}\n/);
});

test("a definition in the policy's own words goes along, the taxonomy's does not", () => {
  const rude = { flag: 0.4, block: 0.9, definition: "Rude to guests.", given: { block: 0.9 } };
  const inn = { ...bare, name: "inn", own: [], defined: ["toxicity"], categories: { toxicity: rude, hate: usual.categories.hate } };
  const { categories } = written(draftOf(inn, [usual, inn], "prompt"));
  assert.deepEqual(categories, { toxicity: { definition: "Rude to guests.", block: 0.9 }, hate: {} });
  // A rule that is lent comes with the words that are shown.
  const draft = draftOf({ ...bare, own: [], defined: [] }, [inn], "prompt");
  draft.categories.toxicity.on = true;
  assert.deepEqual(written(draft).categories.toxicity, { definition: "Rude to guests.", block: 0.9 });
});

test("a policy on trial is for files, not for requests", () => {
  const draft = draftOf({ ...bare, shadow: "stricter" }, [usual], "prompt");
  assert.ok(!("shadow" in written(draft)));
  assert.equal(filed(draft).shadow, "stricter");
  assert.ok(!("shadow" in filed(draftOf({ ...bare, shadow: null }, [usual], "prompt"))));
});

test("categories of a policy's own have thresholds where somebody scores them", () => {
  const rule = { flag: 0.4, block: 0.9, definition: "Promises a loan." };
  const bank = { ...bare, name: "bank", own: ["loan promises"], categories: { "loan promises": rule } };
  const draft = draftOf(bank, [bank], "prompt");
  setLimit(draft.categories["loan promises"], "flag", 0.3);
  assert.equal(isEdited(draft), true);
  assert.deepEqual(written(draft).categories, { "loan promises": { definition: rule.definition, flag: 0.3 } });
});

test("a policy as YAML", () => {
  const draft = draftOf({ ...usual, name: "on: the #1" }, [usual], "prompt");
  assert.equal(
    yaml(written(draft)),
    [
      'name: "on: the #1-edited"',
      'description: "Every category, at the bundle\'s own thresholds."',
      "overall: {}",
      "categories:",
      "  hate: {}",
      "  toxicity: {flag: 0.3}",
      "  weapons: {}",
      "",
    ].join("\n"),
  );
});

test("what a policy decides by besides thresholds goes along", () => {
  const mask = { pii: ["email", "phone"], evidence: false, countries: [] };
  const more = { sensitivity: "strict", severity: { borderline: "flag" }, judge: ["response"], mask };
  const guard = { ...usual, name: "guard", ...more };
  const draft = draftOf(guard, [usual, guard], "response");
  const { sensitivity, severity, judge, mask: masked } = written(draft);
  assert.deepEqual({ sensitivity, severity, judge, mask: masked }, more);
  assert.match(yaml(written(draft)), /\nsensitivity: strict\nseverity: \{borderline: flag\}\njudge: \[response\]\nmask: \{pii: \[email, phone\], evidence: false, countries: \[\]\}\n/);
  const plain = written(draftOf({ ...usual, mask: null }, [usual], "response"));
  assert.ok(!("sensitivity" in plain || "severity" in plain || "judge" in plain || "mask" in plain));
});

const verdict = (changes) => ({
  action: "allow", flagged: false, score: 0.1, threshold: 0.3, windows: 1, tokens: 5, attack: null, evidence: [],
  severity: "safe", fields: {},
  categories: { hate: { score: 0.05, threshold: 0.4 }, toxicity: { score: 0.1, threshold: 0.3 } },
  ...changes,
});

test("thresholds of an answer: of two contents the verdict does not say which one spoke", () => {
  assert.equal(limitsOf(usual, verdict(), ["prompt"]).overall.block, 0.7);
  assert.equal(limitsOf(usual, verdict({ threshold: 0.6 }), ["prompt", "response"]).overall.block, 0.65);
  const same = { ...usual, overall: { ...byQuestion, response: { flag: 0.3, block: 0.65 } } };
  assert.equal(limitsOf(same, verdict(), ["prompt", "response"]).overall.block, null);
  assert.equal(limitsOf(bare, verdict({ threshold: null }), ["prompt"]).overall, null);
});

test("verdicts in words", () => {
  const limits = limitsOf(usual, verdict(), ["prompt"]);
  const said = (changes) => explain(verdict(changes), limits).join(" ");
  assert.equal(
    said({}),
    "The overall score of 0.10 stayed below the flag threshold of 0.30. Closest in any category: toxicity (0.10 of 0.30).",
  );
  const flagged = {
    action: "flag",
    score: 0.5,
    categories: { hate: { score: 0.41, threshold: 0.4, flagged: true }, toxicity: { score: 0.1, threshold: 0.3 } },
    evidence: [
      { start: 0, end: 3, text: "you", field: "text", score: 0.9 },
      { start: 0, end: 9, text: "you goose", field: "text", score: 0.8 },
    ],
  };
  assert.equal(
    said(flagged),
    "The overall score of 0.50 reached the flag threshold of 0.30 and stayed below 0.70, where blocking begins. " +
      "Hate (0.41 ≥ 0.40) reached its flag threshold. What argued for it most: “you goose”.",
  );
  assert.match(said({ action: "flag", score: 0.5 }), /unsafe, but of no one kind/);
  assert.match(said({ action: "block", score: 0.8 }), /0\.80 reached the block threshold of 0\.70/);
  assert.match(said({ action: "block", score: 0.5 }), /One of the texts reached a block threshold of its own/);
  const alone = { ...flagged.categories, hate: { ...flagged.categories.hate, flagged: false } };
  assert.match(said({ categories: alone }), /Hate \(0\.41 ≥ 0\.40\) counts only along with the overall score/);
  assert.match(said({ ...flagged, action: "allow", withheld: "flag" }), /only scores, so nothing was done/);
  assert.match(said({ windows: 0 }), /nothing to read/);
  assert.match(said({ threshold: null }), /does not ask whether/);
  const borderline = { action: "flag", score: 0.1, severity: "borderline", refusal: null };
  assert.match(said({ action: "flag", fields: { prompt: borderline } }), /It is borderline, and this policy acts on that/);
  assert.doesNotMatch(said({ fields: { prompt: { ...borderline, action: "allow" } } }), /borderline/);
  const withheld = { ...borderline, action: "allow", withheld: "flag" };
  assert.match(said({ withheld: "flag", fields: { prompt: withheld } }), /borderline, and this policy acts/);
  const response = { action: "allow", score: 0.02, severity: "safe", refusal: { score: 0.981, flagged: true } };
  assert.match(said({ fields: { response } }), /The response declines \(0\.98\), and is judged as such/);
  assert.doesNotMatch(said({ fields: { response: { ...response, refusal: { score: 0.2, flagged: false } } } }), /declines/);
});

test("an answer of somebody else", () => {
  assert.deepEqual(parsed('{"model": "tamis"}'), { model: "tamis" });
  assert.throws(() => parsed("<!doctype html>"), (error) => error instanceof Refusal && error.status === 0);
});

test("states of scores", () => {
  const limits = limitsOf(usual, verdict(), ["prompt"]);
  const high = { hate: { score: 0.95, threshold: 0.4, flagged: false }, toxicity: { score: 0.96, threshold: 0.3, flagged: true } };
  const states = (changes) => scores(verdict(changes), limits).map((s) => [s.name, s.state]);
  assert.deepEqual(states({ categories: high }), [["toxicity", "block"], ["hate", "held"]]);
  const both = { ...high, hate: { ...high.hate, flagged: true } };
  assert.deepEqual(states({ categories: both, score: 0.5 }), [["toxicity", "block"], ["hate", "block"]]);
  assert.deepEqual(states({ attack: { score: 0.9, threshold: 0.1, flagged: true } })[0], ["attack", "flag"]);
  // Where nothing is flagged because the policy only scores, the scores say what would have been.
  const scored = { ...high, toxicity: { ...high.toxicity, flagged: false } };
  assert.deepEqual(states({ categories: scored, withheld: "block" }), [["toxicity", "block"], ["hate", "held"]]);
  // A policy's own category is a question of its own.
  const tea = verdict({ categories: { tea: { score: 0.6, threshold: 0.5, flagged: false } }, withheld: "flag" });
  const own = { categories: { tea: { flag: 0.5, block: 0.9, own: true } } };
  assert.deepEqual(scores(tea, own).map((s) => [s.name, s.state]), [["tea", "flag"]]);
});

test("figures and lists", () => {
  assert.deepEqual(figures(0.65314, 0.65), ["0.653", "0.650"]);
  assert.deepEqual(figures(0.7, 0.3), ["0.70", "0.30"]);
  assert.equal(list(["a", "b", "c"]), "a, b and c");
  assert.equal(list([]), "");
});

const STREAM =
  'event: verdict\r\ndata: {"n": 1}\r\n\r\n: a comment\r\nid: 7\r\nevent: reason\r\ndata: {"text": "🪿 says “hé”"}\r\n\r\n' +
  "data:first\r\ndata: second\r\ndata\r\n\r\nevent: nothing\r\n\r\nevent: cut\r\ndata: off";
const WHOLE = [
  { name: "verdict", data: '{"n": 1}' },
  { name: "reason", data: '{"text": "🪿 says “hé”"}' },
  { name: "message", data: "first\nsecond\n" },
];

test("events are the same however their lines end and wherever the text is cut", () => {
  for (const ending of ["\r\n", "\n", "\r"]) {
    const text = STREAM.replaceAll("\r\n", ending);
    assert.deepEqual(new Events().push(text), WHOLE);
    for (let size = 1; size < 12; size++) {
      const events = new Events();
      const found = [];
      for (let at = 0; at < text.length; at += size) found.push(...events.push(text.slice(at, at + size)), ...events.push(""));
      assert.deepEqual(found, WHOLE, JSON.stringify([ending, size]));
    }
  }
});

test("an event is given with the line that completes it", () => {
  const events = new Events();
  assert.deepEqual(events.push("data: x\r"), []);
  assert.deepEqual(events.push("\n\r"), [{ name: "message", data: "x" }]);
  assert.deepEqual(events.push("\ndata: y\n\n"), [{ name: "message", data: "y" }]);
});

/** A body that gives its bytes in chunks of a size, and notes whether it was cancelled. */
function body(bytes, size) {
  const noted = { cancelled: false };
  let at = 0;
  noted.stream = new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) controller.close();
      else controller.enqueue(bytes.slice(at, (at += size)));
    },
    cancel: () => void (noted.cancelled = true),
  });
  return noted;
}

test("characters whose bytes come apart are put together", async () => {
  const bytes = new TextEncoder().encode(STREAM);
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const found = [];
    for await (const event of eventsOf(body(bytes, size).stream)) found.push(event);
    assert.deepEqual(found, WHOLE);
  }
});

test("who stops listening closes the connection", async () => {
  const given = body(new TextEncoder().encode(STREAM), 4);
  for await (const { name } of eventsOf(given.stream)) {
    assert.equal(name, "verdict");
    break;
  }
  assert.equal(given.cancelled, true);
});

test("errors in and before a stream are refusals, and so is a connection that breaks", async (context) => {
  const error = { message: "the service is at capacity", code: "overloaded" };
  const answers = [
    () => new Response(`event: verdict\ndata: {}\n\nevent: error\ndata: ${JSON.stringify({ error })}\n\n`),
    () => new Response(JSON.stringify({ error }), { status: 429, headers: { "retry-after": "2" } }),
    () => new Response(new ReadableStream({ start: (c) => c.error(new TypeError("network error")) })),
    () => Promise.reject(new TypeError("failed to fetch")),
    () => Promise.reject(new DOMException("", "AbortError")),
  ];
  const raised = [];
  for (const answer of answers) {
    context.mock.method(globalThis, "fetch", async () => answer());
    try {
      for await (const _ of stream("moderate", { body: {} }));
    } catch (thrown) {
      raised.push([thrown.name, thrown.status, thrown.code ?? null, thrown.retryAfter]);
    }
  }
  assert.deepEqual(raised, [
    ["Error", 200, "overloaded", null],
    ["Error", 429, "overloaded", 2000],
    ["Error", 0, null, null],
    ["Error", 0, null, null],
    ["AbortError", undefined, 20, undefined],
  ]);
});

test("a key that no header can hold is a wrong key, not a lost connection", async (context) => {
  const asked = context.mock.method(globalThis, "fetch", async () => new Response("{}"));
  for (const key of ["tamis_…", "“tamis_1”", "tamis_\n1"]) {
    storeKey(key);
    await assert.rejects(call("policies"), { status: 401 });
    await assert.rejects(stream("moderate", { body: {} }).next(), { status: 401 });
  }
  assert.equal(asked.mock.callCount(), 0);
  storeKey("tamis_1");
  assert.equal((await call("policies")).text, "{}");
  storeKey(null);
});

test("a command line sends what was sent, however long it is", (context) => {
  // Says what curl would have sent; a command, so that the system's limit holds.
  const folder = mkdtempSync(join(tmpdir(), "curl-"));
  const script = '#!/bin/sh\nfor last; do :; done\n[ "$last" = @- ] && exec cat\nprintf %s "$last"\n';
  writeFileSync(join(folder, "curl"), script, { mode: 0o700 });
  globalThis.document = { baseURI: "http://localhost:8000/" };
  context.after(() => {
    rmSync(folder, { recursive: true });
    delete globalThis.document;
  });
  const env = { PATH: `${folder}:${process.env.PATH}` };
  for (const size of [9, 40_000, 200_000]) {
    const body = { input: `It's\nTAMIS\n${"é".repeat(size)}` };
    const { stdout, stderr } = spawnSync("/bin/sh", { input: `${asCurl("moderate", body)}\n`, env, encoding: "utf8" });
    assert.equal(stderr, "");
    assert.deepEqual(JSON.parse(stdout), body);
  }
});

test("an explanation is told with what stands of it", () => {
  const found = { status: "ok", safety: "unsafe", category: "hate", reason: "It says so.", agrees: true, probability: 0.934, fault: null };
  assert.deepEqual(told(found, "It says"), {
    facts: [["safety", "unsafe"], ["category", "hate"], ["probability", "0.93 that it is unsafe"], ["classifier", "says the same"]],
    reason: "It says so.",
    note: null,
  });
  const safe = told({ ...found, safety: "safe", category: null, agrees: null, reason: null, status: "unfinished" }, " It goes on");
  assert.deepEqual(safe.facts[1], ["category", "none"]);
  assert.deepEqual(safe.facts.map(([name]) => name), ["safety", "category", "probability"]);
  assert.equal(safe.reason, "It goes on …");
  assert.match(safe.note, /cut off/);
  const given = told({ ...found, status: "malformed", agrees: null, reason: null, fault: "repetition" }, "It says it says");
  assert.deepEqual([given.facts[0], given.reason], [["safety", "unsafe"], ""]);
  assert.match(given.note, /is no reason/);
  const malformed = told({ ...found, status: "malformed", safety: null, reason: null, fault: "no_reason" }, "It says");
  assert.deepEqual([malformed.facts, malformed.reason], [[], ""]);
  assert.match(malformed.note, /\(no reason\), so nothing is taken/);
  const overall = told({ ...found, category: null, agrees: null, reason: null }, "");
  assert.deepEqual([overall.facts[0], overall.reason], [["safety", "unsafe"], ""]);
  assert.match(overall.note, /The overall score alone found it/);
  assert.match(told(null, "").note, /nothing to read/);
});
