/* The blocks of Z-Image and the steps of its sampler in C99, from a passport kit.

     ldmref passport make z-image -o z-image-kit
     cc -std=c99 -O2 -o z_image examples/port_in_c/z_image.c -lm
     ./z_image z-image-kit port
     ldmref passport check port.json --kit z-image-kit

   It reads the checkpoint and what the blocks and the steps are given, and writes what each layer
   got and returned: numbers in port.bin, names in port.json. With -DWRONG_SCALE attention lacks its
   scale, and with -DHALF_SPLIT_ROTARY the halves of a head are rotated, not its neighbours. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tensors.h"

enum { AXES = 3, AXIS = 4, HEADS = 2, LAYERS = 2, STEPS = 2 }; /* config.json, kit.json */
#define EPS 1e-5f    /* norm_eps */
#define THETA 256.0f /* rope_theta */

/* -- layers ------------------------------------------------------------------------------------ */

typedef struct {
  Store checkpoint; /* names are the makers' */
  Dump *dump;
  char block[NAME / 2]; /* layers.0 */
} Port;

static void put_layer(Port *port, const char *layer, const char *role, Tensor t) {
  char name[NAME];
  snprintf(name, sizeof name, "transformer.000/%s%s%s", port->block, *layer ? "." : "", layer);
  put(port->dump, name, role, t);
}

static Tensor parameter(Port *port, const char *layer, const char *name) {
  char key[NAME];
  snprintf(key, sizeof key, "%s.%s.%s", port->block, layer, name);
  return get(port->checkpoint, key);
}

static Tensor record(Port *port, const char *layer, Tensor x, Tensor y) {
  put_layer(port, layer, "input", x);
  put_layer(port, layer, "output", y);
  return y;
}

/* y = W x + b for each token; W is (out, in). */
static Tensor linear(Port *port, const char *layer, Tensor x, int has_bias) {
  Tensor weight = parameter(port, layer, "weight");
  size_t out = weight.shape[0], in = weight.shape[1], rows = x.size / in;
  Tensor bias = has_bias ? parameter(port, layer, "bias") : new_tensor(1, out, 1, 1, 1);
  Tensor y = new_tensor(x.rank, x.shape[0], x.rank == 2 ? out : x.shape[1], out, 1);
  for (size_t r = 0; r < rows; r++)
    for (size_t j = 0; j < out; j++) {
      float sum = bias.data[j];
      for (size_t k = 0; k < in; k++) sum += weight.data[j * in + k] * x.data[r * in + k];
      y.data[r * out + j] = sum;
    }
  return record(port, layer, x, y);
}

/* y = w x / sqrt(mean(x^2) + eps), over the last axis */
static Tensor rms_norm(Port *port, const char *layer, Tensor x) {
  Tensor weight = parameter(port, layer, "weight");
  size_t width = weight.size;
  Tensor y = like(x);
  for (size_t r = 0; r < x.size / width; r++) {
    const float *row = x.data + r * width;
    float squares = 0;
    for (size_t k = 0; k < width; k++) squares += row[k] * row[k];
    float factor = 1 / sqrtf(squares / (float)width + EPS);
    for (size_t k = 0; k < width; k++) y.data[r * width + k] = weight.data[k] * row[k] * factor;
  }
  return record(port, layer, x, y);
}

/* (n, l, heads d) -> (n, heads, l, d) */
static Tensor split_heads(Tensor x) {
  size_t n = x.shape[0], l = x.shape[1], d = x.shape[2] / HEADS;
  Tensor y = new_tensor(4, n, HEADS, l, d);
  for (size_t i = 0; i < x.size; i++) {
    size_t k = i % d, head = i / d % HEADS, token = i / (d * HEADS) % l, row = i / (d * HEADS * l);
    y.data[((row * HEADS + head) * l + token) * d + k] = x.data[i];
  }
  return y;
}

/* (n, heads, l, d) -> (n, l, heads d) */
static Tensor join_heads(Tensor x) {
  size_t n = x.shape[0], l = x.shape[2], d = x.shape[3];
  Tensor y = new_tensor(3, n, l, HEADS * d, 1);
  for (size_t i = 0; i < x.size; i++) {
    size_t k = i % d, head = i / d % HEADS, token = i / (d * HEADS) % l, row = i / (d * HEADS * l);
    y.data[i] = x.data[((row * HEADS + head) * l + token) * d + k];
  }
  return y;
}

