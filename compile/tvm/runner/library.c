#include "library.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm.h"

#if defined(__aarch64__)
enum { MACHINE = EM_AARCH64, ABSOLUTE = R_AARCH64_ABS64, GLOBAL = R_AARCH64_GLOB_DAT, JUMP = R_AARCH64_JUMP_SLOT, RELATIVE = R_AARCH64_RELATIVE };
#elif defined(__x86_64__)
enum { MACHINE = EM_X86_64, ABSOLUTE = R_X86_64_64, GLOBAL = R_X86_64_GLOB_DAT, JUMP = R_X86_64_JUMP_SLOT, RELATIVE = R_X86_64_RELATIVE };
#else
#error "the relocations of this machine are not known"
#endif

#define MOST_SPAN (1ull << 32)

struct Library {
  const char *path;
  unsigned char *base;
  uint64_t span;
  const Elf64_Sym *symbols;
  uint64_t count;
  const char *strings;
  uint64_t strings_size;
};

/* What compiled kernels may ask for: what compilers make calls of, the mathematics that Relax has, and TVM's own. */
#define HERE(name) {#name, (void *)(name)}
static const struct {
  const char *name;
  void *address;
} offered[] = {
    HERE(memset), HERE(memcpy), HERE(memmove), HERE(memcmp), HERE(expf), HERE(exp), HERE(exp2f), HERE(logf), HERE(log), HERE(log1pf), HERE(powf),
    HERE(pow), HERE(tanhf), HERE(tanh), HERE(erff), HERE(erf), HERE(sinf), HERE(cosf), HERE(atanf), HERE(sqrtf), HERE(sqrt), HERE(floorf), HERE(ceilf),
    HERE(roundf), HERE(rintf), HERE(nearbyintf), HERE(truncf), HERE(fabsf), HERE(fminf), HERE(fmaxf), HERE(fmaf), HERE(fmodf),
    HERE(TVMBackendParallelLaunch), HERE(TVMBackendAllocWorkspace), HERE(TVMBackendFreeWorkspace), HERE(TVMFFIErrorSetRaisedFromCStr),
    HERE(TVMFFIErrorSetRaisedFromCStrParts),
};

static void *own(const char *name) {
  for (size_t k = 0; k < sizeof offered / sizeof *offered; k++) {
    if (!strcmp(offered[k].name, name)) return offered[k].address;
  }
  return NULL;
}

static void *inside(const Library *library, uint64_t address, uint64_t bytes) {
  if (bytes > library->span || address > library->span - bytes) fail("%s is damaged: it points outside itself", library->path);
  return library->base + address;
}

static Elf64_Phdr *read_heads(const char *path, int file, uint64_t size, int *count) {
  Elf64_Ehdr head;
  if (pread(file, &head, sizeof head, 0) != sizeof head || memcmp(head.e_ident, ELFMAG, SELFMAG) || head.e_ident[EI_CLASS] != ELFCLASS64)
    fail("%s is no shared library", path);
  if (head.e_machine != MACHINE) fail("%s was built for another machine than this one", path);
  uint64_t bytes = (uint64_t)head.e_phnum * sizeof(Elf64_Phdr);
  if (head.e_type != ET_DYN || head.e_phentsize != sizeof(Elf64_Phdr) || !bytes || head.e_phoff > size || bytes > size - head.e_phoff)
    fail("%s is no shared library", path);
  Elf64_Phdr *found = aligned(bytes);
  if (pread(file, found, bytes, (off_t)head.e_phoff) != (ssize_t)bytes) fail("%s is cut short", path);
  *count = head.e_phnum;
  return found;
}

static uint64_t up(uint64_t size, uint64_t page) { return (size + page - 1) / page * page; }

