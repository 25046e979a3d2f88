/* Both passes for one type and one vector width. c_kernels.c includes this file once for each pair
   and defines

   NAME(f)            the function's name for the pair
   SCALAR             a number
   EXP, TANH, LOG1P   functions of a number
   BYTES              the size of a vector
   ROWS, BACK_ROWS    rows of a product's tile, forward and backward  */

#include "c_kernels_cells.h"

#if defined(__GNUC__) || defined(__clang__)
enum { NAME(LANES) = BYTES / sizeof(SCALAR) };
typedef SCALAR NAME(vector) __attribute__((vector_size(BYTES), aligned(sizeof(SCALAR)), may_alias));
#else
enum { NAME(LANES) = 1 };
typedef SCALAR NAME(vector);
#endif

/* out [rows, columns vectors] = (with `add`: +=) x [rows, K] w [K, columns vectors]; strides are in
   numbers. `rows` and `columns` are constants, so that the sums stay in registers. */
INLINE void NAME(product)(const int rows, const int columns, const int add, SCALAR *restrict out,
                          int64_t out_row, int64_t out_column, const SCALAR *restrict x,
                          int64_t x_row, int64_t x_step, const SCALAR *restrict w, int64_t w_step,
                          int64_t K) {
    NAME(vector) sum[8][4];
    const NAME(vector) zero = {0};
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) sum[i][j] = zero;
    for (int64_t k = 0; k < K; k++) {
        const NAME(vector) *w_k = (const NAME(vector) *)(w + k * w_step);
        NAME(vector) right[4];
        UNROLL for (int j = 0; j < columns; j++) right[j] = w_k[j];
        UNROLL for (int i = 0; i < rows; i++) {
            const SCALAR left = x[i * x_row + k * x_step];
            UNROLL for (int j = 0; j < columns; j++) sum[i][j] += left * right[j];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++) {
            NAME(vector) *at = (NAME(vector) *)(out + i * out_row + j * out_column);
            if (add)
                *at += sum[i][j];
            else
                *at = sum[i][j];
        }
}

#if !defined(NARROW)
/* u [n, gates, P] = h [n, P] times the head's matrix. */
INLINE void NAME(recur)(const int gates, const rlmem_rnn *a, int64_t head, int64_t n, SCALAR *u,
                        const SCALAR *h) {
    const int64_t D = a->width, P = a->padded, V = NAME(LANES), blocks = (D + V - 1) / V;
    const SCALAR *w = (const SCALAR *)a->weight + head * blocks * D * gates * V;
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t r = 0; r < n; r += ROWS)
            NAME(product)(ROWS, gates, 0, u + r * 4 * P + block * V, 4 * P, P, h + r * P, P, 1,
                          w + block * D * gates * V, gates * V, D);
}

/* carry [n, P] += d [n, gates, P] times the transposed matrix. */
INLINE void NAME(recur_back)(const rlmem_rnn *a, int64_t head, int64_t n, SCALAR *carry,
                             const SCALAR *d) {
    const int64_t P = a->padded, V = 2 * NAME(LANES), K = a->gates * P;
    const SCALAR *w = (const SCALAR *)a->weight + head * K * P;
    for (int64_t column = 0; column < P; column += V)
        for (int64_t r = 0; r < n; r += BACK_ROWS)
            NAME(product)(BACK_ROWS, 2, 1, carry + r * P + column, P, NAME(LANES), d + r * 4 * P,
                          4 * P, 1, w + column * K, V, K);
}
#endif

/* One step of a row. `s` holds its states in scratch memory, h first, `plane` numbers apart. */
INLINE void NAME(step)(const rlmem_rnn *a, int64_t row, int64_t t, int64_t head, SCALAR *u,
                       SCALAR *s, int64_t plane, SCALAR *unused) {
    const int64_t D = a->width, P = a->padded, H = a->heads, S = a->states;
    const int64_t at = (row * a->time + t) * H + head;
    const SCALAR *x = (const SCALAR *)a->projected + row * a->projected_row +
                      t * a->projected_time + head * a->gates * D;
    const SCALAR *b = (const SCALAR *)a->bias + head * 4 * D;
    SCALAR *h = (SCALAR *)a->h + at * D;
    SCALAR *act = a->activations ? (SCALAR *)a->activations + at * 4 * D : unused;
    SCALAR *saved = a->saved_states ? (SCALAR *)a->saved_states + at * (S - 1) * D : unused + 4 * P;
    switch (a->cell) {
    case 0: NAME(gru)(D, D, P, u, x, b, s, h, act); break;
    case 1: NAME(lstm)(D, D, P, u, x, b, s, h, act, s + plane, saved); break;
    case 2: NAME(slstm)(0, D, D, P, u, x, b, s, h, act, s + plane, plane, saved); break;
    default: NAME(slstm)(1, D, D, P, u, x, b, s, h, act, s + plane, plane, saved);
    }
}

