/* Weights to int4: what exo_lite/engine/torch_c/quantizing.py does in torch where there is no compiler. */
#include "simd.h"

#define MAX_Q 15
#define MAX_STEP 255

static const int NUM_STEPS[] = {15, 14, 13, 12, 11, 10, 9, 8, 16, 17, 18}; /* that a group's range is cut into */

typedef struct {
    int step, minimum;
    i32x16 q[2];
    float error;
} el_int4_group;

/* A group of weights as multiples of `step`, in the mean `lost` less once they are rounded down, from `minimum` on. */
INLINE el_int4_group fit(const f32x16 *x, int step, int minimum, float lost) {
    el_int4_group group = {.step = step, .minimum = minimum};
    f32x16 errors = splat(0.0f), divisor = splat(step > 0 ? (float)step : INFINITY);
    for (int i = 0; i < 2; i++) {
        f32x16 parts = (x[i] + splat(lost) - splat((float)minimum)) * splat(EL_STEP_PARTS) / divisor;
        parts = -max16(-max16(parts, splat(0.0f)), splat(-MAX_Q));
        group.q[i] = round_to_i32(parts);
        f32x16 error = to_f32((group.q[i] * step >> 4) + minimum) - x[i];
        errors += error * error;
    }
    group.error = hsum(errors);
    return group;
}

/* The step and minimum of least error, the first of several. */
static el_int4_group best_fit(const float *units, const float *lost) {
    f32x16 x[2] = {load(units), load(units + LANES)};
    float high = hmax(max16(x[0], x[1])), low = -hmax(max16(-x[0], -x[1]));
    int best_step = 0, best_minimum = 0;
    float error = INFINITY;
    for (size_t i = 0; i < sizeof NUM_STEPS / sizeof *NUM_STEPS; i++) {
        float step = rintf((high - low) / (float)NUM_STEPS[i] * EL_STEP_PARTS);
        step = step < MAX_STEP ? step : MAX_STEP;
        float cut = NUM_STEPS[i] > MAX_Q ? (float)(NUM_STEPS[i] - MAX_Q) / 2 * step / EL_STEP_PARTS : 0.0f;
        el_int4_group one = fit(x, (int)step, (int)rintf(low + cut + lost[(int)step]), lost[(int)step]);
        best_step = one.error < error ? one.step : best_step;
        best_minimum = one.error < error ? one.minimum : best_minimum;
        error = one.error < error ? one.error : error;
    }
    return fit(x, best_step, best_minimum, lost[best_step]);
}

/* units: [groups, EL_GROUP], in their channels' scales; q: [groups, EL_GROUP]; steps, minima: [groups]. */
EXPORT void el_to_int4(const float *units, int64_t groups, uint8_t *q, uint8_t *steps, uint8_t *minima, int threads) {
    float lost[MAX_STEP + 1];
    for (int step = 0; step <= MAX_STEP; step++) {
        int sum = 0;
        for (int i = 0; i <= MAX_Q; i++) sum += step * i % EL_STEP_PARTS;
        lost[step] = (float)sum / (EL_STEP_PARTS * (MAX_Q + 1));
    }
#pragma omp parallel for num_threads(threads)
    for (int64_t g = 0; g < groups; g++) {
        el_int4_group best = best_fit(units + g * EL_GROUP, lost);
        for (int i = 0; i < EL_GROUP; i++) q[g * EL_GROUP + i] = (uint8_t)best.q[i / LANES][i % LANES];
        steps[g] = (uint8_t)best.step;
        minima[g] = (uint8_t)(best.minimum + EL_WEIGHT_OFFSET);
    }
}
_Static_assert(EL_GROUP == 2 * LANES, "a group is two vectors");
