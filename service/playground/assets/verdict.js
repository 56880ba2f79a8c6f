// The answer of /moderate, drawn.

import { asCurl } from "./api.js";
import { copyButton, el, milliseconds, styled, svg } from "./dom.js";
import { evidenceView } from "./evidence.js";
import { fieldsView } from "./fields.js";
import { WORDS, actionOf, explain, isUnsafe, scores } from "./explain.js";

const STAGES = [
  ["queue", "queue"],
  ["tokenize", "tokenise"],
  ["infer", "infer"],
  ["postprocess", "post-process"],
];

/**
 * Everything there is to say of one answer.
 *
 * @param {{verdict, limits, texts, body, ms}} judged the answer, the thresholds it was judged by, the
 *   texts as they were sent, the request's body, and the milliseconds the page waited.
 * @param {Element} why where the reasoner is asked.
 */
export function verdictView({ verdict, limits, texts, body, ms }, why) {
  const action = actionOf(verdict);
  return [
    el("div", { class: `headline ${action}` },
      icon(action),
      el("p", { class: "action" }, WORDS[action], verdict.withheld && el("small", {}, " withheld")),
      el("p", { class: "tag" }, verdict.severity),
      el("p", { class: "overall" },
        el("span", { class: "figure" }, verdict.score.toFixed(2)),
        el("small", {}, verdict.threshold === null ? "overall, not asked" : "overall"))),
    overallBar(verdict, limits),
    el("div", { class: "because" },
      el("p", {}, explain(verdict, limits).join(" ")),
      el("p", { class: "note" }, "Worded by this page from scores, thresholds and evidence. It is not the model’s reasoning."),
      verdict.windows > 0 && why),
    part("Each text", fieldsView(verdict, texts)),
    part("Evidence", evidenceView(texts, verdict.evidence)),
    part("Scores", [scoreTable(verdict, limits)], thresholdKey()),
    part("Latency", latency(verdict.timings, ms)),
    part("Details", [details(verdict, body)],
      el("p", { class: "key note" }, `read in ${verdict.windows} ${verdict.windows === 1 ? "window" : "windows"}, ${verdict.tokens} tokens`)),
  ];
}

/** What a screen reader hears of a verdict. */
export function spoken(verdict) {
  const withheld = verdict.withheld ? " (withheld)" : "";
  return `${WORDS[actionOf(verdict)]}${withheld}. Overall score ${verdict.score.toFixed(2)}. It is ${verdict.severity}.`;
}

function part(title, content, aside = null) {
  if (!content.length) return null;
  return el("section", { class: "part" }, el("div", { class: "row" }, el("h3", {}, title), aside), content);
}

/** Told apart by their shape as well as by their colour. */
function icon(action) {
  const shapes = {
    allow: [svg("circle", { cx: 16, cy: 16, r: 14 }), svg("path", { d: "M9.5 16.5l4.5 4.5 8.5-9.5" })],
    flag: [svg("path", { d: "M16 3l14 25H2z" }), svg("path", { d: "M16 12v8M16 23.6v.2" })],
    block: [svg("path", { d: "M10.2 2h11.6L30 10.2v11.6L21.8 30H10.2L2 21.8V10.2z" }), svg("path", { d: "M10 16h12" })],
  };
  return svg("svg", { class: "icon", viewBox: "0 0 32 32", "aria-hidden": "true", focusable: "false" }, shapes[action]);
}

function bar(score, flag, block, state) {
  const ticks = [["flag", flag], ["block", block]].filter(([, at]) => at != null);
  return styled(
    el("div", { class: `meter ${state}`, "aria-hidden": "true" },
      el("div", { class: "fill" }),
      ticks.map(([name, at]) => styled(el("i", { class: name }), { "--at": at }))),
    { "--score": score },
  );
}

function overallBar(verdict, limits) {
  if (verdict.threshold === null) return null;
  const block = limits?.overall?.block ?? null;
  let state = isUnsafe(verdict) ? "flag" : "allow";
  if (block !== null && verdict.score >= block) state = "block";
  const label = (name, at) =>
    styled(el("span", { class: name }, `${name} ${at.toFixed(2)}`), { "--at": at });
  // Two labels that would meet share one.
  const near = block !== null && block - verdict.threshold < 0.14;
  return el("div", { class: "scale" },
    bar(verdict.score, verdict.threshold, block, state),
    el("div", { class: "labels" },
      near
        ? styled(el("span", { class: "block" }, `flag ${verdict.threshold.toFixed(2)}, block ${block.toFixed(2)}`), { "--at": (block + verdict.threshold) / 2 })
        : [label("flag", verdict.threshold), block !== null && label("block", block)]));
}

function thresholdKey() {
  return el("p", { class: "key note", "aria-hidden": "true" },
    el("span", { class: "swatch flag" }), "flag from", el("span", { class: "swatch block" }), "block from");
}

function scoreTable(verdict, limits) {
  const said = { allow: "", flag: "flagged", block: "blocked", held: "over its threshold, not counted" };
  const rows = scores(verdict, limits).map((s) =>
    el("tr", { class: s.state },
      el("th", { scope: "row" }, s.name),
      el("td", { class: "wide" },
        bar(s.score, s.threshold, s.block, s.state),
        el("span", { class: "hidden" },
          [said[s.state], `flags from ${s.threshold.toFixed(2)}`, s.block !== null && `blocks from ${s.block.toFixed(2)}`]
            .filter(Boolean)
            .join(", "))),
      el("td", { class: "figure" }, s.score.toFixed(2))));
  return el("table", { class: "scores" },
    el("caption", { class: "hidden" }, "Scores, highest first"),
    el("thead", { class: "hidden" },
      el("tr", {}, ["Category", "Thresholds", "Score"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows));
}

/** Stages as the service measured them; what the page waited beyond them is the way there and back. */
function latency(timings, ms) {
  const parts = STAGES.map(([stage, name]) => ({ stage, name, ms: timings[`${stage}_ms`] }));
  const stages = parts.reduce((sum, p) => sum + p.ms, 0);
  parts.push({ stage: "rest", name: "network and the rest", ms: Math.max(0, ms - stages) });
  const total = Math.max(ms, stages) || 1;
  return [
    el("div", { class: "stages", "aria-hidden": "true" },
      parts.map((p) => styled(el("div", { class: p.stage }), { "--share": p.ms / total }))),
    el("ul", { class: "legend" },
      parts.map((p) => el("li", {}, el("span", { class: `swatch ${p.stage}`, "aria-hidden": "true" }), p.name, " ",
        el("span", { class: "figure" }, milliseconds(p.ms)))),
      el("li", { class: "sum" }, "together ", el("span", { class: "figure" }, milliseconds(total)))),
  ];
}

function details(verdict, body) {
  const id = verdict.id.replace(/^mod-/, "");
  const entry = (name, ...value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  const json = JSON.stringify(verdict, null, 2);
  return el("div", {},
    el("dl", { class: "facts" },
      entry("model", el("code", {}, verdict.model)),
      entry("policy", el("code", {}, verdict.policy)),
      entry("request", el("code", {}, id), " ", copyButton("Copy", () => id, { class: "quiet small", "aria-label": "Copy the request id" }))),
    el("div", { class: "bar" },
      copyButton("Copy as curl", () => asCurl("moderate", body)),
      copyButton("Copy JSON", () => json)),
    el("details", {}, el("summary", {}, "Raw answer"), el("pre", { class: "code", tabindex: "0", "aria-label": "The answer as JSON" }, json)));
}
