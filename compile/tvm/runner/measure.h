#ifndef DEBLUR_MEASURE_H
#define DEBLUR_MEASURE_H

#include "bundle.h"

typedef struct { /* least times in seconds, least numbers of runs; threads: -1 as the artifact has it */
  double seconds, warmup;
  long count, frames;
  int threads;
} Asked;

typedef struct { /* in ms; cv: 1.4826 x median absolute deviation / median; drift: last third's median over the first's, less 1 */
  double p50, p90, p99, mean, cv, drift, *all;
  long count;
} Times;

typedef struct {
  const Bundle *bundle;
  Asked asked;
  int height, width, frame_height, frame_width; /* of what the network takes, and of the target's frame */
  Times kernel, frame;
  State before, after;
  int held_back, reasons;
  char *held[MOST_ROWS], *why;
  double peak_mb;
} Measured;

/* Milliseconds of a clock that only goes on. */
double now_ms(void);

/* Warms up, then times the network alone and whole frames, from the encoded image to the stitched result. */
void measure(Bundle *bundle, const Asked *asked, Measured *measured);

void out_measured(Out *out, const Measured *measured);

const char *temporary_folder(void);

/* Removes the frame that is being timed; safe in a signal's handler. */
void forget_frame(void);

#endif
