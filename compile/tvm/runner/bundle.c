#include "bundle.h"

#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "digest.h"
#include "files.h"

char *bundle_path(const Bundle *bundle, const char *relative) { return written("%s/%s", bundle->folder, relative); }

static char *text_in(Json object, const char *key) { return json_text(json_get(object, key)); }

/* The program is runner/<machine>/<name> of its bundle. */
static char *own_folder(void) {
  char path[4096];
  ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length < 0) fail("/proc/self/exe cannot be read");
  path[length] = 0;
  for (int k = 0; k < 3; k++) {
    char *slash = strrchr(path, '/');
    if (slash) *slash = 0;
  }
  return written("%s", path);
}

static char *content(const char *path) {
  char *kept = written("%s", root);
  root = "";
  char *text = read_text("%s", path + 1);
  root = kept;
  return text;
}

static int check_manifest(const Bundle *bundle) {
  char *text = content(bundle_path(bundle, "MANIFEST.sha256")), hex[65];
  int count = 0;
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), count++) {
    if (strlen(line) < 67) fail("MANIFEST.sha256 is damaged: copy the bundle again");
    char *path = bundle_path(bundle, line + 66);
    if (sha256_file(path, hex)) fail("%s is missing: copy the bundle again", line + 66);
    if (memcmp(line, hex, 64)) fail("%s differs from MANIFEST.sha256: copy the bundle again", line + 66);
    free(path);
  }
  if (!count) fail("MANIFEST.sha256 is missing or empty: copy the bundle again");
  free(text);
  return count;
}

/* Why this program cannot run an artifact, NULL when it can. */
static char *obstacle(Json artifact) {
  struct utsname here;
  char *runner = text_in(artifact, "runner"), *triple = text_in(json_get(artifact, "facts"), "mtriple");
  size_t length = strcspn(triple, "-");
  if (!*runner) return written("it runs in %s, from Python: python3 bench.py", text_in(artifact, "backend"));
  if (uname(&here) || strlen(here.machine) != length || memcmp(here.machine, triple, length)) return written("it is built for %.*s", (int)length, triple);
  return NULL;
}

static Json pick(const Bundle *bundle, const char *name) {
  Json all = json_get(bundle->bundle, "artifacts"), found = NULL;
  const char *wanted = *name ? name : text_in(bundle->bundle, "chosen");
  for (Json a = json_next(all, NULL); a; a = json_next(all, a)) {
    if (!strcmp(text_in(a, "name"), wanted)) found = a;
  }
  if (!found) fail("no artifact '%s' in this bundle", wanted);
  char *why = obstacle(found);
  if (why && *name) fail("%s cannot be run by this program: %s", wanted, why);
  for (Json a = json_next(all, NULL); why && a; a = json_next(all, a)) {
    if (obstacle(a)) continue;
    fprintf(stderr, "skipped %s: %s; taking %s\n", wanted, why, text_in(a, "name"));
    return a;
  }
  if (why) fail("%s cannot be run by this program: %s; nor can anything else in this bundle", wanted, why);
  return found;
}

static char *unlike(const char *name, const char *pattern, const char *have) {
  regex_t wanted;
  if (!*pattern) return NULL;
  if (regcomp(&wanted, pattern, REG_EXTENDED | REG_NOSUB)) fail("bundle.json recognises a board by '%s', which is no regular expression", pattern);
  int same = !regexec(&wanted, have, 0, NULL, 0);
  regfree(&wanted);
  return same ? NULL : written("its %s is '%s', not like '%s'", name, *have ? have : "unknown", pattern);
}

static char *lacking(Json wanted, const Facts *facts) {
  char *missing = NULL;
  for (Json flag = json_next(wanted, NULL); flag; flag = json_next(wanted, flag)) {
    char *name = json_text(flag);
    int has = 0;
    for (int k = 0; k < facts->features; k++) has |= !strcmp(facts->feature[k], name);
    if (!has) missing = missing ? written("%s, %s", missing, name) : written("its CPU lacks %s", name);
  }
  return missing;
}

