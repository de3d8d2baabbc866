// @ts-check
// The stops of the tour: what each says, asks, does and answers.

import { counted } from "../dom.js";
import { areSame, haveOtherColours, haveSameShape, isSettled, isSofter } from "./likeness.js";
import { explainGuidance, noiseShare } from "./plain.js";
import { findTelling } from "./telling.js";

const COLOURS = new Set("red orange yellow green blue purple pink brown black white grey gray gold silver".split(" "));
const OTHERS = ["a blue dog", "a red apple"]; // the second one for a run of the first
const VAGUE = "a face"; // leaves open which one
const COLOURED = "a red car"; // in place of a prompt without a colour
const STRONG = 4; // a usual guidance scale
const READS = "This model was trained to read the guidance scale as a number: it guesses once, and answers as if it had guessed twice and gone that far. At 1 that is the plain guess with your words, so they still count; a larger number follows them more strictly.";

const quote = (text) => `“${text}”`;
const promptOf = (run) => String(run.meta.params?.prompt ?? "");
const otherThan = (run) => OTHERS.find((other) => other !== promptOf(run));
const late = (run) => Math.round((3 * run.n) / 4);
const early = (run) => Math.round(run.n / 4);
const end = (run) => run.n;

/**
 * The stops. `open` is the part of the overview that a stop shows, `step(run)` the step, and `word`
 * says that the maps of the colour word are shown.
 *
 * `says(run)` is a sentence before the question.
 *
 * `plan(run, model)` is how the question is answered, for the first run and what the server says of
 * its model (null without a server): {action, answer} and, if that makes runs, `from`, `texts`,
 * `then` as in `vary` of the explorer, and the captions of both finished pictures. Without these the
 * answer is shown by moving to the step `to`, with the part `part` open. `answer(a, b)` is of the two
 * runs that are compared: it says what their pictures show. Without them it says what is usual.
 *
 * `pictures(run, answered)` are the pictures of a stop without runs, [{name, k, caption, linear}],
 * where `name` is that of latents, or "image" for the finished picture, and null leaves room for one.
 */
export const STOPS = [
  {
    title: "Noise", open: "noise", step: () => 0,
    says: () => "Every picture starts as noise, and each step removes a part of it.",
    question: "What is the noise for? What happens if the words are the same and the noise is not?",
    plan(run) {
      const seeds = [Number(run.meta.seed), Number(run.meta.seed) + 1];
      const captions = seeds.map((seed) => `${quote(VAGUE)}, seed ${seed}`);
      const isVague = promptOf(run) === VAGUE;
      const other = { seed: String(seeds[1]) };
      return {
        action: isVague ? "Ask for the same from other noise" : `Ask for ${quote(VAGUE)} from two kinds of noise`,
        answer: answerNoise,
        from: null, texts: isVague ? other : { prompt: VAGUE }, then: isVague ? null : other, captions,
      };
    },
  },
  {
    title: "Words", open: "numbers", step: end,
    says: () => "Your words become numbers, and the network reads them in every step.",
    question: "What do the words do, if the noise stays the same?",
    plan(run) {
      const other = otherThan(run);
      return {
        action: `Ask for ${quote(other)} instead`,
        answer: (a, b) => (b && areSame(a, b)
          ? "Nearly nothing here: both pictures are nearly the same, so this model follows these words hardly at all. Where it does, the same noise becomes another thing."
          : "The same noise becomes another thing: the words say what the computer finds in the noise."),
        from: null, texts: { prompt: other }, then: null, captions: [quote(promptOf(run)), quote(other)],
      };
    },
  },
  {
    title: "Guidance", open: "guidance", step: end,
    says: (run) => (guessesTwice(run) ? "The network guesses without your words and with them, and guidance goes further in the direction of the words." : explainGuidance(run)),
    question: "What does guidance do? How does the picture change with it?",
    plan: planGuidance,
  },
  {
    title: "Steps", open: "unet", step: end,
    says: (run) => (run.meta.is_map
      ? "A flow map has learned where the way from noise leads: it jumps to its end, or to places on it."
      : "In each step the computer guesses the finished picture and moves a little towards the guess."),
    question: "Why several steps? Why not jump to the first guess?",
    plan(run) {
      const steps = run.n === 1 ? 4 : 1;
      return {
        action: `Take ${steps === 1 ? "only 1 step" : `${steps} steps`}`,
        answer: (a, b) => answerSteps(run, a, b),
        from: null, texts: { steps: String(steps) }, then: null, captions: [counted(run.n, "step"), counted(steps, "step")],
      };
    },
  },
  {
    title: "The colour", open: "", step: end, word: true,
    says: () => "The map of a word shows where the computer looks for it.",
    question: "Which word makes the colour?",
    plan(run) {
      const own = promptOf(run);
      const other = recolour(own);
      const pair = other === null ? [COLOURED, recolour(COLOURED)] : [own, other];
      const texts = pair.map((prompt) => ({ prompt }));
      return {
        action: other === null ? `Ask for ${quote(pair[0])} and ${quote(pair[1])}` : "Change the colour word",
        answer: answerColour,
        from: null, texts: other === null ? texts[0] : texts[1], then: other === null ? texts[1] : null, captions: pair.map(quote),
      };
    },
  },
  {
    title: "The latent", open: "latent", step: end,
    says: () => "All steps work on a small grid of numbers, the latent.",
    question: "Is the latent already a picture?",
    plan: (run) => ({
      action: "Decode it", to: run.n, part: "decoder",
      answer: () => `No: it has ${run.channels * run.pixels} numbers, and the picture ${run.record.tensors.image.data.length}. The decoder turns it into pixels, once, at the end.`,
    }),
    pictures: (run, answered) => [
      { name: "x", k: run.n, caption: `The latent: ${run.height} x ${run.width} places, a colour for each`, linear: true },
      answered ? { name: "image", k: run.n, caption: "What the decoder makes of it" } : null,
    ],
  },
  {
    title: "Large first", open: "unet", step: () => 0,
    says: () => "Look at the guess, beside the noisy picture.",
    question: "When is it decided what the picture will be: early or late?",
    plan: (run) => ({
      action: "Go on a quarter of the way", to: early(run),
      answer: () => answerShape(run, early(run)),
    }),
    pictures(run, answered) {
      const k = answered ? early(run) : 0;
      const both = [
        { name: "x", k, caption: `The picture now, at step ${k}` },
        { name: "x0", k, caption: `The guess, at step ${k}` },
      ];
      return answered ? [...both, { name: "image", k: run.n, caption: "The finished picture" }] : both;
    },
  },
  {
    title: "Another way", open: "", step: late,
    says: () => "A step depends on the numbers it starts from, so a run can go another way from any step.",
    question: "What happens if the words change late?",
    plan(run) {
      const other = otherThan(run);
      return {
        action: `Go on from step ${late(run)} with ${quote(other)}`,
        answer: (a, b) => (b && areSame(a, b)
          ? `Hardly anything: by step ${late(run)} nearly all of this picture was decided. Earlier, the new words would decide more.`
          : "A mixture: what was decided by then remains, and the rest follows the new words. Earlier, the new words would decide more."),
        from: late(run), texts: { prompt: other }, then: null,
        captions: [`${quote(promptOf(run))} to the end`, `${quote(other)} from step ${late(run)} on`],
      };
    },
  },
];

