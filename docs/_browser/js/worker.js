// The worker of a page: it loads the model once, generates, decodes, and stops between two steps.
//
// Messages to it are {id, action, ...}; answers carry the same id, and the last one of an action has
// `done` or `error`.

import { loadMap, loadModel } from "./core/model.js";

const stopped = new Set();
let loading = null;
let queue = Promise.resolve();

const ACTIONS = {
  async load({ model, runtime }, answer) {
    loading ??= loadModel(model, runtime, (done, total) => answer({ kind: "bytes", loaded: done, total }));
    try {
      const { manifest, threads } = await loading;
      return { manifest, threads };
    } catch (error) {
      loading = null; // another attempt may succeed
      throw error;
    }
  },

  async generate({ id, request }, answer) {
    const model = await loading;
    for await (const event of model.generate(request)) {
      if (stopped.has(id)) return { cancelled: true };
      answer(event);
      await letMessagesIn();
      if (stopped.has(id)) return { cancelled: true };
    }
    return { cancelled: false };
  },

  async map({ model: folder }, answer) {
    await loadMap(await loading, folder, (done, total) => answer({ kind: "bytes", loaded: done, total }));
    return {};
  },

  async draw({ request }) {
    const model = await loading;
    return model.draw(request);
  },

  async decode({ id, latents }) {
    const model = await loading;
    return stopped.has(id) ? { cancelled: true } : model.decode(latents);
  },
};

self.addEventListener("message", ({ data }) => {
  if (data.action === "stop") {
    stopped.add(data.id);
    return;
  }
  queue = queue.then(() => run(data)); // one action at a time: the runtime has one thread
});

async function run(data) {
  const answer = (message) => self.postMessage({ id: data.id, ...message });
  try {
    answer({ done: await ACTIONS[data.action](data, answer) });
  } catch (error) {
    answer({ error: error.message ?? String(error) });
  } finally {
    stopped.delete(data.id);
  }
}

// A message port answers after the messages that wait already.
function letMessagesIn() {
  return new Promise((resolve) => {
    setTimeout(resolve, 0);
  });
}
