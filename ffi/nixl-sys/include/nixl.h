/* What bindgen reads: NIXL's C API, as the installer laid its header down. */
#include "nixl_capi.h"
