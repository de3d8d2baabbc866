// @ts-check
// The life of a job in this tab: submitted, followed, remembered across a reload.

import { ApiError, pause } from "./api.js";
import { toBase64 } from "./files.js";
import { isObject } from "./schema.js";
import * as store from "./store.js";

const PRESENT = "ldmref-job"; // in sessionStorage: the job that this tab shows
const DAY = 24 * 3600 * 1000; // milliseconds for which the request of a closed tab is kept
const RETRY = 2; // seconds until a full queue is asked again, if the server does not say

/** Return the body of a request for POST /v1/jobs; files become base64. */
export async function jobBody(kind, { mode, model, values, ...adapters }) {
  const parameters = {};
  for (const [name, value] of Object.entries(values)) {
    parameters[name] = await encodeFiles(value);
  }
  return { kind, mode, ...(model ? { model } : {}), parameters, ...adapters };
}

async function encodeFiles(value) {
  if (value instanceof Blob) return toBase64(value);
  if (Array.isArray(value)) return Promise.all(value.map(encodeFiles));
  if (!isObject(value)) return value;
  const encoded = Object.entries(value).map(async ([key, item]) => [key, await encodeFiles(item)]);
  return Object.fromEntries(await Promise.all(encoded));
}

/**
 * Submit a request and follow it. `view` has functions for what happens: full(seconds), queued,
 * started, progress, preview, image, done, failed, cancelled, lost, found, gone(error).
 */
export async function runJob(api, request, view, signal) {
  const body = { ...(await jobBody("generate", request)), previews: true };
  const job = await submit(api, body, view, signal);
  await store.put("requests", { id: job.id, request, created: Date.now() }).catch(() => {});
  sessionStorage.setItem(PRESENT, job.id);
  view.submitted?.(job, request);
  await follow(api, job, request, view, signal);
}

async function submit(api, body, view, signal) {
  for (;;) {
    try {
      return await api.submit(body, signal);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 429) throw error;
      const seconds = error.retryAfter ?? RETRY;
      view.full(seconds, error);
      await pause(1000 * seconds, signal);
    }
  }
}

/** Follow the job that this tab showed before a reload; do nothing if there was none. */
export async function resumeJob(api, view, signal) {
  forgetOld().catch(() => {});
  const id = sessionStorage.getItem(PRESENT);
  if (!id) return;
  const remembered = await store.get("requests", id).catch(() => undefined);
  if (!remembered) {
    sessionStorage.removeItem(PRESENT);
    return;
  }
  view.submitted?.({ id }, remembered.request);
  await follow(api, { id }, remembered.request, view, signal);
}

async function forgetOld() {
  for (const { id, created } of await store.all("requests")) {
    if (created < Date.now() - DAY) await store.remove("requests", id);
  }
}

async function follow(api, job, request, view, signal) {
  try {
    await api.events(job, view, signal);
  } catch (error) {
    if (!(error instanceof ApiError) || (error.status !== 404 && error.status !== 410)) throw error;
    view.gone(error, request);
  }
  sessionStorage.removeItem(PRESENT);
  await store.remove("requests", job.id).catch(() => {});
}
