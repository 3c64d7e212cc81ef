// Matches the pictures' features with the words: soon after each edit, and only the last edit counts.

import { ask } from "./api.js";

const QUIET = 150; // milliseconds without an edit
const OVERHEAD = 1 << 16; // bytes of a request beside features and words

export class Matching {
  /** `question()` is what to ask, or null; `show` is told of each answer, `fail` of an error, `done` of the end. */
  constructor(limits, { pictures, question, show, fail, done }) {
    this.limits = limits;
    this.pictures = pictures;
    this.question = question;
    this.tell = { show, fail, done };
    this.asked = null;
    this.current = null;
    this.timer = 0;
  }

  /** The words or options changed. */
  edited() {
    clearTimeout(this.timer);
    this.current?.abort();
    this.current = this.asked = null;
    this.timer = setTimeout(() => this.restart(), QUIET);
  }

  /** A picture has features now. */
  encoded() {
    if (this.asked && !this.current) this.run();
  }

  restart() {
    this.asked = this.question();
    if (this.asked) this.run();
    else this.tell.done();
  }

  async run() {
    const mine = (this.current = new AbortController());
    const { asked } = this;
    try {
      for (let batch; (batch = this.batch(asked)).length; ) {
        const features = batch.map((picture) => picture.features);
        const start = performance.now();
        const answer = await ask("v1/match", { ...asked, features }, { signal: mine.signal });
        const roundTrip = performance.now() - start;
        batch.forEach((picture, index) => {
          picture.tags = answer.results[index].tags;
          picture.matchedFor = asked;
        });
        this.tell.show(batch, answer.vocabulary, roundTrip);
      }
    } catch (error) {
      if (!mine.signal.aborted) this.tell.fail(error);
    } finally {
      if (this.current === mine) {
        this.current = null;
        this.tell.done();
      }
    }
  }

  // As many pictures as a request may bring.
  batch(asked) {
    const found = [];
    let room = this.limits.body_bytes - OVERHEAD - JSON.stringify(asked).length * 3;
    for (const picture of this.pictures()) {
      if (!picture.features || picture.matchedFor === asked) continue;
      room -= picture.features.data.length + 100;
      if (found.length && (room < 0 || found.length === this.limits.images)) break;
      found.push(picture);
    }
    return found;
  }
}
