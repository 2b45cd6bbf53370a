#include "measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "rails.h"
#include "tiles.h"

#define MOST_CV 0.2    /* as board/protocol.py has them */
#define MOST_DRIFT 0.1

double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static char *frame_path;

const char *temporary_folder(void) {
  const char *named = getenv("TMPDIR");
  if (named && *named) return named;
  return access("/tmp", W_OK) ? "/data/local/tmp" : "/tmp"; /* Android has no /tmp */
}

void forget_frame(void) {
  if (frame_path) unlink(frame_path);
}

static int ascending(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static double percentile(const double *sorted, long count, double share) {
  double place = share * (double)(count - 1);
  long below = (long)place, above = below + 1 < count ? below + 1 : below;
  return sorted[below] + (place - (double)below) * (sorted[above] - sorted[below]);
}

static double median(const double *times, long count) {
  double *sorted = aligned((size_t)count * sizeof *sorted);
  memcpy(sorted, times, (size_t)count * sizeof *sorted);
  qsort(sorted, (size_t)count, sizeof *sorted, ascending);
  double found = percentile(sorted, count, 0.5);
  free(sorted);
  return found;
}

static void statistics(Times *t) {
  double *sorted = aligned((size_t)t->count * sizeof *sorted), sum = 0;
  memcpy(sorted, t->all, (size_t)t->count * sizeof *sorted);
  qsort(sorted, (size_t)t->count, sizeof *sorted, ascending);
  t->p50 = percentile(sorted, t->count, 0.5);
  t->p90 = percentile(sorted, t->count, 0.9);
  t->p99 = percentile(sorted, t->count, 0.99);
  for (long k = 0; k < t->count; k++) {
    sum += t->all[k];
    sorted[k] = fabs(t->all[k] - t->p50);
  }
  t->mean = sum / (double)t->count;
  t->cv = 1.4826 * median(sorted, t->count) / t->p50;
  long third = t->count / 3;
  t->drift = third >= 3 ? median(t->all + t->count - third, third) / median(t->all, third) - 1 : 0;
  free(sorted);
}

typedef void (*Once)(Bundle *bundle, const Measured *measured);

static void run_kernel(Bundle *bundle, const Measured *measured) {
  (void)measured;
  model_run(bundle->model, bundle->input);
}

static void run_frame(Bundle *bundle, const Measured *measured) {
  (void)measured;
  Image image = read_ppm(frame_path);
  Overlap overlap = {
      (int)json_number(json_get(bundle->artifact, "halo"), 0),
      (int)json_number(json_get(bundle->artifact, "blend"), 0),
      (int)json_number(json_get(json_get(bundle->bundle, "network"), "size_multiple"), 1),
  };
  Image out = restore(bundle->model, &image, overlap, NULL);
  free(image.pixels);
  free(out.pixels);
}

/* Until both the least time and the least count are reached. */
static Times repeat(Bundle *bundle, const Measured *measured, Once once, double seconds, long least) {
  Times times = {0};
  long room = 0;
  for (double start = now_ms(); times.count < least || now_ms() - start < seconds * 1e3; times.count++) {
    if (times.count == room && !(times.all = realloc(times.all, (size_t)(room = room * 2 + 64) * sizeof *times.all))) fail("no memory");
    double begin = now_ms();
    once(bundle, measured);
    times.all[times.count] = now_ms() - begin;
  }
  statistics(&times);
  return times;
}

static int mirrored(int index, int size) {
  int period = size > 1 ? 2 * (size - 1) : 1, folded = index % period;
  return folded < size ? folded : period - folded;
}

/* The golden input, mirrored as often as the target's frame needs, as a camera gives it: raw pixels. */
static void write_frame(const Bundle *bundle, const Measured *m) {
  size_t plane = (size_t)m->height * (size_t)m->width;
  Image image = {m->frame_width, m->frame_height, aligned((size_t)m->frame_width * (size_t)m->frame_height * 3)};
  for (int y = 0; y < image.height; y++) {
    for (int x = 0; x < image.width; x++) {
      size_t from = (size_t)mirrored(y, m->height) * (size_t)m->width + (size_t)mirrored(x, m->width);
      unsigned char *to = image.pixels + 3 * ((size_t)y * (size_t)image.width + (size_t)x);
      for (size_t c = 0; c < 3; c++) to[c] = (unsigned char)lrintf(bundle->input[plane * c + from] * 255.0f);
    }
  }
  frame_path = written("%s/deblur-frame.%d.ppm", temporary_folder(), (int)getpid());
  write_ppm(frame_path, &image);
  free(image.pixels);
}

static double peak_mb(void) {
  char *status = read_text("proc/self/status"), *said = strstr(status, "VmHWM:");
  struct rusage usage;
  double kib = said ? strtod(said + 6, NULL) : 0;
  if (kib <= 0 && !getrusage(RUSAGE_SELF, &usage)) kib = (double)usage.ru_maxrss;
  free(status);
  return kib * 1024 / 1e6;
}

static void because(Measured *m, char *reason) {
  m->why = m->reasons++ ? written("%s; %s", m->why, reason) : reason;
}

static void judge(Measured *m, const Times *times, const char *what) {
  if (!(times->cv <= MOST_CV))
    because(m, written("%s times spread by %.0f%% of their median (at most %.0f%%): close other programs, lock the clocks", what, times->cv * 100, MOST_CV * 100));
  if (!(fabs(times->drift) <= MOST_DRIFT))
    because(m, written("%s times %s by %.0f%% during the run (at most %.0f%%): cool the board, warm up longer", what,
                       times->drift > 0 ? "rose" : "fell", fabs(times->drift) * 100, MOST_DRIFT * 100));
}

void measure(Bundle *bundle, const Asked *asked, Measured *m) {
  Json frame = json_get(bundle->bundle, "frame");
  memset(m, 0, sizeof *m);
  m->bundle = bundle, m->asked = *asked, m->why = "";
  m->height = model_height(bundle->model), m->width = model_width(bundle->model);
  m->frame_height = (int)json_number(json_get(frame, "height"), m->height), m->frame_width = (int)json_number(json_get(frame, "width"), m->width);
  Times warm = repeat(bundle, m, run_kernel, asked->warmup, 3);
  free(warm.all);
  read_state(&m->before);
  rails_start();
  m->kernel = repeat(bundle, m, run_kernel, asked->seconds, asked->count);
  write_frame(bundle, m);
  run_frame(bundle, m);
  rails_mark();
  m->frame = repeat(bundle, m, run_frame, asked->seconds, asked->frames);
  rails_stop();
  forget_frame();
  read_state(&m->after);
  m->peak_mb = peak_mb();
  judge(m, &m->kernel, "kernel");
  judge(m, &m->frame, "frame");
  m->held_back = throttling(&m->before, &m->after, m->held);
  for (int k = 0; k < m->held_back; k++) because(m, written("throttled: %s", m->held[k]));
}

static void out_times(Out *out, const char *key, const Times *times) {
  out_open(out, key, '{');
  out_number(out, "p50_ms", times->p50);
  out_number(out, "p90_ms", times->p90);
  out_number(out, "p99_ms", times->p99);
  out_number(out, "mean_ms", times->mean);
  out_number(out, "cv", times->cv);
  out_number(out, "drift", times->drift);
  out_number(out, "count", (double)times->count);
  out_open(out, "times_ms", '[');
  for (long k = 0; k < times->count; k++) out_number(out, NULL, round(times->all[k] * 1e4) / 1e4);
  out_close(out, ']');
  out_close(out, '}');
}

static void out_pair(Out *out, const char *key, int height, int width) {
  out_open(out, key, '[');
  out_number(out, NULL, height);
  out_number(out, NULL, width);
  out_close(out, ']');
}

static void out_protocol(Out *out, const Measured *m) {
  out_open(out, "protocol", '{');
  out_number(out, "warmup_s", m->asked.warmup);
  out_number(out, "min_seconds", m->asked.seconds);
  out_number(out, "min_count", (double)m->asked.count);
  out_number(out, "min_frames", (double)m->asked.frames);
  out_number(out, "threads", m->bundle->threads);
  out_word(out, "set_clocks", "false");
  out_pair(out, "input", m->height, m->width);
  out_pair(out, "frame", m->frame_height, m->frame_width);
  out_pair(out, "tile", m->height, m->width);
  out_number(out, "halo", json_number(json_get(m->bundle->artifact, "halo"), 0));
  out_number(out, "blend", json_number(json_get(m->bundle->artifact, "blend"), 0));
  out_text(out, "decoder", "ppm");
  out_close(out, '}');
}

void out_measured(Out *out, const Measured *m) {
  out_protocol(out, m);
  out_times(out, "kernel", &m->kernel);
  out_times(out, "frame", &m->frame);
  out_word(out, "layers", "null"); /* the library does not tell them apart */
  out_open(out, "samples", '{');
  out_temperatures(out, "temperatures_before", &m->before);
  out_temperatures(out, "temperatures_after", &m->after);
  out_clocks(out, "clocks_before", &m->before);
  out_clocks(out, "clocks_after", &m->after);
  out_open(out, "throttled", '[');
  for (int k = 0; k < m->held_back; k++) out_text(out, NULL, m->held[k]);
  out_close(out, ']');
  out_rails(out, m->frame.mean);
  out_number(out, "peak_rss_mb", round(m->peak_mb * 10) / 10);
  out_close(out, '}');
  out_word(out, "stable", m->reasons ? "false" : "true");
  out_text(out, "unstable_reason", m->why);
}
