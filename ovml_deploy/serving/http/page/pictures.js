// The pictures: each goes to the server once, as it is, and comes back as features to be matched.

import { call } from "./api.js";
import { number } from "./words.js";

const AT_ONCE = 4; // uploads

/** A picture. It has `features` or an `error` once it was encoded, and `tags` once it was matched. */
export class Picture {
  constructor(file) {
    this.file = file;
    this.name = file.name || "picture";
    this.url = URL.createObjectURL(file);
    this.features = null;
    this.tags = null;
    this.error = null;
    this.times = null;
    this.roundTrip = 0;
    this.matchedFor = null; // the question that `tags` answer
    this.leaving = new AbortController();
  }
}

export class Pictures {
  /** `added`, `changed` and `removed` are called with a picture. */
  constructor(limits, { added, changed, removed }) {
    this.limits = limits;
    this.tell = { added, changed, removed };
    this.all = [];
    this.waiting = [];
    this.running = 0;
  }

  add(files) {
    for (const file of files) {
      const picture = new Picture(file);
      this.all.push(picture);
      this.waiting.push(picture);
      this.tell.added(picture);
    }
    this.next();
  }

  remove(picture) {
    this.all = this.all.filter((other) => other !== picture);
    this.waiting = this.waiting.filter((other) => other !== picture);
    picture.leaving.abort();
    URL.revokeObjectURL(picture.url);
    this.tell.removed(picture);
  }

  next() {
    while (this.running < AT_ONCE && this.waiting.length) {
      const picture = this.waiting.shift();
      this.running += 1;
      this.encode(picture).finally(() => {
        this.running -= 1;
        this.next();
      });
    }
  }

  async encode(picture) {
    try {
      const start = performance.now();
      const [found] = (await upload("v1/encode", picture, this.limits)).results;
      picture.roundTrip = performance.now() - start;
      picture.features = found.features;
      picture.times = found.times;
    } catch (error) {
      if (error.name === "AbortError") return;
      picture.error = error.message;
    }
    this.tell.changed(picture);
  }
}

/** Promise the answer to a picture's own bytes. */
export async function upload(path, picture, limits) {
  const { file } = picture;
  if (file.size > limits.body_bytes) {
    throw new Error(`This file has ${number(file.size)} bytes; the server reads ${number(limits.body_bytes)}.`);
  }
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  return call(path, { method: "POST", body: file, type, signal: picture.leaving.signal });
}
