// Parts of the widgets: a frame with controls, sliders, lists, and a plot of points in the plane.

import { h, newId, perFrame, svg } from "../../shared/js/dom.js";

/**
 * Return a frame in a place of a page: {controls, body, say(text), change}. `update` is called at most once per
 * frame after any control has changed, and once at the beginning.
 */
export function createKnob(place, title, update) {
  const controls = h("div", { class: "knob-controls" });
  const body = h("div", { class: "knob-body" });
  const reading = h("output", { class: "knob-reading" });
  const id = newId("knob");
  place.setAttribute("role", "group");
  place.setAttribute("aria-labelledby", id);
  place.replaceChildren(h("p", { class: "knob-title", id }, title), controls, body, reading);
  const change = perFrame(update);
  queueMicrotask(change);
  return {
    body,
    controls,
    change,
    say(text) {
      reading.textContent = text;
    },
  };
}

/** Add a slider to a frame and return {value}; `format` makes the text of a value. */
export function addSlider(knob, label, { min, max, step, value, format = String }) {
  const id = newId("slider");
  const input = h("input", { type: "range", id, min, max, step, value });
  const text = h("output", { class: "knob-value", for: id });
  const show = () => {
    text.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", text.textContent);
  };
  input.addEventListener("input", () => {
    show();
    knob.change();
  });
  show();
  knob.controls.append(h("div", { class: "knob-control" }, h("label", { for: id }, label), input, text));
  return {
    get value() {
      return Number(input.value);
    },
  };
}

/** Add a list of choices, [[value, text], ...], to a frame and return {value}. */
export function addSelect(knob, label, choices) {
  const id = newId("select");
  const select = h("select", { id, onchange: knob.change }, choices.map(([value, text]) => h("option", { value }, text)));
  knob.controls.append(h("div", { class: "knob-control" }, h("label", { for: id }, label), select));
  return {
    get value() {
      return select.value;
    },
  };
}

/** Return n pairs of deterministic standard normal numbers from a flat array of noise. */
export function pairs(noise) {
  return Array.from({ length: noise.length / 2 }, (_, i) => [noise[2 * i], noise[2 * i + 1]]);
}

const SIDE = 320;

/** Return a square plot of the plane: {element, draw({circles, lines, points})}, with y upwards. */
export function createPlane(title, range) {
  const element = svg("svg", { class: "knob-plane", viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img", "aria-label": title });
  const place = ([a, b]) => [((a + range) / (2 * range)) * SIDE, ((range - b) / (2 * range)) * SIDE];
  const scale = SIDE / (2 * range);
  const text = (point) => place(point).map((value) => value.toFixed(1));
  return {
    element,
    draw({ circles = [], lines = [], points = [] }) {
      const parts = [
        svg("line", { class: "knob-axis", x1: 0, x2: SIDE, y1: SIDE / 2, y2: SIDE / 2 }),
        svg("line", { class: "knob-axis", x1: SIDE / 2, x2: SIDE / 2, y1: 0, y2: SIDE }),
      ];
      for (const { mean, radius, style } of circles) {
        const [cx, cy] = place(mean);
        parts.push(svg("circle", { class: `knob-circle ${style}`, cx, cy, r: radius * scale }));
      }
      for (const { path, style } of lines) {
        parts.push(svg("path", { class: `knob-line ${style}`, d: `M${path.map((point) => text(point).join(" ")).join("L")}` }));
      }
      for (const { at, style } of points) {
        for (const point of at) {
          const [cx, cy] = text(point);
          parts.push(svg("circle", { class: `knob-point ${style}`, cx, cy, r: 2.2 }));
        }
      }
      element.replaceChildren(...parts);
    },
  };
}

/** Return the two circles, of one and two standard deviations, of each component of a mixture. */
export function outline(mixture, style) {
  return mixture.flatMap(({ mean, std }) => [1, 2].map((times) => ({ mean, radius: times * std, style })));
}

/** Return a legend: [[style, text], ...]. */
export function legend(entries) {
  return h("p", { class: "knob-legend" }, entries.map(([style, text]) => h("span", { class: style }, h("i", { "aria-hidden": "true" }), text)));
}
