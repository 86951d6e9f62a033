#include "parallel.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <new>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <pthread.h>

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#define RAMET_PAUSE() _mm_pause()
#else
#define RAMET_PAUSE() std::this_thread::yield()
#endif

namespace ramet {
namespace {

constexpr auto kSpin = std::chrono::microseconds(200);

int this_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Moves the calling thread off `core` if that is where it runs and there is another one: the system wakes a
// worker where its waker runs, and takes its time to part the two.
void leave_core(int core) {
#if defined(__linux__)
  if (core < 0 || core >= CPU_SETSIZE || sched_getcpu() != core) return;
  static const cpu_set_t all = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(getpid(), sizeof set, &set);
    return set;
  }();
  cpu_set_t others = all;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) > 0) sched_setaffinity(0, sizeof others, &others);
#else
  (void)core;
#endif
}

struct Buffer {
  void* data = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(data); }
};

struct Pool {
  std::vector<std::thread> workers;
  std::vector<std::unique_ptr<Buffer[]>> buffers;  // of each thread, 4 of them
  const std::function<void(int64_t, int)>* task = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::atomic<bool> open{false};     // whether the current region may be entered
  std::atomic<int> inside{0};        // workers that are in it, or are about to find it closed
  std::atomic<int> caller_core{-1};  // where the caller of the current region runs
  std::atomic<uint64_t> region{0};   // number of the current region
  std::atomic<bool> quit{false};
  std::mutex mutex;
  std::condition_variable wake;
  int sleeping = 0;  // under mutex

  explicit Pool(int count) {
    for (int i = 0; i < count; ++i) buffers.emplace_back(new Buffer[4]);
    for (int i = 1; i < count; ++i) workers.emplace_back([this, i] { serve(i); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      quit = true;
      region.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    for (auto& worker : workers) worker.join();
  }

  void claim(int thread) {
    for (;;) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= count) return;
      (*task)(i, thread);
    }
  }

  // Waits for a region after `seen`: spins, then sleeps.
  uint64_t wait(uint64_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 64; ++i) {
        const uint64_t now = region.load(std::memory_order_acquire);
        if (now != seen) return now;
        RAMET_PAUSE();
      }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(mutex);
    ++sleeping;
    wake.wait(lock, [&] { return region.load(std::memory_order_acquire) != seen; });
    --sleeping;
    return region.load(std::memory_order_acquire);
  }

  void serve(int thread) {
    uint64_t seen = 0;
    for (;;) {
      seen = wait(seen);
      if (quit) return;
      leave_core(caller_core.load(std::memory_order_relaxed));
      // Either this is seen when the caller closes the region, or the region is seen closed.
      inside.fetch_add(1);
      if (open.load()) claim(thread);
      inside.fetch_sub(1);
    }
  }

  void run(int64_t n, const std::function<void(int64_t, int)>& f) {
    if (workers.empty() || n <= 1) {
      for (int64_t i = 0; i < n; ++i) f(i, 0);
      return;
    }
    task = &f;
    count = n;
    next.store(0, std::memory_order_relaxed);
    caller_core.store(this_core(), std::memory_order_relaxed);
    open.store(true);
    bool somebody_sleeps;
    {
      std::lock_guard<std::mutex> lock(mutex);
      region.fetch_add(1, std::memory_order_release);
      somebody_sleeps = sleeping > 0;
    }
    if (somebody_sleeps) wake.notify_all();
    claim(0);
    open.store(false);
    for (int spins = 0; inside.load() != 0; ++spins) {
      // A worker that has a task and lost its core to another process must be let in. One that has not
      // come by now is not waited for.
      if (spins < 4096) RAMET_PAUSE(); else std::this_thread::yield();
    }
  }
};

std::mutex entry;

Pool* pool = nullptr;  // never freed at exit: workers may not be joined while a process tears down

Pool& the_pool() {
  if (pool == nullptr) pool = new Pool(1);
  return *pool;
}

// After fork() the child has none of the workers: it starts again with a pool of its own.
void forget_pool() {
  pool = nullptr;
  new (&entry) std::mutex;
}
const int registered = pthread_atfork(nullptr, nullptr, forget_pool);

}  // namespace

Exclusive::Exclusive() { entry.lock(); }
Exclusive::~Exclusive() { entry.unlock(); }

int num_threads() { return static_cast<int>(the_pool().workers.size()) + 1; }

void set_num_threads(int count) {
  if (count < 1) count = 1;
  if (pool != nullptr && count == num_threads()) return;
  delete pool;
  pool = new Pool(count);
}

void parallel_for(int64_t count, const std::function<void(int64_t, int)>& task) {
  the_pool().run(count, task);
}

void* scratch(int thread, int which, size_t num_bytes) {
  Buffer& buffer = the_pool().buffers[thread][which];
  if (buffer.size < num_bytes) {
    std::free(buffer.data);
    buffer.size = (num_bytes + 4095) / 4096 * 4096;
    buffer.data = std::aligned_alloc(64, buffer.size);
  }
  return buffer.data;
}

}  // namespace ramet

extern "C" {
int32_t ramet_num_threads() {
  const ramet::Exclusive lock;
  return ramet::num_threads();
}

void ramet_set_num_threads(int32_t count) {
  const ramet::Exclusive lock;
  ramet::set_num_threads(count);
}
}
