// expect: ptebits: a frozen marker must have what absent entries of this format must have
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>

#ifdef PTEBITS_CONTROL
constexpr std::uint64_t marker = 0x8000'0000'0000'04a0;
#else
constexpr std::uint64_t marker = 0x4a0;  // bit 63 clear: a violation may become an exception of the guest
#endif

static_assert(ptebits::frozen_marker<marker>(ptebits::ept<ptebits::ept_features{.suppress_ve = true}>).value == marker);

int main() {}
