// @ts-check
// The overview: how words and noise become a picture, as one drawing from the data of the run. Each
// part opens to what it does.

import { fill, h } from "../dom.js";
import { PARTS } from "./parts.js";

const titleOf = (part, run) => part.named?.(run) ?? part.title;
const find = (key) => PARTS.find((part) => part.key === key);

/**
 * Return the overview: {element, show(position, view, specs), again()}.
 *
 * `inside` is an `Inside`; `change(view)` changes the view, and `go(target)` shows a panel.
 */
export function createOverview({ inside, change, go }) {
  let last = null;
  const stations = PARTS.map((part) => {
    const art = part.label ? h("span", { class: "ex-art ex-label" }) : h("canvas", { class: "ex-art", "aria-hidden": "true", width: 1, height: 1 });
    const name = h("span", {}, part.title);
    const count = h("span", { class: "ex-count numbers" });
    const button = h(
      "button",
      { type: "button", class: "ex-station", "aria-controls": "ex-part", onclick: () => change({ open: last?.view.open === part.key ? "" : part.key }) },
      art,
      h("span", { class: "ex-station-name" }, name, part.symbol ? h("span", { class: "ex-symbol" }, ` ${part.symbol}`) : null),
      part.repeated ? count : null,
    );
    return { part, art, count, button, name };
  });
  const title = h("h3", { id: "ex-part-title" });
  const sentence = h("p", { class: "ex-sentence" });
  const content = h("div", { class: "ex-inside" });
  const see = h("button", { type: "button", onclick: () => go(find(last.view.open).target) }, "See it in this run");
  const close = h("button", { type: "button", onclick: () => change({ open: "" }) }, "Close");
  const panel = h("div", { id: "ex-part", class: "ex-part", role: "region", "aria-labelledby": "ex-part-title" }, title, sentence, content, h("div", { class: "row" }, see, close));
  const element = h(
    "section",
    { class: "panel ex-overview", "aria-labelledby": "ex-overview-title" },
    h("h2", { id: "ex-overview-title" }, "The whole way"),
    h("p", { class: "soft small" }, "From words and noise to a picture. Open a part to see what it does in this step."),
    h("ol", { class: "ex-way" }, stations.map(({ button }) => h("li", {}, button))),
    panel,
  );

  function show(one, view, specs) {
    last = { one, view, specs };
    const { run, k } = one;
    const { texts, asked, said } = inside.of(run);
    if (!texts && !asked && !said && inside.isReady(run)) inside.look(run, specs, one.index, k);
    for (const { part, art, count, button, name } of stations) {
      name.textContent = titleOf(part, run);
      if (part.label) art.textContent = part.label(run);
      else {
        art.width = 1; // what is not known of this run stays empty
        part.draw(art, run, k, texts);
      }
      count.textContent = `${k} of ${run.n}`;
      button.setAttribute("aria-expanded", String(view.open === part.key));
    }
    const open = find(view.open);
    panel.hidden = !open;
    if (open) showPart(open, one, specs);
  }

  function showPart(part, { run, k, index }, specs) {
    const own = inside.of(run);
    const levels = own.levels.get(run.stepOf(k));
    const isKnown = part.needs === "text" ? own.texts : part.needs === "levels" ? levels : true;
    title.textContent = titleOf(part, run);
    sentence.textContent = part.plain(run);
    fill(content, isKnown ? part.detail({ run, k, texts: own.texts, levels }) : askFor(own, run, specs, index, k));
  }

  // What is not in the record: the networks have to run once more.
  function askFor(own, run, specs, index, k) {
    if (!inside.canLook(run, specs, index)) return [h("p", {}, "The inside of this run cannot be shown: it is a branch, a file, or there is no server. Show a run from its start.")];
    if (inside.isReady(run) && !own.said) return [h("p", { class: "soft" }, "One moment.")];
    return [
      h("button", { type: "button", class: "primary", disabled: own.asked, onclick: () => inside.look(run, specs, index, k) }, `Look inside step ${run.stepOf(k)}`),
      h("p", { class: "soft small", role: "status" }, own.said || "The network computes the run once more and keeps what happens in this step."),
    ];
  }

  return { element, show, again: () => last && show(last.one, last.view, last.specs) };
}
