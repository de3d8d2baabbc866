// @ts-check
// The sheet of a grid: a table whose cells arrive one after the other.

import { fill, h } from "../dom.js";
import { formatNumber } from "../charts.js";
import { label } from "../wording.js";
import { valueLabel } from "./values.js";

/**
 * Return the sheet: {element, show(grid), mark(row, column)}.
 *
 * `grid` is {x: {name, values}, y: {name, values} or null, cells: Map of "row column" to
 * {url, distance, seed, link}}. `onSelect(row, column)` is called by pointer and keys.
 */
export function createSheet(onSelect) {
  const table = h("table", { class: "grid-sheet", role: "grid" });
  const element = h("div", { class: "grid-box" }, table);
  let shown = null;
  let current = [0, 0];
  let buttons = new Map();

  function show(grid) {
    shown = grid;
    buttons = new Map();
    const distances = [...grid.cells.values()].map((cell) => cell.distance).filter((value) => Number.isFinite(value));
    const best = distances.length > 1 ? Math.min(...distances) : null;
    table.setAttribute("aria-label", grid.y ? `${label(grid.x.name)} by ${label(grid.y.name)}` : label(grid.x.name));
    const head = h(
      "tr",
      { role: "row" },
      grid.y ? h("td", { class: "grid-corner" }, h("span", {}, `${label(grid.x.name)} →`), h("span", {}, `${label(grid.y.name)} ↓`)) : null,
      grid.x.values.map((value) => h("th", { scope: "col", role: "columnheader" }, valueLabel(value))),
    );
    const rows = (grid.y?.values ?? [null]).map((value, row) =>
      h(
        "tr",
        { role: "row" },
        grid.y ? h("th", { scope: "row", role: "rowheader" }, valueLabel(value)) : null,
        grid.x.values.map((_, column) => makeCell(grid, row, column, best)),
      ),
    );
    fill(table, h("thead", { role: "rowgroup" }, head), h("tbody", { role: "rowgroup" }, rows));
    table.style.setProperty("--columns", String(grid.x.values.length));
    mark(...current);
  }

  function makeCell(grid, row, column, best) {
    const cell = grid.cells.get(`${row} ${column}`);
    if (!cell) return h("td", { role: "gridcell", class: "grid-empty" }, h("span", { class: "sr" }, "not there yet"));
    const distance = cell.distance === null ? "" : formatNumber(cell.distance);
    const isBest = best !== null && cell.distance === best;
    const text = `${describe(grid, row, column)}${distance ? `, distance ${distance}` : ""}${isBest ? ", the smallest" : ""}`;
    const button = h(
      "button",
      { type: "button", class: "grid-cell", tabindex: -1, "aria-label": text, onclick: () => select(row, column) },
      h("img", { src: cell.url, alt: "", width: cell.width, height: cell.height }),
    );
    buttons.set(`${row} ${column}`, button);
    return h(
      "td",
      { role: "gridcell", class: isBest ? "best" : "" },
      button,
      h(
        "div",
        { class: "grid-under numbers" },
        distance ? h("span", { title: "Distance from the converged image of the same seed" }, distance) : h("span"),
        cell.link ? h("a", { href: cell.link, tabindex: -1, "aria-label": `Explore ${describe(grid, row, column)}` }, "Explore") : null,
      ),
    );
  }

  table.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!shown || !(event.key in moves)) return;
    event.preventDefault();
    const [row, column] = current.map((place, i) => place + moves[event.key][i]);
    if (!buttons.has(`${row} ${column}`)) return;
    select(row, column);
    buttons.get(`${row} ${column}`).focus();
  });

  function select(row, column) {
    onSelect(row, column);
  }

  function mark(row, column) {
    current = [row, column];
    for (const [key, button] of buttons) {
      const own = key === `${row} ${column}`;
      button.classList.toggle("selected", own);
      button.tabIndex = own ? 0 : -1;
      const link = button.parentElement.querySelector("a");
      if (link) link.tabIndex = own ? 0 : -1;
    }
    const first = buttons.values().next().value;
    if (first && !buttons.has(`${row} ${column}`)) first.tabIndex = 0;
  }

  return { element, show, mark };
}

/** Return the values of a cell as text: `sampler euler, steps 20`. */
export function describe(grid, row, column) {
  const one = (axis, i) => `${axis.name.replaceAll("_", " ")} ${valueLabel(axis.values[i])}`;
  return [one(grid.x, column), ...(grid.y ? [one(grid.y, row)] : [])].join(", ");
}
