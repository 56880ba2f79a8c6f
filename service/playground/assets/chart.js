// A small line chart: time to the right, values upwards, lines that may have gaps.

import { el, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 96;

/** A round number at or above `value`: 1, 2 or 5 times a power of ten. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= value * 0.999999);
}

export class Chart {
  /** @param {{title: string, format(number): string, seconds: number}} options */
  constructor({ title, format, seconds }) {
    this.format = format;
    this.seconds = seconds;
    this.legend = el("ul", { class: "legend" });
    this.top = el("span", { class: "axis", "aria-hidden": "true" });
    this.plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.title = title;
    this.element = el("figure", { class: "chart" },
      el("figcaption", {}, title), el("div", { class: "plot" }, this.top, this.plot), this.legend);
    this.draw([], 0);
  }

  /**
   * Draw lines, newest at the right edge.
   *
   * @param {{name: string, colour: string, points: {at: number, value: number | null}[]}[]} lines with
   *   times in milliseconds; null is a gap. `colour` is a class of the stylesheet.
   * @param {number} now the time at the right edge.
   */
  draw(lines, now) {
    const values = lines.flatMap(({ points }) => points.map((p) => p.value ?? 0));
    const most = ceiling(Math.max(0, ...values));
    const x = (at) => WIDTH * (1 - (now - at) / 1000 / this.seconds);
    const y = (value) => HEIGHT - 2 - (HEIGHT - 8) * (value / most);
    this.plot.replaceChildren(
      ...[0.5, 1].map((share) => svg("path", { class: "grid", d: `M0 ${y(most * share)}H${WIDTH}` })),
      svg("path", { class: "ground", d: `M0 ${y(0)}H${WIDTH}` }),
      ...lines.map(({ colour, points }) => svg("path", { class: `line ${colour}`, d: path(points, x, y) })),
    );
    this.top.textContent = this.format(most).replace(/\.0(?=\D|$)/, "");
    this.legend.replaceChildren(
      ...lines.map(({ name, colour, points }) => {
        const last = points.at(-1)?.value ?? null;
        return el("li", {}, el("span", { class: `swatch ${colour}`, "aria-hidden": "true" }), name, " ",
          el("span", { class: "figure" }, last === null ? "–" : this.format(last)));
      }),
    );
    const said = lines.map(({ name, points }) => {
      const known = points.map((p) => p.value).filter((value) => value !== null);
      if (!known.length) return `${name}: nothing yet`;
      return `${name}: now ${points.at(-1).value === null ? "nothing" : this.format(points.at(-1).value)}, at most ${this.format(Math.max(...known))}`;
    });
    this.plot.setAttribute("aria-label", `${this.title}. ${said.join("; ") || "No data yet"}.`);
  }
}

function path(points, x, y) {
  let d = "";
  let pen = "M";
  for (const [n, { at, value }] of points.entries()) {
    if (value === null) {
      pen = "M";
      continue;
    }
    const alone = pen === "M" && (points[n + 1]?.value ?? null) === null;
    d += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}${alone ? "h.01" : ""}`;
    pen = "L";
  }
  return d || "M0 0";
}
