// A run: the numbers of a record, by step. Position k of 0 ... n is the state after k steps, so
// position 0 is noise and position n the end. The predictions at position k are those of the step
// that starts there; the end shows those of the last step again.

import { linearPreview } from "./preview.js";

export class Run {
  constructor(record, details = {}) {
    this.record = record;
    this.meta = record.meta;
    this.details = details;
    const [n, channels, height, width] = record.tensors.x0.shape;
    Object.assign(this, { n, channels, height, width });
    this.pixels = height * width;
    this.matrix = record.tensors.preview_matrix.data;
    this.bias = record.tensors.preview_bias.data;
    this.sigmas = record.tensors.sigmas.data;
    this.words = (this.meta.words ?? []).map((word) => word.text);
  }

  has(name) {
    return name in this.record.tensors;
  }

  // The part of a tensor that belongs to index i of its first axis.
  slice(name, i) {
    const { shape, data } = this.record.tensors[name];
    const size = data.length / shape[0];
    return data.subarray(i * size, (i + 1) * size);
  }

  // The step whose predictions belong to position k.
  stepOf(k) {
    return Math.min(k, this.n - 1);
  }

  // The latents that `name` (x, x0, x0_uncond, x0_cond) has at position k, and the factor that
  // brings them to the scale of the preview: x is divided by sqrt(1 + sigma^2).
  latents(name, k) {
    if (name === "x") {
      return { values: this.slice("x", k), scale: 1 / Math.hypot(1, this.sigmas[k]) };
    }
    return { values: this.slice(name, this.stepOf(k)), scale: 1 };
  }

  preview(name, k) {
    const { values, scale } = this.latents(name, k);
    return linearPreview(values, this.pixels, this.matrix, this.bias, scale);
  }

  alphaBar(k) {
    return this.meta.alpha_bar[k];
  }

  snr(k) {
    return this.meta.snr[k] ?? Infinity;
  }

  // The timestep at which the network is evaluated at position k, null at the end.
  timestep(k) {
    return k < this.n ? this.meta.timesteps[k] : null;
  }

  // The attention map of a word at position k: {values, width, height, mean, scale}, where scale is
  // the word's largest share in the whole run.
  wordMap(word, k) {
    if (!this.has("attention")) {
      return null;
    }
    const [steps, words, height, width] = this.record.tensors.attention.shape;
    const size = height * width;
    const at = (step) => this.record.tensors.attention.data.subarray((step * words + word) * size, (step * words + word + 1) * size);
    const values = at(this.stepOf(k));
    this.wordScales ??= [];
    this.wordScales[word] ??= Math.max(...Array.from({ length: steps }, (_, step) => at(step).reduce((a, b) => Math.max(a, b), 0)));
    const mean = values.reduce((a, b) => a + b, 0) / size;
    return { values, width, height, mean, scale: this.wordScales[word] };
  }

  // The position whose noise level is nearest to sigma, by the logarithm; 0 belongs to the end.
  nearest(sigma) {
    const distance = (level) => Math.abs(Math.log(Math.max(level, 1e-6)) - Math.log(Math.max(sigma, 1e-6)));
    let best = 0;
    this.sigmas.forEach((level, k) => {
      if (distance(level) < distance(this.sigmas[best])) {
        best = k;
      }
    });
    return best;
  }

  // The number of steps that this run shares with the one it branched from.
  get shared() {
    return this.meta.branch ? this.meta.branch.step : 0;
  }

  // The truth line: {distance, local}, from the record or computed later; null without one.
  get truth() {
    if (this.computedTruth) {
      return this.computedTruth;
    }
    if (!this.has("truth_distance")) {
      return null;
    }
    const { truth_distance: distance, local_error: local } = this.record.tensors;
    return { distance: distance.data, local: local ? local.data : null };
  }
}
