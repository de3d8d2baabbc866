// The words of the prompt and their maps of cross-attention.

import { fill, h } from "../dom.js";
import { formatNumber } from "../charts.js";
import { formulaButton } from "./formulas.js";
import { amountColours, linearPreview, paint, paintOver } from "./preview.js";

/** Return the attention panel: {element, show(runs, word)}, with runs [{run, k, letter, tone}]. */
export function createWords(onWord) {
  const chips = h("div", { class: "row", role: "group", "aria-label": "Words of the prompt" });
  const opacity = h("input", { type: "range", min: 0, max: 100, value: 65, "aria-label": "Opacity of the map" });
  const maps = h("div", { class: "ex-panels ex-maps" });
  const about = h("div", { class: "soft small" });
  const element = h(
    "section",
    { class: "panel ex-words", "aria-labelledby": "ex-words-title" },
    h("h2", { id: "ex-words-title" }, "Attention to each word ", formulaButton("attention")),
    chips,
    maps,
    h("label", { class: "ex-inline small" }, "Opacity", opacity),
    about,
  );
  let last = null;
  opacity.addEventListener("input", () => last && show(...last));

  function show(runs, word) {
    last = [runs, word];
    const { run, k } = runs.find((one) => one.main);
    element.hidden = !run.has("attention") || run.words.length === 0;
    if (element.hidden) return;
    const chosen = Math.max(run.words.indexOf(word), 0);
    if (chips.dataset.words !== run.words.join(" ")) makeChips(run.words);
    [...chips.children].forEach((chip, i) => {
      chip.setAttribute("aria-pressed", String(i === chosen));
      chip.lastChild.textContent = formatNumber(run.wordMap(i, k).mean);
    });
    maps.replaceChildren(
      ...runs
        .filter((one) => one.run.has("attention") && one.run.words.includes(run.words[chosen]))
        .map((one) => makeMap(one, one.run.words.indexOf(run.words[chosen]), Number(opacity.value) / 100)),
    );
    if (about.dataset.run !== run.meta.params?.prompt) {
      about.dataset.run = run.meta.params?.prompt;
      fill(about, describe(run));
    }
  }

  function makeChips(words) {
    chips.dataset.words = words.join(" ");
    chips.replaceChildren(
      ...words.map((word) =>
        h("button", { type: "button", class: "chip", onclick: () => onWord(word) }, word, " ", h("span", { class: "numbers soft" })),
      ),
    );
  }

  return { element, show };
}

function makeMap({ run, k, letter, tone }, word, opacity) {
  const map = run.wordMap(word, k);
  const base = document.createElement("canvas");
  const { values, scale } = run.latents("x0", k);
  paint(base, linearPreview(values, run.pixels, run.matrix, run.bias, scale), run.width, run.height);
  const canvas = h("canvas", { role: "img" });
  const range = `${formatNumber(Math.min(...map.values))} to ${formatNumber(Math.max(...map.values))}`;
  const text = `share ${range}, mean ${formatNumber(map.mean)}`;
  paintOver(canvas, base, amountColours(map.values, map.scale, opacity), map.width, map.height);
  canvas.setAttribute("aria-label", `Attention to "${run.words[word]}" in run ${letter} at step ${run.stepOf(k)}: ${text}`);
  return h(
    "figure",
    { class: "ex-panel" },
    h("figcaption", {}, h("span", { class: `ex-letter tone-${tone}` }, letter), h("span", { class: "ex-title" }, `“${run.words[word]}”`)),
    h("div", { class: "ex-frame" }, canvas),
    h("div", { class: "ex-legend numbers" }, h("span", {}, "0"), h("span", { class: "ex-amount", "aria-hidden": "true" }), h("span", {}, formatNumber(map.scale))),
    h("p", { class: "ex-numbers numbers" }, text),
  );
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
