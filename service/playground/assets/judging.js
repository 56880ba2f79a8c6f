// When to ask, and which answer counts: always that of the last question.

import { Refusal } from "./api.js";

/** Asks after a pause in typing, one question at a time, and comes back by itself where told to. */
export class Judging {
  #ask;
  #tell;
  #asked = 0;
  #timer = null;
  #abort = null;

  /**
   * @param {(signal: AbortSignal) => Promise<any>} ask what to do to get an answer.
   * @param {{asking(), answer(any), refused(Refusal)}} tell whom to tell; never of a question that
   *   another has followed.
   */
  constructor(ask, tell) {
    this.#ask = ask;
    this.#tell = tell;
  }

  /** Ask in `delay` milliseconds, unless asked again before. */
  soon(delay) {
    this.stop();
    this.#timer = setTimeout(() => this.now(), delay);
  }

  /** Forget what is planned and what is under way. */
  stop() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
    this.#asked += 1;
  }

  /** Ask at once. */
  async now() {
    this.stop();
    const question = this.#asked;
    this.#abort = new AbortController();
    this.#tell.asking();
    try {
      const answer = await this.#ask(this.#abort.signal);
      if (question === this.#asked) this.#tell.answer(answer);
    } catch (error) {
      // An aborted request ends here as well, but then another question has been asked.
      if (question !== this.#asked) return;
      if (!(error instanceof Refusal)) throw error;
      this.#tell.refused(error);
    }
  }
}
