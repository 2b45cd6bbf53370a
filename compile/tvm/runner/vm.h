/* A network compiled by TVM for one image size, run without TVM: the shared library holds the kernels, their constants and a straight
 * list of calls (Relax VM bytecode, the format of TVM 0.26). Everything is allocated when the library is loaded. */
#ifndef DEBLUR_VM_H
#define DEBLUR_VM_H

#include <stddef.h>

typedef struct Model Model;

/* Loads a library; ends the process in words when it is not one that this runner can run. */
Model *model_open(const char *path);

int model_height(const Model *model);
int model_width(const Model *model);

/* Runs float32 [1, 3, height, width] to the same. The result is valid until the next call. */
const float *model_run(Model *model, const float *input);

/* Sets the number of CPU threads of every later run; call it once, before the first. */
void pool_start(int threads);

/* From now on a failure is the answer to a question about ``what``: "FAIL what: ..." on the standard output and status 1. */
void fail_as(const char *what);

/* Ends the process with "error: ..." and status 2. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

void *aligned(size_t bytes);

/* What the kernels of a compiled library call; the library finds them here. */
typedef struct {
  void *sync_handle;
  int num_task;
} ParallelEnv;
typedef int (*ParallelLambda)(int task, ParallelEnv *env, void *data);
int TVMBackendParallelLaunch(ParallelLambda lambda, void *data, int tasks);
void *TVMBackendAllocWorkspace(int device_type, int device_id, unsigned long bytes, int code, int bits);
int TVMBackendFreeWorkspace(int device_type, int device_id, void *pointer);
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count);
const char *last_error(void);

#endif
