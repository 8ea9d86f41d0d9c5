/* Count what a guest executes between two marks: a plugin of qemu-aarch64.
 *
 *   cc -O2 -shared -fPIC -DPLUGIN_API=1 -o armcount.so armcount.c       QEMU 4.2 to 8; 2 for 9.0, 3 for 9.1 and later
 *   qemu-aarch64 -plugin ./armcount.so,out=FILE[,blocks=FILE][,l1=BYTES:WAYS,l2=BYTES:WAYS[,l3=BYTES:WAYS]] ...
 *
 * The guest marks a moment with getpriority(0x7e57, V), which does nothing else. Each mark is a line of JSON in `out`:
 * the A64 instructions so far, by class. Each odd mark is also a paragraph in `blocks`, of what ran since the mark
 * before it:
 *
 *   block INDEX ADDRESS WORD...   a translated block that runs for the first time between marks, its instructions in hex
 *   mark V                        begins a paragraph
 *   ran INDEX COUNT               how often
 *   cache LEVEL MISSES STREAMED   the misses of a cache, and how many of them a prefetcher would have foreseen
 *
 * Counting is a plain addition: only a guest of one thread is counted exactly.
 * The encodings are those of the Arm Architecture Reference Manual, "A64 instruction set encoding". */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "armcaches.h"

#define EXPORT __attribute__((visibility("default")))
#define BITS(word, high, low) ((word) >> (low) & ((1u << ((high) - (low) + 1)) - 1))

enum { MARK_SYSCALL = 141 /* getpriority */, MARK_WHICH = 0x7e57, WARM_UP_WHICH = 0x7e58 };
enum { INLINE_ADD_U64 = 0, CB_NO_REGS = 0, MEM_READ_WRITE = 3 };

/* QEMU's plugin interface, from its documentation: no header of QEMU is needed to compile this. */
typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated_fn)(plugin_id, struct qemu_plugin_tb *);
typedef void (*exit_fn)(plugin_id, void *);
typedef void (*syscall_fn)(plugin_id, unsigned cpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
typedef void (*memory_fn)(unsigned cpu, uint32_t info, uint64_t address, void *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated_fn);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, syscall_fn);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, memory_fn, int flags, int access, void *);
extern void qemu_plugin_register_atexit_cb(plugin_id, exit_fn, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern unsigned qemu_plugin_mem_size_shift(uint32_t info);
EXPORT int qemu_plugin_version = PLUGIN_API;

/* A counter of how often a block runs. */
#if PLUGIN_API == 1
typedef uint64_t *counter;
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *, uint64_t);

static counter new_counter(void) { return calloc(1, sizeof(uint64_t)); }
static uint64_t counted(counter one) { return *one; }
static void count_runs(struct qemu_plugin_tb *block, counter one) {
    qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, one, 1);
}
#else
typedef struct {
    struct qemu_plugin_scoreboard *board;
    size_t offset;
} counter;
extern struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t);
extern uint64_t qemu_plugin_u64_sum(counter);
extern void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb *, int operation, counter, uint64_t);

static counter new_counter(void) {
    enum { ON_A_BOARD = 4096 };
    static struct qemu_plugin_scoreboard *board;
    static size_t used = ON_A_BOARD;
    if (used == ON_A_BOARD) board = qemu_plugin_scoreboard_new(ON_A_BOARD * sizeof(uint64_t)), used = 0;
    return (counter){board, sizeof(uint64_t) * used++};
}
static uint64_t counted(counter one) { return qemu_plugin_u64_sum(one); }
static void count_runs(struct qemu_plugin_tb *block, counter one) {
    qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(block, INLINE_ADD_U64, one, 1);
}
#endif

#if PLUGIN_API < 3
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
static uint32_t word_of(const struct qemu_plugin_insn *instruction) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
    return word;
}
#else
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
static uint32_t word_of(const struct qemu_plugin_insn *instruction) {
    uint32_t word = 0;
    qemu_plugin_insn_data(instruction, &word, sizeof word);
    return word;
}
#endif

#define CLASSES(row)                                                                                                   \
    row(dp_imm) row(branch_sys) row(ldst_gpr) row(ldst_simd) row(dp_reg) row(fmla) row(dot) row(mmla) row(mlal_mull)    \
        row(simd_fp_other) row(sve) row(sme) row(other)
#define AS_ENUM(name) name,
#define AS_TEXT(name) #name,
enum { CLASSES(AS_ENUM) CLASS_COUNT };
static const char *const class_names[] = {CLASSES(AS_TEXT)};

