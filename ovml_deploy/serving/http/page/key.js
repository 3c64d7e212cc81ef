// Asks the user for the API key.

const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
const reason = document.getElementById("key-why");

// What a header may hold.
const SENDABLE = /^[\x20-\x7e]+$/;

/** Promise the key that the user types; `why` the last one was refused. */
export function askForKey(why) {
  reason.textContent = why;
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", function closed() {
      const key = field.value.trim();
      if (!SENDABLE.test(key)) {
        if (key) reason.textContent = "A key has no such characters: only plain letters, digits and signs.";
        dialog.showModal(); // nothing works without it
        return;
      }
      dialog.removeEventListener("close", closed);
      resolve(key);
    });
  });
}
