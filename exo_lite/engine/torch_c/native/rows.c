/* What stands before and after the layers: microseconds each, called without giving up the interpreter's lock. */
#include "float_types.h"

#define NOT_FINITE 0x7f800000u /* and greater, without the sign */
#define SEARCHED 1024          /* floats of which only the greatest is noted at first */

/* Whether none is NaN or infinite. */
EXPORT int el_all_finite(const float *x, int64_t n) {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most < NOT_FINITE;
}

/* ids[r]: where the greatest of row r of x [rows, n] stands, the first among equals; somewhere, if all are NaN. */
EXPORT void el_greatest(const float *x, int rows, int64_t n, int64_t *ids) {
    for (int r = 0; r < rows; r++, x += n) {
        float top = -INFINITY;
        int64_t start = 0;
        for (int64_t from = 0; from < n; from += SEARCHED) {
            int64_t end = from + SEARCHED < n ? from + SEARCHED : n, i = from;
            f32x16 tops = splat(-INFINITY);
            for (; i + LANES <= end; i += LANES) tops = max16(load(x + i), tops);
            float most = hmax(tops);
            for (; i < end; i++) most = x[i] > most ? x[i] : most;
            if (most > top) top = most, start = from;
        }
        while (start < n - 1 && x[start] != top) start++;
        ids[r] = start;
    }
}

/* Rows `ids` of a table [size, width] as floats; 0, and nothing written, if one is not in it. */
EXPORT int el_embed(const int64_t *ids, int rows, const void *table, int type, int64_t size, int width, float *out) {
    for (int r = 0; r < rows; r++)
        if (ids[r] < 0 || ids[r] >= size) return 0;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < width; i++) out[(int64_t)r * width + i] = load_element(type, table, ids[r] * width + i);
    return 1;
}
