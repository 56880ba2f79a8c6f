// Live charts from /metrics, polled while somebody looks.

import { Refusal, call } from "./api.js";
import { Chart } from "./chart.js";
import { byId, el, milliseconds } from "./dom.js";
import { between, parse, quantile, snapshot } from "./metrics.js";

const EVERY = 2_000;
const SECONDS = 120;
// Quantiles are of the last ten seconds: two seconds of a quiet service are but a few requests.
const SPAN = 5;
const OUTCOMES = {
  ok: ["answered", "c1"],
  overloaded: ["refused, full", "c3"],
  invalid: ["invalid", "c4"],
  late: ["late", "c5"],
  gone: ["caller gone", "c6"],
  unavailable: ["not ready", "c2"],
  error: ["error", "c2"],
};

const rate = (value) => `${value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1)}/s`;
const whole = (value) => Math.round(value).toLocaleString("en");

/** Poll and draw; stops for good where the service does not offer metrics here. */
export class Live {
  #charts = {
    rate: new Chart({ title: "Requests", format: rate, seconds: SECONDS }),
    latency: new Chart({ title: "Time to answer", format: milliseconds, seconds: SECONDS }),
    queued: new Chart({ title: "Tokens waiting or running", format: whole, seconds: SECONDS }),
    inFlight: new Chart({ title: "Requests in flight", format: whole, seconds: SECONDS }),
  };
  #snapshots = [];
  #points = [];
  #timer = null;
  #stopped = false;
  #tell;

  /** @param {(reached: boolean) => void} tell whether the service could be reached, at each look. */
  constructor(tell) {
    this.#tell = tell;
  }

  start() {
    byId("charts").replaceChildren(...Object.values(this.#charts).map((chart) => chart.element));
    document.addEventListener("visibilitychange", () => this.#look());
    this.#look();
  }

  /** Begin again, as after a key was given. */
  again() {
    this.#stopped = false;
    this.#look();
  }

  #look() {
    clearTimeout(this.#timer);
    if (!document.hidden && !this.#stopped) this.#poll();
  }

  async #poll() {
    try {
      const { text } = await call("metrics");
      this.#add(snapshot(parse(text), Date.now()));
      this.#say(true, "all callers, last two minutes");
      this.#tell(true);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.#tell(error.status !== 0);
      if ([401, 403].includes(error.status)) this.#stop("Metrics need a key with the scope “metrics”.");
      else if (error.status === 404) this.#stop("Metrics are served on another port.");
      else this.#say(false, "No metrics at the moment.");
    }
    clearTimeout(this.#timer);
    if (!document.hidden && !this.#stopped) this.#timer = setTimeout(() => this.#poll(), EVERY);
  }

  #stop(why) {
    this.#stopped = true;
    this.#say(false, why);
  }

  #say(shown, note) {
    byId("live-note").textContent = note;
    byId("charts").hidden = !shown && !this.#points.length;
    byId("figures").hidden = !this.#points.length;
  }

  #add(now) {
    const last = this.#snapshots.at(-1);
    const step = last && between(last, now);
    // A pause (the page was hidden) or a restart: what came before is no baseline.
    if (!step || now.at - last.at > 3 * EVERY) this.#snapshots = [];
    this.#snapshots.push(now);
    this.#snapshots.splice(0, this.#snapshots.length - SPAN - 1);
    const recent = this.#snapshots.length > 1 ? between(this.#snapshots[0], now) : null;
    this.#points.push({
      at: now.at,
      rates: this.#snapshots.length > 1 ? step.rates : null,
      p50: recent && quantile(0.5, recent.buckets),
      p99: recent && quantile(0.99, recent.buckets),
      queued: now.queued,
      inFlight: Math.max(0, now.inFlight - 1), // Without the request that asks for this.
    });
    this.#points = this.#points.filter((point) => now.at - point.at <= SECONDS * 1000);
    this.#draw(now.at);
  }

  #draw(now) {
    const line = (name, colour, value) => ({
      name,
      colour,
      points: this.#points.map((point) => ({ at: point.at, value: value(point) })),
    });
    const seen = Object.keys(OUTCOMES).filter(
      (outcome) => outcome === "ok" || this.#points.some((point) => point.rates?.[outcome] > 0),
    );
    const { rate: rates, latency, queued, inFlight } = this.#charts;
    rates.draw(seen.map((o) => line(OUTCOMES[o][0], OUTCOMES[o][1], (p) => p.rates && (p.rates[o] ?? 0))), now);
    const ms = (seconds) => (seconds === null ? null : seconds * 1000);
    latency.draw([line("p50", "c1", (p) => ms(p.p50)), line("p99", "c3", (p) => ms(p.p99))], now);
    queued.draw([line("tokens", "c1", (p) => p.queued)], now);
    inFlight.draw([line("requests", "c1", (p) => p.inFlight)], now);
    if (byId("figures").open) this.#table();
  }

  #table() {
    const seconds = (at) => new Date(at).toLocaleTimeString();
    const row = (p) => [
      seconds(p.at),
      p.rates ? rate(Object.values(p.rates).reduce((a, b) => a + b, 0)) : "–",
      p.p50 === null ? "–" : milliseconds(p.p50 * 1000),
      p.p99 === null ? "–" : milliseconds(p.p99 * 1000),
      whole(p.queued),
      whole(p.inFlight),
    ];
    const [head, body] = byId("figures").querySelectorAll("thead, tbody");
    const names = ["Time", "Requests", "p50", "p99", "Tokens queued", "In flight"];
    head.replaceChildren(el("tr", {}, names.map((name) => el("th", { scope: "col" }, name))));
    const latest = this.#points.slice(-15).reverse();
    body.replaceChildren(...latest.map((p) => el("tr", {}, row(p).map((cell) => el("td", {}, cell)))));
  }
}
