// @ts-check
// The toolbar of the painter.

import { h, newId } from "./dom.js";
import { download } from "./files.js";
import { iconButton } from "./icons.js";
import { readMask } from "./mask_file.js";
import { announce, notify } from "./notify.js";

const UNPAINTED = "nothing is painted, so the image would come back as it is: paint over the part to replace first";

/** Return the toolbar of a painter, which gets `buttons`, `slider` and `sizeText`. */
export function makeTools(painter) {
  const chooser = h("input", {
    type: "file",
    accept: "image/png,image/jpeg,image/webp",
    class: "sr",
    tabindex: "-1",
    "aria-label": "Load a mask from a file",
  });
  chooser.addEventListener("change", () => {
    if (chooser.files[0]) painter.loadFile(chooser.files[0]);
    chooser.value = "";
  });
  const run = (action) => () => painter.run(action);
  painter.buttons = {
    brush: iconButton("brush", "Brush (B)", () => painter.pick(false)),
    eraser: iconButton("eraser", "Eraser (E)", () => painter.pick(true)),
    undo: iconButton("undo", "Undo (Ctrl+Z)", run("undo")),
    redo: iconButton("redo", "Redo (Ctrl+Y)", run("redo")),
    invert: iconButton("invert", "Invert (I)", run("invert")),
    clear: iconButton("trash", "Clear (Delete)", run("clear")),
    load: iconButton("upload", "Load a mask from a file", () => chooser.click()),
    save: iconButton("download", "Save the mask as a file", () => saveMask(painter)),
  };
  painter.slider = h("input", { id: newId("size"), type: "range", min: "1", max: "100", step: "1" });
  painter.slider.addEventListener("input", () => painter.resize(Number(painter.slider.value)));
  painter.sizeText = h("output", { class: "numbers small", for: painter.slider.id });
  const { brush, eraser, ...others } = painter.buttons;
  const size = [h("label", { for: painter.slider.id }, "Size"), painter.slider, painter.sizeText];
  return h(
    "div",
    { class: "tools row", role: "toolbar", "aria-label": "Painting tools" },
    h("div", { class: "row" }, brush, eraser),
    h("div", { class: "row size" }, size),
    h("div", { class: "row" }, Object.values(others), chooser),
  );
}

async function saveMask(painter) {
  download(await painter.file(), "mask.png");
}

/** Replace the mask by that of an image file, and say what of it is not as usual. */
export async function loadMask(painter, file) {
  const { mask } = painter;
  const { data, notes } = await readMask(file, mask.width, mask.height);
  mask.load(data);
  painter.update();
  painter.changed();
  for (const note of notes) notify(note);
  announce("The mask is loaded");
}

/** Return the painter as the control of the field `mask`: it is in the work area, and the form refers to it. */
export function maskControl(painter) {
  const link = h("button", { type: "button", class: "link small", onclick: () => painter.canvas.focus() }, "Paint it on the image");
  return {
    element: link,
    input: link,
    file: () => painter.file(),
    isGiven: () => painter.mask !== null,
    findProblem: () => (painter.mask.empty ? UNPAINTED : ""),
    set: (blob) => painter.loadFile(blob),
  };
}
