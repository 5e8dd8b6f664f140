/* A stand-in for the CUDA driver, for machines without one. It behaves as the driver's manual says, and counts what a
 * caller does that the manual forbids. Memory is a memfd: what the caller gets is an address at which nothing may be read
 * or written by the host. Copies are queued, and done when an event has been asked after some times.
 *
 * STAND_IN_VISIBLE  the devices that this process sees, by their numbers on the machine, in its own order: "1,0"
 * STAND_IN_MEMORY   bytes of each device
 * STAND_IN_POLLS    how often an event answers "not ready"
 * STAND_IN_FAIL     what calls answer, and from which time on: "cuMemAlloc_v2=2@3"
 * STAND_IN_POOL     memory is said not to be for IPC
 * STAND_IN_REPORT   the file that says, at the end, what is left, and what was done that is forbidden */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEVICES = 8, ALLOCATIONS = 256, DEPTH = 16, PAGE = 4096, QUEUE = 65536 };
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, ALREADY_REGISTERED = 712 };

typedef struct { char *at; size_t len; char *bytes; int file; int device; int mapped; uint64_t inode; atomic_int *mappers; }
    Allocation;
typedef struct { uint64_t to, from; void *host_to; const void *host_from; size_t len; } Copy;
typedef struct { int device; int queued, done; Copy copies[QUEUE]; } Stream;
typedef struct { Stream *stream; int until, polls; } Event;
typedef struct { char magic[8]; int32_t process, file, device, reserved; uint64_t len, inode; char rest[24]; } Handle;
_Static_assert(sizeof(Handle) == 64, "as the driver's");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Allocation allocations[ALLOCATIONS];
static int begun, visible[DEVICES], count, retained[DEVICES], streams, events, misuses, pins;
static size_t used[DEVICES];
static void *pinned[ALLOCATIONS];
static __thread int stack[DEPTH], depth;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* What STAND_IN_FAIL says about this call, this time. */
static int failing(const char *call) {
    static atomic_int times[16];
    const char *text = getenv("STAND_IN_FAIL");
    for (int at = 0; text && at < 16; at++) {
        size_t len = strlen(call);
        int code = 0, from = 1;
        if (!strncmp(text, call, len) && sscanf(text + len, "=%d@%d", &code, &from) >= 1 && ++times[at] >= from) return code;
        if ((text = strchr(text, ','))) text++;
    }
    return 0;
}

static void misuse(const char *what) {
    fprintf(stderr, "stand-in: forbidden: %s\n", what);
    misuses++;
}

#define FAILS(call) do { int code = failing(call); if (code) return code; if (!begun) return NOT_INITIALIZED; } while (0)
#define IN_CONTEXT() do { if (!depth || !stack[depth - 1]) { misuse("no context"); return INVALID_CONTEXT; } } while (0)
static int here(void) { return stack[depth - 1] - 1; }

static Allocation *find(uint64_t at) {
    for (Allocation *one = allocations; one < allocations + ALLOCATIONS; one++)
        if (one->at && at >= (uint64_t)one->at && at < (uint64_t)one->at + one->len) return one;
    return NULL;
}

/* Where the bytes of a device address are. */
static char *bytes(uint64_t at, size_t len) {
    Allocation *one = find(at);
    if (!one || at + len > (uint64_t)one->at + one->len) { misuse("a copy out of bounds"); return NULL; }
    return one->bytes + (at - (uint64_t)one->at);
}

static int keep(uint64_t *at, size_t len, int file, int device, int mapped) {
    Allocation *one = allocations;
    while (one < allocations + ALLOCATIONS && one->at) one++;
    struct stat stat;
    if (one == allocations + ALLOCATIONS || fstat(file, &stat)) return OUT_OF_MEMORY;
    char *all = mmap(NULL, len + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *place = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || place == MAP_FAILED) return OUT_OF_MEMORY;
    /* The first page is ours: which processes have it mapped. */
    *one = (Allocation){place, len, all + PAGE, file, device, mapped, stat.st_ino, (atomic_int *)all};
    *at = (uint64_t)place;
    return 0;
}

