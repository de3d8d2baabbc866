// The explorer without a server: the model runs in a worker of this page.

import { download, fileName } from "../../shared/js/files.js";
import { fill, h } from "../../shared/js/dom.js";
import { paint } from "../../shared/js/explorer/preview.js";
import { Client, modelFolder } from "../client.js";
import { fetchManifest } from "../core/files.js";
import { Decoding } from "./decoding.js";
import { createForm, randomSeed } from "./form.js";
import { Run } from "./run.js";
import { createView } from "./view.js";

const main = document.getElementById("content");
if (location.pathname.includes("/_static/")) document.getElementById("documentation").hidden = false;
start();

async function start() {
  let manifest;
  try {
    manifest = await fetchManifest(modelFolder);
  } catch (error) {
    main.append(h("p", { class: "notice error", role: "alert" }, `The model cannot be used: ${error.message}.`));
    return;
  }
  createExplorer(manifest);
}

function createExplorer(manifest) {
  const client = new Client();
  let run = null;
  let running = null;
  const status = h("p", { class: "br-status", role: "status" }, `The first image loads ${megabytes(manifest.download_bytes)}. Afterwards everything is computed on this device.`);
  const bar = h("progress", { hidden: true, max: 1, "aria-label": "Progress" });
  const form = createForm(manifest.parameters, { onGenerate: generate, onCancel: () => running?.stop() });
  const view = createView((k) => move(k));
  const result = createResult();
  const decoding = new Decoding(client, (of, key) => view.showDecoded(of, key));
  const notes = h("ul", { class: "br-notes small" });

  fill(
    main,
    h(
      "div",
      { class: "explorer br-page" },
      h("section", { class: "panel ex-intro", "aria-label": "Run" }, form.element, status, bar, notes),
      result.element,
      view.element,
    ),
  );
  const first = readHash();
  form.write({ ...manifest.defaults, prompt: "a red heart", seed: "1", ...first });
  document.addEventListener("keydown", (event) => view.key(event));

  async function generate(request) {
    form.setRunning(true);
    view.stop();
    decoding.stop();
    fill(notes);
    bar.hidden = false;
    let stopped = false;
    running = { stop: () => { stopped = true; } };
    try {
      const { threads } = await client.load((done, total) => {
        bar.value = done / total;
        status.textContent = `Loading the model: ${megabytes(done)} of ${megabytes(total)}`;
      });
      const outcome = stopped ? { cancelled: true } : await takeSteps(request);
      report(outcome.cancelled, threads);
    } catch (error) {
      status.textContent = `That did not work: ${error.message}.`;
    } finally {
      running = null;
      bar.hidden = true;
      form.setRunning(false);
    }
  }

  function takeSteps(request) {
    const current = new Run(request, manifest);
    const call = client.generate(request, (event) => {
      current.receive(event);
      if (event.kind === "start") showNotes(current);
      else if (event.kind === "step") followStep(current);
      else if (event.kind === "image") {
        result.show(current);
        view.showDecoded(current, `x ${current.steps}`);
      }
    });
    run = current;
    running = call;
    writeHash(request);
    bar.value = 0;
    status.textContent = "Encoding the prompt";
    return call.promise;
  }

  function followStep(current) {
    bar.value = current.predictions.length / current.steps;
    status.textContent = `Step ${current.predictions.length} of ${current.steps}, ${Math.round(current.medianTime())} ms per step`;
    view.show(current, current.last);
  }

  function report(cancelled, threads) {
    const seconds = run ? run.milliseconds.reduce((a, b) => a + b, 0) / 1000 : 0;
    const where = threads > 1 ? `${threads} threads` : "one thread";
    const time = run?.milliseconds.length ? `: ${Math.round(run.medianTime())} ms per step, ${seconds.toFixed(1)} s in all, ${where}` : "";
    status.textContent = cancelled ? `Cancelled after ${run?.milliseconds.length ?? 0} steps.` : `${run.steps} steps${time}.`;
    if (run?.predictions.length) move(view.position);
  }

  function move(k) {
    if (!run?.predictions.length) return;
    view.show(run, Math.min(k, run.last));
    if (!running) decoding.request(run, Math.min(k, run.last));
  }

  function showNotes({ texts }) {
    const lines = Object.values(texts).flatMap(({ unknown, leftOut }) => [
      unknown.length ? `Words the model never saw: ${unknown.join(", ")}` : "",
      leftOut.length ? `The model reads ${manifest.tokenizer.length - 2} words; left out: ${leftOut.join(" ")}` : "",
    ]);
    fill(notes, lines.filter(Boolean).map((line) => h("li", {}, line)));
  }
}

function createResult() {
  const canvas = h("canvas", { class: "br-image", role: "img", width: 128, height: 128 });
  const command = h("code", {});
  const copy = h("button", { type: "button", onclick: () => copyText(command, copy) }, "Copy the command");
  let shown = null;
  const save = h("button", { type: "button", onclick: () => canvas.toBlob((blob) => download(blob, fileName(shown.prompt, shown.seed))) }, "Save the image");
  const element = h(
    "section",
    { class: "panel br-result", hidden: true, "aria-label": "Image" },
    canvas,
    h("div", {}, h("p", {}, "The same image from Python, up to 2/255:"), h("pre", { tabindex: 0 }, command), h("div", { class: "row" }, save, copy)),
  );
  return {
    element,
    show({ request, image }) {
      shown = request;
      paint(canvas, image.rgba, image.width, image.height);
      canvas.setAttribute("aria-label", `Image: ${request.prompt}, seed ${request.seed}`);
      command.textContent = commandOf(request);
      element.hidden = false;
    },
  };
}

// Pages without https cannot write to the clipboard; there the text is selected.
async function copyText(element, button) {
  const { textContent: label } = button;
  try {
    await navigator.clipboard.writeText(element.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 2000);
  } catch {
    getSelection().selectAllChildren(element);
  }
}

function commandOf({ prompt, negative_prompt: negative, seed, steps, cfg_scale: w, sampler }) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const without = negative ? ` --negative-prompt ${quote(negative)}` : "";
  return `ldmref txt2img -p ${quote(prompt)}${without} --seed ${seed} --steps ${steps} --cfg ${w} --sampler ${sampler}`;
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

// The address holds the request, in the names of the server's page.
function readHash() {
  const values = {};
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name.startsWith("p.")) values[name.slice(2)] = value;
  }
  if (values.seed === "random") values.seed = randomSeed();
  return values;
}

function writeHash(request) {
  const pairs = Object.entries(request).filter(([, value]) => value !== "").map(([name, value]) => [`p.${name}`, String(value)]);
  history.replaceState(null, "", `#${new URLSearchParams(pairs)}`);
}
