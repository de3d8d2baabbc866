// @ts-check
// The position of a step on the curves of alpha-bar, the signal-to-noise ratio, and sigma.

import { h } from "../dom.js";
import { createChart, formatNumber } from "../charts.js";
import { explain } from "./explain.js";
import { formulaButton } from "./formulas.js";
import { createPath } from "./path.js";
import { NUMBERS } from "./plain.js";

const CURVES = [
  { key: "alpha_bar", title: "alpha-bar", log: false, range: [0, 1], of: (run, k) => run.alphaBar(k), curve: (a) => a },
  { key: "snr", title: "SNR", log: true, of: (run, k) => run.snr(k), curve: (a) => a / (1 - a) },
  { key: "sigma", title: "sigma", log: true, of: (run, k) => run.sigmas[k], curve: (a) => Math.sqrt((1 - a) / a) },
];

/** Return the curves: {element, show(runs), mark(k)}, with runs [{run, letter, tone}]. */
export function createCurves(onMove) {
  let shown = null;
  const path = createPath(onMove);
  const charts = CURVES.map((curve) =>
    createChart({
      title: `${curve.title} by timestep`,
      caption: [curve.title, " ", formulaButton(curve.key)],
      xLabel: "timestep t",
      log: curve.log,
      range: curve.range,
      reversed: true,
      read: (k) => (shown ? describe(curve, shown, Math.min(k, shown.n)) : ""),
      onMove,
    }),
  );
  charts.forEach(({ element: one }, i) => explain(one.querySelector(".chart-reading"), NUMBERS[CURVES[i].key]));
  const element = h(
    "section",
    { class: "panel", "aria-labelledby": "ex-curves-title" },
    h("h2", { id: "ex-curves-title" }, "Position on the schedule"),
    h("p", { class: "ex-plain" }, "How much noise each step starts from: at first it is nearly everything, in the end there is none."),
    path.element,
    h("div", { class: "ex-charts" }, charts.map((chart) => chart.element)),
  );
  return {
    element,
    show(runs) {
      shown = runs.find((one) => one.main).run;
      path.show(runs);
      charts.forEach((chart, i) => chart.setSeries(makeSeries(CURVES[i], runs)));
    },
    mark(k) {
      path.mark(k);
      charts.forEach((chart) => chart.setCursor(k));
    },
  };
}

function makeSeries(curve, runs) {
  const { run } = runs.find((one) => one.main);
  const lines = [];
  if (run.has("training_alpha_bar")) {
    const { data } = run.record.tensors.training_alpha_bar;
    const x = Array.from(data, (_, t) => t);
    lines.push({ x, y: Array.from(data, curve.curve), points: false, style: "series-context" });
  }
  runs.forEach(({ run: one, main, letter, tone }) => {
    const x = Array.from(one.sigmas, (_, k) => one.timestep(k) ?? 0);
    const y = x.map((_, k) => curve.of(one, k));
    lines.push({ name: runs.length > 1 ? letter : null, x, y, points: true, marked: main, style: `tone-${tone}` });
  });
  // The cursor reads the first line with points.
  return lines.sort((a, b) => Number(b.marked ?? false) - Number(a.marked ?? false));
}

function describe(curve, run, k) {
  const t = run.timestep(k);
  const where = t === null ? "the end" : `t = ${formatNumber(t)}`;
  return `step ${k}, ${where}: ${formatNumber(curve.of(run, k))}`;
}
