/* Both passes for one type; c_kernels.c includes this file once per type and defines

   NAME(f)    the function's name for this type
   SCALAR     a number
   EXP        the exponential

   D inputs, R outputs. Matrices in scratch memory are [D, R]; those of the caller are [R, D].  */

/* out = W x. */
INLINE void NAME(product)(SCALAR *restrict out, const SCALAR *restrict W, const SCALAR *restrict x,
                          int64_t D, int64_t R) {
    for (int64_t r = 0; r < R; r++) out[r] = 0;
    for (int64_t d = 0; d < D; d++) {
        const SCALAR x_d = x[d];
        const SCALAR *row = W + d * R;
        for (int64_t r = 0; r < R; r++) out[r] += row[r] * x_d;
    }
}

/* out = W^T g, or added to it. */
INLINE void NAME(transposed)(SCALAR *restrict out, const SCALAR *restrict W,
                             const SCALAR *restrict g, int64_t D, int64_t R) {
    for (int64_t d = 0; d < D; d++) {
        const SCALAR *row = W + d * R;
        SCALAR sums[LANES] = {0}, sum = 0;
        int64_t r = 0;
        for (; r + LANES <= R; r += LANES)
            for (int64_t i = 0; i < LANES; i++) sums[i] += row[r + i] * g[r + i];
        for (; r < R; r++) sum += row[r] * g[r];
        for (int64_t i = 0; i < LANES; i++) sum += sums[i];
        out[d] = sum;
    }
}

/* W += u x^T. */
INLINE void NAME(add_outer)(SCALAR *restrict W, const SCALAR *restrict u, const SCALAR *restrict x,
                            int64_t D, int64_t R) {
    for (int64_t d = 0; d < D; d++) {
        const SCALAR x_d = x[d];
        SCALAR *row = W + d * R;
        for (int64_t r = 0; r < R; r++) row[r] += u[r] * x_d;
    }
}

INLINE void NAME(softmax)(SCALAR *restrict out, const SCALAR *restrict x, int64_t n) {
    SCALAR most = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < n; i++) out[i] = EXP(x[i] - most);
    for (int64_t i = 0; i < n; i++) sum += out[i];
    for (int64_t i = 0; i < n; i++) out[i] /= sum;
}

/* The gradient for a softmax's input, in place; p is its result. */
INLINE void NAME(softmax_back)(SCALAR *restrict grad, const SCALAR *restrict p, int64_t n) {
    SCALAR dot = 0;
    for (int64_t i = 0; i < n; i++) dot += grad[i] * p[i];
    for (int64_t i = 0; i < n; i++) grad[i] = p[i] * (grad[i] - dot);
}

/* to [D, R] = from [R, D], plus more [R, D] if given. */
INLINE void NAME(load)(SCALAR *restrict to, const SCALAR *from, const SCALAR *more, int64_t D,
                       int64_t R) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t d = 0; d < D; d++) to[d * R + r] = from[r * D + d] + (more ? more[r * D + d] : 0);
}

/* to [R, D] = from [D, R], minus less [R, D] if given. */
INLINE void NAME(store)(SCALAR *restrict to, const SCALAR *from, const SCALAR *less, int64_t D,
                        int64_t R) {
    for (int64_t r = 0; r < R; r++)
        for (int64_t d = 0; d < D; d++) to[r * D + d] = from[d * R + r] - (less ? less[r * D + d] : 0);
}

/* Numbers of a step that the backward reads: query, key, their difference, rates, wanted, u. */
typedef struct {
    SCALAR *query, *key, *apart, *rates, *wanted, *u;
} NAME(step);

INLINE NAME(step) NAME(step_in)(SCALAR *memory, int64_t D, int64_t R) {
    NAME(step) s;
    s.query = memory, s.key = memory + D, s.apart = memory + 2 * D, s.rates = memory + 3 * D;
    s.wanted = memory + 3 * D + RATES, s.u = s.wanted + R;
    return s;
}

/* The outputs of W and the change u key^T of one step; W itself is not changed. */
INLINE void NAME(advance)(const rlmem_self_reference *a, const SCALAR *W, const SCALAR *x,
                          SCALAR *outputs, NAME(step) s) {
    const int64_t D = a->size, R = a->outputs, Y = a->width;
    const int64_t ends[RATES] = {Y, Y + D, Y + 2 * D, R};
    NAME(product)(outputs, W, x, D, R);
    NAME(softmax)(s.query, outputs + Y, D);
    NAME(softmax)(s.key, outputs + Y + D, D);
    for (int64_t d = 0; d < D; d++) s.apart[d] = s.query[d] - s.key[d];
    for (int64_t i = 0; i < RATES; i++) s.rates[i] = 1 / (1 + EXP(-outputs[Y + 2 * D + i]));
    NAME(product)(s.wanted, W, s.apart, D, R);
    for (int64_t i = 0, r = 0; i < RATES; i++)
        for (; r < ends[i]; r++) s.u[r] = s.rates[i] * s.wanted[r];
}

