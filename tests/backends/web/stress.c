/* Many jobs one after another, each part done exactly once: what threads.test.mjs runs on several threads. */
#include "web.h"

enum { MOST = 4096 };
static i32 seen[MOST], inner;

static void nested(void *data, u64 i) { (void)data, (void)i; __atomic_add_fetch(&inner, 1, __ATOMIC_RELAXED); }

static void task(void *data, u64 i)
{
  __atomic_add_fetch(&seen[i], 1, __ATOMIC_RELAXED);
  volatile u64 work = 0;
  for (u64 k = 0; k < *(u64 *)data; k++) work += k;
  if (i % 64 == 0) sc_web_parallel()(0, nested, 3, 0);
}

/* 0, or the number of the first job that went wrong. */
i32 stress(i32 jobs, i32 count, i32 effort)
{
  for (i32 job = 1; job <= jobs; job++) {
    u64 work = (u64)effort;
    for (i32 i = 0; i < MOST; i++) seen[i] = 0;
    inner = 0;
    sc_web_parallel()(0, task, (u64)count, &work);
    for (i32 i = 0; i < MOST; i++)
      if (seen[i] != (i < count)) return job;
    if (inner != (count + 63) / 64 * 3) return job;
  }
  return 0;
}
