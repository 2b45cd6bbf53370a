/* The board that this runs on: what it is, and what may hold it back. Everything is read, nothing is changed. */
#ifndef DEBLUR_BOARD_H
#define DEBLUR_BOARD_H

#include <stddef.h>

#include "json.h"

enum { MOST_ROWS = 256 };

typedef struct {
  char *key, *value;
} Fact;

typedef struct {
  int count, features;
  Fact fact[MOST_ROWS];
  char *feature[MOST_ROWS];
} Facts;

typedef struct {
  char *name, *governor, *cpus;
  double cur, min, max; /* NaN: the system does not say */
} Clock;

typedef struct { /* a reading of everything that may hold the board back */
  int zones, clocks, hot, pi, over_current;
  char *zone[MOST_ROWS], *reason[MOST_ROWS], *online, *jetson_clocks, *android; /* android: thermal status, "" elsewhere */
  double celsius[MOST_ROWS];
  Clock clock[MOST_ROWS];
} State;

/* Folder that stands for "/" when /proc, /sys and /etc are read; "" is the machine's own. */
extern const char *root;

/* Content of a file below ``root`` without blanks and zeros at its ends, inner zeros as blanks; "" when it cannot be read. Never NULL. */
char *read_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What a command prints; "" when it is not there or fails. */
char *answer(const char *program, const char *first, const char *second);

char *written(const char *format, ...) __attribute__((format(printf, 1, 2)));

void read_facts(Facts *facts);
const char *fact(const Facts *facts, const char *key);
void read_state(State *state);

/* Why the second reading says that the board was held back; returns how many reasons were put into ``reasons``. */
int throttling(const State *before, const State *after, char *reasons[MOST_ROWS]);

void out_facts(Out *out, const Facts *facts);
void out_temperatures(Out *out, const char *key, const State *state);
void out_clocks(Out *out, const char *key, const State *state);
void out_power_mode(Out *out, const char *key);

#endif
