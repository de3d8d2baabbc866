// @ts-check
// The controls of the explorer: start a run, change one from a step on, and choose what is shown.

import { AdapterPicker } from "../adapters.js";
import { fill, h } from "../dom.js";
import { BRANCH_FIELDS, MODE, START_FIELDS, createFields } from "./form.js";
import { formulaButton } from "./formulas.js";
import { PAIRS } from "./panels.js";
import { COMPONENTS } from "./preview.js";
import { describeRequest, diffLoras, isReadyAlone } from "./specs.js";
import { letter } from "./tools.js";
import { toText } from "../schema.js";


/**
 * Return the controls: the elements intro, viewing and branching, and setRuns, setStep, setStart,
 * useModel. `calls` are start(mode, model, texts, loras), branch(from, texts, model, loras),
 * change(view), open().
 */
export function createControls({ source, start, branch, change, open }) {
  const schema = source.modes?.[MODE];
  let chosen = schema ? source.modelOf(null) : null; // the model of runs that are started here
  const intro = createIntro();
  const viewing = createViewing(change);
  const branching = createBranching();

  function createIntro() {
    const examples = h("div", { class: "row", hidden: true });
    const prompt = schema ? createFields(schema, START_FIELDS.slice(0, 1), {}) : null;
    const fields = schema ? createFields(schema, START_FIELDS.slice(1), chosen.lists) : null;
    const adapters = new AdapterPicker((word) => prompt?.insert("prompt", word), () => {});
    adapters.show(chosen?.served, {});
    const button = h("button", { class: "primary" }, "Record a run");
    const problem = h("p", { class: "notice error", role: "status", hidden: true });
    const form = fields
      ? h(
          "form",
          {
            onsubmit: (event) => {
              event.preventDefault();
              if (adapters.showWrong()) return;
              const texts = { prompt: chosen.prompts[0] ?? "", ...prompt.texts(), ...fields.texts() };
              start(MODE, chosen.name, texts, adapters.texts());
              details.open = false;
            },
          },
          h("div", { class: "ex-ask" }, prompt.element, button),
          problem,
          examples,
          adapters.element,
          h("details", {}, h("summary", {}, "Settings, or a record file"), fields.element, openButton(open)),
        )
      : h("div", { class: "row" }, openButton(open));
    const details = h(
      "details",
      { class: "panel ex-intro", open: true },
      h("summary", {}, h("h2", {}, "Try your own words")),
      h(
        "p",
        { class: "soft" },
        schema ? "Every step of your run can then be looked at, as above and below. A record file, or an image with its settings, can be dropped here." : "Every step of a run can be looked at. Open a record file, or drop one here.",
      ),
      form,
    );
    return { element: details, prompt, fields, adapters, button, problem, examples, wasOpen: true };
  }

  function createBranching() {
    if (!schema || !source.record) return { element: h("div", { hidden: true }), setRun() {}, setStep() {} };
    const fields = createFields(schema, START_FIELDS, chosen.lists);
    const adapters = new AdapterPicker((word) => fields.insert("prompt", word), () => check());
    const models = source.models ?? [];
    const model = h("select", { id: "ex-model" }, h("option", { value: "" }, "the same"), models.map(({ name }) => h("option", { value: name }, name)));
    const here = h("button", { type: "submit", class: "primary" });
    const anew = h("button", { type: "button" }, "Run from the start");
    const title = h("h2", { id: "ex-branch-title" });
    const problem = h("p", { class: "soft small", role: "status" });
    const form = h(
      "form",
      {},
      fields.element,
      adapters.element,
      models.length > 1 ? h("div", { class: "ex-field" }, h("label", { for: "ex-model" }, "Model"), model) : null,
      h("div", { class: "row" }, here, anew, formulaButton("step")),
      problem,
    );
    let k = 0;
    let last = 0;
    let own = chosen; // the model of the run
    let base = { index: null, model: null, loras: {} }; // the run that is changed
    const changedLoras = () => diffLoras(base.loras, adapters.texts());
    const fit = () => {
      const taken = model.value ? source.modelOf(model.value) : own;
      fields.setLists(taken.lists);
      fields.setModel(taken);
      adapters.show(taken.served, adapters.texts());
    };
    const check = () => {
      const texts = fields.texts();
      const fixed = Object.keys(texts).filter((name) => !BRANCH_FIELDS.includes(name));
      if (Object.keys(changedLoras()).length) fixed.push("LoRAs");
      const none = Object.keys(texts).length === 0 && !model.value && fixed.length === 0;
      here.disabled = none || fixed.length > 0 || Boolean(model.value) || k >= last;
      anew.disabled = none;
      problem.textContent = fixed.length
        ? `A branch keeps its ${fixed.join(" and ")}: run from the start to change that.`
        : k >= last
          ? "The run ends here: move to an earlier step to branch."
          : "Fields that are empty stay as they are. The steps before are kept exactly.";
    };
    const submit = (from) => {
      if (adapters.showWrong()) return;
      branch(from, fields.texts(), model.value || null, changedLoras());
      fields.setTexts({});
      model.value = "";
      fit();
      check();
    };
    model.addEventListener("change", fit);
    form.addEventListener("input", check);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!here.disabled) submit(k);
    });
    anew.addEventListener("click", () => submit(null));
    return {
      element: h("section", { class: "panel ex-branching", "aria-labelledby": "ex-branch-title" }, title, form),
      setRun(params, name, made) {
        own = source.modelOf(name);
        fit();
        fields.setHints(params);
        if (!made || JSON.stringify(made) === JSON.stringify(base)) return; // what is being edited stays
        base = made;
        adapters.write(base.loras);
      },
      setStep(index, step, run) {
        k = step;
        last = run.n;
        title.textContent = `Change run ${letter(index)}`;
        here.textContent = `Branch here, at step ${step}`;
        check();
      },
    };
  }

  return {
    intro: intro.element,
    viewing: viewing.element,
    branching: branching.element,
    setRuns(specs, view, shown) {
      const open = specs.length === 0 || isReadyAlone(specs);
      if (open !== intro.wasOpen) intro.element.open = open;
      intro.wasOpen = open;
      viewing.set(view, shown);
      if (!shown) return;
      const { index, run } = shown.find((one) => one.main);
      branching.element.hidden ||= !specs[index].texts;
      const { model, loras } = describeRequest(specs, index);
      branching.setRun(readParams(run.meta.params), model, specs[index].texts ? { index, model, loras } : null);
    },
    setStep: (index, k, run) => branching.setStep(index, k, run),
    setStart(spec) {
      [intro.prompt, intro.fields].forEach((fields) => fields?.setTexts(spec.texts));
      intro.adapters?.write(spec.loras);
    },
    // The model of the next run: what it takes, prompts to try, and what empty fields stand for.
    useModel(model) {
      chosen = model;
      if (!intro.fields) return;
      const { name, title, lists, defaults, prompts, modes, served } = model;
      const isAble = modes.includes(MODE);
      intro.prompt.setHints(defaults);
      intro.fields.setHints({ ...defaults, seed: "random" });
      intro.fields.setLists(lists);
      intro.fields.setModel(model);
      intro.adapters.show(served, intro.adapters.texts());
      intro.button.disabled = !isAble;
      intro.problem.hidden = isAble;
      intro.problem.textContent = isAble ? "" : `The model ${title} makes no picture from words alone. Choose another model.`;
      intro.examples.hidden = prompts.length === 0;
      fill(
        intro.examples,
        h("span", { class: "soft small" }, "Try:"),
        prompts.slice(0, 5).map((prompt) => h("button", { type: "button", class: "chip", onclick: () => start(MODE, name, { prompt }, intro.adapters.texts()) }, prompt)),
        served.prompts_note ? h("p", { class: "soft small" }, served.prompts_note) : null,
      );
    },
  };
}

