// @ts-check
// What remains of the picture that a run starts from, at the chosen strength and before it is run: the
// server encodes the picture, adds the noise of the first step, and decodes the sum.

import { fill, h } from "./dom.js";
import { jobBody } from "./jobs.js";
import { sayError, whenBack } from "./notify.js";

const WAIT = 300; // milliseconds from a change to the request
const SEED = 0; // of the noise, if the form has none
// What does not change the start, or makes several images.
const LEFT_OUT = ["count", "batch_size", "negative_prompt", "seed"];

export class Remains {
  /** `view` has api, form, mode, and modelName(), undefined for the first model. */
  constructor(view) {
    this.view = view;
    this.controller = null;
    this.address = "";
    this.image = h("img", { alt: "", hidden: true });
    this.text = h("p", { class: "small soft numbers", role: "status" });
    this.element = h(
      "details",
      { class: "remains" },
      h("summary", {}, "What remains of the picture"),
      h("div", { class: "remains-content" }, this.image, this.text),
    );
    this.element.addEventListener("toggle", () => (this.element.open ? this.refresh(0) : this.stop()));
  }

  /** Show the preview below the strength, if the mode has one. */
  show() {
    this.stop();
    this.view.form.rows.get("strength")?.element.append(this.element);
    this.refresh();
  }

  /** Compute it again, soon, because a setting has changed. */
  refresh(wait = WAIT) {
    clearTimeout(this.timer);
    if (this.element.open && this.element.isConnected) this.timer = setTimeout(() => this.compute(), wait);
  }

  stop() {
    clearTimeout(this.timer);
    this.controller?.abort();
  }

  async compute() {
    this.stop();
    const controller = new AbortController();
    this.controller = controller;
    const { api, form } = this.view;
    const missing = [...form.rows.values()].find(({ field, control }) => field.required && control.file && !control.isGiven());
    if (missing) {
      this.say(`Choose the ${missing.field.label.toLowerCase()} first.`);
      return;
    }
    if (form.hasWrongTexts()) {
      this.say("A setting is wrong.");
      return;
    }
    try {
      const body = await this.makeBody();
      const job = await api.submit({ ...body, attended: true }, controller.signal);
      controller.signal.addEventListener("abort", () => api.cancel(job.id).catch(() => {}), { once: true });
      const waits = ({ position }) => position && this.text.replaceChildren("Waiting for the server");
      const ended = await api.events(job, { queued: waits }, controller.signal);
      if (ended.state !== "done") throw ended.error ?? new Error("it was cancelled");
      const blob = await api.blob(ended.files[0].url);
      if (controller.signal.aborted) return;
      this.showImage(blob, ended.data);
    } catch (error) {
      if (error.name !== "AbortError" && !controller.signal.aborted) this.tell(error);
    }
  }

  async makeBody() {
    const { form, mode } = this.view;
    const values = await form.values();
    const seed = [values.seed ?? SEED].flat()[0];
    for (const name of LEFT_OUT) delete values[name];
    return jobBody("noised", { mode, model: this.view.modelName(), values: { ...values, prompt: "", seed } });
  }

  showImage(blob, { share, noise, taken, steps }) {
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(blob);
    this.image.src = this.address;
    this.image.alt = "The picture with the noise from which the run starts";
    this.image.hidden = false;
    const from = `${share.toFixed(2)} × the picture + ${noise.toFixed(2)} × noise`;
    fill(this.text, taken ? `The run starts from ${from}, and takes ${taken} of ${steps} steps.` : "No step is taken: the picture stays as it is.");
  }

  tell(error) {
    this.image.hidden = true;
    sayError(this.text, error);
    if (error.offline) whenBack(() => this.refresh());
  }

  say(text) {
    this.image.hidden = true;
    fill(this.text, text);
  }
}
