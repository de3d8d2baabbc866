// @ts-check
// The explorer: runs, the position in them, and everything that is shown at the position.

import { readRecord, RecordError } from "../record.js";
import { fill, h } from "../dom.js";
import { sentence } from "../notify.js";
import { createArcs } from "./arcs.js";
import { createAtlas } from "./atlas.js";
import { createControls } from "./controls.js";
import { createCurves } from "./curves.js";
import { Decoder } from "./decoder.js";
import { explain, showExplanations } from "./explain.js";
import { createGuide } from "./guide.js";
import { createComparison, createRunPanels } from "./panels.js";
import { NUMBERS, describePosition } from "./plain.js";
import { Runs } from "./runs.js";
import { createScrubber } from "./scrubber.js";
import { describeRequest, isReadyAlone, readSpecs, removeSpec, specOf, writeSpecs, wrongInView } from "./specs.js";
import { createStrips } from "./strips.js";
import { acceptFiles, acceptKeys, debounce, letter } from "./tools.js";
import { firstStep } from "./tour_stops.js";
import { createTruth } from "./truth.js";
import { createWords } from "./words.js";

/**
 * Build the explorer in `element` and return {show(), hide(), open(name, buffer)}.
 *
 * `source` offers what a server can do, each optional: record, truth, decode, forms (source.js); if
 * it has a ready run, the view begins with that one, moving.
 * `place` keeps the state of the view: {read() -> state, write(patch, clear)} (the address).
 * `notify` has notify(text, options) and notifyError(error).
 */
