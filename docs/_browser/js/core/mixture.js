// A mixture of Gaussians in the plane: everything a diffusion model must learn, in closed form.
//
// A mixture is a list of components {weight, mean: [a, b], std}; weights add up to 1. Points are
// pairs [a, b] in the coordinates x = x0 + sigma eps.

/** Return the probability of each component at a point. */
export function posterior(mixture, point, sigma) {
  const logs = mixture.map(({ weight, mean, std }) => {
    const variance = std * std + sigma * sigma;
    const square = (point[0] - mean[0]) ** 2 + (point[1] - mean[1]) ** 2;
    return Math.log(weight) - square / (2 * variance) - Math.log(2 * Math.PI * variance);
  });
  const top = Math.max(...logs);
  const parts = logs.map((value) => Math.exp(value - top));
  const sum = parts.reduce((a, b) => a + b, 0);
  return parts.map((value) => value / sum);
}

/** Return the optimal denoiser E[x0 | x], a pair. */
export function denoise(mixture, point, sigma) {
  const shares = posterior(mixture, point, sigma);
  const result = [0, 0];
  mixture.forEach(({ mean, std }, k) => {
    const gain = (std * std) / (std * std + sigma * sigma);
    for (let axis = 0; axis < 2; axis += 1) {
      result[axis] += shares[k] * (mean[axis] + gain * (point[axis] - mean[axis]));
    }
  });
  return result;
}

/** Return the density at a point. */
export function density(mixture, point, sigma = 0) {
  return mixture.reduce((sum, { weight, mean, std }) => {
    const variance = std * std + sigma * sigma;
    const square = (point[0] - mean[0]) ** 2 + (point[1] - mean[1]) ** 2;
    return sum + (weight * Math.exp(-square / (2 * variance))) / (2 * Math.PI * variance);
  }, 0);
}

/** Return n points of x0 from uniform and normal numbers, both functions without arguments. */
export function samplePoints(mixture, n, uniform, normal) {
  return Array.from({ length: n }, () => {
    let left = uniform();
    const { mean, std } = mixture.find(({ weight }) => (left -= weight) < 0) ?? mixture.at(-1);
    return [mean[0] + std * normal(), mean[1] + std * normal()];
  });
}

/** Return a mixture as the denoiser of `sample`, for flat arrays of points: a0, b0, a1, b1, ... */
export function mixtureDenoiser(mixture, uncond = null, w = 1) {
  return (x, sigma) => {
    const x0 = new Float64Array(x.length);
    for (let i = 0; i < x.length; i += 2) {
      const point = [x[i], x[i + 1]];
      const cond = denoise(mixture, point, sigma);
      const base = uncond ? denoise(uncond, point, sigma) : cond;
      for (let axis = 0; axis < 2; axis += 1) x0[i + axis] = base[axis] + w * (cond[axis] - base[axis]);
    }
    return { x0 };
  };
}
