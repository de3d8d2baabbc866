// @ts-check
// The icons of buttons, as the paths of their strokes in a square of 24 units.

import { h, icon } from "./dom.js";

export const ICONS = {
  brush: "M4 20c3 1 5-.5 5-3a2.5 2.5 0 0 0-5 0c0 1.500-.5 2.500-1 3M9 15 19 4l1.500 1.500L11 16",
  eraser: "M9 19h11M5.500 14.500l8-9 6 5.500-7 8H9z M9.500 10l6 5.500",
  undo: "M8 5 4 9l4 4M4 9h10a5.500 5.500 0 0 1 0 11H9",
  redo: "M16 5l4 4-4 4M20 9H10a5.500 5.500 0 0 0 0 11h5",
  invert: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18M12 8h3M12 12h5M12 16h3",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v6M14 11v6",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M12 12h.01M15 9h.01M9 15h.01",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  close: "M6 6l12 12M18 6 6 18",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.500 9h.01",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
};

/** Return a square button that shows an icon; `label` is its name and its tooltip. */
export function iconButton(name, label, onclick, attributes = {}) {
  const more = { type: "button", class: "square", "aria-label": label, title: label };
  return h("button", { ...more, ...attributes, onclick }, icon(ICONS[name]));
}
