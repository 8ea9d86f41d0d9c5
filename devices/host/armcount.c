/* Count the A64 instructions a guest executes, by class: a plugin of qemu-aarch64 (plugin API 1: QEMU 4.2 to 8).
 *
 *   cc -O2 -shared -fPIC -o armcount.so armcount.c
 *   qemu-aarch64 -plugin ./armcount.so,out=FILE ...
 *
 * The guest marks a moment with getpriority(0x7e57, V), which does nothing else; each mark is a line of JSON in FILE
 * with the counts so far. Counting is a plain addition: only a guest of one thread is counted exactly.
 * The encodings are those of the Arm Architecture Reference Manual, "A64 instruction set encoding". */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define BITS(word, high, low) ((word) >> (low) & ((1u << ((high) - (low) + 1)) - 1))

enum { MARK_SYSCALL = 141 /* getpriority */, MARK_WHICH = 0x7e57, INLINE_ADD_U64 = 0 };

/* QEMU's plugin interface, from its documentation: no header of QEMU is needed to compile this. */
typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated_fn)(plugin_id, struct qemu_plugin_tb *);
typedef void (*exit_fn)(plugin_id, void *);
typedef void (*syscall_fn)(plugin_id, unsigned cpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated_fn);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, syscall_fn);
extern void qemu_plugin_register_atexit_cb(plugin_id, exit_fn, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
EXPORT int qemu_plugin_version = 1;

#define CLASSES(row)                                                                                                   \
    row(dp_imm) row(branch_sys) row(ldst_gpr) row(ldst_simd) row(dp_reg) row(fmla) row(dot) row(mmla) row(mlal_mull)    \
        row(simd_fp_other) row(sve) row(sme) row(other)
#define AS_ENUM(name) name,
#define AS_TEXT(name) #name,
enum { CLASSES(AS_ENUM) CLASS_COUNT };
static const char *const class_names[] = {CLASSES(AS_TEXT)};

static uint64_t counts[CLASS_COUNT];
static FILE *out;

static int simd_class(uint32_t word) {
    unsigned group = BITS(word, 31, 24) & 0x9f; /* without Q and U */
    if (group == 0x0e && !BITS(word, 21, 21) && BITS(word, 15, 15) && BITS(word, 10, 10)) { /* three same, extra */
        unsigned opcode = BITS(word, 14, 11);
        if (opcode == 2 || opcode == 3) return dot;  /* SDOT, UDOT, USDOT */
        if (opcode == 4 || opcode == 5) return mmla; /* SMMLA, UMMLA, USMMLA */
    }
    if (group == 0x0e && BITS(word, 21, 21)) { /* three same, three different */
        unsigned opcode = BITS(word, 15, 10);
        if (opcode == 0x33 && !BITS(word, 23, 23) && !BITS(word, 29, 29)) return fmla;
        if (opcode == 0x20 || opcode == 0x28 || opcode == 0x30) return mlal_mull; /* xMLAL, xMLSL, xMULL */
    }
    if (group == 0x0f && !BITS(word, 10, 10)) { /* by element */
        unsigned opcode = BITS(word, 15, 12);
        if (opcode == 1 && !BITS(word, 29, 29)) return fmla;
        if (opcode == 2 || opcode == 6 || opcode == 10) return mlal_mull;
        if (opcode == 14 || opcode == 15) return dot;
    }
    return BITS(word, 31, 24) == 0x1f ? fmla : simd_fp_other; /* 0x1f: scalar FMADD and its like */
}

static int class_of(uint32_t word) {
    unsigned op0 = BITS(word, 28, 25);
    if (op0 == 0) return word >> 31 ? sme : other;
    if (op0 == 2) return sve;
    if ((op0 & 14) == 8) return dp_imm;
    if ((op0 & 14) == 10) return branch_sys;
    if ((op0 & 5) == 4) return BITS(word, 26, 26) ? ldst_simd : ldst_gpr;
    if ((op0 & 7) == 5) return dp_reg;
    return (op0 & 7) == 7 ? simd_class(word) : other;
}

static void on_translated(plugin_id id, struct qemu_plugin_tb *block) {
    uint64_t in_block[CLASS_COUNT] = {0};
    size_t length = qemu_plugin_tb_n_insns(block);
    (void)id;
    for (size_t i = 0; i < length; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        in_block[class_of(word)]++;
    }
    for (int i = 0; i < CLASS_COUNT; i++)
        if (in_block[i]) qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &counts[i], in_block[i]);
}

static void on_syscall(plugin_id id, unsigned cpu, int64_t number, uint64_t which, uint64_t value, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    uint64_t total = 0;
    (void)id, (void)cpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARK_SYSCALL || which != MARK_WHICH) return;
    for (int i = 0; i < CLASS_COUNT; i++) total += counts[i];
    fprintf(out, "{\"mark\":%llu,\"total\":%llu", (unsigned long long)value, (unsigned long long)total);
    for (int i = 0; i < CLASS_COUNT; i++) fprintf(out, ",\"%s\":%llu", class_names[i], (unsigned long long)counts[i]);
    fputs("}\n", out);
    fflush(out);
}

static void on_end(plugin_id id, void *unused) {
    (void)id, (void)unused;
    fclose(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "w");
    if (!out) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