/* Pair j of an axis turns by p theta^(-2 j / AXIS), where p is the token's position on the axis:
   (a, b) -> (a cos - b sin, a sin + b cos). The pairs are neighbours, axis after axis. */
static Tensor rotate(Port *port, const char *layer, Tensor x, Tensor positions) {
  size_t l = x.shape[2], d = x.shape[3];
  Tensor y = like(x);
  for (size_t r = 0; r < x.size / d; r++) {
    size_t row = r / (HEADS * l), token = r % l;
    for (size_t pair = 0; pair < d / 2; pair++) {
      size_t axis = pair / (AXIS / 2), j = pair % (AXIS / 2);
      float angle = positions.data[(row * l + token) * AXES + axis];
      angle *= powf(THETA, -2.0f * (float)j / AXIS);
#ifdef HALF_SPLIT_ROTARY
      size_t first = r * d + pair, second = first + d / 2;
#else
      size_t first = r * d + 2 * pair, second = first + 1;
#endif
      float a = x.data[first], b = x.data[second];
      y.data[first] = a * cosf(angle) - b * sinf(angle);
      y.data[second] = a * sinf(angle) + b * cosf(angle);
    }
  }
  put_layer(port, layer, "input.positions", positions);
  return record(port, layer, x, y);
}

/* softmax(q k^T / sqrt(d)) v in each head; the tokens that fill rows up are seen, so no mask. */
static Tensor attend(Port *port, const char *layer, Tensor q, Tensor k, Tensor v) {
  size_t l = q.shape[2], d = q.shape[3];
#ifdef WRONG_SCALE
  float scale = 1;
#else
  float scale = 1 / sqrtf((float)d);
#endif
  Tensor y = like(q), scores = new_tensor(1, l, 1, 1, 1);
  for (size_t r = 0; r < q.size / d; r++) {
    const float *keys = k.data + r / l * l * d, *values = v.data + r / l * l * d;
    float largest = -INFINITY, sum = 0;
    for (size_t t = 0; t < l; t++) {
      float score = 0;
      for (size_t i = 0; i < d; i++) score += q.data[r * d + i] * keys[t * d + i];
      scores.data[t] = score * scale;
      largest = fmaxf(largest, scores.data[t]);
    }
    for (size_t t = 0; t < l; t++) sum += expf(scores.data[t] - largest);
    for (size_t t = 0; t < l; t++) {
      float share = expf(scores.data[t] - largest) / sum;
      for (size_t i = 0; i < d; i++) y.data[r * d + i] += share * values[t * d + i];
    }
  }
  put_layer(port, layer, "input.k", k);
  put_layer(port, layer, "input.v", v);
  return record(port, layer, q, y);
}

/* Queries and keys are normalised in each head, then rotated. */
static Tensor attention(Port *port, Tensor x, Tensor positions) {
  Tensor q = split_heads(linear(port, "attention.to_q", x, 0));
  Tensor k = split_heads(linear(port, "attention.to_k", x, 0));
  Tensor v = split_heads(linear(port, "attention.to_v", x, 0));
  q = rotate(port, "attention.rotate", rms_norm(port, "attention.norm_q", q), positions);
  k = rotate(port, "attention.rotate~1", rms_norm(port, "attention.norm_k", k), positions);
  Tensor y = attend(port, "attention.attention", q, k, v);
  return linear(port, "attention.to_out.0", join_heads(y), 0);
}

/* W2 (silu(W1 x) W3 x), silu(a) = a / (1 + exp(-a)) */
static Tensor feed_forward(Port *port, Tensor x) {
  Tensor a = linear(port, "feed_forward.w1", x, 0);
  Tensor b = linear(port, "feed_forward.w3", x, 0);
  Tensor h = like(a);
  for (size_t i = 0; i < a.size; i++) h.data[i] = a.data[i] / (1 + expf(-a.data[i]));
  record(port, "feed_forward.silu", a, h);
  Tensor product = like(h);
  for (size_t i = 0; i < h.size; i++) product.data[i] = h.data[i] * b.data[i];
  return linear(port, "feed_forward.w2", product, 0);
}

/* y = (1 + s) h, or x + tanh(g) h: parts 0 to 3 of the modulation are s, g, s', g' */
static Tensor modulate(const Tensor *x, Tensor h, Tensor modulation, size_t part) {
  size_t l = h.shape[1], d = h.shape[2];
  Tensor y = like(h);
  for (size_t i = 0; i < h.size; i++) {
    float m = modulation.data[i / (l * d) * 4 * d + part * d + i % d];
    y.data[i] = x ? x->data[i] + tanhf(m) * h.data[i] : (1 + m) * h.data[i];
  }
  return y;
}

