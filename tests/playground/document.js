// Enough of a document to run the page under Node: elements, events that bubble, focus, and the
// selectors that the page looks by. Nothing is laid out or painted.

const ALONE = new Set(["meta", "link", "input", "br"]);
const FLAGS = ["hidden", "disabled", "checked", "selected", "open"];
const TEXTS = ["id", "type", "name", "value"];

class Element {
  constructor(tag) {
    Object.assign(this, { localName: tag, parentNode: null, childNodes: [], dataset: {}, given: {}, said: new Map(), heard: [] });
    this.style = { setProperty() {} };
    this.classList = { toggle() {} };
  }

  // Tree

  get children() {
    return this.childNodes.filter((node) => node instanceof Element);
  }

  get firstElementChild() {
    return this.children[0] ?? null;
  }

  get descendants() {
    return this.children.flatMap((child) => [child, ...child.descendants]);
  }

  get textContent() {
    return this.childNodes.map((node) => node.textContent ?? node).join("");
  }

  set textContent(text) {
    this.replaceChildren(text);
  }

  append(...nodes) {
    for (const node of nodes) if (node instanceof Element) node.parentNode = this;
    this.childNodes.push(...nodes);
  }

  replaceChildren(...nodes) {
    if (this !== document.activeElement && this.contains(document.activeElement)) document.activeElement = document.body;
    this.childNodes = [];
    this.append(...nodes);
  }

  contains(node) {
    return node === this || this.descendants.includes(node);
  }

  // Looking

  matches(selector) {
    return selector.split(",").some((one) => {
      const [, tag, rest] = /^([\w-]*)(.*)$/.exec(one.trim());
      const parts = rest.match(/[.#[][\w-]+/g) ?? [];
      return (!tag || tag === this.localName) && parts.every((part) => this.#has(part[0], part.slice(1)));
    });
  }

  #has(sign, name) {
    if (sign === "#") return this.id === name;
    if (sign === "[") return FLAGS.includes(name) ? this[name] : this.said.has(name);
    return (this.said.get("class") ?? "").split(" ").includes(name);
  }

  querySelectorAll(selector) {
    return this.descendants.filter((node) => node.matches(selector));
  }

  querySelector(selector) {
    return this.querySelectorAll(selector)[0] ?? null;
  }

  closest(selector) {
    return this.matches(selector) ? this : this.parentNode.closest(selector);
  }

  get elements() {
    return { namedItem: (name) => this.descendants.filter((node) => node.name === name) };
  }

  // State

  setAttribute(name, value) {
    this.said.set(name, String(value));
  }

  removeAttribute(name) {
    this.said.delete(name);
  }

  get valueAsNumber() {
    return Number.parseFloat(this.value);
  }

  // Events

  addEventListener(name, listener) {
    this.heard.push([name, listener]);
  }

  dispatch(name) {
    const event = { type: name, target: this, preventDefault() {} };
    for (let node = this; node; node = node.parentNode) {
      for (const [heard, listener] of node.heard) if (heard === name) listener(event);
    }
  }

  focus() {
    document.activeElement = this;
    this.dispatch("focus");
  }

  click() {
    this.dispatch("click");
  }

  /** As somebody types or picks it. */
  enter(value) {
    if (typeof value === "boolean") this.checked = value;
    else this.value = value;
    this.dispatch("input");
    this.dispatch("change");
  }
}

for (const name of FLAGS) {
  Object.defineProperty(Element.prototype, name, {
    get() {
      return this.given[name] ?? this.said.has(name);
    },
    set(value) {
      this.given[name] = Boolean(value);
    },
  });
}
for (const name of TEXTS) {
  Object.defineProperty(Element.prototype, name, {
    get() {
      if (name !== "value" || this.localName !== "select") return this.given[name] ?? this.said.get(name) ?? "";
      const options = this.querySelectorAll("option");
      return (options.find((option) => option.selected) ?? options[0]).value;
    },
    set(value) {
      if (this.localName !== "select") this.given[name] = String(value);
      else for (const option of this.querySelectorAll("option")) option.selected = option.value === value;
    },
  });
}

/** A document that holds this page. */
export function documentOf(html) {
  const root = new Element("document");
  let at = root;
  for (const [, end, tag, attributes, alone, text] of html.matchAll(/<(\/?)([a-z]\w*)((?:\s+[\w-]+(?:="[^"]*")?)*)\s*(\/?)>|([^<]+)/gi)) {
    if (text) at.append(text);
    else if (end) at = at.parentNode;
    else {
      const element = new Element(tag);
      for (const [, name, value] of attributes.matchAll(/([\w-]+)(?:="([^"]*)")?/g)) element.setAttribute(name, value ?? "");
      at.append(element);
      if (!alone && !ALONE.has(tag)) at = element;
    }
  }
  return Object.assign(root, {
    hidden: true, // So that nothing is polled.
    baseURI: "http://localhost/",
    body: root.querySelector("body"),
    activeElement: root.querySelector("body"),
    createElement: (tag) => new Element(tag),
    createElementNS: (_, tag) => new Element(tag),
    getElementById: (id) => root.querySelector(`#${id}`),
  });
}