/* The slot of a process, or a free one for 0. */
static atomic_int *mapper(Allocation *one, int process) {
    for (int at = 0; at < PAGE / (int)sizeof *one->mappers; at++) if (one->mappers[at] == process) return one->mappers + at;
    abort();
}

static int is_mapped(Allocation *one) {
    for (int at = 0; at < PAGE / (int)sizeof *one->mappers; at++)
        if (one->mappers[at] && !kill(one->mappers[at], 0)) return 1;
    return 0;
}

static void drop(Allocation *one) {
    munmap(one->bytes - PAGE, one->len + PAGE);
    munmap(one->at, one->len);
    close(one->file);
    *one = (Allocation){0};
}

int cuInit(unsigned flags) {
    int code = failing("cuInit");
    if (code || flags) return code ? code : INVALID_VALUE;
    const char *text = getenv("STAND_IN_VISIBLE");
    count = 0;
    for (text = text ? text : "0,1"; text && *text && count < DEVICES; text = strchr(text, ',')) {
        if (*text == ',') text++;
        visible[count++] = atoi(text);
    }
    if (!count) return NO_DEVICE;
    begun = 1;
    return 0;
}
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuGetErrorName(int code, const char **name) {
    *name = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE"
        : code == 205 ? "CUDA_ERROR_MAP_FAILED" : code == INVALID_HANDLE ? "CUDA_ERROR_INVALID_HANDLE"
        : code == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : code == 802 ? "CUDA_ERROR_SYSTEM_NOT_READY" : NULL;
    return *name ? 0 : INVALID_VALUE;
}
int cuGetErrorString(int code, const char **text) { *text = "as the stand-in says"; return code < 0; }
int cuDeviceGetCount(int *devices) { FAILS("cuDeviceGetCount"); *devices = count; return 0; }
int cuDeviceGet(int *device, int ordinal) {
    FAILS("cuDeviceGet");
    if (ordinal < 0 || ordinal >= count) return INVALID_DEVICE;
    *device = ordinal;
    return 0;
}
int cuDeviceGetName(char *name, int len, int device) { snprintf(name, len, "Stand-in %d", visible[device]); return 0; }
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 0, 16); uuid[15] = visible[device]; return 0; }
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 0xa0, 16); uuid[15] = visible[device]; return 0; }
int cuDeviceGetPCIBusId(char *bus, int len, int device) { snprintf(bus, len, "0000:%02X:00.0", visible[device]); return 0; }

