/* The short causal convolution on the CPU: a filter of at most four steps per channel.

   A work item is some rows and channels. It runs through time once per block of channels, so that
   the filter and its gradient stay in the first-level cache and each tensor is read from memory
   once. The reach of the filter is decided once per step and block: steps of other episodes are
   never read, and the inner loops have no branch.  */

#include <stdint.h>

#include "../thread_split.h"
#include "c_kernels.h"

/* Steps of the widest filter; channels in a block; steps summed before adding to the doubles. */
enum { TAPS = 4, BLOCK = 256, SUM_STEPS = 64 };

/* `call(taps)` with a constant for `taps`: the compiler makes one specialised loop for each. */
#define BY_TAPS(taps, call)                                                                        \
    switch (taps) {                                                                                \
    case 1: call(1); break;                                                                        \
    case 2: call(2); break;                                                                        \
    case 3: call(3); break;                                                                        \
    default: call(4);                                                                              \
    }

#define NAME(f) f##_f32
#define SCALAR float
#include "c_kernels_typed.h"

#define NAME(f) f##_f64
#define SCALAR double
#include "c_kernels_typed.h"

typedef void form(const rlmem_conv *conv, const work_item *mine);

static void run_work_items(rlmem_conv *conv, form *const forms[]) {
    work_item mine;
    while (take_work_item(&conv->next, conv->rows, conv->row_splits, conv->channels,
                          conv->channel_splits, &mine))
        forms[conv->dtype](conv, &mine);
}

void rlmem_short_conv(rlmem_conv *conv) {
    static form *const forms[] = {forward_f32, forward_f64};
    run_work_items(conv, forms);
}

void rlmem_short_conv_backward(rlmem_conv *conv) {
    static form *const forms[] = {backward_f32, backward_f64};
    run_work_items(conv, forms);
}
