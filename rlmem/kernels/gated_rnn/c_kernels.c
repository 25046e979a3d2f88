/* The gated recurrent networks on the CPU.

   A work item is some rows of one head; it runs through all time steps. The rows' states, their
   gradients and the gates stay in the first-level cache, the matrix in the second, and each tensor
   is read once per pass. The matrix product of a step is small, [rows, D] by [D, G D]. Its tiles of
   sums in registers reach the processor's full rate only if they fit its vectors: hence the whole
   loop, not only its inner loops, is compiled once for each vector width. The matrix is packed in
   the order in which the tiles read it.  */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../thread_split.h"
#include "c_kernels.h"

/* Maximum rows of a work item, a multiple of every tile's rows; steps summed before adding to the
   doubles; rows of a large product multiplied by a tile while it is in the first-level cache. */
enum { MOST_ROWS = 16, SUM_STEPS = 64, BLOCK_ROWS = 64 };

/* INDEPENDENT marks loops over arrays that never overlap, too many for checks at run time. */
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

#include "../vector_math.h"

#define LEVEL 0
#define LEVEL_BYTES 16
#define LEVEL_ROWS 2
#define LEVEL_BACK_ROWS 4
#include "c_kernels_level.h"

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define WIDE
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define LEVEL 1
#define LEVEL_BYTES 32
#define LEVEL_ROWS 2
#define LEVEL_BACK_ROWS 4
#include "c_kernels_level.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define LEVEL 2
#define LEVEL_BYTES 64
#define LEVEL_ROWS 4
#define LEVEL_BACK_ROWS 8
#include "c_kernels_level.h"
#pragma GCC pop_options

/* Products of bfloat16, for float32 tensors. */
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")
#include "c_kernels_narrow.h"
#pragma GCC pop_options
#endif

int rlmem_gated_rnn_narrow(void) {
#if defined(WIDE)
    return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
#else
    return 0;
#endif
}

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

typedef void form(const rlmem_rnn *rnn, const work_item *mine);

static void run_work_items(rlmem_rnn *rnn, form *const forms[][2]) {
    work_item mine;
    while (take_work_item(&rnn->next, rnn->rows, rnn->row_splits, rnn->heads, rnn->head_splits,
                          &mine))
        forms[rnn->level][rnn->dtype](rnn, &mine);
}

void rlmem_gated_rnn(rlmem_rnn *rnn) {
    static form *const forms[][2] = {
        {forward_f32_0, forward_f64_0},
#if defined(WIDE)
        {forward_f32_1, forward_f64_1},
        {forward_f32_2, forward_f64_2},
        {forward_f32_3, 0},
#endif
    };
    run_work_items(rnn, forms);
}

void rlmem_gated_rnn_backward(rlmem_rnn *rnn) {
    static form *const forms[][2] = {
        {backward_f32_0, backward_f64_0},
#if defined(WIDE)
        {backward_f32_1, backward_f64_1},
        {backward_f32_2, backward_f64_2},
        {backward_f32_3, 0},
#endif
    };
    run_work_items(rnn, forms);
}

typedef void multiply(const rlmem_product *product, const work_item *mine);

static void run_products(rlmem_product *product, multiply *const forms[][2]) {
    work_item mine;
    while (take_work_item(&product->next, product->rows, product->row_splits, 1, 1, &mine))
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
    run_products(product, forms);
}

void rlmem_gram(rlmem_product *product) {
    static multiply *const forms[][2] = {
        {gram_f32_0, gram_f64_0},
#if defined(WIDE)
        {gram_f32_1, gram_f64_1},
        {gram_f32_2, gram_f64_2},
#endif
    };
    run_products(product, forms);
}
