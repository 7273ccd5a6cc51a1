// Threads that share a region's work: a team of our own in place of OpenMP's.
//
// OpenMP divides a region evenly and its threads wait for each other at the end. Beside one other busy program that is
// the worst that can be done: a thread whose core was taken away holds all others up, and those spin meanwhile and burn
// the very time that it needs. Here a region is cut into pieces that whoever runs takes one by one: the caller waits
// for nobody who has not begun, and where it has to wait it spins only while nobody else wants the cores.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace {

using Nanoseconds = std::int64_t;

inline Nanoseconds now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * Nanoseconds{1'000'000'000} + time.tv_nsec;
}

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team {
   public:
    // One piece of a region: units from first to last.
    using Work = void (*)(const void* body, Index first, Index last);

    // Work on units 0 to number, by at most so many threads and the caller, until all is done. Regions do not nest: a
    // second caller works alone.
    void share(Index number, int threads, Work work, const void* body) {
        const std::unique_lock<std::mutex> only(callers_, std::try_to_lock);
        if (threads < 2 || number < 2 || !only || !grown(threads - 1)) return work(body, 0, number);
        const Index pieces = std::min<Index>(number, std::min<Index>(threads, kThreads) * kPieces);
        number_ = number, work_ = work, body_ = body;
        done_.store(0, std::memory_order_relaxed);
        ticket_.store((static_cast<std::uint64_t>(pieces) << 32), std::memory_order_seq_cst);
        called_.fetch_add(1, std::memory_order_seq_cst);
        if (asleep_.load(std::memory_order_seq_cst) > 0) futex(called_, FUTEX_WAKE_PRIVATE, INT_MAX);
        while (take()) continue;
        wait([&] { return done_.load(std::memory_order_seq_cst) == pieces; }, finished_, waits_);
    }

   private:
    static constexpr Index kPieces = 8;    // for each thread: who is late leaves the rest to the others
    static constexpr Index kThreads = 256;
    static constexpr int kPauses = 16;     // between two looks at the clock
    // Waking a thread takes as long as a small region; a step's regions follow each other faster than that.
    static constexpr Nanoseconds kSpin = 300'000, kSpinCrowded = 3'000;
    // A spinner that was away for so long has lost its core to a program that computes, not to one that answers a call.
    static constexpr Nanoseconds kAway = 1'500'000;
    static constexpr Nanoseconds kCrowded = 100'000'000, kCrowdedMost = 3'200'000'000;

    // Pieces in the upper half, the next one in the lower: a claim is valid or void by one value.
    std::atomic<std::uint64_t> ticket_{0};
    std::atomic<Index> done_{0};
    Index number_ = 0;
    Work work_ = nullptr;
    const void* body_ = nullptr;
    // Futexes: counted up where someone may sleep on them.
    std::atomic<std::uint32_t> called_{0}, finished_{0};
    std::atomic<int> asleep_{0}, waits_{0};
    std::atomic<Nanoseconds> crowded_until_{0}, crowded_for_{kCrowded};
    std::mutex callers_;
    int workers_ = 0;

    static void futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value) {
        syscall(SYS_futex, &word, operation, value, nullptr, nullptr, 0);
    }

    // False where the system gives no more threads.
    bool grown(int workers) {
        try {
            for (; workers_ < std::min<Index>(workers, kThreads - 1); ++workers_)
                std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
            return workers_ > 0;
        }
        return true;
    }

    // Do one piece of the region there is; false where all of them are taken.
    bool take() {
        const std::uint64_t seen = ticket_.load(std::memory_order_acquire);
        if (static_cast<std::uint32_t>(seen) >= seen >> 32) return false;
        const std::uint64_t claimed = ticket_.fetch_add(1, std::memory_order_acq_rel);
        const Index piece = static_cast<std::uint32_t>(claimed), pieces = static_cast<Index>(claimed >> 32);
        if (piece >= pieces) return false;
        // The region cannot end, nor the next begin, before this piece is done.
        work_(body_, number_ * piece / pieces, number_ * (piece + 1) / pieces);
        if (done_.fetch_add(1, std::memory_order_seq_cst) + 1 == pieces && waits_.load(std::memory_order_seq_cst) > 0) {
            finished_.fetch_add(1, std::memory_order_seq_cst);
            futex(finished_, FUTEX_WAKE_PRIVATE, 1);
        }
        return true;
    }

    [[noreturn]] void serve() {
        const auto open = [this] {
            const std::uint64_t seen = ticket_.load(std::memory_order_seq_cst);
            return static_cast<std::uint32_t>(seen) < seen >> 32;
        };
        while (true) {
            wait(open, called_, asleep_);
            while (take()) continue;
        }
    }

    // Spin, then sleep until it holds; whoever makes it hold looks at sleepers and counts the word up.
    template <typename Holds>
    void wait(const Holds& holds, std::atomic<std::uint32_t>& word, std::atomic<int>& sleepers) {
        const Nanoseconds began = now();
        const bool crowded = began < crowded_until_.load(std::memory_order_relaxed);
        for (Nanoseconds last = began; last - began < (crowded ? kSpinCrowded : kSpin);) {
            for (int n = 0; n < kPauses; ++n) {
                if (holds()) return;
                pause();
            }
            const Nanoseconds here = now();
            if (here - last > kAway) crowd(here);
            last = here;
        }
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        while (true) {
            const std::uint32_t seen = word.load(std::memory_order_seq_cst);
            if (holds()) break;
            futex(word, FUTEX_WAIT_PRIVATE, seen);
        }
        sleepers.fetch_sub(1, std::memory_order_seq_cst);
    }

    // Twice as long as the last time, if that was not long ago: each look whether they are gone costs a slice of time.
    void crowd(Nanoseconds here) {
        const Nanoseconds until = crowded_until_.load(std::memory_order_relaxed);
        const Nanoseconds last = crowded_for_.load(std::memory_order_relaxed);
        const Nanoseconds now_for = here - until < last ? std::min(2 * last, kCrowdedMost) : kCrowded;
        crowded_for_.store(now_for, std::memory_order_relaxed);
        crowded_until_.store(here + now_for, std::memory_order_relaxed);
    }
};

// Never destroyed: its threads may still wait when the process ends.
inline Team& team() {
    static Team& only = *new Team;
    return only;
}

// body(first, last) for all units from 0 to number; by several threads where it is worth it.
template <typename Body>
inline void share(bool worth, Index number, int threads, const Body& body) {
    if (!worth) return body(Index{0}, number);
    team().share(
        number, threads,
        [](const void* given, Index first, Index last) { (*static_cast<const Body*>(given))(first, last); }, &body);
}

}  // namespace
