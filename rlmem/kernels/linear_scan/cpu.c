/* The diagonal linear recurrence on the CPU.

   A thread takes some rows and channels and walks them through all of time, a block of channels at
   a time, so that the carried state stays in the first cache and each tensor is touched once.
   The work is bound by memory; what is asked of the compiler is only that the inner loops over
   channels become vectors. Complex numbers are pairs of scalars, multiplied by the four-product
   formula without C's recovery of infinities, which would be a branch per element.  */

#include <stdint.h>
#include <string.h>

#include "../shares.h"
#include "cpu.h"

/* Scalars of carried state on the stack, steps summed before they go to double precision, and
   bytes read upwards at a time where time runs downwards. */
enum { BLOCK = 512, SUM_STEPS = 64, PIECE = 128 };

/* Does `row` for scalars [i, i + w) of [0, n). Going up in time a row is read from end to end, so
   that memory is read in one sweep. Going down in time the row is cut into pieces and the last comes
   first: the sweep is then downwards, which processors see coming too. Whole rows upwards while
   time goes down look like jumps, and were three times slower. */
#define BY_PIECES(row)                                                                             \
    do {                                                                                           \
        const int64_t piece = PIECE / (int64_t)sizeof(STORED), rest = way < 0 ? n % piece : n;      \
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
#define PARTS 1
#include "cpu_typed.h"

#define NAME(f) f##_f64
#define STORED double
#define CARRIED double
#define LOAD IDENTITY
#define STORE IDENTITY
#define PARTS 1
#include "cpu_typed.h"

#define NAME(f) f##_bf16
#define STORED bf16
#define CARRIED float
#define LOAD bf16_load
#define STORE bf16_store
#define PARTS 1
#include "cpu_typed.h"

#define NAME(f) f##_c64
#define STORED float
#define CARRIED float
#define LOAD IDENTITY
#define STORE IDENTITY
#define PARTS 2
#include "cpu_typed.h"

#define NAME(f) f##_c128
#define STORED double
#define CARRIED double
#define LOAD IDENTITY
#define STORE IDENTITY
#define PARTS 2
#include "cpu_typed.h"

typedef void form(const rlmem_scan *scan, const share *mine);

static void take_shares(rlmem_scan *scan, form *const forms[]) {
    share mine;
    while (take_share(&scan->next, scan->rows, scan->row_cuts, scan->channels, scan->channel_cuts,
                      &mine))
        forms[scan->dtype](scan, &mine);
}

void rlmem_linear_scan(rlmem_scan *scan) {
    static form *const forms[] = {forward_f32, forward_f64, forward_bf16, forward_c64,
                                  forward_c128};
    take_shares(scan, forms);
}

void rlmem_linear_scan_backward(rlmem_scan *scan) {
    static form *const forms[] = {backward_f32, backward_f64, backward_bf16, backward_c64,
                                  backward_c128};
    take_shares(scan, forms);
}
