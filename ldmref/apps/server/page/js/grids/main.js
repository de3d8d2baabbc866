// @ts-check
// The view Grids: two or three parameters against each other, with the distance of each image from the truth.

import { weightsOf } from "../adapters.js";
import { fill, h } from "../dom.js";
import { readTexts } from "../explorer/form.js";
import { describeModel } from "../explorer/source.js";
import { debounce, loadStyle } from "../explorer/tools.js";
import { findModel } from "../models.js";
import { toText } from "../schema.js";
import { describeCosts } from "./costs.js";
import { createFlipbook } from "./flipbook.js";
import { createForm } from "./form.js";
import { createSheet } from "./sheet.js";

const MODE = "txt2img";
const AXES = ["x", "y", "z"];
// The first grid: samplers of order 1 and 2 that also work with few steps. Heun's method is none of these: from
// the largest noise to a small one, it goes wrong by several times what the guess changes meanwhile.
const SAMPLERS = ["euler", "dpmpp_2s", "dpmpp_2m"];
const STEPS = "5, 10, 20";

export async function mount(element, context) {
  await Promise.all([loadStyle("explorer.css"), loadStyle("grids.css")]);
  const { api, state, notify, capabilities } = context;
  const schema = capabilities.modes[MODE].schema;
  let model = chosenModel();
  const form = createForm({ schema, mode: MODE, model, most: capabilities.limits.images, onSubmit: start, onChange: debounce(writeForm, 300), onCancel: () => running?.abort() });
  const bar = h("progress", { max: 1, "aria-label": "Progress of the grid" });
  const words = h("p", { class: "small", role: "status" });
  const progress = h("div", { class: "grid-progress", hidden: true }, words, bar);
  const files = h("div", { class: "row" });
  const about = h("p", { class: "soft small" });
  const sheet = createSheet(select);
  const flipbook = createFlipbook(select);
  const atlas = h("a", {}, "schedules of other programs");
  const schedules = h(
    "p",
    { class: "soft" },
    "Other programs space the noise levels of flow models in their own ways: ",
    atlas,
    ".",
  );
  const result = h(
    "div",
    { class: "grid-result", hidden: true },
    h("section", { class: "panel grid-main", "aria-label": "Sheet" }, progress, sheet.element, about, files),
    flipbook.element,
  );
  element.classList.add("explorer", "grids");
  fill(element, form.element, result, schedules);

  let running = null; // the controller of the grid that is generated
  let grid = null;
  let place = [0, 0, 0]; // row, column, sheet
  let shownJob = null;
  form.useModel(model);

  function chosenModel() {
    return describeModel(capabilities, findModel(capabilities, state.readState().model));
  }

  // What the first grid compares; a model that takes few samplers has others.
  function startAxes() {
    const taken = (model.lists.sampler ?? []).map(({ name }) => name);
    const fitting = SAMPLERS.filter((name) => taken.includes(name));
    const names = fitting.length > 1 ? fitting : taken.slice(0, SAMPLERS.length);
    return { x: { name: "sampler", values: names.join(", ") }, y: { name: "steps", values: STEPS } };
  }

  function writeForm() {
    if (state.readState().view !== "grids") return;
    state.writeState({ mode: MODE, ...form.state() }, { clear: ["p", "lora", ...AXES] });
  }

  async function start(request) {
    /** @type {Record<string, any>} */
    const body = {
      kind: "grid",
      mode: MODE,
      parameters: { prompt: model.prompts[0] ?? "", ...readTexts(schema, request.texts) },
      distance: request.distance,
    };
    const given = AXES.filter((axis) => request[axis]);
    for (const axis of given) body[axis] = request[axis];
    const swept = given.map((axis) => ({ [request[axis].name]: request[axis].values }));
    Object.assign(body, form.adapters.request(body.parameters, ...swept));
    if (AXES.some((axis) => request[axis]?.name === "prompt")) delete body.parameters.prompt;
    if (model.name) body.model = model.name;
    try {
      const job = await api.submit(body);
      shownJob = job.id;
      writeForm();
      state.writeState({ grid: job.id });
      await follow(job);
    } catch (error) {
      notify.notifyError(error);
    }
  }

  // Show a job and its cells as they arrive.
  async function follow(job) {
    running = new AbortController();
    const { signal } = running;
    const cancel = () => api.cancel(job.id).catch(() => {});
    signal.addEventListener("abort", cancel, { once: true });
    form.busy(true);
    progress.hidden = false;
    place = [0, 0, 0];
    show(job);
    const refresh = debounce(async () => !signal.aborted && show(await api.job(job.id)), 120);
    try {
      const ended = await api.events(job, {
        queued: ({ position }) => say(null, position ? `Waiting behind ${position}` : "Waiting"),
        progress: ({ step, steps, image, images, seconds_left: left }) => {
          const done = step === steps;
          const text = `${done && grid.distance ? "Measuring the distance of image" : "Image"} ${Math.min(image + 1, images)} of ${images}`;
          say((image + (steps ? step / steps : 0)) / Math.max(images, 1), left && !done ? `${text}, ${Math.ceil(left)} s left` : text);
        },
        image: refresh,
        lost: () => say(null, "The server does not answer; trying again"),
        found: () => say(null, "Reconnected"),
      });
      show(ended);
      if (ended.state === "failed") notify.notifyError(ended.error);
    } finally {
      signal.removeEventListener("abort", cancel);
      form.busy(false);
      progress.hidden = true;
      running = null;
    }
  }

  function say(share, text) {
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    words.textContent = text;
  }

  function show(job) {
    grid = readGrid(job);
    result.hidden = false;
    sheet.show(grid);
    if (!grid.cells.has(place.join(" ")) && grid.cells.size) place = [...grid.cells.keys()][0].split(" ").map(Number);
    select(...place);
    const distance = grid.distance
      ? "The number below an image is its distance from the converged image of the same seed and guidance: the root mean square difference of their pixels, in units of 1/255. The smallest is marked."
      : "";
    about.textContent = `${distance} ${describeCosts([grid.x, grid.y, grid.z], capabilities.samplers)}`.trim();
    fill(files, job.files.map(({ name, url }) => h("a", { class: "button", href: url, download: name }, `Download ${name}`)));
  }

  // A grid from the description of its job.
  function readGrid(job) {
    const { x, y, z, distance, loras } = job.request;
    const cells = new Map();
    for (const cell of job.data.cells ?? []) {
      const image = job.images[cell.image];
      if (!image) continue;
      cells.set(`${cell.row} ${cell.column} ${cell.sheet}`, {
        url: image.url,
        width: image.width,
        height: image.height,
        seed: image.seed,
        distance: cell.distance ?? null,
        link: linkTo(image.params, job.model, weightsOf(loras)),
      });
    }
    return { key: job.id, x, y: y ?? null, z: z ?? null, distance, cells };
  }

  // The address of the explorer with the run of a cell.
  function linkTo(params, made, lora) {
    const p = {};
    for (const [name, value] of Object.entries(params)) {
      const property = schema.properties[name];
      if (property && value !== null && toText(value) !== toText(property.default)) p[name] = toText(value);
    }
    const named = made === capabilities.models[0].name ? null : made;
    return state.formatState({ view: "explore", mode: MODE, model: named, p, lora });
  }

  function select(...chosen) {
    if (!grid) return;
    place = chosen;
    sheet.mark(place);
    flipbook.show(grid, place);
  }

  return {
    async show() {
      const { p, x, y, z, lora, grid: id } = state.readState();
      const before = model;
      model = chosenModel();
      if (model.title !== before.title) form.useModel(model);
      atlas.href = state.formatState({ view: "explore", model: model.name, atlas: { family: "" } });
      if (running) return;
      form.adapters.show(model.served, lora);
      const first = startAxes();
      if (!element.dataset.filled || x || p) form.set(p ?? {}, { x: x ?? first.x, y: y ?? first.y, z: z ?? { name: "" } });
      element.dataset.filled = "yes";
      if (!id || id === shownJob) return;
      shownJob = id;
      try {
        const job = await api.job(id);
        if (["queued", "running"].includes(job.state)) await follow(job);
        else show(job);
      } catch (error) {
        if (error.offline) {
          shownJob = null;
          notify.notifyError(error);
          notify.whenBack(() => this.show());
          return;
        }
        notify.notify("The server does not have the images of this grid any more. Generate them again.", { hint: error.message });
        state.writeState({ grid: null });
      }
    },
  };
}
