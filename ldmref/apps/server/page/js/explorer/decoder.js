// @ts-check
// Decoded images, which replace the linear previews when the source can decode.

import { debounce } from "./tools.js";

const DELAY = 160; // milliseconds without a move before the source is asked
const KEPT = 400; // decoded images

export class Decoder {
  constructor(source) {
    this.source = source;
    this.images = new Map(); // of each run: name and position -> ImageBitmap
    this.controller = null;
    this.ask = debounce(() => this.fetch(), DELAY);
  }

  /**
   * Call `show(name, image)` for each image of the run at position k, now or when it is decoded;
   * with `ask = false` only for those that are there.
   */
  request(run, k, show, ask = true) {
    const names = ["x", "x0_uncond", "x0_cond", "x0"].filter((name) => name !== run.onlyGuess && run.hasAt(name, k));
    const missing = names.filter((name) => {
      const image = this.find(run, name, k);
      if (image) show(name, image);
      return !image;
    });
    if (!ask || !this.source.decode || run.foreign || missing.length === 0) return;
    this.waiting ??= [];
    this.waiting.push({ run, k, missing, show });
    this.ask();
  }

  find(run, name, k) {
    const frame = run.frames?.[name]?.[name === "x" ? k : run.stepOf(k)];
    if (frame) return frame;
    return this.images.get(run)?.get(`${name} ${name === "x" ? k : run.stepOf(k)}`);
  }

  /** Drop what has not been asked yet: another step is shown now. */
  forget() {
    this.waiting = [];
    this.controller?.abort();
  }

  async fetch() {
    const waiting = this.waiting ?? [];
    this.waiting = [];
    const controller = new AbortController();
    this.controller = controller;
    for (const { run, k, missing, show } of waiting) {
      try {
        const latents = new Float32Array(missing.length * run.channels * run.pixels);
        missing.forEach((name, i) => {
          const { values, scale } = run.latents(name, k);
          latents.set(scale === 1 ? values : values.map((value) => value * scale), i * values.length);
        });
        const shape = [missing.length, run.channels, run.height, run.width];
        const images = await this.source.decode({ latents, shape, model: run.meta.model?.name ?? null, served: run.served }, controller.signal);
        missing.forEach((name, i) => this.keep(run, name, k, images[i]));
        if (!controller.signal.aborted) missing.forEach((name, i) => show(name, images[i]));
      } catch (error) {
        // The linear preview stays: a busy or absent server is no reason to interrupt.
        if (error.name !== "AbortError") console.info(`Not decoded: ${error.message}`);
        return;
      }
    }
  }

  keep(run, name, k, image) {
    if (!this.images.has(run)) this.images.set(run, new Map());
    const own = this.images.get(run);
    if (own.size >= KEPT) own.delete(own.keys().next().value);
    own.set(`${name} ${name === "x" ? k : run.stepOf(k)}`, image);
  }
}
