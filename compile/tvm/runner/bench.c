/* Proves and times the bundle's artifact as its bench.py does, and writes the same result.json (schema 2). */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "bundle.h"
#include "digest.h"
#include "measure.h"

typedef struct {
  int verify, force;
  Asked asked;
  double wait;
  const char *artifact, *out;
} Options;

static double number_of(const char *name, const char *word, double least) {
  char *end = NULL;
  double value = word ? strtod(word, &end) : NAN;
  if (!word || end == word || *end || !(value >= least) || value > 1e6) fail("%s is %s: give a number from %g on", name, word ? word : "missing", least);
  return value;
}

static const char *word_of(const char *name, const char *word) {
  if (!word) fail("%s needs a value", name);
  return word;
}

static void parse_one(Options *options, const char *name, const char *word) {
  Asked *asked = &options->asked;
  if (!strcmp(name, "--artifact")) options->artifact = word_of(name, word);
  else if (!strcmp(name, "--out") || !strcmp(name, "--output")) options->out = word_of(name, word);
  else if (!strcmp(name, "--root")) root = word_of(name, word);
  else if (!strcmp(name, "--seconds")) asked->seconds = number_of(name, word, 0);
  else if (!strcmp(name, "--warmup")) asked->warmup = number_of(name, word, 0);
  else if (!strcmp(name, "--wait")) options->wait = number_of(name, word, 0);
  else if (!strcmp(name, "--count")) asked->count = (long)number_of(name, word, 1);
  else if (!strcmp(name, "--frames")) asked->frames = (long)number_of(name, word, 1);
  else if (!strcmp(name, "--threads")) asked->threads = (int)number_of(name, word, 0);
  else if (!strcmp(name, "--set-clocks") || !strcmp(name, "--power-mode")) fail("%s: this program sets nothing; python3 bench.py does", name);
  else fail("unknown option '%s': deblur-runner without options lists them", name);
}

static Options parse(int count, char **words) {
  Options options = {.artifact = "", .out = NULL, .wait = 3600, .asked = {.seconds = 10, .warmup = 2, .count = 50, .frames = 5, .threads = -1}};
  for (int k = 1; k < count; k++) {
    if (!strcmp(words[k], "--verify")) options.verify = 1;
    else if (!strcmp(words[k], "--force-board")) options.force = 1;
    else if (strcmp(words[k], "--bench")) parse_one(&options, words[k], k + 1 < count ? words[k + 1] : NULL), k++;
  }
  if (options.asked.threads > 256) fail("--threads is %d: give 1 to 256, or 0 for all cores", options.asked.threads);
  return options;
}

/* One benchmark at a time on a board: holds the file that bench.py holds. The lock goes with the process. */
static void stand_in_line(double seconds) {
  char *path = written("%s/deblur-bench.lock", temporary_folder());
  int file = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0644), said = 0;
  if (file < 0) fail("%s cannot be made (%s): set TMPDIR to a folder that can be written", path, strerror(errno));
  for (double start = now_ms(); flock(file, LOCK_EX | LOCK_NB); usleep(100000)) {
    if (!said++) fprintf(stderr, "another benchmark runs on this board: waiting\n");
    if (now_ms() - start > seconds * 1e3) fail("another benchmark has held this board for %g s: try later, or give --wait", seconds);
  }
  free(path);
}

static void out_from(Out *out, const char *key, Json object, const char *name) { out_text(out, key, json_text(json_get(object, name))); }

static void out_head(Out *out, Bundle *bundle, const Measured *measured, const char *started, double begun) {
  char hash[65];
  if (sha256_file(bundle_path(bundle, "MANIFEST.sha256"), hash)) fail("MANIFEST.sha256 is missing: copy the bundle again");
  out_number(out, "schema", 2);
  out_text(out, "bundle_sha256", hash);
  out_from(out, "target", bundle->bundle, "target");
  out_text(out, "artifact", bundle->name);
  out_from(out, "artifact_sha256", bundle->artifact, "sha256");
  out_from(out, "precision", bundle->artifact, "precision");
  out_word(out, "verified", "true");
  out_open(out, "golden", '{');
  out_number(out, "psnr", bundle->psnr);
  out_word(out, "identical", bundle->psnr == INFINITY ? "true" : "false");
  out_number(out, "bound", bundle->bound);
  out_close(out, '}');
  out_open(out, "device", '{');
  out_facts(out, &bundle->facts);
  out_text(out, "board", bundle->board);
  out_text(out, "runtime", "native runner");
  out_power_mode(out, "power_mode");
  out_clocks(out, "clocks", &measured->before);
  out_close(out, '}');
  out_text(out, "started", started);
  out_number(out, "seconds", round(now_ms() - begun) / 1e3);
}

static void write_result(const char *path, Bundle *bundle, const Measured *measured, const char *started, double begun) {
  char *half = written("%s.%d.tmp", path, (int)getpid());
  Out out = {fopen(half, "w"), 1};
  if (!out.file) fail("%s cannot be written (%s): free some space, or name another file", path, strerror(errno));
  out_open(&out, NULL, '{');
  out_head(&out, bundle, measured, started, begun);
  out_measured(&out, measured);
  out_close(&out, '}');
  putc('\n', out.file);
  int bad = ferror(out.file) || fflush(out.file) || fsync(fileno(out.file));
  if (fclose(out.file) || bad || rename(half, path)) {
    int why = errno;
    unlink(half);
    fail("%s cannot be written (%s): free some space, or name another file", path, strerror(why));
  }
  free(half);
}

static void show(const char *name, const Times *times) {
  printf("%s p50 %.2f ms, p90 %.2f, p99 %.2f, cv %.3f, %ld runs", name, times->p50, times->p90, times->p99, times->cv, times->count);
}

static void stop(int number) {
  forget_frame();
  _exit(128 + number);
}

int bench(int count, char **words) {
  Options options = parse(count, words);
  Bundle *bundle = aligned(sizeof *bundle);
  Measured *measured = aligned(sizeof *measured);
  if (options.verify) {
    fail_as(*options.artifact ? options.artifact : "this bundle");
    bundle_open(bundle, options.artifact, options.asked.threads, options.force);
    return !bundle_verify(bundle);
  }
  stand_in_line(options.wait);
  signal(SIGTERM, stop), signal(SIGHUP, stop), signal(SIGINT, stop);
  bundle_open(bundle, options.artifact, options.asked.threads, options.force);
  if (!bundle_verify(bundle)) return 1;
  char started[32];
  time_t now = time(NULL);
  double begun = now_ms();
  strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
  measure(bundle, &options.asked, measured);
  const char *path = options.out ? options.out : bundle_path(bundle, "result.json");
  write_result(path, bundle, measured, started, begun);
  printf("%s: ", path);
  show("kernel", &measured->kernel);
  show("; frame", &measured->frame);
  printf("\n");
  if (!measured->reasons) return 0;
  fprintf(stderr, "unstable: %s\n", measured->why);
  return 3;
}
