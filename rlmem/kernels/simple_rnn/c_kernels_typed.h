/* All passes for one type; c_kernels.c includes this file once per type and defines

   NAME(f)    the function's name for this type
   SCALAR     a number
   EXP, TANH  elementary functions

   `w`, `h`, `g` and `sums` have one row of BLOCK numbers per weight or state. */

INLINE SCALAR NAME(sigmoid)(SCALAR x) { return 1 / (1 + EXP(-x)); }

/* One step of paragru: h becomes the next state, which is also written to `out`. */
INLINE void NAME(gru_step)(SCALAR *restrict out, SCALAR *restrict h, const SCALAR *restrict w,
                           const SCALAR *restrict x, int64_t D, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        const SCALAR z = NAME(sigmoid)(x[i] + w[i] * h[i]);
        const SCALAR r = NAME(sigmoid)(x[D + i] + w[BLOCK + i] * h[i]);
        const SCALAR c = TANH(x[2 * D + i] + w[2 * BLOCK + i] * (r * h[i]));
        h[i] += z * (c - h[i]);
        out[i] = h[i];
    }
}

/* One step back: g, the gradient for the state after it, becomes that for the state before, h. */
INLINE void NAME(gru_back)(SCALAR *restrict gx, SCALAR *restrict g, SCALAR *restrict sums,
                           const SCALAR *restrict h, const SCALAR *restrict w,
                           const SCALAR *restrict x, int64_t D, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        const SCALAR z = NAME(sigmoid)(x[i] + w[i] * h[i]);
        const SCALAR r = NAME(sigmoid)(x[D + i] + w[BLOCK + i] * h[i]);
        const SCALAR c = TANH(x[2 * D + i] + w[2 * BLOCK + i] * (r * h[i]));
        const SCALAR g_z = g[i] * (c - h[i]) * z * (1 - z), g_c = g[i] * z * (1 - c * c);
        const SCALAR g_gated = g_c * w[2 * BLOCK + i], g_r = g_gated * h[i] * r * (1 - r);
        gx[i] = g_z, gx[D + i] = g_r, gx[2 * D + i] = g_c;
        sums[i] += g_z * h[i];
        sums[BLOCK + i] += g_r * h[i];
        sums[2 * BLOCK + i] += g_c * (r * h[i]);
        g[i] = g[i] * (1 - z) + g_gated * r + w[i] * g_z + w[BLOCK + i] * g_r;
    }
}

/* One step of paralstm; the rows of h are h and c, those of w are a_f, a_o, a_z, p_f and p_o. */
INLINE void NAME(lstm_step)(SCALAR *restrict out, SCALAR *restrict h, const SCALAR *restrict w,
                            const SCALAR *restrict x, int64_t D, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        const SCALAR h_i = h[i], c = h[BLOCK + i];
        const SCALAR f = NAME(sigmoid)(x[i] + w[i] * h_i + w[3 * BLOCK + i] * c);
        const SCALAR z = TANH(x[2 * D + i] + w[2 * BLOCK + i] * h_i);
        const SCALAR next = z + f * (c - z);
        const SCALAR o = NAME(sigmoid)(x[D + i] + w[BLOCK + i] * h_i + w[4 * BLOCK + i] * next);
        h[i] = o * TANH(next);
        h[BLOCK + i] = next;
        out[i] = h[i];
        out[D + i] = next;
    }
}

INLINE void NAME(lstm_back)(SCALAR *restrict gx, SCALAR *restrict g, SCALAR *restrict sums,
                            const SCALAR *restrict h, const SCALAR *restrict w,
                            const SCALAR *restrict x, int64_t D, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        const SCALAR h_i = h[i], c = h[BLOCK + i];
        const SCALAR f = NAME(sigmoid)(x[i] + w[i] * h_i + w[3 * BLOCK + i] * c);
        const SCALAR z = TANH(x[2 * D + i] + w[2 * BLOCK + i] * h_i);
        const SCALAR next = z + f * (c - z);
        const SCALAR o = NAME(sigmoid)(x[D + i] + w[BLOCK + i] * h_i + w[4 * BLOCK + i] * next);
        const SCALAR t = TANH(next);
        const SCALAR g_o = g[i] * t * o * (1 - o);
        const SCALAR g_c = g[BLOCK + i] + g[i] * o * (1 - t * t) + w[4 * BLOCK + i] * g_o;
        const SCALAR g_f = g_c * (c - z) * f * (1 - f), g_z = g_c * (1 - f) * (1 - z * z);
        gx[i] = g_f, gx[D + i] = g_o, gx[2 * D + i] = g_z;
        sums[i] += g_f * h_i;
        sums[BLOCK + i] += g_o * h_i;
        sums[2 * BLOCK + i] += g_z * h_i;
        sums[3 * BLOCK + i] += g_f * c;
        sums[4 * BLOCK + i] += g_o * next;
        g[i] = w[i] * g_f + w[BLOCK + i] * g_o + w[2 * BLOCK + i] * g_z;
        g[BLOCK + i] = f * g_c + w[3 * BLOCK + i] * g_f;
    }
}

