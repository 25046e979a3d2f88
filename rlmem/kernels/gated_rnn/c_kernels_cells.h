/* One time step of one row and head, units [0, n), for each cell; see cells.py for the equations.

   Forward: u is the state's contribution to the gates (rows of P numbers), x the input's and b the
   biases (rows of D); h and s, the state, are read and written. Backward: `b` is the state before
   the step, `a` the state after it (c, n, m in rows of given strides); carry_h holds the gradient
   from later steps and receives the part that does not pass through the matrix; d receives the
   gradients of u; the gradients of the biases are added to sum.  */

INLINE SCALAR NAME(sigmoid)(SCALAR x) { return 1 / (1 + EXP(-x)); }

/* log s(x), from an exponential that cannot overflow. */
INLINE SCALAR NAME(log_sigmoid)(SCALAR x) {
    return (x < 0 ? x : 0) - LOG1P(EXP(x < 0 ? x : -x));
}

INLINE void NAME(gru)(int64_t n, int64_t D, int64_t P, const SCALAR *restrict u,
                      const SCALAR *restrict x, const SCALAR *restrict b, SCALAR *restrict h,
                      SCALAR *restrict out, SCALAR *restrict act) {
    INDEPENDENT for (int64_t i = 0; i < n; i++) {
        SCALAR r = NAME(sigmoid)(x[i] + u[i] + b[i]);
        SCALAR z = NAME(sigmoid)(x[D + i] + u[P + i] + b[D + i]);
        SCALAR h_n = u[2 * P + i] + b[3 * D + i];
        SCALAR new = TANH(x[2 * D + i] + b[2 * D + i] + r * h_n);
        act[i] = r;
        act[D + i] = z;
        act[2 * D + i] = new;
        act[3 * D + i] = h_n;
        h[i] = out[i] = new + z * (h[i] - new);
    }
}

INLINE void NAME(gru_back)(int64_t n, int64_t D, int64_t P, const SCALAR *restrict act,
                           const SCALAR *restrict before, const SCALAR *restrict grad_h,
                           SCALAR *restrict carry_h, SCALAR *restrict d, SCALAR *restrict grad_x,
                           SCALAR *restrict grad_h_n, SCALAR *restrict sum) {
    INDEPENDENT for (int64_t i = 0; i < n; i++) {
        SCALAR r = act[i], z = act[D + i], new = act[2 * D + i], h_n = act[3 * D + i];
        SCALAR g = carry_h[i] + grad_h[i];
        SCALAR for_n = g * (1 - z) * (1 - new * new), for_u = for_n * r;
        SCALAR for_z = g * (before[i] - new) * z * (1 - z), for_r = for_n * h_n * r * (1 - r);
        carry_h[i] = g * z;
        d[i] = grad_x[i] = for_r;
        d[P + i] = grad_x[D + i] = for_z;
        grad_x[2 * D + i] = for_n;
        d[2 * P + i] = grad_h_n[i] = for_u;
        sum[i] += for_r;
        sum[P + i] += for_z;
        sum[2 * P + i] += for_n;
        sum[3 * P + i] += for_u;
    }
}

INLINE void NAME(lstm)(int64_t n, int64_t D, int64_t P, const SCALAR *restrict u,
                       const SCALAR *restrict x, const SCALAR *restrict b, SCALAR *restrict h,
                       SCALAR *restrict out, SCALAR *restrict act, SCALAR *restrict s,
                       SCALAR *restrict saved) {
    INDEPENDENT for (int64_t i = 0; i < n; i++) {
        SCALAR in = NAME(sigmoid)(x[i] + u[i] + b[i]);
        SCALAR f = NAME(sigmoid)(x[D + i] + u[P + i] + b[D + i]);
        SCALAR g = TANH(x[2 * D + i] + u[2 * P + i] + b[2 * D + i]);
        SCALAR o = NAME(sigmoid)(x[3 * D + i] + u[3 * P + i] + b[3 * D + i]);
        SCALAR c = f * s[i] + in * g;
        act[i] = in;
        act[D + i] = f;
        act[2 * D + i] = g;
        act[3 * D + i] = o;
        s[i] = saved[i] = c;
        h[i] = out[i] = o * TANH(c);
    }
}

INLINE void NAME(lstm_back)(int64_t n, int64_t D, int64_t P, const SCALAR *restrict act,
                            const SCALAR *restrict b, const SCALAR *restrict a,
                            const SCALAR *restrict grad_h, SCALAR *restrict carry_h,
                            SCALAR *restrict carry_c, SCALAR *restrict d, SCALAR *restrict grad_x,
                            SCALAR *restrict sum) {
    INDEPENDENT for (int64_t i = 0; i < n; i++) {
        SCALAR in = act[i], f = act[D + i], g = act[2 * D + i], o = act[3 * D + i];
        SCALAR tanh_c = TANH(a[i]), for_h = carry_h[i] + grad_h[i];
        SCALAR for_c = carry_c[i] + for_h * o * (1 - tanh_c * tanh_c);
        SCALAR for_i = for_c * g * in * (1 - in), for_f = for_c * b[i] * f * (1 - f);
        SCALAR for_g = for_c * in * (1 - g * g), for_o = for_h * tanh_c * o * (1 - o);
        carry_c[i] = for_c * f;
        carry_h[i] = 0;
        d[i] = grad_x[i] = for_i;
        d[P + i] = grad_x[D + i] = for_f;
        d[2 * P + i] = grad_x[2 * D + i] = for_g;
        d[3 * P + i] = grad_x[3 * D + i] = for_o;
        sum[i] += for_i;
        sum[P + i] += for_f;
        sum[2 * P + i] += for_g;
        sum[3 * P + i] += for_o;
    }
}

