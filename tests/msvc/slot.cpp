// The tests of slot.hpp over its MSVC path: this compiler passes for MSVC while the library
// is read, with a shim in the place of MSVC's intrinsics. What is tested is the path's
// logic; that MSVC itself takes it is not.
#include <doctest/doctest.h>

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <type_traits>

#if defined(__linux__)  // what ../slot.cpp includes, while the compiler still has its own name
#include <sys/mman.h>
#include <unistd.h>
#endif

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wkeyword-macro"  // the shim's `long`
#endif
#undef __GNUC__
#undef __clang__
#define _MSC_VER 1930
#include <ptebits/slot.hpp>
#undef long

#include "../slot.cpp"

TEST_CASE("a load does not write: it works on read-only memory")
{
    static const std::uint64_t constant = 5;
    static const std::uint32_t narrow = 7;
    CHECK(load(constant) == 5);
    CHECK(load(narrow) == 7);
}
