/* Declarations of c_kernels.c. cffi parses this file too, so it holds declarations only. */

typedef struct {
    /* dtype: 0 float32, 1 float64. level: no more than rlmem_gated_rnn_level returns, or 3 for
       products of bfloat16 if rlmem_gated_rnn_narrow says so (float32 alone).
       cell: 0 GRU, 1 LSTM, 2 sLSTM with a sigmoid forget gate, 3 with an exponential one. */
    int dtype, level, cell;
    /* G gates, S states; `width` is D; `padded` is D rounded up to a multiple of two vectors. */
    int64_t gates, states, time, heads, width, padded;
    /* The rows are split into `row_splits` parts and the heads into `head_splits`: each pair of
       parts is a work item. `next` is the first work item that no thread has taken. */
    int64_t rows, row_splits, head_splits, next;
    /* Working memory: `room` numbers for each of the `row_splits * head_splits` work items. */
    intptr_t scratch;
    int64_t room;
    /* Addresses; 0 for a missing tensor. projected [B, T, H, G D] and grad_h [B, T, H, D] have any
       strides over batch and time, in elements. All others are contiguous: bias [H, 4 D]; state,
       last, grad_last and grad_state [B, S, H, D]; start [B, T], one byte each; h, before and
       grad_h_n [B, T, H, D]; activations [B, T, H, 4 D]; saved_states [B, T, H, (S-1) D];
       grad_projected [B, T, H, G D]. The last state and its gradient are last and grad_last. */
    intptr_t projected, grad_h, weight, bias, state, start, h, last, activations, saved_states;
    int64_t projected_row, projected_time, grad_h_row, grad_h_time;
    /* Outputs for the gradient of weight: `before` is h before each step, grad_h_n (GRU only) the
       gradient of the state's contribution to the candidate. grad_bias [row_splits, H, 4 D] is in
       double precision. */
    intptr_t grad_last, grad_projected, grad_h_n, before, grad_bias, grad_state;
} rlmem_rnn;

typedef struct {
    int dtype, level;
    /* `outputs` is a multiple of two vectors; rows are split as above. */
    int64_t inputs, outputs, rows, row_splits, next;
    /* x [rows, inputs] and y [rows, outputs], with strides over rows in numbers; an output y is
       contiguous. rlmem_project computes y from weight [outputs / 2 V, inputs, 2 V]; rlmem_gram
       adds to weight [row_splits, inputs, outputs]. */
    intptr_t x, weight, y;
    int64_t x_row, y_row;
} rlmem_product;

/* The width of this processor's vectors: 0 for 16 bytes (or none), 1 for 32, 2 for 64. */
int rlmem_gated_rnn_level(void);

/* Whether this build and this processor can compute products of bfloat16. The matrices are then
   pairs of bfloat16 along the dimension that is summed over: forward [H, units / V, D / 2, G, V, 2],
   backward [H, padded / 2 V, G padded / 2, 2 V, 2]; working memory has 2 MOST_ROWS padded more. */
int rlmem_gated_rnn_narrow(void);

/* V, the numbers in a vector of that level. The matrices are packed in vectors, padded with zeros:
   forward [H, units / V, D, G, V], backward [H, padded / 2 V, G, padded, 2 V]. */
int rlmem_gated_rnn_lanes(int level, int dtype);

/* Compute work items until there are none left; threads may call concurrently with one struct. */
void rlmem_gated_rnn(rlmem_rnn *rnn);
void rlmem_gated_rnn_backward(rlmem_rnn *rnn);
void rlmem_project(rlmem_product *product);
void rlmem_gram(rlmem_product *product);