/* `count` rows of `n` numbers, `stride` apart, to rows of BLOCK numbers. */
INLINE void NAME(gather)(SCALAR *restrict to, const SCALAR *from, int64_t count, int64_t stride,
                         int64_t n) {
    for (int64_t k = 0; k < count; k++)
        memcpy(to + k * BLOCK, from + k * stride, sizeof(SCALAR) * (size_t)n);
}

INLINE void NAME(flush)(double *restrict total, SCALAR *restrict sums, int64_t K, int64_t D,
                        int64_t n) {
    for (int64_t k = 0; k < K; k++)
        for (int64_t i = 0; i < n; i++) {
            total[k * D + i] += sums[k * BLOCK + i];
            sums[k * BLOCK + i] = 0;
        }
}

/* One row, channels [c, c + n), all time steps; K weights and S states. */
#define FORWARD_BLOCK(step, S)                                                                     \
    const SCALAR *x = (const SCALAR *)a->projected + row * T * 3 * D + c;                          \
    SCALAR *out = (SCALAR *)a->states + row * T * S * D + c, h[STATES * BLOCK];                    \
    NAME(gather)(h, (const SCALAR *)a->state + row * S * D + c, S, D, n);                          \
    for (int64_t t = 0; t < T; t++) {                                                              \
        if (start[t]) memset(h, 0, sizeof h);                                                      \
        step(out + t * S * D, h, w, x + t * 3 * D, D, n);                                          \
    }

#define BACKWARD_BLOCK(back, S, K)                                                                 \
    const SCALAR *x = (const SCALAR *)a->projected + row * T * 3 * D + c;                          \
    const SCALAR *states = (const SCALAR *)a->states + row * T * S * D + c;                        \
    const SCALAR *first = (const SCALAR *)a->state + row * S * D + c;                              \
    const SCALAR *grad = (const SCALAR *)a->grad + row * T * S * D + c;                            \
    SCALAR *gx = (SCALAR *)a->grad_projected + row * T * 3 * D + c;                                \
    SCALAR g[STATES * BLOCK] = {0}, h[STATES * BLOCK], sums[WEIGHTS * BLOCK] = {0};                \
    for (int64_t t = T - 1; t >= 0; t--) {                                                         \
        for (int64_t s = 0; s < S; s++)                                                            \
            for (int64_t i = 0; i < n; i++) g[s * BLOCK + i] += grad[(t * S + s) * D + i];         \
        if (start[t]) memset(h, 0, sizeof h);                                                      \
        else NAME(gather)(h, t ? states + (t - 1) * S * D : first, S, D, n);                       \
        back(gx + t * 3 * D, g, sums, h, w, x + t * 3 * D, D, n);                                  \
        if (start[t]) memset(g, 0, sizeof g);                                                      \
        if (t % SUM_STEPS == 0) NAME(flush)(total + c, sums, K, D, n);                             \
    }                                                                                              \
    for (int64_t s = 0; s < S; s++)                                                                \
        memcpy((SCALAR *)a->grad_state + (row * S + s) * D + c, g + s * BLOCK,                     \
               sizeof(SCALAR) * (size_t)n);

/* All blocks of a work item. */
#define BLOCKS(body, K)                                                                            \
    const int64_t T = a->time, D = a->channels;                                                    \
    for (int64_t c = mine->channel0; c < mine->channel1; c += BLOCK) {                             \
        const int64_t n = mine->channel1 - c < BLOCK ? mine->channel1 - c : BLOCK;                 \
        SCALAR w[WEIGHTS * BLOCK];                                                                 \
        NAME(gather)(w, (const SCALAR *)a->weight + c, K, D, n);                                   \
        for (int64_t row = mine->row0; row < mine->row1; row++) {                                  \
            const uint8_t *start = (const uint8_t *)a->start + row * T;                            \
            body                                                                                   \
        }                                                                                          \
    }

MULTIVERSION static void NAME(gru_forward)(const rlmem_diagonal_rnn *a, const work_item *mine) {
    BLOCKS(FORWARD_BLOCK(NAME(gru_step), 1), 3)
}

MULTIVERSION static void NAME(lstm_forward)(const rlmem_diagonal_rnn *a, const work_item *mine) {
    BLOCKS(FORWARD_BLOCK(NAME(lstm_step), 2), 5)
}

MULTIVERSION static void NAME(gru_backward)(const rlmem_diagonal_rnn *a, const work_item *mine) {
    double *total = (double *)a->sums + mine->index * 3 * a->channels;
    BLOCKS(BACKWARD_BLOCK(NAME(gru_back), 1, 3), 3)
}

MULTIVERSION static void NAME(lstm_backward)(const rlmem_diagonal_rnn *a, const work_item *mine) {
    double *total = (double *)a->sums + mine->index * 5 * a->channels;
    BLOCKS(BACKWARD_BLOCK(NAME(lstm_back), 2, 5), 5)
}

#undef NAME
#undef SCALAR
#undef EXP
#undef TANH
#undef FORWARD_BLOCK
#undef BACKWARD_BLOCK
#undef BLOCKS
