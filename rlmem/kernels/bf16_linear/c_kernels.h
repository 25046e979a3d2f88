/* Declarations of c_kernels.c. cffi parses this file too, so it holds declarations only. */

typedef struct {
    int64_t inputs, outputs;
    /* The rows are split into `row_splits` work items. `next` is the first one not yet taken. */
    int64_t rows, row_splits, next;
    /* With `norm`, the sums are normalised over the outputs; then negative ones times `slope`. */
    int norm;
    float slope, eps;
    /* Rows of x and grad are x_row and grad_row numbers apart. */
    int64_t x_row, grad_row;
    /* Addresses of float32, contiguous but for these; 0 for a missing tensor. x and grad_x
       [rows, inputs];
       weight [outputs, inputs]; bias, scale and shift [outputs]; y, grad and normal (the normalised
       sums) [rows, outputs]; deviation (its inverse) [rows]. */
    intptr_t x, weight, bias, scale, shift, y, normal, deviation, grad, grad_x;
    /* Working memory, of the sizes below: the packed matrix, and `room` numbers per work item. */
    intptr_t packed, scratch;
    int64_t room;
    /* Outputs, `sum_room` numbers per work item, added to: the gradients of weight
       [weight_rows, weight_columns], then those of bias, scale and shift [3, vector_room]. */
    intptr_t sums;
    int64_t sum_room, weight_rows, weight_columns, vector_room;
} rlmem_bf16_linear;

/* Whether this build and this processor can compute products of bfloat16. */
int rlmem_bf16_linear_available(void);

/* Fills in the sizes of working memory and outputs, from inputs and outputs; returns the numbers
   (of 4 bytes) in the packed matrix. */
int64_t rlmem_bf16_linear_sizes(rlmem_bf16_linear *job, int backward);

/* Packs the matrix for the forward pass, or for the gradient of x. */
void rlmem_bf16_linear_pack(rlmem_bf16_linear *job, int backward);

/* Compute work items until there are none left; threads may call concurrently with one job. */
void rlmem_bf16_linear_forward(rlmem_bf16_linear *job);
void rlmem_bf16_linear_backward(rlmem_bf16_linear *job);
