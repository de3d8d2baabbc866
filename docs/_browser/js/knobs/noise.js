// An image at any timestep of the forward process: sqrt(alpha-bar) x0 + sqrt(1 - alpha-bar) eps.

import { formatNumber } from "../../shared/js/charts.js";
import { h } from "../../shared/js/dom.js";
import { normalNoise } from "../core/random.js";
import { cosineSchedule, linearSchedule, qSample, scaledLinearSchedule } from "../core/schedules.js";
import { addSelect, addSlider, createKnob } from "./parts.js";

const T = 1000;
const SIZE = 128;
const SCHEDULES = {
  cosine: ["cosine", () => cosineSchedule(T)],
  linear: ["linear (DDPM)", () => linearSchedule(T, 1e-4, 0.02)],
  scaled: ["scaled linear (Stable Diffusion)", () => scaledLinearSchedule(T, 0.00085, 0.012)],
};

export async function create(place) {
  const clean = await readImage(new URL("../../images/heart.png", import.meta.url));
  const noise = normalNoise(0, clean.length);
  const knob = createKnob(place, "Destroying an image in one jump", update);
  const t = addSlider(knob, "timestep t", { min: 0, max: T, step: 1, value: 250 });
  const schedule = addSelect(knob, "schedule", Object.entries(SCHEDULES).map(([name, [text]]) => [name, text]));
  const canvas = h("canvas", { class: "knob-image", width: SIZE, height: SIZE, role: "img" });
  knob.body.append(canvas);

  function update() {
    const alphaBar = t.value === 0 ? 1 : SCHEDULES[schedule.value][1]()[t.value - 1];
    paintImage(canvas, qSample(clean, noise, alphaBar));
    const snr = alphaBar / (1 - alphaBar);
    canvas.setAttribute("aria-label", `A red heart at timestep ${t.value}`);
    knob.say(`x_t = ${Math.sqrt(alphaBar).toFixed(3)} x₀ + ${Math.sqrt(1 - alphaBar).toFixed(3)} ε,   ᾱ = ${formatNumber(alphaBar)},   signal-to-noise ratio ${formatNumber(snr)}`);
  }
}

// Pixels in [-1, 1], red, green and blue one after the other for each pixel.
async function readImage(address) {
  const image = new Image();
  image.src = address.href;
  await image.decode();
  const context = new OffscreenCanvas(SIZE, SIZE).getContext("2d");
  context.drawImage(image, 0, 0, SIZE, SIZE);
  const { data } = context.getImageData(0, 0, SIZE, SIZE);
  return Float32Array.from({ length: 3 * SIZE * SIZE }, (_, i) => data[Math.floor(i / 3) * 4 + (i % 3)] / 127.5 - 1);
}

function paintImage(canvas, values) {
  const rgba = new Uint8ClampedArray(4 * SIZE * SIZE).fill(255);
  values.forEach((value, i) => {
    rgba[Math.floor(i / 3) * 4 + (i % 3)] = (value + 1) * 127.5;
  });
  canvas.getContext("2d").putImageData(new ImageData(rgba, SIZE, SIZE), 0, 0);
}
