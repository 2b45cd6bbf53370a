/* What one kernel of TVM needs of its runtime, on one thread, and a main that calls it: main COUNT (FILE CODE BITS NDIM DIM...)... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef struct { int32_t type, padding; union { int64_t i; void *p; } v; } Any;
typedef struct { int32_t type, id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DType;
typedef struct { void *data; Device device; int32_t ndim; DType dtype; int64_t *shape, *strides; uint64_t offset; } Tensor;
typedef struct { void *sync; int32_t tasks; } Group;
typedef int (*Work)(int, Group *, void *);
static int launch(Work work, void *data, int tasks) {
  Group group = {0, 3};
  (void)tasks;
  for (int i = 0; i < group.tasks; i++) if (work(i, &group, data)) return -1;
  return 0;
}
int (*__TVMBackendParallelLaunch)(Work, void *, int) = launch;
static void *take(int type, int id, uint64_t size, int code, int bits) {
  (void)type; (void)id; (void)code; (void)bits;
  return aligned_alloc(64, (size + 63) / 64 * 64);
}
static int give(int type, int id, void *p) { (void)type; (void)id; free(p); return 0; }
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = take;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = give;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count) {
  for (int i = 0; i < count; i++) fputs(parts[i], stderr);
  fprintf(stderr, " (%s)\n", kind);
}
int __tvm_ffi_main(void *, const Any *, int, Any *);
/* main COUNT (FILE CODE BITS NDIM DIM...)...: calls the kernel and writes the last tensor back to its file */
int main(int argc, char **argv) {
  int repeat = atoi(argv[1]), n = 0;
  const char *last = 0;
  Any given[16];
  Tensor tensors[16];
  for (int i = 2; i < argc; n++) {
    Tensor *t = &tensors[n];
    last = argv[i];
    DType dtype = {(uint8_t)atoi(argv[i + 1]), (uint8_t)atoi(argv[i + 2]), 1};
    int64_t size = dtype.bits / 8;
    *t = (Tensor){0, {1, 0}, atoi(argv[i + 3]), dtype, malloc(8 * 8), 0, 0};
    for (int d = 0; d < t->ndim; d++) size *= t->shape[d] = atoll(argv[i + 4 + d]);
    t->data = aligned_alloc(64, (size + 63) / 64 * 64);
    FILE *f = fopen(last, "rb");
    if (!f || fread(t->data, 1, size, f) != (size_t)size) return 3;
    fclose(f);
    given[n] = (Any){7, 0, {.p = t}};
    i += 4 + t->ndim;
  }
  Any result = {0};
  for (int i = 0; i < repeat; i++) if (__tvm_ffi_main(0, given, n, &result)) return 4;
  int64_t size = tensors[n - 1].dtype.bits / 8;
  for (int d = 0; d < tensors[n - 1].ndim; d++) size *= tensors[n - 1].shape[d];
  FILE *f = fopen(last, "wb");
  return !f || fwrite(tensors[n - 1].data, 1, size, f) != (size_t)size || fclose(f);
}