/* x <- x + tanh(g) norm2(attention((1 + s) norm1(x))),
   x <- x + tanh(g') ffn_norm2(feed_forward((1 + s') ffn_norm1(x))), (s, g, s', g') = W emb + c */
static Tensor block(Port *port, Tensor input, Tensor emb, Tensor positions) {
  put_layer(port, "", "input.emb", emb);
  put_layer(port, "", "input.positions", positions);
  Tensor m = linear(port, "adaLN_modulation.0", emb, 1);
  Tensor h = modulate(NULL, rms_norm(port, "attention_norm1", input), m, 0);
  h = attention(port, h, positions);
  Tensor x = modulate(&input, rms_norm(port, "attention_norm2", h), m, 1);
  h = modulate(NULL, rms_norm(port, "ffn_norm1", x), m, 2);
  h = feed_forward(port, h);
  x = modulate(&x, rms_norm(port, "ffn_norm2", h), m, 3);
  return record(port, "", input, x);
}

/* The tokens of the image, then those of the text: (n, a, d), (n, b, d) -> (n, a + b, d) */
static Tensor join_tokens(Tensor image, Tensor text) {
  size_t n = image.shape[0], a = image.size / n, b = text.size / n;
  Tensor y = new_tensor(3, n, image.shape[1] + text.shape[1], image.shape[2], 1);
  for (size_t row = 0; row < n; row++) {
    memcpy(y.data + row * (a + b), image.data + row * a, a * sizeof(float));
    memcpy(y.data + row * (a + b) + a, text.data + row * b, b * sizeof(float));
  }
  return y;
}

static void run_blocks(Port *port, Store trace) {
  Tensor emb = get(trace, "transformer.000/t_embedder.mlp.2/output");
  Tensor positions = get(trace, "transformer.000/layers.0/input.positions");
  Tensor x = join_tokens(get(trace, "transformer.000/noise_refiner.0/output"),
                         get(trace, "transformer.000/context_refiner.0/output"));
  for (int i = 0; i < LAYERS; i++) {
    snprintf(port->block, sizeof port->block, "layers.%d", i);
    x = block(port, x, emb, positions);
  }
}

/* -- Euler on the flow: x' = x + (sigma' - sigma) v -------------------------------------------- */

static Tensor number(float value) {
  Tensor t = new_tensor(0, 1, 1, 1, 1);
  t.data[0] = value;
  return t;
}

static Tensor euler(Dump *dump, const char *step, Tensor x, Tensor v, float sigma, float next) {
  Tensor y = like(x);
  for (size_t i = 0; i < x.size; i++) y.data[i] = x.data[i] + (next - sigma) * v.data[i];
  put(dump, step, "input.x", x);
  put(dump, step, "input.prediction", v);
  put(dump, step, "input.sigma", number(sigma));
  put(dump, step, "input.sigma_next", number(next));
  put(dump, step, "output", y);
  return y;
}

static void run_sampler(Dump *dump, Store trace) {
  Tensor sigmas = get(trace, "schedule//output.sigmas");
  Tensor x = get(trace, "sampler.000//input.x");
  for (int i = 0; i < STEPS; i++) {
    char name[NAME];
    snprintf(name, sizeof name, "guidance.%03d//output", i);
    Tensor velocity = get(trace, name);
    snprintf(name, sizeof name, "sampler.%03d/", i);
    x = euler(dump, name, x, velocity, sigmas.data[i], sigmas.data[i + 1]);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) stop("usage", "z_image KIT DUMP");
  char names[4096], values[4096];
  snprintf(names, sizeof names, "%s.json", argv[2]);
  snprintf(values, sizeof values, "%s.bin", argv[2]);
  const char *slash = strrchr(values, '/');
  Dump dump = {fopen(names, "w"), fopen(values, "wb"), slash ? slash + 1 : values, 0};
  if (!dump.names || !dump.values) stop("cannot write", names);
  Store trace = open_store(argv[1], "trace/trace.safetensors");
  Port port = {open_store(argv[1], "checkpoint/transformer.safetensors"), &dump, ""};
  run_blocks(&port, trace);
  run_sampler(&dump, trace);
  fprintf(dump.names, "}\n");
  return fclose(dump.names) || fclose(dump.values);
}
