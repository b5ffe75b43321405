// QEMU user-mode plugin: instructions that an AArch64 program executed, by class.
// Each getppid() of the program writes the counts so far to the file that out= names, as
// five unsigned 64-bit numbers: load, store, simd, branch, integer.
// Version 1 of the interface of QEMU's plugins; declared here, since no package ships its header.
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t id_t_;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated)(id_t_, struct qemu_plugin_tb *);
typedef void (*called)(id_t_, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(id_t_, translated);
void qemu_plugin_register_vcpu_syscall_cb(id_t_, called);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int op, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

enum { INLINE_ADD = 0, GETPPID = 173 };
enum { LOAD, STORE, SIMD, BRANCH, INTEGER, CLASSES };

__attribute__((visibility("default"))) int qemu_plugin_version = 1;
static uint64_t counts[CLASSES];
static int out = -1;

// Arm Architecture Reference Manual, C4.1: bits 28 to 25 say the group.
static int class_of(uint32_t word) {
  const unsigned group = word >> 25 & 15;
  if ((group & 5) == 4) {
    const int by_register = (word >> 28 & 3) == 3, vector = word >> 26 & 1;
    const int literal = (word >> 27 & 7) == 3 && !(word >> 24 & 1);
    const int loads = word >> 22 & 1 || literal || (by_register && !vector && word >> 23 & 1);
    return loads ? LOAD : STORE;
  }
  if ((group & 7) == 7) return SIMD;
  return (group & 14) == 10 ? BRANCH : INTEGER;
}

static void translate(id_t_ id, struct qemu_plugin_tb *block) {
  (void)id;
  uint64_t own[CLASSES] = {0};
  const size_t length = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < length; i++) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
    own[class_of(word)]++;
  }
  for (int c = 0; c < CLASSES; c++)
    if (own[c]) qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD, &counts[c], own[c]);
}

static void syscalled(id_t_ id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                      uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == GETPPID && pwrite(out, counts, sizeof counts, 0) != sizeof counts) _exit(74);
}

__attribute__((visibility("default"))) int qemu_plugin_install(id_t_ id, const void *info,
                                                               int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; i++)
    if (!strncmp(argv[i], "out=", 4)) out = open(argv[i] + 4, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (out < 0) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  qemu_plugin_register_vcpu_syscall_cb(id, syscalled);
  return 0;
}
