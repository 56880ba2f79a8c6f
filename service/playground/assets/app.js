// The page: an item and a policy go in, a verdict comes out.

import { Refusal, call, parsed, storeKey, storedKey } from "./api.js";
import { byId, el } from "./dom.js";
import { editor } from "./editor.js";
import { hideHint } from "./evidence.js";
import { EXAMPLES } from "./examples.js";
import { list } from "./explain.js";
import { feedbackForm, takesFeedback } from "./feedback.js";
import { Input, MODE_NAMES, textsOf } from "./input.js";
import { Judging } from "./judging.js";
import { Live } from "./live.js";
import { QUESTIONS, asksSomething, draftOf, inForce, isEdited, limitsOf, namesOf, written } from "./policy.js";
import { Problem } from "./problem.js";
import { Reasons } from "./reasons.js";
import { shortcuts } from "./shortcuts.js";
import { spoken, verdictView } from "./verdict.js";

const TYPING_PAUSE = 250;
const DRAGGING_PAUSE = 120;
// A longer text takes the service more than 0.2 s on two cores (262,144 characters take 5 s).
const LONGEST_LIVE = 10_000;

const empty = [...byId("verdict").childNodes];
const live = new Live((reached) => {
  // Only where that is news.
  if (reached === (byId("status").dataset.state === "gone")) waitUntilReady();
});
const state = { policies: [], draft: null, edits: null, judged: null, reasons: null, question: null };

const input = new Input(() => typed());
const judging = new Judging(ask, {
  asking() {
    state.reasons?.stop();
    verdictCard().setAttribute("aria-busy", "true");
  },
  answer(judged) {
    settled();
    state.judged = judged;
    ready(judged.verdict.model);
    show(judged);
  },
  refused(refusal) {
    verdictCard().setAttribute("aria-busy", "false");
    problem.show(refusal);
    input.blame(refusal.param);
    if (refusal.status === 0) status("gone", "cannot be reached");
    if (refusal.status === 401) askForKey(storedKey() !== null);
  },
});
const problem = new Problem(() => judging.now());

async function ask(signal) {
  const item = input.item();
  const questions = input.judge ?? QUESTIONS[input.mode];
  // Until the policies are known, the key's own: whichever were named would stand in its place.
  const named = state.draft ? byId("policy").value : undefined;
  const policy = isEditing() ? written(state.draft) : named;
  const limits = state.draft && inForce(state.draft);
  const body = { input: item, policy, explain: "evidence" };
  if (input.judge) body.judge = input.judge;
  const { text, ms } = await call("moderate", { body, signal });
  const verdict = parsed(text);
  return {
    verdict,
    limits: limits && limitsOf(limits, verdict, questions),
    texts: textsOf(item),
    body,
    ms,
  };
}

function typed() {
  state.reasons?.stop();
  const item = input.item();
  const length = textsOf(item).reduce((sum, { text }) => sum + text.length, 0);
  const asTyped = byId("live-typing").checked;
  byId("long").hidden = !asTyped || length <= LONGEST_LIVE;
  const question = QUESTIONS[input.mode][0];
  // To another question an overall rule that nobody touched has other thresholds.
  if (state.draft && question !== state.question && !isEdited(state.draft)) choose(byId("policy").value);
  if (item === null) {
    judging.stop();
    settled();
    byId("verdict").replaceChildren(...empty);
    byId("announce").textContent = "";
    state.judged = null;
    byId("stale").hidden = true;
    return;
  }
  if (asTyped && length <= LONGEST_LIVE && canAsk()) {
    judging.soon(TYPING_PAUSE);
    return;
  }
  judging.stop();
  settled();
  const asked = (body) => JSON.stringify([body.input, body.judge ?? null]);
  byId("stale").hidden = !state.judged || asked({ input: item, judge: input.judge }) === asked(state.judged.body);
}

function settled() {
  problem.clear();
  input.blame(null);
  verdictCard().setAttribute("aria-busy", "false");
}

function show(judged) {
  hideHint();
  byId("stale").hidden = true;
  const open = new Set([...byId("verdict").querySelectorAll("details[open]")].map((details) => details.className));
  state.reasons = new Reasons(judged.body);
  byId("verdict").replaceChildren(...verdictView(judged, state.reasons.element).filter(Boolean));
  for (const details of byId("verdict").querySelectorAll("details")) details.open = open.has(details.className);
  byId("announce").textContent = spoken(judged.verdict);
  showScores();
  takesFeedback().then((does) => {
    if (!does || state.judged !== judged || !judged.verdict.windows) return;
    byId("verdict").append(feedbackForm(judged, namesOf(state.policies)));
  });
}

function showScores() {
  const verdict = state.judged?.verdict;
  const found = new Map();
  if (verdict) {
    found.set("overall", verdict.score);
    for (const [name, { score }] of Object.entries(verdict.categories)) found.set(name, score);
    if (verdict.attack) found.set("attack", verdict.attack.score);
  }
  state.edits?.scores(found);
}

