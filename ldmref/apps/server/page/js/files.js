// @ts-check
// Files: base64 for requests, sizes of images, downloads.

/** Return the bytes of a Blob as base64. */
export async function toBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) {
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  }
  return btoa(text);
}

/** Return the width and height of an image file; an error names the file if it is not an image. */
export async function readSize(blob) {
  try {
    const bitmap = await createImageBitmap(blob);
    const size = { width: bitmap.width, height: bitmap.height };
    bitmap.close();
    return size;
  } catch {
    throw new Error(`${blob.name ?? "the file"} is not an image that this browser can read`);
  }
}

/** Save a Blob as a file of the user. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Return the ending of an image file by its type. */
export function ending(blob) {
  return { "image/jpeg": ".jpg", "image/webp": ".webp" }[blob.type] ?? ".png";
}

/** Return a file name for an image: the prompt in small letters, and the seed. */
export function fileName(prompt, seed, more = "") {
  const text = [prompt].flat()[0] ?? "";
  const words = text.normalize("NFKD").replace(/[^\p{L}\p{N}]+/gu, "-").toLowerCase();
  const stem = words.replace(/^-+|-+$/g, "").slice(0, 40).replace(/-+$/, "") || "image";
  return `${stem}-${seed}${more}.png`;
}

/** Return names for files that differ: a name that was there gets `-2`, `-3`, ... before its ending. */
export function distinctNames(names) {
  const taken = new Set();
  return names.map((name) => {
    const [, stem, end] = name.match(/^(.*?)(\.[^.]*)?$/s);
    let own = name;
    for (let i = 2; taken.has(own); i += 1) own = `${stem}-${i}${end ?? ""}`;
    taken.add(own);
    return own;
  });
}

/** Return the image files of a drop or a paste. */
export function imageFiles(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}
