// @ts-check
// What the networks compute in a run, on demand: tokens, hidden states, and the levels of the U-Net.

import { sentence, whenBack } from "../notify.js";
import { readSafetensors } from "../record.js";
import { fetchReadyInside } from "./ready.js";
import { describeRequest } from "./specs.js";

export class Inside {
  constructor(source, onChange) {
    this.source = source;
    this.onChange = onChange;
    this.known = new Map(); // of each run: {text, levels: by step, asked, said}
  }

  of(run) {
    if (!this.known.has(run)) this.known.set(run, { texts: null, levels: new Map(), asked: false, said: "" });
    return this.known.get(run);
  }

  /** Whether a run is the ready one, whose inside comes with the page. */
  isReady(run) {
    return run.record === this.source.ready?.record;
  }

  /** Whether somebody can look into a run: a branch is made in two parts, which nobody traces. */
  canLook(run, specs, index) {
    const { texts } = specs[index];
    return this.isReady(run) || Boolean(this.source.inside && texts && describeRequest(specs, index).branches.length === 0);
  }

  /** Look into the step of position k, and call `onChange` when it is known. */
  async look(run, specs, index, k) {
    const own = this.of(run);
    if (own.asked) return;
    own.asked = true;
    try {
      this.keep(own, await this.fetch(run, specs, index, run.stepOf(k), own));
      own.said = "";
    } catch (error) {
      own.said = sentence(error.message);
      if (error.offline) whenBack(() => this.forget(own));
    }
    own.asked = false;
    this.onChange();
  }

  // The server is back: nothing is said, and one can look again.
  forget(own) {
    own.said = "";
    this.onChange();
  }

  fetch(run, specs, index, step, own) {
    if (this.isReady(run)) return fetchReadyInside();
    const progress = (share, words) => {
      own.said = words;
      this.onChange();
    };
    return this.source.inside(describeRequest(specs, index), step, { signal: undefined, progress });
  }

  keep(own, buffer) {
    const { metadata, tensors } = readSafetensors(buffer);
    const { levels, steps, more = [], ...first } = JSON.parse(metadata.inside);
    own.texts = [first, ...more].map(({ pieces, limit, cut, encoder = "" }, i) => {
      const end = i > 0 ? `_${i}` : "";
      return { pieces, limit, cut, encoder, ids: tensors[`ids${end}`]?.data ?? [], hidden: tensors[`hidden${end}`] ?? null };
    });
    steps.forEach((step, i) => {
      own.levels.set(step, levels.map((name) => takeMap(name, tensors[name], i)));
    });
  }
}

function takeMap(name, { shape: [, height, width], data }, i) {
  return { name, width, height, values: data.subarray(i * width * height, (i + 1) * width * height) };
}
