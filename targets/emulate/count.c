/* A plugin of qemu (API version 1, qemu 7.2): how many instructions of each class the emulated program executed, as JSON in qemu's log.
   CLASS_TABLE and CLASS_NAMES come from targets/emulate/encodings.py. The declarations are written out: Debian ships no header for them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;
struct info;
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern const void *qemu_plugin_insn_data(const struct instruction *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int, void *, uint64_t);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern void qemu_plugin_outs(const char *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

static const struct { uint32_t mask, value; int class; } table[] = {CLASS_TABLE};
static const char *const names[] = {CLASS_NAMES, "other"};
enum { CLASSES = sizeof names / sizeof *names };

/* A translated block: how often it ran, and what it holds. */
struct count { uint64_t runs; uint32_t held[CLASSES]; struct count *next; };
static struct count *all;

static int class_of(uint32_t word) {
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if ((word & table[i].mask) == table[i].value) return table[i].class;
  return CLASSES - 1;
}

/* qemu translates under a lock of its own, so the list needs none. */
static void translated(plugin_id id, struct block *block) {
  struct count *c = calloc(1, sizeof *c);
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), 4);
    c->held[class_of(word)]++;
  }
  c->next = all;
  all = c;
  qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &c->runs, 1);
}

static void report(plugin_id id, void *unused) {
  char text[1024] = "{";
  for (int k = 0; k < CLASSES; k++) {
    uint64_t sum = 0;
    for (struct count *c = all; c; c = c->next) sum += c->runs * c->held[k];
    size_t end = strlen(text);
    snprintf(text + end, sizeof text - end, "%s\"%s\": %" PRIu64, k ? ", " : "", names[k], sum);
  }
  strcat(text, "}\n");
  qemu_plugin_outs(text);
}

EXPORT int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv) {
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, report, NULL);
  return 0;
}
