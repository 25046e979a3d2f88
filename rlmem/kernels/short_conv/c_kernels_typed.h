/* Both passes for one type; c_kernels.c includes this file once per type and defines

   NAME(f)    the function's name for this type
   SCALAR     a number

   A filter and its gradient have one row of BLOCK numbers per step, the newest step first.  */

/* y = bias + sum of weight[j] * x[j] over j < taps; all four x are valid addresses. */
INLINE void NAME(filter)(const int taps, SCALAR *restrict y, const SCALAR *restrict weight,
                         const SCALAR *const x[TAPS], int64_t n) {
    const SCALAR *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    for (int64_t i = 0; i < n; i++) {
        SCALAR sum = weight[TAPS * BLOCK + i] + weight[i] * x0[i];
        if (taps > 1) sum += weight[BLOCK + i] * x1[i];
        if (taps > 2) sum += weight[2 * BLOCK + i] * x2[i];
        if (taps > 3) sum += weight[3 * BLOCK + i] * x3[i];
        y[i] = sum;
    }
}

/* grad_x = sum of weight[j] * g[j], where g[j] is the gradient of y at j steps later. Adds this x's
   contributions to the gradients of the filter and the bias to `sums`. */
INLINE void NAME(filter_back)(const int taps, SCALAR *restrict grad_x, SCALAR *restrict sums,
                              const SCALAR *restrict weight, const SCALAR *const g[TAPS],
                              const SCALAR *x, int64_t n) {
    const SCALAR *g0 = g[0], *g1 = g[1], *g2 = g[2], *g3 = g[3];
    for (int64_t i = 0; i < n; i++) {
        const SCALAR x_i = x[i], g_i = g0[i];
        SCALAR grad = weight[i] * g_i;
        sums[i] += g_i * x_i;
        sums[TAPS * BLOCK + i] += g_i;
#define LATER(j, g_j)                                                                              \
    if (taps > j) {                                                                                \
        grad += weight[j * BLOCK + i] * g_j[i];                                                    \
        sums[j * BLOCK + i] += g_j[i] * x_i;                                                       \
    }
        LATER(1, g1)
        LATER(2, g2)
        LATER(3, g3)
#undef LATER
        grad_x[i] = grad;
    }
}

/* One step of the filter for an x before the row: adds to grad_x and to one row of `sums`. */
INLINE void NAME(tap_back)(SCALAR *restrict grad_x, SCALAR *restrict sum,
                           const SCALAR *restrict weight, const SCALAR *restrict g,
                           const SCALAR *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        grad_x[i] += weight[i] * g[i];
        sum[i] += g[i] * x[i];
    }
}

/* Copies channels [c, c + n) of the filter, and of the bias as the last row. */
INLINE void NAME(load_filter)(const rlmem_conv *a, SCALAR *restrict block, int64_t c, int64_t n) {
    const SCALAR *weight = (const SCALAR *)a->weight + c, *bias = (const SCALAR *)a->bias + c;
    for (int64_t j = 0; j < a->size; j++)
        for (int64_t i = 0; i < n; i++) block[j * BLOCK + i] = weight[j * a->channels + i];
    for (int64_t i = 0; a->bias && i < n; i++) block[TAPS * BLOCK + i] = bias[i];
}

INLINE void NAME(flush)(double *restrict total, SCALAR *restrict sums, int64_t D, int64_t n) {
    for (int64_t j = 0; j <= TAPS; j++)
        for (int64_t i = 0; i < n; i++) {
            total[j * D + i] += sums[j * BLOCK + i];
            sums[j * BLOCK + i] = 0;
        }
}

/* One row, channels [c, c + n), all time steps. */
INLINE void NAME(forward_block)(const rlmem_conv *a, const SCALAR *weight, int64_t row, int64_t c,
                                int64_t n) {
    const int64_t T = a->time, D = a->channels, W = a->size;
    const uint8_t *start = (const uint8_t *)a->start + row * T;
    const SCALAR *x = (const SCALAR *)a->x + row * a->x_row + c;
    const SCALAR *window = (const SCALAR *)a->window + row * (W - 1) * D + c;
    SCALAR *y = (SCALAR *)a->y + row * T * D + c;
    int64_t taps = W;
    for (int64_t t = 0; t < T; t++) {
        taps = start[t] ? 1 : taps < W ? taps + 1 : W;
        const SCALAR *past[TAPS];
        for (int64_t j = 0; j < TAPS; j++)
            past[j] = j >= taps ? x : t >= j ? x + (t - j) * a->x_time : window + (W - 1 + t - j) * D;
#define FILTER(taps) NAME(filter)(taps, y + t * D, weight, past, n)
        BY_TAPS(taps, FILTER)
#undef FILTER
    }
}

