/* Reading bundle.json and writing result.json. */
#ifndef DEBLUR_JSON_H
#define DEBLUR_JSON_H

#include <stdio.h>

typedef const char *Json; /* where a value starts in its text; NULL: there is none */

/* The text as a value; ends the process in words when it is no JSON. ``path`` names it. */
Json json_read(const char *text, const char *path);

Json json_get(Json object, const char *key);

/* The value after ``before`` in an array, the first one for NULL; NULL after the last. */
Json json_next(Json array, Json before);

/* As an object's: sets ``key`` to the name, to be freed. */
Json json_next_pair(Json object, Json before, char **key);

char *json_text(Json value); /* to be freed; "" where there is no text */
double json_number(Json value, double otherwise);

typedef struct {
  FILE *file;
  int fresh; /* nothing was written into the open object or array yet */
} Out;

/* ``key`` is NULL in an array; ``bracket`` is '{' or '['. Numbers that JSON has not become null. */
void out_open(Out *out, const char *key, char bracket);
void out_close(Out *out, char bracket);
void out_text(Out *out, const char *key, const char *text);
void out_number(Out *out, const char *key, double value);
void out_word(Out *out, const char *key, const char *word); /* true, false, null */

#endif
