// Broken preconditions stop the program at run time. Each runs in a child process.
#include <doctest/doctest.h>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ptebits/ptebits.hpp>

using namespace ptebits;

namespace {

template <class Function>
bool stops(Function call)
{
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        signal(SIGILL, SIG_DFL);
        signal(SIGTRAP, SIG_DFL);
        call();
        _exit(0);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0);  // sanitizers exit
}

// Known at run time only.
volatile unsigned zero = 0;
std::uint64_t slot = 0x1007;

}  // namespace

TEST_CASE("what is refused at compile time where it is known stops the program where it is not")
{
    const auto no_ad = format_for(ept_features{.accessed_dirty = zero != 0});
    const auto ad = format_for(ept_features{});
    CHECK_FALSE(stops([&] { static_cast<void>(age(slot, ad)); }));
    CHECK(stops([&] { static_cast<void>(age(slot, no_ad)); }));
    CHECK(stops([&] { static_cast<void>(young(slot, no_ad)); }));
    CHECK(stops([&] { static_cast<void>(clear_dirty(slot, no_ad)); }));
    CHECK(stops([&] { static_cast<void>(age(slot, masks::from({.present = 7 + zero}))); }));
    CHECK(stops([&] { static_cast<void>(masks::from({.present = 7 + zero}).accessed_shift()); }));
    CHECK(stops([&] { static_cast<void>(unmap(slot, ad, 0x1007 + zero)); }));
    CHECK(stops([&] { static_cast<void>(to_private(slot, 1, ad)); }));
    CHECK(
        stops([&] { static_cast<void>(convert_to_shared(slot, 1, format_for(shadow_features{.levels = 4 + zero}))); }));
    CHECK(stops(
        [&] { static_cast<void>(keep_without_access<57>(format_for(ept_features{.paging_write = zero == 0}))); }));
    CHECK_FALSE(stops([&] { static_cast<void>(keep_without_access<52>(ad)); }));
    CHECK(stops([&] { static_cast<void>(test_and_clear(slot, bits(5 + zero, 3))); }));
    CHECK(stops([&] { static_cast<void>(test_and_clear(slot, field{} ? bit(0) : field{})); }));
    CHECK(stops([&] { static_cast<void>(bits(5, 3)(8 + zero)); }));
    CHECK(stops([&] { static_cast<void>(ad->address(1, 0x1001 + zero)); }));
    CHECK(stops([&] { static_cast<void>(field{std::uint64_t{5} + zero}); }));
    CHECK(stops([&] {
        std::uint32_t narrow = 0x1007;
        static_cast<void>(age(narrow, masks::from({.present = 7, .accessed = std::uint64_t{1} << (63 - zero)})));
    }));
    CHECK(stops([&] {
        const auto ve = format_for(ept_features{.accessed_dirty = false, .suppress_ve = true});
        static_cast<void>(track_accesses<61>(ve));
    }));
    CHECK(stops([&] { static_cast<void>(frozen_marker(0x8000'0000'0000'05a0 + zero, ad)); }));
}

TEST_CASE("unmapping to a value that an absent entry must not have stops the program")
{
    constexpr auto ve = ept<ept_features{.suppress_ve = true}>;
    constexpr auto leaks = ept<ept_features{.physical_bits = 39, .memory_bits = 37}>;
    const auto leaks_at_run_time = format_for(leaks->features());
    constexpr std::uint64_t suppress = 0x8000'0000'0000'0000;
    CHECK_FALSE(stops([&] { static_cast<void>(unmap(slot, ve)); }));
    CHECK_FALSE(stops([&] { static_cast<void>(unmap(slot, ve, suppress + zero)); }));
    CHECK(stops([&] { static_cast<void>(unmap(slot, ve, 0 + zero)); }));
    CHECK(stops([&] { static_cast<void>(unmap(slot, ve, suppress + 4 + zero)); }));
    CHECK_FALSE(stops([&] { static_cast<void>(unmap(slot, leaks, 0x20'0000'0000 + zero)); }));
    CHECK_FALSE(stops([&] { static_cast<void>(unmap(slot, leaks, 0xcf0 + zero)); }));
    CHECK(stops([&] { static_cast<void>(unmap(slot, leaks, 0x1f'ffff'f000 + zero)); }));
    CHECK(stops([&] { static_cast<void>(unmap(slot, leaks, 0x100 + zero)); }));  // looks accessed
    CHECK(stops([&] { static_cast<void>(unmap(slot, leaks, 0x200 + zero)); }));  // looks dirty
    CHECK(stops([&] { static_cast<void>(unmap(slot, leaks_at_run_time, 0x1000 + zero)); }));
    CHECK(stops([&] { static_cast<void>(unmap(slot, masks::from({.present = 1}), 1 + zero)); }));
    CHECK(stops([&] { static_cast<void>(frozen_marker(0x4a0 + zero, ve)); }));
    CHECK(stops([&] { static_cast<void>(frozen_marker(0x1000 + zero, leaks_at_run_time)); }));
}

TEST_CASE("a part of a range that is not there stops the program")
{
    constexpr auto host = ept<ept_features{}>;
    CHECK_FALSE(stops([&] { static_cast<void>(range_part(host, {}, 2, 1 + zero)); }));
    CHECK(stops([&] { static_cast<void>(range_part(host, {}, 2, 2 + zero)); }));
    CHECK(stops([&] { static_cast<void>(range_part(host, {}, zero, zero)); }));
}

TEST_CASE("a table with more slots than the bitmap stops the program")
{
    constexpr auto host = ept<ept_features{}>;
    std::vector<std::uint64_t> slots(513 + zero, 0x1107);
    const std::span<std::uint64_t> fits(slots.data(), 512);
    const std::span<std::uint64_t> large(slots);
    const auto all = slot_bitmap<512>::all();
    CHECK_FALSE(stops([&] { age_table(fits, host); }));
    CHECK(stops([&] { age_table(large, host); }));
    CHECK(stops([&] { age_table(slots, host); }));
    CHECK(stops([&] { age_table(large, host, all); }));
    CHECK_FALSE(stops([&] { age_table<513>(large, host); }));
    CHECK(stops([&] { age_table<64>(std::span(slots).first(65), host); }));
    CHECK(stops([&] { static_cast<void>(harvest_dirty(large, host)); }));
    CHECK(stops([&] { static_cast<void>(harvest_dirty(large, host, all)); }));
    CHECK(stops([&] { static_cast<void>(write_protect_table(large, host)); }));
    CHECK(stops([&] { static_cast<void>(write_protect_table(large, host, all)); }));
    CHECK(stops([&] { static_cast<void>(young_in(large, host)); }));
    CHECK(stops([&] { static_cast<void>(young_in(large, host, all)); }));
}

TEST_CASE("a field that this entry has in other bits stops the program")
{
    const auto linear = format_for(shadow_features{.levels = 4 + zero});
    const auto entry_with = [&](unsigned level) {
        volatile std::uint64_t entry = linear->address(level, 0x20'0000) | linear->pat_large;
        static_cast<void>(entry);
    };
    CHECK_FALSE(stops([&] { entry_with(2); }));
    CHECK(stops([&] { entry_with(1); }));
}

TEST_CASE("a walk does not write into memory that is only read, nor read slots of another width")
{
    static constexpr std::uint64_t entry = 0x1007;  // not accessed yet
    const auto memory = [](std::uint64_t) { return &entry; };
    constexpr auto linear = shadow<shadow_features{}>;
    const auto walk_with = [&](update_flags update) {
        static_cast<void>(walk(linear, 0x1000, zero, {}, {}, memory, update));
    };
    CHECK_FALSE(stops([&] { walk_with(update_flags::no); }));
    CHECK(stops([&] { walk_with(update_flags::yes); }));
    const auto two_level = format_for(shadow_features{.levels = 2 + zero});
    CHECK(stops([&] { static_cast<void>(walk(two_level, 0x1000, 0, {}, {}, memory, update_flags::no)); }));
}
#endif
