// Paths of a sampler on a mixture whose denoiser is exact: the error is that of the sampler alone.

import { formatNumber } from "../../shared/js/charts.js";
import { mixtureDenoiser } from "../core/mixture.js";
import { normalNoise } from "../core/random.js";
import { initialState, sample } from "../core/sampling.js";
import { addSelect, addSlider, createKnob, createPlane, legend, outline, pairs } from "./parts.js";

export const MODES = [
  { weight: 0.5, mean: [1, 0.5], std: 0.4 },
  { weight: 0.3, mean: [-1.2, 0.3], std: 0.5 },
  { weight: 0.2, mean: [0.2, -1], std: 0.6 },
];
const LARGEST = 10;
const SMALLEST = 0.02;
const PATHS = 24;

export async function create(place) {
  const noise = Float64Array.from(normalNoise(1, 2 * PATHS));
  const knob = createKnob(place, "Steps of a sampler", update);
  const steps = addSlider(knob, "steps", { min: 1, max: 40, step: 1, value: 6 });
  const sampler = addSelect(knob, "sampler", [["euler", "Euler (DDIM)"], ["dpmpp_2m", "DPM++ 2M"]]);
  const plane = createPlane("Paths of the sampler in the plane", 3);
  knob.body.append(plane.element, legend([["tone-0", "paths and where they end"], ["tone-1", "exact end points"], ["tone-5 knob-ring", "the modes, one and two deviations"]]));
  const exact = (await run(600, "dpmpp_2m")).at(-1);
  let turn = 0;

  async function update() {
    turn += 1;
    const mine = turn;
    const states = await run(steps.value, sampler.value);
    if (mine !== turn) return;
    const ends = states.at(-1);
    const lines = Array.from({ length: PATHS }, (_, i) => ({ style: "tone-0", path: states.map((x) => [x[2 * i], x[2 * i + 1]]) }));
    plane.draw({
      circles: outline(MODES, "tone-5"),
      lines,
      points: [{ at: pairs(exact), style: "tone-1" }, { at: pairs(ends), style: "tone-0" }],
    });
    const error = Math.sqrt(ends.reduce((sum, value, i) => sum + (value - exact[i]) ** 2, 0) / PATHS);
    knob.say(`${steps.value} evaluations of the denoiser: the end points are ${formatNumber(error)} from the exact ones (root mean square)`);
  }

  // The states of all paths, for noise levels that are evenly spaced in log sigma, and then 0.
  async function run(n, name) {
    const ratio = SMALLEST / LARGEST;
    const sigmas = [...Array.from({ length: n }, (_, i) => LARGEST * ratio ** (n > 1 ? i / (n - 1) : 0)), 0];
    const states = [initialState(noise, LARGEST)];
    const denoise = mixtureDenoiser(MODES);
    for await (const { next } of sample(denoise, states[0], { sigmas, timesteps: sigmas }, name)) states.push(next);
    return states;
  }
}
