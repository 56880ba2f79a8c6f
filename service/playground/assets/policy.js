// Policies as the page edits them. A draft is a policy in which every category of the service has a
// rule, switched on or off, with the thresholds that hold for it.

/** The questions that the items of a mode ask, the first one first. */
export const QUESTIONS = {
  prompt: ["prompt"],
  exchange: ["prompt", "response"],
  conversation: ["prompt", "response"],
  post: ["toxicity"],
};

/** The categories of policies, but those of their own. */
export const namesOf = (policies) => [
  ...new Set(policies.flatMap((p) => Object.keys(p.categories).filter((name) => !p.own?.includes(name)))),
];

/**
 * A draft of a policy, as GET /policies describes it.
 *
 * @param policies all policies offered: they lend rules for what this one leaves out.
 * @param question whose overall thresholds to show; a policy's own may be the same for all.
 */
export function draftOf(policy, policies, question) {
  const others = [policy, ...policies];
  const names = [...new Set([...namesOf(policies), ...Object.keys(policy.categories)])];
  const overall = others.find((p) => p.overall)?.overall[question] ?? { flag: 0.5, block: 0.9 };
  const categories = {};
  for (const name of names) {
    const lender = others.find((p) => p.categories[name]);
    const rule = lender.categories[name];
    const own = policy.own?.includes(name) ?? false;
    const defined = own || (lender.defined?.includes(name) ?? false);
    categories[name] = { ...rule, on: name in policy.categories, taught: rule.flag !== null, own, defined };
  }
  return { base: policy, overall: { ...overall, on: policy.overall !== null, edited: false }, categories };
}

/** Whether a draft decides differently from the policy it began as. */
export function isEdited({ base, overall, categories }) {
  if (overall.on !== (base.overall !== null) || (overall.on && overall.edited)) return true;
  return Object.entries(categories).some(([name, rule]) => {
    const own = base.categories[name];
    if (rule.on !== Boolean(own)) return true;
    return rule.on && (rule.flag !== own.flag || rule.block !== own.block);
  });
}

/** Whether a draft asks anything at all; a policy must. */
export const asksSomething = ({ overall, categories }) =>
  overall.on || Object.values(categories).some((rule) => rule.on);

/** Set one threshold of a rule and let the other one give way: flag never exceeds block. */
export function setLimit(rule, which, value) {
  const before = { flag: rule.flag, block: rule.block };
  rule[which] = Math.min(1, Math.max(0.0001, value));
  if (which === "flag") rule.block = Math.max(rule.block, rule.flag);
  else rule.flag = Math.min(rule.flag, rule.block);
  rule.edited = { ...rule.edited, [which]: true };
  for (const each of ["flag", "block"]) if (rule[each] !== before[each]) rule.edited[each] = true;
}

/** The way back to a rule's thresholds as they are now. */
export function remembered(rule) {
  const { flag, block, edited } = rule;
  return () => Object.assign(rule, { flag, block, edited });
}

/** The draft as a policy that a request can carry. */
export function written({ base, overall, categories }) {
  const out = { name: `${base.name}-edited` };
  if (base.description) out.description = base.description;
  if (base.mode !== "enforce") out.mode = base.mode;
  if (base.sensitivity !== "balanced") out.sensitivity = base.sensitivity;
  if (base.severity.borderline !== "allow") out.severity = base.severity;
  if (base.judge) out.judge = base.judge;
  if (base.mask) out.mask = base.mask;
  if (base.deadline_ms) out.deadline_ms = base.deadline_ms;
  if (overall.on) out.overall = overall.edited || !base.overall ? limits(overall) : shared(base.overall);
  out.categories = {};
  for (const [name, rule] of Object.entries(categories)) {
    if (!rule.on) continue;
    // The taxonomy's definition stays its own to improve.
    const said = rule.defined ? { definition: rule.definition } : {};
    // What nobody set stays the bundle's: another one may judge, and has thresholds of its own.
    const set = { ...rule.given };
    for (const which of ["flag", "block"]) if (rule.edited?.[which]) set[which] = rule[which];
    out.categories[name] = rule.taught ? { ...said, ...set } : said;
  }
  return out;
}

/** The draft as a policy for the folder of policies, which may have another one on trial. */
export const filed = (draft) =>
  draft.base.shadow ? { ...written(draft), shadow: draft.base.shadow } : written(draft);

/** The thresholds in force for a draft, shaped like a policy of GET /policies. */
export function inForce(draft) {
  const { base, overall, categories } = draft;
  const edited = { flag: overall.flag, block: overall.block };
  const on = Object.entries(categories).filter(([, rule]) => rule.on);
  return {
    overall: !overall.on
      ? null
      : base.overall && !overall.edited
        ? base.overall
        : { prompt: edited, response: edited, toxicity: edited },
    categories: Object.fromEntries(on),
  };
}

/** Whether two thresholds are one: verdicts say them in four digits. */
export const sameThreshold = (one, other) => Math.abs(one - other) < 1e-4;

/**
 * The thresholds that an answer was judged by: `{overall: {flag, block} | null, categories}`.
 *
 * Of several contents the verdict gives the score and the flag threshold of one, without saying of
 * which; where that leaves the block threshold open, it is null.
 */
export function limitsOf(policy, verdict, questions) {
  if (!policy.overall || verdict.threshold === null) return { overall: null, categories: policy.categories };
  const asked = questions
    .map((question) => policy.overall[question])
    .filter(({ flag }) => sameThreshold(flag, verdict.threshold));
  const blocks = new Set(asked.map(({ block }) => block));
  const block = blocks.size === 1 ? asked[0].block : null;
  return { overall: { flag: verdict.threshold, block }, categories: policy.categories };
}

/** A written policy as a YAML file for the folder of policies. */
export function yaml(policy) {
  const lines = [];
  for (const [field, value] of Object.entries(policy)) {
    if (field !== "categories") lines.push(`${field}: ${flow(value)}`);
  }
  const rules = Object.entries(policy.categories).map(([name, rule]) => `  ${scalar(name)}: ${flow(rule)}`);
  return [...lines, rules.length ? "categories:" : "categories: {}", ...rules, ""].join("\n");
}

/** What an overall rule must have said for its thresholds to be these: those that all questions share. */
function shared(overall) {
  const out = {};
  for (const which of ["flag", "block"]) {
    const values = new Set(Object.values(overall).map((rule) => rule[which]));
    if (values.size === 1) [out[which]] = values;
  }
  return out;
}

function limits({ flag, block }) {
  return { flag, block };
}

/** On one line, whatever it holds. */
function flow(value) {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  if (typeof value !== "object") return scalar(value);
  return `{${Object.entries(value).map(([name, one]) => `${name}: ${flow(one)}`).join(", ")}}`;
}

// What JSON leaves as it is, and YAML refuses, or reads as the end of a line.
const UNPRINTABLE = /[\x7f-\x9f\u2028\u2029\ufffe\uffff]/g;
const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** Plain where YAML cannot mistake it for anything else, or else quoted as JSON does. */
function scalar(value) {
  if (typeof value !== "string") return String(value);
  const plain = /^[A-Za-z][\w-]*$/.test(value) && !/^(true|false|null|yes|no|on|off|y|n)$/i.test(value);
  return plain ? value : JSON.stringify(value).replace(UNPRINTABLE, escaped);
}
