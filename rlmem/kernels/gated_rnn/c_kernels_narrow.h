/* Float32 at level 2 with products of bfloat16, sums of float32: c_kernels.c includes this once.

   The rows of a product are rounded to pairs of neighbours in scratch memory, next to it. */

#define NARROW
#define NAME(f) f##_f32_3
#define SCALAR float
#define EXP rlmem_expf
#define TANH rlmem_tanhf
#define LOG1P rlmem_log1pf
#define BYTES 64
#define ROWS 4
#define BACK_ROWS 8

/* Rows of n numbers (a multiple of 32) as pairs. */
INLINE void narrow_rows(uint32_t *out, int64_t rows, int64_t n, const float *x, int64_t x_row) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i += 32)
            _mm512_storeu_si512(out + (r * n + i) / 2,
                                (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + r * x_row + i + 16),
                                                             _mm512_loadu_ps(x + r * x_row + i)));
}

/* out [rows, columns vectors] = (with `add`: +=) sums over `count` pairs, as `product` of floats. */
INLINE void narrow_product(const int rows, const int columns, const int add, float *out,
                           int64_t out_row, int64_t out_column, const uint32_t *x, int64_t x_row,
                           const uint32_t *w, int64_t count) {
    __m512 sum[8][4];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) sum[i][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < count; k++) {
        __m512bh right[4];
        UNROLL for (int j = 0; j < columns; j++)
            right[j] = (__m512bh)_mm512_loadu_si512(w + (k * columns + j) * 16);
        UNROLL for (int i = 0; i < rows; i++) {
            const __m512bh left = (__m512bh)_mm512_set1_epi32((int)x[i * x_row + k]);
            UNROLL for (int j = 0; j < columns; j++)
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], left, right[j]);
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) {
            float *at = out + i * out_row + j * out_column;
            _mm512_storeu_ps(at, add ? _mm512_add_ps(_mm512_loadu_ps(at), sum[i][j]) : sum[i][j]);
        }
}

/* Scratch memory for pairs: behind that of the other levels. */
INLINE uint32_t *pairs_of_scratch(const rlmem_rnn *a, const float *scratch) {
    return (uint32_t *)scratch + 8 * (MOST_ROWS + 1) * a->padded;
}

/* u [n, gates, P] = h [n, P] times the head's matrix. */
INLINE void recur_f32_3(const int gates, const rlmem_rnn *a, int64_t head, int64_t n, float *u,
                        const float *h) {
    const int64_t P = a->padded, blocks = (a->width + 15) / 16, count = (a->width + 1) / 2;
    const uint32_t *w = (const uint32_t *)a->weight + head * blocks * count * gates * 16;
    uint32_t *pairs = pairs_of_scratch(a, h);
    narrow_rows(pairs, (n + ROWS - 1) / ROWS * ROWS, P, h, P);
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t r = 0; r < n; r += ROWS)
            narrow_product(ROWS, gates, 0, u + r * 4 * P + block * 16, 4 * P, P, pairs + r * P / 2,
                           P / 2, w + block * count * gates * 16, count);
}

/* carry [n, P] += d [n, gates, P] times the transposed matrix. `carry` begins the scratch memory. */
INLINE void recur_back_f32_3(const rlmem_rnn *a, int64_t head, int64_t n, float *carry,
                             const float *d) {
    const int64_t P = a->padded, K = a->gates * P;
    const uint32_t *w = (const uint32_t *)a->weight + head * K / 2 * P;
    uint32_t *pairs = pairs_of_scratch(a, carry);
    narrow_rows(pairs, (n + BACK_ROWS - 1) / BACK_ROWS * BACK_ROWS, K, d, 4 * P);
    for (int64_t column = 0; column < P; column += 32)
        for (int64_t r = 0; r < n; r += BACK_ROWS)
            narrow_product(BACK_ROWS, 2, 1, carry + r * P + column, P, 16, pairs + r * K / 2, K / 2,
                           w + column * K / 2, K / 2);
}

#include "c_kernels_typed.h"
#undef NARROW
