// @ts-check
// The sheets of a grid: tables whose cells arrive one after the other.

import { fill, h } from "../dom.js";
import { formatNumber } from "../charts.js";
import { label, nameInText } from "../wording.js";
import { valueLabel } from "./values.js";

const MOVES = { ArrowLeft: [0, -1, 0], ArrowRight: [0, 1, 0], ArrowUp: [-1, 0, 0], ArrowDown: [1, 0, 0], PageUp: [0, 0, -1], PageDown: [0, 0, 1] };

/**
 * Return the sheets, one for each value of the third axis: {element, show(grid), mark(place)}.
 *
 * `grid` is {x: {name, values}, y and z: {name, values} or null, cells: Map of "row column sheet" to
 * {url, distance, seed, link}}. A place is [row, column, sheet]; `onSelect(...place)` is called by
 * pointer and keys.
 */
export function createSheet(onSelect) {
  const element = h("div", { class: "grid-sheets" });
  let current = [0, 0, 0];
  let buttons = new Map();

  function show(grid) {
    const hadFocus = element.contains(document.activeElement);
    buttons = new Map();
    const distances = [...grid.cells.values()].map((cell) => cell.distance).filter((value) => Number.isFinite(value));
    const best = distances.length > 1 ? Math.min(...distances) : null;
    fill(element, (grid.z?.values ?? [null]).map((_, sheet) => makeSheet(grid, sheet, best)));
    mark(current);
    if (hadFocus) buttons.get(current.join(" "))?.focus({ preventScroll: true }); // whoever walks by keys stays
  }

  function makeSheet(grid, sheet, best) {
    const title = grid.z ? `${label(grid.z.name)} ${valueLabel(grid.z.values[sheet])}` : "";
    const axes = grid.y ? `${label(grid.x.name)} by ${label(grid.y.name)}` : label(grid.x.name);
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
        grid.x.values.map((_, column) => makeCell(grid, [row, column, sheet], best)),
      ),
    );
    const table = h(
      "table",
      { class: "grid-sheet", role: "grid", "aria-label": [axes, title].filter(Boolean).join(", "), style: { "--columns": String(grid.x.values.length) } },
      h("thead", { role: "rowgroup" }, head),
      h("tbody", { role: "rowgroup" }, rows),
    );
    return h("div", { class: "grid-box" }, title ? h("h3", {}, title) : null, table);
  }

  function makeCell(grid, place, best) {
    const cell = grid.cells.get(place.join(" "));
    if (!cell) return h("td", { role: "gridcell", class: "grid-empty" }, h("span", { class: "sr" }, "not there yet"));
    const distance = cell.distance === null ? "" : formatNumber(cell.distance);
    const isBest = best !== null && cell.distance === best;
    const text = `${describe(grid, place)}${distance ? `, distance ${distance}` : ""}${isBest ? ", the smallest" : ""}`;
    const button = h(
      "button",
      { type: "button", class: "grid-cell", tabindex: -1, "aria-label": text, onclick: () => onSelect(...place) },
      h("img", { src: cell.url, alt: "", width: cell.width, height: cell.height }),
    );
    buttons.set(place.join(" "), button);
    return h(
      "td",
      { role: "gridcell", class: isBest ? "best" : "" },
      button,
      h(
        "div",
        { class: "grid-under numbers" },
        distance ? h("span", { title: "Distance from the converged image of the same seed" }, distance) : h("span"),
        cell.link ? h("a", { href: cell.link, tabindex: -1, "aria-label": `Explore ${describe(grid, place)}` }, "Explore") : null,
      ),
    );
  }

  element.addEventListener("keydown", (event) => {
    if (!(event.key in MOVES)) return;
    const next = current.map((place, i) => place + MOVES[event.key][i]);
    const button = buttons.get(next.join(" "));
    if (!button && event.key.startsWith("Page")) return; // it scrolls where there is no other sheet
    event.preventDefault();
    if (!button) return;
    onSelect(...next);
    button.focus();
  });

  function mark(place) {
    current = place;
    for (const [key, button] of buttons) {
      const own = key === place.join(" ");
      button.classList.toggle("selected", own);
      button.tabIndex = own ? 0 : -1;
      const link = button.parentElement.querySelector("a");
      if (link) link.tabIndex = own ? 0 : -1;
    }
    const first = buttons.values().next().value;
    if (first && !buttons.has(place.join(" "))) first.tabIndex = 0;
  }

  return { element, show, mark };
}

/**
 * Return the values of a cell as text: `sampler euler, steps 20`.
 * @param {Record<string, any>} grid
 * @param {number[]} place
 */
export function describe(grid, [row, column, sheet]) {
  const one = (axis, i) => (axis ? `${nameInText(axis.name)} ${valueLabel(axis.values[i])}` : null);
  return [one(grid.x, column), one(grid.y, row), one(grid.z, sheet)].filter(Boolean).join(", ");
}
