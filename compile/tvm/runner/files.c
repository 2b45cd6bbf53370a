/* The files that the runner reads and writes: PPM images and NumPy arrays. */
#include "files.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm.h"

static long next_number(FILE *file, const char *path) {
  int c = getc(file);
  while (isspace(c) || c == '#') {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = getc(file);
    }
    c = getc(file);
  }
  long value = 0;
  if (!isdigit(c)) fail("%s is no PPM image (P6, 8 bits)", path);
  for (; isdigit(c) && value < 1000000; c = getc(file)) value = value * 10 + (c - '0');
  return value; /* the one space after it is read */
}

Image read_ppm(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) fail("%s cannot be read", path);
  if (getc(file) != 'P' || getc(file) != '6') fail("%s is no PPM image (P6, 8 bits)", path);
  Image image = {0};
  image.width = (int)next_number(file, path);
  image.height = (int)next_number(file, path);
  if (next_number(file, path) != 255 || image.width < 1 || image.height < 1) fail("%s is no PPM image (P6, 8 bits)", path);
  size_t bytes = (size_t)image.width * (size_t)image.height * 3;
  image.pixels = aligned(bytes);
  if (fread(image.pixels, 1, bytes, file) != bytes) fail("%s is cut short", path);
  fclose(file);
  return image;
}

void write_ppm(const char *path, const Image *image) {
  size_t bytes = (size_t)image->width * (size_t)image->height * 3;
  FILE *file = fopen(path, "wb");
  if (!file) fail("%s cannot be written", path);
  fprintf(file, "P6\n%d %d\n255\n", image->width, image->height);
  if (fwrite(image->pixels, 1, bytes, file) != bytes || fclose(file)) fail("%s cannot be written: is the disk full?", path);
}

float *read_npy(const char *path, size_t count) {
  unsigned char head[10];
  FILE *file = fopen(path, "rb");
  if (!file) fail("%s cannot be read", path);
  if (fread(head, 1, 10, file) != 10 || memcmp(head, "\x93NUMPY", 6) || head[6] != 1) fail("%s is no NumPy array", path);
  size_t length = head[8] + 256u * head[9];
  char *text = aligned(length + 1);
  if (fread(text, 1, length, file) != length) fail("%s is cut short", path);
  text[length] = 0;
  int bytes = strstr(text, "'|u1'") != NULL, real = strstr(text, "'<f4'") != NULL;
  if ((!bytes && !real) || !strstr(text, "'fortran_order': False")) fail("%s holds neither uint8 nor float32", path);
  float *values = aligned(count * sizeof *values);
  unsigned char *raw = bytes ? aligned(count) : (unsigned char *)values;
  if (fread(raw, bytes ? 1 : 4, count, file) != count || getc(file) != EOF) fail("%s is not of the network's size", path);
  for (size_t k = 0; bytes && k < count; k++) values[k] = (float)raw[k] * (1.0f / 255.0f);
  fclose(file);
  return values;
}
