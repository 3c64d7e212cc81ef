// How many tags, and of what score.

const topK = document.getElementById("top-k");
const threshold = document.getElementById("threshold");

/** What the sliders say, as the server takes it. */
export function options() {
  const chosen = { top_k: Number(topK.value) };
  if (Number(threshold.value) >= 0) chosen.threshold = Number(threshold.value);
  return chosen;
}

/** Call `changed` whenever a slider moves. */
export function onOptions(changed) {
  for (const slider of [topK, threshold]) {
    slider.addEventListener("input", () => {
      draw();
      changed();
    });
  }
  draw(); // browsers keep what stood there before a reload
}

function draw() {
  const value = Number(threshold.value);
  const text = value < 0 ? "auto" : value.toFixed(2);
  document.getElementById("top-k-value").textContent = topK.value;
  document.getElementById("threshold-value").textContent = text;
  threshold.setAttribute("aria-valuetext", text);
}