function openButton(open) {
  return h("button", { type: "button", onclick: open }, "Open a record file");
}

function createViewing(change) {
  const select = (label, options, name) => {
    const input = h("select", { "aria-label": label, onchange: () => change({ [name]: input.value }) }, options.map(([value, text]) => h("option", { value }, text)));
    return input;
  };
  const check = (text, name) => {
    const input = h("input", { type: "checkbox", onchange: () => change({ [name]: input.checked }) });
    return { input, element: h("label", { class: "ex-inline" }, input, text) };
  };
  const pair = select("Difference of", Object.entries(PAIRS).map(([key, { text }]) => [key, text]), "pair");
  const part = select("Part of the difference", Object.entries(COMPONENTS).map(([key, { label }]) => [key, label]), "part");
  const by = select("Align runs", [["step", "same step"], ["sigma", "same noise level"]], "by");
  const fixed = check("One scale for all steps", "fixed");
  const smooth = check("Smooth", "smooth");
  const align = h("label", { class: "ex-inline" }, "Align runs by", by);
  const difference = h("label", { class: "ex-inline" }, "Difference", pair);
  const shownAs = h("label", { class: "ex-inline" }, "as", part);
  return {
    element: h(
      "div",
      { class: "ex-viewing" },
      difference,
      shownAs,
      fixed.element,
      smooth.element,
      align,
      h("span", { class: "ex-inline" }, "Linear preview ", formulaButton("preview")),
    ),
    set(view, shown) {
      pair.value = view.pair;
      part.value = view.part;
      by.value = view.by;
      fixed.input.checked = view.fixed;
      smooth.input.checked = view.smooth;
      align.hidden = !shown || shown.length < 2;
      fixed.element.hidden = difference.hidden = Boolean(shown?.every(({ run }) => run.onlyGuess !== null));
      shownAs.hidden = difference.hidden && align.hidden; // two runs have differences of their own
    },
  };
}

// The parameters of a record as texts, without what only says where it was made.
function readParams(params = {}) {
  return Object.fromEntries(Object.entries(params).map(([name, value]) => [name, toText(value)]));
}
