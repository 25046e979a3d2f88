/* Linear layers on the CPU with products of bfloat16, sums of float32.

   A processor with AVX512-BF16 multiplies and adds twice as many numbers of bfloat16 as of float32.
   The tensors in memory stay float32: a block of rows is rounded in the first-level cache, next to
   its product, so that no pass over memory converts anything. The steps after the product (bias,
   LayerNorm, leaky ReLU) and before the products of the gradients are done to the same block.

   An instruction multiplies pairs: sum[j] += left[0] right[j][0] + left[1] right[j][1]. So operands
   are packed as pairs (32 bits) along the dimension that is summed over: inputs in the forward
   product, outputs for the gradient of x, rows for that of the weight. */

#include <stdint.h>
#include <string.h>

#include "../thread_split.h"
#include "c_kernels.h"

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12

#include <immintrin.h>

/* Rows and vectors of a tile, whose sums fill 24 of 32 registers; numbers in a vector; rows of a
   block, a multiple of the tile's and even. */
enum { TILE_ROWS = 6, TILE_VECTORS = 4, LANES = 16, BLOCK = 96 };

typedef struct {
    /* Widths rounded up to whole vectors; pairs along each width; stride of rows of pairs. */
    int64_t x_width, y_width, x_pairs, y_pairs, x_stride, y_stride;
    /* Outputs rounded up to whole tiles, and then to whole vectors. */
    int64_t tiled_outputs, tiled_width;
    int64_t forward_room, backward_room;
} layout;

INLINE int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

INLINE layout layout_of(const rlmem_bf16_linear *a) {
    layout s;
    s.x_width = up(a->inputs, LANES);
    s.y_width = up(a->outputs, LANES);
    s.x_pairs = (a->inputs + 1) / 2;
    s.y_pairs = (a->outputs + 1) / 2;
    s.x_stride = up(a->inputs, 2 * LANES) / 2;
    s.y_stride = up(a->outputs, 2 * LANES) / 2;
    s.tiled_outputs = up(a->outputs, TILE_ROWS);
    s.tiled_width = up(s.tiled_outputs, LANES);
    s.forward_room = BLOCK * (s.x_stride + s.y_width);
    s.backward_room = BLOCK * (s.y_width + s.y_stride + s.x_width) +
                      BLOCK / 2 * (s.tiled_width + s.x_width) + 3 * s.y_width;
    return s;
}

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")
#include "c_kernels_x86.h"
#pragma GCC pop_options

int rlmem_bf16_linear_available(void) {
    return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
}

int64_t rlmem_bf16_linear_sizes(rlmem_bf16_linear *job, int backward) {
    const layout sizes = layout_of(job);
    job->room = backward ? sizes.backward_room : sizes.forward_room;
    job->weight_rows = sizes.tiled_outputs;
    job->weight_columns = sizes.x_width;
    job->vector_room = sizes.y_width;
    return backward ? sizes.y_pairs * sizes.x_width : sizes.x_pairs * sizes.y_width;
}

void rlmem_bf16_linear_pack(rlmem_bf16_linear *job, int backward) {
    if (backward)
        pack_back(job);
    else
        pack_forward(job);
}

void rlmem_bf16_linear_forward(rlmem_bf16_linear *job) {
    work_item mine;
    while (take_work_item(&job->next, job->rows, job->row_splits, 1, 1, &mine)) forward(job, &mine);
}

void rlmem_bf16_linear_backward(rlmem_bf16_linear *job) {
    work_item mine;
    while (take_work_item(&job->next, job->rows, job->row_splits, 1, 1, &mine))
        backward(job, &mine);
}

#else

int rlmem_bf16_linear_available(void) { return 0; }
int64_t rlmem_bf16_linear_sizes(rlmem_bf16_linear *job, int backward) {
    (void)job;
    (void)backward;
    return 0;
}
void rlmem_bf16_linear_pack(rlmem_bf16_linear *job, int backward) {
    (void)job;
    (void)backward;
}
void rlmem_bf16_linear_forward(rlmem_bf16_linear *job) { (void)job; }
void rlmem_bf16_linear_backward(rlmem_bf16_linear *job) { (void)job; }

#endif
