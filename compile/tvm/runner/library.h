/* Loads a shared library that TVM made, without the system's loader: one static program runs it on every Linux and on Android. */
#ifndef DEBLUR_LIBRARY_H
#define DEBLUR_LIBRARY_H

typedef struct Library Library;

/* Ends the process in words when the file is none, is of another machine, or needs what this program has not. */
Library *library_open(const char *path);

/* Address of a function or variable that the library exports; NULL when it exports none of that name. */
void *library_symbol(const Library *library, const char *name);

#endif
