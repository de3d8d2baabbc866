// @ts-check
// Files that are dropped on the page or pasted into it.

import { imageFiles } from "./files.js";
import { notify } from "./notify.js";

/**
 * Watch the page while `isShown()`: `dropped(file)` and `pasted(file)` get an image. A drop without
 * an image is said, and never opened by the browser.
 */
export function watchFiles({ isShown, dropped, pasted }) {
  document.addEventListener("dragover", (event) => {
    if (isShown() && event.dataTransfer?.types.includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    const files = event.dataTransfer?.files;
    if (!isShown() || event.defaultPrevented || !files?.length) return;
    event.preventDefault();
    const [file] = imageFiles(event.dataTransfer);
    if (file) dropped(file);
    else notify(`${files[0].name} is not an image`, { hint: "Drop a PNG, JPEG or WebP file." });
  });
  document.addEventListener("paste", (event) => {
    const [file] = imageFiles(event.clipboardData);
    if (!isShown() || !file || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    pasted(file);
  });
}

/** Refuse files that no view takes, so that the browser never opens one in place of the page. */
export function refuseFiles(describe) {
  const holdsFile = (event) => event.dataTransfer?.types.includes("Files") && !event.defaultPrevented;
  // After the listeners of the views, which are those of the document.
  window.addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
  window.addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    notify(describe(), { hint: "Drop an image in Generate or Paint, or a record file in Explore.", kind: "error" });
  });
}
