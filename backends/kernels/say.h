/* Building an error text without a C library. */
#ifndef SC_SAY_H
#define SC_SAY_H
#include "sc.h"

typedef struct { char text[1024]; u64 used; } message;

static inline void say(message *m, const char *text)
{
  while (*text && m->used < sizeof m->text - 1) m->text[m->used++] = *text++;
  m->text[m->used] = 0;
}

static inline void say_number(message *m, i64 n)
{
  char digits[24], *p = digits + sizeof digits;
  u64 left = n < 0 ? 0 - (u64)n : (u64)n;
  *--p = 0;
  do *--p = (char)('0' + left % 10); while (left /= 10);
  if (n < 0) *--p = '-';
  say(m, p);
}

/* "[1, 2, 3]" */
static inline void say_list(message *m, const i64 *numbers, u64 count)
{
  say(m, "[");
  for (u64 i = 0; i < count; i++) {
    if (i) say(m, ", ");
    say_number(m, numbers[i]);
  }
  say(m, "]");
}
#endif
