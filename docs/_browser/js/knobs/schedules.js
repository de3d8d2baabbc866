// Three schedules with their parameters: alpha-bar, or the logarithm of the signal-to-noise ratio.

import { createChart, formatNumber } from "../../shared/js/charts.js";
import { cosineSchedule, linearSchedule, scaledLinearSchedule } from "../core/schedules.js";
import { addSelect, addSlider, createKnob } from "./parts.js";

const T = 1000;
const STRIDE = 5;

export function create(place) {
  const knob = createKnob(place, "Noise schedules", update);
  const linear = addSlider(knob, "linear: last β", { min: 0.002, max: 0.05, step: 0.001, value: 0.02, format: formatNumber });
  const scaled = addSlider(knob, "scaled linear: last β", { min: 0.002, max: 0.05, step: 0.001, value: 0.012, format: formatNumber });
  const offset = addSlider(knob, "cosine: offset s", { min: 0, max: 0.2, step: 0.002, value: 0.008, format: formatNumber });
  const quantity = addSelect(knob, "shown", [["alpha", "ᾱ, the share of the signal"], ["snr", "λ, log signal-to-noise ratio"]]);
  let lines = [];
  const chart = createChart({ title: "Schedules", caption: "", xLabel: "timestep t", read: describe, onMove: (i) => chart.setCursor(i) });
  knob.body.append(chart.element);

  function update() {
    const convert = quantity.value === "alpha" ? (a) => a : (a) => Math.log(a / (1 - a));
    const curve = (name, style, alphaBar) => {
      const kept = Array.from(alphaBar).filter((_, i) => i % STRIDE === STRIDE - 1);
      return { name, style, x: kept.map((_, i) => STRIDE * (i + 1)), y: kept.map(convert) };
    };
    lines = [
      curve("linear", "tone-0", linearSchedule(T, 1e-4, linear.value)),
      curve("scaled linear", "tone-1", scaledLinearSchedule(T, 0.00085, scaled.value)),
      curve("cosine", "tone-2", cosineSchedule(T, offset.value)),
    ];
    chart.setSeries(lines);
    chart.setCursor(lines[0].x.length - 1);
  }

  function describe(i) {
    return lines.length ? `t = ${lines[0].x[i]}: ${lines.map(({ name, y }) => `${name} ${formatNumber(y[i])}`).join(", ")}` : "";
  }
}
