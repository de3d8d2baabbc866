// The toolbar of the painter, and masks as files.

import { h, newId } from "./dom.js";
import { download } from "./files.js";
import { iconButton } from "./icons.js";

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

/** Load a mask from an image file of the same size: what is lighter than middle grey is painted. */
export async function loadMask(painter, file) {
  const bitmap = await createImageBitmap(file);
  const { mask } = painter;
  if (bitmap.width !== mask.width || bitmap.height !== mask.height) {
    const sizes = `${bitmap.width} × ${bitmap.height}, and the image is ${mask.width} × ${mask.height}`;
    throw new Error(`the mask is ${sizes}`);
  }
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const isLight = (i) =>
    (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) * data[i + 3] >= 127.5 * 255;
  mask.load(Uint8Array.from({ length: data.length / 4 }, (_, i) => (isLight(4 * i) ? 1 : 0)));
  painter.update();
  painter.changed();
}
