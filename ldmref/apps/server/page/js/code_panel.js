// @ts-check
// The text that generates an image again, to read and to copy.

import { KINDS, writeCode } from "./copy.js";
import { fill, h, newId } from "./dom.js";
import { download, fileName } from "./files.js";
import { notify } from "./notify.js";
import { requestOf } from "./record_prompts.js";

const CHOICE = "ldmref-code"; // in localStorage: the kind that was shown last

export class CodePanel {
  constructor(capabilities) {
    this.capabilities = capabilities;
    this.kind = remembered();
    this.text = h("code", {});
    this.files = h("div", { class: "row small", hidden: true });
    const name = newId("kind");
    const radios = Object.entries(KINDS).map(([kind, title]) => {
      const input = h("input", { type: "radio", name, value: kind, checked: kind === this.kind });
      input.addEventListener("change", () => this.choose(kind));
      return h("label", { class: "segment" }, input, h("span", {}, title));
    });
    const copy = h("button", { type: "button", class: "chip", onclick: () => this.copy() }, "Copy");
    this.element = h(
      "section",
      { class: "code", "aria-label": "Copy as code" },
      h("div", { class: "row spread" }, h("div", { class: "segments", role: "radiogroup", "aria-label": "Copy as" }, radios), copy),
      h("pre", { tabindex: "0", "aria-label": "Code that generates this image" }, this.text),
      this.files,
    );
  }

  show(entry) {
    this.entry = entry;
    this.write();
  }

  choose(kind) {
    this.kind = kind;
    try {
      localStorage.setItem(CHOICE, kind);
    } catch {
      // The choice lasts until the page is closed.
    }
    this.write();
  }

  write() {
    const { params, seed, token } = this.entry;
    const { request, images } = requestOf(this.entry);
    const name = fileName(params.prompt, images.count > 1 ? images.first : seed).replace(/\.png$/, "");
    const { text, files } = writeCode(request, images, {
      kind: this.kind,
      name,
      capabilities: this.capabilities,
      origin: location.origin,
      token,
    });
    this.text.textContent = text;
    const given = Object.values(files);
    const buttons = given.map(({ name: file, blob }) =>
      h("button", { type: "button", class: "link", onclick: () => download(blob, file) }, file),
    );
    this.files.hidden = !given.length;
    fill(this.files, h("span", { class: "soft" }, "It reads files beside it. Save them there:"), buttons);
  }

  async copy() {
    const text = this.text.textContent;
    if (navigator.clipboard) await navigator.clipboard.writeText(text).catch(() => copySelected(this.text));
    else copySelected(this.text); // without https, except for localhost
    notify(`Copied as ${KINDS[this.kind] === "curl" ? "curl" : KINDS[this.kind]}`);
  }
}

function copySelected(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  document.execCommand("copy");
}

function remembered() {
  try {
    return localStorage.getItem(CHOICE) in KINDS ? localStorage.getItem(CHOICE) : "python";
  } catch {
    return "python";
  }
}
