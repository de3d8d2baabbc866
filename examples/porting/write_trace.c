/* Writes a trace of two small computations, for ldmref trace show and ldmref diff.
 *
 *   cc -O2 -o write_trace write_trace.c -lm && ./write_trace port
 *
 * A trace is a folder of safetensors files: 8 bytes of header length (little-endian), a JSON header
 * with type, shape and bytes of each tensor, and the bytes. The names of the tensors say it all.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MOST 16

typedef struct {
    const char *name, *shape; /* "unet.000/time_embedding.silu/input", "2,64" */
    const float *values;
    size_t count;
} Tensor;

static int write_tensors(const char *path, const Tensor *tensors, int n) {
    char header[4096];
    size_t end = 0;
    int length = sprintf(header, "{");
    for (int i = 0; i < n; i++) {
        size_t begin = end;
        end += tensors[i].count * sizeof(float);
        length += sprintf(header + length,
                          "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                          i ? "," : "", tensors[i].name, tensors[i].shape, begin, end);
    }
    length += sprintf(header + length, "}");
    while (length % 8) header[length++] = ' '; /* aligns the values */
    FILE *file = fopen(path, "wb");
    if (!file) return perror(path), 1;
    for (int i = 0; i < 8; i++) fputc((int)((uint64_t)length >> 8 * i & 255), file);
    fwrite(header, 1, (size_t)length, file);
    for (int i = 0; i < n; i++) fwrite(tensors[i].values, sizeof(float), tensors[i].count, file);
    return fclose(file);
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "port";
    float x[MOST], silu[MOST], uncond[MOST], cond[MOST], guided[MOST], scale = 7.5f;
    for (int i = 0; i < MOST; i++) {
        x[i] = 0.5f * (float)(i - 8);
        silu[i] = x[i] / (1.0f + expf(-x[i])); /* x sigmoid(x) */
        uncond[i] = sinf(x[i]);
        cond[i] = cosf(x[i]);
        guided[i] = uncond[i] + scale * (cond[i] - uncond[i]);
    }
    const Tensor layer[] = {{"unet.000/time_embedding.silu/input", "2,8", x, MOST},
                            {"unet.000/time_embedding.silu/output", "2,8", silu, MOST}};
    const Tensor guidance[] = {{"guidance.000//input.uncond", "1,1,4,4", uncond, MOST},
                               {"guidance.000//input.cond", "1,1,4,4", cond, MOST},
                               {"guidance.000//input.scale", "", &scale, 1},
                               {"guidance.000//output", "1,1,4,4", guided, MOST}};
    char path[512];
    mkdir(folder, 0777);
    snprintf(path, sizeof path, "%s/unet.000.safetensors", folder);
    if (write_tensors(path, layer, 2)) return 1;
    snprintf(path, sizeof path, "%s/guidance.000.safetensors", folder);
    return write_tensors(path, guidance, 4);
}
