// @ts-check
// What a number means: a short text beside it, for the mouse and for the keyboard.

import { h } from "../dom.js";

const TIP = "ex-tip"; // the one element that shows the texts

/** Let a number be explained when the mouse or the focus is on it; return its element. */
export function explain(element, text) {
  element.dataset.explain = text;
  element.classList.add("ex-explained");
  if (element.tabIndex < 0) element.tabIndex = 0;
  return element;
}

/** Show the explanations in an area. */
export function showExplanations(area) {
  const tip = h("div", { id: TIP, class: "ex-tip", role: "tooltip", hidden: true });
  let shown = null;
  const hide = () => {
    tip.hidden = true;
    shown?.removeAttribute("aria-describedby");
    shown = null;
  };
  const place = () => {
    if (!shown) return;
    const { left, bottom } = shown.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.setProperty("left", `${Math.max(8, Math.min(left, room))}px`);
    tip.style.setProperty("top", `${bottom + 4}px`);
  };
  const show = (event) => {
    const element = event.target.closest?.("[data-explain]");
    if (!element) return;
    hide();
    tip.textContent = element.dataset.explain;
    tip.hidden = false;
    element.setAttribute("aria-describedby", TIP);
    shown = element;
    place();
  };
  for (const name of ["mouseover", "focusin"]) area.addEventListener(name, show);
  for (const name of ["mouseout", "focusout"]) area.addEventListener(name, hide);
  area.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", place, { passive: true, capture: true });
  return tip;
}
