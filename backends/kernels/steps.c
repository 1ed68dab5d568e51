/* What a library has of one instruction set: the ops, and the step kinds by number. A bundle has no ops, and the step kinds
   of its program alone (-DSC_USED_STEPS): a linker drops the others. */
#include "step.h"

#ifdef SC_USED_STEPS
#define OPS
#else
#define SC_USED_STEPS SC_STEPS
#define OPS .create = SC(sc_create), .destroy = SC(sc_destroy), .conv = SC(sc_conv), .matmul = SC(sc_matmul),
#endif

#define NUMBER(kind) SC_STEP_##kind,
enum { SC_STEPS(NUMBER) };
#define DECLARE(kind) extern const sc_step_kind SC(sc_step_##kind);
SC_USED_STEPS(DECLARE)
#define ENTRY(kind) [SC_STEP_##kind] = &SC(sc_step_##kind),
static const sc_step_kind *const steps[SC_STEP_KINDS] = {SC_USED_STEPS(ENTRY)};

extern const sc_isa SC(sc_isa);
HIDDEN const sc_isa SC(sc_isa) = {OPS .steps = steps};
