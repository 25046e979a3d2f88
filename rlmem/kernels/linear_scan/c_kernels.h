/* Declarations of c_kernels.c. cffi parses this file too, so it holds declarations only. */

typedef struct {
    /* 0 float32, 1 float64, 2 bfloat16, 3 complex64, 4 complex128. */
    int dtype;
    /* Whether time runs from T-1 to 0. */
    int reverse;
    int64_t time, channels;
    /* The rows are split into `row_splits` parts and the channels into `channel_splits`: each pair
       of parts is a work item. `next` is the first work item that no thread has taken. */
    int64_t rows, row_splits, channel_splits, next;
    /* Addresses; 0 for a missing tensor. Gate, value and grad_h have any strides over batch and
       time (0 for a constant), in elements, and stride 1 over channels. All others are contiguous:
       start [B, T], one byte each, h0 and grad_h0 [B, D], the rest [B, T, D]. */
    intptr_t gate, value, grad_h, start, h0, h;
    int64_t gate_row, gate_time, value_row, value_time, grad_h_row, grad_h_time;
    /* gate_sum [row_splits * channel_splits, D], added to, is the gradient of a constant gate in
       double precision: one slice per work item, so that the sum does not depend on the threads. */
    intptr_t grad_gate, gate_sum, grad_value, grad_h0;
} rlmem_scan;

/* Compute work items until there are none left; threads may call concurrently with one scan. */
void rlmem_linear_scan(rlmem_scan *scan);
void rlmem_linear_scan_backward(rlmem_scan *scan);
