// Drafts while one types: the flow map draws the prompt with the seed of the widget, and the newest prompt wins.

import { h } from "../../shared/js/dom.js";
import { paint } from "../../shared/js/explorer/preview.js";

const STEPS = 2;
const WAIT = 200; // milliseconds without a letter; a word that something follows is drawn at once
const LETTER = /[\p{L}\p{N}]$/u;

/** Add a switch to a widget, which loads the map, and a picture below it; `isFree()` is false while a run is made. */
export function createDrafts({ knob, client, prompt, seed, map, isFree }) {
  let loaded = false;
  let drawing = false;
  let drawn = null; // the prompt and the seed of the picture
  let timer = 0;
  const input = h("input", { type: "checkbox" });
  const size = `${(map.network.bytes / 1e6).toFixed(1)} MB`;
  const canvas = h("canvas", { class: "knob-image", role: "img", width: 1, height: 1 });
  const figure = h("figure", { class: "knob-draft", hidden: true }, canvas, h("figcaption", {}, `${STEPS} steps of the flow map`));
  knob.controls.append(h("label", { class: "knob-switch" }, input, `draw while I type (loads ${size} more)`));
  knob.body.append(figure);

  const wanted = () => JSON.stringify([prompt.value.trim(), seed.value]);

  async function load() {
    const tell = (what) => (done, total) => knob.say(`Loading ${what}: ${Math.round((100 * done) / total)} %`);
    try {
      await client.load(tell("the model"));
      await client.loadMap(tell("the flow map"));
      loaded = true;
      knob.say("Type a prompt.");
      await draw();
    } catch (error) {
      input.checked = false;
      knob.say(`That did not work: ${error.message}.`);
    }
  }

  async function draw() {
    clearTimeout(timer);
    const asked = wanted();
    if (!loaded || !input.checked || drawing || asked === drawn || !prompt.value.trim() || !isFree()) return;
    drawing = true;
    const began = performance.now();
    try {
      const image = await client.draw({ prompt: prompt.value, seed: String(seed.value), steps: STEPS });
      drawn = asked;
      paint(canvas, image.rgba, image.width, image.height);
      canvas.setAttribute("aria-label", `Draft: ${JSON.parse(asked)[0]}`);
      figure.hidden = false;
      knob.say(`Drawn in ${((performance.now() - began) / 1000).toFixed(2)} s on this device`);
    } catch (error) {
      drawn = asked;
      knob.say(`That did not work: ${error.message}.`);
    }
    drawing = false;
    if (wanted() !== drawn) draw(); // what was typed meanwhile
  }

  input.addEventListener("change", () => input.checked && (loaded ? draw() : load()));
  prompt.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(draw, LETTER.test(prompt.value) ? WAIT : 0);
  });
}
