#include "board.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm.h"

const char *root = "";

char *written(const char *format, ...) {
  va_list arguments;
  char *text = NULL;
  va_start(arguments, format);
  if (vasprintf(&text, format, arguments) < 0) fail("no memory");
  va_end(arguments);
  return text;
}

static char *all_of(FILE *file) {
  size_t length = 0, room = 4096, got;
  char *text = malloc(room);
  while (text && (got = fread(text + length, 1, room - length - 1, file)) > 0) {
    length += got;
    if (room - length < 2) text = realloc(text, room *= 2);
  }
  if (!text) fail("no memory");
  for (size_t k = 0; k < length; k++) text[k] = text[k] ? text[k] : ' ';
  while (length && isspace((unsigned char)text[length - 1])) length--;
  text[length] = 0;
  memmove(text, text + strspn(text, " \n"), length + 1 - strspn(text, " \n"));
  return text;
}

char *read_text(const char *format, ...) {
  va_list arguments;
  char path[600];
  size_t used = (size_t)snprintf(path, sizeof path, "%s/", root);
  va_start(arguments, format);
  if (used < sizeof path) vsnprintf(path + used, sizeof path - used, format, arguments);
  va_end(arguments);
  FILE *file = fopen(path, "rb");
  if (!file) return written("%s", "");
  char *text = all_of(file);
  fclose(file);
  return text;
}

char *answer(const char *program, const char *first, const char *second) {
  int ends[2], status = -1;
  fflush(NULL);
  if (pipe(ends)) fail("no pipe for %s", program);
  pid_t child = fork();
  if (child < 0) fail("no process for %s", program);
  if (!child) {
    int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, 0), dup2(ends[1], 1), dup2(nothing, 2);
    close(ends[0]), close(ends[1]);
    execlp(program, program, first, second, (char *)NULL);
    _exit(127);
  }
  close(ends[1]);
  FILE *file = fdopen(ends[0], "rb");
  if (!file) fail("no memory");
  char *text = all_of(file);
  fclose(file);
  waitpid(child, &status, 0);
  if (status) *text = 0;
  return text;
}

static void add(Facts *facts, const char *key, char *value) {
  if (*value && facts->count < MOST_ROWS) {
    facts->fact[facts->count++] = (Fact){written("%s", key), value};
  } else {
    free(value);
  }
}

const char *fact(const Facts *facts, const char *key) {
  const char *found = "";
  for (int k = 0; k < facts->count; k++) found = strcmp(facts->fact[k].key, key) ? found : facts->fact[k].value;
  return found;
}

/* The value of the first line "key : value" of /proc/cpuinfo. */
static char *cpu_row(const char *text, const char *key) {
  size_t length = strlen(key);
  for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
    const char *colon = strchr(line, ':');
    if (strncmp(line, key, length) || !colon || strspn(line + length, " \t") != (size_t)(colon - line) - length) continue;
    colon += 1 + strspn(colon + 1, " \t");
    return written("%.*s", (int)strcspn(colon, "\n"), colon);
  }
  return written("%s", "");
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void read_cpu(Facts *facts) {
  static const char *names[] = {"model name", "Hardware", "CPU part"};
  char *text = read_text("proc/cpuinfo"), *name = written("%s", ""), *arm = cpu_row(text, "Features"), *flags = *arm ? arm : cpu_row(text, "flags");
  for (int k = 0; k < 3 && !*name; k++) name = cpu_row(text, names[k]);
  add(facts, "cpu", name);
  for (char *word = strtok(flags, " "); word && facts->features < MOST_ROWS; word = strtok(NULL, " ")) {
    if (flags != arm && strncmp(word, "avx", 3) && strncmp(word, "sse4", 4) && strncmp(word, "amx", 3) && strncmp(word, "fma", 3)) continue;
    facts->feature[facts->features++] = word;
  }
  qsort(facts->feature, (size_t)facts->features, sizeof *facts->feature, by_name);
  free(text);
}

static void read_l4t(Facts *facts) {
  char *text = read_text("etc/nv_tegra_release"), major[8] = "", minor[24] = "";
  if (sscanf(text, "# R%7[0-9] (release), REVISION: %23[0-9.]", major, minor) == 2) add(facts, "l4t", written("R%s.%s", major, minor));
  free(text);
}

void read_facts(Facts *facts) {
  static const char *properties[][2] = {
      {"ro.product.model", "model"}, {"ro.soc.model", "soc"}, {"ro.build.version.release", "android"}, {"ro.product.cpu.abi", "abi"}, {"ro.build.version.sdk", "sdk"}};
  struct utsname name;
  memset(facts, 0, sizeof *facts);
  if (uname(&name)) fail("uname does not answer");
  add(facts, "hostname", written("%s", name.nodename));
  add(facts, "machine", written("%s", name.machine));
  add(facts, "system", written("%s %s", name.sysname, name.release));
  add(facts, "model", read_text("proc/device-tree/model"));
  add(facts, "compatible", read_text("proc/device-tree/compatible"));
  read_l4t(facts);
  read_cpu(facts);
  for (size_t k = 0; k < sizeof properties / sizeof *properties; k++) add(facts, properties[k][1], answer("getprop", properties[k][0], NULL));
}

void out_facts(Out *out, const Facts *facts) {
  for (int k = 0; k < facts->count; k++) {
    int again = 0; /* what Android says counts before the device tree */
    for (int later = k + 1; later < facts->count; later++) again |= !strcmp(facts->fact[k].key, facts->fact[later].key);
    if (!again) out_text(out, facts->fact[k].key, facts->fact[k].value);
  }
  out_number(out, "cores", (double)sysconf(_SC_NPROCESSORS_ONLN));
  out_open(out, "features", '[');
  for (int k = 0; k < facts->features; k++) {
    if (!k || strcmp(facts->feature[k], facts->feature[k - 1])) out_text(out, NULL, facts->feature[k]);
  }
  out_close(out, ']');
}
