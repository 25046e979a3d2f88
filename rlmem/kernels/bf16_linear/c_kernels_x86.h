/* The kernels of c_kernels.c for processors with AVX512-BF16. */

/* The lanes [i, i + 16) that are below n. */
INLINE __mmask16 lanes(int64_t i, int64_t n) {
    return n - i >= LANES ? 0xffff : n <= i ? 0 : (__mmask16)((1u << (n - i)) - 1);
}

INLINE __m512 load(const float *x, int64_t i, int64_t n) {
    return _mm512_maskz_loadu_ps(lanes(i, n), x + i);
}

INLINE void store(float *x, int64_t i, int64_t n, __m512 value) {
    _mm512_mask_storeu_ps(x + i, lanes(i, n), value);
}

/* Sixteen pairs: the first numbers in the low halves. */
INLINE __m512i pairs_of(__m512 first, __m512 second) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* A row of n numbers as pairs of neighbours, with zeros up to a whole vector of pairs. */
INLINE void row_pairs(uint32_t *out, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 2 * LANES)
        _mm512_storeu_si512(out + i / 2, (__m512i)_mm512_cvtne2ps_pbh(load(x, i + LANES, n),
                                                                      load(x, i, n)));
}

/* Pairs of neighbouring rows: out [rows / 2, width], zero beyond n numbers and below the rows. */
INLINE void column_pairs(uint32_t *out, int64_t width, const float *x, int64_t x_row, int64_t rows,
                         int64_t n) {
    for (int64_t r = 0; r < rows; r += 2)
        for (int64_t i = 0; i < width; i += LANES) {
            const __m512 first = load(x + r * x_row, i, n);
            const __m512 second =
                r + 1 < rows ? load(x + (r + 1) * x_row, i, n) : _mm512_setzero_ps();
            _mm512_storeu_si512(out + r / 2 * width + i, pairs_of(first, second));
        }
}

/* out [6, vectors] = (with `add`: +=) sums over `count` pairs; `vectors` is a constant. */
INLINE void tile(const int vectors, const int add, int64_t count, const uint32_t *left,
                 int64_t left_row, int64_t left_step, const uint32_t *right, int64_t right_step,
                 float *out, int64_t out_row) {
    __m512 sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < TILE_ROWS; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++)
            sum[i][j] = add ? _mm512_loadu_ps(out + i * out_row + j * LANES) : _mm512_setzero_ps();
    for (int64_t p = 0; p < count; p++) {
        __m512bh b[TILE_VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++)
            b[j] = (__m512bh)_mm512_loadu_si512(right + p * right_step + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < TILE_ROWS; i++) {
            const uint32_t pair = left[i * left_row + p * left_step];
            const __m512bh a = (__m512bh)_mm512_set1_epi32((int)pair);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], a, b[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < TILE_ROWS; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++)
            _mm512_storeu_ps(out + i * out_row + j * LANES, sum[i][j]);
}

/* out [rows, width]: whole tiles of rows. The left pair of row r and step p is at r left_row +
   p left_step. With `packed`, a tile's vectors of the right operand lie together. */
INLINE void product(const int packed, const int add, int64_t rows, int64_t width, int64_t count,
                    const uint32_t *left, int64_t left_row, int64_t left_step,
                    const uint32_t *right, float *out, int64_t out_row) {
    for (int64_t column = 0; column < width; column += TILE_VECTORS * LANES) {
        const int64_t rest = (width - column) / LANES;
        const int64_t vectors = rest < TILE_VECTORS ? rest : TILE_VECTORS;
        const uint32_t *b = right + (packed ? column * count : column);
        const int64_t step = packed ? vectors * LANES : width;
        for (int64_t r = 0; r < rows; r += TILE_ROWS) {
            const uint32_t *a = left + r * left_row;
            float *to = out + r * out_row + column;
            switch (vectors) {
            case 1: tile(1, add, count, a, left_row, left_step, b, step, to, out_row); break;
            case 2: tile(2, add, count, a, left_row, left_step, b, step, to, out_row); break;
            case 3: tile(3, add, count, a, left_row, left_step, b, step, to, out_row); break;
            default: tile(4, add, count, a, left_row, left_step, b, step, to, out_row);
            }
        }
    }
}

/* The place of a pair in the packed right operand of `width` columns. */
INLINE int64_t packed_at(int64_t count, int64_t width, int64_t p, int64_t column) {
    const int64_t tile_width = TILE_VECTORS * LANES, first = column / tile_width * tile_width;
    const int64_t here = width - first < tile_width ? width - first : tile_width;
    return first * count + p * here + column - first;
}

