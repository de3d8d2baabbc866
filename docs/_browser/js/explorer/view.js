// The view of a run: the film of its steps, the images of one step, and two charts.

import { createChart, formatNumber } from "../../shared/js/charts.js";
import { fill, h } from "../../shared/js/dom.js";
import { divergingColours, largest, moments, paint, rmsDifference, signedDifference } from "../../shared/js/explorer/preview.js";
import { createScrubber } from "../../shared/js/explorer/scrubber.js";
import { IMAGES } from "./run.js";

const TITLES = {
  x: ["Noisy state", "x"],
  x0_uncond: ["Without prompt", "x̂₀(∅)"],
  x0_cond: ["With prompt", "x̂₀(c)"],
  x0: ["Guided", "x̂₀"],
};

/** Return the view: {element, show(run, k), addStep(run), showDecoded(run, key), key(event), position}. */
export function createView(onMove) {
  let run = null;
  let position = 0;
  const scrubber = createScrubber(onMove);
  const film = h("div", { class: "br-film", role: "group", "aria-label": "Film of the steps" });
  const panels = Object.fromEntries(IMAGES.map((name) => [name, createPanel(name, ...TITLES[name])]));
  const difference = createPanel("difference", "Difference", "x̂₀(c) − x̂₀(∅)");
  const all = [...Object.values(panels), difference];
  const noise = createChart({
    title: "Noise level σ of each state", xLabel: "step", log: true, read: (k) => describeNoise(k), onMove,
  });
  const change = createChart({
    title: "Change that the prompt makes, rms of x̂₀(c) − x̂₀(∅)", xLabel: "step", read: (k) => describeChange(k), onMove,
  });
  const element = h(
    "div",
    { class: "br-view", hidden: true },
    film,
    scrubber.element,
    h("div", { class: "ex-panels" }, all.map((panel) => panel.element)),
    h("div", { class: "br-charts" }, noise.element, change.element),
  );

  function describeNoise(k) {
    if (!run || k > run.steps) return "";
    const timestep = k < run.steps ? `, timestep ${run.timesteps[k]}` : "";
    return `step ${k}: σ = ${formatNumber(run.sigmas[k])}${timestep}`;
  }

  function describeChange(k) {
    const values = run?.promptChange() ?? [];
    return k < values.length ? `step ${k}: ${formatNumber(values[k])}` : "";
  }

  function drawFrame(k) {
    let frame = film.children[k];
    if (!frame) {
      frame = h("button", { type: "button", class: "br-frame", onclick: () => onMove(k) }, h("canvas", { width: 1, height: 1 }), h("span", {}, String(k)));
      film.append(frame);
    }
    const name = k === run.steps ? "x" : "x0";
    frame.setAttribute("aria-label", k === run.steps ? "The finished image" : `Step ${k}, guided prediction`);
    drawImage(frame.firstChild, run, name, k);
  }

  function show(newRun, k) {
    if (newRun !== run) fill(film);
    run = newRun;
    position = k;
    element.hidden = false;
    for (let i = film.children.length; i <= run.last; i += 1) if (i < run.predictions.length || i === run.steps) drawFrame(i);
    moveInFilm(k);
    scrubber.set(k, run.last, `step ${k} of ${run.steps}`);
    for (const name of IMAGES) showPanel(panels[name], name, k);
    showDifference(k);
    const steps = run.sigmas.map((_, i) => i);
    noise.setSeries([{ x: steps, y: run.sigmas, style: "tone-0", points: true }]);
    const values = run.promptChange();
    change.setSeries([{ x: values.map((_, i) => i), y: values, style: "tone-1", points: true }]);
    noise.setCursor(k);
    change.setCursor(Math.min(k, Math.max(values.length - 1, 0)));
  }

  // One stop of the Tab key; the arrow keys move on.
  function moveInFilm(k) {
    const focused = film.contains(document.activeElement);
    [...film.children].forEach((frame, i) => {
      frame.setAttribute("aria-current", String(i === k));
      frame.tabIndex = i === k ? 0 : -1;
    });
    if (focused) film.children[k]?.focus();
  }

  function showPanel(panel, name, k) {
    const { values, scale } = run.latents(name, k);
    panel.element.classList.toggle("absent", !values);
    if (!values) return;
    panel.badge.textContent = drawImage(panel.canvas, run, name, k);
    const { mean, deviation } = moments(values, scale);
    const text = `mean ${formatNumber(mean)}, deviation ${formatNumber(deviation)}`;
    panel.numbers.textContent = text;
    panel.canvas.setAttribute("aria-label", `${panel.title} at step ${k}: ${text}`);
  }

  function showDifference(k) {
    const cond = run.latents("x0_cond", k).values;
    const uncond = run.latents("x0_uncond", k).values;
    difference.element.classList.toggle("absent", !cond);
    if (!cond) return;
    const values = signedDifference(cond, uncond, run.width * run.height, run.manifest.preview.matrix, "brightness");
    const most = largest(values);
    paint(difference.canvas, divergingColours(values, most), run.width, run.height);
    const text = `blue darker, red brighter, up to ${formatNumber(most)}; rms ${formatNumber(rmsDifference(cond, uncond))}`;
    difference.numbers.textContent = text;
    difference.canvas.setAttribute("aria-label", `Difference at step ${k}: ${text}`);
  }

  return {
    element,
    show,
    get position() {
      return position;
    },
    /** Replace linear previews by an image that was decoded. */
    showDecoded(of, key) {
      if (of !== run) return;
      for (const name of IMAGES) if (run.key(name, position) === key) showPanel(panels[name], name, position);
      const k = Number(key.split(" ")[1]);
      if (key === `x ${run.steps}` || (key.startsWith("x0 ") && film.children[k])) drawFrame(k);
    },
    stop: () => scrubber.stop(),
    key: (event) => run && scrubber.key(event),
  };
}

function createPanel(name, title, symbol) {
  const canvas = h("canvas", { role: "img", width: 1, height: 1 });
  const badge = h("span", { class: "ex-badge" });
  const numbers = h("p", { class: "ex-numbers numbers" });
  const caption = h("figcaption", {}, h("span", { class: "ex-title" }, title), h("span", { class: "ex-symbol" }, symbol));
  const frame = h("div", { class: "ex-frame" }, canvas, badge);
  return { element: h("figure", { class: "ex-panel", "data-image": name }, caption, frame, numbers), canvas, badge, numbers, title };
}

// Draw the decoded image of an array, or its linear preview; returns which one it is.
function drawImage(canvas, run, name, k) {
  const image = run.decoded.get(run.key(name, k));
  if (image) paint(canvas, image.rgba, image.width, image.height);
  else paint(canvas, run.preview(name, k), run.width, run.height);
  canvas.dataset.kind = image ? "decoded" : "linear";
  return image ? "decoded" : "linear preview";
}
