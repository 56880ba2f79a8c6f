// What the charts need from Prometheus' text format.

const SAMPLE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*$/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };
// Routes whose requests are texts to judge, as the dashboard has them.
const MODERATED = new RegExp(
  "^(?:/moderate|/v1/moderations|/v1/chat/.+|/beta/.+|/portkey|/request|/response|" +
    "/ext-authz/.+|/api/v1/text/.+|/classify|/predict|/contentsafety/text:analyze|" +
    "/moderate/stream/.+|/v1alpha1/comments:analyze)$",
);

/** Samples of the exposition format by name: Map of `[{labels, value}]`. Other lines are skipped. */
export function parse(text) {
  const families = new Map();
  for (const line of text.split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const [, name, inside, value] = SAMPLE.exec(line) ?? [];
    if (!name) continue;
    const labels = {};
    for (const [, label, given] of (inside ?? "").matchAll(LABEL)) {
      labels[label] = given.replace(/\\[n"\\]/g, (escape) => ESCAPED[escape]);
    }
    if (!families.has(name)) families.set(name, []);
    families.get(name).push({ labels, value: number(value) });
  }
  return families;
}

/**
 * One moment of the service: requests by outcome and buckets of the answered ones, both counted
 * since the process began, and how much it holds right now.
 */
export function snapshot(families, at) {
  const of = (name) => (families.get(name) ?? []).filter((s) => MODERATED.test(s.labels.route ?? ""));
  const outcomes = {};
  for (const { labels, value } of of("tamis_request_duration_seconds_count")) {
    outcomes[labels.outcome] = (outcomes[labels.outcome] ?? 0) + value;
  }
  const buckets = new Map();
  for (const { labels, value } of of("tamis_request_duration_seconds_bucket")) {
    if (labels.outcome !== "ok") continue;
    const bound = number(labels.le);
    buckets.set(bound, (buckets.get(bound) ?? 0) + value);
  }
  const gauge = (name) => (families.get(name) ?? []).reduce((sum, s) => sum + s.value, 0);
  return {
    at,
    outcomes,
    buckets,
    queued: gauge("tamis_queued_tokens"),
    inFlight: gauge("tamis_requests_in_flight"),
  };
}

/** What happened between two snapshots; null where a counter fell, as after a restart. */
export function between(before, after) {
  const seconds = (after.at - before.at) / 1000;
  const names = new Set([...Object.keys(before.outcomes), ...Object.keys(after.outcomes)]);
  const rates = {};
  for (const name of names) {
    const more = (after.outcomes[name] ?? 0) - (before.outcomes[name] ?? 0);
    if (more < 0) return null;
    rates[name] = more / seconds;
  }
  const buckets = [...after.buckets]
    .map(([bound, count]) => ({ bound, count: count - (before.buckets.get(bound) ?? 0) }))
    .sort((a, b) => a.bound - b.bound);
  if (buckets.some((bucket) => bucket.count < 0)) return null;
  return { rates, buckets };
}

/**
 * The quantile of cumulative buckets, by linear interpolation within one as histogram_quantile does.
 *
 * Null where nothing was counted; the highest finite bound where the quantile lies above it.
 */
export function quantile(q, buckets) {
  const total = buckets.at(-1)?.count ?? 0;
  if (!total) return null;
  const rank = q * total;
  const at = buckets.findIndex((bucket) => bucket.count >= rank);
  const { bound, count } = buckets[at];
  if (bound === Infinity) return buckets[at - 1]?.bound ?? null;
  const below = at ? buckets[at - 1] : { bound: 0, count: 0 };
  if (count === below.count) return bound;
  return below.bound + ((bound - below.bound) * (rank - below.count)) / (count - below.count);
}

function number(text) {
  if (text === "+Inf") return Infinity;
  return text === "-Inf" ? -Infinity : Number(text);
}
