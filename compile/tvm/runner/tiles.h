#ifndef DEBLUR_TILES_H
#define DEBLUR_TILES_H

#include "files.h"
#include "vm.h"

/* ``halo``: least distance in pixels of a kept pixel from a tile's inner edge; ``multiple``: of tile positions. */
Image restore(Model *model, const Image *image, int halo, int multiple, void (*progress)(int done, int total));

#endif
