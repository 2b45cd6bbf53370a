/* Runs a network that TVM compiled, on a board that has neither TVM nor Python. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "bundle.h"
#include "measure.h"
#include "tiles.h"

static const char *usage =
    "usage: deblur-runner --verify [OPTIONS]    prove its bundle: hashes, board, golden output: PASS or FAIL, exit 0 or 1\n"
    "       deblur-runner --bench  [OPTIONS]    the same, then time it: result.json as bench.py writes it, exit 3 when unstable\n"
    "       options: --artifact NAME --seconds S --count N --frames N --warmup S --threads N --wait S --out FILE --force-board\n"
    "                --root DIR (folder that stands for / when the board is read)\n"
    "       deblur-runner verify  MODEL.so INPUT.npy EXPECTED.npy DECIBEL [THREADS]   PASS or FAIL, exit 0 or 1\n"
    "       deblur-runner time    MODEL.so SECONDS COUNT [THREADS]                    least time and least number of runs\n"
    "       deblur-runner restore MODEL.so IN.ppm OUT.ppm HALO BLEND MULTIPLE [THREADS]   halo, blend, size_multiple: see bundle.json\n"
    "       deblur-runner serve   MODEL.so [THREADS]                                  float32 images from stdin to stdout\n";

static Model *opened(int count, char **words, int threads_at) {
  Model *model = model_open(words[2]);
  long threads = count > threads_at ? strtol(words[threads_at], NULL, 10) : 1;
  if (threads == 0) threads = sysconf(_SC_NPROCESSORS_ONLN);
  if (threads < 1 || threads > 256) fail("THREADS is %s: give 1 to 256, or 0 for all cores", words[threads_at]);
  pool_start((int)threads);
  return model;
}

static size_t values_of(const Model *model) { return (size_t)3 * (size_t)model_height(model) * (size_t)model_width(model); }

static int verify(int count, char **words) {
  double least = strtod(words[5], NULL);
  Model *model = opened(count, words, 6);
  size_t values = values_of(model);
  const float *want = read_npy(words[4], values), *got = model_run(model, read_npy(words[3], values));
  double psnr = psnr_of(got, want, values);
  int good = psnr >= least; /* NaN fails */
  printf("%s %s: output %.1f dB from the golden one (at least %g)\n", good ? "PASS" : "FAIL", words[2], psnr, least);
  return !good;
}

static int ascending(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static int time_it(int count, char **words) {
  double least_ms = strtod(words[3], NULL) * 1e3, total = 0, *times = NULL;
  long least = strtol(words[4], NULL, 10), done = 0, room = 0;
  Model *model = opened(count, words, 5);
  float *input = calloc(values_of(model), sizeof *input);
  if (!input) fail("no memory");
  for (int k = 0; k < 3; k++) model_run(model, input);
  for (; done < 1 || done < least || total < least_ms; done++) {
    if (done == room && !(times = realloc(times, (size_t)(room = room * 2 + 64) * sizeof *times))) fail("no memory");
    double start = now_ms();
    model_run(model, input);
    total += times[done] = now_ms() - start;
  }
  qsort(times, (size_t)done, sizeof *times, ascending);
  printf("{\"count\": %ld, \"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"height\": %d, \"width\": %d}\n", done, times[done / 2],
         times[done * 9 / 10], times[done * 99 / 100], model_height(model), model_width(model));
  return 0;
}

static void progress(int done, int total) {
  if (isatty(2)) fprintf(stderr, "\rtile %d of %d%s", done, total, done == total ? "\n" : "");
}

static int restore_file(int count, char **words) {
  Overlap overlap = {atoi(words[5]), atoi(words[6]), atoi(words[7])};
  if (overlap.blend < 0) fail("BLEND is %s: give the artifact's blend from bundle.json", words[6]);
  if (overlap.multiple < 1) fail("MULTIPLE is %s: give the network's size_multiple from bundle.json", words[7]);
  Model *model = opened(count, words, 8);
  Image image = read_ppm(words[3]), out = restore(model, &image, overlap, progress);
  write_ppm(words[4], &out);
  return 0;
}

/* Answers "height width" in a line, then to each image: its time in ms as a double, and the result. */
static int serve(int count, char **words) {
  Model *model = opened(count, words, 3);
  size_t values = values_of(model);
  float *input = aligned(values * sizeof *input);
  printf("%d %d\n", model_height(model), model_width(model));
  fflush(stdout);
  while (fread(input, sizeof *input, values, stdin) == values) {
    double start = now_ms();
    const float *output = model_run(model, input);
    double ms = now_ms() - start;
    if (fwrite(&ms, sizeof ms, 1, stdout) != 1 || fwrite(output, sizeof *output, values, stdout) != values || fflush(stdout)) return 1;
  }
  return 0;
}

int main(int count, char **words) {
  const char *verb = count > 1 ? words[1] : "";
  if (!strcmp(verb, "--verify") || !strcmp(verb, "--bench")) return bench(count, words);
  if (!strcmp(verb, "verify") && count >= 6 && count <= 7) return verify(count, words);
  if (!strcmp(verb, "time") && count >= 5 && count <= 6) return time_it(count, words);
  if (!strcmp(verb, "restore") && count >= 8 && count <= 9) return restore_file(count, words);
  if (!strcmp(verb, "serve") && count >= 3 && count <= 4) return serve(count, words);
  fputs(usage, stderr);
  return 2;
}
