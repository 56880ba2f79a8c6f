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
  #shown = null;
  #count = null;

  /** @param {() => void} again what to do when the time has come, or the button is pressed. */
  constructor(again) {
    this.#again = again;
    addEventListener("online", () => this.#timer && this.#retry());
  }

  clear() {
    this.#stop();
    this.#shown = null;
    this.#replace();
  }

  /** @param {Refusal} refusal */
  show(refusal) {
    this.#stop();
    const title = TITLES[refusal.status] ?? "Not accepted";
    const wait = refusal.retryAfter ?? PATIENCE[refusal.status] ?? null;
    const shown = JSON.stringify([title, refusal.message, refusal.param, wait !== null]);
    // Put there anew, the same would be read out again at every try.
    if (shown !== this.#shown) this.#draw(title, refusal, wait !== null);
    this.#shown = shown;
    if (wait !== null) this.#countDown(wait);
  }

  #draw(title, { message, param }, again) {
    this.#count = el("p", { class: "note countdown", "aria-hidden": "true" });
    const retry = el("button", { type: "button", class: "quiet", onclick: () => this.#retry() }, "Try again now");
    this.#replace(
      el("div", { class: "problem" },
        el("p", {}, el("strong", {}, title)),
        el("p", {}, sentence(message)),
        param && el("p", { class: "note" }, "field ", el("code", {}, param)),
        again && el("div", { class: "bar" }, retry, this.#count)),
    );
  }

  /** Whoever was at the button is at the next one, or where one asks again by hand. */
  #replace(...box) {
    const place = byId("problem");
    const inside = place.contains(document.activeElement);
    place.replaceChildren(...box);
    if (inside) (place.querySelector("button") ?? byId("judge")).focus();
  }

  #countDown(wait) {
    const until = performance.now() + wait;
    const tick = () => {
      const left = until - performance.now();
      if (left <= 0) this.#retry();
      else this.#count.textContent = `or by itself in ${Math.ceil(left / 1000)} s`;
    };
    tick();
    this.#timer = setInterval(tick, 250);
  }

  #stop() {
    clearInterval(this.#timer);
    this.#timer = null;
  }

  #retry() {
    this.#stop();
    this.#again();
  }
}

/** A message as a sentence. */
export function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
