// Decoded images of a run: those of the shown step first, then the guided prediction of every step.

import { IMAGES } from "./run.js";

/** Decode in the background; `onImage(run, key)` is called when an image is there. */
export class Decoding {
  constructor(client, onImage) {
    Object.assign(this, { client, onImage, run: null, wanted: [], busy: false });
  }

  /** Ask for the images of position k of a run, before anything else that waits. */
  request(run, k) {
    const shown = IMAGES.map((name) => ({ name, k }));
    const all = run.predictions.map((_, i) => ({ name: "x0", k: i }));
    this.run = run;
    this.wanted = [...shown, ...all];
    this.work();
  }

  /** Forget everything that waits. */
  stop() {
    this.wanted = [];
  }

  async work() {
    if (this.busy) return;
    this.busy = true;
    while (this.wanted.length > 0) {
      const { name, k } = this.wanted.shift();
      const { run } = this;
      const { values, scale } = run.latents(name, k);
      const key = run.key(name, k);
      if (values && !run.decoded.has(key)) {
        const image = await this.client.decode(values.map((value) => scale * value)).promise;
        run.decoded.set(key, image);
        this.onImage(run, key);
      }
    }
    this.busy = false;
  }
}
