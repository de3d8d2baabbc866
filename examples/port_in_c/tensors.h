/* Arrays of float32, a reader of safetensors, and a writer of dumps: raw numbers and a JSON.

   The reader looks for names in the header, which is enough for the files of a kit. Nothing is
   freed, since the program ends soon. */
#ifndef TENSORS_H
#define TENSORS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME 256

typedef struct {
  int rank;
  size_t shape[4], size;
  float *data;
} Tensor;

static void stop(const char *what, const char *name) {
  fprintf(stderr, "%s: %s\n", what, name);
  exit(1);
}

static Tensor new_tensor(int rank, size_t a, size_t b, size_t c, size_t d) {
  Tensor t = {rank, {a, b, c, d}, 1, NULL};
  for (int i = 0; i < rank; i++) t.size *= t.shape[i];
  t.data = calloc(t.size, sizeof *t.data);
  if (!t.data) stop("no memory", "tensor");
  return t;
}

static Tensor like(Tensor x) {
  return new_tensor(x.rank, x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
}

/* -- safetensors: 8 bytes with the length of a JSON header, the header, the values ------------- */

typedef struct {
  char *header;
  const unsigned char *values;
} Store;

static Store open_store(const char *folder, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  if (!file) stop("cannot read", path);
  fseek(file, 0, SEEK_END);
  size_t size = (size_t)ftell(file);
  rewind(file);
  unsigned char *bytes = malloc(size + 1);
  if (!bytes || fread(bytes, 1, size, file) != size) stop("cannot read", path);
  fclose(file);
  uint64_t length = 0;
  for (int i = 0; i < 8 && size >= 8; i++) length |= (uint64_t)bytes[i] << (8 * i);
  if (size < 8 || length > size - 8) stop("no safetensors file", path);
  Store store = {malloc(length + 1), bytes + 8 + length};
  if (!store.header) stop("no memory", path);
  memcpy(store.header, bytes + 8, length);
  store.header[length] = 0;
  return store;
}

/* Find "NAME":{"dtype":"F32","shape":[2,64],"data_offsets":[0,512]}; F64 and I64 become float. */
static Tensor get(Store store, const char *name) {
  char key[NAME + 8];
  snprintf(key, sizeof key, "\"%s\":{", name);
  const char *entry = strstr(store.header, key);
  if (!entry) stop("no tensor", name);
  const char *dtype = strstr(entry, "\"dtype\":\"") + 9;
  const char *shape = strstr(entry, "\"shape\":[") + 9;
  const char *offsets = strstr(entry, "\"data_offsets\":[") + 16;
  size_t n[4] = {1, 1, 1, 1};
  int rank = 0;
  for (char *end; *shape != ']' && rank < 4; shape = *end == ',' ? end + 1 : end)
    n[rank++] = strtoull(shape, &end, 10);
  Tensor t = new_tensor(rank, n[0], n[1], n[2], n[3]);
  const unsigned char *from = store.values + strtoull(offsets, NULL, 10);
  for (size_t i = 0; i < t.size; i++) {
    double wide;
    int64_t integer;
    if (!strncmp(dtype, "F32", 3)) {
      memcpy(&t.data[i], from + 4 * i, 4);
    } else if (!strncmp(dtype, "F64", 3)) {
      memcpy(&wide, from + 8 * i, 8);
      t.data[i] = (float)wide;
    } else if (!strncmp(dtype, "I64", 3)) {
      memcpy(&integer, from + 8 * i, 8);
      t.data[i] = (float)integer;
    } else {
      stop("neither F32 nor F64 nor I64", name);
    }
  }
  return t;
}

/* -- the dump: {"CALL/LAYER/ROLE": {"file", "shape", "dtype", "offset"}} ----------------------- */

typedef struct {
  FILE *names, *values;
  const char *file;
  long offset;
} Dump;

static void put(Dump *dump, const char *layer, const char *role, Tensor t) {
  fprintf(dump->names, "%s\"%s/%s\": {\"file\": \"%s\", \"dtype\": \"float32\", \"offset\": %ld, ",
          dump->offset ? ",\n " : "{", layer, role, dump->file, dump->offset);
  fprintf(dump->names, "\"shape\": [");
  for (int i = 0; i < t.rank; i++) fprintf(dump->names, "%s%zu", i ? ", " : "", t.shape[i]);
  fprintf(dump->names, "]}");
  fwrite(t.data, sizeof *t.data, t.size, dump->values);
  dump->offset += (long)(t.size * sizeof *t.data);
}

#endif
