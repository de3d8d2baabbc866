// The model: three networks in ONNX Runtime Web, and the run of a prompt. This module works in a worker.

import { fetchChecked, fetchManifest } from "./files.js";
import { normalNoise } from "./random.js";
import { guidedDenoiser, initialState, mapDenoiser, noiseLevels, sample } from "./sampling.js";
import { Tokenizer } from "./tokenizer.js";

const MOST_THREADS = 4;

/** Load the model of a folder with the runtime of another; `onProgress(done, total)` counts bytes. */
export async function loadModel(folder, runtime, onProgress) {
  const manifest = await fetchManifest(folder);
  const parts = Object.entries(manifest.networks);
  const wasm = manifest.runtime.wasm;
  const total = [wasm, manifest.tokenizer, ...parts.map(([, part]) => part)].reduce((sum, part) => sum + part.bytes, 0);
  let done = 0;
  const count = (size) => onProgress((done += size), total);

  const ort = await import(new URL(manifest.runtime.script.file, runtime));
  // Threads share memory, which browsers allow on isolated pages only; a plain file host has none.
  const threads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency ?? 1, MOST_THREADS) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmBinary = await fetchChecked(runtime, wasm, count);
  ort.env.wasm.wasmPaths = { wasm: new URL(wasm.file, runtime).href };

  const text = await fetchChecked(folder, manifest.tokenizer, count);
  const tokenizer = new Tokenizer(JSON.parse(new TextDecoder().decode(text)));
  const sessions = {};
  for (const [name, part] of parts) {
    const bytes = await fetchChecked(folder, part, count);
    sessions[name] = await openSession(ort, bytes);
  }
  return new Model(manifest, tokenizer, sessions, ort, threads);
}

function openSession(ort, bytes) {
  return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
}

/** Load the flow map of a model from its folder, once; `onProgress(done, total)` counts bytes. */
export async function loadMap(model, folder, onProgress) {
  const { network } = model.manifest.flow_map;
  let done = 0;
  const bytes = await fetchChecked(folder, network, (size) => onProgress((done += size), network.bytes));
  model.sessions.flow_map ??= await openSession(model.ort, bytes);
}

class Model {
  constructor(manifest, tokenizer, sessions, ort, threads) {
    Object.assign(this, { manifest, tokenizer, sessions, ort, threads });
  }

  /**
   * Generate an image. Yields first {kind: "start", ...}, then {kind: "step", ...} after each step, and at the
   * end {kind: "image", ...}; `request` is {prompt, negative_prompt, seed, steps, cfg_scale, sampler}.
   */
  async *generate(request) {
    const { channels, width, height } = this.manifest.latents;
    const levels = noiseLevels(this.manifest.schedule.sigmas, request.steps);
    const noise = normalNoise(request.seed, channels * width * height);
    const x = initialState(noise, levels.sigmas[0]);
    const texts = [request.negative_prompt, request.prompt].map((prompt) => this.tokenizer.encode(prompt));
    yield { kind: "start", ...levels, x, texts: { negative_prompt: texts[0], prompt: texts[1] } };

    const context = await this.encodeText(texts.map(({ ids }) => ids));
    const network = (xt, timestep) => this.predict(xt, timestep, context);
    const denoise = guidedDenoiser(network, this.manifest.schedule.prediction_type, request.cfg_scale);
    let began = performance.now();
    let latents = x;
    for await (const step of sample(denoise, x, levels, request.sampler)) {
      latents = step.next;
      yield { kind: "step", ...step, milliseconds: performance.now() - began };
      began = performance.now();
    }
    yield { kind: "image", ...(await this.decode(latents)), latents, milliseconds: performance.now() - began };
  }

  /** Draw an image by the flow map, {rgba, width, height}; `request` is {prompt, seed, steps}. */
  async draw(request) {
    const { channels, width, height } = this.manifest.latents;
    const levels = noiseLevels(this.manifest.schedule.sigmas, request.steps);
    const noise = normalNoise(request.seed, channels * width * height);
    const context = await this.encodeText([this.tokenizer.encode(request.prompt).ids]);
    const network = (xt, timestep, end) => this.jump(xt, timestep, end, context);
    const denoise = mapDenoiser(network, this.manifest.schedule.prediction_type);
    let latents = null;
    for await (const { next } of sample(denoise, initialState(noise, levels.sigmas[0]), levels, "euler")) latents = next;
    return this.decode(latents);
  }

  /** Return the flow map's output at one state, for the timestep to which the step leads. */
  async jump(xt, timestep, end, context) {
    const { channels, width, height } = this.manifest.latents;
    const time = (value) => new this.ort.Tensor("float32", Float32Array.of(value), [1]);
    const feeds = {
      sample: new this.ort.Tensor("float32", xt, [1, channels, height, width]),
      timestep: time(timestep),
      target_timestep: time(end),
      encoder_hidden_states: context,
    };
    return (await this.sessions.flow_map.run(feeds)).out_sample.data;
  }

  /** Return the hidden states of rows of token ids, a tensor. */
  async encodeText(rows) {
    const ids = BigInt64Array.from(rows.flat(), BigInt);
    const feeds = { input_ids: new this.ort.Tensor("int64", ids, [rows.length, rows[0].length]) };
    return (await this.sessions.text_encoder.run(feeds)).last_hidden_state;
  }

  /** Return the U-Net's outputs at one state without and with the prompt, in one batch. */
  async predict(xt, timestep, context) {
    const { channels, width, height } = this.manifest.latents;
    const both = new Float32Array(2 * xt.length);
    both.set(xt);
    both.set(xt, xt.length);
    const feeds = {
      sample: new this.ort.Tensor("float32", both, [2, channels, height, width]),
      timestep: new this.ort.Tensor("float32", Float32Array.of(timestep), [1]),
      encoder_hidden_states: context,
    };
    const { data } = (await this.sessions.unet.run(feeds)).out_sample;
    return { uncond: data.slice(0, xt.length), cond: data.slice(xt.length) };
  }

  /** Return {rgba, width, height} of latents. */
  async decode(latents) {
    const { channels, width, height, scaling_factor: factor } = this.manifest.latents;
    const scaled = latents.map((value) => value / factor);
    const feeds = { latent_sample: new this.ort.Tensor("float32", scaled, [1, channels, height, width]) };
    const image = (await this.sessions.vae_decoder.run(feeds)).sample;
    const [, , rows, columns] = image.dims;
    return { rgba: toPixels(image.data), width: columns, height: rows };
  }
}

/** Return the bytes RGBA of an image (3, height, width) in [-1, 1]; halves are rounded to even. */
export function toPixels(planes) {
  const pixels = planes.length / 3;
  const rgba = new Uint8ClampedArray(4 * pixels).fill(255);
  for (let i = 0; i < pixels; i += 1) {
    for (let colour = 0; colour < 3; colour += 1) rgba[4 * i + colour] = (planes[colour * pixels + i] + 1) * 127.5;
  }
  return rgba;
}