static char *joined(char *all, char *more) { return !more ? all : !all ? more : written("%s; %s", all, more); }

/* What of this board is not as the target is recognised, NULL when it is that board. The GPU is not asked: this program uses none. */
static char *mismatch(Json recognise, const Facts *facts, int *asked) {
  char *wrong = NULL, *key = NULL, *property = NULL;
  for (Json want = json_next_pair(recognise, NULL, &key); want; want = json_next_pair(recognise, want, &key)) {
    if (!strcmp(key, "cuda")) continue;
    if (*want == '[') {
      wrong = joined(wrong, lacking(want, facts));
      *asked |= json_next(want, NULL) != NULL;
    } else if (*want == '{') {
      for (Json one = json_next_pair(want, NULL, &property); one; one = json_next_pair(want, one, &property), *asked = 1)
        wrong = joined(wrong, unlike(property, json_text(one), answer("getprop", property, NULL)));
    } else if (*json_text(want)) {
      wrong = joined(wrong, unlike(key, json_text(want), fact(facts, key)));
      *asked = 1;
    }
  }
  return wrong;
}

static char *check_board(const Bundle *bundle, int force) {
  int asked = 0;
  char *wrong = mismatch(json_get(bundle->bundle, "recognise"), &bundle->facts, &asked);
  if (!asked || !strcmp(text_in(bundle->artifact, "role"), "host")) return "unknown";
  if (wrong && !force)
    fail("this bundle is for %s (%s), and this is another board: %s; make a bundle for this one, or give --force-board",
         text_in(bundle->bundle, "title"), text_in(bundle->bundle, "target"), wrong);
  return wrong ? "forced" : "recognised";
}

static float *golden(const Bundle *bundle, const char *which) {
  char *name = text_in(json_get(bundle->artifact, "golden"), which);
  if (strlen(name) > 3 && !strcmp(name + strlen(name) - 3, ".xz")) fail("%s is packed, which only Python unpacks: python3 bench.py", name);
  return read_npy(bundle_path(bundle, name), bundle->values);
}

void bundle_open(Bundle *bundle, const char *name, int threads, int force) {
  memset(bundle, 0, sizeof *bundle);
  bundle->folder = own_folder();
  bundle->files = check_manifest(bundle);
  bundle->bundle = json_read(content(bundle_path(bundle, "bundle.json")), "bundle.json");
  bundle->artifact = pick(bundle, name);
  bundle->name = text_in(bundle->artifact, "name");
  read_facts(&bundle->facts);
  bundle->board = check_board(bundle, force);
  bundle->threads = threads >= 0 ? threads : (int)json_number(json_get(json_get(bundle->artifact, "facts"), "threads"), 1);
  bundle->model = model_open(bundle_path(bundle, text_in(bundle->artifact, "path")));
  bundle->values = (size_t)3 * (size_t)model_height(bundle->model) * (size_t)model_width(bundle->model);
  pool_start(bundle->threads ? bundle->threads : (int)sysconf(_SC_NPROCESSORS_ONLN));
  bundle->input = golden(bundle, "input");
  bundle->bound = json_number(json_get(json_get(bundle->artifact, "golden"), "psnr_at_least"), INFINITY);
  bundle->psnr = NAN;
}

double psnr_of(const float *got, const float *want, size_t count) {
  double sum = 0;
  for (size_t k = 0; k < count; k++) sum += ((double)got[k] - want[k]) * ((double)got[k] - want[k]);
  return sum == 0 ? INFINITY : -10 * log10(sum / (double)count);
}

int bundle_verify(Bundle *bundle) {
  float *want = golden(bundle, "expected");
  bundle->psnr = psnr_of(model_run(bundle->model, bundle->input), want, bundle->values);
  free(want);
  int good = bundle->psnr >= bundle->bound; /* NaN fails */
  printf("%s %s: %d files as in the manifest, output %.1f dB from the golden one (at least %g)\n", good ? "PASS" : "FAIL", bundle->name,
         bundle->files, bundle->psnr, bundle->bound);
  fflush(stdout);
  return good;
}
