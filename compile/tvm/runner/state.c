/* Readings of temperatures, clocks and what slows a board down; and what two of them say together. */
#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "vm.h"

static double number_in(const char *folder, const char *name) {
  char *text = read_text("%s/%s", folder, name), *end = NULL;
  double value = strtod(text, &end);
  int good = end != text && !*end;
  free(text);
  return good ? value : NAN;
}

/* Calls ``each`` with the path below ``root`` of everything that fits the pattern, in the order of names. */
static void each_of(const char *pattern, State *state, void (*each)(State *state, const char *path)) {
  char *whole = written("%s/%s", root, pattern);
  glob_t found = {0};
  if (!glob(whole, 0, NULL, &found)) {
    for (size_t k = 0; k < found.gl_pathc; k++) each(state, found.gl_pathv[k] + strlen(root) + 1);
  }
  globfree(&found);
  free(whole);
}

static const char *base(const char *path) { return strrchr(path, '/') ? strrchr(path, '/') + 1 : path; }

static void add_hot(State *state, const char *path, const char *type, double now) {
  for (int k = 0; k < 16 && state->hot < MOST_ROWS; k++) {
    char *trip = written("trip_point_%d_temp", k), *kind = read_text("%s/trip_point_%d_type", path, k);
    double at = number_in(path, trip);
    int slows = !strcmp(kind, "passive") || !strcmp(kind, "hot") || !strcmp(kind, "critical");
    free(trip), free(kind);
    if (slows && at > 0 && now >= at) {
      state->reason[state->hot++] = written("%s at %.0f C, it slows down from %.0f C", type, now / 1e3, at / 1e3);
      return;
    }
  }
}

static void read_zone(State *state, const char *path) {
  double now = number_in(path, "temp");
  char *type = read_text("%s/type", path);
  if (now > -200000 && state->zones < MOST_ROWS) {
    state->zone[state->zones] = written("%s %s", base(path), type);
    state->celsius[state->zones++] = now / 1e3;
    add_hot(state, path, type, now);
  }
  free(type);
}

static void read_clock(State *state, const char *path, const char *form, char *governor, char *cpus) {
  double value[3];
  static const char *keys[] = {"cur", "min", "max"};
  for (int k = 0; k < 3; k++) {
    char name[40];
    snprintf(name, sizeof name, form, keys[k]);
    value[k] = number_in(path, name);
  }
  if (state->clocks < MOST_ROWS) state->clock[state->clocks++] = (Clock){written("%s", base(path)), governor, cpus, value[0], value[1], value[2]};
}

static void read_policy(State *state, const char *path) {
  read_clock(state, path, "scaling_%s_freq", read_text("%s/scaling_governor", path), read_text("%s/related_cpus", path));
}

static void read_devfreq(State *state, const char *path) { read_clock(state, path, "%s_freq", read_text("%s/governor", path), NULL); }

static void read_over_current(State *state, const char *path) {
  char *text = read_text("%s", path);
  state->over_current += atoi(text);
  free(text);
}

/* Of ``dumpsys thermalservice``; where it has both cached and current readings, the current ones count. */
static void read_android(State *state) {
  static const char *levels[] = {"none", "light", "moderate", "severe", "critical", "emergency", "shutdown"};
  char *dump = answer("dumpsys", "thermalservice", NULL), *said = strstr(dump, "Thermal Status:");
  int status = 0;
  state->android = "";
  if (!said || sscanf(said + 15, "%d", &status) != 1 || status < 0) return;
  state->android = written("%s", levels[status < 6 ? status : 6]);
  char *rows = strstr(dump, "Current temperatures from HAL:"), *end = NULL;
  if (rows && ((end = strstr(rows, "Current cooling")) || (end = strstr(rows, "Temperature static")))) *end = 0;
  for (rows = strstr(rows ? rows : dump, "Temperature{"); rows && state->zones < MOST_ROWS; rows = strstr(rows + 1, "Temperature{")) {
    char name[80];
    double value;
    int kind, level = 0;
    if (sscanf(rows, "Temperature{mValue=%lf, mType=%d, mName=%79[^,}], mStatus=%d", &value, &kind, name, &level) < 3) continue;
    state->zone[state->zones] = written("%s", name);
    state->celsius[state->zones++] = value;
    if (level && status && strlen(state->android) < 900) state->android = written("%s %s", state->android, name);
  }
  free(dump);
}

