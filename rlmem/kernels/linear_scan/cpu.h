/* What Python sees of cpu.c: cffi reads this file too, so it holds declarations only. */

typedef struct {
    /* 0 float32, 1 float64, 2 bfloat16, 3 complex64, 4 complex128. */
    int dtype;
    /* Whether time runs from T-1 to 0. */
    int reverse;
    int64_t time, channels;
    /* The work is cut into `row_cuts` parts of `rows` and each into `channel_cuts` parts of the
       channels; `next` is the first share that no thread has taken yet. */
    int64_t rows, row_cuts, channel_cuts, next;
    /* Addresses; 0 where there is no such tensor. Gate, value and grad_h have any strides over
       batch and time (0 for what is constant), in elements, and stride 1 over channels. All
       others are contiguous: start [B, T] one byte each, h0 and grad_h0 [B, D], the rest
       [B, T, D]. */
    intptr_t gate, value, grad_h, start, h0, h;
    int64_t gate_row, gate_time, value_row, value_time, grad_h_row, grad_h_time;
    /* gate_sum [row_cuts * channel_cuts, D] is the gradient of a constant gate, in double
       precision, apart for each share, so that it does not depend on who takes which; added to. */
    intptr_t grad_gate, gate_sum, grad_value, grad_h0;
} rlmem_scan;

/* Take shares until there are none left; any number of threads may call with the same scan. */
void rlmem_linear_scan(rlmem_scan *scan);
void rlmem_linear_scan_backward(rlmem_scan *scan);
