#ifndef DEBLUR_FILES_H
#define DEBLUR_FILES_H

#include <stddef.h>

typedef struct { /* RGB, 8 bits, rows top to bottom */
  int width, height;
  unsigned char *pixels;
} Image;

Image read_ppm(const char *path);
void write_ppm(const char *path, const Image *image);

/* An array of exactly ``count`` values; uint8 becomes 0 to 1. */
float *read_npy(const char *path, size_t count);

#endif
