#include "bytecode.h"

#include <stdlib.h>
#include <string.h>

#include "vm.h"

#define BYTECODE_MAGIC 0xD225DE2F4214151EULL
#define TENSOR_MAGIC 0xDD5E40F096B4A13FULL
#define MOST_DIMENSIONS 8
#define MOST_ENTRIES 1000000

typedef struct {
  const uint8_t *at, *end;
} Reader;

static const void *take(Reader *reader, uint64_t bytes) {
  if (bytes > (uint64_t)(reader->end - reader->at)) fail("the library's bytecode is cut short");
  const void *found = reader->at;
  reader->at += bytes;
  return found;
}

static uint64_t number(Reader *reader) {
  uint64_t value;
  memcpy(&value, take(reader, 8), 8);
  return value;
}

static int32_t small(Reader *reader) {
  int32_t value;
  memcpy(&value, take(reader, 4), 4);
  return value;
}

static char *string(Reader *reader) {
  uint64_t length = number(reader);
  const void *found = take(reader, length);
  char *copy = aligned(length + 1);
  memcpy(copy, found, length);
  copy[length] = 0;
  return copy;
}

static void *array(Reader *reader, uint64_t count) {
  if (count > (uint64_t)(reader->end - reader->at) / 8) fail("the library's bytecode is cut short");
  void *copy = aligned(count * 8);
  memcpy(copy, take(reader, count * 8), count * 8);
  return copy;
}

Tensor *tensor(Dtype dtype, int64_t count, int64_t *shape) {
  Tensor *made = calloc(1, sizeof *made);
  if (!made || count > MOST_DIMENSIONS) fail("a tensor of %lld dimensions", (long long)count);
  *made = (Tensor){.device_type = 1, .ndim = (int32_t)count, .dtype = dtype, .shape = shape};
  return made;
}

uint64_t bytes_of(Dtype dtype, const Shape *shape) {
  uint64_t bytes = (dtype.bits + 7) / 8 * (uint64_t)dtype.lanes;
  for (int64_t k = 0; k < shape->count; k++) bytes *= (uint64_t)shape->values[k];
  return bytes;
}

static Tensor *read_tensor(Reader *reader) {
  if (number(reader) != TENSOR_MAGIC) fail("a constant of the library is damaged");
  number(reader);
  number(reader); /* the device: always the CPU */
  int32_t ndim = small(reader);
  Dtype dtype;
  memcpy(&dtype, take(reader, 4), 4);
  if (ndim < 0) fail("a constant of the library is damaged");
  Tensor *made = tensor(dtype, ndim, array(reader, (uint64_t)ndim));
  uint64_t bytes = number(reader);
  made->data = aligned(bytes);
  memcpy(made->data, take(reader, bytes), bytes);
  return made;
}

static Any read_constant(Reader *reader) {
  Any any = {.type = small(reader)};
  if (any.type == ANY_TENSOR) {
    any = (Any){.type = ANY_TENSOR_POINTER, .pointer = read_tensor(reader)};
  } else if (any.type == ANY_SHAPE) {
    Shape *shape = aligned(sizeof *shape);
    shape->count = (int64_t)number(reader);
    shape->values = array(reader, (uint64_t)shape->count);
    any.pointer = shape;
  } else if (any.type == ANY_STRING) {
    any.pointer = string(reader);
  } else if (any.type == ANY_DTYPE) {
    memcpy(&any.dtype, take(reader, 4), 4);
  } else if (any.type == ANY_INT || any.type == ANY_FLOAT) {
    any.integer = (int64_t)number(reader);
  } else {
    fail("the library holds a constant of kind %d, which this runner does not know", any.type);
  }
  return any;
}

static void read_functions(Program *program, Reader *reader) {
  program->functions = (int64_t)number(reader);
  if (program->functions > MOST_ENTRIES) fail("the library's bytecode is damaged");
  program->function = aligned((size_t)program->functions * sizeof *program->function);
  program->start = aligned((size_t)program->functions * 8);
  program->stop = aligned((size_t)program->functions * 8);
  for (int64_t k = 0; k < program->functions; k++) {
    int32_t kind = small(reader);
    program->function[k] = string(reader);
    program->start[k] = (int64_t)number(reader);
    program->stop[k] = (int64_t)number(reader);
    number(reader); /* arguments */
    int64_t registers = (int64_t)number(reader);
    if (kind == 1 && !strcmp(program->function[k], "main")) program->registers = registers;
    for (uint64_t names = number(reader); names; names--) free(string(reader));
  }
  for (uint64_t scopes = number(reader); scopes; scopes--) {
    number(reader);
    free(string(reader));
  }
}

static Reader opened(const Library *library, const char *path) {
  const uint8_t *blob = library_symbol(library, "__tvm_ffi__library_bin");
  if (!blob) fail("%s is no library that TVM made", path);
  uint64_t size;
  memcpy(&size, blob, 8);
  Reader reader = {blob + 8, blob + 8 + size};
  for (int k = 0; k < 2; k++) take(&reader, number(&reader) * 8); /* the tree of modules: one for code, one for calls */
  for (char *key = string(&reader); strcmp(key, "relax.VMExecutable"); key = string(&reader)) {
    if (strcmp(key, "_lib")) fail("%s holds a module '%s', which this runner does not know", path, key);
  }
  number(&reader); /* bytes of what follows */
  if (number(&reader) != BYTECODE_MAGIC) fail("the bytecode of %s is of another form", path);
  char *version = string(&reader);
  if (strcmp(version, "0.14")) fail("%s was made by TVM with bytecode %s, this runner reads 0.14", path, version);
  return reader;
}

Program program_read(const Library *library, const char *path) {
  Program program = {0};
  Reader reader = opened(library, path);
  read_functions(&program, &reader);
  program.constants = (int64_t)number(&reader);
  if (program.constants > MOST_ENTRIES) fail("the library's bytecode is damaged");
  program.constant = aligned((size_t)program.constants * sizeof *program.constant);
  for (int64_t k = 0; k < program.constants; k++) program.constant[k] = read_constant(&reader);
  program.instructions = (int64_t)number(&reader);
  program.offset = array(&reader, (uint64_t)program.instructions);
  program.words = (int64_t)number(&reader);
  program.word = array(&reader, (uint64_t)program.words);
  return program;
}
