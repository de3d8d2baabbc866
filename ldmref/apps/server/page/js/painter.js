// @ts-check
// The painter: an image, and over it a mask of the same resolution that is painted by pointer,
// touch or keyboard. One pixel of the canvas is one pixel of the image at every display scale.

import { fill, h, newId, perFrame } from "./dom.js";
import { Mask } from "./mask.js";
import { announce, notifyError } from "./notify.js";
import { loadMask, makeTools } from "./painter_tools.js";
import { encodeMask } from "./png.js";

const KEYS = "Arrow keys move the brush, with Shift by 10 pixels. Space lowers and lifts it. B is the "
  + "brush, E the eraser, [ and ] change its size, Ctrl+Z undoes, Ctrl+Y redoes, I inverts, Delete clears.";
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
// The colours of the mask, as ABGR; stripes of two are visible on every image. Their alpha is 255.
const STRIPES = [0xff6b6b0f, 0xffe6f5f0];

export class Painter {
  // Set by `makeTools`.
  /** @type {HTMLInputElement} */ slider;
  /** @type {HTMLOutputElement} */ sizeText;
  /** @type {Record<string, HTMLButtonElement>} */ buttons;

  /** `changed()` is called after every change of the mask. */
  constructor({ changed }) {
    this.changed = changed;
    this.mask = null;
    this.size = 16;
    this.erasing = false;
    this.pointer = null; // of the stroke in progress
    this.last = null;
    this.cursor = { x: 0, y: 0, shown: false, down: false };
    this.image = h("img", { alt: "", draggable: "false" });
    this.canvas = h("canvas", {
      class: "mask",
      tabindex: "0",
      role: "application",
      "aria-label": "Mask",
      "aria-roledescription": "painting area",
    });
    this.brush = h("div", { class: "brush", hidden: true });
    this.frame = h("div", { class: "paper", hidden: true }, this.image, this.canvas, this.brush);
    this.empty = h("p", { class: "soft" }, "Choose an image in the settings, or drop one there. Then paint over the part to replace.");
    this.share = h("p", { class: "small soft numbers", role: "status" });
    const help = h("p", { id: newId("keys"), class: "small soft" }, KEYS);
    this.canvas.setAttribute("aria-describedby", help.id);
    this.keys = h("details", { class: "keys" }, h("summary", {}, "Keys"), help);
    this.tools = makeTools(this);
    this.element = h("section", { class: "painter", "aria-label": "Painter" }, this.tools, this.empty, this.frame, h("div", { class: "row" }, this.share, this.keys));
    this.repaint = perFrame(() => this.paint());
    this.listen();
    this.update();
  }

  /** Show an image and begin an empty mask, or keep the mask if the size is the same. */
  setImage(blob, size) {
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = blob ? URL.createObjectURL(blob) : "";
    if (blob) this.image.src = this.address;
    if (!blob) this.mask = null;
    else if (this.mask?.width !== size.width || this.mask?.height !== size.height) {
      this.mask = new Mask(size.width, size.height);
      this.canvas.width = size.width;
      this.canvas.height = size.height;
      this.frame.style.setProperty("--aspect", String(size.width / size.height));
      this.cursor = { x: size.width / 2, y: size.height / 2, shown: false, down: false };
      this.slider.max = String(Math.max(8, Math.round(Math.min(size.width, size.height) / 2)));
      this.resize(Math.max(2, Math.round(Math.min(size.width, size.height) / 8)));
    }
    this.update();
  }

  /** Return the mask as a PNG; null without an image. An empty mask is a black one. */
  async file() {
    return this.mask ? encodeMask(this.mask) : null;
  }

  /** Load a mask from a file; the error says why it does not fit. */
  async loadFile(file) {
    try {
      await loadMask(this, file);
    } catch (error) {
      notifyError(error);
    }
  }

  pick(erasing) {
    this.erasing = erasing;
    this.update();
  }

  resize(size) {
    this.size = Math.min(Number(this.slider.max), Math.max(1, size));
    this.slider.value = String(this.size);
    this.sizeText.textContent = `${this.size} px`;
    this.showBrush();
  }

  /** Run undo, redo, invert or clear. */
  run(action) {
    if (this.mask?.[action]()) announce(`Mask: ${action}`);
    this.update();
    this.changed();
  }

