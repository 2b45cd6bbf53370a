/* An image of any size through a network of one size: overlapping tiles, of which the safe middle is kept, and mixed at the cuts where
 * tiles cannot give what the whole image gives. The cuts and the sums are those of the pipeline's own tiling, so the result is the same. */
#include "tiles.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#pragma STDC FP_CONTRACT OFF /* a fused product and sum rounds once, the pipeline's twice */

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

static Cut widened(Cut cut, int size, int by) {
  Cut wide = {cut.start, cut.from ? cut.from - by : 0, cut.to < size ? cut.to + by : size};
  return wide;
}

typedef struct {
  int blend, width;
  float *rising; /* weights of the later of two tiles over the pixels that both have a part in */
  float *band;   /* levels of the row of tiles at hand, not rounded */
  float *held;   /* its last lines, which the next row of tiles has a part in */
} Mixer;

static Mixer mixer_of(int blend, int height, int width) {
  size_t line = (size_t)width * 3;
  Mixer mixer = {blend, width, aligned((size_t)blend * sizeof(float)), aligned((size_t)height * line * sizeof(float)),
                 aligned((size_t)blend * line * sizeof(float))};
  for (int k = 0; k < blend; k++) mixer.rising[k] = (float)((k + 0.5) / blend);
  return mixer;
}

static float weight_at(const Mixer *mixer, Cut column, int x) {
  int before = x - column.from, behind = column.to - x;
  if (column.from && before < mixer->blend) return mixer->rising[before];
  return column.to < mixer->width && behind <= mixer->blend ? 1.0f - mixer->rising[mixer->blend - behind] : 1.0f;
}

static void add(Mixer *mixer, const float *tile, int height, int width, Cut row, Cut column) {
  size_t plane = (size_t)height * (size_t)width;
  for (int x = column.from; x < column.to; x++) {
    float weight = weight_at(mixer, column, x);
    for (int y = row.from; y < row.to; y++) {
      const float *value = tile + (size_t)(y - row.start) * (size_t)width + (size_t)(x - column.start);
      float *level = mixer->band + 3 * ((size_t)(y - row.from) * (size_t)mixer->width + (size_t)x);
      for (int c = 0; c < 3; c++, value += plane) {
        if (!isfinite(*value)) fail("the network returns NaN or infinity");
        level[c] += fminf(fmaxf(*value, 0.0f), 1.0f) * 255.0f * weight;
      }
    }
  }
}

static void finish(Mixer *mixer, Image *out, Cut row) {
  size_t line = (size_t)mixer->width * 3, mixed = (size_t)mixer->blend * line, count = (size_t)(row.to - row.from) * line;
  for (size_t k = 0; row.from && k < mixed; k++) {
    float weight = mixer->rising[k / line];
    mixer->band[k] = mixer->band[k] * weight + mixer->held[k] * (1.0f - weight);
  }
  if (row.to < out->height) memcpy(mixer->held, mixer->band + (count -= mixed), mixed * sizeof(float));
  unsigned char *pixels = out->pixels + (size_t)row.from * line;
  for (size_t k = 0; k < count; k++) pixels[k] = (unsigned char)lrintf(mixer->band[k]);
}

static int closest(const Cut *cuts, int count, int most) {
  for (int k = 0; count > 1 && k < count; k++) most = cuts[k].to - cuts[k].from < most ? cuts[k].to - cuts[k].from : most;
  return most;
}

Image restore(Model *model, const Image *image, Overlap overlap, void (*progress)(int done, int total)) {
  int height = model_height(model), width = model_width(model), done = 0;
  Cut *rows, *columns;
  int row_count = cut(image->height, height, overlap.halo, overlap.multiple, &rows);
  int column_count = cut(image->width, width, overlap.halo, overlap.multiple, &columns);
  int blend = overlap.blend < overlap.halo ? overlap.blend : overlap.halo;
  blend = closest(rows, row_count, closest(columns, column_count, blend)) / 2 * 2;
  Mixer mixer = mixer_of(blend, height, image->width);
  Image out = {image->width, image->height, aligned((size_t)image->width * (size_t)image->height * 3)};
  float *input = aligned((size_t)height * (size_t)width * 3 * sizeof *input);
  for (int r = 0; r < row_count; r++) {
    Cut row = widened(rows[r], image->height, blend / 2);
    memset(mixer.band, 0, (size_t)height * (size_t)image->width * 3 * sizeof(float));
    for (int c = 0; c < column_count; c++) {
      fill(input, image, row.start, columns[c].start, height, width);
      add(&mixer, model_run(model, input), height, width, row, widened(columns[c], image->width, blend / 2));
      if (progress) progress(++done, row_count * column_count);
    }
    finish(&mixer, &out, row);
  }
  free(mixer.rising);
  free(mixer.band);
  free(mixer.held);
  free(input);
  free(rows);
  free(columns);
  return out;
}
