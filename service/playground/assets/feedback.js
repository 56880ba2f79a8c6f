// "This is wrong": a correction of one verdict, kept by the service to learn from.

import { Refusal, call } from "./api.js";
import { el } from "./dom.js";

// Answers to questions of their own; every other category says what something unsafe is about.
const APART = new Set(["toxicity", "attack"]);
let offered = null;

/** Whether the service takes corrections; asked of its own description, until that has said so. */
export async function takesFeedback() {
  if (offered === null) {
    try {
      const { text } = await call("openapi.json");
      offered = "/feedback" in JSON.parse(text).paths;
    } catch {
      return false; // For now: the connection may have been lost. The next verdict asks again.
    }
  }
  return offered;
}

/**
 * The form that corrects a verdict.
 *
 * @param {{verdict, body}} judged the answer and the request it answered.
 * @param {string[]} categories all that the service knows.
 */
export function feedbackForm({ verdict, body }, categories) {
  const item = body.input;
  const two = "response" in item || "messages" in item;
  // The response where one was judged: the answer says of each whether it declines.
  const meant = Object.values(verdict.fields).some((field) => "refusal" in field) ? "response" : "prompt";
  const prompt = !("text" in item);
  const check = (name, value, label) =>
    el("label", { class: "switch" }, el("input", { type: "checkbox", name, value }), el("span", {}, label));
  const radio = (name, value, label, checked) =>
    el("label", { class: "switch" }, el("input", { type: "radio", name, value, checked, required: true }), el("span", {}, label));

  const about = el("fieldset", { hidden: true },
    el("legend", { class: "note" }, "About (leave empty where unsure)"),
    el("div", { class: "choices" }, categories.filter((c) => !APART.has(c)).map((c) => check("categories", c, c))));
  const more = el("fieldset", { hidden: !prompt || (two && meant !== "prompt") },
    el("legend", { class: "note" }, "The prompt is also"),
    el("div", { class: "choices" }, check("attack", "yes", "an attack on the model"), check("toxicity", "yes", "rude")));
  const answer = el("p", { class: "note", role: "status" });
  const send = el("button", { class: "primary" }, "Send correction");

  const form = el("form", { class: "correction", onchange: () => {
    const given = new FormData(form);
    about.hidden = given.get("label") !== "unsafe";
    more.hidden = !prompt || (two && given.get("field") !== "prompt");
  } },
    two && el("fieldset", {},
      el("legend", { class: "note" }, "What is meant"),
      el("div", { class: "choices" }, radio("field", "prompt", "the prompt", meant === "prompt"), radio("field", "response", "the response", meant === "response"))),
    el("fieldset", {},
      el("legend", { class: "note" }, "In truth it is"),
      el("div", { class: "choices" }, radio("label", "safe", "safe"), radio("label", "unsafe", "unsafe"))),
    about, more,
    el("div", { class: "field" },
      el("label", { for: "comment" }, "Comment"),
      el("textarea", { id: "comment", name: "comment", rows: 2, maxlength: 2000 })),
    el("p", { class: "note" }, "Unlike everything else on this page, this is kept: the service stores the text with your answer, to learn from."),
    el("div", { class: "bar" }, send, answer));

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = new FormData(form);
    const correction = { id: verdict.id, input: item, label: given.get("label") };
    if (two) correction.field = given.get("field");
    if (!about.hidden) correction.categories = given.getAll("categories");
    if (!more.hidden) for (const name of APART) if (given.has(name)) correction[name] = true;
    if (given.get("comment").trim()) correction.comment = given.get("comment").trim();
    if (typeof body.policy === "string") correction.policy = body.policy;
    send.disabled = true;
    try {
      await call("feedback", { body: correction });
      form.replaceChildren(el("p", { role: "status", tabindex: "-1" }, "Thank you. The correction is kept."));
      form.firstElementChild.focus();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.status === 404) {
        offered = false;
        form.replaceChildren(el("p", { class: "note", role: "status" }, "This service keeps no corrections."));
        return;
      }
      send.disabled = false;
      answer.textContent = error.message;
    }
  });
  return el("details", { class: "feedback" }, el("summary", {}, "This is wrong"), form);
}
