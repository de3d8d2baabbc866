// @ts-check
// Images of the gallery as one archive: each file with its record inside, and a list of all records.

import { counted } from "./dom.js";
import { distinctNames, download, fileName } from "./files.js";
import { announce, notifyError } from "./notify.js";
import { toJson } from "./numbers.js";
import { makeZip } from "./zip.js";

const LIST = "manifest.jsonl"; // a line per image, with the keys of the manifest of `ldmref batch`

/** Return the archive of entries as a Blob. */
export async function archive(entries) {
  const names = distinctNames([LIST, ...entries.map(({ params, seed }) => fileName(params.prompt, seed))]).slice(1);
  const images = entries.map(({ blob, created }, i) => ({ name: names[i], blob, time: created }));
  const lines = entries.map(({ params }, i) => `${toJson({ file: names[i], params })}\n`);
  const list = { name: LIST, blob: new Blob(lines, { type: "application/jsonl" }), time: Date.now() };
  return makeZip([...images, list]);
}

/** Save the archive of entries as a file of the user. */
export async function downloadAll(entries) {
  try {
    download(await archive(entries), `ldmref-${entries.length}-images.zip`);
    announce(`${counted(entries.length, "image")} downloaded`);
  } catch (error) {
    notifyError(error);
  }
}
