// libnccl: sums and exchanges between processes on one machine, through a file that they share.
#include "numbers.h"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace {

enum Status { OK = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, REMOTE_ERROR = 6 };

struct Identity {
    char name[128];
};
constexpr size_t PIECE = 1 << 20;  // of an array that goes through the file at once
constexpr int MOST = 16;           // processes

struct Shared {
    std::atomic<int> arrived, round;
    alignas(64) char pieces[MOST][PIECE];
};
struct Communicator {
    Shared* shared;
    int rank, size;
};

// Waits until all are here; false when one of them is gone or does not come.
bool meet(Communicator* c) {
    Shared& s = *c->shared;
    int round = s.round;
    if (++s.arrived == c->size) {
        s.arrived = 0;
        ++s.round;
        return true;
    }
    auto late = std::chrono::steady_clock::now() + std::chrono::seconds(setting("PATIENCE", 120));
    while (s.round == round) {
        if (std::chrono::steady_clock::now() > late) return false;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return true;
}

// Passes an array through the file, piece by piece; `take` is given a piece's place and length and all ranks' bytes of it.
template <class Take>
void exchange(Communicator* c, const char* own, size_t bytes, Take take) {
    for (size_t from = 0; from < bytes; from += PIECE) {
        size_t length = std::min(PIECE, bytes - from);
        memcpy(c->shared->pieces[c->rank], own + from, length);
        if (!meet(c)) fail("NCCL: rank %d of %d waited for the others in vain", c->rank, c->size);
        take(from, length);
        if (!meet(c)) fail("NCCL: rank %d of %d waited for the others in vain", c->rank, c->size);
    }
}

bool format_of(int type, Format& format) {
    format = type == 8 ? F64 : type == 9 ? BF16 : F32;
    return type >= 7 && type <= 9;
}

}  // namespace

extern "C" {

Status ncclGetVersion(int* version) { return *version = 22703, OK; }
const char* ncclGetErrorString(Status status) { return status == OK ? "no error" : "an error of the emulated NCCL"; }
const char* ncclGetLastError(Communicator*) { return ""; }

Status ncclGetUniqueId(Identity* identity) {
    *identity = {};
    auto now = std::chrono::system_clock::now().time_since_epoch().count();
    const char* folder = getenv("TMPDIR");
    snprintf(identity->name, sizeof identity->name, "%s/tweedie-nccl-%d-%llx", folder ? folder : "/tmp", getpid(), (unsigned long long)now);
    return OK;
}

Status ncclCommInitRank(Communicator** communicator, int size, Identity identity, int rank) {
    if (!communicator || size < 1 || size > MOST || rank < 0 || rank >= size) return INVALID_ARGUMENT;
    int file = open(identity.name, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof(Shared))) return SYSTEM_ERROR;
    void* at = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at == MAP_FAILED) return SYSTEM_ERROR;
    auto c = new Communicator{(Shared*)at, rank, size};
    if (!meet(c)) return REMOTE_ERROR;
    // All have it open: its name is no longer needed.
    unlink(identity.name);
    return *communicator = c, OK;
}
Status ncclCommAbort(Communicator* c) {
    if (!c) return INVALID_ARGUMENT;
    munmap(c->shared, sizeof(Shared));
    return delete c, OK;
}
Status ncclCommDestroy(Communicator* c) { return ncclCommAbort(c); }
Status ncclCommCount(Communicator* c, int* size) { return *size = c->size, OK; }
Status ncclCommUserRank(Communicator* c, int* rank) { return *rank = c->rank, OK; }
Status ncclGroupStart() { return OK; }
Status ncclGroupEnd() { return OK; }

Status ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, Communicator* c, Stream* stream) {
    Format format;
    if (!c || !format_of(type, format) || operation != 0) return INVALID_ARGUMENT;
    demand_memory("ncclAllReduce", "what is summed", from, count * BYTES[format]);
    demand_memory("ncclAllReduce", "the sums", to, count * BYTES[format]);
    return enqueue(stream, "ncclAllReduce", [=] {
        exchange(c, (const char*)from, count * BYTES[format], [=](size_t at, size_t length) {
            // In the order of the ranks: all have the same bits.
            for (size_t i = 0; i < length / BYTES[format]; ++i) {
                double sum = 0;
                for (int rank = 0; rank < c->size; ++rank) sum += load<double>(c->shared->pieces[rank], i, format);
                store((char*)to + at, i, format, sum);
            }
        });
    }) ? SYSTEM_ERROR : OK;
}
Status ncclAllGather(const void* from, void* to, size_t count, int type, Communicator* c, Stream* stream) {
    Format format;
    if (!c || !format_of(type, format)) return INVALID_ARGUMENT;
    size_t bytes = count * BYTES[format];
    demand_memory("ncclAllGather", "a share", from, bytes);
    demand_memory("ncclAllGather", "the whole", to, bytes * c->size);
    return enqueue(stream, "ncclAllGather", [=] {
        exchange(c, (const char*)from, bytes, [=](size_t at, size_t length) {
            for (int rank = 0; rank < c->size; ++rank) memcpy((char*)to + rank * bytes + at, c->shared->pieces[rank], length);
        });
    }) ? SYSTEM_ERROR : OK;
}
}