static void pack_forward(rlmem_bf16_linear *a) {
    const layout s = layout_of(a);
    uint32_t *packed = (uint32_t *)a->packed, row[2 * LANES];
    for (int64_t m = 0; m < s.y_width; m++) {
        const float *w = (const float *)a->weight + m * a->inputs;
        for (int64_t k = 0; k < a->inputs; k += 2 * LANES) {
            memset(row, 0, sizeof row);
            const int64_t left = a->inputs - k, pairs = left < 2 * LANES ? (left + 1) / 2 : LANES;
            if (m < a->outputs) row_pairs(row, w + k, left < 2 * LANES ? left : 2 * LANES);
            const int64_t at = packed_at(s.x_pairs, s.y_width, k / 2, m);
            const int64_t step = packed_at(s.x_pairs, s.y_width, k / 2 + 1, m) - at;
            for (int64_t p = 0; p < pairs; p++) packed[at + p * step] = row[p];
        }
    }
}

static void pack_back(rlmem_bf16_linear *a) {
    const layout s = layout_of(a);
    for (int64_t p = 0; p < s.y_pairs; p++)
        for (int64_t k = 0; k < s.x_width; k += LANES) {
            const float *w = (const float *)a->weight + 2 * p * a->inputs;
            const __m512 first = load(w, k, a->inputs);
            const __m512 second =
                2 * p + 1 < a->outputs ? load(w + a->inputs, k, a->inputs) : _mm512_setzero_ps();
            _mm512_storeu_si512(
                (uint32_t *)a->packed + packed_at(s.y_pairs, s.x_width, p, k),
                pairs_of(first, second));
        }
}

INLINE __m512 leaky(__m512 x, __m512 value, __m512 slope) {
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_mask_blend_ps(above, _mm512_mul_ps(value, slope), value);
}

/* Output y [outputs] of one row from its sums z, which are overwritten. */
INLINE void finish_row(const rlmem_bf16_linear *a, int64_t row, float *z) {
    const int64_t M = a->outputs;
    const float *bias = (const float *)a->bias;
    float *y = (float *)a->y + row * M;
    __m512 total = _mm512_setzero_ps(), square = total;
    for (int64_t i = 0; i < M; i += LANES) {
        __m512 value = _mm512_maskz_mov_ps(lanes(i, M), _mm512_loadu_ps(z + i));
        if (bias) value = _mm512_add_ps(value, load(bias, i, M));
        if (!a->norm) {
            store(y, i, M, value);
            continue;
        }
        total = _mm512_add_ps(total, value);
        _mm512_storeu_ps(z + i, value);
    }
    if (!a->norm) return;
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / (float)M);
    for (int64_t i = 0; i < M; i += LANES) {
        const __m512 off = _mm512_maskz_sub_ps(lanes(i, M), _mm512_loadu_ps(z + i), mean);
        square = _mm512_fmadd_ps(off, off, square);
        _mm512_storeu_ps(z + i, off);
    }
    const float variance = _mm512_reduce_add_ps(square) / (float)M;
    const float inverse = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(variance + a->eps)));
    const __m512 factor = _mm512_set1_ps(inverse), slope = _mm512_set1_ps(a->slope);
    float *normal = a->normal ? (float *)a->normal + row * M : 0;
    if (a->deviation) ((float *)a->deviation)[row] = inverse;
    for (int64_t i = 0; i < M; i += LANES) {
        __m512 value = _mm512_mul_ps(_mm512_loadu_ps(z + i), factor);
        if (normal) store(normal, i, M, value);
        if (a->scale) value = _mm512_mul_ps(value, load((const float *)a->scale, i, M));
        if (a->shift) value = _mm512_add_ps(value, load((const float *)a->shift, i, M));
        store(y, i, M, leaky(value, value, slope));
    }
}

static void forward(const rlmem_bf16_linear *a, const work_item *mine) {
    const layout s = layout_of(a);
    uint32_t *x_pairs = (uint32_t *)a->scratch + mine->index * a->room;
    float *z = (float *)(x_pairs + BLOCK * s.x_stride);
    for (int64_t row = mine->row0; row < mine->row1; row += BLOCK) {
        const int64_t left = mine->row1 - row, n = left < BLOCK ? left : BLOCK;
        for (int64_t r = 0; r < n; r++)
            row_pairs(x_pairs + r * s.x_stride, (const float *)a->x + (row + r) * a->x_row,
                      a->inputs);
        product(1, 0, up(n, TILE_ROWS), s.y_width, s.x_pairs, x_pairs, s.x_stride, 1,
                (const uint32_t *)a->packed, z, s.y_width);
        for (int64_t r = 0; r < n; r++) finish_row(a, row + r, z + r * s.y_width);
    }
}

