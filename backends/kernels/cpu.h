/* The variants a library may hold; the build defines SC_HAS_* for those it does. */
#ifndef SC_CPU_H
#define SC_CPU_H
#include "sc.h"
extern const sc_isa sc_isa_v3, sc_isa_v4, sc_isa_neon, sc_isa_wasm, sc_isa_relaxed;
/* The best variant this CPU runs, or null. */
const sc_isa *sc_pick_isa(void);
/* Whether the CPU has the instruction for products of bytes on vectors of so many bytes. It may take long: ask once. */
int sc_has_dot4(int vector_bytes);
/* What a CPU must have to run the least variant, for messages. */
const char *sc_cpu_needs(void);
#endif
