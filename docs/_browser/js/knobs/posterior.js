// The optimal denoiser in one dimension: the mean of what the noisy value may come from.

import { createChart, formatNumber } from "../../shared/js/charts.js";
import { addSlider, createKnob } from "./parts.js";

const PARTS = [{ weight: 0.6, mean: -1, std: 0.25 }, { weight: 0.4, mean: 1.2, std: 0.35 }];
const X = Array.from({ length: 241 }, (_, i) => -3 + i / 40);
const normal = (x, mean, std) => Math.exp(-(((x - mean) / std) ** 2) / 2) / (std * Math.sqrt(2 * Math.PI));
const prior = (x) => PARTS.reduce((sum, { weight, mean, std }) => sum + weight * normal(x, mean, std), 0);

export function create(place) {
  const knob = createKnob(place, "Which clean values explain a noisy one?", update);
  const value = addSlider(knob, "noisy value x₀ + σε", { min: -3, max: 3, step: 0.05, value: 0.3, format: (x) => x.toFixed(2) });
  const sigma = addSlider(knob, "noise level σ", { min: 0.05, max: 4, step: 0.05, value: 1, format: (x) => x.toFixed(2) });
  const chart = createChart({ title: "Densities of the clean value", xLabel: "x₀" });
  knob.body.append(chart.element);

  function update() {
    const joint = X.map((x) => prior(x) * normal(value.value, x, sigma.value));
    const width = X[1] - X[0];
    const evidence = joint.reduce((a, b) => a + b, 0) * width;
    const mean = (joint.reduce((sum, p, i) => sum + p * X[i], 0) * width) / evidence;
    const top = Math.max(...joint) / evidence;
    chart.setSeries([
      { name: "data p(x₀)", style: "tone-0", x: X, y: X.map(prior), marked: false },
      { name: "given the noisy value", style: "tone-1", x: X, y: joint.map((p) => p / evidence), marked: false },
      { name: "its mean, the best prediction", style: "tone-2", x: [mean, mean], y: [0, top], marked: false },
    ]);
    const score = (mean - value.value) / sigma.value ** 2;
    knob.say(`E[x₀ | x] = ${formatNumber(mean)}, so the score (E[x₀ | x] − x)/σ² is ${formatNumber(score)}`);
  }
}
