// @ts-check
// A guided tour: eight stops with a question at each, which is answered by doing it.

import { fill, h } from "../dom.js";
import { findTelling } from "./telling.js";

const COLOURS = new Set("red orange yellow green blue purple pink brown black white grey gray gold silver".split(" "));
const OTHER = "a blue dog";
const VAGUE = "face"; // leaves open which one

// `open` is the part of the overview that the stop shows, `step(run)` the step. `act(run, actions)`
// answers the question; `runs` says that this makes a run.
export const STOPS = [
  {
    title: "Noise", runs: true, open: "noise", step: () => 0, action: `Ask for “${VAGUE}” from two kinds of noise`,
    says: "Every picture starts as noise, and each step removes a little of it.",
    question: "What is the noise for? What happens if the words are the same and the noise is not?",
    answer: "Two different faces: the noise decides what the words leave open. It is where the variety comes from. If the words leave little open, other noise ends in nearly the same picture.",
    act: (run, { again }) => again({ prompt: VAGUE }, { seed: String(Number(run.meta.seed) + 1) }),
  },
  {
    title: "Words", runs: true, open: "numbers", action: `Ask for “${OTHER}” instead`,
    says: "Your words become numbers, and the network reads them in every step.",
    question: "What do the words do, if the noise stays the same?",
    answer: "The same noise becomes another thing: the words say what the computer finds in the noise.",
    act: (run, { again }) => again({ prompt: OTHER }),
  },
  {
    title: "Guidance", runs: true, open: "guidance", action: "Set guidance to 0",
    says: "The network guesses without your words and with them, and guidance goes further in the direction of the words.",
    question: "What does guidance do? What if it is 0?",
    answer: "At 0 your words do nothing: the picture is what the noise alone leads to. Guidance says how strongly the words count.",
    act: (_run, { again }) => again({ cfg_scale: "0" }),
  },
  {
    title: "Steps", runs: true, open: "unet", action: "Take only 1 step",
    says: "The computer guesses the finished picture and moves a little towards the guess, again and again.",
    question: "Why several steps? Why not jump to the first guess?",
    answer: "One step ends with the first guess, which is made from noise alone: it is soft, and details are missing. Each small step leaves less noise, so the next guess can have more detail.",
    act: (_run, { again }) => again({ steps: "1" }),
  },
  {
    title: "The colour", runs: true, open: "", action: "Change the colour word", word: true,
    says: "The map of a word shows where the computer looks for it.",
    question: "Which word makes the colour?",
    answer: "With another colour word and the same noise the shape stays nearly the same, and the colour changes: it is this word.",
    act: (run, { again }) => again({ prompt: recolour(run.meta.params?.prompt ?? "") }),
  },
  {
    title: "The latent", open: "latent", action: "Show the end",
    says: "All steps work on a small grid of numbers, the latent.",
    question: "Is the latent already a picture?",
    answer: "No: it has far fewer numbers than the picture. The decoder turns it into pixels, once, at the end.",
    act: (run, { move, open }) => (open("decoder"), move(run.n)),
  },
  {
    title: "Large first", open: "unet", step: () => 0, action: "Go on a quarter of the way",
    says: "Look at the guess, beside the noisy picture.",
    question: "When is it decided what the picture will be: early or late?",
    answer: "Early: the guess shows the shape while the picture is still nearly all noise. Later steps work on details.",
    act: (run, { move }) => move(Math.round(run.n / 4)),
  },
  {
    title: "Another way", runs: true, open: "", step: (run) => Math.round((3 * run.n) / 4), action: `Go on from here with “${OTHER}”`,
    says: "A step depends only on the numbers it starts from, so a run can go another way from any step.",
    question: "What happens if the words change late?",
    answer: "A mixture: what was decided by then remains, and the rest follows the new words. Earlier, the new words would decide more.",
    act: (run, { branchAt }) => branchAt(Math.round((3 * run.n) / 4), { prompt: OTHER }),
  },
];

/** Return a prompt with another colour: its colour word is replaced, or its noun gets one. */
export function recolour(prompt) {
  const words = prompt.split(" ");
  const place = words.findIndex((word) => COLOURS.has(word.toLowerCase()));
  if (place >= 0) words[place] = words[place].toLowerCase() === "blue" ? "red" : "blue";
  else words.splice(findTelling(words), 0, "blue");
  return words.join(" ");
}

/** Return the word of the colour in a list of words, or that of the thing. */
export function colourWord(words) {
  return words.find((word) => COLOURS.has(word.toLowerCase())) ?? words[findTelling(words)] ?? "";
}

/**
 * Return the tour: {element, button, show(run, view, canRun), focus()}. `go(number)` opens a stop (0: leaves), and
 * `actions` has again(texts), branchAt(step, texts), move(k) and open(part).
 */
export function createTour({ go, actions }) {
  let shown = 0;
  let answered = false;
  let last = null;
  const element = h("section", { class: "panel ex-tour", "aria-label": "Guided tour", hidden: true });
  const button = h("button", { type: "button", onclick: () => go(1) }, "Take the tour: eight questions");

  function draw() {
    const { run, canRun } = last;
    const stop = STOPS[shown - 1];
    element.hidden = !stop;
    button.hidden = Boolean(stop);
    if (!stop) return;
    const answer = () => {
      answered = true;
      draw();
      if (!stop.runs || canRun) stop.act(run, actions);
    };
    fill(
      element,
      h("h2", { tabindex: -1 }, `Tour, ${shown} of ${STOPS.length}: ${stop.title}`),
      h("p", {}, stop.says),
      h("p", { class: "ex-sentence ex-question" }, stop.question),
      h("div", { class: "row" }, h("button", { type: "button", class: "primary", onclick: answer }, stop.runs && !canRun ? "Show the answer" : stop.action)),
      h("p", { class: "ex-answer", role: "status" }, answered ? stop.answer : ""),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", disabled: shown === 1, onclick: () => go(shown - 1) }, "Back"),
        shown < STOPS.length ? h("button", { type: "button", onclick: () => go(shown + 1) }, "Next") : null,
        h("button", { type: "button", onclick: () => go(0) }, "Leave the tour"),
      ),
    );
  }

  return {
    element,
    button,
    show(run, view, canRun) {
      const before = last;
      last = { run, canRun };
      const isNew = shown !== view.tour || !before;
      if (isNew) answered = false;
      shown = view.tour;
      button.hidden = shown > 0; // while a run is made there is none
      if (isNew || before.canRun !== canRun) draw();
    },
    focus: () => (shown ? element.querySelector("h2") : button).focus(),
  };
}