/* All time steps of one head of rows [row0, row0 + n). */
INLINE void NAME(forward_rows)(const rlmem_rnn *a, int64_t row0, int64_t n, int64_t head,
                                SCALAR *scratch) {
    const int64_t T = a->time, D = a->width, P = a->padded, H = a->heads, S = a->states;
    const int64_t plane = MOST_ROWS * P;
    const uint8_t *start = (const uint8_t *)a->start;
    SCALAR *s = scratch, *u = s + 4 * plane, *unused = u + 4 * plane;
    memset(scratch, 0, (size_t)a->room * sizeof(SCALAR));
    for (int64_t r = 0; r < n; r++)
        for (int64_t k = 0; k < S; k++)
            memcpy(s + k * plane + r * P,
                   (const SCALAR *)a->state + (((row0 + r) * S + k) * H + head) * D,
                   (size_t)D * sizeof(SCALAR));
    for (int64_t t = 0; t < T; t++) {
        for (int64_t r = 0; r < n; r++)
            if (start && start[(row0 + r) * T + t])
                for (int64_t k = 0; k < S; k++)
                    memset(s + k * plane + r * P, 0, (size_t)D * sizeof(SCALAR));
        if (a->gates == 3)
            NAME(recur)(3, a, head, n, u, s);
        else
            NAME(recur)(4, a, head, n, u, s);
        for (int64_t r = 0; r < n; r++)
            NAME(step)(a, row0 + r, t, head, u + r * 4 * P, s + r * P, plane, unused);
    }
    for (int64_t r = 0; r < n; r++)
        for (int64_t k = 0; k < S; k++)
            memcpy((SCALAR *)a->last + (((row0 + r) * S + k) * H + head) * D,
                   s + k * plane + r * P, (size_t)D * sizeof(SCALAR));
}

/* The adjoint of one step of a row; `carry` and `d` are in scratch memory. */
INLINE void NAME(step_back)(const rlmem_rnn *a, int64_t row, int64_t t, int64_t head,
                            SCALAR *carry, int64_t plane, SCALAR *d, SCALAR *sum,
                            const SCALAR *zeros) {
    const int64_t T = a->time, D = a->width, P = a->padded, H = a->heads, S = a->states;
    const int64_t at = (row * T + t) * H + head, late = at - H;
    const int begun = a->start && ((const uint8_t *)a->start)[row * T + t];
    const SCALAR *h = (const SCALAR *)a->h, *saved = (const SCALAR *)a->saved_states;
    const SCALAR *first = (const SCALAR *)a->state + (row * S * H + head) * D;
    const SCALAR *before = begun ? zeros : t ? h + late * D : first;
    const SCALAR *b = begun ? zeros : t ? saved + late * (S - 1) * D : first + H * D;
    const int64_t b_plane = begun ? 0 : t ? D : H * D;
    const SCALAR *left = saved + at * (S - 1) * D;
    const SCALAR *act = (const SCALAR *)a->activations + at * 4 * D;
    const SCALAR *grad_h = a->grad_h ? (const SCALAR *)a->grad_h + row * a->grad_h_row +
                                           t * a->grad_h_time + head * D
                                     : zeros;
    SCALAR *grad_x = (SCALAR *)a->grad_projected + at * a->gates * D, *c = carry + plane;
    if (a->before) memcpy((SCALAR *)a->before + at * D, before, (size_t)D * sizeof(SCALAR));
    switch (a->cell) {
    case 0:
        NAME(gru_back)(D, D, P, act, before, grad_h, carry, d, grad_x,
                       (SCALAR *)a->grad_h_n + at * D, sum);
        break;
    case 1: NAME(lstm_back)(D, D, P, act, b, left, grad_h, carry, c, d, grad_x, sum); break;
    case 2:
        NAME(slstm_back)(0, D, D, P, act, b, b_plane, left, grad_h, carry, c, plane, d, grad_x,
                         sum);
        break;
    default:
        NAME(slstm_back)(1, D, D, P, act, b, b_plane, left, grad_h, carry, c, plane, d, grad_x,
                         sum);
    }
}

INLINE void NAME(flush)(const rlmem_rnn *a, double *total, SCALAR *sum) {
    for (int64_t p = 0; p < 4; p++)
        for (int64_t i = 0; i < a->width; i++) {
            total[p * a->width + i] += sum[p * a->padded + i];
            sum[p * a->padded + i] = 0;
        }
}

