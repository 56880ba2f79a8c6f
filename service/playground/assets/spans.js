// Evidence comes in code points; JavaScript counts UTF-16 units, two for most emoji.

/** UTF-16 offsets of the given code point offsets, as a Map; what lies behind the end is the end. */
export function utf16Offsets(text, codePoints) {
  const wanted = [...new Set(codePoints)].sort((a, b) => a - b);
  const found = new Map();
  let unit = 0;
  let point = 0;
  for (const offset of wanted) {
    while (point < offset && unit < text.length) {
      unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
      point += 1;
    }
    found.set(offset, unit);
  }
  return found;
}

/** How many code points a text has: its length as the service counts it. */
export function codePoints(text) {
  let count = 0;
  for (let unit = 0; unit < text.length; count++) unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
  return count;
}

/** Cut a text where evidence begins or ends: `[{text, evidence: [those that cover it]}]`, in order. */
export function segments(text, evidence) {
  const units = utf16Offsets(text, [0, ...evidence.flatMap((e) => [e.start, e.end])]);
  const cuts = [...new Set([...units.values(), text.length])].sort((a, b) => a - b);
  const placed = evidence.map((e) => ({ from: units.get(e.start), to: units.get(e.end), evidence: e }));
  return cuts.slice(1).map((to, n) => ({
    text: text.slice(cuts[n], to),
    evidence: placed.filter((p) => p.from <= cuts[n] && p.to >= to).map((p) => p.evidence),
  }));
}
