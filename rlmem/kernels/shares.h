/* What the kernels in C share: how the compiler is asked for vectors, and work cut into shares. */

#pragma once

#include <stdint.h>

/* One binary for all machines: the loader picks the widest vectors the processor has. The levels
   are chosen by feature; a processor's name (arch=haswell) would match no other maker's. */
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

/* The value before adding one, for all threads. */
#if defined(_MSC_VER)
#include <intrin.h>
#define TAKE(counter) _InterlockedExchangeAdd64(counter, 1)
#else
#define TAKE(counter) __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED)
#endif

/* One thread's part of the work: rows [row0, row1), channels [channel0, channel1). */
typedef struct {
    int64_t index, row0, row1, channel0, channel1;
} share;

/* The next share that no thread has taken yet; 0 when there are none left. */
INLINE int take_share(int64_t *next, int64_t rows, int64_t row_cuts, int64_t channels,
                      int64_t channel_cuts, share *mine) {
    const int64_t i = TAKE(next), row_cut = i / channel_cuts, channel_cut = i % channel_cuts;
    mine->index = i;
    mine->row0 = rows * row_cut / row_cuts;
    mine->row1 = rows * (row_cut + 1) / row_cuts;
    mine->channel0 = channels * channel_cut / channel_cuts;
    mine->channel1 = channels * (channel_cut + 1) / channel_cuts;
    return i < row_cuts * channel_cuts;
}
