// Files of the model: fetched next to the page, with progress, and compared with the manifest.

/** Fetch the manifest of the model; an error says that this copy of the page does not have one. */
export async function fetchManifest(folder) {
  const response = await fetch(new URL("manifest.json", folder));
  const missing = response.status === 404;
  if (!response.ok && !missing) throw new Error(`the model's manifest could not be fetched (status ${response.status})`);
  const manifest = missing ? null : await response.json();
  if (manifest === null) throw new Error("this copy of the page was built without the model");
  if (manifest.format !== "ldmref-browser" || manifest.version !== 1) {
    throw new Error("the model was exported for another version of this page");
  }
  return manifest;
}

/**
 * Fetch a file {file, bytes, sha256} and return its bytes. `onBytes` is called with the size of each
 * part that arrives. The digest is compared where the browser can compute one: on https and localhost.
 */
export async function fetchChecked(folder, { file, bytes, sha256 }, onBytes = () => {}) {
  const address = new URL(file, folder);
  address.searchParams.set("v", sha256.slice(0, 12)); // another version is another address for caches
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${file} could not be fetched (status ${response.status})`);
  const data = await readAll(response, bytes, onBytes, file);
  const digest = await digestOf(data);
  if (digest !== null && digest !== sha256) throw new Error(`${file} is damaged: its SHA-256 is not the manifest's`);
  return data;
}

async function readAll(response, bytes, onBytes, file) {
  const data = new Uint8Array(bytes);
  const reader = response.body.getReader();
  let at = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > bytes) throw new Error(`${file} is longer than the manifest says`);
    data.set(value, at);
    at += value.length;
    onBytes(value.length);
  }
  if (at < bytes) throw new Error(`${file} ends after ${at} of ${bytes} bytes`);
  return data;
}

async function digestOf(data) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
