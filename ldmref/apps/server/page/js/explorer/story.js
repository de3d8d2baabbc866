// @ts-check
// The first thing of the explorer: the picture now, the guess of the finished one, and a sentence.

import { h } from "../dom.js";
import { describeStep } from "./plain.js";
import { imageBytes, paint } from "./preview.js";

const PICTURES = { x: "The picture now", x0: "The guess" };

/** Return the story: {element, show(run, k, note), showDecoded(run, name, k, image), showMaking(entry)}. */
export function createStory() {
  const pictures = Object.entries(PICTURES).map(([name, title]) => {
    const canvas = h("canvas", { role: "img", width: 1, height: 1 });
    const element = h("figure", { class: "ex-picture", "data-image": name }, h("div", { class: "ex-frame" }, canvas), h("figcaption", {}, title));
    return { name, title, canvas, element };
  });
  const prompt = h("p", { class: "ex-asked" });
  const sentence = h("p", { class: "ex-sentence" });
  const made = h("p", { class: "soft small" });
  const [now, guess] = pictures.map(({ element }) => element);
  const towards = h("span", { class: "ex-towards", "aria-hidden": "true" }, "→");
  const element = h(
    "section",
    { class: "panel ex-story", "aria-labelledby": "ex-story-title" },
    h("div", { class: "ex-pictures" }, now, towards, guess),
    h("div", { class: "ex-telling" }, h("h2", { id: "ex-story-title" }, "How noise becomes a picture"), prompt, sentence, made),
  );
  function showPictures({ both, one }) {
    now.hidden = !both;
    towards.hidden = !both;
    guess.hidden = !one;
  }

  return {
    element,
    // An entry of `Runs` that is being made: how far it is, and the guess of its last step if there is one.
    showMaking({ spec, said, guess: image }) {
      const { canvas } = pictures[1];
      showPictures({ both: false, one: Boolean(image) });
      prompt.textContent = spec.texts?.prompt ? `“${spec.texts.prompt}”` : "";
      sentence.textContent = `${said ?? "Waiting"}. ${image ? "The computer guesses the finished picture and moves a little towards the guess, step by step." : ""}`;
      made.hidden = true;
      if (!image) return;
      const picture = new Image();
      picture.addEventListener("load", () => {
        if (!now.hidden) return; // the run has come meanwhile
        canvas.width = picture.naturalWidth;
        canvas.height = picture.naturalHeight;
        canvas.getContext("2d").drawImage(picture, 0, 0);
      });
      picture.src = image;
      canvas.setAttribute("aria-label", `${PICTURES.x0}: ${said}`);
    },
    // `note` says where the run is from, if that is not what one would expect.
    show(run, k, note) {
      showPictures({ both: true, one: true });
      for (const { name, title, canvas } of pictures) {
        if (k === run.n) {
          const [height, width] = run.record.tensors.image.shape;
          paint(canvas, run.remember("image", () => imageBytes(run.record.tensors.image)), width, height);
        } else paint(canvas, run.preview(name, k), run.width, run.height);
        canvas.setAttribute("aria-label", k === run.n ? `${title}: the finished picture` : `${title} at step ${k} of ${run.n}`);
      }
      prompt.textContent = run.meta.params?.prompt ? `“${run.meta.params.prompt}”, step ${k} of ${run.n}` : `Step ${k} of ${run.n}`;
      sentence.textContent = describeStep(run, k);
      made.textContent = note;
      made.hidden = !note;
    },
    showDecoded(run, name, k, image) {
      const found = pictures.find((one) => one.name === name);
      if (!found || k === run.n) return;
      found.canvas.width = image.width;
      found.canvas.height = image.height;
      found.canvas.getContext("2d").drawImage(image, 0, 0);
    },
  };
}
