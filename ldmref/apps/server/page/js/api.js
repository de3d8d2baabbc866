// @ts-check
// The requests of the page. Each goes to the server that the page came from, with its token.

import { parseJson, toJson } from "./numbers.js";
import { ConnectionLost, readEvents } from "./sse.js";

const TOKEN = "ldmref-token"; // in sessionStorage: gone when the tab is closed
const LAST = new Set(["done", "failed", "cancelled"]);
const FIRST_DELAY = 500; // milliseconds until the first attempt to reconnect
const LONGEST_DELAY = 5000;
const KEPT_WORDS = 50; // the last answers about words: several parts of the page ask for the same letters

/** A refusal of the server, or no answer (status 0). */
export class ApiError extends Error {
  constructor(status, error, retryAfter = null) {
    super(error.message);
    this.name = "ApiError";
    this.status = status;
    this.code = error.code ?? "";
    this.hint = error.hint ?? "";
    this.parameter = error.parameter ?? null;
    this.retryAfter = retryAfter; // seconds, of a full queue
  }

  /** Whether the server did not answer: it was stopped, or the connection is lost. */
  get offline() {
    return this.status === 0;
  }
}

/** @type {(error: ApiError) => void} */
let tellOffline = () => {};
let askForToken = null;
let pendingToken = null;
/** @type {Map<string, Promise<{words: string[], known: boolean}>>} */
const knownWords = new Map();

/** Set the function that is told when the server does not answer. */
export function onOffline(tell) {
  tellOffline = tell;
}

/** Set the function that asks for the token: `ask(refused) -> Promise<string | null>`. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

export function setToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** Whether the server asked for a token, and this tab has one. */
export function hasToken() {
  return Boolean(sessionStorage.getItem(TOKEN));
}

/** @param {Record<string, string>} more */
function headers(more = {}) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

/**
 * Return an answer of the server with status 2xx, and throw ApiError otherwise.
 * @param {string} path
 * @param {RequestInit & { headers?: Record<string, string> }} options
 */
export async function request(path, options = {}) {
  for (;;) {
    const used = sessionStorage.getItem(TOKEN);
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: headers(options.headers) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      const offline = new ApiError(0, { message: "the server does not answer", code: "E-OFFLINE" });
      tellOffline(offline);
      throw offline;
    }
    if (answer.ok) return answer;
    if (answer.status !== 401 || !askForToken) throw await refusal(answer);
    if (sessionStorage.getItem(TOKEN) !== used) continue; // given meanwhile, by another request
    pendingToken ??= askForToken(Boolean(used)).finally(() => (pendingToken = null));
    const token = await pendingToken;
    if (!token) throw await refusal(answer);
    setToken(token);
  }
}

async function refusal(answer) {
  let error = null;
  try {
    error = (await answer.json()).error;
  } catch {
    // A proxy in between answers in its own form.
  }
  const known = error && typeof error === "object" && error.message;
  const wait = Number.parseFloat(answer.headers.get("Retry-After"));
  return new ApiError(
    answer.status,
    known ? error : { message: `the server answered ${answer.status} ${answer.statusText}` },
    Number.isFinite(wait) ? wait : null,
  );
}

async function json(path, options) {
  return parseJson(await (await request(path, options)).text());
}

function post(value) {
  return {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: toJson(value),
  };
}

/** Return the models, the modes with their schemas, samplers and limits of the server. */
export function capabilities() {
  return json("/v1/capabilities");
}

/** Return the flow schedules of other programs, without their flow times. */
export async function schedules() {
  return (await json("/v1/schedules")).schedules;
}

/** Return the flow schedules of a family with their flow times: `request` is {family, steps, width, height}. */
export async function makeSchedules(request) {
  return (await json("/v1/schedules", post(request))).answer;
}

/** Ask whether the server is there. */
export function health() {
  return json("/healthz");
}

/**
 * Submit a job, {kind, mode, model, parameters, ...}, and return its description. The server cancels a
 * job that is `attended` if the tab is closed; others go on, and are followed after a reload.
 *
 * The request itself is never aborted, because the server may have taken it already. After an
 * abort the job is cancelled as soon as its name is known, and an AbortError is thrown.
 */
export async function submit(body, signal = undefined) {
  const job = await json("/v1/jobs", post(body));
  if (signal?.aborted) {
    await cancel(job.id).catch(() => {});
    throw new DOMException("aborted", "AbortError");
  }
  return job;
}

/** Generate an image, and return it as a Blob: an abort cancels the job. */
export async function generate(body, signal) {
  return (await request("/v1/generate", { ...post(body), signal })).blob();
}

/** Return the description of a job. */
export function job(id) {
  return json(`/v1/jobs/${encodeURIComponent(id)}`);
}

/** Return the descriptions of all jobs, newest first. */
export async function jobs() {
  return (await json("/v1/jobs")).jobs;
}

/** Cancel a job and return its description. */
export function cancel(id) {
  return json(`/v1/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });
}

/** Return the bytes at an address of a job (an image, a file) as a Blob. */
export async function blob(url) {
  return (await request(url)).blob();
}

/** Return the bytes at an address of a job as an ArrayBuffer. */
export async function bytes(url) {
  return (await request(url)).arrayBuffer();
}

/** Return {words, known}: words of a model's vocabulary that begin with a text, and whether it is one. */
export function words(start, model) {
  const path = `/v1/words?start=${encodeURIComponent(start)}&model=${encodeURIComponent(model)}`;
  const known = knownWords.get(path);
  if (known) return known;
  const answer = json(path);
  knownWords.set(path, answer);
  answer.catch(() => knownWords.delete(path));
  if (knownWords.size > KEPT_WORDS) knownWords.delete(knownWords.keys().next().value);
  return answer;
}

/** Return the settings that an image file records, for a model. */
export function inspect(file, model) {
  const type = file.type || "application/octet-stream";
  return json(`/v1/inspect?model=${encodeURIComponent(model)}`, { method: "POST", headers: { "Content-Type": type }, body: file });
}

/**
 * Follow the events of a job until the last one and return the description that it carries.
 *
 * `handlers` has a function, which may be async, for each name that it wants: queued, started, progress, preview, image,
 * done, failed, cancelled. If the connection is lost, `handlers.lost(error)` is called and events
 * continues after the last one received; `handlers.found()` follows. An ApiError with status 404 or
 * 410 ends it: the server was restarted, or the job's lifetime is over.
 */
export async function events(job, handlers = {}, signal = undefined) {
  const path = job.events ?? `/v1/jobs/${encodeURIComponent(job.id)}/events`;
  let last = null;
  let delay = FIRST_DELAY;
  let lost = false;
  for (;;) {
    try {
      const more = last === null ? {} : { "Last-Event-ID": last };
      const accept = { Accept: "text/event-stream", ...more };
      const answer = await request(path, { headers: accept, signal, cache: "no-store" });
      if (lost) handlers.found?.();
      lost = false;
      delay = FIRST_DELAY;
      for await (const { event, data, id } of readEvents(answer.body)) {
        last = id ?? last;
        await handlers[event]?.(data);
        if (LAST.has(event)) return data;
      }
    } catch (error) {
      if (signal?.aborted) throw error;
      if (!(error instanceof ConnectionLost) && !error.offline) throw error;
      if (!lost) handlers.lost?.(error);
      lost = true;
    }
    await pause(delay, signal);
    delay = Math.min(2 * delay, LONGEST_DELAY);
  }
}

/** Wait some milliseconds; an abort ends the wait with an error. */
export function pause(milliseconds, signal = undefined) {
  return /** @type {Promise<void>} */ (new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, milliseconds);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  }));
}
