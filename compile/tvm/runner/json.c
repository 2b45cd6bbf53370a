#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vm.h"

#define DEEPEST 64

static Json blank(Json at) { return at + strspn(at, " \t\r\n"); }

static Json text_end(Json at) {
  for (at++; *at && *at != '"'; at++) {
    if (*at == '\\' && !*++at) return NULL;
  }
  return *at ? at + 1 : NULL;
}

/* Just behind the value; NULL when it is none. */
static Json end_of(Json at, int depth) {
  at = blank(at);
  if (*at == '"') return text_end(at);
  if (*at != '{' && *at != '[') {
    size_t length = strcspn(at, ",]} \t\r\n");
    return length ? at + length : NULL;
  }
  char close = *at == '{' ? '}' : ']';
  at = blank(at + 1);
  for (int first = 1; *at != close; first = 0) {
    if (!first && *at != ',') return NULL;
    if (!first) at = blank(at + 1);
    if (close == '}') {
      if (*at != '"' || !(at = text_end(at)) || *(at = blank(at)) != ':') return NULL;
      at++;
    }
    if (depth == DEEPEST || !(at = end_of(at, depth + 1))) return NULL;
    at = blank(at);
  }
  return at + 1;
}

Json json_read(const char *text, const char *path) {
  Json end = text ? end_of(text, 0) : NULL;
  if (!end || *blank(end)) fail("%s is missing or damaged: copy the bundle again", path);
  return blank(text);
}

Json json_next(Json array, Json before) {
  if (!array || *array != '[') return NULL;
  Json at = blank(before ? end_of(before, 0) : array + 1);
  if (before && *at == ',') at = blank(at + 1);
  return *at == ']' ? NULL : at;
}

Json json_next_pair(Json object, Json before, char **key) {
  if (!object || *object != '{') return NULL;
  Json at = blank(before ? end_of(before, 0) : object + 1);
  if (before && *at == ',') at = blank(at + 1);
  if (*at == '}') return NULL;
  *key = json_text(at);
  return blank(blank(text_end(at)) + 1);
}

Json json_get(Json object, const char *key) {
  char *name = NULL;
  for (Json value = json_next_pair(object, NULL, &name); value; value = json_next_pair(object, value, &name)) {
    int same = !strcmp(name, key);
    free(name);
    if (same) return value;
  }
  return NULL;
}

static char *put_code(char *to, unsigned code) {
  if (code < 0x80) {
    *to++ = (char)code;
  } else if (code < 0x800) {
    *to++ = (char)(0xc0 | code >> 6), *to++ = (char)(0x80 | (code & 63));
  } else if (code < 0x10000) {
    *to++ = (char)(0xe0 | code >> 12), *to++ = (char)(0x80 | (code >> 6 & 63)), *to++ = (char)(0x80 | (code & 63));
  } else {
    *to++ = (char)(0xf0 | code >> 18), *to++ = (char)(0x80 | (code >> 12 & 63));
    *to++ = (char)(0x80 | (code >> 6 & 63)), *to++ = (char)(0x80 | (code & 63));
  }
  return to;
}

static char *put_escape(char *to, Json *at) {
  static const char *letters = "bfnrt", *meant = "\b\f\n\r\t";
  const char *letter = strchr(letters, **at);
  unsigned high, low;
  if (**at != 'u' || sscanf(*at + 1, "%4x", &high) != 1) {
    *to = letter ? meant[letter - letters] : *(*at);
    return to + 1;
  }
  *at += 4;
  if (high >> 10 == 0x36 && (*at)[1] == '\\' && sscanf(*at + 2, "u%4x", &low) == 1) {
    *at += 6;
    high = 0x10000 + ((high & 0x3ff) << 10) + (low & 0x3ff);
  }
  return put_code(to, high);
}

char *json_text(Json value) {
  Json end = value && *value == '"' ? text_end(value) : NULL;
  char *text = aligned(end ? (size_t)(end - value) : 1), *to = text;
  for (Json at = value + 1; end && at < end - 1; at++) {
    if (*at == '\\') {
      at++;
      to = put_escape(to, &at);
    } else {
      *to++ = *at;
    }
  }
  *to = 0;
  return text;
}

double json_number(Json value, double otherwise) {
  char *end = NULL;
  double found = value ? strtod(value, &end) : 0;
  return value && end != value ? found : otherwise;
}

static void put_quoted(FILE *file, const char *text) {
  putc('"', file);
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\') putc('\\', file);
    if (*c < 32) {
      fprintf(file, "\\u%04x", *c);
    } else {
      putc(*c, file);
    }
  }
  putc('"', file);
}

static void start(Out *out, const char *key) {
  fputs(out->fresh ? "" : ", ", out->file);
  out->fresh = 0;
  if (!key) return;
  put_quoted(out->file, key);
  fputs(": ", out->file);
}

void out_open(Out *out, const char *key, char bracket) {
  start(out, key);
  putc(bracket, out->file);
  out->fresh = 1;
}

void out_close(Out *out, char bracket) {
  putc(bracket, out->file);
  out->fresh = 0;
}

void out_text(Out *out, const char *key, const char *text) {
  start(out, key);
  put_quoted(out->file, text);
}

void out_word(Out *out, const char *key, const char *word) {
  start(out, key);
  fputs(word, out->file);
}

void out_number(Out *out, const char *key, double value) {
  char digits[40];
  snprintf(digits, sizeof digits, "%.12g", value);
  out_word(out, key, isfinite(value) ? digits : "null");
}
