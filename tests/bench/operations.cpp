// Nanoseconds and instructions of each scalar operation, beside std::atomic_ref written
// the obvious way and inline assembly as kernels write it. One run, ratios of medians of
// 9 rounds taken in turns. Linux on x86-64; instructions are counted by single steps.
//   bench_operations [rounds]
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ptebits/ptebits.hpp>
#include <vector>

using namespace ptebits;

namespace {

constexpr auto host = ept<ept_features{}>;
constexpr auto seed = ept<ept_features{.accessed_dirty = false, .software_accessed = 63}>;

using word = std::uint64_t;
using ref = std::atomic_ref<word>;
using contestant = bool (*)(word&);

const masks start_up = masks::from({.present = 0x7, .accessed = 0x100});
// Run-time values as a kernel keeps them: globals that the compiler cannot see through.
volatile unsigned volatile_shift = 8;
const unsigned run_time_shift = volatile_shift;
const word run_time_mask = word{1} << run_time_shift;
const word run_time_present = start_up.present_mask();
const field run_time_field = bit(run_time_shift);

word read_once(const word& slot) { return *static_cast<const volatile word*>(&slot); }

template <unsigned Shift>
bool kernel_test_and_clear(word& slot)
{
    bool was;
    asm volatile("lock btrq %2, %1" : "=@ccc"(was), "+m"(slot) : "i"(Shift) : "memory");
    return was;
}
bool kernel_test_and_clear(word& slot, word shift)
{
    bool was;
    asm volatile("lock btrq %2, %1" : "=@ccc"(was), "+m"(slot) : "r"(shift) : "memory");
    return was;
}
template <unsigned Shift>
bool kernel_test_and_set(word& slot)
{
    bool was;
    asm volatile("lock btsq %2, %1" : "=@ccc"(was), "+m"(slot) : "i"(Shift) : "memory");
    return was;
}

template <const auto& Format>
[[gnu::noinline]] bool library_age(word& slot)
{
    return age(slot, Format);
}
template <word Accessed>
[[gnu::noinline]] bool obvious_age(word& slot)
{
    const word entry = ref(slot).load(std::memory_order_acquire);
    if ((entry & 0x7) == 0 || (entry & Accessed) == 0) return false;
    return (ref(slot).fetch_and(~Accessed) & Accessed) != 0;
}
template <unsigned Shift>
[[gnu::noinline]] bool kernel_age(word& slot)
{
    const word entry = read_once(slot);
    if ((entry & 0x7) == 0 || (entry >> Shift & 1) == 0) return false;
    return kernel_test_and_clear<Shift>(slot);
}

[[gnu::noinline]] bool library_age_masks(word& slot) { return age(slot, start_up); }
[[gnu::noinline]] bool obvious_age_masks(word& slot)
{
    const word entry = ref(slot).load(std::memory_order_acquire);
    if ((entry & run_time_present) == 0 || (entry & run_time_mask) == 0) return false;
    return (ref(slot).fetch_and(~run_time_mask) & run_time_mask) != 0;
}
[[gnu::noinline]] bool kernel_age_masks(word& slot)
{
    const word entry = read_once(slot);
    if ((entry & run_time_present) == 0 || (entry & run_time_mask) == 0) return false;
    return kernel_test_and_clear(slot, run_time_shift);
}

template <unsigned Shift>
[[gnu::noinline]] bool library_clear(word& slot)
{
    return test_and_clear(slot, bit(Shift));
}
template <unsigned Shift>
[[gnu::noinline]] bool obvious_clear(word& slot)
{
    return (ref(slot).fetch_and(~(word{1} << Shift)) >> Shift & 1) != 0;
}
template <unsigned Shift>
[[gnu::noinline]] bool kernel_clear(word& slot)
{
    return kernel_test_and_clear<Shift>(slot);
}
[[gnu::noinline]] bool library_clear_run_time(word& slot) { return test_and_clear(slot, run_time_field); }
[[gnu::noinline]] bool obvious_clear_run_time(word& slot)
{
    return (ref(slot).fetch_and(~run_time_mask) & run_time_mask) != 0;
}
[[gnu::noinline]] bool kernel_clear_run_time(word& slot) { return kernel_test_and_clear(slot, run_time_shift); }

template <unsigned Shift>
[[gnu::noinline]] bool library_set(word& slot)
{
    return test_and_set(slot, bit(Shift));
}
template <unsigned Shift>
[[gnu::noinline]] bool obvious_set(word& slot)
{
    return (ref(slot).fetch_or(word{1} << Shift) >> Shift & 1) != 0;
}
template <unsigned Shift>
[[gnu::noinline]] bool kernel_set(word& slot)
{
    return kernel_test_and_set<Shift>(slot);
}

[[gnu::noinline]] bool library_set_quietly(word& slot) { return set(slot, host->dirty), true; }
[[gnu::noinline]] bool obvious_set_quietly(word& slot) { return ref(slot).fetch_or(0x200), true; }
[[gnu::noinline]] bool kernel_set_quietly(word& slot)
{
    asm volatile("lock orq %1, %0" : "+m"(slot) : "i"(0x200) : "memory");
    return true;
}

[[gnu::noinline]] bool library_clear_quietly(word& slot) { return clear(slot, host->accessed), true; }
[[gnu::noinline]] bool obvious_clear_quietly(word& slot) { return ref(slot).fetch_and(~word{0x100}), true; }
[[gnu::noinline]] bool kernel_clear_quietly(word& slot)
{
    asm volatile("lock andq %1, %0" : "+m"(slot) : "i"(~0x100) : "memory");
    return true;
}

[[gnu::noinline]] bool library_unmap(word& slot) { return unmap(slot, host) != 0; }
[[gnu::noinline]] bool obvious_unmap(word& slot) { return ref(slot).exchange(0) != 0; }
[[gnu::noinline]] bool kernel_unmap(word& slot)
{
    word old = 0;
    asm volatile("xchgq %0, %1" : "+r"(old), "+m"(slot) : : "memory");
    return old != 0;
}

// One bit that is cleared where it is set in a present entry: D, then W.
[[gnu::noinline]] bool library_clear_dirty(word& slot) { return clear_dirty(slot, host); }
[[gnu::noinline]] bool library_write_protect(word& slot) { return write_protect(slot, host); }

[[gnu::noinline]] bool library_mark(word& slot) { return mark_accessed(slot, host); }
[[gnu::noinline]] bool obvious_mark(word& slot)
{
    const word entry = ref(slot).load(std::memory_order_acquire);
    if ((entry & 0x7) == 0 || (entry & 0x100) != 0) return false;
    return (ref(slot).fetch_or(0x100) & 0x100) == 0;
}
[[gnu::noinline]] bool kernel_mark(word& slot)
{
    const word entry = read_once(slot);
    if ((entry & 0x7) == 0 || (entry & 0x100) != 0) return false;
    return !kernel_test_and_set<8>(slot);
}

constexpr auto tracked = track_accesses<54>(ept<ept_features{.accessed_dirty = false}>);
constexpr word aside(word entry) { return (entry & ~word{7}) | (entry & 5) << 54; }
[[gnu::noinline]] bool library_track(word& slot) { return age(slot, tracked); }
[[gnu::noinline]] bool obvious_track(word& slot)
{
    word entry = ref(slot).load(std::memory_order_acquire);
    if ((entry & 0x7) == 0) return false;
    ref(slot).compare_exchange_strong(entry, aside(entry));
    return true;
}
[[gnu::noinline]] bool kernel_track(word& slot)
{
    word entry = read_once(slot);
    if ((entry & 0x7) == 0) return false;
    const word wanted = aside(entry);
    asm volatile("lock cmpxchgq %2, %1" : "+a"(entry), "+m"(slot) : "r"(wanted) : "memory");
    return true;
}

[[gnu::noinline]] bool nothing(word&) { return true; }

struct contest {
    const char* name;
    word before;  // the entry that each call finds
    contestant library;
    contestant obvious;
    contestant kernel;
};
const contest contests[] = {
    {"age, young", 0x1107, library_age<host>, obvious_age<0x100>, kernel_age<8>},
    {"age, old", 0x1007, library_age<host>, obvious_age<0x100>, kernel_age<8>},
    {"age, bit 63", 0x8000'0000'0000'1007, library_age<seed>, obvious_age<word{1} << 63>, kernel_age<63>},
    {"age by masks", 0x1107, library_age_masks, obvious_age_masks, kernel_age_masks},
    {"test_and_clear 8", 0x1107, library_clear<8>, obvious_clear<8>, kernel_clear<8>},
    {"test_and_clear 63", 0x1107, library_clear<63>, obvious_clear<63>, kernel_clear<63>},
    {"test_and_clear n", 0x1107, library_clear_run_time, obvious_clear_run_time, kernel_clear_run_time},
    {"test_and_set 8", 0x1007, library_set<8>, obvious_set<8>, kernel_set<8>},
    {"test_and_set 63", 0x1007, library_set<63>, obvious_set<63>, kernel_set<63>},
    {"set", 0x1007, library_set_quietly, obvious_set_quietly, kernel_set_quietly},
    {"clear", 0x1107, library_clear_quietly, obvious_clear_quietly, kernel_clear_quietly},
    {"unmap", 0x1107, library_unmap, obvious_unmap, kernel_unmap},
    {"clear_dirty", 0x1207, library_clear_dirty, obvious_age<0x200>, kernel_age<9>},
    {"write_protect", 0x1007, library_write_protect, obvious_age<0x2>, kernel_age<1>},
    {"mark_accessed", 0x1007, library_mark, obvious_mark, kernel_mark},
    {"age by tracking", 0x1007, library_track, obvious_track, kernel_track},
};

constexpr std::size_t slot_count = 256;
alignas(64) std::array<word, slot_count> slots;

double nanoseconds_a_call(contestant run, word before)
{
    constexpr int passes = 400;
    unsigned kept = 0;
    std::chrono::nanoseconds spent{0};
    for (int pass = 0; pass < passes; ++pass) {
        slots.fill(before);
        const auto start = std::chrono::steady_clock::now();
        for (word& slot : slots) kept += run(slot);
        spent += std::chrono::steady_clock::now() - start;
    }
    volatile unsigned sink = kept;
    static_cast<void>(sink);
    return static_cast<double>(spent.count()) / (passes * slot_count);
}

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// Instructions between two breakpoints around a call, by single steps; -1 without ptrace.
long steps_around(contestant run, word before)
{
    const pid_t child = fork();
    if (child < 0) return -1;
    if (child == 0) {
        word slot = before;
        if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(1);
        raise(SIGSTOP);
        asm volatile("int3" ::: "memory");
        static_cast<void>(run(slot));
        asm volatile("int3" ::: "memory");
        _exit(0);
    }
    long steps = -1;
    int status = 0;
    bool counting = false;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        siginfo_t info{};
        ptrace(PTRACE_GETSIGINFO, child, nullptr, &info);
        const bool breakpoint = WSTOPSIG(status) == SIGTRAP && info.si_code == SI_KERNEL;
        if (breakpoint && counting) break;
        if (breakpoint) {
            counting = true;
            steps = 0;
        } else if (counting) {
            ++steps;
        }
        if (ptrace(counting ? PTRACE_SINGLESTEP : PTRACE_CONT, child, nullptr, nullptr) != 0) break;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return steps;
}

}  // namespace

int main(int argc, char** argv)
{
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
    if (rounds < 1) {
        std::fprintf(stderr, "usage: bench_operations [rounds]\n");
        return 2;
    }
    const long around = steps_around(nothing, 0);  // the call and the return themselves
    std::printf("%s, medians of %d rounds; library / obvious / kernel; instructions within the function\n\n",
                __VERSION__, rounds);
    std::printf("%-18s %23s   %9s %9s   %14s\n", "", "ns a call", "/obvious", "/kernel", "instructions");
    for (const contest& c : contests) {
        std::vector<double> ns[3];
        std::vector<double> to_obvious;
        std::vector<double> to_kernel;
        const contestant all[] = {c.library, c.obvious, c.kernel};
        for (int round = 0; round < rounds; ++round) {
            double now[3];
            for (int turn = 0; turn < 3; ++turn) {  // each comes first in a third of the rounds
                const int i = (turn + round) % 3;
                ns[i].push_back(now[i] = nanoseconds_a_call(all[i], c.before));
            }
            to_obvious.push_back(now[0] / now[1]);
            to_kernel.push_back(now[0] / now[2]);
        }
        long steps[3];
        for (int i = 0; i < 3; ++i) steps[i] = around < 0 ? -1 : steps_around(all[i], c.before) - around + 1;
        std::printf("%-18s %7.2f %7.2f %7.2f   %8.2fx %8.2fx   %4ld %4ld %4ld\n", c.name, median(ns[0]), median(ns[1]),
                    median(ns[2]), median(to_obvious), median(to_kernel), steps[0], steps[1], steps[2]);
    }
}
