// A verdict in words. Everything said here follows from the answer and the thresholds: the page
// knows nothing of why the model scores as it does, beyond the words that argued for it.

import { sameThreshold } from "./policy.js";

// Questions of their own, as a policy's own categories are; every other one counts only along with the
// overall score.
const INDEPENDENT = new Set(["toxicity", "attack"]);

export const WORDS = { allow: "Allow", flag: "Flag", block: "Block" };

/** What a verdict did, or would have done where its policy only scores. */
export const actionOf = (verdict) => verdict.withheld ?? verdict.action;

/** Whether the overall score reached its threshold; true where the policy does not ask. */
export const isUnsafe = ({ score, threshold }) => threshold === null || score >= threshold;

/** Whether a text of the answer's `fields` was found to decline. */
export const declines = ({ refusal }) => refusal?.flagged ?? false;

/**
 * Every score but the overall one, highest first: `[{name, score, threshold, block, state}]`.
 *
 * `state` is what the score did by itself: `block`, `flag`, `held` (over its threshold, but without
 * the overall score it does not count) or `allow`. `block` is null where it is not known.
 */
export function scores(verdict, limits) {
  const named = Object.entries(verdict.categories);
  if (verdict.attack) named.push(["attack", verdict.attack]);
  const unsafe = isUnsafe(verdict);
  return named
    .map(([name, { score, threshold, flagged }]) => {
      const { flag = null, own = false, ...known } = limits?.categories[name] ?? {};
      // Another bundle judged by thresholds of its own, of which the verdict tells the first.
      const block = flag !== null && sameThreshold(flag, threshold) ? (known.block ?? null) : null;
      // Where the policy only scores nothing is flagged, and it has to be told from the scores.
      const counts = verdict.withheld ? unsafe || own || INDEPENDENT.has(name) : flagged;
      let state = "allow";
      if (score >= threshold) state = counts ? "flag" : "held";
      if (counts && block !== null && score >= block) state = "block";
      return { name, score, threshold, block, state };
    })
    .sort((a, b) => b.score - a.score);
}

/** Sentences that say which score reached which threshold, and which words argued for it. */
export function explain(verdict, limits) {
  if (!verdict.windows) return ["There was nothing to read, so it is allowed."];
  const all = scores(verdict, limits);
  const of = (state) => all.filter((s) => s.state === state);
  const [blocked, flagged, held] = ["block", "flag", "held"].map(of);
  const overall = verdict.threshold === null ? null : overallSentence(verdict, limits);
  const said = [overall?.text ?? "The policy does not ask whether it is unsafe at all; its categories decide."];

  for (const [found, limit, name] of [[blocked, "block", "block"], [flagged, "threshold", "flag"]]) {
    const whose = found.length > 1 ? `their ${name} thresholds` : `its ${name} threshold`;
    if (found.length) said.push(`${named(found, limit)} reached ${whose}.`);
  }
  const fields = Object.values(verdict.fields);
  const borderline = fields.some((field) => field.severity === "borderline" && actionOf(field) !== "allow");
  if (borderline && !overall?.reached) said.push("It is borderline, and this policy acts on that.");
  else if (!blocked.length && !flagged.length && all.length) {
    if (overall?.reached) said.push("No category reached its own threshold: unsafe, but of no one kind.");
    else said.push(`Closest in any category: ${named([closest(all)], "threshold", "of")}.`);
  }
  if (held.length) {
    const count = held.length > 1 ? "count" : "counts";
    said.push(`${named(held, "threshold")} ${count} only along with the overall score.`);
  }
  if (actionOf(verdict) === "block" && !blocked.length && overall?.reached !== "block") {
    said.push("One of the texts reached a block threshold of its own.");
  }
  const refusals = fields.filter(declines);
  if (refusals.length) said.push(`The response declines (${refusals.map(({ refusal }) => refusal.score.toFixed(2)).join(", ")}), and is judged as such.`);
  if (verdict.withheld) said.push("The policy only scores, so nothing was done.");
  const words = strongest(verdict.evidence);
  if (words.length) said.push(`What argued for it most: ${list(words)}.`);
  return said;
}

/** Two figures with as many digits as it takes to tell them apart. */
export function figures(score, threshold) {
  const digits = [2, 3].find((n) => score.toFixed(n) !== threshold.toFixed(n)) ?? 4;
  return [score.toFixed(digits), threshold.toFixed(digits)];
}

/** "a", "a and b", "a, b and c". */
export function list(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

function overallSentence(verdict, limits) {
  const block = limits?.overall?.block ?? null;
  const [score, flag] = figures(verdict.score, verdict.threshold);
  if (block !== null && verdict.score >= block) {
    const [reached, limit] = figures(verdict.score, block);
    return { reached: "block", text: `The overall score of ${reached} reached the block threshold of ${limit}.` };
  }
  if (verdict.score < verdict.threshold) {
    return { reached: null, text: `The overall score of ${score} stayed below the flag threshold of ${flag}.` };
  }
  const below = block === null ? "" : ` and stayed below ${figures(verdict.score, block)[1]}, where blocking begins`;
  return { reached: "flag", text: `The overall score of ${score} reached the flag threshold of ${flag}${below}.` };
}

function named(found, limit, against = "≥") {
  const each = found.map((s) => `${s.name} (${figures(s.score, s[limit]).join(` ${against} `)})`);
  const text = list(each);
  return against === "≥" ? text.charAt(0).toUpperCase() + text.slice(1) : text;
}

function closest(all) {
  return all.reduce((a, b) => (b.score / b.threshold > a.score / a.threshold ? b : a));
}

/** Up to four pieces of evidence, quoted, strongest first, each once and none that is part of another. */
function strongest(evidence) {
  const inside = (a, b) =>
    a.field === b.field && a.start >= b.start && a.end <= b.end && a.end - a.start < b.end - b.start;
  const whole = evidence.filter((e) => !evidence.some((other) => inside(e, other)));
  const quoted = whole.sort((a, b) => b.score - a.score).map((e) => `“${clipped(e.text)}”`);
  return [...new Set(quoted)].slice(0, 4);
}

function clipped(text) {
  const points = [...text];
  return points.length > 40 ? `${points.slice(0, 39).join("")}…` : text;
}
