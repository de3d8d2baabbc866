// @ts-check
// The settings that an image file records, put into the form.

import { h } from "./dom.js";
import { notify, notifyError, sentence } from "./notify.js";
import { writeParameters } from "./schema.js";

const INPUTS = { image: "image", mask: "mask", segmentation: "map", control_image: "control image", references: "reference images", control: "images of the ControlNets" };

/** Return the line that offers to restore the settings of a file, which `restore(file)` gets. */
export function makeRestoreHint(restore) {
  const open = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", class: "sr", tabindex: "-1", "aria-label": "Open an image to restore its settings" });
  open.addEventListener("change", () => {
    if (open.files[0]) restore(open.files[0]);
    open.value = "";
  });
  const button = h("button", { type: "button", class: "link small", onclick: () => open.click() }, "Restore the settings of an image file");
  return h("p", { class: "soft small restore" }, "Drop an image with settings anywhere on this page, or: ", button, open);
}

/** Read the settings of an image file and show them in the view `generate`. */
export async function inspectFile(generate, file) {
  const modes = generate.offeredModes();
  const target = generate.mode === "inpaint" ? "inpaint" : "img2img";
  const use = modes.includes(target)
    ? { label: "Use it as input", run: () => generate.useImage(target, file) }
    : null;
  let found;
  try {
    found = await generate.api.inspect(file, generate.model.name);
  } catch (error) {
    notifyError(error);
    return;
  }
  if (!found.mode) {
    const said = found.notes.length ? "The settings of another program are not restored" : "This image does not record how it was made";
    notify([said, ...found.notes].join(". "), { action: use });
    return;
  }
  if (!modes.includes(found.mode)) {
    notify(`The image was made by ${found.mode}, which the model here cannot do`, { action: use });
    return;
  }
  generate.setSettings(found.mode, writeParameters(found.parameters));
  const lines = ["The settings of the image are restored."];
  if (found.missing.length) {
    const names = found.missing.map((name) => INPUTS[name] ?? name).join(" and the ");
    lines.push(`The file does not contain the ${names}: add it again.`);
  }
  const loras = found.model?.loras ?? [];
  generate.setLoras(loras);
  for (const { name } of loras) {
    if (!generate.model.loras?.includes(name)) lines.push(`The server has no LoRA “${name}”, so the image will differ.`);
  }
  lines.push(...describeModel(found, generate.model), ...found.notes.map(sentence));
  notify(lines.join(" "), { action: use });
}

function describeModel(found, model) {
  if (!found.model?.sha256) return [];
  const name = found.model.name ?? "another model";
  return found.models.includes(model.name) ? [] : [`It was made with ${name}, so the image will differ.`];
}