/* The gradient d [outputs] of one row's sums; adds to those of bias, scale and shift. */
INLINE void row_gradient(const rlmem_bf16_linear *a, const layout *s, int64_t row, float *d,
                         float *sums) {
    const int64_t M = a->outputs, W = s->y_width;
    const float *grad = (const float *)a->grad + row * a->grad_row, *scale = (const float *)a->scale;
    const float *normal = (const float *)a->normal + row * M;
    __m512 total = _mm512_setzero_ps(), along = total;
    const __m512 slope = _mm512_set1_ps(a->slope);
    for (int64_t i = 0; i < M; i += LANES) {
        __m512 g = load(grad, i, M);
        if (a->norm) {
            const __m512 hat = load(normal, i, M);
            __m512 value = hat;
            if (scale) value = _mm512_mul_ps(value, load(scale, i, M));
            if (a->shift) value = _mm512_add_ps(value, load((const float *)a->shift, i, M));
            g = leaky(value, g, slope);
            float *for_scale = sums + W + i, *for_shift = sums + 2 * W + i;
            _mm512_storeu_ps(for_scale, _mm512_fmadd_ps(g, hat, _mm512_loadu_ps(for_scale)));
            _mm512_storeu_ps(for_shift, _mm512_add_ps(g, _mm512_loadu_ps(for_shift)));
            if (scale) g = _mm512_mul_ps(g, load(scale, i, M));
            total = _mm512_add_ps(total, g);
            along = _mm512_fmadd_ps(g, hat, along);
        } else {
            _mm512_storeu_ps(sums + i, _mm512_add_ps(g, _mm512_loadu_ps(sums + i)));
        }
        _mm512_storeu_ps(d + i, g);
    }
    if (!a->norm) return;
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / (float)M);
    const __m512 slant = _mm512_set1_ps(_mm512_reduce_add_ps(along) / (float)M);
    const __m512 factor = _mm512_set1_ps(((const float *)a->deviation)[row]);
    for (int64_t i = 0; i < M; i += LANES) {
        __m512 g = _mm512_sub_ps(_mm512_loadu_ps(d + i), mean);
        g = _mm512_fnmadd_ps(load(normal, i, M), slant, g);
        g = _mm512_maskz_mul_ps(lanes(i, M), g, factor);
        _mm512_storeu_ps(sums + i, _mm512_add_ps(g, _mm512_loadu_ps(sums + i)));
        _mm512_storeu_ps(d + i, g);
    }
}

static void backward(const rlmem_bf16_linear *a, const work_item *mine) {
    const layout s = layout_of(a);
    const int64_t K = a->inputs, W = s.y_width;
    float *d = (float *)a->scratch + mine->index * a->room;
    float *grad_x = d + BLOCK * W, *sums = grad_x + BLOCK * s.x_width;
    uint32_t *d_rows = (uint32_t *)(sums + 3 * W), *d_pairs = d_rows + BLOCK * s.y_stride;
    uint32_t *x_pairs = d_pairs + BLOCK / 2 * s.tiled_width;
    float *grad_weight = (float *)a->sums + mine->index * a->sum_room;
    float *grad_vectors = grad_weight + s.tiled_outputs * s.x_width;
    for (int64_t row = mine->row0; row < mine->row1; row += BLOCK) {
        const int64_t left = mine->row1 - row, n = left < BLOCK ? left : BLOCK;
        memset(sums, 0, (size_t)(3 * W) * sizeof(float));
        for (int64_t r = 0; r < n; r++) row_gradient(a, &s, row + r, d + r * W, sums);
        for (int64_t i = 0; i < 3 * W; i++) grad_vectors[i] += sums[i];
        column_pairs(d_pairs, s.tiled_width, d, W, n, a->outputs);
        column_pairs(x_pairs, s.x_width, (const float *)a->x + row * a->x_row, a->x_row, n, K);
        product(0, 1, s.tiled_outputs, s.x_width, (n + 1) / 2, d_pairs, 1, s.tiled_width, x_pairs,
                grad_weight, s.x_width);
        if (!a->grad_x) continue;
        for (int64_t r = 0; r < n; r++) row_pairs(d_rows + r * s.y_stride, d + r * W, a->outputs);
        product(1, 0, up(n, TILE_ROWS), s.x_width, s.y_pairs, d_rows, s.y_stride, 1,
                (const uint32_t *)a->packed, grad_x, s.x_width);
        for (int64_t r = 0; r < n; r++)
            for (int64_t i = 0; i < K; i += LANES)
                store((float *)a->grad_x + (row + r) * K, i, K,
                      _mm512_loadu_ps(grad_x + r * s.x_width + i));
    }
}