/* `plane` is the stride from one tensor of the state to the next. */
INLINE void NAME(slstm)(const int exponential, int64_t n, int64_t D, int64_t P,
                        const SCALAR *restrict u, const SCALAR *restrict x,
                        const SCALAR *restrict b, SCALAR *restrict h, SCALAR *restrict out,
                        SCALAR *restrict act, SCALAR *restrict s, int64_t plane,
                        SCALAR *restrict saved) {
    INDEPENDENT for (int64_t i = 0; i < n; i++) {
        SCALAR in = x[i] + u[i] + b[i], f = x[D + i] + u[P + i] + b[D + i];
        SCALAR z = TANH(x[2 * D + i] + u[2 * P + i] + b[2 * D + i]);
        SCALAR o = NAME(sigmoid)(x[3 * D + i] + u[3 * P + i] + b[3 * D + i]);
        SCALAR c = s[i], norm = s[plane + i];
        SCALAR log_forget = s[2 * plane + i] + (exponential ? f : NAME(log_sigmoid)(f));
        log_forget = norm == 0 ? -INFINITY : log_forget;
        SCALAR m = in >= log_forget ? in : log_forget;
        /* One of the two exponents is 0; the other is at most 0. */
        SCALAR least = EXP((in >= log_forget ? log_forget : in) - m);
        SCALAR forget = in >= log_forget ? least : 1, write = in >= log_forget ? 1 : least;
        c = forget * c + write * z;
        norm = forget * norm + write;
        act[i] = write;
        act[D + i] = f;
        act[2 * D + i] = z;
        act[3 * D + i] = o;
        s[i] = saved[i] = c;
        s[plane + i] = saved[D + i] = norm;
        s[2 * plane + i] = saved[2 * D + i] = m;
        h[i] = out[i] = o * c / norm;
    }
}

INLINE void NAME(slstm_back)(const int exponential, int64_t n, int64_t D, int64_t P,
                             const SCALAR *restrict act, const SCALAR *restrict b,
                             int64_t b_plane, const SCALAR *restrict a,
                             const SCALAR *restrict grad_h, SCALAR *restrict carry_h,
                             SCALAR *restrict carry, int64_t plane, SCALAR *restrict d,
                             SCALAR *restrict grad_x, SCALAR *restrict sum) {
    INDEPENDENT for (int64_t i = 0; i < n; i++) {
        SCALAR write = act[i], f = act[D + i], z = act[2 * D + i], o = act[3 * D + i];
        SCALAR norm = b[b_plane + i], ratio = a[i] / a[D + i], inverse = 1 / a[D + i];
        SCALAR for_h = carry_h[i] + grad_h[i];
        SCALAR log_forget = b[2 * b_plane + i] + (exponential ? f : NAME(log_sigmoid)(f));
        SCALAR forget = EXP(norm == 0 ? -INFINITY : log_forget - a[2 * D + i]);
        SCALAR for_c = carry[i] + for_h * o * inverse;
        SCALAR for_norm = carry[plane + i] - for_h * o * ratio * inverse;
        SCALAR for_write = (for_c * z + for_norm) * write;
        SCALAR for_forget = (for_c * b[i] + for_norm * norm) * forget;
        SCALAR for_m = carry[2 * plane + i] - for_write - for_forget;
        /* m is either i or from the forget gate; it was subtracted in both exponents. */
        SCALAR to_f = write < 1 ? for_m : 0, to_i = write < 1 ? 0 : for_m;
        for_forget += to_f;
        SCALAR for_i = for_write + to_i, for_f = for_forget;
        if (!exponential) for_f *= NAME(sigmoid)(-f);
        SCALAR for_z = for_c * write * (1 - z * z), for_o = for_h * ratio * o * (1 - o);
        carry[i] = for_c * forget;
        carry[plane + i] = for_norm * forget;
        carry[2 * plane + i] = for_forget;
        carry_h[i] = 0;
        d[i] = grad_x[i] = for_i;
        d[P + i] = grad_x[D + i] = for_f;
        d[2 * P + i] = grad_x[2 * D + i] = for_z;
        d[3 * P + i] = grad_x[3 * D + i] = for_o;
        sum[i] += for_i;
        sum[P + i] += for_f;
        sum[2 * P + i] += for_z;
        sum[3 * P + i] += for_o;
    }
}