struct block {
    counter runs;
    uint64_t runs_before, address;
    int written;
    size_t length;
    uint32_t words[];
};

static struct block **blocks;
static size_t block_count, block_room;
static FILE *out, *out_blocks;
static struct caches caches;

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

static void on_memory(unsigned cpu, uint32_t info, uint64_t address, void *unused) {
    (void)cpu, (void)unused;
    if (caches.active) touch(&caches, address, 1u << qemu_plugin_mem_size_shift(info));
}

static void on_translated(plugin_id id, struct qemu_plugin_tb *translated) {
    size_t length = qemu_plugin_tb_n_insns(translated);
    struct block *block = calloc(1, sizeof *block + length * sizeof(uint32_t));
    (void)id;
    if (block_count == block_room) {
        block_room = block_room ? 2 * block_room : 4096;
        blocks = realloc(blocks, block_room * sizeof *blocks);
    }
    if (!block || !blocks) abort();
    blocks[block_count++] = block;
    block->runs = new_counter(), block->address = qemu_plugin_tb_vaddr(translated), block->length = length;
    for (size_t i = 0; i < length; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translated, i);
        int class = class_of(block->words[i] = word_of(instruction));
        if (caches.levels && (class == ldst_gpr || class == ldst_simd))
            qemu_plugin_register_vcpu_mem_cb(instruction, on_memory, CB_NO_REGS, MEM_READ_WRITE, NULL);
    }
    count_runs(translated, block->runs);
}

static void write_counts(uint64_t value) {
    uint64_t counts[CLASS_COUNT] = {0}, total = 0;
    for (size_t i = 0; i < block_count; i++) {
        uint64_t runs = counted(blocks[i]->runs);
        for (size_t j = 0; runs && j < blocks[i]->length; j++) counts[class_of(blocks[i]->words[j])] += runs;
    }
    for (int i = 0; i < CLASS_COUNT; i++) total += counts[i];
    fprintf(out, "{\"mark\":%llu,\"total\":%llu", (unsigned long long)value, (unsigned long long)total);
    for (int i = 0; i < CLASS_COUNT; i++) fprintf(out, ",\"%s\":%llu", class_names[i], (unsigned long long)counts[i]);
    fputs("}\n", out);
    fflush(out);
}

static void write_block(size_t index) {
    struct block *block = blocks[index];
    if (block->written++) return;
    fprintf(out_blocks, "block %zu %llx", index, (unsigned long long)block->address);
    for (size_t i = 0; i < block->length; i++) fprintf(out_blocks, " %08x", block->words[i]);
    fputc('\n', out_blocks);
}

static void write_runs(uint64_t value) {
    for (size_t i = 0; i < block_count; i++)
        if (counted(blocks[i]->runs) != blocks[i]->runs_before) write_block(i);
    fprintf(out_blocks, "mark %llu\n", (unsigned long long)value);
    for (size_t i = 0; i < block_count; i++) {
        uint64_t runs = counted(blocks[i]->runs) - blocks[i]->runs_before;
        if (runs) fprintf(out_blocks, "ran %zu %llu\n", i, (unsigned long long)runs);
    }
    for (int i = 0; i < caches.levels; i++)
        fprintf(out_blocks, "cache %d %llu %llu\n", i + 1, (unsigned long long)caches.level[i].misses,
                (unsigned long long)caches.level[i].streamed);
    fflush(out_blocks);
}

static void on_syscall(plugin_id id, unsigned cpu, int64_t number, uint64_t which, uint64_t value, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARK_SYSCALL || (which != MARK_WHICH && which != WARM_UP_WHICH)) return;
    caches.active = 1; /* the inferences that warm up fill the caches */
    if (which == WARM_UP_WHICH) return;
    write_counts(value);
    if (!out_blocks) return;
    if (value % 2) write_runs(value);
    for (size_t i = 0; i < block_count; i++) blocks[i]->runs_before = counted(blocks[i]->runs);
    forget_misses(&caches);
}

static void on_end(plugin_id id, void *unused) {
    (void)id, (void)unused;
    fclose(out);
    if (out_blocks) fclose(out_blocks);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        const char *option = argv[i], *value = strchr(option, '=');
        if (!value++) return -1;
        if (!strncmp(option, "out=", 4)) out = fopen(value, "w");
        else if (!strncmp(option, "blocks=", 7)) out_blocks = fopen(value, "w");
        else if (option[0] != 'l' || !add_level(&caches, value)) return -1;
    }
    if (!out) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
