// The divergence of a normal distribution from the standard one, with both densities.

import { createChart, formatNumber } from "../../shared/js/charts.js";
import { addSlider, createKnob } from "./parts.js";

const X = Array.from({ length: 161 }, (_, i) => -4 + i / 20);

export function create(place) {
  const knob = createKnob(place, "The encoder's density against the prior", update);
  const mean = addSlider(knob, "mean m", { min: -3, max: 3, step: 0.05, value: 1, format: (value) => value.toFixed(2) });
  const logvar = addSlider(knob, "log variance ℓ", { min: -5, max: 2, step: 0.05, value: -1, format: (value) => value.toFixed(2) });
  const chart = createChart({ title: "Densities of one entry of z", xLabel: "z" });
  knob.body.append(chart.element);
  const density = (m, variance) => X.map((x) => Math.exp(-((x - m) ** 2) / (2 * variance)) / Math.sqrt(2 * Math.PI * variance));

  function update() {
    const variance = Math.exp(logvar.value);
    chart.setSeries([
      { name: "q(z | x)", style: "tone-1", x: X, y: density(mean.value, variance), marked: false },
      { name: "p(z)", style: "tone-0", x: X, y: density(0, 1), marked: false },
    ]);
    const ofMean = mean.value ** 2 / 2;
    const ofVariance = (variance - 1 - logvar.value) / 2;
    knob.say(`D(q ‖ p) = ½m² + ½(e^ℓ − 1 − ℓ) = ${ofMean.toFixed(3)} + ${ofVariance.toFixed(3)} = ${formatNumber(ofMean + ofVariance)} nats`);
  }
}
