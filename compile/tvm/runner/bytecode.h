/* What a library that TVM compiled says of itself: its calls and constants, as Relax VM bytecode (the form of TVM 0.26). */
#ifndef DEBLUR_BYTECODE_H
#define DEBLUR_BYTECODE_H

#include <stdint.h>

#include "library.h"

enum { ANY_INT = 1, ANY_FLOAT = 3, ANY_DTYPE = 5, ANY_TENSOR_POINTER = 7, ANY_STRING = 65, ANY_SHAPE = 69, ANY_TENSOR = 70, STORAGE = -2 };

typedef struct {
  uint8_t code, bits;
  uint16_t lanes;
} Dtype;

typedef struct { /* DLPack's DLTensor */
  void *data;
  int32_t device_type, device_id, ndim;
  Dtype dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;

typedef struct { /* TVMFFIAny */
  int32_t type, padding;
  union {
    int64_t integer;
    double real;
    void *pointer;
    Dtype dtype;
  };
} Any;

typedef struct {
  int64_t count, *values;
} Shape;

typedef struct {
  int64_t constants, functions, instructions, words;
  int64_t registers; /* of main */
  Any *constant;
  char **function;                         /* names */
  int64_t *start, *stop, *offset, *word; /* first and last instruction of each function; where in the words each one is */
} Program;

/* Reads the bytecode of an open library; ends the process in words when it is damaged or of another form. */
Program program_read(const Library *library, const char *path);

Tensor *tensor(Dtype dtype, int64_t dimensions, int64_t *shape);
uint64_t bytes_of(Dtype dtype, const Shape *shape);

#endif
