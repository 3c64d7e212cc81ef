// Asks the user for the API key.

const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");

/** Promise the key that the user types; `why` the last one was refused. */
export function askForKey(why) {
  document.getElementById("key-why").textContent = why;
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", function closed() {
      if (!field.value.trim()) {
        dialog.showModal(); // nothing works without it
        return;
      }
      dialog.removeEventListener("close", closed);
      resolve(field.value.trim());
    });
  });
}
