// What is to be judged: four shapes of an item, and the fields they are typed in.

import { byId, el } from "./dom.js";
import { codePoints } from "./spans.js";

const MODES = {
  prompt: { first: "Prompt", note: "A user’s request to a model." },
  exchange: { first: "Prompt", note: "The prompt is judged by itself, the response in its light." },
  conversation: { first: null, note: "The latest exchange is judged, in the light of what was said before: the last user turn, and what the assistant said to it." },
  post: { first: "Post", note: "A post or comment, addressed to people: is it toxic?" },
};
export const MODE_NAMES = Object.keys(MODES);

/** The form's fields. `changed` is called whenever the item may be another one. */
export class Input {
  #changed;

  constructor(changed) {
    this.#changed = changed;
    for (const radio of this.#radios) radio.addEventListener("change", () => this.#show());
    for (const id of ["first", "response"]) byId(id).addEventListener("input", () => this.#edited());
    byId("side").addEventListener("change", () => this.#edited());
    byId("add-turn").addEventListener("click", () => this.#add("", true));
  }

  /** Show the fields of the mode that the browser may have kept over a reload. */
  start() {
    this.#show();
  }

  get mode() {
    return this.#radios.find((radio) => radio.checked)?.value ?? "prompt";
  }

  set mode(mode) {
    this.#radios.find((radio) => radio.value === mode).checked = true;
    this.#show();
  }

  /** The sides of an exchange that alone are to be judged; null leaves that to the policy. */
  get judge() {
    const side = byId("side").value;
    return side && this.#hasSides ? [side] : null;
  }

  /** Fill the fields from an example. */
  fill({ mode, first, response = "" }) {
    byId("first").value = first;
    byId("response").value = response;
    byId("turns").replaceChildren();
    this.mode = mode;
  }

  /** Go to the first field. */
  focus() {
    (this.mode === "conversation" ? this.#turns[0].text : byId("first")).focus();
  }

  /** The item as /moderate takes it; null where there is nothing to judge. */
  item() {
    // Half a surrogate pair, which some keyboards leave for a moment, is not valid JSON.
    const text = (field) => field.value.toWellFormed();
    const [first, response] = [text(byId("first")), text(byId("response"))];
    switch (this.mode) {
      case "prompt":
        return first.trim() ? { prompt: first } : null;
      case "post":
        return first.trim() ? { text: first } : null;
      case "exchange":
        return first.trim() || response.trim() ? { prompt: first, response } : null;
      default: {
        const messages = this.#turns.map((t) => ({ role: t.role.value, content: text(t.text) }));
        return messages.some((m) => m.content.trim()) ? { messages } : null;
      }
    }
  }

  /** Mark the field that an error names (`input.prompt`, `input.messages[2].content`), or none. */
  blame(param) {
    const turn = /messages\[(\d+)\]/.exec(param ?? "");
    let at = null;
    if (turn) at = this.#turns[Number(turn[1])]?.text;
    else if (param?.startsWith("input")) at = byId(param.endsWith("response") ? "response" : "first");
    for (const field of byId("ask").querySelectorAll("textarea")) {
      if (field === at) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
  }

  get #hasSides() {
    return this.mode === "exchange" || this.mode === "conversation";
  }

  get #radios() {
    return [...byId("ask").elements.namedItem("mode")];
  }

  get #turns() {
    return [...byId("turns").children].map((turn) => ({
      turn,
      role: turn.querySelector("select"),
      text: turn.querySelector("textarea"),
    }));
  }

  #show() {
    const { first, note } = MODES[this.mode];
    const conversation = this.mode === "conversation";
    byId("first-field").hidden = conversation;
    byId("response-field").hidden = this.mode !== "exchange";
    byId("conversation-field").hidden = !conversation;
    byId("side-field").hidden = !this.#hasSides;
    byId("mode-note").textContent = note;
    if (!conversation) byId("first-label").textContent = first;
    else if (!this.#turns.length) {
      this.#add(byId("first").value);
      this.#add(byId("response").value);
    }
    this.#edited();
  }

  #add(content, focus = false) {
    const last = this.#turns.at(-1)?.role.value;
    const role = last === "user" ? "assistant" : "user";
    const select = el("select", { onchange: () => this.#edited() },
      ["user", "assistant", "system"].map((name) => el("option", { value: name, selected: name === role }, name)));
    const text = el("textarea", { rows: 2, spellcheck: "false", autocomplete: "off", oninput: () => this.#edited() });
    text.value = content;
    const remove = el("button", { type: "button", class: "quiet small", onclick: () => this.#remove(turn) }, "Remove");
    const turn = el("li", {}, el("div", { class: "row" }, select, remove), text);
    byId("turns").append(turn);
    this.#number();
    if (focus) text.focus();
    this.#edited();
  }

  #remove(turn) {
    const next = turn.nextElementSibling ?? turn.previousElementSibling;
    turn.remove();
    this.#number();
    (next?.querySelector("textarea") ?? byId("add-turn")).focus();
    this.#edited();
  }

  #number() {
    const turns = this.#turns;
    for (const [n, { turn, role, text }] of turns.entries()) {
      role.setAttribute("aria-label", `Role of turn ${n + 1}`);
      text.setAttribute("aria-label", `Turn ${n + 1}`);
      const remove = turn.querySelector("button");
      remove.setAttribute("aria-label", `Remove turn ${n + 1}`);
      remove.hidden = turns.length === 1;
    }
  }

  #edited() {
    this.blame(null);
    const item = this.item();
    const count = textsOf(item).reduce((sum, { text }) => sum + codePoints(text), 0);
    byId("count").textContent = count ? `${count.toLocaleString("en")} ${count === 1 ? "character" : "characters"}` : "";
    this.#changed();
  }
}

/** The texts of an item, named as the evidence names their fields. */
export function textsOf(item) {
  if (item === null) return [];
  if (item.messages) {
    return item.messages.map(({ role, content }, n) => ({
      field: `messages[${n}].content`,
      label: `Turn ${n + 1}, ${role}`,
      text: content,
    }));
  }
  const labels = { prompt: "Prompt", response: "Response", text: "Post" };
  return Object.entries(item).map(([field, text]) => ({ field, label: labels[field], text }));
}
