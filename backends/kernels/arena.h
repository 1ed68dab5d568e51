/* Places in one block of memory for values that do not all live at the same time. */
#ifndef SC_ARENA_H
#define SC_ARENA_H
#include "sc.h"

/* `size` units at `at` for value `id`, from step `from` to step `end`, both included. A negative place meets nothing. */
typedef struct { i64 at, size, from, end, id; } sc_space;

/* The lowest place where a space meets none of the placed ones that live at the same time. */
static inline i64 sc_lowest_place(const sc_space *placed, i64 count, const sc_space *mine)
{
  i64 at = 0;
  for (int moved = 1; moved;) {
    moved = 0;
    for (i64 i = 0; i < count; i++) {
      const sc_space *other = &placed[i];
      if (other->at < 0 || other->from > mine->end || other->end < mine->from) continue;
      if (other->at < at + mine->size && at < other->at + other->size) at = other->at + other->size, moved = 1;
    }
  }
  return at;
}
#endif
