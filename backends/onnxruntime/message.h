/* An error text as a status of ONNX Runtime. */
#ifndef SC_MESSAGE_H
#define SC_MESSAGE_H
#include "ort_abi.h"
#include "say.h"

static inline ort_status fail(ort_api api, const message *m, int code) { return api->CreateStatus(code, m->text); }
#endif
