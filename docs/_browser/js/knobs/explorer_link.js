// A link to the explorer without a server.

import { h } from "../../shared/js/dom.js";

export function create(place) {
  const address = new URL("../../index.html", import.meta.url);
  if (place.dataset.prompt) address.hash = new URLSearchParams({ "p.prompt": place.dataset.prompt }).toString();
  place.replaceChildren(h("a", { class: "knob-link", href: address.href }, "Open the explorer in this browser"));
}
