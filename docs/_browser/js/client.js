// The page's side of the worker: calls that return promises, and runs that can be stopped.

const ROOT = new URL("..", import.meta.url);
const MODEL = new URL("model/", ROOT).href;
const RUNTIME = new URL("runtime/", ROOT).href;

/** Return the folder of the model, for `fetchManifest`. */
export const modelFolder = MODEL;

/** A model in a worker, which is started by the first call. */
export class Client {
  constructor() {
    this.calls = new Map();
    this.count = 0;
  }

  /** Load the model, once; `onProgress(done, total)` counts bytes. Resolves to {manifest, threads}. */
  load(onProgress = () => {}) {
    const request = { action: "load", model: MODEL, runtime: RUNTIME };
    return this.call(request, ({ loaded, total }) => onProgress(loaded, total)).promise;
  }

  /** Load the flow map of the loaded model; `onProgress(done, total)` counts bytes. */
  loadMap(onProgress = () => {}) {
    return this.call({ action: "map", model: MODEL }, ({ loaded, total }) => onProgress(loaded, total)).promise;
  }

  /** Draw by the flow map: {prompt, seed, steps}. Returns a promise of {rgba, width, height}. */
  draw(request) {
    return this.call({ action: "draw", request }, () => {}).promise;
  }

  /** Generate; `onEvent` gets each event of `Model.generate`. Returns {promise, stop}. */
  generate(request, onEvent) {
    return this.call({ action: "generate", request }, onEvent);
  }

  /** Decode latents. Returns {promise, stop}; the promise resolves to {rgba, width, height}. */
  decode(latents) {
    return this.call({ action: "decode", latents }, () => {});
  }

  call(message, onEvent) {
    this.worker ??= this.start();
    this.count += 1;
    const id = this.count;
    const promise = new Promise((resolve, reject) => {
      this.calls.set(id, { onEvent, resolve, reject });
    });
    this.worker.postMessage({ id, ...message });
    return { promise, stop: () => this.worker.postMessage({ id, action: "stop" }) };
  }

  start() {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data }) => this.receive(data));
    worker.addEventListener("error", (event) => {
      const message = event.message || "the worker could not be started; open the page from a web server";
      for (const call of this.calls.values()) call.reject(new Error(message));
      this.calls.clear();
    });
    return worker;
  }

  receive({ id, done, error, ...event }) {
    const call = this.calls.get(id);
    if (!call) return;
    if (event.kind) {
      call.onEvent(event);
      return;
    }
    this.calls.delete(id);
    if (error === undefined) call.resolve(done);
    else call.reject(new Error(error));
  }
}
