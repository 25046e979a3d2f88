/* Both passes for one type; c_kernels.c includes this file once per type and defines

   NAME(f)      the function's name for this type
   STORED       a scalar in memory           LOAD(x)   from STORED to CARRIED
   CARRIED      a scalar of the state        STORE(x)  from CARRIED to STORED
   COMPONENTS   1 for real, 2 for complex numbers (adjacent real and imaginary parts)

   Counts, offsets and strides are in scalars.  */

/* state = gate * state + value; h = state */
INLINE void NAME(step)(STORED *restrict h, CARRIED *restrict state, const STORED *restrict gate,
                       const STORED *restrict value, int64_t n) {
#if COMPONENTS == 1
    for (int64_t i = 0; i < n; i++) {
        CARRIED s = LOAD(gate[i]) * state[i] + LOAD(value[i]);
        state[i] = s;
        h[i] = STORE(s);
    }
#else
    for (int64_t i = 0; i < n; i += 2) {
        CARRIED re = gate[i] * state[i] - gate[i + 1] * state[i + 1] + value[i];
        CARRIED im = gate[i] * state[i + 1] + gate[i + 1] * state[i] + value[i + 1];
        state[i] = h[i] = re;
        state[i + 1] = h[i + 1] = im;
    }
#endif
}

/* The same at a start: reads neither the gate nor the state. */
INLINE void NAME(restart)(STORED *restrict h, CARRIED *restrict state,
                          const STORED *restrict value, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        state[i] = LOAD(value[i]);
        h[i] = value[i];
    }
}

/* grad = grad_h + carry; product = grad * conj(h_before); carry = conj(gate) * grad */
#if COMPONENTS == 1
#define STEP_BACK(PUT)                                                                             \
    for (int64_t i = 0; i < n; i++) {                                                              \
        CARRIED g = LOAD(grad_h[i]) + carry[i];                                                    \
        grad_value[i] = STORE(g);                                                                  \
        PUT(i, g * LOAD(h_before[i]));                                                             \
        carry[i] = LOAD(gate[i]) * g;                                                              \
    }
#else
#define STEP_BACK(PUT)                                                                             \
    for (int64_t i = 0; i < n; i += 2) {                                                           \
        CARRIED re = grad_h[i] + carry[i], im = grad_h[i + 1] + carry[i + 1];                      \
        grad_value[i] = re;                                                                        \
        grad_value[i + 1] = im;                                                                    \
        PUT(i, re * h_before[i] + im * h_before[i + 1]);                                           \
        PUT(i + 1, im * h_before[i] - re * h_before[i + 1]);                                       \
        carry[i] = gate[i] * re + gate[i + 1] * im;                                                \
        carry[i + 1] = gate[i] * im - gate[i + 1] * re;                                            \
    }
#endif
#define KEEP(i, product) (grad_gate[i] = STORE(product))
#define ADD(i, product) (sum[i] += (product))

INLINE void NAME(step_back)(STORED *restrict grad_value, STORED *restrict grad_gate,
                            CARRIED *restrict carry, const STORED *restrict grad_h,
                            const STORED *restrict gate, const STORED *restrict h_before,
                            int64_t n) {
    STEP_BACK(KEEP)
}

/* The same for a constant gate. */
INLINE void NAME(step_back_sum)(STORED *restrict grad_value, CARRIED *restrict sum,
                                CARRIED *restrict carry, const STORED *restrict grad_h,
                                const STORED *restrict gate, const STORED *restrict h_before,
                                int64_t n) {
    STEP_BACK(ADD)
}

/* The same at a start, for either gate. */
INLINE void NAME(restart_back)(STORED *restrict grad_value, STORED *restrict grad_gate,
                               CARRIED *restrict carry, const STORED *restrict grad_h, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        grad_value[i] = STORE(LOAD(grad_h[i]) + carry[i]);
        grad_gate[i] = 0;
        carry[i] = 0;
    }
}

INLINE void NAME(flush)(double *restrict total, CARRIED *restrict sum, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        total[i] += sum[i];
        sum[i] = 0;
    }
}

