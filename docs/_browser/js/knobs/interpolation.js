// The length of noise between two noises, on a line and on a great circle.

import { createChart, formatNumber } from "../../shared/js/charts.js";
import { normalNoise } from "../core/random.js";
import { lerp, norm, slerp } from "../core/schedules.js";
import { addSlider, createKnob } from "./parts.js";

const COUNT = 21;

export function create(place) {
  const knob = createKnob(place, "Between two noises", update);
  const power = addSlider(knob, "entries d", { min: 1, max: 14, step: 1, value: 12, format: (value) => String(2 ** value) });
  const chart = createChart({ title: "Length divided by the root of d", xLabel: "position t", read: describe, onMove: (i) => chart.setCursor(i) });
  knob.body.append(chart.element);
  const positions = Array.from({ length: COUNT }, (_, i) => i / (COUNT - 1));
  let lines = [];

  function update() {
    const d = 2 ** power.value;
    const [a, b] = [normalNoise(10, d), normalNoise(11, d)].map((noise) => Float64Array.from(noise));
    const curve = (name, style, between) => ({ name, style, x: positions, y: positions.map((t) => norm(between(a, b, t)) / Math.sqrt(d)) });
    lines = [curve("lerp", "tone-1", lerp), curve("slerp", "tone-0", slerp)];
    chart.setSeries(lines);
    chart.setCursor((COUNT - 1) / 2);
    const cosine = a.reduce((sum, value, i) => sum + value * b[i], 0) / (norm(a) * norm(b));
    knob.say(`angle between the two noises: ${formatNumber((Math.acos(cosine) * 180) / Math.PI)}°`);
  }

  function describe(i) {
    return lines.length ? `t = ${positions[i].toFixed(2)}: ${lines.map(({ name, y }) => `${name} ${formatNumber(y[i])}`).join(", ")}` : "";
  }
}
