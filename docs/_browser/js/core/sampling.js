// Sampling: noise levels, guidance, Euler's step and DPM-Solver++(2M), and the loop over the steps.
//
// States are x = x0 + sigma eps. Arrays are flat Float32Arrays; numbers are computed in double
// precision and rounded when they are stored.

export const SAMPLERS = { euler, dpmpp_2m: dpmpp2m };

/**
 * Return {sigmas, timesteps} of n steps with trailing timesteps: T - 1, T - 1 - T/n, ..., and then
 * sigma = 0. `table` holds the sigma of each of the T training timesteps, increasing.
 */
export function noiseLevels(table, steps) {
  const total = table.length;
  if (!Number.isInteger(steps) || steps < 1 || steps > total) {
    throw new RangeError(`steps must be a whole number from 1 to ${total}, not ${steps}`);
  }
  const timesteps = Array.from({ length: steps }, (_, i) => roundToEven(total - i * (total / steps)) - 1);
  return { timesteps, sigmas: [...timesteps.map((t) => table[t]), 0] };
}

function roundToEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

/** Return the classifier-free guidance uncond + w (cond - uncond). */
export function guide(uncond, cond, w) {
  return w === 1 ? cond : uncond.map((value, i) => value + w * (cond[i] - value));
}

/** Return alpha-bar at a noise level: 1 / (1 + sigma^2). */
export function alphaBar(sigma) {
  return 1 / (1 + sigma * sigma);
}

// The prediction of x0, from the network's output y at xt = sqrt(alpha-bar) x.
const TO_X0 = {
  v: (xt, y, a) => xt.map((value, i) => Math.sqrt(a) * value - Math.sqrt(1 - a) * y[i]),
  eps: (xt, y, a) => xt.map((value, i) => (value - Math.sqrt(1 - a) * y[i]) / Math.sqrt(a)),
  x0: (xt, y) => y,
};

/**
 * Return the denoiser of a network: an async function (x, sigma, timestep) -> {x0, uncond, cond}, all
 * predictions of x0. `network(xt, timestep)` resolves to its outputs {uncond, cond}, of the type
 * `prediction` ("v", "eps" or "x0"), and w is the guidance weight.
 */
export function guidedDenoiser(network, prediction, w) {
  const toX0 = TO_X0[prediction];
  return async (x, sigma, timestep) => {
    const a = alphaBar(sigma);
    const xt = x.map((value) => Math.sqrt(a) * value);
    const { uncond, cond } = await network(xt, timestep);
    return { x0: toX0(xt, guide(uncond, cond, w), a), uncond: toX0(xt, uncond, a), cond: toX0(xt, cond, a) };
  };
}

/**
 * Return the denoiser of a flow map: an async function (x, sigma, timestep, end) -> {x0}, with the timestep
 * to which the step leads. `network(xt, timestep, end)` resolves to its output, whose guidance is its own.
 */
export function mapDenoiser(network, prediction) {
  const toX0 = TO_X0[prediction];
  return async (x, sigma, timestep, end) => {
    const a = alphaBar(sigma);
    const xt = x.map((value) => Math.sqrt(a) * value);
    return { x0: toX0(xt, await network(xt, timestep, end), a) };
  };
}

/** Take Euler's step from sigma to sigma', along x - x0. This is also DDIM. */
export function eulerStep(x, x0, sigma, next) {
  const ratio = next / sigma;
  return x0.map((clean, i) => clean + ratio * (x[i] - clean));
}

/** Return the step of Euler's method: (x, x0, sigma, sigma') -> x'. */
export function euler() {
  return eulerStep;
}

/** Return the step of DPM-Solver++(2M), which remembers the last prediction. */
export function dpmpp2m() {
  let last = null;
  return (x, x0, sigma, next) => {
    if (next === 0) return x0.slice();
    const h = Math.log(sigma / next);
    const moved = eulerStep(x, x0, sigma, next);
    if (last) {
      const weight = (-0.5 * Math.expm1(-h) * h) / last.h;
      for (let i = 0; i < moved.length; i += 1) moved[i] += weight * (x0[i] - last.x0[i]);
    }
    last = { x0, h };
    return moved;
  };
}

/**
 * Take all steps. `denoise(x, sigma, timestep, end)` resolves to {x0, ...}; `end` is the timestep of the next
 * state, 0 for the last one. Yields {step, x, next, ...} after each
 * step, with the state before it, the state after it and everything that the denoiser returned.
 */
export async function* sample(denoise, x, { sigmas, timesteps }, sampler) {
  const step = SAMPLERS[sampler]();
  for (let i = 0; i + 1 < sigmas.length; i += 1) {
    const predicted = await denoise(x, sigmas[i], timesteps[i], timesteps[i + 1] ?? 0);
    const next = step(x, predicted.x0, sigmas[i], sigmas[i + 1]);
    yield { step: i, sigma: sigmas[i], x, next, ...predicted };
    x = next;
  }
}

/** Return the initial state: noise times sqrt(1 + sigma^2), the scale of noisy data of unit variance. */
export function initialState(noise, sigma) {
  const scale = Math.hypot(1, sigma);
  return noise.map((value) => scale * value);
}
