// The policy editor: for each category whether it counts, and from which scores on.

import { el, styled, copyButton } from "./dom.js";
import { asksSomething, filed, remembered, setLimit, yaml } from "./policy.js";

/**
 * Draw the editor of a draft into `place`.
 *
 * @param {() => void} changed is called after every change of the draft.
 * @param {() => void} reset when the edits are to be forgotten.
 * @returns {{scores(Map<string, number>): void}} to show the latest scores beneath the thresholds.
 */
export function editor(place, draft, changed, reset) {
  const warning = el("p", { class: "note bad", role: "alert" });
  const file = el("pre", { class: "code", tabindex: "0", "aria-label": "The policy as YAML" });
  const rows = new Map();
  const update = () => {
    warning.textContent = asksSomething(draft) ? "" : "Switch something on: a policy must ask something.";
    file.textContent = yaml(filed(draft));
    changed();
  };
  const add = (name, rule, definition) => rows.set(name, row(name, rule, definition, update));
  add("overall", draft.overall, "Is it unsafe at all? Categories count only along with it; toxicity and attack by themselves.");
  for (const [name, rule] of Object.entries(draft.categories)) add(name, rule, rule.definition);

  place.replaceChildren(
    el("p", { class: "key note", "aria-hidden": "true" },
      el("span", { class: "swatch flag" }), "flag from", el("span", { class: "swatch block" }), "block from",
      el("span", { class: "swatch score" }), "latest score"),
    el("ul", { class: "rules" }, [...rows.values()].map((r) => r.element)),
    warning,
    el("details", { class: "file" },
      el("summary", {}, "As a file for ", el("code", {}, "--policies")), file),
    el("div", { class: "bar" },
      copyButton("Copy YAML", () => yaml(filed(draft))),
      el("button", { type: "button", class: "quiet", onclick: reset }, "Reset")),
  );
  file.textContent = yaml(filed(draft));
  return {
    scores: (found) => {
      for (const [name, r] of rows) styled(r.element, { "--score": found.get(name) ?? 0 });
    },
  };
}

function row(name, rule, definition, update) {
  const known = rule.flag !== null;
  const inputs = known
    ? ["flag", "block"].flatMap((which) => [
        { which, input: slider(name, which) },
        { which, input: number(name, which) },
      ])
    : [];
  const show = () => {
    element.classList.toggle("off", !rule.on);
    if (known) styled(element, { "--flag": rule.flag, "--block": rule.block });
    for (const { which, input } of inputs) {
      input.disabled = !rule.on;
      // Not into the field that is being typed in: it would move the caret.
      if (input !== document.activeElement || input.type === "range") input.value = short(rule[which]);
    }
  };
  for (const { which, input } of inputs) {
    // What gives way gives way to where it ends, not to what is typed or passed on the way there.
    let back = null;
    input.addEventListener(input.type === "range" ? "pointerdown" : "focus", () => (back = remembered(rule)));
    input.addEventListener("input", () => {
      const value = input.valueAsNumber;
      if (!(value > 0 && value <= 1)) return;
      back?.();
      setLimit(rule, which, value);
      show();
      update();
    });
    input.addEventListener("blur", show);
  }
  const on = el("input", {
    type: "checkbox",
    checked: rule.on,
    disabled: rule.taught === false,
    onchange: () => {
      rule.on = on.checked;
      show();
      update();
    },
  });
  const of = (type) => inputs.filter(({ input }) => input.type === type).map(({ input }) => input);
  const element = el("li", { class: "rule" },
    el("label", { class: "name", title: definition }, on, el("span", {}, name)),
    known
      ? [el("div", { class: "track" }, of("range")), el("div", { class: "numbers" }, of("number"))]
      : el("span", { class: "note" }, rule.own ? "the reasoner's alone" : "not in this bundle"),
  );
  show();
  return { element };
}

// For pointers; from the keyboard the numbers do the same in fewer stops.
function slider(name, which) {
  const label = `${name}: ${which} from (slider)`;
  return el("input", { type: "range", class: which, min: 0.01, max: 1, step: 0.01, tabindex: -1, "aria-label": label });
}

function number(name, which) {
  const label = `${name}: ${which} from`;
  return el("input", { type: "number", class: which, min: 0.01, max: 1, step: 0.01, inputmode: "decimal", "aria-label": label });
}

const short = (value) => String(Number(value.toFixed(2)) || Number(value.toFixed(4)));
