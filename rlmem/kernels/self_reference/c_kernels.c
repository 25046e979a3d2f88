/* The self-referential weight matrix on the CPU.

   A work item is some matrices, each with all its time steps, during which it stays in the cache. A
   matrix is stored with its outputs along the rows, [D, R]: the loops over outputs, which are at
   least twice as many as the inputs, are then the inner ones.  */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../thread_split.h"
#include "c_kernels.h"

#include "../vector_math.h"

/* Partial sums of a dot product: one sum would allow no vectors. */
enum { LANES = 16, RATES = 4 };

#define NAME(f) f##_f32
#define SCALAR float
#define EXP rlmem_expf
#include "c_kernels_typed.h"

#define NAME(f) f##_f64
#define SCALAR double
#define EXP exp
#include "c_kernels_typed.h"

typedef void form(const rlmem_self_reference *job, const work_item *mine);

static void run_work_items(rlmem_self_reference *job, form *const forms[]) {
    work_item mine;
    while (take_work_item(&job->next, job->rows, job->row_splits, 1, 1, &mine))
        forms[job->dtype](job, &mine);
}

void rlmem_self_reference_forward(rlmem_self_reference *job) {
    static form *const forms[] = {forward_f32, forward_f64};
    run_work_items(job, forms);
}

void rlmem_self_reference_backward(rlmem_self_reference *job) {
    static form *const forms[] = {backward_f32, backward_f64};
    run_work_items(job, forms);
}
