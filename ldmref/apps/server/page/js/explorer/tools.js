// @ts-check
// Small helpers of the explorer and the grids.

import { h } from "../dom.js";

/** Offer bytes as a download. */
export function download(content, name, type = "application/octet-stream") {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Return a function that calls `work` once, `delay` milliseconds after its last call. */
export function debounce(work, delay) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), delay);
  };
}

/** Return the letter of a run: A, B, ..., Z, A2, B2, ... */
export function letter(index) {
  const turn = Math.floor(index / 26);
  return String.fromCharCode(65 + (index % 26)) + (turn ? String(turn + 1) : "");
}

/** Return a file name without the characters that systems refuse. */
export function fileName(text, ending) {
  const plain = text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60);
  return `${plain || "run"}.${ending}`;
}

/** Load a style sheet beside the scripts, once, and wait for it. */
export function loadStyle(name) {
  const address = new URL(`../../${name}`, import.meta.url).href;
  /** @type {NodeListOf<HTMLLinkElement>} */
  const links = document.querySelectorAll("link[rel=stylesheet]");
  const present = [...links].some((link) => link.href === address);
  if (present) return Promise.resolve();
  return new Promise((resolve) => {
    const link = h("link", { rel: "stylesheet", href: address, onload: resolve, onerror: resolve });
    document.head.append(link);
  });
}

/** Call `open(file)` with a file that is picked in `input`, or dropped anywhere while `area` is shown. */
export function acceptFiles(area, input, open) {
  input.addEventListener("change", async () => {
    if (input.files[0]) await open(input.files[0]);
    input.value = "";
  });
  const holdsFile = (event) => !area.closest("[hidden]") && [...(event.dataTransfer?.types ?? [])].includes("Files");
  const mark = (on) => area.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && mark(false));
  document.addEventListener("drop", (event) => {
    mark(false);
    if (!holdsFile(event) || event.defaultPrevented) return;
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) open(file);
  });
}

/** Call `act(event)` for keys wherever the focus is in a view that is shown, and where it is on nothing. */
export function acceptKeys(area, act) {
  document.addEventListener("keydown", (event) => {
    const onNothing = event.target === document.body || event.target === area.closest("main");
    if (area.closest("[hidden]") || !(onNothing || area.contains(event.target))) return;
    act(event);
  });
}
