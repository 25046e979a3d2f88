/* Recurrent cells with diagonal recurrent weights on the CPU.

   Channels do not interact. A work item is some rows and channels; each block of channels runs
   through all time steps with its state, its gradient and its weights in the first-level cache. The
   backward computes the gates again from the states, so that the forward stores these alone. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../thread_split.h"
#include "c_kernels.h"

#include "../vector_math.h"

/* Channels in a block; steps summed before adding to the doubles; most weights and states. */
enum { BLOCK = 128, SUM_STEPS = 64, WEIGHTS = 5, STATES = 2 };

/* The loops over channels read and write arrays that never overlap. */
#if defined(__GNUC__) && !defined(__clang__)
#define INDEPENDENT _Pragma("GCC ivdep")
#elif defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT
#endif

#define NAME(f) f##_f32
#define SCALAR float
#define EXP rlmem_expf
#define TANH rlmem_tanhf
#include "c_kernels_typed.h"

#define NAME(f) f##_f64
#define SCALAR double
#define EXP exp
#define TANH tanh
#include "c_kernels_typed.h"

typedef void form(const rlmem_diagonal_rnn *job, const work_item *mine);

static void run_work_items(rlmem_diagonal_rnn *job, form *const forms[2][2]) {
    work_item mine;
    while (take_work_item(&job->next, job->rows, job->row_splits, job->channels,
                          job->channel_splits, &mine))
        forms[job->cell][job->dtype](job, &mine);
}

void rlmem_diagonal_rnn_forward(rlmem_diagonal_rnn *job) {
    static form *const forms[2][2] = {{gru_forward_f32, gru_forward_f64},
                                      {lstm_forward_f32, lstm_forward_f64}};
    run_work_items(job, forms);
}

void rlmem_diagonal_rnn_backward(rlmem_diagonal_rnn *job) {
    static form *const forms[2][2] = {{gru_backward_f32, gru_backward_f64},
                                      {lstm_backward_f32, lstm_backward_f64}};
    run_work_items(job, forms);
}
