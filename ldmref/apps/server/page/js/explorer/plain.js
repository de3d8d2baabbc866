// @ts-check
// What the page says in plain words: a sentence for each step and for each panel.

/** Return the sentence of position k of a run. */
export function describeStep(run, k) {
  if (k === 0) {
    return "This is pure noise: random numbers, chosen by the seed. The computer does not draw a picture, it finds one in the noise.";
  }
  if (k === run.n) {
    return "No noise is left. The decoder has turned the small grid of numbers into the finished picture.";
  }
  if (run.meta.is_map) return `A flow map has learned where the way from noise leads, and jumps along it. ${describeStage(run, k)}`;
  return `The computer guesses the finished picture and moves a little towards the guess. ${describeStage(run, k)}`;
}

/** Return a position of a run in numbers. */
export function describePosition(run, k) {
  const sigma = Number(run.sigmas[k].toPrecision(3));
  return `step ${k} of ${run.n}, σ ${sigma}`;
}

/**
 * Return how much at a position is still noise: of the sum of both weights in a flow, which is 1, and
 * otherwise of the variance, sigma^2 / (1 + sigma^2).
 */
export function noiseShare(run, k) {
  return run.levels?.curve === "flow" ? run.levels.noise[k] : 1 - run.alphaBar(k);
}

function describeStage(run, k) {
  const share = noiseShare(run, k);
  const percent = Math.round(100 * share);
  if (share > 0.9) return `So far ${percent} % is noise: only large shapes and colours can be guessed.`;
  if (share > 0.3) return `${percent} % is still noise: the shape is decided, and now the parts are.`;
  return `Only ${percent} % is noise: what is left to find is fine detail.`;
}

// What each image of a step is, in one sentence.
export const PANELS = {
  x: "The picture now: a part that is already right, and noise.",
  x0_uncond: "The guess of the finished picture, made without reading your words.",
  x0_cond: "The guess made with your words.",
  x0: "The guess that is used: it goes further in the direction of your words.",
  difference: "What your words change: red adds, blue takes away.",
};

/** Return what guidance does in a run. */
export function explainGuidance(run) {
  if (run.has("x0_uncond") && run.has("x0_cond")) {
    return "The network guesses twice: without your words and with them. Guidance goes from the first guess to the second and further. At 0 your words do nothing; far too much makes colours and edges too strong.";
  }
  const scale = run.meta.cfg_scale;
  if (run.onlyGuess === "x0_uncond") return `The network guesses once, without your words: at a guidance scale of ${scale} they do nothing.`;
  const named = run.meta.params?.guidance?.name;
  if (named) return `The network makes no guess without your words: the guidance “${named}” finds its direction in another way.`;
  if (scale === 1) return "The network guesses once, with your words: at a guidance scale of 1 it goes no further than this guess.";
  return `The network guesses once. It was trained to read the guidance scale, here ${scale}, and answers as if it had guessed twice and gone that far.`;
}

/** Return what the guess is that is used at position k. */
export function describeGuess(run, k) {
  if (run.onlyGuess === null) {
    const guided = !run.has("x0_uncond") || run.hasAt("x0_uncond", k);
    return guided ? PANELS.x0 : "The guess that is used: in this step there is no guidance.";
  }
  const reads = run.onlyGuess === "x0_cond" && run.meta.cfg_scale !== 1;
  const why = reads ? `the network has read the guidance scale, ${run.meta.cfg_scale}, itself` : "this run has no guidance";
  return `${PANELS[run.onlyGuess]} It is used as it is: ${why}.`;
}

// What the numbers are, for `explain`.
export const NUMBERS = {
  moments: "The mean and the usual size (standard deviation) of the numbers of this latent. Pure noise has the mean 0 and the deviation 1.",
  rms: "rms, root mean square: the usual size of the difference of two numbers at the same place. 0 is no difference.",
  scale: "The colours at both ends stand for a change of this part of the full brightness: 1 is from black to white.",
  position: "The step, and σ (sigma): how strong the noise is, where the numbers of the picture itself have a size of about 1. In a flow model the picture then counts 1 − σ.",
  word: "How much of the picture's attention this word has in this step, on average over all places.",
  alpha_bar: "The share of the picture in the mixture of picture and noise: 0 is noise alone, 1 the picture alone.",
  snr: "Signal-to-noise ratio: how many times stronger the picture is than the noise. Below 1 there is more noise.",
  sigma: "σ, sigma: how strong the noise is, where the numbers of the picture itself have a size of about 1. In a flow model the picture then counts 1 − σ.",
  path: "A state is a mixture: the numbers of the picture times alpha, plus noise times sigma. Both are here in the scale that the network reads.",
  truth: "How far the run is from the exact path from the same noise, and the error of the next step alone. 0 is no error.",
  arcs: "The angle between two directions in the space of all numbers of the latent: 0° is the same direction. The distance is a root mean square, where the numbers have a size of about 1.",
  share: "At each place the attention adds up to 100 %: to the words, and to the beginning, the end and the padding of the text; in a transformer also to the other places of the image.",
};

// What the curve is on which the states of a run lie.
export const PATHS = {
  preserving: "The squares of both numbers add up to 1, so the way is a quarter of a circle: from noise alone, at the top, round to the picture alone, at the right.",
  flow: "Both numbers add up to 1, so the way is a straight line: from noise alone, at the top, to the picture alone, at the right.",
  exploding: "The picture always counts 1, and the noise comes on top of it: the way leads down, from much noise to none.",
};

// The rows of a strip of film.
export const ROWS = [
  { key: "x", name: "Now", text: "The picture now: noise at first, the picture in the end" },
  { key: "x0", name: "Guess", text: "The guess of the finished picture" },
  { key: "noise", name: "Noise", text: "The noise that is still in it: the picture now without the guess" },
];
