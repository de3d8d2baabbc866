// Build elements without markup in strings.

// h("button", { class: "small", onclick: f, "aria-label": "Play" }, "text", child, ...). Values of
// false, null and undefined leave an attribute out, true gives an empty one.
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Offer bytes as a download.
export function download(content, name, type = "application/octet-stream") {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// Call `work` once, `delay` milliseconds after the last call.
export function debounce(work, delay) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), delay);
  };
}

// The letter of a run: A, B, ..., Z, then A2, B2, ...
export function letter(index) {
  const turn = Math.floor(index / 26);
  return String.fromCharCode(65 + (index % 26)) + (turn ? String(turn + 1) : "");
}
