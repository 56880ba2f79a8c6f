// What the answer says of each text, where it has more than one or one that could decline.

import { el } from "./dom.js";
import { WORDS, actionOf, declines } from "./explain.js";

/**
 * @param verdict the answer.
 * @param texts `[{field, label}]` as they were sent.
 * @returns {HTMLElement[]} nothing where the verdict as a whole says it all.
 */
export function fieldsView(verdict, texts) {
  const fields = Object.entries(verdict.fields);
  if (fields.length < 2 && !fields.some(([, field]) => field.refusal)) return [];
  const rows = fields.map(([name, field]) => {
    const action = actionOf(field);
    return el("tr", { class: action },
      el("th", { scope: "row" }, texts.find((text) => text.field === name)?.label ?? name),
      el("td", {}, [WORDS[action], field.severity, declines(field) && `declines (${field.refusal.score.toFixed(2)})`].filter(Boolean).join(", ")),
      el("td", { class: "figure" }, field.score.toFixed(2)));
  });
  return [el("table", { class: "scores fields" },
    el("caption", { class: "hidden" }, "What was found of each text"),
    el("thead", { class: "hidden" },
      el("tr", {}, ["Text", "Verdict", "Score"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows))];
}
