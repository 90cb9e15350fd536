/* A team of threads over one step: every thread runs the same function and takes its part of the work.

   Threads meet at barriers (#pragma omp barrier) between operations, and nowhere else: within one, no thread reads what
   another one writes. Without OpenMP there is one thread, which does all. */
#ifndef EXO_LITE_THREADS_H
#define EXO_LITE_THREADS_H

#include "simd.h"

#ifdef _OPENMP /* omp.h says no more of them, and clang often comes without it */
int omp_get_thread_num(void);
int omp_get_num_threads(void);
#endif

typedef struct {
    int index, count;
} el_thread;

INLINE el_thread this_thread(void) {
#ifdef _OPENMP
    return (el_thread){omp_get_thread_num(), omp_get_num_threads()};
#else
    return (el_thread){0, 1};
#endif
}

typedef struct {
    int start, end; /* without the end */
} el_range;

/* The `part`th of `parts` parts of `total` pieces: neighbours, and as many as any other part's but for one. */
INLINE el_range partition(int total, int part, int parts) {
    return (el_range){(int)((int64_t)total * part / parts), (int)((int64_t)total * (part + 1) / parts)};
}

#endif
