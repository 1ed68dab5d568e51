/* Memory from Linux itself, so that a library needs no C library: blocks of a page and more are mappings of their own, small
   ones share mappings that go when their last block does. */
#ifndef SC_PAGES_H
#define SC_PAGES_H
#include "sc.h"

/* One such pool; all zeros is empty. It may be used from any thread. */
typedef struct { struct sc_slab *open; i32 busy; } sc_pages;

/* Memory aligned to 16 bytes, or null. `self` is an sc_pages. */
void *sc_pages_get(void *self, u64 bytes);
void sc_pages_free(void *self, void *memory);
/* What is kept for the next block. */
void sc_pages_close(sc_pages *pages);
#endif
