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
#define STACK (8u << 20) /* kernels keep tiles on the stack, as on the main thread */
#define PIECES 64
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
static const char *failing; /* what a failure is the answer about, NULL: it is an error */

void fail_as(const char *what) { failing = what; }

void fail(const char *format, ...) {
  FILE *file = failing ? stdout : stderr;
  va_list arguments;
  va_start(arguments, format);
  fprintf(file, failing ? "FAIL %s: " : "error: ", failing);
  vfprintf(file, format, arguments);
  fprintf(file, "\n");
  va_end(arguments);
  exit(failing ? 1 : 2);
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
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK);
  for (int k = 1; k < threads; k++) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, worker, (void *)(long)k)) fail("cannot start thread %d of %d", k + 1, threads);
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

/* Scratch memory is kept for the next run: a fresh piece costs the kernel's zeroing of every page, each time. */
static struct {
  pthread_mutex_t lock;
  struct {
    void *pointer;
    size_t bytes;
    int used;
  } piece[PIECES];
} scratch = {.lock = PTHREAD_MUTEX_INITIALIZER};

void *TVMBackendAllocWorkspace(int device_type, int device_id, unsigned long bytes, int code, int bits) {
  (void)device_type, (void)device_id, (void)code, (void)bits;
  int fits = -1, room = -1;
  pthread_mutex_lock(&scratch.lock);
  for (int k = 0; k < PIECES; k++) {
    if (scratch.piece[k].used) continue;
    if (!scratch.piece[k].pointer || scratch.piece[k].bytes < bytes) room = k;
    else if (fits < 0 || scratch.piece[k].bytes < scratch.piece[fits].bytes) fits = k;
  }
  void *found = NULL;
  if (fits < 0 && room >= 0) {
    free(scratch.piece[room].pointer);
    scratch.piece[room].pointer = aligned(bytes);
    scratch.piece[room].bytes = bytes;
    fits = room;
  }
  if (fits >= 0) {
    scratch.piece[fits].used = 1;
    found = scratch.piece[fits].pointer;
  }
  pthread_mutex_unlock(&scratch.lock);
  return found ? found : aligned(bytes);
}

int TVMBackendFreeWorkspace(int device_type, int device_id, void *pointer) {
  (void)device_type, (void)device_id;
  int kept = 0;
  pthread_mutex_lock(&scratch.lock);
  for (int k = 0; k < PIECES; k++) {
    if (!pointer || scratch.piece[k].pointer != pointer) continue;
    scratch.piece[k].used = 0;
    kept = 1;
  }
  pthread_mutex_unlock(&scratch.lock);
  if (!kept) free(pointer);
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
