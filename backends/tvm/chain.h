/* What the generated file of every chain begins with: places of its values, and the run of its loop nests. */
#include "arena.h"

#define OWN __attribute__((unused)) static inline /* a chain need not use all */

enum { SC_CHAIN_TASKS = 16, SC_CHAIN_ALIGN = 64, SC_CHAIN_SLACK = 64 };
#define SC_CHAIN_GRAIN (1LL << 15) /* iterations that are worth a task */
#define SC_CHAIN_MOST (1LL << 40)  /* bytes of a value */

/* One run: values, sizes, and the loop nest at hand. */
typedef struct {
  void **values;
  const i64 *sizes;
  i64 extent, tasks;
} sc_chain_job;

OWN i64 sc_floor_div(i64 a, i64 b) { return a / b - (a % b && (a < 0) != (b < 0)); }
OWN i64 sc_floor_mod(i64 a, i64 b) { return a - sc_floor_div(a, b) * b; }
OWN i64 sc_larger(i64 a, i64 b) { return a > b ? a : b; }
OWN i64 sc_smaller(i64 a, i64 b) { return a < b ? a : b; }

OWN i64 sc_chain_from(const sc_chain_job *j, u64 i) { return (i64)i * j->extent / j->tasks; }

OWN int sc_chain_go(const sc_call *call, void (*task)(void *, u64), i64 extent, i64 work, sc_chain_job *j)
{
  j->extent = extent;
  j->tasks = sc_larger(1, sc_smaller(sc_smaller(extent, SC_CHAIN_TASKS), work / SC_CHAIN_GRAIN));
  *call->host_error = call->parallel->run(call->parallel->self, task, (u64)j->tasks, j);
  return *call->host_error ? SC_HOST_ERROR : SC_OK;
}

/* Bytes of a value with slack behind it, or -1. */
OWN i64 sc_chain_bytes(i64 elements, i64 size)
{
  if (elements < 0 || elements > SC_CHAIN_MOST / size) return -1;
  return (elements * size + SC_CHAIN_SLACK + SC_CHAIN_ALIGN - 1) / SC_CHAIN_ALIGN * SC_CHAIN_ALIGN;
}

/* Places of `count` spaces, in order; the bytes they take together, or -1 where one has no size. */
OWN i64 sc_chain_place(sc_space *spaces, i64 count)
{
  i64 bytes = 0;
  for (i64 i = 0; i < count; i++) {
    if (spaces[i].size < 0) return -1;
    spaces[i].at = sc_lowest_place(spaces, i, &spaces[i]);
    bytes = sc_larger(bytes, spaces[i].at + spaces[i].size);
  }
  return bytes;
}

OWN void sc_chain_copy(void *to, const void *from, i64 bytes)
{
  for (i64 i = 0; i < bytes; i++) ((char *)to)[i] = ((const char *)from)[i];
}
