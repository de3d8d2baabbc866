// @ts-check
// Elements of the page. Texts become text nodes: nothing that comes from data is read as HTML.

/**
 * Return a new element: `h("button", {class: "quiet", onclick: run}, "Run")`. An attribute that is
 * null or false is left out, true sets it without a value, `on...` adds a listener, and children
 * are elements, texts, or lists of them; null is skipped. `style` is an object of properties.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return a number with its noun: "1 step", "2 steps". */
export function counted(number, noun) {
  return `${number} ${noun}${Number(number) === 1 ? "" : "s"}`;
}

const SVG = "http://www.w3.org/2000/svg";

/** Return a new SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  setAttributes(element, attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") setStyle(element, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

// The Content-Security-Policy forbids style attributes, and allows properties set by scripts.
function setStyle(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
}

/** Return an icon: a line drawing of 24 units, from the path of its strokes. */
export function icon(path) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: path }));
}

/** Put a text into a field of text, at the place of the cursor, as if it was typed. */
export function insertText(input, text) {
  const { selectionStart: start, selectionEnd: end, value } = input;
  const gap = start && !/\s$/.test(value.slice(0, start)) ? " " : "";
  input.setRangeText(`${gap}${text}`, start, end, "end");
  input.focus();
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined),
  );
  return element;
}

let count = 0;

/** Return an id that no other element of the page has. */
export function newId(prefix = "id") {
  count += 1;
  return `${prefix}-${count}`;
}

/** Call a function at most once per frame, with the last arguments. */
export function perFrame(action) {
  let frame = 0;
  let last = [];
  return (...given) => {
    last = given;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      action(...last);
    });
  };
}
