// @ts-check
// The schedules of other programs: the flow times that they give a family of models, beside those of the run.

import { createChart, formatNumber } from "../charts.js";
import { counted, fill, h, newId } from "../dom.js";
import { sayError } from "../notify.js";

// What the panel is, in plain words.
const PLAIN =
  "Flow models start at flow time 1, pure noise, and end at 0. Programs choose other times between for the same model, and so give another picture for the same seed. Here are those of two programs beside your run: its share of noise, σ of a flow model and otherwise σ / (1 + σ).";
const TONES = ["tone-4", "tone-5 dashed"]; // of the programs; runs have the first ones
const SIZE = 1024; // pixels of a side

/** Return the flow times of a run: those of alpha x0 + sigma eps, divided by alpha + sigma. */
export const flowTimes = (run) => Array.from(run.sigmas, (sigma, k) => sigma / (run.alpha(k) + sigma));

/**
 * Return the panel: {element, show(shown, wanted)}. `source` may have schedules: {list() -> rows,
 * make(request) -> schedules}; `change({atlas})` changes the view, whose `wanted` is null while the
 * panel is closed, and {family, program, beside, steps, width, height} otherwise, all texts.
 */
export function createAtlas({ source, change }) {
  let wanted = null;
  let runs = [];
  let rows = null; // the promise of the atlas
  let asked = ""; // the last request
  let answer = null; // the promise of its schedules
  let made = []; // the schedules that are shown
  let place = 0;
  let byLink = false; // a link opened the panel, which is then scrolled to
  const family = h("select", { onchange: () => set({ family: family.value, program: "", beside: "" }) });
  const program = h("select", { onchange: () => set({ program: program.value }) });
  const beside = h("select", { onchange: () => set({ beside: beside.value }) });
  const number = (name, least, most) => h("input", { type: "number", min: least, max: most, onchange: (event) => event.target.reportValidity() && set({ [name]: event.target.value }) });
  const numbers = { steps: number("steps", 1, 1000), width: number("width", 16, 65536), height: number("height", 16, 65536) };
  const state = h("p", { class: "soft small", role: "status" });
  const about = h("ul", { class: "soft small ex-sources" });
  const chart = createChart({
    title: "Flow time by step",
    caption: "Flow time: the share of noise in x = (1 - s) · picture + s · noise",
    xLabel: "step",
    range: [0, 1],
    read: describe,
    onMove: (k) => chart.setCursor((place = k)),
  });
  const table = h("table", { class: "numbers" });
  const result = h(
    "div",
    { class: "ex-atlas-result", hidden: true },
    chart.element,
    about,
    h("details", {}, h("summary", {}, "All numbers"), h("div", { class: "ex-scroll", tabindex: 0, role: "region", "aria-label": "Flow times of every step" }, table)),
  );
  const element = h(
    "details",
    { class: "panel ex-atlas", hidden: !source.schedules, ontoggle: () => element.open !== Boolean(wanted) && change({ atlas: element.open ? { family: "" } : null }) },
    h("summary", {}, h("h2", {}, "Schedules of other programs")),
    h("p", { class: "ex-plain" }, PLAIN),
    h("div", { class: "ex-fields" }, field("Family", family), field("Program", program), field("Beside it", beside), field("Steps", numbers.steps), field("Width", numbers.width), field("Height", numbers.height)),
    state,
    result,
  );

  function set(changes) {
    change({ atlas: { ...wanted, ...changes } });
  }

  async function load() {
    rows ??= source.schedules.list();
    try {
      const all = await rows;
      if (!wanted) return;
      const families = [...new Set(all.map((row) => row.family))];
      const known = !wanted.family || families.includes(wanted.family);
      setOptions(family, families, wanted.family);
      fillNumbers(all);
      const request = { family: family.value, ...Object.fromEntries(Object.entries(numbers).map(([name, input]) => [name, Number(input.value)])) };
      const key = JSON.stringify(request);
      if (key !== asked) answer = source.schedules.make(request);
      asked = key;
      const found = await answer;
      if (key !== asked || !wanted) return; // another one was asked for meanwhile
      made = found;
      state.textContent = known ? "" : `There is no family “${wanted.family}” in the atlas; this is ${family.value}.`;
      draw();
      if (byLink) element.scrollIntoView({ block: "start" });
      byLink = false;
    } catch (error) {
      if (error instanceof TypeError) throw error; // a fault of this page
      rows = null;
      asked = "";
      result.hidden = true;
      sayError(state, error);
    }
  }

  // The numbers that were asked for; otherwise those of the run, or what the family's maker uses.
  function fillNumbers(all) {
    const usual = { steps: runs[0]?.run.n ?? all.find((row) => row.family === family.value).steps, width: SIZE, height: SIZE };
    for (const [name, input] of Object.entries(numbers)) {
      if (input !== document.activeElement) input.value = String(wanted?.[name] || usual[name]);
    }
  }

  function draw() {
    const programs = made.map((row) => row.program);
    setOptions(program, programs, wanted.program);
    const others = programs.filter((name) => name !== program.value);
    setOptions(beside, ["none", ...others], wanted.beside || others[0]);
    const chosen = find();
    chart.setSeries([
      ...chosen.map((row, i) => makeLine(row.program, row.made, TONES[i])),
      ...runs.map(({ run, letter, tone }) => makeLine(`run ${letter}`, flowTimes(run), `tone-${tone}`)),
    ]);
    place = Math.min(place, chosen[0].made.length - 1);
    chart.setCursor(place);
    fill(about, chosen.map((row) => h("li", {}, h("strong", {}, row.program), `: ${describeRow(row)}`)), describeDifference(chosen));
    fillTable(chosen);
    result.hidden = false;
  }

  const find = () => [program.value, beside.value].map((name) => made.find((row) => row.program === name)).filter(Boolean);

  function describe(k) {
    const chosen = find();
    const values = chosen.filter((row) => k < row.made.length).map((row) => `${row.program} ${formatNumber(row.made[k])}`);
    const own = runs.filter(({ run }) => k <= run.n).map(({ run, letter }) => `run ${letter} ${formatNumber(flowTimes(run)[k])}`);
    const apart = comparable(chosen) && k < chosen[0].made.length ? [`difference ${formatNumber(chosen[1].made[k] - chosen[0].made[k])}`] : [];
    return `step ${k}: ${[...values, ...apart, ...own].join(", ")}`;
  }

  function fillTable(chosen) {
    const columns = chosen.map((row) => [row.program, row.made]);
    if (comparable(chosen)) columns.push(["difference", chosen[1].made.map((value, k) => value - chosen[0].made[k])]);
    columns.push(...runs.map(({ run, letter }) => [`run ${letter}`, flowTimes(run)]));
    const count = Math.max(...columns.map(([, values]) => values.length));
    fill(
      table,
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "step"), columns.map(([name]) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, Array.from({ length: count }, (_, k) => h("tr", {}, h("th", { scope: "row" }, String(k)), columns.map(([, values]) => h("td", {}, k < values.length ? values[k].toFixed(6) : ""))))),
    );
  }

  return {
    element,
    show(shown, atlas) {
      runs = shown ?? [];
      wanted = source.schedules ? atlas : null;
      byLink ||= Boolean(wanted) && !element.open;
      element.open = Boolean(wanted);
      if (wanted) load();
    },
  };
}

