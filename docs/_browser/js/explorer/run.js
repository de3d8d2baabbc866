// One run: its states and predictions, and their images as they are decoded.

import { linearPreview, rmsDifference } from "../../shared/js/explorer/preview.js";

export const IMAGES = ["x", "x0_uncond", "x0_cond", "x0"];

/** The run of a request. Position k is the state after k steps; at the end, the predictions are the last ones. */
export class Run {
  constructor(request, manifest) {
    Object.assign(this, { request, manifest });
    this.width = manifest.latents.width;
    this.height = manifest.latents.height;
    this.states = [];
    this.predictions = [];
    this.milliseconds = [];
    this.decoded = new Map(); // "x0 3" -> {rgba, width, height}
    this.image = null;
  }

  /** Take over an event of `Model.generate`. */
  receive(event) {
    if (event.kind === "start") {
      Object.assign(this, { sigmas: event.sigmas, timesteps: event.timesteps, texts: event.texts });
      this.states = [event.x];
    } else if (event.kind === "step") {
      this.predictions.push({ x0: event.x0, x0_uncond: event.uncond, x0_cond: event.cond });
      this.states.push(event.next);
      this.milliseconds.push(event.milliseconds);
    } else if (event.kind === "image") {
      this.image = event;
      this.decoded.set(`x ${this.steps}`, event);
    }
  }

  get steps() {
    return this.sigmas.length - 1;
  }

  /** The last position that is there. */
  get last() {
    return this.states.length - 1;
  }

  /** Return {values, scale}: an array of latents, and the factor that makes it variance-preserving. */
  latents(name, k) {
    if (name === "x") return { values: this.states[k], scale: 1 / Math.hypot(1, this.sigmas[k]) };
    const at = Math.min(k, this.predictions.length - 1);
    return { values: this.predictions[at]?.[name], scale: 1 };
  }

  /** The key of the decoded image of an array: the predictions at the end are those of the last step. */
  key(name, k) {
    return name === "x" ? `x ${k}` : `${name} ${Math.min(k, this.predictions.length - 1)}`;
  }

  /** Return the linear preview as RGBA bytes. */
  preview(name, k) {
    const { values, scale } = this.latents(name, k);
    const { matrix, bias } = this.manifest.preview;
    return linearPreview(values, this.width * this.height, matrix, bias, scale);
  }

  /** Return the root mean square of the change that the prompt makes, for each step. */
  promptChange() {
    return this.predictions.map(({ x0_cond: cond, x0_uncond: uncond }) => rmsDifference(cond, uncond));
  }

  /** Return the median time of a step in milliseconds. */
  medianTime() {
    const sorted = this.milliseconds.toSorted((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? NaN;
  }
}
