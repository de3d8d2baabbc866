// Training schedules and arrays between two others: pure functions for the widgets of the course.

/** Return alpha-bar of T timesteps with betas that grow evenly from `start` to `end`. */
export function linearSchedule(total, start, end) {
  return accumulate(total, (i) => start + (i * (end - start)) / (total - 1));
}

/** Return alpha-bar of T timesteps with betas whose roots grow evenly: Stable Diffusion's schedule. */
export function scaledLinearSchedule(total, start, end) {
  return accumulate(total, (i) => (Math.sqrt(start) + (i * (Math.sqrt(end) - Math.sqrt(start))) / (total - 1)) ** 2);
}

/** Return alpha-bar of the cosine schedule (arXiv:2102.09672, eq. 17) with offset s, betas at most 0.999. */
export function cosineSchedule(total, offset = 0.008) {
  const level = (t) => Math.cos(((t / total + offset) / (1 + offset)) * (Math.PI / 2)) ** 2;
  return accumulate(total, (i) => Math.min(1 - level(i + 1) / level(i), 0.999));
}

function accumulate(total, beta) {
  let product = 1;
  return Float64Array.from({ length: total }, (_, i) => (product *= 1 - beta(i)));
}

/** Return q_sample: sqrt(alpha-bar) x0 + sqrt(1 - alpha-bar) eps. */
export function qSample(x0, eps, alphaBar) {
  return x0.map((value, i) => Math.sqrt(alphaBar) * value + Math.sqrt(1 - alphaBar) * eps[i]);
}

/** Return (1 - t) a + t b. */
export function lerp(a, b, t) {
  return a.map((value, i) => (1 - t) * value + t * b[i]);
}

/** Return the point at t on the great circle from a to b: lengths are kept where both are equal. */
export function slerp(a, b, t) {
  const angle = 2 * Math.atan2(norm(addDirections(a, b, -1)), norm(addDirections(a, b, 1)));
  if (Math.sin(angle) < 1e-7) return lerp(a, b, t);
  const from = Math.sin((1 - t) * angle) / Math.sin(angle);
  const to = Math.sin(t * angle) / Math.sin(angle);
  return a.map((value, i) => from * value + to * b[i]);
}

function addDirections(a, b, sign) {
  const [lengthA, lengthB] = [norm(a), norm(b)];
  return a.map((value, i) => value / lengthA + (sign * b[i]) / lengthB);
}

/** Return the Euclidean norm. */
export function norm(a) {
  return Math.sqrt(a.reduce((sum, value) => sum + value * value, 0));
}
