/* Run one golden case in C, without a library: layers of the kinds "linear" and "silu".

   cc -O2 -o run_case examples/run_case.c -lm
   ldmref cases run --kind linear --kind silu --command "./run_case {kind} {case} {output}"

   Inputs are ONNX's TensorProto, and parameters are initializers of model.onnx. Both are read with
   five field numbers of onnx.proto: ModelProto.graph 7, GraphProto.initializer 5, and of TensorProto
   dims 1, name 8, raw_data 9. The output is written as output_0.npy. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { const unsigned char *at, *end; } Bytes;
typedef struct { char name[256]; int rank; size_t dims[8], size; const float *data; } Tensor;

static Bytes read_file(const char *folder, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  if (!file) { perror(path); exit(1); }
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  unsigned char *data = malloc(size + 1);
  if (fread(data, 1, size, file) != (size_t)size) { perror(path); exit(1); }
  fclose(file);
  return (Bytes){data, data + size};
}

static uint64_t varint(Bytes *b) {
  uint64_t value = 0;
  for (int shift = 0; b->at < b->end; shift += 7) {
    unsigned char c = *b->at++;
    value |= (uint64_t)(c & 127) << shift;
    if (c < 128) break;
  }
  return value;
}

/* Read the next field: its number, and its number value or its bytes. */
static int next_field(Bytes *b, uint64_t *value, Bytes *part) {
  if (b->at >= b->end) return 0;
  uint64_t key = varint(b);
  switch (key & 7) {
    case 0: *value = varint(b); break;
    case 1: b->at += 8; break;
    case 2: *value = varint(b); *part = (Bytes){b->at, b->at + *value}; b->at += *value; break;
    case 5: b->at += 4; break;
    default: fprintf(stderr, "not protobuf\n"); exit(1);
  }
  return (int)(key >> 3);
}

static Tensor read_tensor(Bytes b) {
  Tensor t = {.size = 1};
  uint64_t value;
  Bytes part;
  for (int field; (field = next_field(&b, &value, &part));) {
    if (field == 1) { t.dims[t.rank++] = value; t.size *= value; }
    if (field == 8) snprintf(t.name, sizeof t.name, "%.*s", (int)value, (const char *)part.at);
    if (field == 9) {
      float *data = malloc(value + 1);
      memcpy(data, part.at, value);
      t.data = data;
    }
  }
  return t;
}

static Tensor parameter(Bytes model, const char *name) {
  uint64_t value;
  Bytes part, inner;
  for (int field; (field = next_field(&model, &value, &part));)
    if (field == 7)
      for (int f; (f = next_field(&part, &value, &inner));)
        if (f == 5) {
          Tensor t = read_tensor(inner);
          if (!strcmp(t.name, name)) return t;
        }
  return (Tensor){.size = 0};
}

static void write_npy(const char *folder, const Tensor *t) {
  char path[4096], shape[256] = "", header[512];
  for (int i = 0; i < t->rank; i++)
    snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%zu, ", t->dims[i]);
  snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape);
  unsigned short length = (unsigned short)strlen(header);
  snprintf(path, sizeof path, "%s/output_0.npy", folder);
  FILE *file = fopen(path, "wb");
  if (!file) { perror(path); exit(1); }
  fwrite("\x93NUMPY\x01\x00", 1, 8, file);
  fwrite(&length, 2, 1, file);
  fwrite(header, 1, length, file);
  fwrite(t->data, 4, t->size, file);
  fclose(file);
}

int main(int argc, char **argv) {
  if (argc != 4) { fprintf(stderr, "usage: run_case KIND CASE OUTPUT\n"); return 2; }
  Tensor x = read_tensor(read_file(argv[2], "test_data_set_0/input_0.pb"));
  Tensor y = x;
  if (!strcmp(argv[1], "silu")) {
    float *out = malloc(4 * x.size);
    for (size_t i = 0; i < x.size; i++) out[i] = x.data[i] / (1 + expf(-x.data[i]));
    y.data = out;
  } else if (!strcmp(argv[1], "linear")) {
    Bytes model = read_file(argv[2], "model.onnx");
    Tensor weight = parameter(model, "weight"), bias = parameter(model, "bias");
    size_t n = weight.dims[0], m = weight.dims[1], rows = x.size / m;
    float *out = malloc(4 * rows * n);
    for (size_t r = 0; r < rows; r++)
      for (size_t j = 0; j < n; j++) {
        float sum = 0;
        for (size_t k = 0; k < m; k++) sum += x.data[r * m + k] * weight.data[j * m + k];
        out[r * n + j] = bias.size ? sum + bias.data[j] : sum;
      }
    y.dims[y.rank - 1] = n;
    y.size = rows * n;
    y.data = out;
  } else {
    fprintf(stderr, "no layer of kind %s here\n", argv[1]);
    return 1;
  }
  write_npy(argv[3], &y);
  return 0;
}