void read_state(State *state) {
  memset(state, 0, sizeof *state);
  each_of("sys/class/thermal/thermal_zone*", state, read_zone);
  each_of("sys/devices/system/cpu/cpufreq/policy*", state, read_policy);
  each_of("sys/class/devfreq/*", state, read_devfreq);
  each_of("sys/class/hwmon/hwmon*/oc*_event_cnt", state, read_over_current);
  state->online = read_text("sys/devices/system/cpu/online");
  state->jetson_clocks = answer("jetson_clocks", "--show", NULL);
  char *throttled = answer("vcgencmd", "get_throttled", NULL);
  sscanf(throttled, "throttled=%x", (unsigned *)&state->pi);
  free(throttled);
  read_android(state);
}

int throttling(const State *before, const State *after, char *reasons[MOST_ROWS]) {
  static const char *pi[] = {"under-voltage", "frequency capped", "throttled", "soft temperature limit"};
  int count = 0;
  for (int k = 0; k < after->hot && count < MOST_ROWS - 8; k++) reasons[count++] = after->reason[k];
  for (int bit = 0; bit < 4; bit++) {
    int anew = after->pi >> (bit + 16) & 1 && !(before->pi >> (bit + 16) & 1);
    if (after->pi >> bit & 1 || anew) reasons[count++] = written("Raspberry Pi: %s", pi[bit]);
  }
  if (after->over_current > before->over_current) reasons[count++] = "the over-current protection stepped in";
  if (*after->android && strcmp(after->android, "none")) {
    size_t word = strcspn(after->android, " ");
    reasons[count++] = written("Android's thermal status is %.*s (%s)", (int)word, after->android, after->android[word] ? after->android + word + 1 : "");
  }
  for (int k = 0; k < before->clocks && count < MOST_ROWS; k++) {
    const Clock *was = &before->clock[k], *now = NULL;
    for (int j = 0; j < after->clocks; j++) now = strcmp(after->clock[j].name, was->name) ? now : &after->clock[j];
    if (now && now->max < was->max) reasons[count++] = written("%s: the highest clock fell from %.0f to %.0f", was->name, was->max, now->max);
  }
  return count;
}

void out_temperatures(Out *out, const char *key, const State *state) {
  out_open(out, key, '{');
  for (int k = 0; k < state->zones; k++) out_number(out, state->zone[k], state->celsius[k]);
  out_close(out, '}');
}

static void out_list(Out *out, const char *text) {
  for (const char *part = text; *part; part += strcspn(part, ",") + (part[strcspn(part, ",")] == ',')) {
    int first = 0, last = 0, count = sscanf(part, "%d-%d", &first, &last);
    for (int k = first; count > 0 && k <= (count > 1 ? last : first); k++) out_number(out, NULL, k);
  }
}

void out_clocks(Out *out, const char *key, const State *state) {
  out_open(out, key, '{');
  for (int k = 0; k < state->clocks; k++) {
    const Clock *clock = &state->clock[k];
    out_open(out, clock->name, '{');
    out_text(out, "governor", clock->governor);
    if (clock->cpus) out_text(out, "cpus", clock->cpus);
    out_number(out, "cur", clock->cur);
    out_number(out, "min", clock->min);
    out_number(out, "max", clock->max);
    out_close(out, '}');
  }
  if (*state->jetson_clocks) {
    out_open(out, "jetson_clocks", '[');
    char *copy = written("%s", state->jetson_clocks);
    for (char *line = strtok(copy, "\n"); line; line = strtok(NULL, "\n")) out_text(out, NULL, line);
    out_close(out, ']');
    free(copy);
  }
  out_open(out, "online", '[');
  out_list(out, state->online);
  out_close(out, ']');
  out_close(out, '}');
}

void out_power_mode(Out *out, const char *key) {
  char *text = answer("nvpmodel", "-q", NULL), *said = strstr(text, "NV Power Mode:"), name[80];
  if (!said || sscanf(said + 14, " %79s", name) != 1) {
    out_word(out, key, "null");
  } else {
    char *line = strchr(said, '\n'), *end = NULL;
    long id = line ? strtol(line, &end, 10) : 0;
    out_open(out, key, '{');
    out_text(out, "name", name);
    out_number(out, "id", line && end != line ? (double)id : NAN);
    out_close(out, '}');
  }
  free(text);
}