export function createExplorer(element, { source, place, notify }) {
  let view = readSpecs({}).view;
  let linked = 0; // the step that a link asked for, until a run is shown
  let byItself = false; // the page plays, and nobody has touched it yet
  let chosen = null; // the name of the model of the next run
  let playsNext = false; // the run that was asked for in the form plays once it is there
  const runs = new Runs(source, (entry) => {
    if (playsNext && runs.entries[0].run) playFromStart();
    if (guide.isAnswer(entry) && entry.run) view.step = entry.run.n;
    refresh();
    writePlace();
  }, (entry) => (current() ? guide.showAnswering() : guide.showMaking(entry)));
  const decoder = new Decoder(source);
  const writePlace = debounce(() => {
    if (byItself) return;
    const { patch, clear } = writeSpecs(runs.specs, view);
    place.write(patch, clear);
  }, 150);

  const actions = { onMove: move, onCompare: (index) => setView({ with: index }), onSave: (index) => runs.save(index), onRemove: remove, onCancel: (index) => runs.entries[index].controller?.abort() };
  const guide = createGuide({ source, change: setView, look, stop: stopMoving, vary, decoded: (run, name, k) => decoder.find(run, name, k) });
  const strips = createStrips(actions);
  const scrubber = createScrubber((k) => move(view.show, k));
  explain(scrubber.element.querySelector("output"), NUMBERS.position);
  const controls = createControls({ source, start, branch, change: setView, open: () => file.click() });
  const panels = [createRunPanels(0), createRunPanels(1)];
  const headings = panels.map(() => h("h3", { class: "ex-run-heading" }));
  const comparison = createComparison();
  const compared = [headings[1], panels[1].element, h("h3", { class: "ex-run-heading" }, "Difference of the two runs"), comparison.element];
  const words = createWords(setView);
  const curves = createCurves((k) => move(view.show, k));
  const truth = createTruth({ onCompute: computeTruth, onCancel: stopTruth, onMove: (k) => move(view.show, k) });
  const arcs = createArcs({ source, onChoose: (steps) => setView({ arcs: steps }) });
  const atlas = createAtlas({ source, change: setView });
  const file = h("input", { type: "file", accept: `.safetensors,.ldmrun${source.inspect ? ",image/*" : ""}`, class: "sr", tabindex: -1, "aria-label": "Record file" });
  const images = h("section", { class: "panel", "aria-label": "Images of the step" }, headings[0], panels[0].element, compared);
  const columns = h("div", { class: "ex-columns" }, words.element, h("div", { class: "ex-column" }, curves.element, truth.element, arcs.element));
  const ofRun = [guide.story.element, guide.overview, scrubber.element, controls.viewing, images, controls.branching, columns]; // shown with a run
  fill(element, guide.story.element, guide.tour, strips.element, scrubber.element, controls.intro, guide.overview, file, controls.viewing, images, controls.branching, columns, atlas.element, showExplanations(element));
  element.classList.add("explorer");
  acceptFiles(element, file, openFile);
  acceptKeys(element, (event) => current() && scrubber.key(event));
  const touch = () => {
    if (byItself) writePlace();
    byItself = false;
  };
  for (const name of ["pointerdown", "keydown", "input"]) element.addEventListener(name, touch, { capture: true });

  // The positions that are shown, [{run, k, index, main, letter, tone, busy}]: one, or two in the
  // order of the runs. `main` is the one that the scrubber moves.
  function current() {
    const shown = runs.entries[view.show]?.run ? view.show : runs.entries.findIndex((entry) => entry.run);
    if (shown < 0) return null;
    const { run } = runs.entries[shown];
    if (linked > run.n) tellWrong([`the run has ${run.n} steps, not ${linked}`]);
    linked = 0;
    const other = view.with !== null && view.with !== shown ? runs.entries[view.with]?.run : null;
    view.step = Math.min(view.step ?? (view.tour ? firstStep(view.tour, run) : Math.round(run.n / 2)), run.n);
    const k = view.step;
    const positions = [{ run, k, index: shown }];
    if (other) {
      const otherK = view.by === "sigma" ? other.nearest(run.ratio(k)) : Math.min(k, other.n);
      positions.push({ run: other, k: otherK, index: view.with });
    }
    return positions
      .sort((a, b) => a.index - b.index)
      .map((one) => ({ ...one, main: one.index === shown, letter: letter(one.index), tone: one.index % 6, busy: Boolean(runs.entries[one.index].truthController) }));
  }

  // Everything: after runs came or went, or another run is shown.
  function refresh() {
    const shown = current();
    strips.element.hidden = runs.entries.length === 0;
    const find = (main) => shown?.find((one) => one.main === main)?.index;
    strips.show(runs.entries, find(true) ?? view.show, find(false) ?? null);
    for (const part of ofRun) part.hidden = !shown; // only strips before the first run
    controls.setRuns(runs.specs, view, shown);
    atlas.show(shown, view.atlas);
    if (!shown) return guide.showMaking(runs.entries[0]);
    curves.show(shown);
    const canCompute = Boolean(source.truth) && shown.every(({ index }) => runs.specs[index].texts);
    truth.show(shown, canCompute);
    const main = shown.find((one) => one.main);
    arcs.show(main, view.arcs, runs.specs[main.index].texts ? describeRequest(runs.specs, main.index) : null);
    if (view.truth && canCompute) shown.forEach(({ index }) => computeTruth(index));
    compared.forEach((part) => (part.hidden = shown.length < 2));
    draw();
  }

  // Everything that depends on the step. It asks nobody, so it is done before the next frame.
  function draw() {
    const shown = current();
    if (!shown) return;
    element.dataset.step = String(view.step);
    element.classList.toggle("touring", view.tour > 0);
    const main = shown.find((one) => one.main);
    const { run, k, index } = main;
    guide.show(main, view, runs);
    scrubber.set(k, run.n, describePosition(run, k));
    strips.mark(shown.map((one) => [one.index, one.k, one.main]));
    shown.forEach((one, i) => {
      fill(headings[i], h("span", { class: `ex-letter tone-${one.tone}` }, one.letter), " ", shown.length > 1 ? describePosition(one.run, one.k) : runs.entries[one.index].label);
      panels[i].show(one.run, one.k, view);
    });
    if (shown.length > 1) {
      const [a, b] = shown;
      comparison.show(a.run, a.k, b.run, b.k, { part: view.part, letters: [a.letter, b.letter] });
    }
    words.show(shown, view);
    curves.mark(k);
    truth.mark(k);
    arcs.mark(k);
    controls.setStep(index, k, run);
    shown.forEach((one, i) => decoder.request(one.run, one.k, (name, image) => showDecoded(one, i, name, image), !scrubber.playing));
  }

  function showDecoded({ run, k, main }, i, name, image) {
    panels[i].showDecoded(run, name, k, image);
    if (main) guide.showDecoded(run, name, k, image);
  }

  function move(index, k) {
    const changed = index !== view.show;
    if (changed) view.with = view.with === index ? view.show : view.with;
    view.show = index;
    view.step = k;
    decoder.forget();
    if (changed) refresh();
    else draw();
    writePlace();
  }

  function setView(change) {
    Object.assign(view, change);
    decoder.forget();
    element.classList.toggle("smooth", view.smooth);
    refresh();
    writePlace();
  }

  // Show the ready run: it plays, unless the address names a step or motion is not wanted.
  function startReady(wanted) {
    view = guide.complete(wanted);
    byItself = view.step === null && !view.tour;
    runs.set([source.ready.spec]);
    runs.entries[0].run.foreign = !source.ready.own;
    controls.setStart({ texts: {}, loras: place.read().lora ?? {} });
    if (byItself) playFromStart();
    guide.tell(current()[0], view, runs); // the picture and its sentence first: the rest takes longer
    requestAnimationFrame(() => setTimeout(refresh));
  }

  function playFromStart() {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    playsNext = false;
    view.step = still ? runs.entries[0].run.n : 0;
    if (!still) scrubber.play();
  }

  // Explore other parameters: all runs so far are left.
  function start(mode, model, texts, loras) {
    scrubber.stop();
    byItself = false;
    playsNext = true;
    view = { ...readSpecs({}).view, part: view.part, pair: view.pair, smooth: view.smooth, fixed: view.fixed, atlas: view.atlas };
    runs.set([{ of: null, from: null, mode, model, loras, texts }]);
    refresh();
    writePlace();
  }

  // A run with changes, from a step of the shown run on, or from the start (null).
  function branch(from, texts, model = null, loras = {}) {
    const of = view.show;
    runs.set([...runs.specs, { of, from, model, loras, texts }]);
    Object.assign(view, { with: of, show: runs.entries.length - 1 });
    refresh();
    writePlace();
    strips.element.scrollIntoView({ block: "nearest" });
  }

  // A variation of the first run beside it, or two variations beside each other, at the end. The
  // entries of both runs are returned.
  function vary(from, texts, then = null) {
    stopMoving();
    const change = (of, start, changed) => ({ of, from: start, model: null, loras: {}, texts: changed });
    runs.set([runs.specs[0], change(0, from, texts), ...(then ? [change(1, null, then)] : [])]);
    const show = runs.entries.length - 1;
    const { run } = runs.entries[show].run ? runs.entries[show] : runs.entries[0];
    // Runs of different lengths are both shown at the end, where their noise is the same.
    Object.assign(view, { show, with: show - 1, by: "steps" in texts ? "sigma" : "step", step: run.n });
    refresh();
    writePlace();
    return runs.entries.slice(-2);
  }

  function stopMoving() {
    scrubber.stop();
    playsNext = false;
    byItself = false;
  }

  function look(target) {
    const panel = { words: words.element, strips: strips.element, images }[target];
    panel.tabIndex = -1;
    panel.focus();
    panel.scrollIntoView({ block: "start" });
  }

  function remove(index) {
    const { kept, places } = removeSpec(runs.specs, index);
    runs.set(kept);
    const show = places.get(view.show) ?? 0;
    const other = places.get(view.with) ?? null;
    setView({ show, with: other === show ? null : other });
  }

  // Compute the truth line of a run, once; the address then asks for it.
  async function computeTruth(index) {
    const entry = runs.entries[index];
    if (entry.truthAsked) return;
    entry.truthAsked = true;
    view.truth = true;
    writePlace();
    const done = runs.computeTruth(index, (text) => truth.say(text && `Run ${letter(index)}: ${text}`));
    refresh();
    await done;
    refresh();
  }

  function stopTruth(index) {
    view.truth = false;
    runs.entries[index].truthController?.abort();
    writePlace();
  }

  /** Open a record file: the first one starts anew, the next is compared with it. */
  function open(name, buffer) {
    try {
      const record = readRecord(buffer);
      if (isReadyAlone(runs.specs)) runs.set([]);
      scrubber.stop();
      byItself = false;
      const index = runs.add(name, record, specOf(record.meta, runs.specs, source));
      view.with = index > 0 ? view.show : null;
      view.show = index;
      setView({});
    } catch (error) {
      if (!(error instanceof RecordError)) throw error;
      notify.notify(`${name}: ${error.message}`, { kind: "error" });
    }
  }

  // A record file, or an image with the settings that made it.
  async function openFile(given) {
    if (!given.type.startsWith("image/")) return open(given.name, await given.arrayBuffer());
    if (!source.inspect) return notify.notify(`${given.name} is an image: a record file is needed here`, { kind: "error" });
    try {
      const { request, notes } = await source.inspect(given, chosen);
      start(request.mode, request.model, request.texts, request.loras);
      if (notes.length) notify.notify(notes.map((line) => sentence(line)).join(" "));
    } catch (error) {
      notify.notifyError(error);
    }
  }

  // A link that was typed, shortened or made for another run.
  function tellWrong(lines) {
    if (lines.length) notify.notify(`Not everything in this link can be shown: ${lines.join("; ")}.`, { kind: "error" });
  }

  refresh();
  return {
    open,
    // The model that the next run is made with, as `modelOf` of the source describes it.
    useModel(model) {
      chosen = model.name;
      controls.useModel(model);
      guide.useModel(model);
      refresh();
    },
    // Show the state of the address. `onlyRun`: if the parameters of run 0 are new, they are meant
    // alone, without the runs and the position that were shown before.
    show({ onlyRun = false } = {}) {
      let wanted = readSpecs(place.read());
      tellWrong(wrongInView(place.read()));
      const isNamed = "prompt" in (wanted.specs[0]?.texts ?? {});
      if (source.ready && !isNamed && runs.entries.length === 0) {
        startReady(wanted.view);
        return;
      }
      const format = ({ specs, view: own }) => JSON.stringify(writeSpecs(specs, own).patch);
      if (format(wanted) === format({ specs: runs.specs, view })) return;
      if (!isNamed) {
        if (runs.entries.length) setView({ atlas: wanted.view.atlas });
        if (current() && wanted.view.tour && wanted.view.tour !== view.tour) guide.openStop(wanted.view.tour);
        return;
      }
      const own = ({ texts, loras }) => JSON.stringify([texts, loras]);
      const isNew = !runs.specs.length || own(wanted.specs[0]) !== own(runs.specs[0]);
      if (onlyRun && isNew) wanted = { specs: [wanted.specs[0]], view: readSpecs({}).view };
      view = guide.complete(wanted.view);
      linked = view.step;
      byItself = false;
      element.classList.toggle("smooth", view.smooth);
      runs.set(wanted.specs);
      controls.setStart(wanted.specs[0]);
      refresh();
      writePlace();
    },
    hide() {
      playsNext = false;
      scrubber.stop();
    },
  };
}