MULTIVERSION static void NAME(forward)(const rlmem_self_reference *a, const work_item *mine) {
    const int64_t T = a->time, H = a->heads, D = a->size, R = a->outputs, Y = a->width;
    const int64_t chunks = (T + a->chunk - 1) / a->chunk;
    SCALAR *W = (SCALAR *)a->scratch + mine->index * a->scratch_size, *outputs = W + D * R;
    const NAME(step) s = NAME(step_in)(outputs + R, D, R);
    for (int64_t i = mine->row0; i < mine->row1; i++) {
        const int64_t row = i / H, head = i % H;
        const SCALAR *weight = (const SCALAR *)a->weight + head * R * D;
        const uint8_t *start = (const uint8_t *)a->start + row * T;
        NAME(load)(W, weight, (const SCALAR *)a->change + i * R * D, D, R);
        for (int64_t t = 0; t < T; t++) {
            const int64_t at = (row * T + t) * H + head;
            if (t % a->chunk == 0)
                memcpy((SCALAR *)a->kept + ((row * chunks + t / a->chunk) * H + head) * R * D, W,
                       sizeof(SCALAR) * (size_t)(R * D));
            if (start[t]) NAME(load)(W, weight, 0, D, R);
            NAME(advance)(a, W, (const SCALAR *)a->x + at * D, outputs, s);
            memcpy((SCALAR *)a->y + at * Y, outputs, sizeof(SCALAR) * (size_t)Y);
            NAME(add_outer)(W, s.u, s.key, D, R);
        }
        NAME(store)((SCALAR *)a->after + i * R * D, W, weight, D, R);
    }
}

/* G for W before a step, from G for W after it; gx is the gradient for x. `outputs`, `back` and `g`
   hold R, R and 2 D numbers. */
INLINE void NAME(back)(const rlmem_self_reference *a, SCALAR *G, const SCALAR *W, const SCALAR *x,
                       const SCALAR *grad_y, SCALAR *gx, NAME(step) s, SCALAR *outputs,
                       SCALAR *back, SCALAR *g) {
    const int64_t D = a->size, R = a->outputs, Y = a->width;
    const int64_t ends[RATES] = {Y, Y + D, Y + 2 * D, R};
    SCALAR *g_query = g, *g_key = g + D;
    NAME(product)(back, G, s.key, D, R);
    NAME(transposed)(g_key, G, s.u, D, R);
    for (int64_t i = 0, r = 0; i < RATES; i++) {
        SCALAR sum = 0;
        for (; r < ends[i]; r++) {
            sum += back[r] * s.wanted[r];
            back[r] *= s.rates[i];
        }
        outputs[Y + 2 * D + i] = sum * s.rates[i] * (1 - s.rates[i]);
    }
    NAME(transposed)(g_query, W, back, D, R);
    for (int64_t d = 0; d < D; d++) g_key[d] -= g_query[d];
    NAME(softmax_back)(g_query, s.query, D);
    NAME(softmax_back)(g_key, s.key, D);
    memcpy(outputs, grad_y, sizeof(SCALAR) * (size_t)Y);
    memcpy(outputs + Y, g, sizeof(SCALAR) * (size_t)(2 * D));
    NAME(add_outer)(G, back, s.apart, D, R);
    NAME(add_outer)(G, outputs, x, D, R);
    NAME(transposed)(gx, W, outputs, D, R);
}

MULTIVERSION static void NAME(backward)(const rlmem_self_reference *a, const work_item *mine) {
    const int64_t T = a->time, H = a->heads, D = a->size, R = a->outputs, Y = a->width;
    const int64_t chunks = (T + a->chunk - 1) / a->chunk, small = 3 * D + RATES + 2 * R;
    SCALAR *G = (SCALAR *)a->scratch + mine->index * a->scratch_size, *into = G + D * R;
    SCALAR *base = into + D * R, *outputs = base + D * R, *back = outputs + R, *g = back + R;
    SCALAR *steps = g + 2 * D, *Ws = steps + a->chunk * small;
    for (int64_t i = mine->row0; i < mine->row1; i++) {
        const int64_t row = i / H, head = i % H;
        const uint8_t *start = (const uint8_t *)a->start + row * T;
        NAME(load)(base, (const SCALAR *)a->weight + head * R * D, 0, D, R);
        NAME(load)(G, (const SCALAR *)a->grad_after + i * R * D, 0, D, R);
        for (int64_t j = 0; j < D * R; j++) into[j] = -G[j];
        for (int64_t n = chunks - 1; n >= 0; n--) {
            const int64_t first = n * a->chunk, end = first + a->chunk < T ? first + a->chunk : T;
            memcpy(Ws, (const SCALAR *)a->kept + ((row * chunks + n) * H + head) * R * D,
                   sizeof(SCALAR) * (size_t)(R * D));
            for (int64_t t = first; t < end; t++) {
                SCALAR *W = Ws + (t - first) * R * D;
                const NAME(step) s = NAME(step_in)(steps + (t - first) * small, D, R);
                if (start[t]) memcpy(W, base, sizeof(SCALAR) * (size_t)(R * D));
                NAME(advance)(a, W, (const SCALAR *)a->x + ((row * T + t) * H + head) * D, outputs,
                              s);
                if (t + 1 == end) break;
                memcpy(W + R * D, W, sizeof(SCALAR) * (size_t)(R * D));
                NAME(add_outer)(W + R * D, s.u, s.key, D, R);
            }
            for (int64_t t = end - 1; t >= first; t--) {
                const int64_t at = (row * T + t) * H + head;
                NAME(back)(a, G, Ws + (t - first) * R * D, (const SCALAR *)a->x + at * D,
                           (const SCALAR *)a->grad_y + at * Y, (SCALAR *)a->grad_x + at * D,
                           NAME(step_in)(steps + (t - first) * small, D, R), outputs, back, g);
                for (int64_t j = 0; start[t] && j < D * R; j++) into[j] += G[j], G[j] = 0;
            }
        }
        for (int64_t j = 0; j < D * R; j++) into[j] += G[j];
        NAME(store)((SCALAR *)a->grad_weight + i * R * D, into, 0, D, R);
        NAME(store)((SCALAR *)a->grad_change + i * R * D, G, 0, D, R);
    }
}

#undef NAME
#undef SCALAR
#undef EXP
