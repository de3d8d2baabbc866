// @ts-check
// A ZIP archive whose files are stored as they are, since images are compressed already. The format
// is that of PKWARE's APPNOTE.TXT, section 4.3: a header before each file, the list of all at the end.

import { crc } from "./crc.js";

const VERSION = 20; // 2.0, the oldest with all that is used
const UTF8 = 0x0800; // the flag of names in UTF-8
const MOST = 0xffff; // files; more, or more than 4 GB, need ZIP64

/** Return the archive of files {name, blob, time}, with the time in milliseconds, as a Blob. */
export async function makeZip(files) {
  if (files.length > MOST) throw new Error(`an archive holds ${MOST} files at most, not ${files.length}`);
  const parts = [];
  const entries = [];
  let offset = 0;
  for (const { name, blob, time } of files) {
    const path = new TextEncoder().encode(name);
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const shared = [
      [VERSION, 2], [UTF8, 2], [0, 2], ...dosTime(time), [crc(bytes), 4], [bytes.length, 4], [bytes.length, 4], [path.length, 2], [0, 2],
    ];
    const head = pack([0x04034b50, 4], ...shared);
    entries.push(pack([0x02014b50, 4], [VERSION, 2], ...shared, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), path);
    parts.push(head, path, bytes);
    offset += head.length + path.length + bytes.length;
  }
  const size = entries.reduce((sum, { length }) => sum + length, 0);
  if (offset + size > 0xffffffff) throw new Error("an archive holds 4 GB at most");
  const end = pack([0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...entries, end], { type: "application/zip" });
}

// Numbers with their sizes in bytes, the least significant byte first.
function pack(...numbers) {
  return Uint8Array.from(numbers.flatMap(([value, size]) => Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 255)));
}

// The local time and date of MS-DOS: two seconds are the unit, and 1980 is the first year.
function dosTime(milliseconds) {
  const at = new Date(milliseconds);
  const year = Math.max(0, at.getFullYear() - 1980);
  const time = (at.getHours() << 11) | (at.getMinutes() << 5) | (at.getSeconds() >> 1);
  const date = (year << 9) | ((at.getMonth() + 1) << 5) | at.getDate();
  return [[time, 2], [date, 2]];
}
