/* The short causal convolution on the CPU: a filter of at most four steps per channel.

   A thread takes some rows and channels and walks them up through time, a block of channels at a
   time: the filter and its gradient stay in the first cache, and each tensor is read from memory
   once. How many steps a filter reaches is decided once per row of channels, so that nothing of
   another episode is read and the inner loops have no branch.  */

#include <stdint.h>

#include "../shares.h"
#include "cpu.h"

/* Steps of the widest filter; channels in a block; steps summed before they go to double. */
enum { TAPS = 4, BLOCK = 256, SUM_STEPS = 64 };

/* `call(taps)` with a constant for `taps`, from which the compiler makes one loop for each. */
#define BY_TAPS(taps, call)                                                                        \
    switch (taps) {                                                                                \
    case 1: call(1); break;                                                                        \
    case 2: call(2); break;                                                                        \
    case 3: call(3); break;                                                                        \
    default: call(4);                                                                              \
    }

#define NAME(f) f##_f32
#define SCALAR float
#include "cpu_typed.h"

#define NAME(f) f##_f64
#define SCALAR double
#include "cpu_typed.h"

typedef void form(const rlmem_conv *conv, const share *mine);

static void take_shares(rlmem_conv *conv, form *const forms[]) {
    share mine;
    while (take_share(&conv->next, conv->rows, conv->row_cuts, conv->channels, conv->channel_cuts,
                      &mine))
        forms[conv->dtype](conv, &mine);
}

void rlmem_short_conv(rlmem_conv *conv) {
    static form *const forms[] = {forward_f32, forward_f64};
    take_shares(conv, forms);
}

void rlmem_short_conv_backward(rlmem_conv *conv) {
    static form *const forms[] = {backward_f32, backward_f64};
    take_shares(conv, forms);
}
