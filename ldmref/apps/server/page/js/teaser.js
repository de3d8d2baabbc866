// @ts-check
// What stands where the first image will be: noise becomes a picture, once, and where to see how.

import { h } from "./dom.js";
import { fetchFrames } from "./frames.js";
import { writeState } from "./state.js";

const PAUSE = 200; // milliseconds per step: all of it takes less than five seconds

/** Return the teaser: [canvas, sentence]. Without motion it shows the end. */
export function createTeaser() {
  const canvas = h("canvas", { role: "img", "aria-label": "Noise becomes a picture of a face", width: 128, height: 128, hidden: true });
  const open = (event) => {
    event.preventDefault();
    writeState({ view: "explore" }, { push: true });
  };
  play(canvas).catch((error) => console.info(`No frames: ${error.message}`));
  return [
    canvas,
    h("span", { class: "teaser-text" }, "The image appears here. The computer makes it from noise, in small steps: ", h("a", { href: "#view=explore", onclick: open }, "see how"), "."),
  ];
}

async function play(canvas) {
  const { sheet, side, last } = await fetchFrames();
  const draw = (k) => canvas.getContext("2d").drawImage(sheet, k * side, 0, side, side, 0, 0, canvas.width, canvas.height);
  let k = matchMedia("(prefers-reduced-motion: reduce)").matches ? last : 0;
  draw(k);
  canvas.hidden = false;
  const timer = setInterval(() => {
    if (k < last) draw((k += 1));
    else clearInterval(timer);
  }, PAUSE);
}
