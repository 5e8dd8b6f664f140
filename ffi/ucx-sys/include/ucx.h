/* What bindgen reads: the part of UCP that a data plane uses is chosen by name in ../../bindings.sh. */
#include <ucp/api/ucp.h>
#include <ucs/type/status.h>
