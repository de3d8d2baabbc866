// @ts-check
// The flip-book of a grid: one image, a slider for each axis, and a wipe against another cell.

import { fill, h } from "../dom.js";
import { formatNumber } from "../charts.js";
import { label } from "../wording.js";
import { describe } from "./sheet.js";
import { valueLabel } from "./values.js";

/** Return the flip-book: {element, show(grid, place)}; `onSelect(row, column, sheet)` as its sliders move. */
export function createFlipbook(onSelect) {
  let grid = null;
  let place = [0, 0, 0];
  let before = null; // [row, column, sheet] of the image on the left of the wipe
  const under = h("img", { alt: "", class: "flip-before" });
  const over = h("img", { alt: "", class: "flip-after" });
  const line = h("span", { class: "flip-line", "aria-hidden": "true" });
  const frame = h("div", { class: "flip-frame", role: "img" }, under, over, line);
  const wipe = h("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Wipe between the two images", oninput: drawWipe });
  const sliders = h("div", { class: "flip-sliders" });
  const text = h("p", { class: "numbers" });
  const versus = h("p", { class: "soft small numbers" });
  const pin = h("button", { type: "button", onclick: togglePin });
  const explore = h("a", { class: "button" }, "Open in the explorer");
  const element = h(
    "section",
    { class: "panel grid-flip", "aria-labelledby": "flip-title" },
    h("h2", { id: "flip-title" }, "Flip-book"),
    sliders,
    frame,
    wipe,
    versus,
    text,
    h("div", { class: "row" }, pin, explore),
  );
  // The pointer moves the wipe on the image itself.
  frame.addEventListener("pointerdown", (event) => {
    if (!before) return;
    frame.setPointerCapture(event.pointerId);
    followPointer(event);
  });
  frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && followPointer(event));

  function followPointer(event) {
    const box = frame.getBoundingClientRect();
    wipe.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
    drawWipe();
  }

  function togglePin() {
    before = before ? null : [...place];
    draw();
  }

  function makeSliders() {
    const axes = [["x", 1], ["y", 0], ["z", 2]].filter(([axis]) => grid[axis]);
    fill(
      sliders,
      axes.map(([axis, part]) => {
        const { name, values } = grid[axis];
        const value = h("output", { class: "numbers" });
        const input = h("input", {
          type: "range",
          min: 0,
          max: values.length - 1,
          value: place[part],
          "aria-label": label(name),
          oninput: () => {
            const next = [...place];
            next[part] = Number(input.value);
            onSelect(...next);
          },
        });
        const row = h("label", { class: "flip-slider" }, h("span", {}, label(name)), input, value);
        row.update = () => {
          input.value = String(place[part]);
          input.setAttribute("aria-valuetext", valueLabel(values[place[part]]));
          value.textContent = valueLabel(values[place[part]]);
        };
        return row;
      }),
    );
  }

  /** @param {number[]} place */
  function find(place) {
    return grid.cells.get(place.join(" "));
  }

  function draw() {
    [...sliders.children].forEach((slider) => slider.update());
    const cell = find(place);
    const other = before && find(before);
    frame.classList.toggle("waiting", !cell);
    const distance = (one) => (one && one.distance !== null ? `, distance ${formatNumber(one.distance)}` : "");
    if (cell) over.src = cell.url;
    const seeds = [grid.x, grid.y, grid.z].some((axis) => axis?.name === "seed"); // the description says it
    text.textContent = cell ? `${describe(grid, place)}${seeds ? "" : `, seed ${cell.seed}`}${distance(cell)}` : `${describe(grid, place)}: not there yet`;
    under.hidden = !other;
    line.hidden = !other;
    wipe.hidden = !other;
    if (other) under.src = other.url;
    versus.textContent = other ? `Left: ${describe(grid, before)}${distance(other)}. Right: the cell below.` : "";
    pin.textContent = before ? "Stop comparing" : "Compare with this cell";
    pin.disabled = !cell;
    explore.hidden = !cell?.link;
    if (cell?.link) explore.href = cell.link;
    frame.setAttribute("aria-label", other ? `${describe(grid, before)} to the left, ${describe(grid, place)} to the right` : `Image of ${text.textContent}`);
    drawWipe();
  }

  function drawWipe() {
    const share = before ? Number(wipe.value) : 0;
    over.style.setProperty("clip-path", `inset(0 0 0 ${share}%)`);
    line.style.setProperty("left", `${share}%`);
    wipe.setAttribute("aria-valuetext", `${share} percent of the left image`);
  }

  return {
    element,
    show(newGrid, newPlace) {
      const fresh = newGrid.key !== grid?.key;
      grid = newGrid;
      place = newPlace;
      if (fresh) {
        before = null;
        makeSliders();
      }
      draw();
    },
  };
}