/** Return the step with which a stop begins on a run. */
export function firstStep(number, run) {
  return STOPS[number - 1].step(run);
}

// What 0 means depends on the model: one that reads the scale itself has its words in every guess.
function planGuidance(run, model) {
  const scale = run.meta.cfg_scale;
  const reads = model ? model.reads_guidance : run.onlyGuess === "x0_cond" && scale !== 1;
  if (model?.unused.includes("cfg_scale")) return { action: "Show the answer", answer: () => explainGuidance(run), to: run.n };
  const least = reads ? 1 : 0;
  const usual = model?.defaults.cfg_scale ?? least;
  const other = scale !== least ? least : usual === least ? STRONG : usual;
  const named = run.meta.params?.guidance && !reads ? { guidance: "cfg" } : {};
  return {
    action: `Set guidance to ${other}`,
    answer: () => (reads ? READS : "At 0 your words do nothing: the picture is what the noise alone leads to. Guidance says how strongly the words count."),
    from: null, texts: { cfg_scale: String(other), ...named }, then: null, captions: [`Guidance ${scale}`, `Guidance ${other}`],
  };
}

function guessesTwice(run) {
  return run.has("x0_uncond") && run.has("x0_cond");
}

function answerNoise(a, b) {
  const rule = "The noise decides what the words leave open, and is where the variety comes from.";
  if (!b) return `${rule} If the words leave little open for a model, other noise ends in nearly the same picture.`;
  return areSame(a, b)
    ? `Nearly the same picture twice: for this model these words leave little open. ${rule}`
    : `Two different pictures. ${rule} If the words leave little open for a model, other noise ends in nearly the same picture.`;
}

// `run` is that of the question; a and b are it and the one with another number of steps.
function answerSteps(run, a, b) {
  if (run.meta.is_map) return "A map can jump to the end at once: it was trained for that. More jumps correct what one of them gets wrong.";
  const first = "One step ends with the first guess, which is made from noise alone";
  const more = "Each small step leaves less noise, so the next guess can have more detail.";
  if (!b) return `${first}: it is usually soft, and details are missing. ${more}`;
  const [one, several] = a.n === 1 ? [a, b] : [b, a];
  if (isSofter(one, several)) return `${first}: it is soft, and details are missing. ${more}`;
  return `${first}. Here it is not softer than the picture of more steps: so it is with a model that was made for few steps, or has not learned its task. Otherwise each small step leaves less noise, and the next guess has more detail.`;
}

function answerColour(a, b) {
  if (!b) return "With another colour word and the same noise the shape usually stays nearly the same, and the colour changes: it is this word.";
  const same = haveSameShape(a, b);
  const shape = `the shape ${same ? "stays nearly the same" : "changes as well"}`;
  if (haveOtherColours(a, b)) return `With another colour word and the same noise ${shape}, and the colour changes: it is this word.`;
  return `With another colour word and the same noise ${shape}, and the colour hardly changes: this model does not take it from this word.`;
}

// Whether the guess at a step is like the end already.
function answerShape(run, k) {
  const noise = `${Math.round(100 * noiseShare(run, k))} % of the picture is still noise`;
  if (isSettled(run, k)) return `Early: the guess shows the shape while ${noise}. Later steps work on details.`;
  return `Not yet at step ${k}: the guess is still unlike the finished picture, and ${noise}.`;
}

/** Return a prompt with another colour in place of its colour word; null if it has none. */
export function recolour(prompt) {
  const words = prompt.split(" ");
  const place = words.findIndex((word) => COLOURS.has(word.toLowerCase()));
  if (place < 0) return null;
  words[place] = words[place].toLowerCase() === "blue" ? "red" : "blue";
  return words.join(" ");
}

/** Return the place of the colour in a list of words, or that of the thing. */
export function colourPlace(words) {
  const place = words.findIndex((word) => COLOURS.has(word.toLowerCase()));
  return place < 0 ? findTelling(words) : place;
}
