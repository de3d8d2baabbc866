// @ts-check
// The control of several images that a model reads beside the prompt, in their order.

import { counted, fill, h, newId } from "./dom.js";
import { imageFiles, readSize } from "./files.js";
import { notify, notifyError } from "./notify.js";

/**
 * Return a control {element, input, file(), set(blobs), clear()} for a field of images; `file()` is their list, or
 * null. `most` is the largest number, `pick` opens the gallery, and `changed(blobs)` is called with null when there
 * are none.
 */
export function imagesControl(field, { most, pick, changed }) {
  let units = [];
  const chooser = h("input", {
    id: newId(field.name),
    type: "file",
    multiple: true,
    accept: "image/png,image/jpeg,image/webp",
    class: "sr",
    "aria-label": `${field.label}: choose files`,
  });
  const list = h("ol", { class: "image-list" });
  const choose = h("button", { type: "button", class: "chip", onclick: () => chooser.click() }, "Choose files");
  const gallery = h("button", { type: "button", class: "chip", onclick: fromGallery }, "From the gallery");
  const buttons = h("div", { class: "row" }, choose, gallery);
  const element = h("div", { class: "drop stack" }, chooser, list, buttons);

  const files = () => (units.length ? units.map(({ blob }) => blob) : null);

  async function add(blobs) {
    for (const blob of blobs) {
      if (units.length >= most) {
        notify(`The model reads at most ${counted(most, "image")} here`, { hint: "Remove one first." });
        break;
      }
      try {
        const size = await readSize(blob);
        units = [...units, { blob, size, address: URL.createObjectURL(blob) }];
      } catch (error) {
        notifyError(error);
      }
    }
    show();
    changed(files());
  }

  function remove(unit) {
    URL.revokeObjectURL(unit.address);
    units = units.filter((one) => one !== unit);
    show();
    changed(files());
    choose.focus();
  }

  function show() {
    const rows = units.map((unit, i) => {
      const { blob, size, address } = unit;
      const name = blob.name ? `${blob.name}, ` : "";
      const button = h("button", { type: "button", class: "chip", "aria-label": `Remove image ${i + 1}`, onclick: () => remove(unit) }, "Remove");
      const about = h("p", { class: "small soft" }, `${name}${size.width} × ${size.height}`);
      const image = h("img", { src: address, alt: `Image ${i + 1} that is given` });
      return h("li", { class: "input-image" }, image, h("div", {}, about, button));
    });
    fill(list, rows);
    list.hidden = !units.length;
    buttons.hidden = units.length >= most;
  }

  async function fromGallery() {
    const blob = await pick();
    if (blob) await add([blob]);
  }

  async function set(blobs) {
    for (const { address } of units) URL.revokeObjectURL(address);
    units = [];
    await add(blobs);
  }

  chooser.addEventListener("change", () => {
    add([...chooser.files]);
    chooser.value = "";
  });
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    event.stopPropagation();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    element.classList.remove("over");
    add(imageFiles(event.dataTransfer));
  });
  show();
  return { element, input: chooser, file: files, isGiven: () => units.length > 0, set, clear: () => set([]) };
}
