// @ts-check
// The parts of the overview, in the order in which a picture is made. Each has a title, the symbol
// of the course, a sentence, a small drawing, and what is inside, all from the data of the run.

import { formatNumber } from "../charts.js";
import { counted, h, svg } from "../dom.js";
import { explainGuidance } from "./plain.js";
import { amountColours, divergingColours, imageBytes, largest, paint, rmsDifference } from "./preview.js";

const size = (run) => `${run.height} x ${run.width}`;
const cells = (run) => run.channels * run.pixels;
const pixels = (run) => run.record.tensors.image.shape[0] * run.record.tensors.image.shape[1];
const showPicture = (canvas, run) => {
  const [height, width] = run.record.tensors.image.shape;
  paint(canvas, run.remember("image", () => imageBytes(run.record.tensors.image)), width, height);
};
const showLatents = (name) => (canvas, run, k) => paint(canvas, run.preview(name, k), run.width, run.height);

// `draw(canvas, run, k)` or `label(run)` is the drawing; `detail({run, k, texts, levels})` returns what
// is shown when the part is open; `needs` says which data of inside.js that takes; `target` is the
// panel of the page with more about it.
export const PARTS = [
  {
    key: "words", title: "Your words", symbol: "", target: "words",
    label: (run) => `“${run.meta.params?.prompt ?? ""}”`,
    plain: () => "You say what you want to see. The words steer every step: without them the computer would find any picture in the noise.",
    detail: ({ run }) => [h("p", { class: "ex-large" }, `“${run.meta.params?.prompt ?? ""}”`), run.meta.params?.negative_prompt ? h("p", {}, `Not wanted: “${run.meta.params.negative_prompt}”`) : null],
  },
  {
    key: "tokens", title: "Tokens", symbol: "", needs: "text", target: "words",
    label: labelTokens,
    plain: () => "The text is cut into pieces that the model knows, and each piece has a number in its list. A piece is a word or a part of one.",
    detail: ({ texts }) => texts.map(describePieces),
  },
  {
    key: "numbers", title: "Numbers", symbol: "c", needs: "text", target: "words",
    draw: (canvas, run, k, texts) => texts?.[0].hidden && drawHidden(canvas, texts[0].hidden),
    plain: () => "Each piece becomes a list of numbers that also tells what stands around it. These numbers are all that the next network learns of your words.",
    detail: ({ texts }) => (texts[0].hidden ? texts.map(describeHidden) : [h("p", {}, "This model reads no text.")]),
  },
  {
    key: "noise", title: "Noise", symbol: "x", target: "strips",
    draw: (canvas, run) => showLatents("x")(canvas, run, 0),
    plain: (run) => `The start is pure noise: ${cells(run)} random numbers. The seed, here ${run.meta.seed}, decides which. Where the words leave something open, the noise decides it.`,
    detail: ({ run }) => [figure("The start", (canvas) => showLatents("x")(canvas, run, 0))],
  },
  {
    key: "unet", title: "U-Net", named: ({ meta }) => (meta.network === "transformer" ? "Transformer" : "U-Net"), symbol: "x̂₀", needs: "levels", target: "images", repeated: true,
    draw: showLatents("x0"),
    plain: (run) => (run.meta.is_map
      ? `This network looks at the noise and at your words, and says where the way from here leads. It was trained to follow another network's way in ${run.n === 1 ? "one jump" : `few jumps, here ${run.n}`}.`
      : `This network looks at the noise and at your words, and guesses the finished picture. A guess from pure noise is rough, because many pictures would fit; so it moves a little towards the guess and looks again, in ${counted(run.n, "step")}.`),
    detail: ({ run, levels }) => (levels.length ? describeLevels(levels) : [h("p", {}, withoutLevels(run))]),
  },
  {
    key: "guidance", title: "Guidance", symbol: "s", target: "images",
    draw: (canvas, run, k) => run.hasAt("x0_uncond", k) && run.hasAt("x0_cond", k) && showDifference(canvas, run, k),
    plain: explainGuidance,
    detail: ({ run, k }) => describeGuidance(run, k),
  },
  {
    key: "latent", title: "Latent", symbol: "z", target: "strips",
    draw: showLatents("x"),
    plain: (run) => `A latent is a small grid of numbers that stands for a picture: ${size(run)} places with ${run.channels} numbers each, ${formatNumber((3 * pixels(run)) / cells(run))} times fewer than the picture has. All steps work on it, which saves time.`,
    detail: ({ run, k }) => [h("div", { class: "ex-layers" }, Array.from({ length: run.channels }, (_, c) => layerOf(run, k, c))), h("p", { class: "small soft" }, "Each square is one of the layers of the grid: red is above zero, blue below.")],
  },
  {
    key: "decoder", title: "Decoder", symbol: "D", target: "images",
    label: () => "z → pixels",
    plain: () => "A second network, the decoder, turns the small grid into pixels. It has learned what such numbers look like, down to edges and shading.",
    detail: ({ run }) => [figure("The latent, one colour for each place", (canvas) => showLatents("x")(canvas, run, run.n)), h("span", { class: "ex-towards", "aria-hidden": "true" }, "→"), figure("The pixels", (canvas) => showPicture(canvas, run))],
  },
  {
    key: "picture", title: "Picture", symbol: "", target: "images",
    draw: showPicture,
    plain: (run) => `The finished picture, ${run.record.tensors.image.shape[1]} x ${run.record.tensors.image.shape[0]} pixels. The same words, seed and settings give it again.`,
    detail: ({ run }) => [figure("The finished picture", (canvas) => showPicture(canvas, run))],
  },
];

