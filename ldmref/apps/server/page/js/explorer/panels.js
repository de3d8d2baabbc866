// @ts-check
// The images of one step: x, the predictions, and their difference, each on a canvas with numbers.

import { h } from "../dom.js";
import { formatNumber } from "../charts.js";
import { explain } from "./explain.js";
import { formulaButton } from "./formulas.js";
import { NUMBERS, PANELS, describeGuess } from "./plain.js";
import { divergingColours, largest, moments, paint, rmsDifference, signedDifference } from "./preview.js";

export const IMAGES = {
  x: { title: "Noisy state", symbol: "x", formula: "x" },
  x0_uncond: { title: "Without prompt", symbol: "x̂₀(∅)", formula: "uncond" },
  x0_cond: { title: "With prompt", symbol: "x̂₀(c)", formula: "cond" },
  x0: { title: "Guided", symbol: "x̂₀", formula: "guided" },
};

// The differences between two predictions of one run.
export const PAIRS = {
  "cond-uncond": { of: ["x0_cond", "x0_uncond"], text: "with prompt − without" },
  "guided-cond": { of: ["x0", "x0_cond"], text: "guided − with prompt" },
  "guided-uncond": { of: ["x0", "x0_uncond"], text: "guided − without prompt" },
};

function createPanel(key, title, symbol, formula) {
  const canvas = h("canvas", { role: "img", width: 1, height: 1 });
  const badge = h("span", { class: "ex-badge" });
  const numbers = explain(h("p", { class: "ex-numbers numbers" }), NUMBERS.moments);
  const name = h("span", { class: "ex-title" }, title);
  const legend = explain(h("div", { class: "ex-legend numbers", hidden: true }), NUMBERS.scale);
  const caption = h("figcaption", {}, h("span", {}, name, formulaButton(formula)), h("span", { class: "ex-symbol" }, symbol));
  const frame = h("div", { class: "ex-frame" }, canvas, badge);
  const plain = h("p", { class: "ex-plain" }, PANELS[key] ?? "");
  const element = h("figure", { class: "ex-panel", "data-image": key }, caption, frame, plain, legend, numbers);
  return { element, canvas, badge, numbers, legend, plain, name, title };
}

/** Return the panels of one run: {element, show(run, k, options), showDecoded(run, name, k, image)}. */
export function createRunPanels(row) {
  const panels = Object.fromEntries(
    Object.entries(IMAGES).map(([key, { title, symbol, formula }]) => [key, createPanel(key, title, symbol, formula)]),
  );
  const difference = createDifference("difference", "Difference", "difference");
  const element = h("div", { class: "ex-panels", "data-row": row }, Object.values(panels).map((one) => one.element), difference.element);

  return {
    element,
    show(run, k, options) {
      for (const [key, panel] of Object.entries(panels)) {
        panel.element.hidden = !run.has(key) || (key === "x0" && run.onlyGuess !== null);
        panel.plain.textContent = key === used(run) ? describeGuess(run, k) : PANELS[key];
        panel.element.classList.toggle("absent", !run.hasAt(key, k));
        if (run.hasAt(key, k)) showImage(panel, run, key, k);
        else panel.numbers.textContent = "not computed in this step";
      }
      const { of, text } = PAIRS[options.pair];
      difference.element.hidden = run.onlyGuess !== null || !of.every((key) => run.hasAt(key, k));
      if (!difference.element.hidden) {
        const parts = of.map((key) => run.latents(key, k));
        const scale = options.fixed ? run.differenceScale(of, options.part) : null;
        difference.show({ run, parts, part: options.part, text, scale, where: `at step ${k}` });
      }
    },
    showDecoded(run, name, k, image) {
      const panel = panels[name === "x0" ? used(run) : name];
      panel.canvas.width = image.width;
      panel.canvas.height = image.height;
      panel.canvas.getContext("2d").drawImage(image, 0, 0);
      panel.badge.textContent = "decoded";
      panel.canvas.dataset.kind = "decoded";
      describeImage(panel, run, name, k);
    },
  };
}

// The image of the guess that is used: without guidance the only one that there is.
function used(run) {
  return run.onlyGuess ?? "x0";
}

function showImage(panel, run, name, k) {
  paint(panel.canvas, run.preview(name, k), run.width, run.height);
  panel.badge.textContent = run.previewName;
  panel.canvas.dataset.kind = "linear";
  describeImage(panel, run, name, k);
}