/* The exclusive end of the offsets j at which step s + j uses x[s]. */
INLINE int64_t NAME(reach)(const uint8_t *start, int64_t s, int64_t size, int64_t time) {
    int64_t j = s < 0 ? -s : 1;
    if (s < 0 && start[0]) return 0;
    if (s < 0) j++;
    while (j < size && s + j < time && !start[s + j]) j++;
    return j;
}

INLINE void NAME(backward_window)(const rlmem_conv *a, const SCALAR *weight, SCALAR *sums,
                                  int64_t row, int64_t c, int64_t n) {
    const int64_t D = a->channels, W = a->size, base = row * (W - 1) * D + c;
    const uint8_t *start = (const uint8_t *)a->start + row * a->time;
    const SCALAR *grad_y = (const SCALAR *)a->grad_y + row * a->grad_y_row + c;
    for (int64_t s = 1 - W; s < 0; s++) {
        const SCALAR *x = (const SCALAR *)a->window + base + (W - 1 + s) * D;
        SCALAR *grad_x = (SCALAR *)a->grad_window + base + (W - 1 + s) * D;
        for (int64_t i = 0; i < n; i++) grad_x[i] = 0;
        const int64_t end = NAME(reach)(start, s, W, a->time);
        for (int64_t j = -s; j < end; j++)
            NAME(tap_back)(grad_x, sums + j * BLOCK, weight + j * BLOCK,
                           grad_y + (s + j) * a->grad_y_time, x, n);
    }
}

INLINE void NAME(backward_block)(const rlmem_conv *a, const SCALAR *weight, double *total,
                                 int64_t row, int64_t c, int64_t n) {
    const int64_t T = a->time, D = a->channels;
    const uint8_t *start = (const uint8_t *)a->start + row * T;
    const SCALAR *x = (const SCALAR *)a->x + row * a->x_row + c;
    const SCALAR *grad_y = (const SCALAR *)a->grad_y + row * a->grad_y_row + c;
    SCALAR *grad_x = (SCALAR *)a->grad_x + row * T * D + c;
    SCALAR sums[(TAPS + 1) * BLOCK] = {0};
    NAME(backward_window)(a, weight, sums, row, c, n);
    for (int64_t t = 0; t < T; t++) {
        const int64_t taps = NAME(reach)(start, t, a->size, T);
        const SCALAR *later[TAPS];
        for (int64_t j = 0; j < TAPS; j++)
            later[j] = grad_y + (j < taps ? t + j : t) * a->grad_y_time;
#define FILTER_BACK(taps)                                                                          \
    NAME(filter_back)(taps, grad_x + t * D, sums, weight, later, x + t * a->x_time, n)
        BY_TAPS(taps, FILTER_BACK)
#undef FILTER_BACK
        if ((t + 1) % SUM_STEPS == 0 || t + 1 == T) NAME(flush)(total, sums, D, n);
    }
}

MULTIVERSION static void NAME(forward)(const rlmem_conv *a, const work_item *mine) {
    SCALAR weight[(TAPS + 1) * BLOCK];
    for (int64_t c = mine->channel0; c < mine->channel1; c += BLOCK) {
        const int64_t n = mine->channel1 - c < BLOCK ? mine->channel1 - c : BLOCK;
        NAME(load_filter)(a, weight, c, n);
        for (int64_t row = mine->row0; row < mine->row1; row++)
            NAME(forward_block)(a, weight, row, c, n);
    }
}

MULTIVERSION static void NAME(backward)(const rlmem_conv *a, const work_item *mine) {
    double *total = (double *)a->sums + mine->index * (TAPS + 1) * a->channels;
    SCALAR weight[(TAPS + 1) * BLOCK];
    for (int64_t c = mine->channel0; c < mine->channel1; c += BLOCK) {
        const int64_t n = mine->channel1 - c < BLOCK ? mine->channel1 - c : BLOCK;
        NAME(load_filter)(a, weight, c, n);
        for (int64_t row = mine->row0; row < mine->row1; row++)
            NAME(backward_block)(a, weight, total + c, row, c, n);
    }
}

#undef NAME
#undef SCALAR
