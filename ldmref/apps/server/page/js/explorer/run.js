// @ts-check
// A run: the numbers of a record, by step. Position k of 0, ..., n is the state after k steps, so
// position 0 is noise and position n the end. The predictions at position k are those of the step
// that starts there; the end shows those of the last step again.

import { alphaOf } from "../recorded_trace.js";
import { fitPreview, largest, linearPreview, signedDifference } from "./preview.js";

const MOST = 2 ** 40; // the ratio that stands for noise alone

export class Run {
  /** @type {number} */ n;
  /** @type {number} */ channels;
  /** @type {number} */ height;
  /** @type {number} */ width;
  /** @type {number} */ pixels;
  /** @type {ArrayLike<number>} */ matrix;
  /** @type {ArrayLike<number>} */ bias;

  /**
   * `record` as `readRecord` returns it. `served` is the name of the model of a server that makes it,
   * null for the default; undefined: nobody here made it.
   */
  constructor(record, served = undefined) {
    this.record = record;
    this.served = served;
    this.meta = record.meta;
    const [n, channels, height, width] = record.tensors.x0.shape;
    Object.assign(this, { n, channels, height, width, pixels: height * width });
    this.sigmas = record.tensors.sigmas.data;
    this.levels = this.meta.levels ?? null; // {curve, signal, noise} by position, if the record has them
    this.readings = groupWords(this.meta.words ?? []);
    this.words = this.readings.flatMap(({ encoder, words }) => words.map((word) => (encoder ? `${word} (${encoder})` : word)));
    this.scales = new Map();
    this.foreign = false; // of a model that nobody here has
    this.frames = null; // {x, x0}: decoded images by position, if they came with the run
    this.setPreview();
  }

  setPreview() {
    const { preview_matrix: matrix, preview_bias: bias, image } = this.record.tensors;
    this.previewName = matrix && bias ? "linear preview" : "linear preview, fitted to this image";
    const latent = () => this.slice("x", this.n).map((value) => value / this.spread(this.n));
    const fitted = matrix && bias ? { matrix: matrix.data, bias: bias.data } : fitPreview(latent(), this.width, this.height, image);
    Object.assign(this, fitted);
  }

  has(name) {
    return name in this.record.tensors;
  }

  /** Whether a prediction was computed at position k: guidance may leave some out. */
  hasAt(name, k) {
    return this.has(name) && (name === "x" || !Number.isNaN(this.slice(name, this.stepOf(k))[0]));
  }

  /** Return the part of a tensor that belongs to index i of its first axis. */
  slice(name, i) {
    const { shape, data } = this.record.tensors[name];
    const size = data.length / shape[0];
    return data.subarray(i * size, (i + 1) * size);
  }

  /** Return the step whose predictions belong to position k. */
  stepOf(k) {
    return Math.min(k, this.n - 1);
  }

  /**
   * Return the latents of x, x0, x0_uncond, x0_cond or noise at position k, and the factor that
   * brings them to the scale of the preview: x = alpha x0 + sigma eps is divided by its spread. The
   * noise is x without alpha times the prediction, at the same scale, so it fades as the noise falls.
   */
  latents(name, k) {
    if (name === "noise") {
      const guess = this.slice("x0", this.stepOf(k));
      const alpha = this.alpha(k);
      return { values: this.slice("x", k).map((value, i) => value - alpha * guess[i]), scale: 1 / this.spread(k) };
    }
    if (name === "x") return { values: this.slice("x", k), scale: 1 / this.spread(k) };
    return { values: this.slice(name, this.stepOf(k)), scale: 1 };
  }

  /** Return the linear preview of latents, as RGBA bytes. */
  preview(name, k) {
    const { values, scale } = this.latents(name, k);
    return linearPreview(values, this.pixels, this.matrix, this.bias, scale);
  }

