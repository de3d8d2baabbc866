// @ts-check
// The words of the prompt and their maps: how much each place attends to them.

import { fill, h } from "../dom.js";
import { formatNumber } from "../charts.js";
import { explain } from "./explain.js";
import { formulaButton } from "./formulas.js";
import { NUMBERS } from "./plain.js";
import { amountColours, linearPreview, paint, paintOver } from "./preview.js";
import { findTelling } from "./telling.js";

/**
 * Return the attention panel: {element, show(runs, view)}, with runs [{run, k, letter, tone}].
 * `view.word` is the word of the first run, and of the second if `view.word2` is empty.
 */
export function createWords(change) {
  const choices = h("div", { class: "stack" });
  const missing = h("p", { class: "small", role: "status" });
  const opacity = h("input", { type: "range", min: 0, max: 100, value: 65, "aria-label": "Opacity of the map" });
  const maps = h("div", { class: "ex-panels ex-maps" });
  const about = h("div", { class: "soft small" });
  const ofImage = h("span", {}, ", and to the other places of the image");
  const element = h(
    "section",
    { class: "panel ex-words", "aria-labelledby": "ex-words-title" },
    h("h2", { id: "ex-words-title" }, "Attention to each word ", formulaButton("attention")),
    h("p", { class: "ex-plain" }, "Where the computer looks for each word while it guesses: bright places attend to the word. The number beside a word is its share of the attention; the rest goes to the beginning, the end and the padding of the text", ofImage, "."),
    choices,
    missing,
    maps,
    h("label", { class: "ex-inline small" }, "Opacity", opacity),
    about,
  );
  let last = null;
  opacity.addEventListener("input", () => last && show(...last));

  function show(runs, view) {
    last = [runs, view];
    const wanted = [view.word, view.word2 || view.word];
    const mapped = runs
      .map((one, place) => ({ ...one, name: ["word", "word2"][place], wanted: wanted[place] }))
      .filter(({ run }) => run.has("attention") && run.words.length > 0);
    element.hidden = mapped.length === 0;
    if (element.hidden) return;
    const key = JSON.stringify(mapped.map(({ run, name, letter }) => [letter, name, run.words]));
    if (choices.dataset.words !== key) {
      choices.dataset.words = key;
      fill(choices, mapped.map((one) => makeChips(one, mapped.length > 1, change)));
    }
    const notes = [];
    const drawn = mapped.map((one, place) => {
      const texts = one.run.readings.flatMap(({ words }) => words);
      const exact = one.run.words.indexOf(one.wanted);
      const found = exact < 0 ? texts.indexOf(one.wanted) : exact; // a link may name the word alone
      const chosen = found < 0 ? findTelling(one.run.readings[0].words) : found;
      if (one.wanted && found < 0) notes.push(`The prompt of run ${one.letter} has no “${one.wanted}”: “${one.run.words[chosen]}” is shown.`);
      markChips(choices.children[place], one, chosen);
      return makeMap(one, chosen, Number(opacity.value) / 100);
    });
    missing.textContent = notes.join(" ");
    missing.hidden = notes.length === 0;
    fill(maps, drawn);
    const { run } = runs.find((one) => one.main);
    ofImage.hidden = !run.meta.attention?.tokens?.includes("image");
    if (about.dataset.run !== run.meta.params?.prompt) {
      about.dataset.run = run.meta.params?.prompt;
      fill(about, describe(run));
    }
  }

  return { element, show };
}

function makeChips({ run, name, letter, tone }, several, change) {
  const label = several ? `Words of run ${letter}` : "Words of the prompt";
  let place = 0;
  const makeChip = (word) => {
    const wanted = run.words[place++];
    return explain(h("button", { type: "button", class: "chip", onclick: () => change({ [name]: wanted }) }, word, " ", h("span", { class: "numbers soft" })), NUMBERS.word);
  };
  const rows = run.readings.map(({ encoder, words }, i) =>
    h(
      "div",
      { class: "row" },
      several && i === 0 ? h("span", { class: `ex-letter tone-${tone}` }, letter) : null,
      encoder ? h("span", { class: "soft small" }, encoder) : null,
      words.map(makeChip),
    ),
  );
  return h("div", { class: "stack", role: "group", "aria-label": label }, rows);
}

function markChips(group, { run, k }, chosen) {
  [...group.querySelectorAll(".chip")].forEach((chip, i) => {
    chip.setAttribute("aria-pressed", String(i === chosen));
    chip.lastChild.textContent = formatShare(run.wordMap(i, k).mean);
  });
}

/** Draw the map of a word over the guess at position k, and return the map. */
export function drawWordMap(canvas, run, word, k, opacity) {
  const map = run.wordMap(word, k);
  const base = document.createElement("canvas");
  const { values, scale } = run.latents("x0", k);
  paint(base, linearPreview(values, run.pixels, run.matrix, run.bias, scale), run.width, run.height);
  paintOver(canvas, base, amountColours(map.values, map.scale, opacity), map.width, map.height);
  return map;
}

function makeMap({ run, k, letter, tone }, word, opacity) {
  const canvas = h("canvas", { role: "img" });
  const map = drawWordMap(canvas, run, word, k, opacity);
  const range = `${formatShare(Math.min(...map.values))} to ${formatShare(Math.max(...map.values))}`;
  const text = `${range} of the attention of a place, ${formatShare(map.mean)} on average`;
  canvas.setAttribute("aria-label", `Attention to "${run.words[word]}" in run ${letter} at step ${run.stepOf(k)}: ${text}`);
  return h(
    "figure",
    { class: "ex-panel" },
    h("figcaption", {}, h("span", { class: `ex-letter tone-${tone}` }, letter), h("span", { class: "ex-title" }, `“${run.words[word]}”`)),
    h("div", { class: "ex-frame" }, canvas),
    explain(h("div", { class: "ex-legend numbers" }, h("span", {}, "0 %"), h("span", { class: "ex-amount", "aria-hidden": "true" }), h("span", {}, formatShare(map.scale))), NUMBERS.share),
    explain(h("p", { class: "ex-numbers numbers" }, text), NUMBERS.share),
  );
}

// A share as people read it: 0.00933 is "0.933 %".
function formatShare(share) {
  return `${formatNumber(100 * share)} %`;
}

function describe(run) {
  const { layers = [], heads = [], average = "" } = run.meta.attention ?? {};
  const counts = layers.map((_, i) => (Array.isArray(heads) ? heads[i] : heads));
  const total = counts.reduce((sum, count) => sum + (count ?? 0), 0);
  const how = average ? `${average.charAt(0).toUpperCase()}${average.slice(1)}` : "Mean over heads and layers";
  return [
    h("span", {}, `${how}: ${layers.length} layers, ${total} heads. Each map is that of one step, and its colours have the same scale at all steps.`),
    h(
      "details",
      {},
      h("summary", {}, "Layers"),
      h("ul", {}, layers.map((layer, i) => h("li", {}, h("code", {}, layer.replace(/[.]transformer_blocks[.]0[.]attn2$/, "")), counts[i] ? `, ${counts[i]} heads` : ""))),
    ),
  ];
}
