// Server-sent events of an answer to a POST, which EventSource cannot send.
// HTML Living Standard, 9.2: Server-sent events.

/** Takes the stream's text as it comes, cut anywhere, and gives the events that are whole. */
export class Events {
  #rest = "";
  #afterReturn = false;
  #name = "";
  #data = [];

  /** @returns {{name: string, data: string}[]} the events that this piece of text completes. */
  push(text) {
    if (text === "") return [];
    // A line may end in CR LF, and the two may come apart.
    const fresh = this.#afterReturn && text.startsWith("\n") ? text.slice(1) : text;
    this.#afterReturn = text.endsWith("\r");
    const lines = (this.#rest + fresh).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter((event) => event !== null);
  }

  #line(line) {
    if (line === "") return this.#whole();
    const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
    if (field === "event") this.#name = value;
    else if (field === "data") this.#data.push(value);
    return null; // Comments (no field), ids and times to come back mean nothing here.
  }

  #whole() {
    const event = { name: this.#name || "message", data: this.#data.join("\n") };
    const empty = this.#data.length === 0;
    this.#name = "";
    this.#data = [];
    return empty ? null : event;
  }
}

/**
 * The events of a body of bytes; what is cut off at its end is none.
 *
 * @param {ReadableStream<Uint8Array>} body is cancelled where the caller stops listening.
 */
export async function* eventsOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // Keeps the first half of a character for its second.
  const events = new Events();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* events.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
