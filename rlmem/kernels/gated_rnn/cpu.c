/* The gated recurrent networks on the CPU.

   A thread takes some rows of a head and walks them through all of time: their state, its gradient
   and the gates stay in the first cache, the matrix in the second, and each tensor of the row is
   touched once per pass. The matrix product of a step is a small one, [rows, D] by [D, G D], which
   tiles of sums held in registers do at the processor's full rate only where they fit its vectors:
   hence the whole loop is compiled once for each width, and not only its inner loops. The matrix
   lies packed in the order in which the tiles read it.  */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../shares.h"
#include "cpu.h"

/* Rows of a share at most, a multiple of all tiles' rows; steps summed before they go to double;
   rows of a large product that meet a tile while it is in the first cache. */
enum { MOST_ROWS = 16, SUM_STEPS = 64, BLOCK_ROWS = 64 };

/* The second is for loops whose arrays do not overlap, too many to be told apart at run time. */
#if defined(__GNUC__) && !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 8")
#define INDEPENDENT _Pragma("GCC ivdep")
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define UNROLL
#define INDEPENDENT
#endif

#include "cpu_math.h"

#define LEVEL 0
#define LEVEL_BYTES 16
#define LEVEL_ROWS 2
#define LEVEL_BACK_ROWS 4
#include "cpu_level.h"

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define WIDE
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define LEVEL 1
#define LEVEL_BYTES 32
#define LEVEL_ROWS 2
#define LEVEL_BACK_ROWS 4
#include "cpu_level.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define LEVEL 2
#define LEVEL_BYTES 64
#define LEVEL_ROWS 4
#define LEVEL_BACK_ROWS 8
#include "cpu_level.h"
#pragma GCC pop_options
#endif

int rlmem_gated_rnn_level(void) {
#if defined(WIDE)
    if (__builtin_cpu_supports("x86-64-v4")) return 2;
    if (__builtin_cpu_supports("x86-64-v3")) return 1;
#endif
    return 0;
}

int rlmem_gated_rnn_lanes(int level, int dtype) {
#if defined(WIDE)
    if (level == 2) return dtype ? LANES_f64_2 : LANES_f32_2;
    if (level == 1) return dtype ? LANES_f64_1 : LANES_f32_1;
#endif
    (void)level;
    return dtype ? LANES_f64_0 : LANES_f32_0;
}

typedef void form(const rlmem_rnn *rnn, const share *mine);

static void take_shares(rlmem_rnn *rnn, form *const forms[][2]) {
    share mine;
    while (take_share(&rnn->next, rnn->rows, rnn->row_cuts, rnn->heads, rnn->head_cuts, &mine))
        forms[rnn->level][rnn->dtype](rnn, &mine);
}

void rlmem_gated_rnn(rlmem_rnn *rnn) {
    static form *const forms[][2] = {
        {forward_f32_0, forward_f64_0},
#if defined(WIDE)
        {forward_f32_1, forward_f64_1},
        {forward_f32_2, forward_f64_2},
#endif
    };
    take_shares(rnn, forms);
}

void rlmem_gated_rnn_backward(rlmem_rnn *rnn) {
    static form *const forms[][2] = {
        {backward_f32_0, backward_f64_0},
#if defined(WIDE)
        {backward_f32_1, backward_f64_1},
        {backward_f32_2, backward_f64_2},
#endif
    };
    take_shares(rnn, forms);
}

typedef void multiply(const rlmem_product *product, const share *mine);

static void take_products(rlmem_product *product, multiply *const forms[][2]) {
    share mine;
    while (take_share(&product->next, product->rows, product->row_cuts, 1, 1, &mine))
        forms[product->level][product->dtype](product, &mine);
}

void rlmem_project(rlmem_product *product) {
    static multiply *const forms[][2] = {
        {project_f32_0, project_f64_0},
#if defined(WIDE)
        {project_f32_1, project_f64_1},
        {project_f32_2, project_f64_2},
#endif
    };
    take_products(product, forms);
}

void rlmem_gram(rlmem_product *product) {
    static multiply *const forms[][2] = {
        {gram_f32_0, gram_f64_0},
#if defined(WIDE)
        {gram_f32_1, gram_f64_1},
        {gram_f32_2, gram_f64_2},
#endif
    };
    take_products(product, forms);
}
