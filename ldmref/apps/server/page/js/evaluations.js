// @ts-check
// The dial of evaluations: the image of a prompt and seed by the flow map in 1, 2 and 4 evaluations, by its
// model in more, and how far each is from the truth.

import { createChart, formatNumber } from "./charts.js";
import { counted, fill, h, newId } from "./dom.js";
import { loadStyle } from "./explorer/tools.js";
import { jobBody } from "./jobs.js";
import { sayError } from "./notify.js";
import { valuesOfImage } from "./record_prompts.js";

const UNFIT = ["control", "control_image", "references", "guide", "upscale"]; // a map has none of these

/** Return the dial of a finished image; null if it has none: without a flow map of its model, or in other modes. */
export function createDial(api, { models }, entry) {
  const model = models.find(({ name }) => name === entry.request.model) ?? models[0];
  const fits = entry.params.mode === "txt2img" && !entry.request.loras?.length && !UNFIT.some((name) => entry.params[name]);
  const offered = fits && model.flow_map && model.flow_map !== model.name;
  return offered ? new Dial(api, model, entry).element : null;
}

class Dial {
  constructor(api, model, entry) {
    this.api = api;
    this.model = model;
    this.entry = entry;
    this.stops = [];
    this.addresses = [];
    this.controller = null;
    this.image = h("img", { alt: "", hidden: true });
    this.range = h("input", { id: newId("dial"), type: "range", min: "0", step: "1", disabled: true });
    this.range.addEventListener("input", () => this.show());
    this.text = h("p", { class: "numbers" });
    this.state = h("p", { class: "soft small", role: "status" });
    this.chart = createChart({
      title: "Distance from the truth, by evaluations of the network",
      caption: "Root mean square over the latents, from the run with endlessly many steps; the axis is logarithmic.",
      xLabel: "evaluations of the network",
      log: true,
      read: (place) => this.describe(place),
    });
    this.chart.element.hidden = true;
    const about = `The same prompt and seed in 1 to 40 evaluations of the network: few by the flow map ${model.flow_map}, more by ${model.name}.`;
    const dial = h("div", { class: "dial-range" }, h("label", { class: "label", for: this.range.id }, "Evaluations"), this.range, this.text);
    this.element = h(
      "details",
      { class: "dial" },
      h("summary", {}, "How many evaluations?"),
      h("div", { class: "stack" }, h("p", { class: "soft small" }, about), h("div", { class: "dial-content" }, this.image, dial), this.chart.element, this.state),
    );
    this.element.addEventListener("toggle", () => (this.element.open ? this.open() : this.close()));
  }

  open() {
    if (!this.controller && !this.complete) this.compute();
  }

  close() {
    this.controller?.abort();
  }

  async compute() {
    const { api } = this;
    const controller = new AbortController();
    this.controller = controller;
    this.state.textContent = "Drawing the images";
    try {
      const [body] = await Promise.all([this.makeBody(), loadStyle("explorer.css")]);
      const job = await api.submit({ ...body, attended: true }, controller.signal);
      controller.signal.addEventListener("abort", () => api.cancel(job.id).catch(() => {}), { once: true });
      const images = [];
      const received = async ({ index, url }) => {
        images[index] = await api.blob(url);
        const { data } = await api.job(job.id);
        this.receive(data.stops, images);
      };
      const ended = await api.events(job, { image: received }, controller.signal);
      if (ended.state !== "done") throw ended.error ?? new Error("it was cancelled");
      this.receive(ended.data.stops, images);
      this.complete = true;
      const { evaluations, change } = ended.data.truth;
      this.state.textContent = `The truth took ${evaluations} evaluations; the last refinement changed it by ${formatNumber(change)}.`;
    } catch (error) {
      if (!controller.signal.aborted) sayError(this.state, error);
    } finally {
      this.controller = null;
    }
  }

  makeBody() {
    return jobBody("dial", { mode: "txt2img", model: this.model.name, values: valuesOfImage(this.entry) });
  }

  /** Show what has arrived: places of the dial, and their images. */
  receive(stops, images) {
    const first = this.stops.length === 0;
    this.stops = stops.filter((_, index) => images[index]);
    for (const blob of images.slice(this.addresses.length)) this.addresses.push(URL.createObjectURL(blob));
    this.range.max = String(this.stops.length - 1);
    this.range.disabled = this.stops.length < 2;
    if (first) this.range.value = "0";
    const known = this.stops.some(({ distance }) => distance !== null);
    if (!known) this.state.textContent = `${counted(this.stops.length, "image")}; the distances come when the truth is known`;
    this.chart.element.hidden = !known;
    if (known) this.chart.setSeries(this.makeSeries());
    this.show();
  }

  makeSeries() {
    const x = this.stops.map(({ evaluations }) => evaluations);
    const line = (name, byMap, style) => {
      const y = this.stops.map((stop) => (stop.by_map === byMap ? stop.distance : NaN));
      return { name, x, y, points: true, style };
    };
    return [line(this.model.flow_map, true, "tone-1"), line(this.model.name, false, "tone-0")];
  }

  show() {
    const place = Number(this.range.value);
    const text = this.describe(place);
    fill(this.text, text);
    this.range.setAttribute("aria-valuetext", text);
    this.image.src = this.addresses[place] ?? "";
    this.image.alt = `The image in ${text}`;
    this.image.hidden = !this.addresses[place];
    this.chart.setCursor(place);
  }

  describe(place) {
    const stop = this.stops[place];
    if (!stop) return "";
    const who = stop.by_map ? this.model.flow_map : this.model.name;
    const distance = stop.distance === null ? "" : `: ${formatNumber(stop.distance)} from the truth`;
    return `${counted(stop.evaluations, "evaluation")}, ${counted(stop.steps, "step")} of ${who}${distance}`;
  }
}