function describeImage(panel, run, name, k) {
  const { values, scale } = run.latents(name, k);
  const { mean, deviation } = moments(values, scale);
  const own = name === "x" || k === run.stepOf(k) ? "" : `, of the last step`;
  const text = `mean ${formatNumber(mean)}, deviation ${formatNumber(deviation)}${own}`;
  panel.numbers.textContent = text;
  const where = k === run.n ? "at the end" : `at step ${k}`;
  panel.canvas.setAttribute("aria-label", `${panel.title} ${where}, ${panel.badge.textContent}: ${text}`);
}

/** Return a panel for a signed difference: {element, show({run, parts, part, text, scale, where})}. */
export function createDifference(key, title, formula) {
  const panel = createPanel(key, title, "", formula);
  const symbol = panel.element.querySelector(".ex-symbol");
  const low = h("span");
  const high = h("span");
  panel.legend.append(low, h("span", { class: "ex-diverging", "aria-hidden": "true" }), high);
  panel.legend.hidden = false;
  explain(panel.numbers, NUMBERS.rms);
  panel.badge.hidden = true;
  panel.plain.hidden = key !== "difference"; // the others compare two runs
  return {
    element: panel.element,
    show({ run, parts, part, text, scale, where, short = "" }) {
      const [a, b] = parts;
      const values = signedDifference(a.values, b.values, run.pixels, run.matrix, part, a.scale, b.scale);
      const range = scale ?? largest(values);
      paint(panel.canvas, divergingColours(values, range), run.width, run.height);
      symbol.textContent = short;
      low.textContent = `−${formatNumber(range)}`;
      high.textContent = `+${formatNumber(range)}`;
      const rms = formatNumber(rmsDifference(a.values, b.values, a.scale, b.scale));
      panel.numbers.textContent = short ? `rms of all channels ${rms}` : `${text}, rms ${rms}`;
      panel.canvas.setAttribute(
        "aria-label",
        `${title} ${where}, ${text}, ${part}: from −${formatNumber(range)} (blue) to +${formatNumber(range)} (red); rms of all channels ${rms}`,
      );
    },
  };
}

/** Return the difference of two runs: {element, canvases, show(a, ka, b, kb, options)}. */
export function createComparison() {
  const images = Object.fromEntries(Object.entries(IMAGES).map(([key, { title, formula }]) => [key, createDifference(key, title, formula)]));
  const finished = createImageDifference();
  const problem = h("p", { class: "notice", hidden: true }, "The latents of the two runs have different sizes, so they cannot be subtracted.");
  const panels = h("div", { class: "ex-panels", "data-row": "comparison" }, Object.values(images).map((one) => one.element), finished.element);
  return {
    element: h("div", {}, problem, panels),
    show(a, ka, b, kb, { part, letters }) {
      const same = a.width === b.width && a.height === b.height && a.channels === b.channels;
      problem.hidden = same;
      const short = `${letters[1]} − ${letters[0]}`;
      for (const [key, image] of Object.entries(images)) {
        const twice = key === "x0" && a.onlyGuess !== null && a.onlyGuess === b.onlyGuess;
        image.element.hidden = !same || twice || !a.hasAt(key, ka) || !b.hasAt(key, kb);
        if (image.element.hidden) continue;
        const parts = [b.latents(key, kb), a.latents(key, ka)];
        image.show({ run: a, parts, part, text: short, short, scale: null, where: `at steps ${ka} and ${kb}` });
      }
      finished.show(a, b, short);
    },
  };
}

// The difference of the two finished images, enlarged around grey.
function createImageDifference() {
  const panel = createPanel("image", "Finished", "", "preview");
  explain(panel.numbers, NUMBERS.rms);
  panel.badge.hidden = true;
  const symbol = panel.element.querySelector(".ex-symbol");
  return {
    element: panel.element,
    show(a, b, text) {
      const [first, second] = [a, b].map((run) => run.record.tensors.image);
      panel.element.hidden = first.data.length !== second.data.length;
      if (panel.element.hidden) return;
      const [height, width] = first.shape;
      const changes = Float64Array.from(second.data, (value, i) => value - first.data[i]);
      const most = largest(changes) || 1;
      const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
      changes.forEach((change, i) => (rgba[4 * Math.floor(i / 3) + (i % 3)] = 128 + (127 * change) / most));
      paint(panel.canvas, rgba, width, height);
      symbol.textContent = text;
      const rms = formatNumber(rmsDifference(second.data, first.data));
      panel.numbers.textContent = `rms ${rms}, largest ${largest(changes)} of 255`;
      panel.canvas.setAttribute("aria-label", `Difference of the finished images, ${text}: ${panel.numbers.textContent}; grey is no difference`);
    },
  };
}

/** Draw the thumbnail of x, x0 or the noise of a run at a position. */
export function drawThumbnail(canvas, run, name, k) {
  paint(canvas, run.preview(name, k), run.width, run.height);
}