  /** Return the largest difference of two predictions in the whole run, in a part of the preview. */
  differenceScale(names, part) {
    return this.remember(`${names} ${part}`, () => {
      const ofStep = (k) => {
        const [a, b] = names.map((name) => this.slice(name, k));
        return largest(signedDifference(a, b, this.pixels, this.matrix, part));
      };
      const computed = Array.from({ length: this.n }, (_, k) => k).filter((k) => names.every((name) => this.hasAt(name, k)));
      return Math.max(0, ...computed.map(ofStep));
    });
  }

  /**
   * The only guess of a run without guidance, x0_cond or x0_uncond: x0 is the same picture, to half
   * a level of 255. Otherwise null.
   */
  get onlyGuess() {
    return this.remember("only guess", () => {
      const [name, another] = ["x0_cond", "x0_uncond"].filter((one) => this.has(one));
      if (name === undefined || another !== undefined) return null;
      const [used, guess] = [this.record.tensors.x0.data, this.record.tensors[name].data];
      const most = largest(used) / 510;
      return used.every((value, i) => Math.abs(value - guess[i]) <= most) ? name : null;
    });
  }

  /** Return how much the picture counts in the numbers of the state: 1, and on a flow 1 - sigma. */
  alpha(k) {
    return alphaOf(this.meta.path, this.sigmas[k]);
  }

  /** Return the standard deviation of the state's numbers, sqrt(alpha^2 + sigma^2), where those of the picture have 1. */
  spread(k) {
    return Math.hypot(this.alpha(k), this.sigmas[k]);
  }

  alphaBar(k) {
    return this.meta.alpha_bar[k];
  }

  /** Return the signal-to-noise ratio: infinity without noise, 0 without any of the picture. */
  snr(k) {
    return this.alpha(k) === 0 ? 0 : (this.meta.snr[k] ?? Infinity);
  }

  /** Return sigma / alpha, the same noise level on every path. */
  ratio(k) {
    return this.sigmas[k] / this.alpha(k);
  }

  /** Return the timestep at which the network is evaluated at position k, null at the end. */
  timestep(k) {
    return k < this.n ? this.meta.timesteps[k] : null;
  }

  /**
   * Return the attention map of a word at position k: {values, width, height, mean, scale}, where
   * scale is the word's largest share in the whole run.
   */
  wordMap(word, k) {
    const [, words, height, width] = this.record.tensors.attention.shape;
    const size = height * width;
    const at = (step) => this.slice("attention", step).subarray(word * size, (word + 1) * size);
    const values = at(this.stepOf(k));
    const scale = this.remember(`word ${word} of ${words}`, () =>
      Math.max(...Array.from({ length: this.n }, (_, step) => largest(at(step)))),
    );
    return { values, width, height, scale, mean: values.reduce((a, b) => a + b, 0) / size };
  }

  /** Return the position whose ratio of noise to picture is nearest to one, by the logarithm. */
  nearest(ratio) {
    const ratios = Array.from(this.sigmas, (_, k) => this.ratio(k));
    const floor = ratios.reduce((least, level) => (level > 0 ? Math.min(least, level) : least), 1) / 10;
    const log = (level) => Math.log(Math.min(Math.max(level, floor), MOST));
    let best = 0;
    ratios.forEach((level, k) => {
      if (Math.abs(log(level) - log(ratio)) < Math.abs(log(ratios[best]) - log(ratio))) best = k;
    });
    return best;
  }

  /** The number of steps that this run shares with the one it branched from. */
  get shared() {
    return this.meta.branch ? this.meta.branch.step : 0;
  }

  /** The truth line of the record, {distance, local, about}; null without one. */
  get truth() {
    if (!this.has("truth_distance")) return null;
    const { truth_distance: distance, local_error: local } = this.record.tensors;
    return { distance: distance.data, local: local ? local.data : null, about: this.meta.truth ?? {} };
  }

  remember(key, compute) {
    if (!this.scales.has(key)) this.scales.set(key, compute());
    return this.scales.get(key);
  }
}

// Each text encoder with the words that it reads, in the order of the maps.
function groupWords(words) {
  const groups = [];
  for (const { text, encoder = "" } of words) {
    if (groups.at(-1)?.encoder !== encoder) groups.push({ encoder, words: [] });
    groups.at(-1).words.push(text);
  }
  return groups;
}
