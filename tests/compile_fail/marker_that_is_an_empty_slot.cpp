// expect: ptebits: a frozen marker must not be what an empty slot holds
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t marker = 0x8000'0000'0000'0010;
#else
constexpr std::uint64_t marker = 0x8000'0000'0000'0000;
#endif

static_assert(ptebits::frozen_marker<marker>(ptebits::ept<ptebits::ept_features{.suppress_ve = true}>).value == marker);

int main() {}
