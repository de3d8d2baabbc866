// @ts-check
// What the browser keeps: the images of the gallery, the requests of jobs that run and of those that
// wait, the files of the form, and the prompts that were used.
// Everything is in IndexedDB, which holds the files themselves. Without it (some private windows),
// the page works and forgets.

const NAME = "ldmref";
const VERSION = 3;
const STORES = { images: "id", requests: "id", inputs: "id", prompts: "id" };
const memory = Object.fromEntries(Object.keys(STORES).map((name) => [name, new Map()]));
let opened = null;
let lasting = true;

/** Whether the browser keeps what is stored when the page is closed. */
export function isLasting() {
  return lasting;
}

function open() {
  opened ??= new Promise((resolve) => {
    const give = () => {
      lasting = false;
      resolve(null);
    };
    let opening;
    try {
      opening = indexedDB.open(NAME, VERSION);
    } catch {
      give();
      return;
    }
    opening.onupgradeneeded = () => {
      for (const [name, keyPath] of Object.entries(STORES)) {
        if (!opening.result.objectStoreNames.contains(name)) {
          opening.result.createObjectStore(name, { keyPath });
        }
      }
    };
    opening.onsuccess = () => {
      opening.result.onversionchange = () => opening.result.close();
      resolve(opening.result);
    };
    opening.onerror = give;
    opening.onblocked = give;
  });
  return opened;
}

async function run(name, mode, action) {
  const database = await open();
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(name, mode);
    const asked = action(transaction.objectStore(name));
    transaction.oncomplete = () => resolve(asked?.result);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** Store a value under its `id`. */
export async function put(name, value) {
  await open();
  if (!lasting) memory[name].set(value.id, value);
  else await run(name, "readwrite", (store) => store.put(value));
}

/** Return the value of an id, or undefined. */
export async function get(name, id) {
  await open();
  return lasting ? run(name, "readonly", (store) => store.get(id)) : memory[name].get(id);
}

/** Return all values of a store. */
export async function all(name) {
  await open();
  return lasting ? run(name, "readonly", (store) => store.getAll()) : [...memory[name].values()];
}

/** Delete the value of an id. */
export async function remove(name, id) {
  await open();
  if (!lasting) memory[name].delete(id);
  else await run(name, "readwrite", (store) => store.delete(id));
}

/** Delete all values of a store. */
export async function clear(name) {
  await open();
  if (!lasting) memory[name].clear();
  else await run(name, "readwrite", (store) => store.clear());
}
