// What went wrong, in the service's own words, and when it will be tried again.

import { byId, el } from "./dom.js";

const TITLES = {
  0: "No connection",
  401: "A key is needed",
  403: "This key may not",
  429: "The service is busy",
  503: "Not ready yet",
  504: "Too late",
};
// How soon to come back where the service does not say.
const PATIENCE = { 0: 5_000, 429: 2_000, 503: 1_000 };

/** Shows a refusal, counts down where coming back helps, and comes back. */
export class Problem {
  #again;
  #timer = null;

  /** @param {() => void} again what to do when the time has come, or the button is pressed. */
  constructor(again) {
    this.#again = again;
    addEventListener("online", () => this.#timer && this.#retry());
  }

  clear() {
    clearInterval(this.#timer);
    this.#timer = null;
    byId("problem").replaceChildren();
  }

  /** @param {Refusal} refusal */
  show(refusal) {
    this.clear();
    const wait = refusal.retryAfter ?? PATIENCE[refusal.status] ?? null;
    const count = el("p", { class: "note countdown", "aria-hidden": "true" });
    const retry = el("button", { type: "button", class: "quiet", onclick: () => this.#retry() }, "Try again now");
    byId("problem").replaceChildren(
      el("div", { class: "problem" },
        el("p", {}, el("strong", {}, TITLES[refusal.status] ?? "Not accepted")),
        el("p", {}, sentence(refusal.message)),
        refusal.param && el("p", { class: "note" }, "field ", el("code", {}, refusal.param)),
        wait !== null && el("div", { class: "bar" }, retry, count)),
    );
    if (wait === null) return;
    const until = performance.now() + wait;
    const tick = () => {
      const left = until - performance.now();
      if (left <= 0) this.#retry();
      else count.textContent = `or by itself in ${Math.ceil(left / 1000)} s`;
    };
    tick();
    this.#timer = setInterval(tick, 250);
  }

  #retry() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#again();
  }
}

/** A message as a sentence. */
export function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
