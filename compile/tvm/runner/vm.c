#include "vm.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytecode.h"
#include "library.h"

enum { REGISTER = 0, IMMEDIATE = 1, CONSTANT = 2 };
enum { CALL = 1, RETURN = 2, MOST_ARGUMENTS = 64 };

typedef int (*Kernel)(void *handle, const Any *arguments, int32_t count, Any *result);

typedef struct {
  Kernel kernel;
  const char *name;
  int count;
  Any *arguments;
} Step;

struct Model {
  Library *library;
  Program program;
  int64_t steps;
  Any *value;
  Step *step;
  Tensor *input, *output;
};

static Any argument(Model *model, int64_t word) {
  int64_t kind = (word >> 56) & 0xff, value = (int64_t)((uint64_t)word << 8) >> 8;
  if (kind == IMMEDIATE) return (Any){.type = ANY_INT, .integer = value};
  if (kind == CONSTANT && value >= 0 && value < model->program.constants) return model->program.constant[value];
  if (kind == REGISTER && value >= 0 && value < model->program.registers) return model->value[value];
  return (Any){0};
}

static Shape *shape_of(Any any) {
  if (any.type != ANY_SHAPE) fail("this library needs shapes that are known only while it runs: this runner takes one image size");
  return any.pointer;
}

static void add_step(Model *model, const char *name, const Any *arguments, int count) {
  char symbol[300];
  snprintf(symbol, sizeof symbol, "__tvm_ffi_%s", name);
  Kernel kernel = (Kernel)library_symbol(model->library, symbol);
  if (!kernel) fail("the library calls '%s', which this runner has not: run it with TVM", name);
  Any *copy = aligned((size_t)count * sizeof *copy);
  memcpy(copy, arguments, (size_t)count * sizeof *copy);
  model->step[model->steps++] = (Step){kernel, name, count, copy};
}

static void read_input(Model *model, const Any *a, int count) {
  /* match_shape: input, heap, 4, then code 0 (equal to) and a number for each dimension */
  if (count < 11 || a[2].integer != 4 || a[3].integer || a[5].integer || a[7].integer || a[9].integer || a[4].integer != 1 || a[6].integer != 3)
    fail("the library does not take one RGB image of fixed size");
  int64_t *shape = aligned(4 * 8);
  for (int k = 0; k < 4; k++) shape[k] = a[4 + 2 * k].integer;
  Shape all = {4, shape};
  Dtype real = {2, 32, 1};
  memcpy(model->input->shape, shape, 4 * 8);
  model->input->data = aligned(bytes_of(real, &all));
}

/* Plans one call; returns the value it leaves behind. */
static Any plan_call(Model *model, const char *name, Any *a, int count) {
  if (!strcmp(name, "vm.builtin.match_shape")) {
    read_input(model, a, count);
  } else if (!strcmp(name, "vm.builtin.alloc_storage")) {
    return (Any){.type = STORAGE, .pointer = aligned(bytes_of(a[3].dtype, shape_of(a[1])))};
  } else if (!strcmp(name, "vm.builtin.alloc_tensor")) {
    Tensor *made = tensor(a[3].dtype, shape_of(a[2])->count, shape_of(a[2])->values);
    made->data = (char *)a[0].pointer + a[1].integer;
    return (Any){.type = ANY_TENSOR_POINTER, .pointer = made};
  } else if (!strcmp(name, "vm.builtin.reshape")) {
    Tensor *old = a[0].pointer, *made = tensor(old->dtype, shape_of(a[1])->count, shape_of(a[1])->values);
    made->data = old->data;
    return (Any){.type = ANY_TENSOR_POINTER, .pointer = made};
  } else if (!strcmp(name, "vm.builtin.copy")) {
    return a[0];
  } else if (strcmp(name, "vm.builtin.check_tensor_info") && strcmp(name, "vm.builtin.null_value")) {
    add_step(model, name, a, count);
  }
  return (Any){0};
}

/* Plans one instruction; returns whether it was the last. */
static int plan_instruction(Model *model, int64_t at) {
  Program *program = &model->program;
  if (at < 0 || at + 2 > program->words) fail("the library's bytecode is damaged");
  int64_t *word = program->word + at;
  if ((word[0] & 0xff) == RETURN) {
    model->output = word[1] >= 0 && word[1] < program->registers ? model->value[word[1]].pointer : NULL;
    return 1;
  }
  if ((word[0] & 0xff) != CALL) fail("the library branches: this runner takes straight networks");
  if (at + 4 > program->words || word[2] < 0 || word[2] >= program->functions) fail("the library's bytecode is damaged");
  int64_t count = word[3];
  Any arguments[MOST_ARGUMENTS];
  if (count < 0 || count > MOST_ARGUMENTS || at + 4 + count > program->words) fail("the library's bytecode is damaged");
  for (int64_t k = 0; k < count; k++) arguments[k] = argument(model, word[4 + k]);
  Any left = plan_call(model, program->function[word[2]], arguments, (int)count);
  if (word[1] >= 0 && word[1] < program->registers) model->value[word[1]] = left;
  return 0;
}

static void plan(Model *model) {
  Program *program = &model->program;
  int64_t entry = -1;
  for (int64_t k = 0; k < program->functions; k++) entry = !strcmp(program->function[k], "main") ? k : entry;
  if (entry < 0 || program->start[entry] < 0 || program->stop[entry] > program->instructions) fail("the library has no function main");
  model->step = aligned((size_t)program->instructions * sizeof *model->step);
  model->value = calloc((size_t)program->registers + 1, sizeof *model->value);
  model->input = tensor((Dtype){2, 32, 1}, 4, aligned(4 * 8));
  model->value[0] = (Any){.type = ANY_TENSOR_POINTER, .pointer = model->input};
  for (int64_t k = program->start[entry]; k < program->stop[entry]; k++) {
    if (plan_instruction(model, program->offset[k])) return;
  }
}

static void set_context(const Library *library, const char *name, void *function) {
  void **slot = library_symbol(library, name);
  if (slot) *slot = function;
}

Model *model_open(const char *path) {
  Model *model = calloc(1, sizeof *model);
  model->library = library_open(path);
  set_context(model->library, "__TVMBackendParallelLaunch", (void *)TVMBackendParallelLaunch);
  set_context(model->library, "__TVMBackendAllocWorkspace", (void *)TVMBackendAllocWorkspace);
  set_context(model->library, "__TVMBackendFreeWorkspace", (void *)TVMBackendFreeWorkspace);
  model->program = program_read(model->library, path);
  plan(model);
  if (!model->output || !model->input->data || model->output->ndim != 4 || memcmp(model->output->shape, model->input->shape, 4 * 8))
    fail("%s does not turn one image into one of the same size", path);
  return model;
}

int model_height(const Model *model) { return (int)model->input->shape[2]; }

int model_width(const Model *model) { return (int)model->input->shape[3]; }

const float *model_run(Model *model, const float *input) {
  memcpy(model->input->data, input, sizeof(float) * 3 * (size_t)model_height(model) * (size_t)model_width(model));
  for (int64_t k = 0; k < model->steps; k++) {
    Any result = {0};
    if (model->step[k].kernel(NULL, model->step[k].arguments, model->step[k].count, &result))
      fail("%s: %s", model->step[k].name, last_error());
  }
  return model->output->data;
}
