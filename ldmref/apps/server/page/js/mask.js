// @ts-check
// A mask, pixel by pixel, without a canvas: 1 is repainted, 0 is kept. Strokes have hard edges.

const MOST_STEPS = 100; // of undo

/** A mask of width x height with its history. */
export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.data = new Uint8Array(width * height);
    this.done = [];
    this.undone = [];
    this.before = null;
  }

  /** Whether no pixel is painted. */
  get empty() {
    return !this.data.includes(1);
  }

  /** The painted share, from 0 to 1. */
  get share() {
    let count = 0;
    for (const value of this.data) count += value;
    return count / this.data.length;
  }

  /** Begin a change; `commit` ends it, and undo takes it back as a whole. */
  begin() {
    this.before ??= this.data.slice();
  }

  /** End a change and return whether it changed a pixel. */
  commit() {
    const { before } = this;
    this.before = null;
    if (!before) return false;
    const change = findChange(before, this.data);
    if (!change) return false;
    this.done.push(change);
    if (this.done.length > MOST_STEPS) this.done.shift();
    this.undone = [];
    return true;
  }

  /**
   * Set the pixels whose centres are at most diameter / 2 away from the line between two points.
   * Points are in pixels of the image; the centre of the first pixel is (0.5, 0.5).
   */
  stroke(x0, y0, x1, y1, diameter, value) {
    const radius = diameter / 2;
    const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius));
    const right = Math.min(this.width - 1, Math.ceil(Math.max(x0, x1) + radius));
    const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius));
    const bottom = Math.min(this.height - 1, Math.ceil(Math.max(y0, y1) + radius));
    const dx = x1 - x0;
    const dy = y1 - y0;
    const length = dx * dx + dy * dy;
    for (let y = top; y <= bottom; y += 1) {
      for (let x = left; x <= right; x += 1) {
        const px = x + 0.5 - x0;
        const py = y + 0.5 - y0;
        const along = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
        const ex = px - along * dx;
        const ey = py - along * dy;
        if (ex * ex + ey * ey <= radius * radius) this.data[y * this.width + x] = value;
      }
    }
  }

  /** Set the pixel below a point: a brush of one pixel never misses. */
  dot(x, y, value) {
    const column = Math.floor(x);
    const row = Math.floor(y);
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return;
    this.data[row * this.width + column] = value;
  }

  invert() {
    this.begin();
    for (let i = 0; i < this.data.length; i += 1) this.data[i] = 1 - this.data[i];
    return this.commit();
  }

  clear() {
    this.begin();
    this.data.fill(0);
    return this.commit();
  }

  /** Replace all pixels. */
  load(data) {
    this.begin();
    this.data.set(data);
    return this.commit();
  }

  undo() {
    const change = this.done.pop();
    if (!change) return false;
    this.data.set(change.before, change.start);
    this.undone.push(change);
    return true;
  }

  redo() {
    const change = this.undone.pop();
    if (!change) return false;
    this.data.set(change.after, change.start);
    this.done.push(change);
    return true;
  }
}

// A change is the shortest range of pixels that holds all differences, before and after.
function findChange(before, after) {
  let start = 0;
  while (start < after.length && before[start] === after[start]) start += 1;
  if (start === after.length) return null;
  let end = after.length;
  while (before[end - 1] === after[end - 1]) end -= 1;
  return { start, before: before.slice(start, end), after: after.slice(start, end) };
}
