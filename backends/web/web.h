/* What a page needs of the module beside the model itself. */
#ifndef SC_WEB_H
#define SC_WEB_H
#include "sc.h"

#define WEB_EXPORT(name) __attribute__((export_name(name), visibility("default")))

/* As NAME_host of a bundle. */
typedef void *(*web_parallel)(void *self, void (*task)(void *data, u64 i), u64 count, void *data);
typedef struct {
  void *(*alloc)(void *self, u64 bytes);
  void (*free)(void *self, void *memory);
  web_parallel parallel;
  void *self;
} web_host;

/* 64-byte aligned, null where there is no more. */
void *sc_web_alloc(u64 bytes);
void sc_web_free(void *memory);
const web_host *sc_web_host(void);
/* The pool's parallel-for, or null where the module has one thread. */
web_parallel sc_web_parallel(void);
#endif