// Policies

const isEditing = () => state.draft !== null && isEdited(state.draft);
const canAsk = () => input.item() !== null && (state.draft === null || asksSomething(state.draft));

async function loadPolicies() {
  try {
    const { text } = await call("policies");
    const { default: usual, policies } = parsed(text);
    state.policies = policies;
    // Another key may have come in the middle of an edit.
    const kept = policies.find(({ name }) => name === state.draft?.base.name);
    const chosen = kept?.name ?? usual;
    byId("policy").replaceChildren(
      ...policies.map(({ name }) => el("option", { value: name, selected: name === chosen }, name)),
    );
    byId("edit").disabled = false;
    if (!kept) choose(usual);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 401) askForKey(storedKey() !== null);
    else if (error.status === 403) byId("policy-note").textContent = "This key may not ask for policies.";
    else setTimeout(loadPolicies, 2_000);
  }
}

/** Take up a policy as it is offered; edits of another one are gone. */
function choose(name) {
  const policy = state.policies.find((p) => p.name === name);
  if (!policy) return;
  state.question = QUESTIONS[input.mode][0];
  state.draft = draftOf(policy, state.policies, state.question);
  const about = [policy.description];
  if (policy.mode === "score") about.push("It only scores: nothing is flagged or blocked.");
  if (policy.sensitivity !== "balanced") about.push(`Its sensitivity is ${policy.sensitivity}.`);
  if (policy.severity.borderline !== "allow") about.push(`What is borderline it ${policy.severity.borderline}s.`);
  if (policy.judge?.length === 1) about.push(`It judges the ${policy.judge[0]} alone.`);
  if (policy.mask) about.push(`It masks ${list([...policy.mask.pii, ...(policy.mask.evidence ? ["evidence"] : [])])}.`);
  if (policy.shadow) about.push(`“${policy.shadow}” is on trial beside it.`);
  if (policy.own?.length) {
    const scored = policy.own.some((own) => policy.categories[own].flag !== null);
    about.push(`It has categories of its own, which ${scored ? "the policy encoder" : "the reasoner alone"} judges.`);
  }
  byId("policy-note").textContent = about.filter(Boolean).join(" ");
  drawEditor();
  edited();
}

function drawEditor() {
  state.edits = editor(byId("editor"), state.draft, drafted, () => {
    choose(byId("policy").value);
    byId("edit").focus();
    if (canAsk()) judging.now();
  });
  showScores();
}

/** The draft has changed: its verdict is wanted, where it asks anything. */
function drafted() {
  edited();
  if (canAsk()) {
    judging.soon(DRAGGING_PAUSE);
    return;
  }
  judging.stop();
  settled();
}

function edited() {
  byId("edited").hidden = !isEdited(state.draft);
}

function openEditor(open) {
  byId("editor").hidden = !open;
  byId("edit").setAttribute("aria-expanded", String(open));
  byId("edit").textContent = open ? "Done" : "Edit";
}

// Keys and readiness

function askForKey(wrong) {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  byId("key-problem").textContent = wrong ? "The service does not know the key you gave." : "";
  byId("key").value = "";
  dialog.showModal();
}

function status(name, text) {
  byId("status").dataset.state = name;
  byId("status").querySelector(".said").textContent = text;
}

function ready(model) {
  status("ready", model);
}

async function waitUntilReady() {
  try {
    const { text } = await call("health/ready");
    ready(parsed(text).model);
    return;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 0) {
      status("gone", "cannot be reached");
      return; // The charts notice when it is back.
    }
    status("waiting", "loading");
  }
  setTimeout(waitUntilReady, 1_000);
}

const verdictCard = () => byId("verdict").closest(".card");

// Wiring

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (canAsk()) judging.now();
  else input.focus();
});
byId("live-typing").addEventListener("change", typed);
byId("policy").addEventListener("change", () => {
  choose(byId("policy").value);
  if (canAsk()) judging.now();
});
byId("edit").disabled = true;
byId("edit").addEventListener("click", () => openEditor(byId("editor").hidden));
byId("key-form").addEventListener("submit", () => {
  const key = byId("key").value.trim();
  if (!key) return;
  storeKey(key);
  loadPolicies();
  live.again();
  if (canAsk()) judging.now();
});
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("ask").querySelector(".examples").append(
  ...EXAMPLES.map((example) =>
    el("button", { type: "button", class: "chip", onclick: () => (input.fill(example), judging.now()) }, example.name)),
);
shortcuts({
  judge: () => byId("ask").requestSubmit(),
  focus: () => input.focus(),
  mode: (n) => (input.mode = MODE_NAMES[n]),
  policy: () => byId("policy").focus(),
  edit: () => byId("edit").disabled || (byId("edit").click(), byId("edit").focus()),
});
input.start();
waitUntilReady();
loadPolicies();
live.start();
