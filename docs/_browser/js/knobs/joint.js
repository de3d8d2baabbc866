// Two quantities that depend on each other, generated together or each alone.

import { normalNoise } from "../core/random.js";
import { addSelect, addSlider, createKnob, createPlane, legend, pairs } from "./parts.js";

const POINTS = 300;

export function create(place) {
  const noise = pairs(normalNoise(3, 2 * POINTS));
  const knob = createKnob(place, "Together or each alone", update);
  const rho = addSlider(knob, "correlation", { min: 0, max: 0.99, step: 0.01, value: 0.9, format: (value) => value.toFixed(2) });
  const way = addSelect(knob, "generated", [["joint", "together, from p(a, b)"], ["alone", "each alone, from p(a) and p(b)"]]);
  const plane = createPlane("Pairs of two standardised quantities", 3.5);
  knob.body.append(plane.element, legend([["tone-0", "plausible pairs"], ["tone-1", "pairs that hardly occur in the data"]]));

  function update() {
    const rest = Math.sqrt(1 - rho.value ** 2);
    const together = noise.map(([a, b]) => [a, rho.value * a + rest * b]);
    const points = way.value === "joint" ? together : together.map(([a], i) => [a, together[(i + 1) % POINTS][1]]);
    // Pairs outside the ellipse that contains 99 % of the joint distribution.
    const far = ([a, b]) => (a * a - 2 * rho.value * a * b + b * b) / (1 - rho.value ** 2) > 2 * Math.log(100);
    plane.draw({ points: [{ at: points.filter((point) => !far(point)), style: "tone-0" }, { at: points.filter(far), style: "tone-1" }] });
    const share = (100 * points.filter(far).length) / POINTS;
    knob.say(`${share.toFixed(1)} % of the pairs are outside the region that holds 99 % of the data`);
  }
}
