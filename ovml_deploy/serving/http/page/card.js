// A picture with its tags; a click on one shows which query answered, and where it looked.

import { drawHeat } from "./heat.js";

const template = document.getElementById("card");

export class Card {
  /** `queries`: features an image has. `look()` promises where each looked, null where nobody knows. */
  constructor(name, queries, { look, remove }) {
    this.element = template.content.firstElementChild.cloneNode(true);
    const part = (selector) => this.element.querySelector(selector);
    this.image = part("img");
    this.heat = part("canvas");
    this.rows = part(".tags").children;
    this.list = part(".tags");
    this.note = part(".note");
    this.times = part(".times");
    this.error = part(".error");
    this.queries = queries;
    this.look = look;
    this.tags = [];
    this.chosen = null; // the label whose query is shown
    this.image.alt = name;
    this.image.addEventListener("error", () => this.element.classList.add("unseen"));
    part(".unseen-name").textContent = name;
    part(".remove").setAttribute("aria-label", `Remove ${name}`);
    part(".remove").addEventListener("click", remove);
  }

  showError(text) {
    this.error.hidden = !text;
    this.error.textContent = text;
    this.element.classList.remove("waiting");
  }

  /** Show the server's `times` of an image and the round trip in milliseconds. */
  showTimes(times, roundTrip) {
    this.times.textContent =
      `decode ${ms(times.decode_ms)} · queue ${ms(times.queue_ms)} · engine ${ms(times.engine_ms)}\n` +
      `round trip ${ms(roundTrip)} ms`;
    this.times.title = `In a batch of ${times.batch}`;
    this.element.classList.remove("waiting");
  }

  /** Show tags. Rows stay where they are, so that bars move and the focus stays. */
  showTags(tags) {
    this.tags = tags;
    while (this.rows.length > tags.length) this.list.lastElementChild.remove();
    while (this.rows.length < tags.length) this.list.append(this.newRow(this.rows.length));
    tags.forEach((tag, index) => {
      const button = this.rows[index].firstElementChild;
      button.style.setProperty("--score", tag.score);
      button.children[0].textContent = tag.label;
      button.children[1].textContent = tag.score.toFixed(2);
    });
    this.mark();
  }

  newRow(index) {
    const [row, button] = [document.createElement("li"), document.createElement("button")];
    button.type = "button";
    button.className = "tag";
    button.append(document.createElement("span"), document.createElement("span"));
    button.addEventListener("click", () => {
      const { label } = this.tags[index];
      this.chosen = this.chosen === label ? null : label;
      this.mark();
    });
    row.append(button);
    return row;
  }

  // Say which query answered with the chosen label, and show where it looked.
  async mark() {
    const chosen = this.tags.find(({ label }) => label === this.chosen);
    this.tags.forEach((tag, index) => {
      this.rows[index].firstElementChild.setAttribute("aria-pressed", tag === chosen);
    });
    this.note.textContent = chosen ? this.sentence(chosen) : this.tags.length ? "" : "No word fits.";
    if (!chosen) {
      this.heat.hidden = true;
      return;
    }
    try {
      const grid = await this.look();
      if (this.tags.includes(chosen) && this.chosen === chosen.label && grid) {
        drawHeat(this.heat, grid, chosen.query);
      }
    } catch (error) {
      this.note.textContent = error.message;
    }
  }

  sentence({ label, logit, query }) {
    const which = this.queries > 1 ? `Query ${query + 1} of ${this.queries}` : "The only feature";
    return `${which} answered “${label}”, logit ${logit.toFixed(2)}.`;
  }
}

function ms(value) {
  return value.toFixed(value < 10 ? 1 : 0);
}
