// @ts-check
// The formula of every quantity that the explorer shows, with its page: the only place with these
// links. `formulaButton(key)` is the small button that opens the formula beside a quantity.

import { h } from "../dom.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";

function m(tag, ...children) {
  const node = document.createElementNS(MATHML, tag);
  node.append(...children);
  return node;
}

const i = (name) => m("mi", name);
const o = (sign) => m("mo", sign);
const num = (value) => m("mn", value);
const words = (text) => m("mtext", text);
const row = (...parts) => m("mrow", ...parts);
const sub = (base, below) => m("msub", base, below);
const sup = (base, above) => m("msup", base, above);
const frac = (above, below) => m("mfrac", above, below);
const bar = (base) => m("mover", base, o("‾"));
const hat = (base) => m("mover", base, o("^"));
const alphaBar = () => sub(bar(i("α")), i("t"));
const prediction = (condition) =>
  row(sub(hat(i("x")), num("0")), ...(condition ? [o("("), condition, o(")")] : []));

// title: the name of the quantity. formula: builds MathML. text: one or two sentences.
// names: functions of ldmref.math. page, section: where docs/ derives it.
export const FORMULAS = {
  x: {
    title: "The noisy state x",
    formula: () => row(i("x"), o("="), i("α"), sub(i("x"), num("0")), o("+"), i("σ"), i("ε")),
    text: "Clean latents plus noise of standard deviation sigma. In the numbers of the sampler, alpha is 1, and in a flow model 1 − sigma. The preview shows x divided by the square root of alpha² + sigma², which has the variance of the clean latents. The path draws alpha and sigma in the scale that the network reads: a line for a flow model, and a quarter of a circle for others.",
    names: ["q_sample"],
    page: "math/samplers",
    section: "One coordinate system",
  },
  uncond: {
    title: "The prediction without the prompt",
    formula: () => row(prediction(o("∅")), o("="), i("E"), o("["), sub(i("x"), num("0")), o("|"), i("x"), o("]")),
    text: "The network's expectation of the clean latents, given the noisy state and the negative prompt, which is empty by default.",
    names: ["x0_from_eps", "x0_from_v"],
    page: "math/forward",
    section: "Prediction types",
  },
  cond: {
    title: "The prediction with the prompt",
    formula: () =>
      row(prediction(i("c")), o("="), i("E"), o("["), sub(i("x"), num("0")), o("|"), i("x"), o(","), i("c"), o("]")),
    text: "The network's expectation of the clean latents, given the noisy state and the prompt c.",
    names: ["x0_from_eps", "x0_from_v"],
    page: "math/forward",
    section: "Prediction types",
  },
  guided: {
    title: "The guided prediction",
    formula: () =>
      row(prediction(), o("="), prediction(o("∅")), o("+"), i("s"), o("("), prediction(i("c")), o("−"), prediction(o("∅")), o(")")),
    text: "Classifier-free guidance with the scale s. The step of the sampler uses this prediction. Other kinds of guidance replace the formula.",
    names: ["classifier_free_guidance"],
    page: "math/guidance",
    section: "Without a classifier",
  },
  difference: {
    title: "The difference that guidance adds",
    formula: () => row(prediction(i("c")), o("−"), prediction(o("∅")), o("="), sup(i("σ"), num("2")), o("∇"), i("log"), i("p"), o("("), i("c"), o("|"), i("x"), o(")")),
    text: "The direction in which the prompt becomes more probable, by Bayes' rule: the gradient of an implicit classifier. Shown as a signed change of the linear preview.",
    names: ["implicit_classifier", "classifier_free_guidance"],
    page: "math/guidance",
    section: "Without a classifier",
  },
  alpha_bar: {
    title: "alpha-bar",
    formula: () =>
      row(alphaBar(), o("="), m("munderover", o("∏"), row(i("i"), o("="), num("0")), i("t")), o("("), num("1"), o("−"), sub(i("β"), i("i")), o(")"), o("="), frac(sup(i("α"), num("2")), row(sup(i("α"), num("2")), o("+"), sup(i("σ"), num("2"))))),
    text: "The remaining share of the signal's variance at timestep t. A flow model has no betas, and the last form alone: there alpha is 1 − sigma, and otherwise 1.",
    names: ["alphas_cumprod", "alpha_bar_from_sigma"],
    page: "math/schedules",
    section: "Four names for one quantity",
  },
  snr: {
    title: "The signal-to-noise ratio",
    formula: () => row(words("SNR"), o("="), frac(alphaBar(), row(num("1"), o("−"), alphaBar())), o("="), frac(sup(i("α"), num("2")), sup(i("σ"), num("2")))),
    text: "The variance of the signal over that of the noise. alpha is 1 − sigma in a flow model, and otherwise 1.",
    names: ["snr", "log_snr"],
    page: "math/schedules",
    section: "Four names for one quantity",
  },
  sigma: {
    title: "sigma",
    formula: () => row(i("σ"), o("="), i("α"), m("msqrt", frac(row(num("1"), o("−"), alphaBar()), alphaBar()))),
    text: "The noise level: the standard deviation of the noise where the signal is not scaled, alpha = 1, or in a flow model scaled by alpha = 1 − sigma. Steps of a sampler go from one sigma to the next.",
    names: ["sigma_from_alpha_bar"],
    page: "math/schedules",
    section: "Four names for one quantity",
  },
  attention: {
    title: "The map of a word",
    formula: () =>
      row(sub(i("M"), row(i("y"), i("x"))), o("="), frac(num("1"), i("H")), m("munder", o("∑"), i("h")), sub(i("A"), row(i("h"), o(","), i("y"), i("w"), o("+"), i("x"), o(","), i("k")))),
    text: "The share of the attention of each place that goes to the token of the word, averaged over heads. At every place the shares of all tokens, padding included, add up to 1; in a transformer of image and text the other places of the image are tokens too.",
    names: ["word_map", "attention_map"],
    page: "math/layers",
    section: "Word maps",
  },
  distance: {
    title: "The distance from the truth",
    formula: () =>
      row(sub(i("d"), i("k")), o("="), words("rms"), o("("), frac(row(sub(i("x"), i("k")), o("−"), i("x"), o("*"), o("("), sub(i("σ"), i("k")), o(")")), m("msqrt", row(m("msubsup", i("α"), i("k"), num("2")), o("+"), m("msubsup", i("σ"), i("k"), num("2"))))), o(")")),
    text: "The truth is the solution x* of the probability-flow equation dx/dσ = (x − x̂₀)/σ from the same noise, solved with steps so fine that more steps change nothing.",
    names: ["probability_flow"],
    page: "math/samplers",
    section: "One coordinate system",
  },
  arc: {
    title: "An arc of the flow map",
    formula: () => row(sub(i("x"), i("r")), o("="), i("cos"), o("("), i("t"), o("−"), i("r"), o(")"), sub(i("x"), i("t")), o("−"), i("sin"), o("("), i("t"), o("−"), i("r"), o(")"), bar(i("v"))),
    text: "A step of the map from the angle t to the angle r: a rotation by its mean velocity, the average over the whole arc. A sampler takes the velocity at t instead, which is right only for a small step. The angle is that of the mixture cos(t) picture + sin(t) noise. The drawing is the plane of the run's noise and its finished picture; what lies across it is not seen, but counts in the numbers.",
    names: ["trigflow_step", "trigflow_average_velocity"],
    page: "math/flow_maps",
    section: "TrigFlow",
  },
  local: {
    title: "The local error of a step",
    formula: () =>
      row(sub(i("e"), i("k")), o("="), words("rms"), o("("), frac(row(sub(i("x"), row(i("k"), o("+"), num("1"))), o("−"), sub(i("Φ"), row(i("k"), o("→"), i("k"), o("+"), num("1"))), o("("), sub(i("x"), i("k")), o(")")), m("msqrt", row(m("msubsup", i("α"), row(i("k"), o("+"), num("1")), num("2")), o("+"), m("msubsup", i("σ"), row(i("k"), o("+"), num("1")), num("2"))))), o(")")),
    text: "The error of this one step alone: the step is solved again finely from the same state x_k. A method of order p has a local error of order p + 1.",
    names: ["probability_flow"],
    page: "math/samplers",
    section: "All samplers",
  },
  preview: {
    title: "The linear preview",
    formula: () => row(words("RGB"), o("="), i("M"), i("z"), o("+"), i("b")),
    text: "A matrix and a bias, fitted to the decoder by least squares and stored in the record, turn each latent pixel into a colour. The decoded image replaces it where a server can decode.",
    names: [],
    page: "explorer",
    section: "The linear preview",
  },
  step: {
    title: "One step",
    formula: () => row(words("step"), o(":"), o("("), i("x"), o(","), i("σ"), o(","), i("σ'"), o(","), words("history"), o(")"), o("→"), o("("), i("x'"), o(","), sub(i("x"), num("0")), o(","), words("history"), o(")")),
    text: "A step is a pure function without hidden state, so a run continues exactly from any of its states.",
    names: [],
    page: "math/samplers",
    section: "One coordinate system",
  },
};