function figure(caption, draw) {
  const canvas = h("canvas", { role: "img", "aria-label": caption });
  draw(canvas);
  return h("figure", { class: "ex-picture" }, h("div", { class: "ex-frame" }, canvas), h("figcaption", {}, caption));
}

function drawHidden(canvas, { shape: [rows, columns], data }) {
  const scale = largest(data) / 3;
  paint(canvas, divergingColours(data, scale), columns, rows);
}

// The words as each text encoder reads them; the overview has no room for more.
function labelTokens({ readings, meta }) {
  if (readings.length === 0) return meta.params?.prompt ? "not recorded" : "no text";
  return readings.map(({ encoder, words }) => `${encoder ? `${encoder}: ` : ""}${words.join(" | ")}`).join("; ");
}

function describePieces({ pieces, ids, limit, cut, encoder }) {
  return [
    encoder ? h("h4", {}, encoder) : null,
    h("ol", { class: "ex-pieces" }, pieces.map((piece, i) => h("li", {}, h("span", {}, piece), h("span", { class: "soft numbers" }, `number ${ids[i]}`)))),
    h("p", { class: "small" }, `${encoder || "The model"} reads at most ${limit} pieces, with those that mark the beginning and the end; this text has ${pieces.length}. ${cut ? `Cut: ${cut}.` : "Nothing was cut off."}`),
  ];
}

function describeHidden({ hidden, pieces, encoder }) {
  const [rows, columns] = hidden.shape;
  const canvas = h("canvas", { role: "img", class: "ex-hidden", "aria-label": `${rows} rows of ${columns} numbers` });
  drawHidden(canvas, hidden);
  canvas.style.setProperty("height", `${1.5 * rows}rem`);
  return [
    encoder ? h("h4", {}, encoder) : null,
    h("div", { class: "ex-rows" }, h("ol", { class: "ex-row-labels" }, pieces.map((piece) => h("li", {}, piece))), canvas),
    h("p", { class: "small soft" }, `Each row is a piece, each column one of its ${columns} numbers: red is above zero, blue below.`),
  ];
}

// The levels stand as a U: the grid is made smaller and then larger again.
function describeLevels(levels) {
  const widest = Math.max(...levels.map(({ width }) => width));
  const drawn = levels.map(({ name, width, height, values }, i) => {
    const canvas = h("canvas", { role: "img", "aria-label": `Level ${i + 1}, ${height} x ${width}` });
    paint(canvas, amountColours(values, largest(values)), width, height);
    canvas.style.setProperty("width", `${2 + (3 * Math.log2(width)) / Math.log2(widest)}rem`);
    return h("li", { title: name }, canvas, h("span", { class: "numbers" }, `${height} x ${width}`));
  });
  return [
    h("ol", { class: "ex-levels" }, drawn),
    h("p", { class: "small soft" }, "From left to right: the U-Net makes the grid smaller, to see the whole, and larger again, to place the parts. Bright places are active at this step."),
  ];
}

function withoutLevels({ meta }) {
  if (meta.network !== "transformer") return "This network has no levels that could be shown.";
  return "A transformer cuts the grid into patches and lets each of them look at all others and at the words, so it has no smaller grids that could be shown.";
}

function layerOf(run, k, channel) {
  const { values, scale } = run.latents("x", k);
  const own = values.subarray(channel * run.pixels, (channel + 1) * run.pixels).map((value) => value * scale);
  const canvas = h("canvas", { role: "img", "aria-label": `Layer ${channel + 1}` });
  paint(canvas, divergingColours(own, 3), run.width, run.height);
  return canvas;
}

function showDifference(canvas, run, k) {
  const [a, b] = ["x0_cond", "x0_uncond"].map((name) => run.latents(name, k).values);
  const changes = Float64Array.from({ length: run.pixels }, (_, i) => a[i] - b[i]);
  paint(canvas, divergingColours(changes, largest(changes)), run.width, run.height);
}

// The two guesses and the guided one on a line, as far from each other as they are.
function describeGuidance(run, k) {
  if (!run.hasAt("x0_uncond", k) || !run.hasAt("x0_cond", k)) return [h("p", {}, "In this step the network guesses only once, so there is nothing to go further from.")];
  const [uncond, cond, guided] = ["x0_uncond", "x0_cond", "x0"].map((name) => run.latents(name, k).values);
  const length = rmsDifference(cond, uncond);
  const used = length > 0 ? rmsDifference(guided, uncond) / length : 0;
  const along = cond.reduce((sum, value, i) => sum + (value - uncond[i]) * (guided[i] - uncond[i]), 0);
  const times = along < 0 ? -used : used;
  const [left, right] = [Math.min(0, times), Math.max(1, times)];
  const at = (value) => 40 + (320 * (value - left)) / (right - left);
  const point = (value, text, y, tone) => [svg("circle", { class: tone, cx: at(value), cy: 60, r: 5 }), svg("text", { class: "chart-text", x: at(value), y, "text-anchor": "middle" }, text)];
  const arrow = (to, y, tone) => svg("path", { class: `ex-arrow ${tone}`, d: `M${at(0)} ${y} H${at(to)} m${to < 0 ? 7 : -7} -4 l${to < 0 ? -7 : 7} 4 l${to < 0 ? 7 : -7} 4` });
  const said = `From the guess without your words to the guess with them is ${formatNumber(length)}. The guess that is used lies ${formatNumber(times)} times as far in this direction.`;
  return [
    svg(
      "svg",
      { class: "ex-arrows", viewBox: "0 0 400 100", role: "img", "aria-label": said },
      arrow(times, 60, "tone-1"), arrow(1, 60, "tone-0"),
      point(0, "without", 85, "tone-5"), point(1, "with your words", 42, "tone-0"), point(times, "used", 85, "tone-1"),
    ),
    h("p", { class: "small" }, said),
  ];
}
