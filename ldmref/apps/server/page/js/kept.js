// @ts-check
// What this tab keeps across a reload and is too large for the address: the images and the mask of its
// form, and the requests that wait.

import * as store from "./store.js";

const TAB = "ldmref-tab"; // in sessionStorage: the name of this tab
const DAY = 24 * 3600 * 1000; // milliseconds for which those of a closed tab are kept

function tabName() {
  const name = sessionStorage.getItem(TAB) ?? [...crypto.getRandomValues(new Uint32Array(2))].join("-");
  sessionStorage.setItem(TAB, name);
  return name;
}

const idOf = (name) => `${tabName()} ${name}`;

const WRITE = 250; // milliseconds from a stroke to the store

/** Keep a value of this tab under a name; null forgets it. */
export async function keepOne(name, value) {
  const id = idOf(name);
  const done = value ? store.put("inputs", { id, value, created: Date.now() }) : store.remove("inputs", id);
  await done.catch(() => {}); // without a place to keep it, a reload loses it
}

/** Return what this tab kept under a name, or null. */
export async function recallOne(name) {
  const found = await store.get("inputs", idOf(name)).catch(() => null);
  return found?.value ?? null;
}

export class KeptFiles {
  constructor(form, painter) {
    this.form = form;
    this.painter = painter;
  }

  /** Keep the file of a field, or its files, or those of its ControlNets; null forgets it. A new image may have emptied the mask. */
  imageChanged(name, blob) {
    keepOne(name, blob);
    if (name === "image" && (this.painter.mask?.empty ?? true)) keepOne("mask", null);
  }

  maskChanged() {
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => keepOne("mask", await this.painter.file()), WRITE);
  }

  /** Put what was kept into fields that are empty, and the mask onto the image. */
  async recall() {
    forgetOld();
    const mask = await recallOne("mask");
    for (const [name, { field, control }] of this.form.rows) {
      if (field.kind === "nets") control.setFiles((await recallOne(name)) ?? []);
      if (!["image", "images"].includes(field.kind) || name === "mask" || control.isGiven()) continue;
      const file = await recallOne(name);
      if (file && !control.isGiven()) await control.set(file);
    }
    if (mask && this.painter.mask?.empty) await this.painter.loadFile(mask);
  }
}

async function forgetOld() {
  for (const { id, created } of await store.all("inputs").catch(() => [])) {
    if (created < Date.now() - DAY) await store.remove("inputs", id);
  }
}
