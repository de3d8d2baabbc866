// @ts-check
// The guided tour: eight stops with a question at each, which is answered by doing it. The pictures
// before and after stand beside the question, so that nothing else has to be looked for.

import { fill, h } from "../dom.js";
import { imageBytes, paint } from "./preview.js";
import { STOPS, colourPlace } from "./tour_stops.js";
import { drawWordMap } from "./words.js";

const OPACITY = 0.65; // of the map of a word

/**
 * Return the tour: {element, button, show(runs, view, about), showMaking(), showDecoded(run, name, k),
 * isAnswer(entry), focus()}.
 *
 * `go(number)` opens a stop (0: leaves it). `actions` has vary(from, texts, then) -> the entries of the
 * runs that are compared, and move(k, part). `decoded(run, name, k)` is a decoded image, if there is
 * one. `about` is {canRun, model}: whether runs can be made here, and what the server says of the
 * model of the first run.
 */
export function createTour({ go, actions, decoded }) {
  let shown = 0;
  let last = null; // {entry, run, canRun, model}, of the first run
  let pair = null; // the entries of the runs that answer the question
  let answered = false;
  const title = h("h2", { tabindex: -1 });
  const says = h("p");
  const question = h("p", { class: "ex-sentence ex-question" });
  const act = h("button", { type: "button", class: "primary", onclick: answer });
  const pictures = h("div", { class: "ex-tour-pictures" });
  const maps = h("div", { class: "ex-tour-pictures" });
  const text = h("p", { class: "ex-answer", role: "status" });
  const back = h("button", { type: "button", onclick: () => go(shown - 1) }, "Back");
  const next = h("button", { type: "button", onclick: () => go(shown + 1) }, "Next");
  const leave = h("button", { type: "button", onclick: () => go(0) }, "Leave the tour");
  const element = h(
    "section",
    { class: "panel ex-tour", "aria-label": "Guided tour", hidden: true },
    h("div", { class: "ex-tour-asks" }, title, says, question, h("div", { class: "row" }, act)),
    h("div", { class: "ex-tour-shows" }, pictures, maps),
    h("div", { class: "ex-tour-answers" }, text, h("div", { class: "row" }, back, next, leave)),
  );
  const button = h("button", { type: "button", onclick: () => go(1) }, "Take the tour: eight questions");

  function plan() {
    return STOPS[shown - 1].plan(last.run, last.model);
  }

  function answer() {
    const { from, texts, then, captions, to, part } = plan();
    if (captions && last.canRun) pair = actions.vary(from, texts, then);
    else answered = true;
    if (!captions) actions.move(to, part);
    draw();
  }

  function draw() {
    const stop = STOPS[shown - 1];
    element.hidden = !stop;
    button.hidden = Boolean(stop);
    if (!stop) return;
    const { captions, action, answer: describeAnswer } = plan();
    const isDone = answered || Boolean(pair?.every(({ run }) => run));
    const said = isDone ? describeAnswer(...(pair ?? []).map((entry) => entry.run)) : "";
    title.textContent = `Tour, ${shown} of ${STOPS.length}: ${stop.title}`;
    says.textContent = stop.says(last.run);
    question.textContent = stop.question;
    act.textContent = captions && !last.canRun ? "Show the answer" : action;
    if (text.textContent !== said) text.textContent = said;
    back.disabled = shown === 1;
    next.hidden = shown === STOPS.length;
    drawPictures(stop, captions);
  }

  function drawPictures(stop, captions) {
    const { run } = last;
    if (stop.pictures) {
      fill(pictures, stop.pictures(run, answered).map((one) => (one ? drawState(run, one, decoded) : vacant("?"))));
      fill(maps);
      return;
    }
    const compared = pair ?? [{ run }, null];
    const labels = pair || !captions ? captions : [describe(run), captions[1]];
    fill(pictures, compared.map((entry, i) => drawEntry(entry, labels?.[i] ?? describe(run), last.canRun)));
    const mapped = stop.word ? compared.filter((entry) => entry?.run?.has("attention") && entry.run.words.length) : [];
    fill(maps, mapped.map((entry) => drawMap(entry.run)));
  }

  return {
    element,
    button,
    show(runs, view, { canRun, model }) {
      const [entry] = runs.entries;
      const isNew = shown !== view.tour || last?.entry !== entry;
      if (isNew || pair?.some((entry) => !runs.entries.includes(entry))) {
        pair = null;
        answered = false;
      }
      shown = entry.run ? view.tour : 0;
      last = { entry, run: entry.run, canRun, model };
      draw();
    },
    /** Show how far the runs are that answer the question. */
    showMaking() {
      if (pair) draw();
    },
    showDecoded(run) {
      if (shown && STOPS[shown - 1].pictures && run === last.run) draw();
    },
    /** Whether an entry is one of the runs that answer the question. */
    isAnswer: (entry) => Boolean(pair?.includes(entry)),
    focus() {
      if (!shown) return button.focus();
      title.focus({ preventScroll: true });
      element.scrollIntoView({ block: "start" });
    },
  };
}

function describe(run) {
  return `“${run.meta.params?.prompt ?? ""}”, seed ${run.meta.seed}`;
}

function figure(content, caption) {
  return h("figure", { class: "ex-picture" }, h("div", { class: "ex-frame" }, content), h("figcaption", {}, caption));
}

// The place of a picture that is not there yet.
function vacant(words, caption = "", guess = null) {
  const image = guess ? h("img", { src: guess, alt: "" }) : null;
  return figure(h("div", { class: "ex-vacant" }, image, image ? null : h("span", {}, words)), image ? `${caption}: ${words}` : caption);
}

// The finished picture of a run, or how far it is.
function drawEntry(entry, caption, canRun) {
  if (!entry) return canRun ? vacant("?") : null;
  if (entry.error) return vacant(entry.error, caption);
  if (!entry.run) return vacant(entry.said ?? "Waiting", caption, entry.guess);
  const canvas = h("canvas", { role: "img", "aria-label": `${caption}: the finished picture` });
  drawFinished(canvas, entry.run);
  return figure(canvas, caption);
}

function drawFinished(canvas, run) {
  const [height, width] = run.record.tensors.image.shape;
  paint(canvas, run.remember("image", () => imageBytes(run.record.tensors.image)), width, height);
  canvas.dataset.kind = "decoded";
}

// A state or a guess: decoded if that is known, and otherwise a colour for each place.
function drawState(run, { name, k, caption, linear = false }, decoded) {
  const canvas = h("canvas", { role: "img", "aria-label": caption });
  const image = linear || name === "image" ? null : decoded(run, name, k);
  if (name === "image") drawFinished(canvas, run);
  else if (image) {
    Object.assign(canvas, { width: image.width, height: image.height });
    canvas.getContext("2d").drawImage(image, 0, 0);
    canvas.dataset.kind = "decoded";
  } else {
    paint(canvas, run.preview(name, k), run.width, run.height);
    canvas.dataset.kind = "linear";
  }
  return figure(canvas, caption);
}

// The map of the colour word a quarter of the way, where the colour is decided.
function drawMap(run) {
  const place = colourPlace(run.readings[0].words);
  const canvas = h("canvas", { role: "img", "aria-label": `Where the computer looks for “${run.words[place]}”` });
  drawWordMap(canvas, run, place, Math.round(run.n / 4), OPACITY);
  return figure(canvas, `Where it looks for “${run.words[place]}”`);
}
