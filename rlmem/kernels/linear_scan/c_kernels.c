/* The diagonal linear recurrence on the CPU.

   A work item is some rows and channels. It runs through all time steps once per block of channels,
   so that the carried state stays in the first-level cache and each tensor is read once. The kernel
   is bound by memory; the compiler only has to vectorise the inner loops over channels. Complex
   numbers are pairs of scalars, multiplied by the four-product formula without C's recovery of
   infinities, which would cost a branch per element.  */

#include <stdint.h>
#include <string.h>

#include "../thread_split.h"
#include "c_kernels.h"

/* Scalars of carried state on the stack, steps summed before adding to the doubles, and bytes read
   upwards at a time when time runs downwards. */
enum { BLOCK = 512, SUM_STEPS = 64, PIECE = 128 };

/* Runs `row` for scalars [i, i + w) of [0, n). If time runs upwards, a row is read from end to end:
   memory is read in one upward sweep. If time runs downwards, the row is cut into pieces, the last
   one first: memory is read in one downward sweep, which processors prefetch too. Whole rows read
   upwards while time runs downwards look like random jumps, and were three times slower. */
#define BY_PIECES(row)                                                                             \
    do {                                                                                           \
        const int64_t piece = PIECE / (int64_t)sizeof(STORED);                                     \
        const int64_t rest = direction < 0 ? n % piece : n;                                        \
        if (rest) {                                                                                \
            const int64_t i = n - rest, w = rest;                                                  \
            row;                                                                                   \
        }                                                                                          \
        for (int64_t i = n - rest - piece; i >= 0; i -= piece) {                                   \
            const int64_t w = piece;                                                               \
            row;                                                                                   \
        }                                                                                          \
    } while (0)

typedef uint16_t bf16;

INLINE float bf16_load(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* Round to nearest, ties to even. */
INLINE bf16 bf16_store(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (bf16)(x == x ? rounded : 0x7fc0u);
}

#define IDENTITY(x) (x)

#define NAME(f) f##_f32
#define STORED float
#define CARRIED float
#define LOAD IDENTITY
#define STORE IDENTITY
#define COMPONENTS 1
#include "c_kernels_typed.h"

#define NAME(f) f##_f64
#define STORED double
#define CARRIED double
#define LOAD IDENTITY
#define STORE IDENTITY
#define COMPONENTS 1
#include "c_kernels_typed.h"

#define NAME(f) f##_bf16
#define STORED bf16
#define CARRIED float
#define LOAD bf16_load
#define STORE bf16_store
#define COMPONENTS 1
#include "c_kernels_typed.h"

#define NAME(f) f##_c64
#define STORED float
#define CARRIED float
#define LOAD IDENTITY
#define STORE IDENTITY
#define COMPONENTS 2
#include "c_kernels_typed.h"

#define NAME(f) f##_c128
#define STORED double
#define CARRIED double
#define LOAD IDENTITY
#define STORE IDENTITY
#define COMPONENTS 2
#include "c_kernels_typed.h"

typedef void form(const rlmem_scan *scan, const work_item *mine);

static void run_work_items(rlmem_scan *scan, form *const forms[]) {
    work_item mine;
    while (take_work_item(&scan->next, scan->rows, scan->row_splits, scan->channels,
                          scan->channel_splits, &mine))
        forms[scan->dtype](scan, &mine);
}

void rlmem_linear_scan(rlmem_scan *scan) {
    static form *const forms[] = {forward_f32, forward_f64, forward_bf16, forward_c64,
                                  forward_c128};
    run_work_items(scan, forms);
}

void rlmem_linear_scan_backward(rlmem_scan *scan) {
    static form *const forms[] = {backward_f32, backward_f64, backward_bf16, backward_c64,
                                  backward_c128};
    run_work_items(scan, forms);
}
