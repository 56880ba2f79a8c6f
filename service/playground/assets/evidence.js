// The judged texts with the words that argued for the verdict, and the same as a list.

import { byId, el, styled } from "./dom.js";
import { segments } from "./spans.js";

// Beyond it the marks would be too many stops on the way through the page; the list has them all.
const MOST_STOPS = 24;

/**
 * @param texts `[{field, label, text}]` as they were sent.
 * @param evidence of the answer.
 * @returns {HTMLElement[]} nothing where there is no evidence.
 */
export function evidenceView(texts, evidence) {
  if (!evidence.length) return [];
  const numbered = evidence.map((e, n) => ({ ...e, n }));
  const shown = texts
    .map((text) => ({ ...text, found: numbered.filter((e) => e.field === text.field) }))
    .filter(({ found }) => found.length);
  const marks = [];
  const quotes = shown.map(({ label, text, found }) =>
    el("figure", { class: "quote" },
      shown.length > 1 && el("figcaption", { class: "note" }, label),
      el("blockquote", { tabindex: "0", role: "region", "aria-label": `${label}, with evidence marked` },
        segments(text, found).map((part, n, all) => {
          if (!part.evidence.length) return part.text;
          const mark = marked(part, all.length <= MOST_STOPS, !all[n - 1]?.evidence.length, !all[n + 1]?.evidence.length);
          marks.push({ mark, of: part.evidence.map((e) => e.n) });
          return mark;
        }))));
  const rows = numbered
    .sort((a, b) => b.score - a.score)
    .map((e) => {
      const light = (on) => () => {
        for (const { mark, of } of marks) mark.classList.toggle("lit", on && of.includes(e.n));
      };
      const where = shown.length > 1 ? shown.find((s) => s.field === e.field)?.label : null;
      return el("li", { tabindex: "0", onmouseenter: light(true), onmouseleave: light(false), onfocus: light(true), onblur: light(false) },
        el("q", {}, e.text), " ",
        el("span", { class: "note" }, e.category, where && ` · ${where.toLowerCase()}`), " ",
        el("span", { class: "figure" }, e.score.toFixed(2)));
    });
  return [...quotes, el("details", { class: "found" },
    el("summary", {}, `${evidence.length} ${evidence.length > 1 ? "pieces" : "piece"} of evidence, as a list`),
    el("ol", {}, rows))];
}

/** One stretch under the same evidence; neighbours join, so only the ends of a run are rounded. */
function marked({ text, evidence }, stop, first, last) {
  const strength = Math.max(...evidence.map((e) => e.score));
  const attack = evidence.some((e) => e.category === "attack");
  const said = evidence.map((e) => `${e.category} ${e.score.toFixed(2)}`).join(", ");
  const mark = el("mark", {
    class: [attack && "attack", first && "first", last && "last"].filter(Boolean).join(" "),
    tabindex: stop && "0",
    "aria-describedby": "hint",
    onmouseenter: () => showHint(mark, said),
    onfocus: () => showHint(mark, said),
    onmouseleave: hideHint,
    onblur: hideHint,
  }, text);
  return styled(mark, { "--strength": strength });
}

function showHint(mark, text) {
  const hint = byId("hint");
  hint.textContent = text;
  hint.hidden = false;
  const box = mark.getClientRects()[0];
  const own = hint.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left + box.width / 2 - own.width / 2, innerWidth - own.width - 8));
  const above = box.top - own.height - 6;
  styled(hint, { left: `${left}px`, top: `${above < 8 ? box.bottom + 6 : above}px` });
}

/** Put the hint away: the pointer left, the focus moved, or Escape. */
export function hideHint() {
  byId("hint").hidden = true;
}