int cuDevicePrimaryCtxRetain(void **context, int device) {
    FAILS("cuDevicePrimaryCtxRetain");
    pthread_mutex_lock(&lock), retained[device]++, pthread_mutex_unlock(&lock);
    *context = (void *)(intptr_t)(device + 1);
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    pthread_mutex_lock(&lock), retained[device]--, pthread_mutex_unlock(&lock);
    return 0;
}
int cuCtxSetCurrent(void *context) { if (!depth) depth = 1; stack[depth - 1] = (int)(intptr_t)context; return 0; }
int cuCtxPushCurrent_v2(void *context) {
    FAILS("cuCtxPushCurrent_v2");
    int device = (int)(intptr_t)context - 1;
    if (depth == DEPTH || retained[device] < 1) { misuse("a context that is not retained"); return INVALID_CONTEXT; }
    stack[depth++] = device + 1;
    return 0;
}
int cuCtxPopCurrent_v2(void **context) { IN_CONTEXT(); *context = (void *)(intptr_t)stack[--depth]; return 0; }

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    IN_CONTEXT();
    *total = number("STAND_IN_MEMORY", 256 << 20), *free = *total - used[here()];
    return 0;
}
int cuMemAlloc_v2(uint64_t *at, size_t len) {
    FAILS("cuMemAlloc_v2");
    IN_CONTEXT();
    pthread_mutex_lock(&lock);
    int code = OUT_OF_MEMORY;
    if (len <= number("STAND_IN_MEMORY", 256 << 20) - used[here()]) {
        int file = memfd_create("stand-in", MFD_CLOEXEC);
        code = ftruncate(file, len + PAGE) ? OUT_OF_MEMORY : keep(at, len, file, here(), 0);
        if (!code) used[here()] += len, memset(find(*at)->bytes, 0xdd, len < PAGE ? len : PAGE);
    }
    pthread_mutex_unlock(&lock);
    return code;
}
int cuMemFree_v2(uint64_t at) {
    IN_CONTEXT();
    pthread_mutex_lock(&lock);
    Allocation *one = find(at);
    int wrong = !one || one->mapped || (uint64_t)one->at != at;
    if (wrong) misuse("freed what was not allocated");
    else {
        if (is_mapped(one)) misuse("freed what another process has mapped");
        used[one->device] -= one->len;
        drop(one);
    }
    pthread_mutex_unlock(&lock);
    return wrong ? INVALID_VALUE : 0;
}
int cuMemGetAddressRange_v2(uint64_t *base, size_t *size, uint64_t at) {
    FAILS("cuMemGetAddressRange_v2");
    IN_CONTEXT();
    Allocation *one = find(at);
    if (!one) return INVALID_VALUE;
    *base = (uint64_t)one->at, *size = one->len;
    return 0;
}
int cuPointerGetAttribute(void *data, int attribute, uint64_t at) {
    Allocation *one = find(at);
    if (!one) return INVALID_VALUE;
    *(int *)data = attribute == 2 ? 2 : attribute == 9 ? one->device : attribute == 10 ? !one->mapped && !getenv("STAND_IN_POOL") : -1;
    return 0;
}

int cuStreamCreate(Stream **stream, unsigned flags) {
    FAILS("cuStreamCreate");
    IN_CONTEXT();
    if (flags != 1) return INVALID_VALUE;
    *stream = calloc(1, sizeof **stream), (*stream)->device = here(), streams++;
    return 0;
}
static int carry_out(Stream *stream, int until) {
    int code = failing("copy");
    for (; stream->done < until; stream->done++) {
        Copy *copy = &stream->copies[stream->done % QUEUE];
        void *to = copy->to ? bytes(copy->to, copy->len) : copy->host_to;
        const void *from = copy->from ? bytes(copy->from, copy->len) : copy->host_from;
        if (!to || !from) code = 700;
        if (!code) memcpy(to, from, copy->len);
    }
    return code;
}
int cuStreamDestroy_v2(Stream *stream) {
    if (stream->done < stream->queued) misuse("a stream destroyed that was at work");
    free(stream), streams--;
    return 0;
}
int cuStreamSynchronize(Stream *stream) { IN_CONTEXT(); return carry_out(stream, stream->queued); }
int cuStreamQuery(Stream *stream) { return stream->done < stream->queued ? NOT_READY : 0; }
static int queue(const char *call, Stream *stream, Copy copy) {
    FAILS(call);
    IN_CONTEXT();
    if (here() != stream->device) { misuse("a stream of another context"); return INVALID_HANDLE; }
    stream->copies[stream->queued++ % QUEUE] = copy;
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t len, Stream *stream) {
    return queue("cuMemcpyDtoHAsync_v2", stream, (Copy){.host_to = to, .from = from, .len = len});
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t len, Stream *stream) {
    return queue("cuMemcpyHtoDAsync_v2", stream, (Copy){.to = to, .host_from = from, .len = len});
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t len, Stream *stream) {
    return queue("cuMemcpyDtoDAsync_v2", stream, (Copy){.to = to, .from = from, .len = len});
}
int cuEventCreate(Event **event, unsigned flags) {
    FAILS("cuEventCreate");
    IN_CONTEXT();
    if (flags != 2) return INVALID_VALUE;
    *event = calloc(1, sizeof **event), events++;
    return 0;
}
int cuEventDestroy_v2(Event *event) { free(event), events--; return 0; }
int cuEventRecord(Event *event, Stream *stream) {
    FAILS("cuEventRecord");
    IN_CONTEXT();
    *event = (Event){stream, stream->queued, number("STAND_IN_POLLS", 100)};
    return 0;
}
int cuEventQuery(Event *event) { return event->polls-- > 0 ? NOT_READY : carry_out(event->stream, event->until); }
int cuEventSynchronize(Event *event) { return carry_out(event->stream, event->until); }

