/* What compiled kernels need of TVM's runtime: threads, scratch memory and a place for an error. */
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm.h"

#define ALIGNMENT 64
#define SPINS 4000 /* the next kernel usually follows at once: sleeping in between would cost more than it */

static struct {
  pthread_mutex_t lock;
  pthread_cond_t go;
  atomic_uint round;
  atomic_int left, failed;
  ParallelLambda lambda;
  void *data;
  int tasks, threads;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .go = PTHREAD_COND_INITIALIZER, .threads = 1};

static char error_text[400];

void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "error: ");
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  exit(2);
}

void *aligned(size_t bytes) {
  void *pointer = NULL;
  if (posix_memalign(&pointer, ALIGNMENT, bytes ? bytes : 1)) fail("no memory for %zu bytes", bytes);
  return pointer;
}

static void run_task(int task) {
  ParallelEnv env = {NULL, pool.tasks};
  if (pool.lambda(task, &env, pool.data)) atomic_store(&pool.failed, 1);
}

static unsigned wait_for_work(unsigned seen) {
  for (int k = 0; k < SPINS; k++) {
    unsigned now = atomic_load(&pool.round);
    if (now != seen) return now;
  }
  pthread_mutex_lock(&pool.lock);
  while (atomic_load(&pool.round) == seen) pthread_cond_wait(&pool.go, &pool.lock);
  pthread_mutex_unlock(&pool.lock);
  return atomic_load(&pool.round);
}

static void *worker(void *argument) {
  int task = (int)(long)argument;
  for (unsigned seen = 0;;) {
    seen = wait_for_work(seen);
    if (task < pool.tasks) run_task(task);
    atomic_fetch_sub(&pool.left, 1);
  }
  return NULL;
}

void pool_start(int threads) {
  for (int k = 1; k < threads; k++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, worker, (void *)(long)k)) fail("cannot start thread %d of %d", k + 1, threads);
  }
  pool.threads = threads;
}

int TVMBackendParallelLaunch(ParallelLambda lambda, void *data, int tasks) {
  pool.lambda = lambda;
  pool.data = data;
  pool.tasks = tasks > 0 && tasks < pool.threads ? tasks : pool.threads;
  atomic_store(&pool.failed, 0);
  atomic_store(&pool.left, pool.threads - 1);
  if (pool.threads > 1) {
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.round, 1);
    pthread_cond_broadcast(&pool.go);
    pthread_mutex_unlock(&pool.lock);
  }
  run_task(0);
  for (int k = 0; atomic_load(&pool.left); k++) {
    if (k > SPINS) sched_yield();
  }
  return atomic_load(&pool.failed) ? -1 : 0;
}

void *TVMBackendAllocWorkspace(int device_type, int device_id, unsigned long bytes, int code, int bits) {
  (void)device_type, (void)device_id, (void)code, (void)bits;
  return aligned(bytes);
}

int TVMBackendFreeWorkspace(int device_type, int device_id, void *pointer) {
  (void)device_type, (void)device_id;
  free(pointer);
  return 0;
}

void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) {
  snprintf(error_text, sizeof error_text, "%s: %s", kind, message);
}

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count) {
  snprintf(error_text, sizeof error_text, "%s: ", kind);
  for (int k = 0; k < count; k++) {
    if (parts[k]) strncat(error_text, parts[k], sizeof error_text - strlen(error_text) - 1);
  }
}

const char *last_error(void) { return error_text; }
