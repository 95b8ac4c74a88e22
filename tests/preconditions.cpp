// Broken preconditions stop the program at run time. Each runs in a child process.
#include <doctest/doctest.h>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
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
    CHECK(stops([&] { static_cast<void>(test_and_clear(slot, bits(5 + zero, 3))); }));
    CHECK(stops([&] { static_cast<void>(test_and_clear(slot, field{} ? bit(0) : field{})); }));
    CHECK(stops([&] { static_cast<void>(bits(5, 3)(8 + zero)); }));
    CHECK(stops([&] { static_cast<void>(ad.address(1, 0x1001 + zero)); }));
    CHECK(stops([&] { static_cast<void>(field{std::uint64_t{5} + zero}); }));
    CHECK(stops([&] {
        std::uint32_t narrow = 0x1007;
        static_cast<void>(age(narrow, masks::from({.present = 7, .accessed = std::uint64_t{1} << (63 - zero)})));
    }));
    using busy = runtime_format<ept_description>;
    CHECK(stops([&] {
        const auto ve = format_for(ept_features{.accessed_dirty = false, .suppress_ve = true});
        static_cast<void>(access_tracking<busy, 61>{ve});
    }));
    CHECK(stops([&] { static_cast<void>(runtime_frozen_marker(0x8000'0000'0000'05a0 + zero, ad)); }));
}

TEST_CASE("a walk does not write into memory that is only read, nor read slots of another width")
{
    static constexpr std::uint64_t entry = 0x1007;  // not accessed yet
    const auto memory = [](std::uint64_t) { return &entry; };
    using linear = shadow<shadow_features{}>;
    const auto walk_with = [&](update_flags update) {
        static_cast<void>(walk(linear{}, 0x1000, zero, {}, {}, memory, update));
    };
    CHECK_FALSE(stops([&] { walk_with(update_flags::no); }));
    CHECK(stops([&] { walk_with(update_flags::yes); }));
    const auto two_level = format_for(shadow_features{.levels = 2 + zero});
    CHECK(stops([&] { static_cast<void>(walk(two_level, 0x1000, 0, {}, {}, memory, update_flags::no)); }));
}
#endif
