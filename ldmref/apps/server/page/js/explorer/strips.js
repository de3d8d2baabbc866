// @ts-check
// The runs as strips of film, one below the other. Each cell is a step, with the picture now, the
// guess of the finished one, and the noise. A branch leaves the part that it shares with its trunk
// blank, so the trunk stays visible above it.

import { h } from "../dom.js";
import { drawThumbnail } from "./panels.js";
import { ROWS } from "./plain.js";
import { letter } from "./tools.js";

/**
 * Return the strips: {element, show(entries, shown, compared), mark(positions)}.
 *
 * `actions` has onMove(index, k), onCompare(index), onSave(index), onRemove(index), onCancel(index).
 */
export function createStrips(actions) {
  const body = h("tbody", { role: "rowgroup" });
  const table = h("table", { class: "ex-strips", role: "grid", "aria-label": "Runs and their steps" }, body);
  const element = h("div", { class: "ex-strips-box" }, table);
  let cells = []; // of each run, by position
  let current = [0, 0];

  table.addEventListener("keydown", (event) => {
    if (!event.target.closest("[role=gridcell]")) return;
    const change = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (change === undefined) return;
    event.preventDefault();
    const [run, k] = current;
    let next = run + change;
    while (next in cells && cells[next].length === 0) next += change;
    if (!(next in cells)) return;
    actions.onMove(next, Math.min(k, cells[next].length - 1));
    focusCurrent();
  });
  // Left and right are the keys of the scrubber; the focus follows the step.
  table.addEventListener("keyup", (event) => {
    if (event.target.closest("[role=gridcell]")) focusCurrent();
  });

  function focusCurrent() {
    const [run, k] = current;
    cells[run]?.[k]?.focus({ preventScroll: true });
  }

  function makeRow(entry, index, shown, compared) {
    const name = letter(index);
    const row = h("tr", { role: "row", class: index === shown ? "shown" : index === compared ? "compared" : "" });
    row.append(h("th", { role: "rowheader", scope: "row" }, makeHeader(entry, index, name, shown, compared)));
    if (!entry.run) {
      row.append(h("td", { role: "gridcell", class: "ex-waiting", colspan: 200 }, describeWaiting(entry, index, name)));
      cells.push([]);
      return row;
    }
    const { run } = entry;
    const own = Array.from({ length: run.n + 1 }, (_, k) => {
      const canvases = ROWS.map(({ key }) => {
        const canvas = h("canvas", { "aria-hidden": "true", "data-row-image": key });
        drawThumbnail(canvas, run, key, k);
        return canvas;
      });
      // At the step of the branch the state is shared, and the predictions are its own already.
      const shared = k < run.shared;
      const level = run.sigmas[k].toPrecision(3);
      const label = `Run ${name}, step ${k} of ${run.n}, sigma ${level}${shared ? ", shared with the trunk" : ""}`;
      return h(
        "td",
        {
          role: "gridcell",
          class: shared ? "shared" : "",
          tabindex: -1,
          "aria-label": label,
          title: label,
          onclick: () => actions.onMove(index, k),
          onkeydown: (event) => event.key === "Enter" && actions.onMove(index, k),
        },
        canvases,
        h("span", { class: "numbers", "aria-hidden": "true" }, String(k)),
      );
    });
    cells.push(own);
    row.append(...own);
    return row;
  }

  function makeHeader(entry, index, name, shown, compared) {
    const pressed = index === compared;
    const small = (text, label, onclick, extra = {}) =>
      h("button", { type: "button", class: "ex-small", "aria-label": label, title: label, onclick, ...extra }, text);
    const own = [
      h("div", { class: "ex-run-name" }, h("span", { class: `ex-letter tone-${index % 6}` }, name), h("span", { class: "ex-run-text", title: entry.label }, entry.label)),
      h(
        "div",
        { class: "ex-run-actions" },
        entry.run && index !== shown
          ? small("Compare", `Compare run ${name} with the shown run`, () => actions.onCompare(pressed ? null : index), { "aria-pressed": String(pressed) })
          : null,
        entry.run ? small("Save", `Save the record of run ${name}`, () => actions.onSave(index)) : null,
        index > 0 ? small("Remove", `Remove run ${name}`, () => actions.onRemove(index)) : null,
      ),
    ];
    const rows = ROWS.map(({ name: title, text }) => h("span", { title: text }, title));
    return h("div", { class: "ex-run-head" }, h("div", {}, own), entry.run ? h("div", { class: "ex-row-names" }, rows) : null);
  }

  function describeWaiting(entry, index, name) {
    if (entry.error) return h("p", { class: "ex-failed", role: "alert" }, entry.error);
    const bar = h("progress", { "aria-label": `Progress of run ${name}`, max: 1 });
    const text = h("span", {}, "Waiting");
    entry.onProgress = (share, words) => {
      if (share === null) bar.removeAttribute("value");
      else bar.value = share;
      text.textContent = words;
    };
    const preview = h("img", { class: "ex-preview", alt: "", hidden: true });
    entry.onPreview = (image, step) => {
      preview.src = image;
      preview.alt = `Prediction of the image after step ${step}`;
      preview.hidden = false;
    };
    return h("div", { class: "ex-progress" }, preview, text, bar, h("button", { type: "button", class: "ex-small", onclick: () => actions.onCancel(index) }, "Cancel"));
  }

  return {
    element,
    show(entries, shown, compared) {
      cells = [];
      body.replaceChildren(...entries.map((entry, index) => makeRow(entry, index, shown, compared)));
    },
    // positions: [[index of the run, k, whether the scrubber moves it], ...].
    mark(positions) {
      const focused = document.activeElement?.closest?.("[role=gridcell]") && body.contains(document.activeElement);
      for (const cell of body.querySelectorAll("[aria-selected=true], [tabindex='0']")) {
        cell.setAttribute("aria-selected", "false");
        cell.setAttribute("tabindex", "-1");
      }
      positions.forEach(([run, k, main]) => {
        const cell = cells[run]?.[k];
        if (!cell) return;
        cell.setAttribute("aria-selected", "true");
        if (main) {
          cell.setAttribute("tabindex", "0");
          current = [run, k];
          keepVisible(element, cell);
        }
      });
      if (focused) focusCurrent();
    },
  };
}

// Scroll the box sideways, never the page.
function keepVisible(box, cell) {
  const header = cell.parentElement.firstChild.offsetWidth;
  const sticky = getComputedStyle(cell.parentElement.firstChild).position === "sticky" ? header : 0;
  const left = cell.offsetLeft - sticky - 8;
  const right = cell.offsetLeft + cell.offsetWidth + 8;
  if (left < box.scrollLeft) box.scrollLeft = left;
  else if (right > box.scrollLeft + box.clientWidth) box.scrollLeft = right - box.clientWidth;
}