INLINE void NAME(backward_rows)(const rlmem_rnn *a, int64_t row0, int64_t n, int64_t head,
                                 SCALAR *scratch, double *grad_bias) {
    const int64_t T = a->time, D = a->width, P = a->padded, H = a->heads, S = a->states;
    const int64_t plane = MOST_ROWS * P;
    const uint8_t *start = (const uint8_t *)a->start;
    SCALAR *carry = scratch, *d = carry + 4 * plane, *sum = d + 4 * plane, *zeros = sum + 4 * P;
    memset(scratch, 0, (size_t)a->room * sizeof(SCALAR));
    for (int64_t r = 0; a->grad_last && r < n; r++)
        for (int64_t k = 0; k < S; k++)
            memcpy(carry + k * plane + r * P,
                   (const SCALAR *)a->grad_last + (((row0 + r) * S + k) * H + head) * D,
                   (size_t)D * sizeof(SCALAR));
    for (int64_t t = T - 1; t >= 0; t--) {
        for (int64_t r = 0; r < n; r++)
            NAME(step_back)(a, row0 + r, t, head, carry + r * P, plane, d + r * 4 * P, sum, zeros);
        NAME(recur_back)(a, head, n, carry, d);
        for (int64_t r = 0; r < n; r++)
            if (start && start[(row0 + r) * T + t])
                for (int64_t k = 0; k < S; k++)
                    memset(carry + k * plane + r * P, 0, (size_t)P * sizeof(SCALAR));
        if (t % SUM_STEPS == 0) NAME(flush)(a, grad_bias, sum);
    }
    for (int64_t r = 0; r < n; r++)
        for (int64_t k = 0; k < S; k++)
            memcpy((SCALAR *)a->grad_state + (((row0 + r) * S + k) * H + head) * D,
                   carry + k * plane + r * P, (size_t)D * sizeof(SCALAR));
}

#if !defined(NARROW)
/* Rows [row0, row1) of y = x times the matrix; its columns are whole tiles. */
static void NAME(project)(const rlmem_product *a, const work_item *mine) {
    const int64_t K = a->inputs, M = a->outputs, V = NAME(LANES);
    for (int64_t row = mine->row0; row < mine->row1; row += BLOCK_ROWS) {
        const int64_t left = mine->row1 - row, n = left < BLOCK_ROWS ? left : BLOCK_ROWS;
        const SCALAR *x = (const SCALAR *)a->x + row * a->x_row;
        SCALAR *y = (SCALAR *)a->y + row * M;
        for (int64_t column = 0; column < M; column += 2 * V) {
            const SCALAR *w = (const SCALAR *)a->weight + column * K;
            int64_t r = 0;
            for (; r + BACK_ROWS <= n; r += BACK_ROWS)
                NAME(product)(BACK_ROWS, 2, 0, y + r * M + column, M, V, x + r * a->x_row,
                              a->x_row, 1, w, 2 * V, K);
            for (; r < n; r++)
                NAME(product)(1, 2, 0, y + r * M + column, M, V, x + r * a->x_row, a->x_row, 1, w,
                              2 * V, K);
        }
    }
}

/* weight += x^T y over rows [row0, row1); the columns of y are whole tiles. */
static void NAME(gram)(const rlmem_product *a, const work_item *mine) {
    const int64_t K = a->inputs, M = a->outputs, V = NAME(LANES);
    SCALAR *sum = (SCALAR *)a->weight + mine->index * K * M;
    for (int64_t row = mine->row0; row < mine->row1; row += BLOCK_ROWS) {
        const int64_t left = mine->row1 - row, n = left < BLOCK_ROWS ? left : BLOCK_ROWS;
        const SCALAR *x = (const SCALAR *)a->x + row * a->x_row;
        const SCALAR *y = (const SCALAR *)a->y + row * a->y_row;
        for (int64_t column = 0; column < M; column += 2 * V) {
            int64_t k = 0;
            for (; k + BACK_ROWS <= K; k += BACK_ROWS)
                NAME(product)(BACK_ROWS, 2, 1, sum + k * M + column, M, V, x + k, 1, a->x_row,
                              y + column, a->y_row, n);
            for (; k < K; k++)
                NAME(product)(1, 2, 1, sum + k * M + column, M, V, x + k, 1, a->x_row, y + column,
                              a->y_row, n);
        }
    }
}
#endif

static void NAME(forward)(const rlmem_rnn *a, const work_item *mine) {
    SCALAR *scratch = (SCALAR *)a->scratch + mine->index * a->room;
    for (int64_t head = mine->channel0; head < mine->channel1; head++)
        NAME(forward_rows)(a, mine->row0, mine->row1 - mine->row0, head, scratch);
}

static void NAME(backward)(const rlmem_rnn *a, const work_item *mine) {
    SCALAR *scratch = (SCALAR *)a->scratch + mine->index * a->room;
    double *grad_bias = (double *)a->grad_bias +
                        mine->index / a->head_splits * a->heads * 4 * a->width;
    for (int64_t head = mine->channel0; head < mine->channel1; head++)
        NAME(backward_rows)(a, mine->row0, mine->row1 - mine->row0, head, scratch,
                             grad_bias + head * 4 * a->width);
}

#undef NAME
#undef SCALAR
#undef EXP
#undef TANH
#undef LOG1P
#undef BYTES
#undef ROWS
#undef BACK_ROWS