export function formulaButton(key) {
  const { title } = FORMULAS[key];
  return h(
    "button",
    { type: "button", class: "formula-button", "aria-label": `Formula: ${title}`, title: `Formula: ${title}`, onclick: () => openFormula(key) },
    "ƒ",
  );
}

function openFormula(key) {
  const entry = FORMULAS[key];
  const math = m("math", entry.formula());
  math.setAttribute("display", "block");
  const names = entry.names.map((name) => `ldmref.math.${name}`);
  const dialog = h(
    "dialog",
    { class: "formula", "aria-labelledby": "formula-title", onclose: () => dialog.remove() },
    h("h3", { id: "formula-title" }, entry.title),
    math,
    h("p", {}, entry.text),
    names.length ? h("p", {}, "In Python: ", names.flatMap((name, k) => [k ? ", " : "", h("code", {}, name)])) : null,
    h("p", {}, "Derivation: ", pageLink(entry)),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close")),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}

// The page that derives the formula: a link if the page says where its documentation is,
// <link rel="help" href="...">, and otherwise its name.
function pageLink({ page, section }) {
  const help = /** @type {HTMLLinkElement | null} */ (document.querySelector("link[rel=help]"));
  const base = help?.href;
  const anchor = section.toLowerCase().replace(/[^a-z0-9 -]/g, "").replaceAll(" ", "-");
  const text = `docs/${page}.md, “${section}”`;
  return base ? h("a", { href: new URL(`${page}.md#${anchor}`, base).href, target: "_blank", rel: "noreferrer" }, text) : h("span", {}, text);
}
