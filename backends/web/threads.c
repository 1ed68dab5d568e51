/* A parallel-for over the agents of a page that share the memory: workers of the browser, or of Node.

   The caller opens a job, works at it itself and closes it; who wakes up too late finds it closed. It waits for those that
   are inside, by looking again and again: the main thread of a page must not sleep, and it never waits longer than a task
   takes. Workers look for the next job for a while, since layers follow each other closely, and then sleep. */
#include "web.h"

#ifdef __wasm_atomics__

enum { LOOKS = 20000 };  /* for the next job before sleeping: some tens of microseconds */

static struct {
  void (*task)(void *data, u64 i);
  void *data;
  u64 count, next;
  i32 busy;      /* a caller has the pool */
  i32 open;      /* the job may be joined */
  i32 inside;    /* workers at it, or looking whether it is open */
  i32 jobs;      /* ever opened: what workers sleep on */
  i32 workers;
} pool;

static void work(void)
{
  for (u64 i; (i = __atomic_fetch_add(&pool.next, 1, __ATOMIC_RELAXED)) < pool.count;) pool.task(pool.data, i);
}

static void *run(void *self, void (*task)(void *data, u64 i), u64 count, void *data)
{
  (void)self;
  /* A task that has tasks of its own does them alone, as does one of a single part. */
  if (count < 2 || __atomic_exchange_n(&pool.busy, 1, __ATOMIC_ACQUIRE)) {
    for (u64 i = 0; i < count; i++) task(data, i);
    return 0;
  }
  pool.task = task;
  pool.data = data;
  pool.count = count;
  pool.next = 0;
  __atomic_store_n(&pool.open, 1, __ATOMIC_SEQ_CST);
  __atomic_add_fetch(&pool.jobs, 1, __ATOMIC_SEQ_CST);
  __builtin_wasm_memory_atomic_notify(&pool.jobs, (u32)pool.workers);
  work();
  __atomic_store_n(&pool.open, 0, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&pool.inside, __ATOMIC_SEQ_CST)) {}
  __atomic_store_n(&pool.busy, 0, __ATOMIC_RELEASE);
  return 0;
}

static __attribute__((noinline)) void live(void)
{
  i32 seen = 0;
  __atomic_add_fetch(&pool.workers, 1, __ATOMIC_SEQ_CST);
  for (;;) {
    for (i32 i = 0; i < LOOKS && __atomic_load_n(&pool.jobs, __ATOMIC_SEQ_CST) == seen; i++) {}
    while (__atomic_load_n(&pool.jobs, __ATOMIC_SEQ_CST) == seen) __builtin_wasm_memory_atomic_wait32(&pool.jobs, seen, -1);
    seen = __atomic_load_n(&pool.jobs, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&pool.inside, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool.open, __ATOMIC_SEQ_CST)) work();
    __atomic_sub_fetch(&pool.inside, 1, __ATOMIC_SEQ_CST);
  }
}

__asm__(".globaltype __stack_pointer, i32\n");

/* The life of a worker, which does not end: on a stack of its own, that grows down from `top`. The stack's pointer is set from
   inside, because engines reach one that can be set from outside more slowly. */
WEB_EXPORT("sc_web_work") void sc_web_work(void *top)
{
  __asm__ volatile("local.get %0\nglobal.set __stack_pointer" : : "r"(top));
  live();
}

web_parallel sc_web_parallel(void) { return run; }

#else

web_parallel sc_web_parallel(void) { return 0; }

#endif
