// @ts-check
// The stage: the images of one request, while they are generated and afterwards.

import { downloadAll } from "./archive.js";
import { CodePanel } from "./code_panel.js";
import { counted, fill, h, newId } from "./dom.js";
import { createEnlarge } from "./enlarge.js";
import { createDial } from "./evaluations.js";
import { download, fileName } from "./files.js";
import { describe } from "./gallery.js";
import { announce, sentence } from "./notify.js";
import { createTeaser } from "./teaser.js";

const SAID = 25; // per cent between two announcements of the progress
const LONGEST = 40; // letters of a prompt below its draft, the last ones
const SHORT = 2; // seconds that remain, from which the progress of what nobody asked for is shown

export class Stage {
  /** `actions`: cancel(), again(request), reuse(entry), use(mode, entry), explore(entry). */
  constructor({ api, capabilities, actions }) {
    this.api = api;
    this.actions = actions;
    this.capabilities = capabilities;
    this.slots = [];
    this.addresses = [];
    this.drafted = false; // whether what is shown was drawn while one types
    this.quiet = false; // whether a pause in typing asked for what runs
    this.status = h("p", { id: newId("status"), class: "status numbers" });
    this.bar = h("progress", { max: "1", "aria-labelledby": this.status.id });
    this.cancelButton = h("button", { type: "button", onclick: () => this.cancel() }, "Cancel");
    this.running = h("div", { class: "running", hidden: true }, h("div", { class: "row spread" }, this.status, this.cancelButton), this.bar);
    this.images = h("div", { class: "images" });
    this.notice = h("div", { class: "notice", role: "alert", hidden: true });
    this.details = h("div", { class: "details", hidden: true });
    this.code = new CodePanel(capabilities);
    this.element = h(
      "section",
      { class: "stage", "aria-label": "Result" },
      this.images,
      this.running,
      this.notice,
      this.details,
    );
    this.clear();
  }

  /** Show that nothing has been generated yet. */
  clear() {
    this.shown = null;
    this.setSlots(1);
    this.slots[0].frame.classList.add("vacant");
    fill(this.slots[0].caption, createTeaser());
    this.details.hidden = true;
  }

  setSlots(count) {
    for (const address of this.addresses) URL.revokeObjectURL(address);
    this.addresses = [];
    this.drafted = false;
    this.details.inert = false;
    this.slots = Array.from({ length: count }, (_, index) => {
      const image = h("img", { alt: "", hidden: true });
      const caption = h("p", { class: "soft small" });
      const frame = h("div", { class: "frame" }, image, caption);
      return { index, image, caption, frame, entry: null };
    });
    this.images.classList.toggle("several", count > 1);
    fill(this.images, this.slots.map(({ frame }) => frame));
  }

  // -- while a job runs

  /** Show a picture of the map for a text; the details of the image before it stay, and cannot be used. */
  showDraft(blob, text) {
    this.notice.hidden = true;
    if (!this.drafted) this.setSlots(1);
    this.drafted = true;
    this.details.inert = true;
    const [{ image, frame, caption }] = this.slots;
    for (const address of this.addresses) URL.revokeObjectURL(address);
    this.addresses = [URL.createObjectURL(blob)];
    [image.src] = this.addresses;
    image.alt = `Draft: ${text}`;
    image.hidden = false;
    frame.classList.add("preview");
    fill(caption, `A draft of “${text.length > LONGEST ? `…${text.slice(-LONGEST)}` : text}”`);
  }

  /** Begin to show a request: `count` images of a size, once it is known. */
  begin({ quiet = false } = {}) {
    this.said = 0;
    this.before = this.shown;
    this.quiet = quiet;
    if (quiet) return;
    this.notice.hidden = true;
    this.details.hidden = true;
    this.running.hidden = false;
    this.cancelButton.disabled = false;
    if (!this.drafted) {
      this.setSlots(1);
      this.slots[0].frame.classList.add("vacant");
    }
    this.bar.removeAttribute("value");
    this.say("Sending the request");
    const narrow = matchMedia("(max-width: 60rem)").matches;
    this.element.scrollIntoView({ block: narrow ? "start" : "nearest" });
  }

  /** Show that a request runs which began quietly. */
  speak() {
    this.quiet = false;
    this.cancelButton.disabled = false;
    this.running.hidden = false;
  }

  /** Stop showing a request that is dropped; the draft stays. */
  leave() {
    this.running.hidden = true;
    this.quiet = false;
  }

  /** Take away what is drawn: the images that were shown before come back, or the empty stage. */
  goBack() {
    this.notice.hidden = true;
    if (this.shown) this.showEntries(...this.shown);
    else this.clear();
  }

  say(text) {
    this.status.textContent = text;
  }

  cancel() {
    this.cancelButton.disabled = true;
    this.say("Cancelling");
    this.actions.cancel();
  }

  full(seconds) {
    const text = `The queue of the server is full. Trying again in ${Math.ceil(seconds)} s`;
    if (this.status.textContent !== text) announce(text);
    this.say(text);
  }

  queued({ position }) {
    this.bar.removeAttribute("value");
    const before = position === 1 ? "1 job is before this one" : `${position} jobs are before this one`;
    this.say(position ? `Waiting: ${before}` : "Waiting: next in the queue");
  }

  progress({ step, steps, image, images, seconds_left: left }) {
    if (images !== this.slots.length) this.setSlots(images);
    const share = (image + step / steps) / images;
    this.bar.value = share;
    const parts = [`Step ${step} of ${steps}`];
    if (images > 1) parts.push(`image ${Math.min(image + 1, images)} of ${images}`);
    if (left !== null && left !== undefined) parts.push(`${formatSeconds(left)} left`);
    this.say(parts.join(" · "));
    if (this.quiet && left > SHORT) this.speak();
    if (this.quiet) return;
    if (100 * share >= this.said + SAID) {
      this.said = Math.floor((100 * share) / SAID) * SAID;
      if (this.said < 100) announce(`${this.said} per cent`);
    }
  }

