// Building and finding elements. Text is always text: nothing here parses HTML.

/** The element of that id. */
export const byId = (id) => document.getElementById(id);

/**
 * An element with attributes and children.
 *
 * `on…` attributes are listeners, `class` and everything else attributes; `true` is an attribute
 * without a value, `false`, null and undefined are none. Children may be nested, null or strings.
 */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** Custom properties of an element, through the CSSOM since the policy forbids style attributes. */
export function styled(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
  return element;
}

/** A number of milliseconds for people. */
export const milliseconds = (ms) =>
  ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms >= 100 ? ms.toFixed(0) : ms.toFixed(1)} ms`;

/** A button that copies what `text()` gives, and says so. */
export function copyButton(label, text, attributes = {}) {
  const said = el("span", { class: "said" }, label);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      said.textContent = "Copied";
    } catch {
      said.textContent = "Not allowed to copy";
    }
    setTimeout(() => (said.textContent = label), 1600);
  };
  return el("button", { type: "button", class: "quiet", ...attributes, onclick: copy }, said);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}
