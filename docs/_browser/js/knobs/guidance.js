// Guidance on a mixture: the samples of one class as the weight grows.

import { formatNumber } from "../../shared/js/charts.js";
import { mixtureDenoiser } from "../core/mixture.js";
import { normalNoise } from "../core/random.js";
import { initialState, sample } from "../core/sampling.js";
import { addSlider, createKnob, createPlane, legend, outline, pairs } from "./parts.js";

const ONE = [{ weight: 0.5, mean: [0.6, 1], std: 0.45 }, { weight: 0.5, mean: [1.4, -0.2], std: 0.45 }];
const OTHER = [{ weight: 0.5, mean: [-1, -0.6], std: 0.5 }, { weight: 0.5, mean: [0.2, -0.9], std: 0.5 }];
const BOTH = [...ONE, ...OTHER].map((part) => ({ ...part, weight: part.weight / 2 }));
const POINTS = 160;
const SIGMAS = [...Array.from({ length: 40 }, (_, i) => 10 * (0.02 / 10) ** (i / 39)), 0];

export function create(place) {
  const noise = Float64Array.from(normalNoise(2, 2 * POINTS));
  const knob = createKnob(place, "Guidance against diversity", update);
  const w = addSlider(knob, "guidance weight w", { min: 0, max: 8, step: 0.1, value: 1, format: (value) => value.toFixed(1) });
  const plane = createPlane("Samples with guidance in the plane", 3.2);
  knob.body.append(plane.element, legend([["tone-0", "samples"], ["tone-0 knob-ring", "the class y"], ["tone-1 knob-ring", "the other class"]]));
  let turn = 0;

  async function update() {
    turn += 1;
    const mine = turn;
    let x = initialState(noise, SIGMAS[0]);
    const denoise = mixtureDenoiser(ONE, BOTH, w.value);
    for await (const { next } of sample(denoise, x, { sigmas: SIGMAS, timesteps: SIGMAS }, "dpmpp_2m")) x = next;
    if (mine !== turn) return;
    plane.draw({ circles: [...outline(OTHER, "tone-1"), ...outline(ONE, "tone-0")], points: [{ at: pairs(x), style: "tone-0" }] });
    const names = new Map([[0, " (the model without a prompt)"], [1, " (the conditional model)"]]);
    knob.say(`w = ${w.value.toFixed(1)}${names.get(w.value) ?? ""}: samples deviate by ${formatNumber(spread(x))} from their mean`);
  }
}

// The root mean square distance of points from their mean.
function spread(flat) {
  const points = pairs(flat);
  const mean = [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  return Math.sqrt(points.reduce((sum, [a, b]) => sum + (a - mean[0]) ** 2 + (b - mean[1]) ** 2, 0) / points.length);
}
