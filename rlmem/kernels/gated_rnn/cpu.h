/* What Python sees of cpu.c: cffi reads this file too, so it holds declarations only. */

typedef struct {
    /* dtype: 0 float32, 1 float64. level: at most what rlmem_gated_rnn_level says.
       cell: 0 GRU, 1 LSTM, 2 sLSTM with a sigmoid forget gate, 3 with an exponential one. */
    int dtype, level, cell;
    /* G gates, S states; `width` is D, `padded` D rounded up to a multiple of two vectors. */
    int64_t gates, states, time, heads, width, padded;
    /* The work is cut into `row_cuts` parts of the rows and each into `head_cuts` parts of the
       heads; `next` is the first share that no thread has taken yet. */
    int64_t rows, row_cuts, head_cuts, next;
    /* `row_cuts * head_cuts` times `room` numbers to work in. */
    intptr_t scratch;
    int64_t room;
    /* Addresses; 0 where there is no such tensor. projected [B, T, H, G D] and grad_h
       [B, T, H, D] have any strides over batch and time, in elements. All others are contiguous:
       bias [H, 4 D], state, last, grad_last and grad_state [B, S, H, D], start [B, T] one byte
       each; h, before and grad_shared [B, T, H, D], parts [B, T, H, 4 D], kept [B, T, H, (S-1) D],
       grad_projected [B, T, H, G D]. The last state and its gradient are in last and grad_last. */
    intptr_t projected, grad_h, weight, bias, state, start, h, last, parts, kept;
    int64_t projected_row, projected_time, grad_h_row, grad_h_time;
    /* For the gradient of weight: what each step found as h, and what came back to the state's
       share of the candidate (GRU only). grad_bias [row_cuts, H, 4 D] is in double precision. */
    intptr_t grad_last, grad_projected, grad_shared, before, grad_bias, grad_state;
} rlmem_rnn;

typedef struct {
    int dtype, level;
    /* `outputs` is a multiple of two vectors; rows are cut as above. */
    int64_t inputs, outputs, rows, row_cuts, next;
    /* x [rows, inputs] and y [rows, outputs], strides over rows in numbers; the y that
       is made is contiguous; weight is [outputs / 2 V, inputs, 2 V] for rlmem_project, which makes y, and
       [row_cuts, inputs, outputs], added to, for rlmem_gram. */
    intptr_t x, weight, y;
    int64_t x_row, y_row;
} rlmem_product;

/* How wide this processor's vectors are: 0 for 16 bytes (or none), 1 for 32, 2 for 64. */
int rlmem_gated_rnn_level(void);

/* Numbers in a vector of that level. The matrices are packed with it, zeros where D ends early:
   forward [H, units / V, D, G, V], backward [H, padded / 2 V, G, padded, 2 V]. */
int rlmem_gated_rnn_lanes(int level, int dtype);

/* Take shares until there are none left; any number of threads may call with the same rnn. */
void rlmem_gated_rnn(rlmem_rnn *rnn);
void rlmem_gated_rnn_backward(rlmem_rnn *rnn);
void rlmem_project(rlmem_product *product);
void rlmem_gram(rlmem_product *product);
