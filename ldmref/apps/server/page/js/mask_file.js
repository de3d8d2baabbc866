// @ts-check
// Masks as files, by the rule of `ldmref.io.read_mask`: luminance on black, cut at one half.

const HALF = 128;
const LOBES = 3; // of the Lanczos filter
const ONE = 2 ** 22; // the unit of its weights, which Pillow rounds to fixed point

/**
 * Return {data, notes}: 1 where an image file is repainted, at width x height, and a sentence about
 * each thing that a user may not expect.
 */
export async function readMask(file, width, height) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const { values, note } = readPixels(data);
  const notes = note ? [note] : [];
  let image = { width: bitmap.width, height: bitmap.height, values };
  if (bitmap.width !== width || bitmap.height !== height) {
    const sizes = `${bitmap.width} × ${bitmap.height}, the image ${width} × ${height}`;
    notes.push(`The mask is ${sizes}: the mask is stretched to the image's size.`);
    image = resize(image, width, height);
  }
  return { data: Uint8Array.from(image.values, (value) => (value >= HALF ? 1 : 0)), notes };
}

/** Return the grey values, from 0 to 255, of pixels (red, green, blue, alpha). */
export function readPixels(data) {
  const count = data.length / 4;
  const luminance = new Uint8Array(count);
  let opaque = 0; // how many pixels are
  let light = 0; // how many of them are
  let solid = true;
  for (let i = 0; i < count; i += 1) {
    const at = 4 * i;
    const alpha = data[at + 3];
    luminance[i] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
    solid &&= alpha === 255;
    if (alpha < HALF) continue;
    opaque += 1;
    if (luminance[i] >= HALF) light += 1;
  }
  const silent = opaque > 0 && opaque < count && light === 0;
  const value = (_, i) => {
    const alpha = data[4 * i + 3];
    return silent ? alpha : Math.floor((luminance[i] * alpha + 127) / 255);
  };
  return { values: Uint8Array.from({ length: count }, value), note: describe(solid, silent) };
}

function describe(solid, silent) {
  if (solid) return "";
  return silent
    ? "The mask is painted on transparency in dark colours only: its transparency decides, and opaque pixels count as white."
    : "The mask is partly transparent: transparent pixels count as black.";
}

/** Stretch an image {width, height, values} of grey by the Lanczos filter, rounded as Pillow does. */
export function resize(image, width, height) {
  return transpose(resizeRows(transpose(resizeRows(image, width)), height));
}

function transpose({ width, height, values }) {
  const turned = new Uint8Array(values.length);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) turned[x * height + y] = values[y * width + x];
  }
  return { width: height, height: width, values: turned };
}

function resizeRows(image, width) {
  if (image.width === width) return image;
  const values = new Uint8Array(width * image.height);
  for (let x = 0; x < width; x += 1) {
    const { first, weights } = findWeights(x, image.width, width);
    for (let y = 0; y < image.height; y += 1) {
      let sum = ONE / 2;
      const start = y * image.width + first;
      for (let i = 0; i < weights.length; i += 1) sum += weights[i] * image.values[start + i];
      values[y * width + x] = Math.min(255, Math.max(0, Math.floor(sum / ONE)));
    }
  }
  return { width, height: image.height, values };
}

function findWeights(x, from, to) {
  const scale = from / to;
  const widening = Math.max(1, scale);
  const centre = (x + 0.5) * scale;
  const first = Math.max(0, Math.trunc(centre - LOBES * widening + 0.5));
  const end = Math.min(from, Math.trunc(centre + LOBES * widening + 0.5));
  const weights = [];
  for (let i = first; i < end; i += 1) weights.push(lanczos((i + 0.5 - centre) / widening));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return { first, weights: weights.map((weight) => roundAway((weight / total) * ONE)) };
}

const roundAway = (value) => Math.trunc(value + (value < 0 ? -0.5 : 0.5));
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const lanczos = (x) => (-LOBES <= x && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0);
