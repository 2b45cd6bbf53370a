/* The bundle that this program lies in: its files, the artifact to run, the board that it is for. */
#ifndef DEBLUR_BUNDLE_H
#define DEBLUR_BUNDLE_H

#include "board.h"
#include "vm.h"

typedef struct {
  char *folder, *name, *board; /* board: "recognised", "forced" or "unknown" */
  int files;
  Json bundle, artifact;
  Facts facts;
  Model *model;
  size_t values; /* of one image */
  int threads;
  float *input;
  double bound, psnr;
} Bundle;

/* Checks hashes and board, and loads an artifact; ends the process in words when one of them is not as it should be.
 * ``name`` is "" for the one chosen for the board; ``threads`` -1 for the artifact's. */
void bundle_open(Bundle *bundle, const char *name, int threads, int force);

/* Runs the golden input, prints PASS or FAIL with the reason; returns whether it passed. */
int bundle_verify(Bundle *bundle);

char *bundle_path(const Bundle *bundle, const char *relative);

/* PSNR in dB of ``count`` values in 0 to 1; infinite when they are equal, NaN when either holds one. */
double psnr_of(const float *got, const float *want, size_t count);

#endif
