/* An image of any size through a network of one size: overlapping tiles, of which the safe middle is kept. The cuts are those of
 * the pipeline's own tiling, so the result is the same. */
#include "tiles.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
  int start, from, to;
} Cut;

static int round_up(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

static int cut(int size, int tile, int halo, int multiple, Cut **cuts) {
  int last = round_up(size, multiple) - tile, step = (tile - 2 * halo) / multiple * multiple;
  if (last < 0) last = 0;
  if (last && (step < 1 || halo < 0)) fail("tiles of %d pixels leave nothing inside a halo of %d on both sides", tile, halo);
  int count = last ? (last + step - 1) / step + 1 : 1, gaps = count > 1 ? count - 1 : 1;
  *cuts = aligned((size_t)count * sizeof **cuts);
  for (int k = 0; k < count; k++) (*cuts)[k].start = (int)((long)last * k / gaps / multiple * multiple);
  for (int k = 0; k < count; k++) {
    (*cuts)[k].from = k ? ((*cuts)[k - 1].start + tile + (*cuts)[k].start) / 2 : 0;
    if (k) (*cuts)[k - 1].to = (*cuts)[k].from;
  }
  (*cuts)[count - 1].to = size;
  return count;
}

static int mirrored(int index, int size) {
  if (size == 1) return 0;
  int period = 2 * (size - 1), folded = index % period;
  return folded < period - folded ? folded : period - folded;
}

static void fill(float *input, const Image *image, int y, int x, int height, int width) {
  size_t plane = (size_t)height * (size_t)width;
  for (int row = 0; row < height; row++) {
    const unsigned char *line = image->pixels + (size_t)mirrored(y + row, image->height) * (size_t)image->width * 3;
    for (int column = 0; column < width; column++) {
      const unsigned char *pixel = line + 3 * mirrored(x + column, image->width);
      size_t at = (size_t)row * (size_t)width + (size_t)column;
      for (int c = 0; c < 3; c++) input[plane * (size_t)c + at] = (float)pixel[c] * (1.0f / 255.0f);
    }
  }
}

static void keep(Image *out, const float *tile, int height, int width, Cut row, Cut column) {
  size_t plane = (size_t)height * (size_t)width;
  for (int y = row.from; y < row.to; y++) {
    for (int x = column.from; x < column.to; x++) {
      size_t at = (size_t)(y - row.start) * (size_t)width + (size_t)(x - column.start);
      unsigned char *pixel = out->pixels + 3 * ((size_t)y * (size_t)out->width + (size_t)x);
      for (int c = 0; c < 3; c++) {
        float value = tile[plane * (size_t)c + at];
        if (value != value) fail("the network returns NaN");
        pixel[c] = (unsigned char)lrintf(fminf(fmaxf(value, 0.0f), 1.0f) * 255.0f);
      }
    }
  }
}

Image restore(Model *model, const Image *image, int halo, int multiple, void (*progress)(int done, int total)) {
  int height = model_height(model), width = model_width(model), done = 0;
  Cut *rows, *columns;
  int row_count = cut(image->height, height, halo, multiple, &rows), column_count = cut(image->width, width, halo, multiple, &columns);
  Image out = {image->width, image->height, aligned((size_t)image->width * (size_t)image->height * 3)};
  float *input = aligned((size_t)height * (size_t)width * 3 * sizeof *input);
  for (int r = 0; r < row_count; r++) {
    for (int c = 0; c < column_count; c++) {
      fill(input, image, rows[r].start, columns[c].start, height, width);
      keep(&out, model_run(model, input), height, width, rows[r], columns[c]);
      if (progress) progress(++done, row_count * column_count);
    }
  }
  free(input);
  free(rows);
  free(columns);
  return out;
}
