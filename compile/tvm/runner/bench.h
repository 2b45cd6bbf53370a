#ifndef DEBLUR_BENCH_H
#define DEBLUR_BENCH_H

/* ``--verify`` and ``--bench`` with the options of the bundle's bench.py; returns the exit status. */
int bench(int count, char **words);

#endif