int cuIpcGetMemHandle(Handle *handle, uint64_t at) {
    FAILS("cuIpcGetMemHandle");
    IN_CONTEXT();
    Allocation *one = find(at);
    if (!one || one->mapped) return INVALID_VALUE;
    *handle = (Handle){"stand-in", getpid(), one->file, visible[one->device], 0, one->len, one->inode, ""};
    return 0;
}
int cuIpcOpenMemHandle_v2(uint64_t *at, Handle handle, unsigned flags) {
    FAILS("cuIpcOpenMemHandle_v2");
    IN_CONTEXT();
    if (memcmp(handle.magic, "stand-in", 8) || flags != 1) return INVALID_VALUE;
    if (handle.process == getpid()) return INVALID_CONTEXT;
    if (handle.device != visible[here()]) return INVALID_DEVICE;
    pthread_mutex_lock(&lock);
    Allocation *known = allocations;
    while (known < allocations + ALLOCATIONS && !(known->at && known->mapped && known->inode == handle.inode)) known++;
    int code = 0;
    if (known < allocations + ALLOCATIONS) known->mapped++, *at = (uint64_t)known->at;
    else {
        char path[64];
        struct stat stat;
        snprintf(path, sizeof path, "/proc/%d/fd/%d", handle.process, handle.file);
        int file = open(path, O_RDWR | O_CLOEXEC);
        if (file < 0 || fstat(file, &stat) || stat.st_ino != handle.inode) code = INVALID_HANDLE;
        else if (!(code = keep(at, handle.len, file, here(), 1))) *mapper(find(*at), 0) = getpid();
    }
    pthread_mutex_unlock(&lock);
    return code;
}
int cuIpcCloseMemHandle(uint64_t at) {
    IN_CONTEXT();
    pthread_mutex_lock(&lock);
    Allocation *one = find(at);
    int wrong = !one || !one->mapped || (uint64_t)one->at != at;
    if (wrong) misuse("closed what was not opened");
    else if (!--one->mapped) {
        *mapper(one, getpid()) = 0;
        drop(one);
    }
    pthread_mutex_unlock(&lock);
    return wrong ? INVALID_VALUE : 0;
}
int cuMemHostRegister_v2(void *at, size_t len, unsigned flags) {
    FAILS("cuMemHostRegister_v2");
    IN_CONTEXT();
    if (!len || flags != 1) return INVALID_VALUE;
    for (int one = 0; one < ALLOCATIONS; one++) if (pinned[one] == at) return ALREADY_REGISTERED;
    for (int one = 0; one < ALLOCATIONS; one++) if (!pinned[one]) { pinned[one] = at, pins++; break; }
    return 0;
}
int cuMemHostUnregister(void *at) {
    IN_CONTEXT();
    for (int one = 0; one < ALLOCATIONS; one++) if (pinned[one] == at) { pinned[one] = NULL, pins--; return 0; }
    return misuse("unpinned what was not pinned"), INVALID_VALUE;
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("STAND_IN_REPORT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    int left = 0, contexts = 0;
    for (int one = 0; one < ALLOCATIONS; one++) left += allocations[one].at != NULL;
    for (int one = 0; one < DEVICES; one++) contexts += retained[one];
    fprintf(file, "memory %d contexts %d streams %d events %d pins %d misuses %d\n", left, contexts, streams, events, pins, misuses);
    fclose(file);
}