const comparable = (chosen) => chosen.length === 2 && chosen[0].made.length === chosen[1].made.length;

function field(text, input) {
  input.id = newId("atlas");
  return h("div", { class: "ex-field" }, h("label", { for: input.id }, text), input);
}

function setOptions(select, names, chosen) {
  fill(select, names.map((name) => h("option", { value: name }, name)));
  select.value = names.includes(chosen) ? chosen : names[0];
}

function makeLine(name, values, style) {
  return { name, x: values.map((_, k) => k), y: values, points: true, style };
}

function describeRow({ spacing, rule, time, steps, tokens, source, remark }) {
  return `${[spacing, rule, `${counted(steps, "step")} at ${tokens} tokens`, `the model gets ${time}`, remark].filter(Boolean).join("; ")}. Source: ${source}`;
}

function describeDifference(chosen) {
  if (chosen.length < 2) return null;
  if (!comparable(chosen)) return h("li", {}, "The two lists have different lengths, so their steps cannot be compared one by one.");
  const apart = chosen[1].made.map((value, k) => Math.abs(value - chosen[0].made[k]));
  const most = Math.max(...apart);
  const [a, b] = chosen.map((row) => row.program);
  return h("li", {}, most < 1e-6 ? `${a} and ${b} have the same flow times.` : `${a} and ${b} differ by at most ${formatNumber(most)}, at step ${apart.indexOf(most)}.`);
}
