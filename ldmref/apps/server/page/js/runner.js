// @ts-check
// The requests of this tab, one at a time: submitted, followed, shown, and put into the gallery.
// Those that are asked for meanwhile wait here, so the queue of the server stays free for others.

import { counted } from "./dom.js";
import { resumeJob, runJob } from "./jobs.js";
import { announce, notifyError, whenBack } from "./notify.js";

export class Runner {
  /** `view` has api, form, stage, gallery, queue and typing. */
  constructor(view) {
    this.view = view;
    this.job = null;
    this.controller = null;
    this.automatic = false; // whether a pause in typing asked for what runs
    this.dropped = false; // whether nobody waits for it any more
  }

  get busy() {
    return this.controller !== null;
  }

  /**
   * Generate the images of a request {mode, model, values}, after those that were asked for before.
   * What is `automatic` is dropped for the next request, and says less.
   */
  run(request, { automatic = false } = {}) {
    if (this.busy) {
      this.view.queue.add(request);
      return undefined;
    }
    this.automatic = automatic;
    return this.follow((events, signal) => runJob(this.view.api, request, events, signal), request);
  }

  /** Go on with the job that this tab followed before a reload, and with those that waited. */
  async resume() {
    this.view.queue.recall().then(() => this.runNext());
    await this.follow((events, signal) => resumeJob(this.view.api, events, signal), null);
  }

  runNext() {
    if (this.busy) return;
    const next = this.view.queue.take();
    if (next) this.run(next);
  }

  async follow(action, request) {
    const { stage, form } = this.view;
    if (this.busy) return;
    this.controller = new AbortController();
    this.request = request;
    this.cancelled = false;
    this.dropped = false;
    this.entries = [];
    this.pending = [];
    if (request) stage.begin({ quiet: this.automatic });
    try {
      await action(this.events(), this.controller.signal);
    } catch (error) {
      if (this.dropped) return;
      stage.end();
      if (error.name === "AbortError") stage.tell("cancelled before the server took the request");
      else if (!form.showError(error)) this.fail(error);
      else stage.tell(error.message, { error: true });
    } finally {
      this.controller = null;
      this.job = null;
      this.automatic = false;
      this.runNext();
    }
  }

  fail(error) {
    const { stage } = this.view;
    const { request } = this;
    const buttons = request ? [{ label: "Try again", run: () => this.run(request) }] : [];
    stage.tell(error.message, { error: true, hint: error.hint, buttons });
    if (error.offline) whenBack(stage.noticeEnds(() => stage.tell("the server answers again", { buttons })));
  }

  /** Cancel the job; before the server has taken it, stop asking. */
  async cancel() {
    this.cancelled = true;
    if (!this.job) {
      this.controller?.abort();
      return;
    }
    try {
      await this.view.api.cancel(this.job.id);
    } catch (error) {
      notifyError(error);
      this.view.stage.cancelButton.disabled = false;
    }
  }

  /** Whether what runs can be dropped, or be what the user asks for. */
  get free() {
    return this.automatic && !this.dropped;
  }

  /** Cancel what a pause in typing asked for, because more is typed; the stage is free at once. */
  drop() {
    if (!this.free) return;
    this.dropped = true;
    this.view.stage.leave();
    this.cancel();
  }

  /** Let what a pause in typing asked for be what the user asked for. */
  adopt() {
    this.automatic = false;
    this.view.stage.speak();
  }

  events() {
    const { stage } = this.view;
    const heard = (action) => (data, request) => (this.dropped ? undefined : action(data, request));
    const handlers = {
      full: (seconds) => stage.full(seconds),
      submitted: (job, request) => {
        this.job = job;
        if (!this.request) stage.begin();
        this.request = request;
        stage.say("Waiting for the server");
      },
      queued: (data) => stage.queued(data),
      started: () => stage.say("Starting"),
      progress: (data) => {
        this.count = data.images;
        stage.progress(data);
      },
      preview: (data) => stage.preview(data),
      image: (data) => this.pending.push(this.receive(data)),
      lost: () => stage.say("The connection is lost. Trying to reconnect"),
      found: () => stage.say("Reconnected"),
      done: (job) => this.finish(job),
      cancelled: (job) => this.finish(job),
      failed: (job) => this.finish(job),
      gone: () => this.lose(),
    };
    return Object.fromEntries(Object.entries(handlers).map(([name, action]) => [name, heard(action)]));
  }

  async receive({ index, url, seed, width, height }) {
    const { api, stage } = this.view;
    const blob = await api.blob(url);
    if (this.dropped) return;
    const entry = {
      id: `${this.job.id}-${index}`,
      created: Date.now(),
      blob,
      seed,
      width,
      height,
      index,
      params: {},
      request: this.request,
    };
    this.entries.push(entry);
    stage.finish(entry);
  }

  async finish(job) {
    const { stage, gallery } = this.view;
    await Promise.all(this.pending).catch(notifyError);
    if (this.dropped) return;
    const entries = this.entries.sort((a, b) => a.index - b.index);
    for (const entry of entries) {
      entry.params = job.images[entry.index].params;
      entry.place = entry.index;
      entry.first = job.images[0].seed;
      entry.count = job.progress?.images ?? job.images.length;
      entry.token = this.view.api.hasToken();
      await gallery.add(entry);
    }
    if (this.dropped) return; // meanwhile; the gallery has the images
    stage.end();
    const seconds = job.finished - job.started;
    if (entries.length) {
      stage.showEntries(entries, job.warnings, seconds);
      this.view.typing.finished(entries[0]);
    }
    if (job.state === "cancelled") this.tellCancelled(entries.length);
    if (job.state === "failed") this.failJob(job.error);
    if (job.state === "done") announce(describeEnd(entries));
    if (job.state === "done" && !entries.length) await this.showFiles(job);
  }

  // A server that is stopped cancels its jobs.
  tellCancelled(count) {
    const { request } = this;
    const again = { label: "Generate again", run: () => this.run(request) };
    const who = this.cancelled ? "cancelled" : "the server has cancelled this request";
    const after = count ? ` after ${counted(count, "image")}` : "";
    this.view.stage.tell(who + after, { buttons: this.cancelled ? [] : [again] });
  }

  failJob(error) {
    this.view.form.showError(error);
    this.fail(error);
  }

  /** The server does not know the job any more: it was started again, or the result has expired. */
  lose() {
    const { stage } = this.view;
    const { request } = this;
    stage.end();
    const again = { label: "Generate again", run: () => this.run(request) };
    stage.tell("the server was restarted and has forgotten this request", { error: true, buttons: [again] });
  }

  /** Show what an inversion found: its noise, and the settings that generate from it. */
  async showFiles(job) {
    const { api, stage } = this.view;
    const files = [];
    for (const { name, url } of job.files) {
      const blob = await api.blob(url);
      files.push({ name, blob: new File([blob], name, { type: blob.type }) });
    }
    const noise = files.find(({ name }) => name === "noise.npy");
    const buttons = [];
    if (noise) {
      const generate = () => this.view.useNoise(job.data, noise.blob);
      buttons.push({ label: "Generate from it", run: generate });
    }
    stage.showFiles(files, "the noise of the image is found", buttons);
  }
}

function describeEnd(entries) {
  if (!entries.length) return "Finished";
  return entries.length === 1 ? `Finished, seed ${entries[0].seed}` : `${entries.length} images are finished`;
}
