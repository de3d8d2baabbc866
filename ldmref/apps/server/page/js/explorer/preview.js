// @ts-check
// Pixels from latents. All functions are pure; `paint` is the only one that touches a canvas.

// Colours of a signed value in [-1, 1] and of an amount in [0, 1]: stops with equal distances.
// Both are readable with every kind of colour vision, and look the same in light and dark.
const DIVERGING = [
  [5, 48, 97], [67, 147, 195], [209, 229, 240], [247, 247, 247], [253, 219, 199], [214, 96, 77], [103, 0, 31],
];
const AMOUNT = [
  [68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37],
];

// The components of a difference that can be shown: weights of red, green and blue.
export const COMPONENTS = {
  brightness: { label: "brightness", weights: [1 / 3, 1 / 3, 1 / 3] },
  red: { label: "red", weights: [1, 0, 0] },
  green: { label: "green", weights: [0, 1, 0] },
  blue: { label: "blue", weights: [0, 0, 1] },
};

// Red, green and blue of latents by the linear preview, matrix z + bias, as RGBA bytes. `latent` is
// (c, h, w), flat; `scale` is the factor that makes it variance-preserving.
export function linearPreview(latent, pixels, matrix, bias, scale = 1) {
  const channels = latent.length / pixels;
  const rgba = new Uint8ClampedArray(4 * pixels);
  for (let i = 0; i < pixels; i += 1) {
    for (let colour = 0; colour < 3; colour += 1) {
      let sum = 0;
      for (let c = 0; c < channels; c += 1) {
        sum += matrix[colour * channels + c] * latent[c * pixels + i];
      }
      rgba[4 * i + colour] = 255 * (scale * sum + bias[colour]);
    }
    rgba[4 * i + 3] = 255;
  }
  return rgba;
}

// The linear preview that fits one image best: the solution of least squares between the latents of
// the image and the means of its pixels over each cell, with a small penalty, as {matrix, bias}. It
// serves runs whose record has no preview of its model.
export function fitPreview(latent, width, height, image) {
  const pixels = width * height;
  const channels = latent.length / pixels;
  const size = channels + 1;
  const colours = averageCells(image, width, height);
  const features = (i, c) => (c < channels ? latent[c * pixels + i] : 1);
  const normal = Array.from({ length: size }, (_, a) => {
    const row = new Float64Array(size + 3);
    for (let i = 0; i < pixels; i += 1) {
      for (let b = 0; b < size; b += 1) row[b] += features(i, a) * features(i, b);
      for (let colour = 0; colour < 3; colour += 1) row[size + colour] += features(i, a) * colours[3 * i + colour];
    }
    row[a] += a < channels ? 1e-3 * pixels : 1e-9;
    return row;
  });
  solve(normal, size);
  const matrix = Float64Array.from({ length: 3 * channels }, (_, j) => normal[j % channels][size + Math.floor(j / channels)]);
  return { matrix, bias: [0, 1, 2].map((colour) => normal[channels][size + colour]) };
}

// Mean red, green and blue of each cell of an image, in [0, 1].
function averageCells({ shape: [height, width], data }, columns, rows) {
  const sums = new Float64Array(3 * columns * rows);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const cell = Math.floor((y * rows) / height) * columns + Math.floor((x * columns) / width);
      for (let colour = 0; colour < 3; colour += 1) sums[3 * cell + colour] += data[3 * (y * width + x) + colour];
    }
  }
  return sums.map((sum) => (sum * columns * rows) / (255 * width * height));
}

// Solve a symmetric positive definite system in place by elimination; the right sides are the
// columns from `size` on, and become the solution.
function solve(rows, size) {
  for (let pivot = 0; pivot < size; pivot += 1) {
    const own = rows[pivot];
    const divisor = own[pivot];
    for (let c = pivot; c < own.length; c += 1) own[c] /= divisor;
    rows.forEach((row, r) => {
      if (r === pivot) return;
      const factor = row[pivot];
      for (let c = pivot; c < row.length; c += 1) row[c] -= factor * own[c];
    });
  }
}

// The signed difference a - b of two latents in one component of the linear preview, one number per
// pixel, in units of the full range of the component.
export function signedDifference(a, b, pixels, matrix, component, scaleA = 1, scaleB = 1) {
  const channels = a.length / pixels;
  const row = new Float64Array(channels);
  COMPONENTS[component].weights.forEach((weight, colour) => {
    for (let c = 0; c < channels; c += 1) {
      row[c] += weight * matrix[colour * channels + c];
    }
  });
  const values = new Float64Array(pixels);
  for (let c = 0; c < channels; c += 1) {
    for (let i = 0; i < pixels; i += 1) {
      values[i] += row[c] * (scaleA * a[c * pixels + i] - scaleB * b[c * pixels + i]);
    }
  }
  return values;
}

// The largest absolute value.
export function largest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

// The root mean square of a - b, over all channels and pixels.
export function rmsDifference(a, b, scaleA = 1, scaleB = 1) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) {
    sum += (scaleA * a[i] - scaleB * b[i]) ** 2;
  }
  return Math.sqrt(sum / a.length);
}

// Mean and standard deviation.
export function moments(values, scale = 1) {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / n;
  return { mean: scale * mean, deviation: scale * Math.sqrt(variance) };
}

// Signed values as RGBA bytes: blue at -scale, white at 0, red at +scale.
export function divergingColours(values, scale) {
  return colours(values, (value) => blend(DIVERGING, scale > 0 ? 0.5 + value / (2 * scale) : 0.5));
}

// Amounts as RGBA bytes, from 0 to `scale`; small amounts are more transparent. `opacity` in [0, 1].
export function amountColours(values, scale, opacity = 1) {
  const share = (value) => (scale > 0 ? Math.min(Math.max(value / scale, 0), 1) : 0);
  const rgba = colours(values, (value) => blend(AMOUNT, share(value)));
  values.forEach((value, i) => {
    rgba[4 * i + 3] = 255 * opacity * (0.25 + 0.75 * Math.sqrt(share(value)));
  });
  return rgba;
}

function colours(values, colour) {
  const rgba = new Uint8ClampedArray(4 * values.length).fill(255);
  values.forEach((value, i) => rgba.set(colour(value), 4 * i));
  return rgba;
}

function blend(stops, position) {
  const place = Math.min(Math.max(position, 0), 1) * (stops.length - 1);
  const first = Math.min(Math.floor(place), stops.length - 2);
  const share = place - first;
  return stops[first].map((from, i) => from + share * (stops[first + 1][i] - from));
}

// The RGBA bytes of an image (h, w, 3).
export function imageBytes({ data }) {
  const rgba = new Uint8ClampedArray((4 * data.length) / 3).fill(255);
  data.forEach((value, i) => (rgba[4 * Math.floor(i / 3) + (i % 3)] = value));
  return rgba;
}

// Put RGBA bytes on a canvas, one canvas pixel per value; CSS scales the canvas.
export function paint(canvas, rgba, width, height) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
}

// Put `rgba` (width x height, partly transparent) over `base`, which is a canvas of any size.
export function paintOver(canvas, base, rgba, width, height) {
  const layer = document.createElement("canvas");
  paint(layer, rgba, width, height);
  canvas.width = Math.max(base.width, width);
  canvas.height = Math.max(base.height, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.filter = "grayscale(1)";
  context.drawImage(base, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
}
