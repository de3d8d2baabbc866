// @ts-check
// The runs of the explorer: what the address names, and the records that are loaded or made for it.

import { describeWeights, weightsOf } from "../adapters.js";
import { counted } from "../dom.js";
import { sentence, whenBack } from "../notify.js";
import { RecordError, readRecord } from "../record.js";
import { nameInText } from "../wording.js";
import { fetchDecoded, isReady } from "./ready.js";
import { Run } from "./run.js";
import { describeRequest } from "./specs.js";
import { download, fileName } from "./tools.js";

/**
 * The runs. `entries` are {spec, key, run, label, error, progress, job}; `onChange(entry)` is called
 * when one arrives or fails, and entry.onProgress(share, words) and entry.onPreview(image, step), if
 * they are set, while it is made; then also `onMaking(entry)`, with what was said last in entry.said
 * and the last preview in entry.guess.
 *
 * `source` may have the actions record(request, hooks) and truth(request, hooks); without them only
 * files are shown. `source.ready` is a run that is there already (ready.js). See source.js.
 */
export class Runs {
  constructor(source, onChange, onMaking) {
    this.source = source;
    this.onChange = onChange;
    this.onMaking = onMaking;
    this.entries = [];
  }

  get specs() {
    return this.entries.map((entry) => entry.spec);
  }

  /** Show these runs: those that are there are kept, others are made, the rest is stopped. */
  set(specs) {
    const before = this.entries;
    this.entries = specs.map((spec, index) => {
      const key = spec.file ? `file ${spec.file}` : JSON.stringify(describeRequest(specs, index));
      const kept = before.find((entry) => entry.key === key && !entry.error);
      return kept ? Object.assign(kept, { spec }) : { spec, key, run: null, error: null, label: describeSpec(spec) };
    });
    for (const entry of before) {
      if (!this.entries.includes(entry)) entry.controller?.abort();
    }
    this.entries.forEach((entry) => !entry.run && !entry.controller && this.load(entry));
  }

  /** Make the record of an entry. */
  async load(entry) {
    const { ready } = this.source;
    if (isReady(ready, entry.spec, entry.spec.texts && describeRequest(this.specs, this.entries.indexOf(entry)))) {
      this.finish(entry, ready.record);
      entry.run.frames = await fetchDecoded();
      this.onChange(entry);
      return;
    }
    if (!this.source.record) {
      entry.error = "This run is named in the address, and there is no server here that could make it. Open its record file.";
      return;
    }
    entry.controller = new AbortController();
    try {
      this.source.check?.(describeRequest(this.specs, this.entries.indexOf(entry)));
      const base = this.entries[0];
      if (entry !== base && base.promise) await base.promise;
      const request = describeRequest(this.specs, this.entries.indexOf(entry));
      entry.promise = this.source.record(request, {
        signal: entry.controller.signal,
        progress: (share, words) => {
          entry.said = words;
          entry.onProgress?.(share, words);
          this.onMaking(entry);
        },
        preview: (image, step) => {
          entry.guess = image;
          entry.onPreview?.(image, step);
          this.onMaking(entry);
        },
      });
      this.finish(entry, readRecord(await entry.promise));
    } catch (error) {
      if (error.name === "AbortError" && !this.entries.includes(entry)) return;
      entry.error = error.name === "AbortError" ? "Stopped." : describeError(error);
      if (error.offline) whenBack(() => this.loadAgain(entry));
    } finally {
      entry.promise = null;
      entry.controller = null;
    }
    this.onChange(entry);
  }

  // A run that the server did not answer for, once it is back.
  loadAgain(entry) {
    if (!this.entries.includes(entry)) return;
    Object.assign(entry, { error: null, said: undefined });
    this.load(entry);
    this.onChange(entry);
  }

  finish(entry, record) {
    entry.run = new Run(record, entry.spec.texts ? describeRequest(this.specs, this.entries.indexOf(entry)).model : undefined);
    const { seed } = entry.run.meta.params ?? {};
    // A run without a seed has a random one; from now on it is part of the address.
    if (entry.spec.of === null && entry.spec.texts && !("seed" in entry.spec.texts) && seed !== undefined) {
      entry.spec.texts.seed = String(seed);
      this.entries.forEach((one, index) => (one.key = JSON.stringify(describeRequest(this.specs, index))));
    }
    entry.label = describeSpec(entry.spec, entry.run);
  }

  /** Add the run of a record file. `spec` names its parameters if a source can make it again. */
  add(name, record, spec) {
    const index = this.entries.length;
    const entry = { spec: spec ?? { of: null, from: null, texts: null, file: `${name} ${index}` }, error: null };
    entry.run = new Run(record);
    this.entries.push(entry);
    entry.key = entry.spec.file ? `file ${entry.spec.file}` : JSON.stringify(describeRequest(this.specs, index));
    entry.label = entry.spec.file || index === 0 ? describeRun(entry.run) : describeSpec(entry.spec);
    return index;
  }

  // What was asked for in vain is asked for again, if the view has the line.
  forgetTruth(entry, say) {
    entry.truthAsked = false;
    say("");
    this.onChange(entry);
  }

  /** Offer the record of a run as a file. */
  save(index) {
    const { run, label } = this.entries[index];
    download(run.record.bytes, fileName(`${run.meta.params?.prompt ?? "run"} ${label}`, "safetensors"));
  }

  /** Compute the truth line of a run; `say(words)` tells how far it is. */
  async computeTruth(index, say) {
    const entry = this.entries[index];
    entry.truthController = new AbortController();
    try {
      const request = describeRequest(this.specs, index);
      const signal = entry.truthController.signal;
      const buffer = await this.source.truth(request, { signal, progress: (share, words) => say(words) });
      entry.run = new Run(readRecord(buffer), request.model);
      say("");
    } catch (error) {
      entry.truthAsked = error.name !== "AbortError";
      say(error.name === "AbortError" ? "" : describeError(error));
      if (error.offline) whenBack(() => this.forgetTruth(entry, say));
    } finally {
      entry.truthController = null;
    }
  }
}

function describeError(error) {
  if (error instanceof RecordError) return error.message;
  return [error.message, error.hint].filter(Boolean).map(sentence).join(" ").trim();
}

/** Return a line for a run: its changes, or its parameters. */
export function describeSpec(spec, run = null) {
  if (spec.of === null) return run ? describeRun(run) : `“${spec.texts?.prompt ?? ""}”`;
  const changes = Object.entries({ ...(spec.model ? { model: spec.model } : {}), ...spec.texts });
  const parts = changes.map(([name, value]) => `${nameInText(name)} ${name === "prompt" ? `“${value}”` : value}`);
  const text = [...parts, describeWeights(spec.loras ?? {})].filter(Boolean).join(", ");
  return spec.from === null ? text || "the same again" : `from step ${spec.from}: ${text || "unchanged"}`;
}

function describeRun(run) {
  const { params = {}, sampler, schedule, cfg_scale: scale, seed, branch } = run.meta;
  const branched = branch ? `branch at step ${branch.step}` : "";
  const loras = describeWeights(weightsOf(params.model?.loras));
  const parts = [branched, `“${params.prompt ?? ""}”`, loras, `seed ${seed}`, counted(run.n, "step"), `guidance scale ${scale}`, sampler, schedule];
  return parts.filter(Boolean).join(", ");
}