  // -- pointer and touch

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => (this.brush.hidden = true));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.cursor.down = false;
      this.cursor.shown = false;
      this.mask?.commit();
      this.update();
    });
  }

  locate(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) * this.mask.width) / box.width,
      y: ((event.clientY - box.top) * this.mask.height) / box.height,
    };
  }

  down(event) {
    if (!this.mask || this.pointer !== null || event.button > 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.pointer = event.pointerId;
    this.cursor.shown = false;
    this.mask.begin();
    this.last = this.locate(event);
    this.draw(this.last, this.last);
  }

  move(event) {
    if (!this.mask) return;
    this.hover = this.locate(event);
    this.showBrush();
    if (event.pointerId !== this.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const part of events.length ? events : [event]) {
      const point = this.locate(part);
      this.draw(this.last, point);
      this.last = point;
    }
  }

  up(event) {
    if (event.pointerId !== this.pointer) return;
    this.pointer = null;
    this.mask.commit();
    this.update();
    this.changed();
  }

  draw(from, to) {
    const value = this.erasing ? 0 : 1;
    this.mask.stroke(from.x, from.y, to.x, to.y, this.size, value);
    this.mask.dot(to.x, to.y, value);
    this.repaint();
  }

  // -- keyboard

  key(event) {
    if (!this.mask) return;
    const command = event.ctrlKey || event.metaKey;
    const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const actions = {
      b: () => this.pick(false),
      e: () => this.pick(true),
      i: () => this.run("invert"),
      "[": () => this.resize(this.size - 1),
      "]": () => this.resize(this.size + 1),
      Delete: () => this.run("clear"),
      Backspace: () => this.run("clear"),
      " ": () => this.togglePen(),
      Enter: () => this.togglePen(),
    };
    const edits = { z: event.shiftKey ? "redo" : "undo", y: "redo" };
    if (command && letter in edits) this.run(edits[letter]);
    else if (!command && letter in MOVES) this.moveCursor(...MOVES[letter], event.shiftKey ? 10 : 1);
    else if (!command && letter in actions) actions[letter]();
    else return;
    event.preventDefault();
  }

  togglePen() {
    const { cursor } = this;
    cursor.shown = true;
    cursor.down = !cursor.down;
    if (cursor.down) {
      this.mask.begin();
      this.draw(cursor, cursor);
    } else {
      this.mask.commit();
      this.changed();
    }
    announce(cursor.down ? (this.erasing ? "Erasing" : "Painting") : "Brush lifted");
    this.update();
  }

  moveCursor(dx, dy, distance) {
    const { cursor, mask } = this;
    const from = { x: cursor.x, y: cursor.y };
    cursor.shown = true;
    cursor.x = Math.min(mask.width, Math.max(0, cursor.x + dx * distance));
    cursor.y = Math.min(mask.height, Math.max(0, cursor.y + dy * distance));
    if (cursor.down) this.draw(from, cursor);
    announce(`${Math.round(cursor.x)}, ${Math.round(cursor.y)}`);
    this.update();
  }

  // -- display

  showBrush() {
    const point = this.cursor.shown ? this.cursor : this.hover;
    if (!this.mask || !point) return;
    const scale = this.canvas.getBoundingClientRect().width / this.mask.width;
    this.brush.hidden = false;
    this.brush.classList.toggle("down", this.cursor.down);
    const set = (name, value) => this.brush.style.setProperty(name, `${value}px`);
    set("width", this.size * scale);
    set("height", this.size * scale);
    set("left", (point.x - this.size / 2) * scale);
    set("top", (point.y - this.size / 2) * scale);
  }

  update() {
    const { mask, buttons } = this;
    this.frame.hidden = !mask;
    this.tools.hidden = !mask;
    this.keys.hidden = !mask;
    this.empty.hidden = Boolean(mask);
    buttons.brush.setAttribute("aria-pressed", String(!this.erasing));
    buttons.eraser.setAttribute("aria-pressed", String(this.erasing));
    buttons.undo.disabled = !mask?.done.length;
    buttons.redo.disabled = !mask?.undone.length;
    fill(this.share, mask ? describeShare(mask) : "");
    if (this.cursor.shown) this.showBrush();
    else if (!this.hover) this.brush.hidden = true;
    this.repaint();
  }

  paint() {
    if (!this.mask) return;
    const { width, height, data } = this.mask;
    const context = this.canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const colours = new Uint32Array(pixels.data.buffer);
    const stripe = Math.max(2, Math.round(Math.max(width, height) / 48));
    for (let i = 0; i < data.length; i += 1) {
      const light = Math.floor(((i % width) + Math.floor(i / width)) / stripe) % 2;
      colours[i] = data[i] ? STRIPES[light] : 0;
    }
    context.putImageData(pixels, 0, 0);
  }
}

function describeShare(mask) {
  if (mask.empty) return "Nothing is painted yet";
  const percent = 100 * mask.share;
  return `${percent < 1 ? percent.toFixed(1) : Math.round(percent)} % is painted`;
}
