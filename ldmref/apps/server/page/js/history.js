// @ts-check
// The prompts that were used in this browser, to search and to use again.

import { openDialog } from "./dialog.js";
import { counted, fill, h } from "./dom.js";
import { iconButton } from "./icons.js";
import * as store from "./store.js";

const MOST = 1000; // prompts; the oldest are forgotten
const SHOWN = 100; // at a time

/**
 * Remember the texts {prompt, negative_prompt} of a request; a pair that is there moves to the front.
 * @param {Record<string, any>} texts
 */
export async function rememberPrompt({ prompt, negative_prompt: negative }) {
  if (!prompt) return;
  const id = JSON.stringify([prompt, negative ?? ""]);
  try {
    const before = await store.get("prompts", id);
    await store.put("prompts", { id, prompt, negative: negative ?? "", used: Date.now(), times: (before?.times ?? 0) + 1 });
    for (const old of (await allPrompts()).slice(MOST)) await store.remove("prompts", old.id);
  } catch {
    // A browser without room for it still generates.
  }
}

async function allPrompts() {
  return (await store.all("prompts")).sort((a, b) => b.used - a.used);
}

/** Return the entries that have all words of a text, in any order and in the prompt or the negative one. */
export function searchPrompts(entries, text) {
  const plain = (words) => words.normalize("NFKC").toLowerCase();
  const wanted = plain(text).split(/\s+/).filter(Boolean);
  return entries.filter(({ prompt, negative }) => {
    const where = plain(`${prompt} ${negative}`);
    return wanted.every((word) => where.includes(word));
  });
}

/** Show the history; `use({prompt, negative})` is called with the entry that is chosen. */
export async function openHistory(use) {
  let entries = await allPrompts().catch(() => []);
  const search = h("input", { type: "search", "aria-label": "Search the prompts", placeholder: "Search", autocomplete: "off" });
  const found = h("p", { class: "soft small", role: "status" });
  const list = h("ul", { class: "history" });
  const clear = h("button", { type: "button", class: "chip" }, "Forget all");
  const dialog = openDialog("Prompts that you have used", h("div", { class: "row" }, search, clear), found, list);
  const choose = (entry) => {
    dialog.close();
    use(entry);
  };
  const forget = async (entry) => {
    await store.remove("prompts", entry.id);
    entries = entries.filter((one) => one !== entry);
    show();
    search.focus();
  };
  const matches = () => searchPrompts(entries, search.value);
  function show() {
    const all = matches();
    const more = all.length > SHOWN ? `; the last ${SHOWN} are shown` : "";
    found.textContent = entries.length ? `${all.length} of ${counted(entries.length, "prompt")}${more}` : "Prompts that you generate from are kept here, in this browser.";
    clear.hidden = entries.length === 0;
    fill(list, all.slice(0, SHOWN).map((entry) => makeItem(entry, choose, forget)));
  }
  search.addEventListener("input", show);
  search.addEventListener("keydown", (event) => {
    const [first] = matches();
    if (event.key !== "Enter" || !first) return;
    event.preventDefault(); // it is not typed into the prompt, which gets the focus
    choose(first);
  });
  clear.addEventListener("click", async () => {
    await store.clear("prompts");
    entries = [];
    show();
    search.focus();
  });
  show();
  search.focus();
}

function makeItem(entry, choose, forget) {
  const { prompt, negative, used, times } = entry;
  const when = `${new Date(used).toLocaleString()}${times > 1 ? `, ${times} times` : ""}`;
  return h(
    "li",
    {},
    h(
      "button",
      { type: "button", class: "history-prompt", onclick: () => choose(entry) },
      h("span", {}, prompt),
      negative ? h("span", { class: "soft small" }, `without ${negative}`) : null,
      h("span", { class: "soft small numbers" }, when),
    ),
    iconButton("trash", `Forget ${prompt}`, () => forget(entry)),
  );
}
