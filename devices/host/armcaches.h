/* Data caches of an Arm core: set-associative, least recently used, lines of 64 bytes, a write fetches its line.
 *
 * A miss is "streamed" where the line before or after it was missed not long ago: the prefetchers of these cores follow
 * such streams, so its latency is hidden and only its bytes cost time. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_SHIFT = 6, MAX_LEVELS = 3, STREAMS = 16, AHEAD = 3 };

struct level {
    uint64_t *lines; /* sets x ways, the latest first; 0 is empty, others are line + 1 */
    size_t sets, ways;
    uint64_t misses, streamed;
    uint64_t stream[STREAMS];
    unsigned next_stream;
};

struct caches {
    int active, levels;
    struct level level[MAX_LEVELS];
};

/* "32768:2" is a cache of 32 KiB and 2 ways, below those added before. 0 where that is not possible. */
static int add_level(struct caches *caches, const char *text) {
    unsigned long bytes, ways;
    struct level *level = &caches->level[caches->levels];
    if (caches->levels == MAX_LEVELS || sscanf(text, "%lu:%lu", &bytes, &ways) != 2 || !ways) return 0;
    level->ways = ways, level->sets = (bytes >> LINE_SHIFT) / ways;
    level->lines = level->sets ? calloc(level->sets * ways, sizeof *level->lines) : NULL;
    if (!level->lines) return 0;
    caches->levels++;
    return 1;
}

static void forget_misses(struct caches *caches) {
    for (int i = 0; i < caches->levels; i++) caches->level[i].misses = caches->level[i].streamed = 0;
}

/* Whether the line was there; it is now, as the latest of its set. */
static int hit(struct level *level, uint64_t line) {
    uint64_t *set = level->lines + line % level->sets * level->ways;
    size_t way = 0;
    while (way < level->ways - 1 && set[way] != line + 1) way++;
    int found = set[way] == line + 1;
    memmove(set + 1, set, way * sizeof *set);
    set[0] = line + 1;
    return found;
}

static int in_stream(struct level *level, uint64_t line) {
    for (int i = 0; i < STREAMS; i++) {
        int64_t step = (int64_t)(line - level->stream[i]);
        if (step && step >= -AHEAD && step <= AHEAD) {
            level->stream[i] = line;
            return 1;
        }
    }
    level->stream[level->next_stream++ % STREAMS] = line;
    return 0;
}

static void touch(struct caches *caches, uint64_t address, unsigned bytes) {
    for (uint64_t line = address >> LINE_SHIFT; line <= (address + bytes - 1) >> LINE_SHIFT; line++)
        for (int i = 0; i < caches->levels && !hit(&caches->level[i], line); i++) {
            caches->level[i].misses++;
            caches->level[i].streamed += in_stream(&caches->level[i], line);
        }
}
