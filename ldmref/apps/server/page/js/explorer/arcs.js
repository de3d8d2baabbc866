// @ts-check
// The arcs of a flow map beside the trajectory that they replace: its mean velocity over a whole arc, and
// the velocity of the run at the step that is shown.

import { formatNumber } from "../charts.js";
import { counted, fill, h, svg } from "../dom.js";
import { sayError } from "../notify.js";
import { readRecord } from "../record.js";
import { toText } from "../schema.js";
import { measureArcs } from "./arc_geometry.js";
import { explain } from "./explain.js";
import { formulaButton } from "./formulas.js";
import { NUMBERS } from "./plain.js";
import { Run } from "./run.js";
import { ARCS } from "./specs.js";

const SHARED = ["prompt", "prompt_weights", "width", "height", "rng"]; // what the map reads of a run
const WIDTH = 300;
const HEIGHT = 230;
const MARGIN = 26;
const ARROW = 0.3; // the length of an arrow for a velocity of one
const HEAD = 6; // pixels of its head

/**
 * Return the panel: {element, show(position, steps, request), mark(k)}. `position` is that of the shown run,
 * {run, tone}, `steps` those of the map, 0 for none, and `request` is null if the source cannot make the
 * run of the map. `onChoose(steps)` is called when a number of steps is chosen.
 */
export function createArcs({ source, onChoose }) {
  const made = new WeakMap(); // by run: {steps: measured arcs, or the promise of them}
  let shown = null; // {run, tone, steps}
  let cursor = 0;
  const buttons = ARCS.map((steps) => h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => onChoose(shown?.steps === steps ? 0 : steps) }, counted(steps, "step")));
  const box = h("div", { class: "chart-box", role: "img", hidden: true });
  const legend = h("div", { class: "chart-legend", hidden: true });
  const reading = explain(h("output", { class: "ex-sentence", hidden: true }), NUMBERS.arcs);
  const state = h("p", { class: "soft", role: "status" });
  const element = h(
    "section",
    { class: "panel ex-arcs", "aria-labelledby": "ex-arcs-title" },
    h("h2", { id: "ex-arcs-title" }, "The arcs of the flow map ", formulaButton("arc")),
    h("p", { class: "ex-plain" }, "The sampler follows a curve in small steps: at each it asks the network for the direction. A flow map has learned where the curve leads, and goes there in a few arcs."),
    h("div", { class: "row" }, buttons),
    h("figure", { class: "chart" }, legend, box, h("figcaption", {}, reading)),
    state,
  );

  function draw() {
    const arcs = arcsOf(shown);
    for (const part of [box, legend, reading]) part.hidden = !arcs;
    if (!arcs) return;
    const scales = makeScales(arcs);
    const tones = { run: `tone-${shown.tone}`, map: `tone-${(shown.tone + 1) % 6}` };
    box.replaceChildren(
      svg(
        "svg",
        { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, "aria-hidden": "true" },
        drawAxes(),
        svg("path", { class: `chart-line ${tones.run}`, d: pathOf(arcs.states, scales) }),
        arcs.states.map((point) => svg("circle", { class: `chart-point ${tones.run}`, ...center(point, scales), r: 2 })),
        arcs.arcs.map(({ points }) => svg("path", { class: `chart-line ${tones.map}`, d: pathOf(points, scales) })),
        arcs.arcs.map(({ start }) => svg("circle", { class: `chart-point ${tones.map}`, ...center(start, scales), r: 3.5 })),
        svg("g", { class: "chart-cursor" }),
      ),
    );
    fill(legend, drawKey("the run, its velocity", tones.run), drawKey("the map, its mean velocity", tones.map));
    point();
  }

  function point() {
    const arcs = arcsOf(shown);
    if (!arcs) return;
    const scales = makeScales(arcs);
    const { run, tone } = shown;
    const k = Math.min(cursor, run.n);
    const here = arcs.at(k);
    const { start, tangent } = arcs.arcs[here.arc];
    const [own, other] = [`tone-${tone}`, `tone-${(tone + 1) % 6}`];
    fill(
      box.querySelector(".chart-cursor"),
      svg("line", { class: "chart-position", ...ends(here.state, here.point, scales) }),
      drawArrow(start, tangent, scales, other),
      here.tangent ? drawArrow(here.state, here.tangent, scales, own) : null,
      svg("circle", { class: `chart-mark ${other}`, ...center(here.point, scales), r: 5 }),
      svg("circle", { class: `chart-mark ${own}`, ...center(here.state, scales), r: 5 }),
    );
    reading.textContent = describe(k, here, arcs);
    box.setAttribute("aria-label", reading.textContent);
  }

  function arcsOf(of) {
    const found = of && made.get(of.run)?.[of.steps];
    return found && "states" in found ? found : null;
  }

  // The run of the map, once for each number of steps.
  async function compute({ run, steps }, request) {
    const known = made.get(run) ?? {};
    made.set(run, known);
    if (known[steps]) return;
    known[steps] = { busy: true };
    state.textContent = "The map makes its run";
    try {
      const map = new Run(readRecord(await source.record(request, {})));
      known[steps] = measureArcs(run, map);
      state.textContent = "";
    } catch (error) {
      delete known[steps];
      sayError(state, error);
    }
    if (shown?.run === run) draw();
  }

  return {
    element,
    show({ run, tone }, steps, asked) {
      const request = run.levels ? requestOf(source, run, steps, asked) : null;
      element.hidden = !request;
      shown = request && steps ? { run, tone, steps } : null;
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(ARCS[i] === steps)));
      draw();
      if (shown) compute(shown, request);
    },
    mark(k) {
      cursor = k;
      point();
    },
  };
}

