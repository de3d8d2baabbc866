// @ts-check
// The slider of the steps, with play, and the keys of the explorer.

import { h, icon } from "../dom.js";

const PLAY = "M8 5l11 7-11 7z";
const PAUSE = "M9 5v14M15 5v14";
const BACK = "M15 5l-8 7 8 7";
const NEXT = "M9 5l8 7-8 7";
const FRAME = 350; // milliseconds per step while playing

/** Return a scrubber: {element, set(position, last, text), key(event), play(), stop()}. */
export function createScrubber(onMove) {
  let position = 0;
  let last = 1;
  let timer = 0;
  const slider = h("input", { type: "range", min: 0, max: 1, value: 0, step: 1, "aria-label": "Step" });
  const text = h("output", { class: "ex-position numbers" });
  const play = h("button", { type: "button", class: "square", "aria-label": "Play", onclick: toggle }, icon(PLAY));
  const button = (name, path, change) =>
    h("button", { type: "button", class: "square", "aria-label": name, onclick: () => move(position + change) }, icon(path));
  const element = h(
    "div",
    { class: "ex-scrubber", role: "group", "aria-label": "Steps of the run" },
    button("Step back", BACK, -1),
    play,
    button("Step forward", NEXT, 1),
    slider,
    text,
  );
  slider.addEventListener("input", () => move(Number(slider.value)));

  function move(wanted) {
    stop();
    onMove(Math.min(Math.max(wanted, 0), last));
  }

  function toggle() {
    if (timer) return stop();
    if (position === last) onMove(0);
    start();
  }

  function start() {
    timer = setInterval(() => (position < last ? onMove(position + 1) : end()), FRAME);
    showPlaying(true);
  }

  // The end is shown once more, now that nothing moves: it may be decoded.
  function end() {
    stop();
    onMove(last);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    showPlaying(false);
  }

  function showPlaying(playing) {
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    play.replaceChildren(icon(playing ? PAUSE : PLAY));
  }

  return {
    element,
    stop,
    play() {
      if (!timer) start();
    },
    get playing() {
      return timer !== 0;
    },
    set(newPosition, newLast, label) {
      position = newPosition;
      last = newLast;
      slider.max = String(last);
      slider.value = String(position);
      slider.setAttribute("aria-valuetext", label);
      text.textContent = label;
    },
    // Keys that move through the steps wherever the focus is, except in fields that use them.
    key(event) {
      if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
      const target = event.target;
      const field = target.closest("input, textarea, select, dialog");
      if (field && field !== slider && field.type !== "checkbox") return;
      const moves = { ArrowLeft: position - 1, ArrowRight: position + 1, Home: 0, End: last };
      if (event.key in moves) {
        event.preventDefault();
        move(moves[event.key]);
      } else if (event.key === " " && (target === slider || !target.closest("button, a, summary, input"))) {
        event.preventDefault();
        toggle();
      }
    },
  };
}
