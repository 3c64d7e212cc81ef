// Saves the words in the box as a vocabulary of the server: embedded there, then activated.

import { call, pause } from "./api.js";
import { number } from "./words.js";

const OFTEN = 250; // milliseconds between looks at its progress

/** Make the form save; `words` is what stands in the box, and shows what was saved. */
export function saveForm(words) {
  const form = document.getElementById("save-form");
  const status = document.getElementById("save-status");
  const progress = document.getElementById("save-progress");
  const button = form.querySelector("button");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    status.className = "";
    try {
      const name = document.getElementById("name").value;
      const entry = await put(name, words.labels, ({ done, total }) => {
        progress.hidden = false;
        progress.max = total;
        progress.value = done;
        status.textContent = `Embedding: ${number(done)} of ${number(total)} words`;
      });
      const activate = document.getElementById("activate").checked;
      if (activate) await call(`v1/vocabularies/${name}/activate`, { method: "POST" });
      await words.refresh();
      await words.choose(name);
      status.textContent = `Saved as ${name}, version ${entry.version}${activate ? ", and active" : ""}.`;
    } catch (error) {
      status.className = "error";
      status.textContent = error.message;
    } finally {
      progress.hidden = true;
      button.disabled = false;
    }
  });
}

async function put(name, labels, show) {
  const path = `v1/vocabularies/${name}`;
  const body = JSON.stringify({ labels });
  let entry = await call(path, { method: "PUT", body, type: "application/json" });
  while (entry.state === "embedding") {
    show(entry);
    await pause(OFTEN);
    const { vocabularies } = await call("v1/vocabularies"); // without all the words
    const found = vocabularies.find((other) => other.name === name);
    if (!found) throw new Error("Somebody deleted it meanwhile.");
    entry = found;
  }
  if (entry.state === "failed") throw new Error(entry.error);
  return entry;
}
