// The keyboard, and the theme button, which has a key too.

import { byId } from "./dom.js";
import { hideHint } from "./evidence.js";

const STORED = "tamis-single-keys";

/** Attach the shortcuts. Single keys work outside of fields, and may be switched off (WCAG 2.1.4). */
export function shortcuts({ judge, focus, mode, policy, edit }) {
  const apple = /Mac|iPhone|iPad/.test(navigator.platform);
  byId("judge-keys").textContent = apple ? "⌘↵" : "Ctrl ↵";
  for (const key of document.querySelectorAll("kbd.mod")) key.textContent = apple ? "⌘" : "Ctrl";

  const help = byId("shortcuts");
  const single = byId("single-keys");
  single.checked = read(STORED) !== "off";
  single.addEventListener("change", () => write(STORED, single.checked ? "on" : "off"));
  byId("help").addEventListener("click", () => help.showModal());
  const theme = () => named(window.tamisTheme.next());
  named(window.tamisTheme.current);
  byId("theme").addEventListener("click", theme);

  const keys = { "/": focus, p: policy, e: edit, t: theme, "?": () => help.showModal() };
  for (const n of [0, 1, 2, 3]) keys[n + 1] = () => mode(n);

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      hideHint();
      if (event.target.matches("textarea, input[type=number]")) event.target.blur();
      return;
    }
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      judge();
      return;
    }
    const typing = event.target.matches("textarea, select, input:not([type=checkbox], [type=radio], [type=range])");
    if (typing || !single.checked || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = Object.hasOwn(keys, event.key) && keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function named(theme) {
  const [sign, name] = { system: ["◐", "System"], light: ["○", "Light"], dark: ["●", "Dark"] }[theme];
  byId("theme").firstElementChild.textContent = sign;
  byId("theme").querySelector(".said").textContent = name;
  byId("theme").setAttribute("aria-label", `Theme: ${name}`);
}

function read(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Then it holds until the page is closed.
  }
}
