// The words to tag with: a vocabulary of the server, by its name, or whatever stands in the box.

import { call } from "./api.js";

const OWN = "";

export class Words {
  /** `changed` is called at every edit, `fail` with an error; `limits` are the server's. */
  constructor(limits, { changed, fail }) {
    this.limits = limits;
    this.changed = changed;
    this.box = document.getElementById("labels");
    this.select = document.getElementById("vocabulary");
    this.entries = [];
    this.name = OWN;
    this.separator = /[\n,]/;
    this.box.addEventListener("input", () => this.edited());
    this.box.disabled = false;
    this.select.addEventListener("change", () => this.choose(this.select.value).catch(fail));
    document.getElementById("empty-words").addEventListener("click", () => {
      this.write([]);
      this.edited();
      this.box.focus();
    });
  }

  /** The words in the box, each once. */
  get labels() {
    const texts = this.box.value.split(this.separator).map((text) => text.trim());
    return [...new Set(texts)].filter(Boolean);
  }

  /** What a request asks with, or null where there is nothing to ask. */
  question() {
    if (this.name !== OWN) return { vocabulary: this.name };
    const labels = this.labels;
    return labels.length && labels.length <= this.limits.inline_labels ? { labels } : null;
  }

  /** What is wrong with the words, or nothing. */
  fault() {
    const most = this.limits.inline_labels;
    if (this.name !== OWN || this.labels.length <= most) return "";
    return `A request may bring ${number(most)} words; these are ${number(this.labels.length)}. ` +
      "Save them as a vocabulary, or clear the box and type your own.";
  }

  /** Read the server's vocabularies again. */
  async refresh() {
    this.entries = (await call("v1/vocabularies")).vocabularies;
    this.draw();
  }

  /** Use a vocabulary of the server; of none, the words that stand in the box. */
  async choose(name) {
    this.name = name;
    this.draw();
    this.changed();
    if (name === OWN) return;
    const { texts } = await call(`v1/vocabularies/${encodeURIComponent(name)}`);
    if (this.name === name) this.write(texts); // or the user was quicker
    this.draw();
  }

  edited() {
    this.name = OWN;
    if (!this.box.value.trim()) this.separator = /[\n,]/;
    this.draw();
    this.changed();
  }

  // Words that have commas themselves stand one a line.
  write(labels) {
    const lines = labels.some((label) => label.includes(","));
    this.separator = lines ? /\n/ : /[\n,]/;
    this.box.value = labels.join(lines ? "\n" : ", ");
    this.box.scrollTop = 0;
  }

  draw() {
    const options = [new Option("Your own words", OWN)];
    for (const entry of this.entries) {
      const facts = [`${number(entry.labels)} words`];
      if (entry.active) facts.push("active");
      if (entry.state !== "ready") facts.push(entry.state);
      const option = new Option(`${entry.name} (${facts.join(", ")})`, entry.name);
      option.disabled = entry.id === null;
      options.push(option);
    }
    this.select.replaceChildren(...options);
    this.select.value = this.name;
    const entry = this.entries.find(({ name }) => name === this.name);
    document.getElementById("count").textContent = number(entry ? entry.labels : this.labels.length);
    document.getElementById("labels-hint").textContent =
      this.separator.test(",") ? "Separated by commas, or one a line." : "One a line.";
  }
}

export function number(value) {
  return value.toLocaleString("en");
}
