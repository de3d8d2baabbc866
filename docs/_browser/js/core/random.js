// The noise of a seed: the numbers of NumPy's `Generator(Philox(key=seed)).standard_normal(n, float32)`.
//
// Philox4x64-10 encrypts a counter with the seed as key (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"). The ziggurat of 256 layers turns its bits into normal numbers
// (Marsaglia and Tsang 2000, "The ziggurat method for generating random variables").

const MASK = (1n << 64n) - 1n;
const MULTIPLIERS = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];
const ROUNDS = 10;

/** Return the four 64-bit words of a counter under a key, all BigInt. */
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round += 1) {
    const first = MULTIPLIERS[0] * c0;
    const second = MULTIPLIERS[1] * c2;
    [c0, c1, c2, c3] = [(second >> 64n) ^ c1 ^ k0, second & MASK, (first >> 64n) ^ c3 ^ k1, first & MASK];
    k0 = (k0 + WEYL[0]) & MASK;
    k1 = (k1 + WEYL[1]) & MASK;
  }
  return [c0, c1, c2, c3];
}

/** Return a function that yields the 32-bit words of a seed, as NumPy takes them: low half first. */
export function philoxWords(seed) {
  const key = [BigInt(seed) & MASK, BigInt(seed) >> 64n];
  let counter = 0n;
  let words = [];
  return () => {
    if (words.length === 0) {
      counter += 1n; // NumPy counts up before it encrypts
      const block = philox([counter, 0n, 0n, 0n], key);
      words = block.flatMap((word) => [Number(word & 0xffffffffn), Number(word >> 32n)]).reverse();
    }
    return words.pop();
  };
}

const LAYERS = 256;
const EDGE = 3.6541528853610088; // where the tail begins
const AREA = 0.004928673233974655; // of each layer
const SCALE = 2 ** 23;
const height = (x) => Math.exp(-0.5 * x * x);
const { limits, widths, heights } = makeTables();

// Layer i has the width x_i and ends at the height exp(-x_i^2 / 2); all layers have the same area.
// Layer 0 is the lowest and contains the tail. `limits` is where a layer lies below the curve.
function makeTables() {
  const x = new Float64Array(LAYERS);
  x[LAYERS - 1] = EDGE;
  for (let i = LAYERS - 2; i >= 1; i -= 1) {
    x[i] = Math.sqrt(-2 * Math.log(AREA / x[i + 1] + height(x[i + 1])));
  }
  const base = AREA / height(EDGE);
  const width = (i) => (i === 0 ? base : x[i]);
  const limit = (i) => (i === 0 ? EDGE : i === 1 ? 0 : x[i - 1]) / width(i);
  return {
    limits: Uint32Array.from(x, (_, i) => Math.round(limit(i) * SCALE)),
    widths: Float32Array.from(x, (_, i) => width(i) / SCALE),
    heights: Float32Array.from(x, (_, i) => height(x[i])),
  };
}

/** Return the tables of the ziggurat, for tests. */
export function zigguratTables() {
  return { limits, widths, heights };
}

/** Return n standard normal numbers of a seed, an integer from 0 to 2^64 - 1, as a Float32Array. */
export function normalNoise(seed, n) {
  const next = philoxWords(seed);
  const uniform = () => (next() >>> 8) / 2 ** 24;
  return Float32Array.from({ length: n }, () => normalNumber(next, uniform));
}

function normalNumber(next, uniform) {
  for (;;) {
    const bits = next();
    const layer = bits & 255;
    const negative = (bits >>> 8) & 1;
    const place = bits >>> 9;
    const size = Math.fround(place * widths[layer]);
    const x = negative ? -size : size;
    if (place < limits[layer]) return x;
    if (layer === 0) return tail(uniform, (place >>> 8) & 1);
    const between = Math.fround(heights[layer - 1] - heights[layer]);
    const y = Math.fround(Math.fround(between * uniform()) + heights[layer]);
    if (y < height(x)) return x;
  }
}

// Marsaglia's tail beyond EDGE, in single precision.
function tail(uniform, negative) {
  const edge = Math.fround(EDGE);
  const inverse = Math.fround(1 / EDGE);
  for (;;) {
    const x = Math.fround(-inverse * logOneMinus(uniform()));
    const y = -logOneMinus(uniform());
    if (Math.fround(y + y) > Math.fround(x * x)) {
      const value = Math.fround(edge + x);
      return negative ? -value : value;
    }
  }
}

function logOneMinus(u) {
  return Math.fround(Math.log1p(-u));
}
