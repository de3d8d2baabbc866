// @ts-check
// Where a run stands on its path: how much the picture and the noise count in each state, as points on
// the curve of the run. All numbers are those of the record.

import { formatNumber } from "../charts.js";
import { h, svg } from "../dom.js";
import { explain } from "./explain.js";
import { formulaButton } from "./formulas.js";
import { NUMBERS, PATHS } from "./plain.js";

const WIDTH = 220;
const HEIGHT = 190;
const MARGIN = { left: 38, right: 30, top: 10, bottom: 34 };

/** Return the drawing: {element, show(runs), mark(k)}, with runs [{run, letter, tone, main}]. */
export function createPath(onMove) {
  let shown = []; // runs whose records have levels
  let cursor = 0;
  let hovered = null;
  const box = h("div", { class: "chart-box", role: "slider", tabindex: 0, "aria-label": "Position on the path" });
  const reading = explain(h("output", { class: "ex-sentence" }), NUMBERS.path);
  const about = h("p", { class: "soft small" });
  const caption = h("figcaption", {}, h("span", { class: "ex-path-title" }, "path ", formulaButton("x")), reading, about);
  const element = h("figure", { class: "chart ex-path" }, box, caption);

  const main = () => shown.find((one) => one.main) ?? shown[0];

  function draw() {
    const scales = makeScales(shown);
    box.replaceChildren(
      svg(
        "svg",
        { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, "aria-hidden": "true" },
        drawAxes(scales),
        [...new Set(shown.map(({ run }) => run.levels.curve))].map((curve) => drawCurve(curve, scales)),
        shown.flatMap(({ run, tone }) => pointsOf(run).map(([a, s]) => svg("circle", { class: `chart-point tone-${tone}`, cx: scales.x(a), cy: scales.y(s), r: 2.2 }))),
        svg("g", { class: "chart-cursor" }),
      ),
    );
    point();
  }

  // The mark, and its numbers in words: at the step that is shown, or under the pointer.
  function point() {
    if (!shown.length) return;
    const scales = makeScales(shown);
    const k = hovered ?? cursor;
    const { run } = main();
    const [a, s] = pointsOf(run)[Math.min(k, run.n)];
    const lines = [{ x1: scales.x(a), x2: scales.x(a), y1: scales.y(s), y2: scales.y(0) }, { x1: scales.x(0), x2: scales.x(a), y1: scales.y(s), y2: scales.y(s) }];
    const marks = shown
      .filter((one) => k <= one.run.n)
      .map(({ run: one, tone }) => svg("circle", { class: `chart-mark tone-${tone}`, cx: scales.x(pointsOf(one)[k][0]), cy: scales.y(pointsOf(one)[k][1]), r: 5 }));
    box.querySelector(".chart-cursor").replaceChildren(...lines.map((line) => svg("line", { class: "chart-position", ...line })), ...marks);
    reading.textContent = describe(k);
    about.textContent = PATHS[run.levels.curve] ?? "";
    box.setAttribute("aria-valuemin", "0");
    box.setAttribute("aria-valuemax", String(run.n));
    box.setAttribute("aria-valuenow", String(Math.min(cursor, run.n)));
    box.setAttribute("aria-valuetext", describe(cursor));
  }

  function describe(k) {
    const { run } = main();
    const step = Math.min(k, run.n);
    const [a, s] = pointsOf(run)[step];
    return `Step ${step}: the picture counts ${formatNumber(a)}, the noise ${formatNumber(s)}.`;
  }

  function nearest(event) {
    const { left, top, width } = box.firstElementChild.getBoundingClientRect();
    const scales = makeScales(shown);
    const [x, y] = [event.clientX - left, event.clientY - top].map((pixels) => (pixels * WIDTH) / width);
    const far = pointsOf(main().run).map(([a, s]) => Math.hypot(scales.x(a) - x, scales.y(s) - y));
    return far.indexOf(Math.min(...far));
  }

  box.addEventListener("pointermove", (event) => {
    hovered = nearest(event);
    point();
  });
  box.addEventListener("pointerleave", () => {
    hovered = null;
    point();
  });
  box.addEventListener("click", (event) => onMove(nearest(event)));
  box.addEventListener("keydown", (event) => {
    const { n } = main().run;
    const moves = { ArrowLeft: cursor - 1, ArrowRight: cursor + 1, Home: 0, End: n };
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    onMove(Math.min(Math.max(moves[event.key], 0), n));
  });

  return {
    element,
    show(runs) {
      shown = runs.filter(({ run }) => run.levels);
      element.hidden = shown.length === 0;
      hovered = null;
      if (shown.length) draw();
    },
    mark(k) {
      cursor = k;
      point();
    },
  };
}

/** Return the points of a run, [how much the picture counts, how much the noise]. */
function pointsOf({ levels }) {
  return levels.signal.map((a, k) => [a, levels.noise[k]]);
}

function makeScales(runs) {
  const most = Math.max(1, ...runs.flatMap(({ run }) => run.levels.noise));
  const right = WIDTH - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  return {
    most,
    x: (a) => MARGIN.left + a * (right - MARGIN.left),
    y: (s) => bottom - (s / most) * (bottom - MARGIN.top),
  };
}

function drawAxes({ most, x, y }) {
  const text = (at, anchor, content) => svg("text", { class: "chart-text", "text-anchor": anchor, ...at }, content);
  return [
    svg("line", { class: "chart-axis", x1: x(0), x2: x(1), y1: y(0), y2: y(0) }),
    svg("line", { class: "chart-axis", x1: x(0), x2: x(0), y1: y(0), y2: y(most) }),
    text({ x: x(0), y: y(0) + 15 }, "middle", "0"),
    text({ x: x(1), y: y(0) + 15 }, "middle", "1"),
    text({ x: x(0) - 6, y: y(most) + 4 }, "end", formatNumber(most)),
    text({ x: x(0.5), y: HEIGHT - 4 }, "middle", "picture, alpha"),
    text({ x: -(y(0) + y(most)) / 2, y: 14, transform: "rotate(-90)" }, "middle", "noise, sigma"),
  ];
}

// The curve of a kind: a quarter of a circle, the straight line, or the axis where the picture counts 1.
function drawCurve(curve, { most, x, y }) {
  const start = `M${x(1)} ${y(0)}`;
  const ways = {
    preserving: `A${x(1) - x(0)} ${y(0) - y(1)} 0 0 0 ${x(0)} ${y(1)}`,
    flow: `L${x(0)} ${y(1)}`,
    exploding: `L${x(1)} ${y(most)}`,
  };
  return curve in ways ? svg("path", { class: "chart-line series-context", "data-curve": curve, d: start + ways[curve] }) : null;
}