  preview({ index, step, image }) {
    const slot = this.slots[index];
    if (!slot || slot.entry || this.drafted) return;
    slot.image.src = image;
    slot.image.alt = `Prediction of the image after step ${step}`;
    slot.image.hidden = false;
    slot.frame.classList.add("preview");
    slot.frame.classList.remove("vacant");
    fill(slot.caption, `Predicted after step ${step}`);
  }

  /** Show a finished image. */
  finish(entry) {
    const slot = this.slots[entry.index] ?? this.slots[0];
    const address = URL.createObjectURL(entry.blob);
    this.addresses.push(address);
    slot.entry = entry;
    slot.image.src = address;
    slot.image.hidden = false;
    slot.image.alt = `Generated image: ${describe(entry)}`;
    slot.frame.classList.remove("preview", "vacant");
    fill(slot.caption, `Seed ${entry.seed}`);
  }

  /** End a job. If it made no image, the images that were shown before it come back. */
  end() {
    this.running.hidden = true;
    if (this.before && this.slots.every(({ entry }) => !entry)) {
      this.showEntries(...this.before);
      return;
    }
    for (const { frame, entry, caption, image } of this.slots) {
      if (entry) continue;
      frame.classList.remove("preview");
      frame.classList.add("vacant");
      image.hidden = true;
      fill(caption, "No image");
    }
  }

  /** Show a message instead of the result, with buttons: {label, run}. */
  tell(text, { error = false, hint = "", buttons = [] } = {}) {
    this.notice.classList.toggle("error", error);
    const all = buttons.map(({ label, run }) => h("button", { type: "button", onclick: run }, label));
    fill(this.notice, h("p", {}, sentence(text), hint ? ` ${sentence(hint)}` : null), h("div", { class: "row" }, all));
    this.notice.hidden = false;
  }

  /** Return a function that replaces the message of now by another one, if it is still there. */
  noticeEnds(replace) {
    const [said] = this.notice.childNodes;
    return () => !this.notice.hidden && this.notice.contains(said) && replace();
  }

  // -- afterwards

  /** Show finished images, the first or one of them in detail. */
  showEntries(entries, warnings = [], seconds = null) {
    this.shown = [entries, warnings, seconds];
    this.notice.hidden = true;
    this.running.hidden = true;
    this.setSlots(entries.length);
    entries.forEach((entry, place) => this.finish({ ...entry, index: place }));
    this.slots.forEach((slot, place) => {
      slot.entry = entries[place];
      if (entries.length > 1) this.makeSelectable(slot, warnings, seconds);
    });
    this.select(this.slots[0], warnings, seconds);
  }

  makeSelectable(slot, warnings, seconds) {
    const button = h("button", {
      type: "button",
      class: "choose",
      "aria-label": `Show image ${slot.index + 1}, seed ${slot.entry.seed}`,
      onclick: () => this.select(slot, warnings, seconds),
    });
    slot.frame.append(button);
  }

  select(slot, warnings, seconds) {
    const { entry } = slot;
    for (const { frame } of this.slots) {
      const chosen = frame === slot.frame && this.slots.length > 1;
      frame.classList.toggle("chosen", chosen);
      frame.querySelector(".choose")?.setAttribute("aria-pressed", String(chosen));
    }
    const { again, reuse, use, explore } = this.actions;
    const button = (text, run) => h("button", { type: "button", onclick: run }, text);
    const save = () => download(entry.blob, fileName(entry.params.prompt, entry.seed));
    fill(
      this.details,
      h("p", { class: "facts" }, h("strong", {}, `Seed ${entry.seed}`), h("span", { class: "soft numbers" }, summarise(entry, seconds))),
      warnings.length ? h("ul", { class: "warnings" }, warnings.map((line) => h("li", {}, sentence(line)))) : null,
      h(
        "div",
        { class: "row actions" },
        button("Download", save),
        this.slots.length > 1 ? button("Download all", () => downloadAll(this.slots.map((one) => one.entry))) : null,
        button("Use as input", () => use("img2img", entry)),
        button("Paint on it", () => use("inpaint", entry)),
        button("Use its settings", () => reuse(entry)),
        isExplorable(entry.params) ? button("Explore", () => explore(entry)) : null,
      ),
      createEnlarge(this.capabilities, entry, again),
      createDial(this.api, this.capabilities, entry),
      this.code.element,
    );
    this.code.show(entry);
    this.details.hidden = false;
  }

  /** Show the files of a job without images: the noise of an inversion. */
  showFiles(files, text, buttons) {
    this.running.hidden = true;
    this.clear();
    fill(this.slots[0].caption, text);
    const links = files.map(({ name, blob }) => ({ label: `Download ${name}`, run: () => download(blob, name) }));
    this.tell(text, { buttons: [...links, ...buttons] });
  }
}

// The address of the explorer names a run, and holds no images.
function isExplorable({ mode, control, control_image: image, references }) {
  return mode === "txt2img" && !control && !image && !references;
}

function formatSeconds(seconds) {
  if (seconds < 1) return "less than 1 s";
  if (seconds < 90) return `about ${Math.round(seconds)} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

function summarise({ params, width, height }, seconds) {
  const parts = [`${width} × ${height}`];
  if (params.steps) parts.push(counted(params.steps, "step"));
  if (params.sampler) parts.push(params.sampler);
  if (params.cfg_scale !== undefined) parts.push(`guidance ${params.cfg_scale}`);
  if (seconds) parts.push(`${seconds.toFixed(1)} s`);
  return parts.join(" · ");
}
