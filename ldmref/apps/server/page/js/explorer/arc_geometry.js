// @ts-check
// The arcs of a flow map and the trajectory that they replace, as points of a plane. A state is a mixture
// z = cos(phi) picture + sin(phi) noise at the scale of variance one; phi falls from the noise to the picture.

const PIECES = 24; // lines that draw an arc

/**
 * Return what is drawn of a run and of the run of a map from the same noise: {states, arcs, end, at(k)}.
 *
 * Points are [picture, noise] in the plane of the first and the last state of the run, in which noise of
 * variance one has the length one. `arcs` are {points, start, tangent}, and `end` is the distance of both
 * ends (rms). `at(k)` is {state, tangent, arc, point, angle, gap} for the step k: the arc over it, its point at
 * the same phi, the angle in degrees between the velocity of the run and the mean velocity of the arc,
 * and the distance of both states.
 */
export function measureArcs(run, map) {
  const project = makePlane(stateOf(run, 0), stateOf(run, run.n));
  const arcs = Array.from({ length: map.n }, (_, i) => makeArc(map, i)).filter(Boolean);
  const forward = (velocity) => project(velocity).map((value) => -value); // phi falls
  const drawn = arcs.map(({ at, from, to, mean }) => {
    const points = Array.from({ length: PIECES + 1 }, (_, t) => project(at(from - (t / PIECES) * (from - to))));
    return { points, start: points[0], tangent: forward(mean) };
  });
  return {
    states: Array.from({ length: run.n + 1 }, (_, k) => project(stateOf(run, k))),
    arcs: drawn,
    end: rms(stateOf(run, run.n), stateOf(map, map.n)),
    at(k) {
      const phi = phiOf(run, k);
      const arc = Math.max(0, arcs.filter(({ from }) => from >= phi - 1e-9).length - 1);
      const state = stateOf(run, k);
      const same = arcs[arc].at(phi);
      const velocity = k < run.n ? velocityOf(run, k) : null;
      return {
        arc,
        state: project(state),
        point: project(same),
        gap: rms(state, same),
        tangent: velocity && forward(velocity),
        angle: velocity && angleOf(velocity, arcs[arc].mean),
      };
    },
  };
}

function phiOf(run, k) {
  return Math.atan2(run.levels.noise[k], run.levels.signal[k]);
}

function stateOf(run, k) {
  const { values, scale } = run.latents("x", k);
  return Float64Array.from(values, (value) => scale * value);
}

// dz / dphi of the prediction at a step: cos(phi) noise - sin(phi) picture.
function velocityOf(run, k) {
  const phi = phiOf(run, k);
  const picture = run.latents("x0", k).values;
  return stateOf(run, k).map((value, i) => (Math.cos(phi) * value - picture[i]) / Math.sin(phi));
}

// The step i of a map keeps a picture and a noise, and changes their shares: an arc from phi to phi'.
function makeArc(map, i) {
  const [from, to] = [phiOf(map, i), phiOf(map, i + 1)];
  const [start, end] = [stateOf(map, i), stateOf(map, i + 1)];
  const sine = Math.sin(from - to);
  if (!(sine > 0)) return null;
  const mix = (a, b) => start.map((value, j) => (a * value + b * end[j]) / sine);
  return { from, to, mean: mix(Math.cos(from - to), -1), at: (phi) => mix(Math.sin(phi - to), Math.sin(from - phi)) };
}

function makePlane(noise, picture) {
  const up = unit(noise);
  const along = dot(picture, up);
  const right = unit(picture.map((value, i) => value - along * up[i]));
  const size = Math.sqrt(noise.length);
  return (values) => [dot(values, right) / size, dot(values, up) / size];
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
  return sum;
}

function unit(values) {
  const length = Math.sqrt(dot(values, values)) || 1;
  return values.map((value) => value / length);
}

function rms(a, b) {
  const difference = a.map((value, i) => value - b[i]);
  return Math.sqrt(dot(difference, difference) / a.length);
}

function angleOf(a, b) {
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  return (180 / Math.PI) * Math.acos(Math.min(1, Math.max(-1, cosine)));
}
