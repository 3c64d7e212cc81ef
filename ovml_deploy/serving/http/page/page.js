// Puts the page together: words and pictures in, tags out.

import { call, onKeyNeeded } from "./api.js";
import { Camera } from "./camera.js";
import { Card } from "./card.js";
import { readGrid } from "./heat.js";
import { askForKey } from "./key.js";
import { Matching } from "./matching.js";
import { onOptions, options } from "./options.js";
import { Pictures, upload } from "./pictures.js";
import { saveForm } from "./save.js";
import { onPictures } from "./take.js";
import { Words, number } from "./words.js";

const element = (id) => document.getElementById(id);

function showError(id, text) {
  element(id).textContent = text;
  element(id).hidden = !text;
}

/** Promise the pictures, once the server has said what it is. */
async function start() {
  onKeyNeeded(askForKey);
  const model = await call("v1/model");
  element("model").textContent = [model.name, model.head, model.engine].join(" · ");

  const { limits } = model;
  const cards = new Map();
  const ask = () => {
    const words = page.words.question();
    return words && { ...words, ...options() };
  };
  const edited = () => {
    showError("words-error", page.words.fault());
    element("results").classList.toggle("stale", ask() === null);
    element("results").ariaBusy = "true";
    page.matching.edited();
  };
  const failed = (error) => {
    element("results").classList.add("stale");
    showError("words-error", error.message);
  };
  const page = {
    words: new Words(limits, { changed: edited, fail: failed }),
    matching: new Matching(limits, {
      pictures: () => page.pictures.all,
      question: ask,
      show(matched, vocabulary, roundTrip) {
        element("results").classList.remove("stale");
        showError("words-error", "");
        for (const picture of matched) cards.get(picture)?.showTags(picture.tags);
        const pictures = matched.length === 1 ? "1 picture" : `${number(matched.length)} pictures`;
        const words = vocabulary.labels === 1 ? "1 word" : `${number(vocabulary.labels)} words`;
        element("status").textContent = `${pictures}, ${words}: matched in ${roundTrip.toFixed(0)} ms`;
      },
      fail: failed,
      done() {
        element("results").ariaBusy = "false";
      },
    }),
    pictures: new Pictures(limits, {
      added(picture) {
        const card = new Card(picture.name, model.features[0], {
          look: () => attention(picture),
          remove: () => page.pictures.remove(picture),
        });
        card.image.src = picture.url;
        card.element.classList.add("waiting");
        cards.set(picture, card);
        element("pictures").append(card.element);
        count();
      },
      changed(picture) {
        const card = cards.get(picture);
        if (picture.error) card.showError(picture.error);
        else card.showTimes(picture.times, picture.roundTrip);
        page.matching.encoded();
      },
      removed(picture) {
        cards.get(picture).element.remove();
        cards.delete(picture);
        count();
      },
    }),
  };

  function count() {
    document.body.classList.toggle("empty", cards.size === 0);
    element("remove-all").hidden = cards.size < 2;
    if (cards.size === 0) element("status").textContent = "";
  }

  // Asked for once a picture, and only where the engine can tell.
  async function attention(picture) {
    if (!model.attention) return null;
    picture.attention ??= upload("v1/attention", picture, limits).then(({ results }) => readGrid(results[0].grid));
    picture.attention.catch(() => {
      picture.attention = null; // the next click asks again
    });
    return picture.attention;
  }

  count();
  onOptions(edited);
  element("remove-all").addEventListener("click", () => [...page.pictures.all].forEach((p) => page.pictures.remove(p)));
  saveForm(page.words);
  new Camera(model, {
    question: ask,
    keep: (file) => page.pictures.add([file]),
    complain: (text) => showError("page-error", text),
  });
  await page.words.refresh();
  const active = page.words.entries.find((entry) => entry.active);
  if (active && !page.words.labels.length) page.words.choose(active.name).catch(failed); // or words were typed
  return page.pictures;
}

const started = start();
started.catch((error) => showError("page-error", error.message));
onPictures(async (files) => (await started).add(files)); // perhaps before the key is given
