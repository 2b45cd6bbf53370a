#ifndef DEBLUR_TILES_H
#define DEBLUR_TILES_H

#include "files.h"
#include "vm.h"

typedef struct {
  int halo;     /* least distance in pixels of a cut from a tile's inner edge */
  int blend;    /* pixels over which neighbours are mixed, half of them on either side of a cut */
  int multiple; /* of tile positions */
} Overlap;

Image restore(Model *model, const Image *image, Overlap overlap, void (*progress)(int done, int total));

#endif
