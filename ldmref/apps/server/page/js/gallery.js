// @ts-check
// The gallery: the last images that this browser generated, with the requests that made them.

import { downloadAll } from "./archive.js";
import { openDialog } from "./dialog.js";
import { counted, fill, h } from "./dom.js";
import { download, fileName } from "./files.js";
import { iconButton } from "./icons.js";
import { notify, notifyError } from "./notify.js";
import * as store from "./store.js";

const MOST = 200; // images; the oldest are forgotten
const channel = typeof BroadcastChannel === "function" ? new BroadcastChannel("ldmref-gallery") : null;

/**
 * An entry is {id, created, blob, params, seed, width, height, index, request}; request is
 * {mode, model, values} with the values as they were sent, files as Blobs.
 */
export class Gallery {
  /** `open(entry)` is called when an image is chosen. */
  constructor({ open }) {
    this.open = open;
    this.entries = [];
    this.addresses = new Map();
    this.list = h("ul", { class: "thumbs" });
    this.count = h("span", { class: "soft small numbers" });
    this.clearButton = h("button", { type: "button", class: "chip", onclick: () => this.clear() }, "Clear");
    this.saveButton = h("button", { type: "button", class: "chip", onclick: () => downloadAll(this.entries) }, "Download all");
    this.element = h(
      "section",
      { class: "gallery", "aria-label": "Gallery" },
      h("div", { class: "row heading" }, h("h2", {}, "Gallery"), this.count, h("div", { class: "row ends" }, this.saveButton, this.clearButton)),
      this.list,
    );
    channel?.addEventListener("message", () => this.load());
    this.load();
  }

  async load() {
    try {
      this.entries = await store.all("images");
    } catch (error) {
      notifyError(error);
    }
    this.entries.sort((a, b) => b.created - a.created || a.index - b.index);
    this.show();
  }

  /** Store an image; a second time changes nothing. */
  async add(entry) {
    try {
      await store.put("images", entry);
      const old = (await store.all("images")).sort((a, b) => b.created - a.created).slice(MOST);
      for (const { id } of old) await store.remove("images", id);
    } catch (error) {
      notify("The browser could not store the image", { kind: "error", hint: String(error?.message ?? error) });
    }
    channel?.postMessage("changed");
    await this.load();
  }

  async remove(entry) {
    await store.remove("images", entry.id);
    channel?.postMessage("changed");
    await this.load();
    notify("Deleted", { action: { label: "Undo", run: () => this.add(entry) } });
  }

  async clear() {
    const kept = this.entries;
    await store.clear("images");
    channel?.postMessage("changed");
    await this.load();
    const restore = async () => {
      for (const entry of kept) await store.put("images", entry);
      channel?.postMessage("changed");
      await this.load();
    };
    notify(`${counted(kept.length, "image")} deleted`, { action: { label: "Undo", run: restore } });
  }

  address(entry) {
    if (!this.addresses.has(entry.id)) this.addresses.set(entry.id, URL.createObjectURL(entry.blob));
    return this.addresses.get(entry.id);
  }

  show() {
    const present = new Set(this.entries.map(({ id }) => id));
    for (const [id, address] of this.addresses) {
      if (present.has(id)) continue;
      URL.revokeObjectURL(address);
      this.addresses.delete(id);
    }
    this.element.hidden = !this.entries.length;
    const forgotten = store.isLasting() ? "" : ", kept until the page is closed";
    this.count.textContent = `${this.entries.length}${forgotten}`;
    fill(this.list, this.entries.map((entry) => this.makeThumb(entry)));
  }

  makeThumb(entry) {
    const name = describe(entry);
    const button = h(
      "button",
      { type: "button", class: "thumb", "aria-label": name, title: name, onclick: () => this.open(entry) },
      h("img", { src: this.address(entry), alt: "", loading: "lazy", draggable: "true" }),
    );
    const save = () => download(entry.blob, fileName(entry.params.prompt, entry.seed));
    return h(
      "li",
      {},
      button,
      h(
        "div",
        { class: "thumb-tools" },
        iconButton("download", `Download ${name}`, save),
        iconButton("trash", `Delete ${name}`, () => this.remove(entry)),
      ),
    );
  }

  /** Let the user choose an image and return its Blob; null if the dialog is closed. */
  async pick() {
    let chosen = null;
    const items = this.entries.map((entry) => {
      const choose = () => {
        chosen = entry.blob;
        dialog.close();
      };
      const image = h("img", { src: this.address(entry), alt: "" });
      return h("li", {}, h("button", { type: "button", class: "thumb", "aria-label": describe(entry), onclick: choose }, image));
    });
    const list = items.length ? h("ul", { class: "thumbs" }, items) : h("p", { class: "soft" }, "The gallery is empty.");
    const dialog = openDialog("Choose an image", list);
    await dialog.closed;
    return chosen;
  }
}

/** Return the text that names an image: its prompt and its seed. */
export function describe(entry) {
  const prompt = [entry.params.prompt ?? entry.request?.mode ?? "image"].flat().join("; ");
  return `${prompt || "image without a prompt"}, seed ${entry.seed}`;
}
