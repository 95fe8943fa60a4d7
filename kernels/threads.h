// Worker threads that share work item by item; they spin briefly for more, and then sleep.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace catena {

constexpr int MAX_THREADS = 256;
constexpr int SPINS = 4000;  // about 50 microseconds: longer than a phase lacks work, short of wasting a core

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

// A number that only rises; threads wait for it to leave a value they have seen.
class Gate {
  public:
    uint32_t now() const { return value_.load(std::memory_order_acquire); }
    void open() {
        value_.fetch_add(1, std::memory_order_seq_cst);
#ifdef __linux__
        if (sleepers_.load(std::memory_order_seq_cst))
            syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
#endif
    }
    // `idle()` is called again and again until the thread sleeps.
    template <class Idle>
    void wait(uint32_t seen, const Idle& idle) {
        for (int i = 0; i < SPINS; i++) {
            if (now() != seen) return;
            idle();
            relax();
        }
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        while (value_.load(std::memory_order_seq_cst) == seen) {
#ifdef __linux__
            syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
            std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
        }
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    }

  private:
    std::atomic<uint32_t> value_{0};
    std::atomic<uint32_t> sleepers_{0};
};

// What the threads will read in the next phase: `parts` parts of `part` bytes, a share of neighbours each. Prefetched
// in idle moments only; a reader that meets two calls' numbers mixed prefetches in vain, no more.
class Ahead {
  public:
    void set(const void* base, size_t part, int parts) {
        parts_.store(0, std::memory_order_relaxed);
        base_.store((const char*)base, std::memory_order_relaxed);
        part_.store(part, std::memory_order_relaxed);
        parts_.store(parts, std::memory_order_relaxed);
    }
    // Some more lines of thread `thread`'s share, `at` bytes of which were fetched before.
    void fetch(int thread, int threads, size_t& at) const {
        const size_t part = part_.load(std::memory_order_relaxed);
        const int64_t parts = parts_.load(std::memory_order_relaxed);
        const size_t begin = parts * thread / threads * part, end = parts * (thread + 1) / threads * part;
        if (begin + at >= end || at >= MOST) return;
        const char* from = base_.load(std::memory_order_relaxed) + begin + at;
        for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(from + i, 0, 2);
        at += BYTES;
    }

  private:
    static constexpr int BYTES = 256;
    static constexpr size_t MOST = 256 << 10;  // of a second-level cache
    std::atomic<const char*> base_{nullptr};
    std::atomic<size_t> part_{0};
    std::atomic<int> parts_{0};
};

// `threads` threads, the caller's among them. share() splits items between them and returns when all are done. Each
// thread has a share of neighbouring items, of which it takes a run at a time, long ones first; then it takes from the
// others' shares. So a thread reads contiguous memory, threads seldom write to the same line, and nobody waits for a
// thread that has taken nothing: on a busy machine the others do its part.
class Pool {
  public:
    explicit Pool(int threads) : threads_(threads) {
        workers_ = new std::thread[threads];
        shares_ = new Share[threads];
        for (int i = 1; i < threads; i++)
            workers_[i] = std::thread([this, i] {
                while (!stopped_) {
                    const uint32_t seen = published_.now();
                    take(i);
                    size_t fetched = 0;
                    published_.wait(seen, [&] { ahead_.fetch(i, threads_, fetched); });
                }
            });
    }
    ~Pool() {
        stopped_ = true;
        published_.open();
        for (int i = 1; i < threads_; i++) workers_[i].join();
        delete[] workers_;
        delete[] shares_;
    }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // What idle threads prefetch from now on.
    void next(const void* base, size_t part, int parts) { ahead_.set(base, part, parts); }

    // function(item, thread) for each item of 0..count; called by one thread at a time.
    template <class Function>
    void share(int64_t count, const Function& function) {
        if (threads_ == 1 || count <= 1) {
            for (int64_t i = 0; i < count; i++) function(i, 0);
            return;
        }
        context_.store(&function, std::memory_order_relaxed);
        call_.store([](const void* context, int64_t from, int64_t to, int thread) {
            for (; from < to; from++) (*(const Function*)context)(from, thread);
        }, std::memory_order_relaxed);
        count_.store(count, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        phase_++;
        for (int i = 0; i < threads_; i++)
            shares_[i].ticket.store(phase_ << 32 | (uint64_t)(count * i / threads_), std::memory_order_release);
        published_.open();
        take(0);
        size_t fetched = 0;
        for (int i = 0; done_.load(std::memory_order_acquire) < count; i++)
            i < SPINS ? ahead_.fetch(0, threads_, fetched), relax() : std::this_thread::yield();
        // closed before the next phase's count is written: nobody can take an item of neither phase
        for (int i = 0; i < threads_; i++) shares_[i].ticket.store(phase_ << 32 | CLOSED, std::memory_order_seq_cst);
    }

  private:
    static constexpr uint64_t CLOSED = 0xffffffff;

    struct alignas(64) Share {
        std::atomic<uint64_t> ticket{CLOSED};  // the phase's number, and the share's next item in the low half
    };

    void take(int thread) {
        int64_t done = 0;
        for (int i = 0; i < threads_; i++) {
            const int owner = thread + i < threads_ ? thread + i : thread + i - threads_;
            done += take_of(owner, thread);
        }
        if (done) done_.fetch_add(done, std::memory_order_acq_rel);
    }

    // Items of `owner`'s share that `thread` has done.
    int64_t take_of(int owner, int thread) {
        std::atomic<uint64_t>& next = shares_[owner].ticket;
        uint64_t ticket = next.load(std::memory_order_acquire);
        int64_t done = 0;
        while (true) {
            const int64_t from = (int64_t)(ticket & CLOSED);
            const int64_t left = count_.load(std::memory_order_relaxed) * (owner + 1) / threads_ - from;
            if (left <= 0 || from == (int64_t)CLOSED) return done;
            const int64_t run = left > 4 ? left / 4 : 1;
            const auto call = call_.load(std::memory_order_relaxed);
            const void* context = context_.load(std::memory_order_relaxed);
            if (!next.compare_exchange_weak(ticket, ticket + run, std::memory_order_acq_rel)) continue;
            call(context, from, from + run, thread);
            done += run;
            ticket = next.load(std::memory_order_acquire);
        }
    }

    const int threads_;
    std::thread* workers_;
    Share* shares_;
    std::atomic<bool> stopped_{false};
    uint64_t phase_ = 0;
    std::atomic<const void*> context_{nullptr};
    std::atomic<void (*)(const void*, int64_t, int64_t, int)> call_{nullptr};
    std::atomic<int64_t> count_{0};
    alignas(64) Gate published_;
    alignas(64) std::atomic<int64_t> done_{0};
    alignas(64) Ahead ahead_;
};

}  // namespace catena