static void map_part(const Library *library, int file, const Elf64_Phdr *part, uint64_t page) {
  uint64_t start = part->p_vaddr / page * page, shift = part->p_vaddr - start, end = part->p_vaddr + part->p_memsz;
  uint64_t filled = up(part->p_vaddr + part->p_filesz, page);
  int protection = (part->p_flags & PF_R ? PROT_READ : 0) | (part->p_flags & PF_W ? PROT_WRITE : 0) | (part->p_flags & PF_X ? PROT_EXEC : 0);
  if (part->p_filesz && mmap(library->base + start, shift + part->p_filesz, protection, MAP_PRIVATE | MAP_FIXED, file,
                             (off_t)(part->p_offset - shift)) == MAP_FAILED)
    fail("%s cannot be loaded (%s)", library->path, strerror(errno));
  if (!(part->p_flags & PF_W)) return;
  uint64_t from = part->p_filesz ? filled : start;
  if (up(end, page) > from &&
      mmap(library->base + from, up(end, page) - from, protection, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
    fail("%s cannot be loaded (%s)", library->path, strerror(errno));
  if (part->p_filesz && filled > part->p_vaddr + part->p_filesz)
    memset(library->base + part->p_vaddr + part->p_filesz, 0, filled - part->p_vaddr - part->p_filesz);
}

static void map_all(Library *library, int file, uint64_t size, const Elf64_Phdr *parts, int count) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), last = 0;
  for (int k = 0; k < count; k++) {
    const Elf64_Phdr *part = &parts[k];
    if (part->p_type == PT_TLS) fail("%s has variables of threads, which this runner does not load", library->path);
    if (part->p_type != PT_LOAD) continue;
    if (part->p_vaddr > MOST_SPAN || part->p_memsz > MOST_SPAN || part->p_filesz > part->p_memsz || part->p_offset > size ||
        part->p_filesz > size - part->p_offset || part->p_vaddr % page != part->p_offset % page || part->p_vaddr / page * page < last)
      fail("%s is damaged, or made for smaller pages of memory than the %llu bytes here", library->path, (unsigned long long)page);
    last = up(part->p_vaddr + part->p_memsz, page);
  }
  library->span = last;
  library->base = mmap(NULL, last ? last : 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (library->base == MAP_FAILED) fail("no memory for %llu bytes", (unsigned long long)last);
  for (int k = 0; k < count; k++) {
    if (parts[k].p_type == PT_LOAD) map_part(library, file, &parts[k], page);
  }
}

static const char *name_of(const Library *library, const Elf64_Sym *symbol) {
  const char *end = library->strings + library->strings_size, *name = library->strings + symbol->st_name;
  if (symbol->st_name >= library->strings_size || !memchr(name, 0, (size_t)(end - name))) fail("%s is damaged: a name is cut short", library->path);
  return name;
}

static uint64_t value_of(const Library *library, uint64_t index) {
  if (index >= library->count) fail("%s is damaged: a symbol is missing", library->path);
  const Elf64_Sym *symbol = &library->symbols[index];
  const char *name = name_of(library, symbol);
  if (symbol->st_shndx != SHN_UNDEF) return (uint64_t)inside(library, symbol->st_value, 0);
  void *found = own(name);
  if (!found && ELF64_ST_BIND(symbol->st_info) != STB_WEAK) fail("the library calls '%s', which this runner has not: run it with TVM", name);
  return (uint64_t)found;
}

static void relocate(const Library *library, uint64_t table, uint64_t bytes) {
  const Elf64_Rela *rows = inside(library, table, bytes);
  for (uint64_t k = 0; k < bytes / sizeof *rows; k++) {
    uint64_t *slot = inside(library, rows[k].r_offset, sizeof *slot), kind = ELF64_R_TYPE(rows[k].r_info), addend = (uint64_t)rows[k].r_addend;
    if (kind == RELATIVE) {
      *slot = (uint64_t)library->base + addend;
    } else if (kind == ABSOLUTE || kind == GLOBAL || kind == JUMP) {
      *slot = value_of(library, ELF64_R_SYM(rows[k].r_info)) + addend;
    } else {
      fail("%s needs relocations of kind %llu, which this runner does not know", library->path, (unsigned long long)kind);
    }
  }
}

static void link_up(Library *library, const Elf64_Phdr *dynamic) {
  uint64_t tags[40] = {0};
  const Elf64_Dyn *rows = inside(library, dynamic->p_vaddr, dynamic->p_memsz);
  for (uint64_t k = 0; k < dynamic->p_memsz / sizeof *rows && rows[k].d_tag != DT_NULL; k++) {
    if (rows[k].d_tag > 0 && rows[k].d_tag < 40) tags[rows[k].d_tag] = rows[k].d_un.d_val;
  }
  if (!tags[DT_HASH] || !tags[DT_SYMTAB] || !tags[DT_STRTAB] || tags[DT_INIT] || tags[DT_INIT_ARRAY] || tags[DT_REL] || tags[DT_TEXTREL])
    fail("%s is no library that TVM made", library->path);
  library->count = ((const uint32_t *)inside(library, tags[DT_HASH], 8))[1];
  library->symbols = inside(library, tags[DT_SYMTAB], library->count * sizeof(Elf64_Sym));
  library->strings_size = tags[DT_STRSZ];
  library->strings = inside(library, tags[DT_STRTAB], tags[DT_STRSZ]);
  relocate(library, tags[DT_RELA], tags[DT_RELASZ]);
  relocate(library, tags[DT_JMPREL], tags[DT_PLTRELSZ]);
}

Library *library_open(const char *path) {
  Library *library = calloc(1, sizeof *library);
  struct stat found;
  int file = open(path, O_RDONLY | O_CLOEXEC), count = 0;
  if (!library || file < 0 || fstat(file, &found)) fail("%s cannot be read (%s)", path, strerror(errno));
  library->path = path;
  Elf64_Phdr *parts = read_heads(path, file, (uint64_t)found.st_size, &count);
  map_all(library, file, (uint64_t)found.st_size, parts, count);
  close(file);
  for (int k = 0; k < count; k++) {
    if (parts[k].p_type == PT_DYNAMIC) link_up(library, &parts[k]);
  }
  free(parts);
  if (!library->symbols) fail("%s is no library that TVM made", path);
  return library;
}

void *library_symbol(const Library *library, const char *name) {
  for (uint64_t k = 0; k < library->count; k++) {
    const Elf64_Sym *symbol = &library->symbols[k];
    if (symbol->st_shndx != SHN_UNDEF && !strcmp(name_of(library, symbol), name)) return inside(library, symbol->st_value, 0);
  }
  return NULL;
}
