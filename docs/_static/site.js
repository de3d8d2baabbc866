// Blocks that are wider than the page: a keyboard reaches and scrolls them, and a screen reader names them.

const WIDE = ".formula, .highlight pre, .table-wrapper";
const NAMES = { DIV: "Formula", PRE: "Code" };

/** Return what a screen reader calls a block. */
function nameOf(block) {
  return block.querySelector(":scope > table") ? "Table" : NAMES[block.tagName];
}

/** Make a block a region that takes the focus while it is wider than its place. */
function update(block) {
  if (block.scrollWidth > block.clientWidth) {
    block.tabIndex = 0;
    block.setAttribute("role", "group");
    block.setAttribute("aria-label", `${nameOf(block)}, scrolls sideways`);
    block.dataset.scrolls = "";
  } else if ("scrolls" in block.dataset) {
    for (const name of ["tabindex", "role", "aria-label", "data-scrolls"]) block.removeAttribute(name);
  }
}

// The theme has two landmarks of a kind, which a list of landmarks shows by their names.
document.querySelector("aside.sidebar-drawer")?.setAttribute("aria-label", "All pages");
document.querySelector("aside.toc-drawer")?.setAttribute("aria-label", "On this page");

// Also calls `update` for each block at first, and when a <details> around it opens.
const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => update(target)));
for (const block of document.querySelectorAll(WIDE)) observer.observe(block);
document.fonts?.ready.then(() => document.querySelectorAll(WIDE).forEach(update));
