// @ts-check
// The controls of files that a mode takes: images by choice, drop or paste, or from the gallery, and
// arrays of NumPy.

import { fill, h, newId } from "./dom.js";
import { imageFiles, readSize } from "./files.js";
import { notifyError } from "./notify.js";

/**
 * Return a control {element, input, file(), set(blob), clear()} for a field. `pick` opens the
 * gallery and returns a Blob; `changed(blob, size)` is called with null when it is emptied.
 */
export function imageControl(field, { pick, changed }) {
  let file = null;
  let address = "";
  const chooser = h("input", {
    id: newId(field.name),
    type: "file",
    accept: "image/png,image/jpeg,image/webp",
    class: "sr",
    "aria-label": `${field.label}: choose a file`,
  });
  const shown = h("div", { class: "input-image" });
  const element = h("div", { class: "drop" }, chooser, shown);

  async function set(blob) {
    let size;
    try {
      size = await readSize(blob);
    } catch (error) {
      notifyError(error);
      return;
    }
    file = blob;
    show(size);
    changed(blob, size);
  }

  function clear() {
    file = null;
    show(null);
    changed(null, null);
  }

  function show(size) {
    if (address) URL.revokeObjectURL(address);
    address = file ? URL.createObjectURL(file) : "";
    const buttons = [
      h("button", { type: "button", class: "chip", onclick: () => chooser.click() }, "Choose a file"),
      h("button", { type: "button", class: "chip", onclick: fromGallery }, "From the gallery"),
    ];
    if (!file) {
      fill(shown, h("p", { class: "soft small" }, "Drop an image here, paste it, or"), h("div", { class: "row" }, buttons));
      return;
    }
    const name = file.name ? `${file.name}, ` : "";
    buttons.push(h("button", { type: "button", class: "chip", onclick: clear }, "Remove"));
    fill(
      shown,
      h("img", { src: address, alt: `The ${field.label.toLowerCase()} that is given` }),
      h("div", {}, h("p", { class: "small soft" }, `${name}${size.width} × ${size.height}`), h("div", { class: "row" }, buttons)),
    );
  }

  async function fromGallery() {
    const blob = await pick();
    if (blob) await set(blob);
  }

  chooser.addEventListener("change", () => {
    if (chooser.files[0]) set(chooser.files[0]);
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
    const [dropped] = imageFiles(event.dataTransfer);
    if (dropped) set(dropped);
  });
  show(null);
  return { element, input: chooser, file: () => file, isGiven: () => file !== null, set, clear };
}

/** Return a control like that of an image, for a .npy file. */
export function arrayControl(field, { changed }) {
  let file = null;
  const input = h("input", { id: newId(field.name), type: "file", accept: ".npy" });
  const given = h("p", { class: "small soft" });
  const remove = h("button", { type: "button", class: "chip", hidden: true }, "Remove");
  const set = (blob) => {
    file = blob;
    given.textContent = blob && !input.files.length ? blob.name : "";
    remove.hidden = !blob;
    changed(blob);
  };
  remove.addEventListener("click", () => {
    input.value = "";
    set(null);
  });
  input.addEventListener("change", () => set(input.files[0] ?? null));
  const element = h("div", { class: "stack" }, input, h("div", { class: "row" }, given, remove));
  return { element, input, file: () => file, isGiven: () => file !== null, set, clear: () => remove.click() };
}
