#include "rails.h"

#include <glob.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "board.h"
#include "vm.h"

enum { MOST_RAILS = 32, EVERY_US = 200000 };

static struct {
  int rails, running, samples, from; /* samples before ``from`` are of another part */
  char *name[MOST_RAILS], *first[MOST_RAILS], *second[MOST_RAILS]; /* files of mV and mA, or of mW alone */
  double sum[MOST_RAILS], before[MOST_RAILS];
  pthread_t thread;
  pthread_mutex_t lock;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static double number_in(const char *path) {
  char *text = read_text("%s", path), *end = NULL;
  double value = strtod(text, &end);
  int good = end != text && !*end;
  free(text);
  return good ? value : NAN;
}

static double power_mw(int rail) {
  double value = number_in(all.first[rail]);
  return all.second[rail] ? value * number_in(all.second[rail]) / 1e3 : value;
}

static void add_rail(const char *folder, const char *label, char *first, char *second, int number) {
  char *name = read_text("%s/%s", folder, label);
  if (!*name) name = written("%s.%d", strrchr(folder, '/') + 1, number);
  all.name[all.rails] = name, all.first[all.rails] = first, all.second[all.rails] = second;
  if (!isnan(power_mw(all.rails))) all.rails++;
}

/* INA3221 sensors: as hwmon (mV and mA), or as the older iio driver gives them (mW). */
static void find(const char *pattern, int old) {
  char *whole = written("%s/%s", root, pattern), label[40];
  glob_t found = {0};
  if (!glob(whole, 0, NULL, &found)) {
    for (size_t k = 0; k < found.gl_pathc; k++) {
      const char *folder = found.gl_pathv[k] + strlen(root) + 1;
      for (int n = old ? 0 : 1; n < (old ? 3 : 4) && all.rails < MOST_RAILS; n++) {
        snprintf(label, sizeof label, old ? "rail_name_%d" : "in%d_label", n);
        if (old) add_rail(folder, label, written("%s/in_power%d_input", folder, n), NULL, n);
        else add_rail(folder, label, written("%s/in%d_input", folder, n), written("%s/curr%d_input", folder, n), n);
      }
    }
  }
  globfree(&found);
  free(whole);
}

static void *work(void *unused) {
  for (;;) {
    usleep(EVERY_US);
    pthread_mutex_lock(&all.lock);
    int running = all.running;
    for (int k = 0; running && k < all.rails; k++) all.sum[k] += power_mw(k);
    all.samples += running;
    pthread_mutex_unlock(&all.lock);
    if (!running) return unused;
  }
}

void rails_start(void) {
  find("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*", 0);
  find("sys/bus/i2c/drivers/ina3221x/*/iio*device*", 1);
  all.running = all.rails > 0;
  if (all.running && pthread_create(&all.thread, NULL, work, NULL)) fail("cannot start a thread");
}

void rails_mark(void) {
  pthread_mutex_lock(&all.lock);
  all.from = all.samples;
  memcpy(all.before, all.sum, sizeof all.before);
  pthread_mutex_unlock(&all.lock);
}

void rails_stop(void) {
  if (!all.rails) return;
  pthread_mutex_lock(&all.lock);
  all.running = 0;
  pthread_mutex_unlock(&all.lock);
  pthread_join(all.thread, NULL);
}

void out_rails(Out *out, double ms) {
  static const char *feeds[] = {"VDD_IN", "POM_5V_IN", "VDDIN"}; /* as board/tegrastats.py has them */
  double total = 0, whole = NAN;
  int after = all.samples > all.from;
  if (!all.samples) {
    out_word(out, "rails_mw", "null");
    out_word(out, "energy_mj_per_frame", "null");
    return;
  }
  out_open(out, "rails_mw", '{');
  for (int k = 0; k < all.rails; k++) {
    double mean = after ? (all.sum[k] - all.before[k]) / (all.samples - all.from) : all.sum[k] / all.samples;
    out_number(out, all.name[k], mean);
    total += mean;
    for (size_t j = 0; j < sizeof feeds / sizeof *feeds; j++) whole = strcmp(all.name[k], feeds[j]) ? whole : mean;
  }
  total = isnan(whole) ? total : whole;
  out_number(out, "total", total);
  out_close(out, '}');
  out_number(out, "energy_mj_per_frame", total * ms / 1e3);
}
