// @ts-check
// How alike two finished pictures are, and a guess and the end of its run: what an answer may say of them.

import { imageBytes } from "./preview.js";

const SAME = 10; // of 255: from here on two pictures are different ones
const RECOLOURED = 10; // of 255: from here on the colours are different
const SHAPED = 0.5; // correlation of edges from which two shapes are nearly the same
const SOFT = 0.9; // share of the detail of a picture below which another one is softer
const SETTLED = 0.7; // correlation of a guess with the end from which the shape is there

/** Whether two runs end in nearly the same picture. */
export function areSame(a, b) {
  const [left, right] = [pixelsOf(a), pixelsOf(b)];
  return left.length === right.length && rms(left.map((value, i) => value - right[i])) < SAME;
}

/** Whether the finished pictures of two runs have nearly the same shape: edges of brightness at the same places. */
export function haveSameShape(a, b) {
  const [left, right] = [edgesOf(a), edgesOf(b)];
  return left.length === right.length && correlation(left, right) >= SHAPED;
}

/** Whether the finished pictures of two runs have different colours, whatever their brightness. */
export function haveOtherColours(a, b) {
  const [left, right] = [coloursOf(a), coloursOf(b)];
  return left.length === right.length && rms(left.map((value, i) => value - right[i])) >= RECOLOURED;
}

/** Whether the finished picture of a run has less detail than that of another one. */
export function isSofter(a, b) {
  return rms(edgesOf(a)) < SOFT * rms(edgesOf(b));
}

/** Whether the guess at position k is already much like the end of the run. */
export function isSettled(run, k) {
  const end = run.slice("x", run.n);
  return correlation(run.slice("x0", run.stepOf(k)), end) >= SETTLED;
}

// The pixels of a finished picture, red, green and blue.
function pixelsOf(run) {
  const rgba = run.remember("image", () => imageBytes(run.record.tensors.image));
  return Float32Array.from({ length: (3 * rgba.length) / 4 }, (_, i) => rgba[4 * Math.floor(i / 3) + (i % 3)]);
}

function brightnessOf(run) {
  const pixels = pixelsOf(run);
  return Float32Array.from({ length: pixels.length / 3 }, (_, i) => (pixels[3 * i] + pixels[3 * i + 1] + pixels[3 * i + 2]) / 3);
}

function coloursOf(run) {
  const brightness = brightnessOf(run);
  return pixelsOf(run).map((value, i) => value - brightness[Math.floor(i / 3)]);
}

// How much the brightness changes from each place to its right and lower neighbours.
function edgesOf(run) {
  const brightness = brightnessOf(run);
  const [height, width] = run.record.tensors.image.shape;
  return Float32Array.from({ length: (height - 1) * (width - 1) }, (_, i) => {
    const at = Math.floor(i / (width - 1)) * width + (i % (width - 1));
    return Math.hypot(brightness[at + 1] - brightness[at], brightness[at + width] - brightness[at]);
  });
}

function rms(values) {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
}

function correlation(a, b) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [meanA, meanB] = [mean(a), mean(b)];
  let [both, ofA, ofB] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    both += (a[i] - meanA) * (b[i] - meanB);
    ofA += (a[i] - meanA) ** 2;
    ofB += (b[i] - meanB) ** 2;
  }
  return ofA && ofB ? both / Math.sqrt(ofA * ofB) : 0;
}