/* One row, scalars [c, c + n), all time steps. */
INLINE void NAME(forward_block)(const rlmem_scan *a, int64_t row, int64_t c, int64_t n) {
    const int64_t T = a->time, D = a->channels * COMPONENTS, direction = a->reverse ? -1 : 1;
    const int64_t gate_time = a->gate_time * COMPONENTS, value_time = a->value_time * COMPONENTS;
    const uint8_t *start = a->start ? (const uint8_t *)a->start + row * T : 0;
    const STORED *h0 = a->h0 ? (const STORED *)a->h0 + row * D + c : 0;
    const STORED *gate = (const STORED *)a->gate + row * a->gate_row * COMPONENTS + c;
    const STORED *value = (const STORED *)a->value + row * a->value_row * COMPONENTS + c;
    STORED *h = (STORED *)a->h + row * T * D + c;
    CARRIED state[BLOCK];
    for (int64_t i = 0; i < n; i++) state[i] = h0 ? LOAD(h0[i]) : 0;
    for (int64_t k = 0, t = a->reverse ? T - 1 : 0; k < T; k++, t += direction) {
        const STORED *gate_t = gate + t * gate_time, *value_t = value + t * value_time;
        STORED *h_t = h + t * D;
        if (start && start[t])
            BY_PIECES(NAME(restart)(h_t + i, state + i, value_t + i, w));
        else
            BY_PIECES(NAME(step)(h_t + i, state + i, gate_t + i, value_t + i, w));
    }
}

INLINE void NAME(backward_block)(const rlmem_scan *a, int64_t row, int64_t c, int64_t n,
                                 double *gate_sum) {
    const int64_t T = a->time, D = a->channels * COMPONENTS, direction = a->reverse ? 1 : -1;
    const int64_t gate_time = a->gate_time * COMPONENTS;
    const int64_t grad_h_time = a->grad_h_time * COMPONENTS;
    const uint8_t *start = a->start ? (const uint8_t *)a->start + row * T : 0;
    const STORED zeros[BLOCK] = {0}, *h0 = a->h0 ? (const STORED *)a->h0 + row * D + c : zeros;
    const STORED *gate = (const STORED *)a->gate + row * a->gate_row * COMPONENTS + c;
    const STORED *grad_h = (const STORED *)a->grad_h + row * a->grad_h_row * COMPONENTS + c;
    const STORED *h = a->h ? (const STORED *)a->h + row * T * D + c : 0;
    /* Unwanted gradients are written here, in the first-level cache. */
    STORED unused_value[BLOCK];
    STORED unused_gate[BLOCK];
    STORED *grad_value = a->grad_value ? (STORED *)a->grad_value + row * T * D + c : unused_value;
    STORED *grad_gate = a->grad_gate ? (STORED *)a->grad_gate + row * T * D + c : unused_gate;
    const int64_t grad_value_time = a->grad_value ? D : 0, grad_gate_time = a->grad_gate ? D : 0;
    CARRIED carry[BLOCK] = {0};
    CARRIED sum[BLOCK] = {0};
    for (int64_t k = 1, t = a->reverse ? 0 : T - 1; k <= T; k++, t += direction) {
        const STORED *a_t = gate + t * gate_time, *grad_t = grad_h + t * grad_h_time;
        const STORED *before = !h ? zeros : k < T ? h + (t + direction) * D : h0;
        STORED *value_t = grad_value + t * grad_value_time;
        STORED *gate_t = grad_gate + t * grad_gate_time;
        if (start && start[t])
            BY_PIECES(NAME(restart_back)(value_t + i, gate_t + i, carry + i, grad_t + i, w));
        else if (gate_sum)
            BY_PIECES(NAME(step_back_sum)(value_t + i, sum + i, carry + i, grad_t + i, a_t + i,
                                          before + i, w));
        else
            BY_PIECES(NAME(step_back)(value_t + i, gate_t + i, carry + i, grad_t + i, a_t + i,
                                      before + i, w));
        if (gate_sum && (k % SUM_STEPS == 0 || k == T)) NAME(flush)(gate_sum, sum, n);
    }
    if (a->grad_h0)
        for (int64_t i = 0; i < n; i++)
            ((STORED *)a->grad_h0)[row * D + c + i] = STORE(carry[i]);
}

MULTIVERSION static void NAME(forward)(const rlmem_scan *a, const work_item *mine) {
    const int64_t end = mine->channel1 * COMPONENTS;
    for (int64_t row = mine->row0; row < mine->row1; row++)
        for (int64_t c = mine->channel0 * COMPONENTS; c < end; c += BLOCK)
            NAME(forward_block)(a, row, c, end - c < BLOCK ? end - c : BLOCK);
}

MULTIVERSION static void NAME(backward)(const rlmem_scan *a, const work_item *mine) {
    const int64_t end = mine->channel1 * COMPONENTS, D = a->channels * COMPONENTS;
    double *gate_sum = a->gate_sum ? (double *)a->gate_sum + mine->index * D : 0;
    for (int64_t row = mine->row0; row < mine->row1; row++)
        for (int64_t c = mine->channel0 * COMPONENTS; c < end; c += BLOCK)
            NAME(backward_block)(a, row, c, end - c < BLOCK ? end - c : BLOCK,
                                 gate_sum ? gate_sum + c : 0);
}

#undef NAME
#undef STORED
#undef CARRIED
#undef LOAD
#undef STORE
#undef COMPONENTS
#undef STEP_BACK
#undef KEEP
#undef ADD
