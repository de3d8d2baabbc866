// @ts-check
// The decoded images of the run that comes with the page: one sheet, states above, guesses below.

const FILE = new URL("../ready/frames.webp", import.meta.url).href;
let found = null; // the promise of the frames: every view shows the same ones

/**
 * Return the frames, fetched once: {sheet, side, last}. The image of step k of 0, ..., last is the
 * square of `side` pixels at (k * side, 0) of the sheet, and the guess of this step lies below it.
 */
export function fetchFrames() {
  found ??= read();
  found.catch(() => (found = null)); // the next view tries again
  return found;
}

async function read() {
  const answer = await fetch(FILE);
  if (!answer.ok) throw new Error(`${answer.status} for ${FILE}`);
  const sheet = await createImageBitmap(await answer.blob());
  const side = sheet.height / 2;
  return { sheet, side, last: sheet.width / side - 1 };
}
