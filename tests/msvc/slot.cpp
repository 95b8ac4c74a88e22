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

#undef __GNUC__
#undef __clang__
#define _MSC_VER 1930
[[noreturn]] inline void __fastfail(unsigned) { std::abort(); }
#include <ptebits/slot.hpp>
#undef long

#include "../slot.cpp"
