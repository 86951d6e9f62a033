// Threads: one pool for every native kernel, and `parallel_for` on it.
//
// Tasks are claimed one at a time, in order, from a shared counter; a task must not depend on who runs
// it. Between regions workers spin briefly (a forward pass has hundreds of regions, tens of
// microseconds apart) and then sleep, so that they do not fight with the rest of the process.
#pragma once

#include <cstdint>
#include <functional>

namespace ramet {

// Number of threads including the caller; 1 runs everything on the caller.
int num_threads();
void set_num_threads(int count);

// Runs task(i, thread) for i in [0, count); thread in [0, num_threads()) is for scratch memory. Returns
// when all are done. Must not be called from inside a task, and the caller holds `Exclusive`.
void parallel_for(int64_t count, const std::function<void(int64_t task, int thread)>& task);

// The pool serves one caller at a time; every entry from Python holds this while it computes, so that
// two engines in one process take turns.
struct Exclusive {
  Exclusive();
  ~Exclusive();
};

// Scratch memory of a thread, kept and grown, 64-byte aligned; `which` in [0, 4) tells apart what one
// task needs at once. Contents are undefined.
void* scratch(int thread, int which, size_t num_bytes);

}  // namespace ramet
