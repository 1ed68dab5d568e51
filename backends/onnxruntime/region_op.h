/* Regions as custom ops. */
#ifndef SC_ORT_REGION_OP_H
#define SC_ORT_REGION_OP_H
#include "host.h"

/* Adds Region0, Region1, ... to a domain. */
ort_status region_add_ops(ort_api api, ort_ptr domain);
#endif
