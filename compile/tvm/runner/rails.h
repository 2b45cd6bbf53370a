#ifndef DEBLUR_RAILS_H
#define DEBLUR_RAILS_H

#include "json.h"

/* Reads the board's power rails beside a measurement, five times a second, until ``rails_stop``. */
void rails_start(void);

/* From now on the readings count: what came before was another part of the measurement. */
void rails_mark(void);
void rails_stop(void);

/* Mean power by rail in mW with "total", and energy in mJ of a frame of ``ms``; null where the board has no such sensors. */
void out_rails(Out *out, double ms);

#endif
