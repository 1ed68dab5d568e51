/* The table of external functions of what brings none. */
#include "extern.h"

const sc_extern *const sc_externs[] = {0};
const i32 sc_extern_count = 0;
