// "Ask the reasoner why": what a small language model says of the same item under the same policy.

import { Refusal, stream } from "./api.js";
import { el } from "./dom.js";
import { sentence } from "./problem.js";

// Where there is no whole reason.
const WANTING = {
  ok: "The overall score alone found it: no category has a score, so there is nothing to give a reason of.",
  unfinished: "The reason grew longer than the service allows, and was cut off.",
  late: "Time was over before the reason was written.",
};

/**
 * An explanation for the page.
 *
 * @param {object?} explanation as the service gives it; null of an item without text.
 * @param {string} streamed the reason as it came in.
 * @returns {{facts: [string, string][], reason: string, note: string?}}
 */
export function told(explanation, streamed) {
  if (explanation === null) return { facts: [], reason: "", note: "There was nothing to read." };
  const { status, safety, category, probability, agrees, reason, fault } = explanation;
  if (status === "malformed" && safety === null) {
    const why = fault ? ` (${fault.replaceAll("_", " ")})` : "";
    return { facts: [], reason: "", note: `The reasoner did not answer in the form that was asked for${why}, so nothing is taken from it.` };
  }
  const facts = [
    ["safety", safety],
    ["category", category ?? "none"],
    ["probability", `${probability.toFixed(2)} that it is unsafe`],
  ];
  // Null where the verdict is not the reasoner's own, or is nobody else's to compare with.
  if (agrees !== null) facts.push(["classifier", agrees ? "says the same" : "says otherwise"]);
  if (reason !== null) return { facts, reason, note: null };
  if (status === "malformed") return { facts, reason: "", note: "What the reasoner wrote is no reason, so nothing is taken from it." };
  return { facts, reason: streamed.trim() && `${streamed.trim()} …`, note: WANTING[status] ?? null };
}

/** The button below a verdict, and what comes of it. */
export class Reasons {
  #body;
  #abort = null;
  #button = el("button", { type: "button", class: "quiet", onclick: () => this.#pressed() });
  // Read out once it is whole, not word by word.
  #said = el("div", { "aria-live": "polite", "aria-busy": "false" });
  /** To be put into the page. */
  element = el("div", { class: "why" }, this.#button, this.#said);

  /** @param {{input, policy, judge?}} body the request that the verdict answered. */
  constructor(body) {
    this.#body = { ...body, explain: "reason", stream: true };
    this.#rest("Ask the reasoner why");
  }

  /** Leave off; what is unfinished is gone. */
  stop() {
    if (this.#abort === null) return;
    this.#abort.abort();
    this.#say();
    this.#rest("Ask the reasoner why");
  }

  #pressed() {
    if (this.#abort === null) this.#ask();
    else this.stop();
  }

  async #ask() {
    const abort = new AbortController();
    this.#abort = abort;
    this.#button.textContent = "Stop";
    this.#said.setAttribute("aria-busy", "true");
    const note = el("p", { class: "note" }, "The reasoner is reading…");
    const reason = el("p", { class: "reason" });
    this.#say(note, reason);
    try {
      await this.#listen(abort.signal, (text) => {
        note.textContent = "The reasoner is writing…";
        reason.textContent = text.trim();
      });
    } catch (error) {
      if (abort.signal.aborted) return;
      if (!(error instanceof Refusal)) throw error;
      this.#say(el("p", { class: "note" }, el("strong", {}, title(error)), " ", sentence(error.message)));
    }
    if (!abort.signal.aborted) this.#rest("Ask again");
  }

  async #listen(signal, writing) {
    let text = "";
    for await (const { name, data } of stream("moderate", { body: this.#body, signal })) {
      if (name === "reason") writing((text += data.text));
      if (name !== "explanation") continue;
      this.#show(told(data, text));
      return;
    }
    throw new Refusal(0, { message: "the answer broke off" });
  }

  #show({ facts, reason, note }) {
    this.#say(
      reason && el("p", { class: "reason" }, reason),
      note && el("p", { class: "note" }, note),
      facts.length > 0 && el("dl", { class: "facts" },
        facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
      facts.length > 0 && el("p", { class: "note" }, "Written by a small language model beside the classifier; it decides nothing, and can be wrong."));
  }

  #say(...content) {
    this.#said.replaceChildren(...content.filter(Boolean));
  }

  #rest(label) {
    this.#abort = null;
    this.#button.textContent = label;
    this.#said.setAttribute("aria-busy", "false");
  }
}

const title = ({ code }) =>
  code === "reasoner_not_ready" ? "The reasoner is not ready." : "There is no explanation.";
