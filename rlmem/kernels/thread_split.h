/* Shared parts of the kernels in C: attributes for vectorisation, and work items for threads. */

#pragma once

#include <stdint.h>

/* One binary for all machines: the loader picks the widest vectors of the processor. Levels are
   chosen by feature, because a processor's name (arch=haswell) would match only one maker. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define MULTIVERSION __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MULTIVERSION
#endif

#if defined(_MSC_VER)
#define INLINE static __forceinline
#define restrict __restrict
#else
#define INLINE static inline __attribute__((always_inline))
#endif

/* Atomically adds one; returns the value before. */
#if defined(_MSC_VER)
#include <intrin.h>
#define TAKE(counter) _InterlockedExchangeAdd64(counter, 1)
#else
#define TAKE(counter) __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED)
#endif

/* A work item, computed by one thread: rows [row0, row1), channels [channel0, channel1). */
typedef struct {
    int64_t index, row0, row1, channel0, channel1;
} work_item;

/* Takes the next free work item; returns 0 if there are none left. */
INLINE int take_work_item(int64_t *next, int64_t rows, int64_t row_splits, int64_t channels,
                          int64_t channel_splits, work_item *mine) {
    const int64_t i = TAKE(next);
    const int64_t row_split = i / channel_splits, channel_split = i % channel_splits;
    mine->index = i;
    mine->row0 = rows * row_split / row_splits;
    mine->row1 = rows * (row_split + 1) / row_splits;
    mine->channel0 = channels * channel_split / channel_splits;
    mine->channel1 = channels * (channel_split + 1) / channel_splits;
    return i < row_splits * channel_splits;
}
