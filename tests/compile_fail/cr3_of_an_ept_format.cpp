// expect: ptebits: CR3 holds the root of ordinary or nested paging, not that of EPT (root_of_eptp)
// SPDX-License-Identifier: BSL-1.0
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/x86_registers.hpp>

#ifdef PTEBITS_CONTROL
constexpr auto format = ptebits::shadow<ptebits::shadow_features{}>;
#else
constexpr auto format = ptebits::ept<ptebits::ept_features{}>;
#endif

static_assert(ptebits::root_of_cr3(0x1018, format).root == 0x1000);

int main() {}
