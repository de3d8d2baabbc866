// The embedded model in a page of the course: prompt, seed, steps and guidance weight.

import { h, newId } from "../../shared/js/dom.js";
import { paint } from "../../shared/js/explorer/preview.js";
import { Client, modelFolder } from "../client.js";
import { fetchManifest } from "../core/files.js";
import { addSlider, createKnob } from "./parts.js";
import { createDrafts } from "./typing.js";

const KEPT = 6; // images
const REMEDY = 'In a clone, "make browser" before "make docs" adds the model to the site; "ldmref serve" generates on this machine without it.';

export async function create(place) {
  const knob = createKnob(place, "Generate in this page", () => {});
  let manifest;
  try {
    manifest = await fetchManifest(modelFolder);
  } catch (error) {
    knob.say(`Nothing can be generated here: ${error.message}. ${REMEDY}`);
    return;
  }
  const client = new Client();
  const id = newId("prompt");
  const prompt = h("input", { id, type: "text", value: place.dataset.prompt ?? "a red heart", maxlength: manifest.parameters.prompt.maximum });
  knob.controls.append(h("div", { class: "knob-control" }, h("label", { for: id }, "prompt"), prompt));
  const seed = addSlider(knob, "seed", { min: 0, max: 50, step: 1, value: 1 });
  const steps = addSlider(knob, "steps", { min: 1, max: 40, step: 1, value: 12 });
  const w = addSlider(knob, "guidance weight w", { min: 0, max: 10, step: 0.5, value: manifest.defaults.cfg_scale, format: (value) => value.toFixed(1) });
  const start = h("button", { type: "button", onclick: run }, "Generate");
  const stop = h("button", { type: "button", hidden: true, onclick: () => running?.stop() }, "Cancel");
  const images = h("div", { class: "knob-images" });
  knob.controls.append(h("div", { class: "knob-control" }, start, stop));
  knob.body.append(images);
  knob.say(`The first image loads ${(manifest.download_bytes / 1e6).toFixed(1)} MB.`);
  if (manifest.flow_map) createDrafts({ knob, client, prompt, seed, map: manifest.flow_map, isFree: () => !running });
  prompt.addEventListener("keydown", (event) => event.key === "Enter" && !start.disabled && run());
  let running = null;

  async function run() {
    start.disabled = true;
    const request = { prompt: prompt.value, negative_prompt: "", seed: String(seed.value), steps: steps.value, cfg_scale: w.value, sampler: "dpmpp_2m" };
    try {
      await client.load((done, total) => knob.say(`Loading the model: ${Math.round((100 * done) / total)} %`));
      stop.hidden = false;
      const began = performance.now();
      running = client.generate(request, (event) => show(event, request, began));
      const { cancelled } = await running.promise;
      if (cancelled) knob.say("Cancelled.");
    } catch (error) {
      knob.say(`That did not work: ${error.message}.`);
    } finally {
      running = null;
      stop.hidden = true;
      start.disabled = false;
    }
  }

  function show(event, request, began) {
    if (event.kind === "step") knob.say(`Step ${event.step + 1} of ${request.steps}`);
    if (event.kind !== "image") return;
    const text = `${request.prompt}, seed ${request.seed}, ${request.steps} steps, w = ${request.cfg_scale}`;
    const canvas = h("canvas", { class: "knob-image", role: "img", "aria-label": text });
    paint(canvas, event.rgba, event.width, event.height);
    images.prepend(h("figure", {}, canvas, h("figcaption", {}, text)));
    while (images.children.length > KEPT) images.lastChild.remove();
    knob.say(`${request.steps} steps in ${((performance.now() - began) / 1000).toFixed(1)} s on this device`);
  }
}
