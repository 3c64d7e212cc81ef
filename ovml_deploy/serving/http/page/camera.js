// Tags what the camera sees, one frame after the other; a frame can be kept as a picture.

import { ask, pause } from "./api.js";
import { Card } from "./card.js";

const LONGEST = 640; // pixels of a frame's long side; the model looks at fewer
const QUALITY = 0.85;
const REST = 500; // milliseconds, where there is nothing to ask or an error

export class Camera {
  /** `question()` is what to ask, or null; `keep` gets a frame's JPEG; `complain` a text, or none. */
  constructor(model, { question, keep, complain }) {
    this.model = model;
    this.question = question;
    this.keep = keep;
    this.complain = complain;
    this.facing = "environment";
    this.stream = null;
    this.button = document.getElementById("camera");
    this.place = document.getElementById("live");
    this.video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
    this.canvas = document.createElement("canvas");
    this.button.addEventListener("click", () => (this.stream ? this.stop() : this.start()));
    addEventListener("pagehide", () => this.stop());
  }

  async start() {
    if (!navigator.mediaDevices) {
      this.complain("A browser gives the camera only to pages that come over HTTPS or from localhost.");
      return;
    }
    this.complain("");
    this.button.disabled = true;
    try {
      const video = { facingMode: this.facing, width: { ideal: 1280 } };
      this.stream = await navigator.mediaDevices.getUserMedia({ video });
      this.video.srcObject = this.stream;
      await this.video.play();
      this.show();
      this.run(this.stream);
    } catch (error) {
      this.stop();
      this.complain(`The camera cannot be used: ${error.message}`);
    } finally {
      this.button.disabled = false;
    }
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.place.hidden = true;
    this.button.textContent = "Use the camera";
  }

  async turn() {
    this.facing = this.facing === "user" ? "environment" : "user";
    this.stop();
    await this.start();
  }

  show() {
    this.card = new Card("Camera", this.model.features[0], { look: async () => null, remove: () => this.stop() });
    this.card.image.replaceWith(this.video);
    const keep = button("Keep this frame", async () => {
      const stamp = new Date().toLocaleTimeString("en-GB").replaceAll(":", "-");
      this.keep(new File([await this.frame()], `camera ${stamp}.jpg`, { type: "image/jpeg" }));
    });
    const row = document.createElement("div");
    row.className = "toolbar";
    row.append(keep, button("Switch camera", () => this.turn()));
    this.card.element.querySelector(".found").prepend(row);
    this.place.replaceChildren(this.card.element);
    this.place.hidden = false;
    this.button.textContent = "Stop the camera";
  }

  async run(stream) {
    while (this.stream === stream) {
      const question = this.question();
      if (!question || document.hidden) {
        await pause(REST);
        continue;
      }
      try {
        const image = await base64(await this.frame());
        const start = performance.now();
        const [found] = (await ask("v1/tag", { ...question, images: [image] })).results;
        if (this.stream !== stream) return;
        if (found.error) throw new Error(found.error);
        this.card.showError("");
        this.card.showTags(found.tags);
        this.card.showTimes(found.times, performance.now() - start);
      } catch (error) {
        this.card.showError(error.message);
        await pause(REST);
      }
    }
  }

  frame() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, LONGEST / Math.max(width, height));
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/jpeg", QUALITY));
  }
}

function button(text, click) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.addEventListener("click", click);
  return made;
}

function base64(blob) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result)); // a data: URL, which the server reads
    reader.readAsDataURL(blob);
  });
}