// The request for the run of the map; null if there is none for this run: a branch, or a run with LoRAs.
function requestOf({ models, record }, run, steps, asked) {
  if (!record || !models || !asked?.texts || asked.branches.length || Object.keys(asked.loras).length || asked.mode !== "txt2img") return null;
  const model = models.find(({ name }) => name === asked.model) ?? models[0];
  if (!model.flow_map || model.flow_map === model.name) return null;
  const texts = Object.fromEntries(SHARED.filter((name) => name in asked.texts).map((name) => [name, asked.texts[name]]));
  return { mode: "txt2img", model: model.flow_map, loras: {}, branches: [], texts: { ...texts, seed: toText(run.meta.params?.seed ?? run.meta.seed), steps: String(steps) } };
}

function describe(k, { arc, angle, gap }, { arcs, end }) {
  const which = arcs.length > 1 ? `arc ${arc + 1}` : "the arc";
  if (angle === null) return `The end: the last arc arrives ${formatNumber(end)} from the end of the run.`;
  return `Step ${k}: the velocity is ${Math.round(angle)}° from the mean velocity of ${which}, and ${which} passes ${formatNumber(gap)} from the state.`;
}

// -- the drawing

function makeScales({ states, arcs }) {
  const points = [[0, 0], ...states, ...arcs.flatMap((arc) => arc.points)];
  const [right, top] = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis])));
  const [left, low] = [0, 1].map((axis) => Math.min(...points.map((point) => point[axis])));
  const size = Math.min((WIDTH - 2 * MARGIN) / (right - left), (HEIGHT - 2 * MARGIN) / (top - low));
  return { size, x: (value) => MARGIN + (value - left) * size, y: (value) => HEIGHT - MARGIN - (value - low) * size };
}

function center([x, y], scales) {
  return { cx: scales.x(x), cy: scales.y(y) };
}

function ends([x1, y1], [x2, y2], scales) {
  return { x1: scales.x(x1), y1: scales.y(y1), x2: scales.x(x2), y2: scales.y(y2) };
}

function pathOf(points, scales) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${scales.x(x).toFixed(1)} ${scales.y(y).toFixed(1)}`).join("");
}

function drawAxes() {
  const text = (at, anchor, content) => svg("text", { class: "chart-text", "text-anchor": anchor, ...at }, content);
  return [
    svg("line", { class: "chart-axis", x1: MARGIN, x2: WIDTH - 4, y1: HEIGHT - MARGIN, y2: HEIGHT - MARGIN }),
    svg("line", { class: "chart-axis", x1: MARGIN, x2: MARGIN, y1: 4, y2: HEIGHT - MARGIN }),
    text({ x: WIDTH / 2, y: HEIGHT - 8 }, "middle", "towards the picture of the run"),
    text({ x: -HEIGHT / 2 + MARGIN / 2, y: 14, transform: "rotate(-90)" }, "middle", "its noise"),
  ];
}

function drawArrow([x, y], [dx, dy], scales, tone) {
  const [x1, y1] = [scales.x(x), scales.y(y)];
  const [x2, y2] = [scales.x(x + ARROW * dx), scales.y(y + ARROW * dy)];
  const turn = Math.atan2(y2 - y1, x2 - x1);
  const wing = (side) => `L${(x2 - HEAD * Math.cos(turn + side)).toFixed(1)} ${(y2 - HEAD * Math.sin(turn + side)).toFixed(1)}`;
  return svg("path", { class: `chart-line ex-arrow ${tone}`, d: `M${x1} ${y1}L${x2} ${y2}${wing(0.5)}M${x2} ${y2}${wing(-0.5)}` });
}

function drawKey(name, tone) {
  const stroke = svg("svg", { width: 22, height: 8, "aria-hidden": "true" }, svg("line", { class: `chart-line ${tone}`, x1: 0, x2: 22, y1: 4, y2: 4 }));
  return h("span", {}, stroke, name);
}
