// @ts-check
// The truth line: for each step the distance from the converged trajectory, and the local error.

import { fill, h } from "../dom.js";
import { createChart, formatNumber } from "../charts.js";
import { explain } from "./explain.js";
import { formulaButton } from "./formulas.js";
import { NUMBERS } from "./plain.js";

/**
 * Return the panel of the truth line: {element, show(runs, canCompute), mark(k), progress(...)}.
 * `runs` are [{run, letter, tone, index, busy}]; `onCompute(index)` starts the computation.
 */
export function createTruth({ onCompute, onCancel, onMove }) {
  let shown = [];
  const chart = createChart({
    title: "Distance from the truth and local error, by step",
    caption: "Both are root mean squares over the latents, relative to sqrt(alpha² + sigma²); the axis is logarithmic.",
    xLabel: "step",
    log: true,
    read: describe,
    onMove,
  });
  explain(chart.element.querySelector(".chart-reading"), NUMBERS.truth);
  const about = h("ul", { class: "soft small" });
  const buttons = h("div", { class: "row" });
  const state = h("p", { class: "soft", role: "status" });
  const element = h(
    "section",
    { class: "panel ex-truth", "aria-labelledby": "ex-truth-title" },
    h("h2", { id: "ex-truth-title" }, "The truth line ", formulaButton("distance"), formulaButton("local")),
    h("p", { class: "ex-plain" }, "A few large steps do not end exactly where endlessly many small ones would. This shows how far off each step is."),
    h(
      "p",
      { class: "soft small" },
      "The sampler approximates the solution of an ordinary differential equation. The solid line is the distance of each state from that solution, solved to convergence from the same noise; the dashed line is the error of each single step, solved again finely from the same state. It shows where a sampler errs.",
    ),
    chart.element,
    about,
    state,
    buttons,
  );

  function describe(k) {
    return shown
      .filter(({ run }) => run.truth && k <= run.n)
      .map(({ run, letter }) => {
        const { distance, local } = run.truth;
        const error = local && k < run.n ? `, local error of the next step ${formatNumber(local[k])}` : "";
        return `${letter}, step ${k}: distance ${formatNumber(distance[k])}${error}`;
      })
      .join("; ");
  }

  return {
    element,
    show(runs, canCompute) {
      shown = runs;
      const known = runs.filter(({ run }) => run.truth);
      element.hidden = known.length === 0 && !canCompute;
      chart.element.hidden = known.length === 0;
      if (known.length) chart.setSeries(known.flatMap(makeSeries));
      fill(about, known.flatMap(({ run, letter }) => describeSolution(run.truth.about).map((text) => h("li", {}, `${letter}: ${text}`))));
      buttons.replaceChildren(
        ...runs
          .filter(({ run }) => !run.truth && canCompute)
          .map(({ index, letter, busy }) =>
            busy
              ? h("button", { type: "button", onclick: () => onCancel(index) }, `Stop computing ${letter}`)
              : h("button", { type: "button", onclick: () => onCompute(index) }, `Compute the truth line of run ${letter}`),
          ),
      );
    },
    say(text) {
      state.textContent = text;
    },
    mark(k) {
      chart.setCursor(k);
    },
  };
}

function makeSeries({ run, letter, tone }) {
  const { distance, local } = run.truth;
  const x = Array.from(distance, (_, k) => k);
  const lines = [{ name: `${letter}: distance`, x, y: Array.from(distance), points: true, style: `tone-${tone}` }];
  if (local) {
    const y = [...local, NaN];
    lines.push({ name: `${letter}: local error`, x, y, points: true, style: `tone-${tone} dashed` });
  }
  return lines;
}

// What is known about the solution that the run is compared with.
function describeSolution({ change, tolerance, converged, evaluations, stochastic }) {
  const lines = [];
  if (evaluations) {
    const end = converged ? `the last refinement changed it by at most ${formatNumber(tolerance)}` : `not converged: the last refinement changed it by ${formatNumber(change)}`;
    lines.push(`solved with ${evaluations} evaluations of the network; ${end}.`);
  }
  if (stochastic) lines.push("the sampler adds noise, so it goes to another image on purpose: the two lines are not errors.");
  return lines;
}
