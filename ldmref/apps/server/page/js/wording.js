// @ts-check
// Messages of the server in the words of the page. They name parameters and ways that other doors
// have (the command line, Python, an API); the page has labels.

// Names of fields that differ from their parameter.
const LABELS = { cfg_scale: "Guidance scale", control: "ControlNets", count: "Images", prompt_b: "Last prompt" };
// The order of the modes and their names; others follow under their own.
const MODES = {
  txt2img: "Text",
  img2img: "Image",
  inpaint: "Paint",
  interpolate: "Between",
  invert: "Invert",
  edit: "Edit",
  superres: "Enlarge",
  seg2img: "Map",
};
// What only other doors have. A clause that names one is left out.
const FOREIGN = /(^|\s)--[a-z]|\bload\(|\bbase64\b|\bldmref[ .]|paths and URLs|\ba list gives\b|\barray\b|\bPillow\b/;
const ON_OFF = { True: "on", False: "off" };

let names = [];

export const MODE_ORDER = Object.keys(MODES);

/** Return the name of a mode on the page. */
export function modeName(mode) {
  return Object.hasOwn(MODES, mode) ? MODES[mode] : mode;
}

/** Learn the names of all parameters, from the modes of the server's capabilities. */
export function learnNames(modes) {
  names = [...new Set(Object.values(modes).flatMap(({ schema }) => Object.keys(schema.properties)))];
}

/** Return a parameter's name as a label: `fill_color` becomes "Fill color". */
export function label(name) {
  const text = LABELS[name] ?? name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Return a parameter's name as it stands in a sentence: `cfg_scale` becomes "guidance scale". */
export function nameInText(name) {
  return name === "control" ? label(name) : label(name).toLowerCase();
}

/** Return a message or a description without what the page lacks, and with its labels. */
export function inPageWords(text) {
  const sentences = text.replaceAll("`", "").split(/(?<=[.]) (?=[A-Z])/);
  return sentences.map((one) => rename(dropForeign(one))).filter(Boolean).join(" ");
}

function dropForeign(sentence) {
  if (!FOREIGN.test(sentence)) return sentence;
  const clauses = sentence.split(/(?<=[;:]) /).filter((clause) => !FOREIGN.test(clause));
  return clauses.join(" ").replace(/[;:]$/, "");
}

function rename(text) {
  let words = text;
  for (const name of names) {
    const small = nameInText(name);
    const value = new RegExp(`\\b${name}=([\\w.]+)`, "g");
    words = words.replace(value, (_, given) => `“${label(name)}: ${ON_OFF[given] ?? given}”`);
    if (name.includes("_")) words = words.replace(new RegExp(`\\b${name}\\b`, "g"), small);
    else words = words.replace(new RegExp(`^${name}(?= must\\b)`), small);
  }
  return words;
}
