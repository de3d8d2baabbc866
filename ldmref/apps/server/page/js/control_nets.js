// @ts-check
// The field of the ControlNets that the server has for a model: a net, its image and its settings, any number of
// times. Its text is JSON without the images, which stand in no address.

import { fill, h } from "./dom.js";
import { imageControl } from "./inputs.js";
import { makeControl } from "./controls.js";
import { parseJson, toJson } from "./numbers.js";
import { fromText, toText, withoutFiles } from "./schema.js";
import { label } from "./wording.js";

/**
 * Return the control of a field. `nets` are {name, kinds, image} of the model; `given` says whether the mode has
 * an image and a mask of its own. `pick` opens the gallery; `changed()` and `filesChanged(blobs)` tell of edits.
 */
export function netsControl(field, nets, given, { pick, changed, filesChanged }) {
  const offered = nets.filter((net) => net.image || given);
  let units = [];
  const select = h("select", { "aria-label": "Add a ControlNet" });
  const list = h("ul", { class: "control-nets" });
  const names = h("option", { value: "" }, "Add a ControlNet …");
  fill(select, names, offered.map(({ name }) => h("option", { value: name }, name)));
  select.addEventListener("change", () => {
    if (!select.value) return;
    add({ net: select.value });
    select.value = "";
    changed();
    list.querySelector("li:last-child input")?.focus();
  });

  const blobs = () => units.map(({ image }) => image?.file() ?? null);
  const draw = () => fill(list, units.map(({ element }) => element));

  function add(values) {
    const unit = makeUnit(field, nets.find(({ name }) => name === values.net), values, {
      pick,
      given,
      changed,
      imageChanged: () => filesChanged(blobs()),
      remove: () => {
        units = units.filter((one) => one !== unit);
        draw();
        changed();
        filesChanged(blobs());
        select.focus();
      },
    });
    units = [...units, unit];
    draw();
  }

  const read = () => (units.length ? toJson(units.map(({ values }) => withoutFiles(values()))) : "");
  const element = h("div", { class: "stack" }, list, select);
  return {
    element,
    input: select,
    read,
    write(text) {
      const files = blobs();
      units = [];
      for (const values of readUnits(text)) add(values);
      draw();
      setFiles(files);
    },
    value: () => (units.length ? units.map(({ values }) => values()) : null),
    files: blobs,
    setFiles,
  };

  // The images of the units, in their order; null leaves one as it is.
  async function setFiles(files) {
    for (const [i, file] of files.entries()) if (file && units[i]?.image) await units[i].image.set(file);
  }
}

// What an address says, which may be anything.
function readUnits(text) {
  try {
    const listed = text ? parseJson(text) : [];
    return Array.isArray(listed) ? listed.filter((unit) => typeof unit?.net === "string") : [];
  } catch {
    return [];
  }
}

function makeUnit(field, net, values, { pick, given, changed, imageChanged, remove }) {
  const name = values.net;
  const parts = field.items.filter((part) => part.name !== "net" && part.kind !== "image" && (part.name !== "mode" || net?.kinds));
  const image = net?.image === false ? null : imageControl({ name: "control", label: `Image of ${name}` }, { pick, changed: imageChanged });
  const rows = parts.map((part) => {
    const numbers = { ...part, label: label(part.name), maximum: part.name === "mode" ? net.kinds - 1 : part.maximum };
    const control = makeControl(numbers, { fallback: toText(part.default) }, changed);
    control.write(toText(values[part.name]));
    control.input.setAttribute("aria-label", `${numbers.label} of ${name}`);
    const element = h("div", { class: `field ${part.kind}`, title: part.help }, h("span", { class: "label" }, numbers.label), control.element);
    return { part, control, element };
  });
  const button = h("button", { type: "button", class: "chip", "aria-label": `Remove ${name}`, onclick: remove }, "Remove");
  const own = given ? h("p", { class: "small soft" }, image ? "Without an image, an inpainting net reads the picture without its masked part." : "It reads the picture and the mask.") : null;
  const element = h(
    "li",
    {},
    h("div", { class: "row spread" }, h("strong", {}, name), button),
    image?.element,
    own,
    h("div", { class: "fields nested" }, rows.map((row) => row.element)),
  );
  return {
    element,
    image,
    values() {
      const file = image?.file();
      const texts = rows.map(({ part, control }) => [part.name, fromText(part, control.read())]);
      const set = Object.fromEntries(texts.filter(([, value]) => value !== undefined));
      return { net: name, ...(file ? { image: file } : {}), ...set };
    },
  };
}
