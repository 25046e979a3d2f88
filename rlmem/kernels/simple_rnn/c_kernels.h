/* Declarations of c_kernels.c. cffi parses this file too, so it holds declarations only. */

typedef struct {
    /* 0 float32, 1 float64. `cell`: 0 paragru, 1 paralstm. */
    int dtype, cell;
    int64_t time, channels;
    /* The split of the work, as in linear_scan/c_kernels.h. */
    int64_t rows, row_splits, channel_splits, next;
    /* Addresses, all contiguous: projected and grad_projected [B, T, 3 D]; weight [K, D]; state and
       grad_state [B, S, D]; start [B, T], a byte each; states and grad [B, T, S, D]. */
    intptr_t projected, weight, state, start, states, grad, grad_projected, grad_state;
    /* [row_splits * channel_splits, K, D] doubles, added to: the gradient for weight. */
    intptr_t sums;
} rlmem_diagonal_rnn;

/* Compute work items until there are none left; threads may call concurrently with one job. */
void rlmem_diagonal_rnn_forward(rlmem_diagonal_rnn *job);
void rlmem_diagonal_rnn_backward(rlmem_diagonal_rnn *job);
