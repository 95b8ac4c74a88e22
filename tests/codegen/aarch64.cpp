// SPDX-License-Identifier: BSL-1.0
// What cross.cmake counts in AArch64's code, by the first word of a function's name:
//   and_    one `ldclr`, no other atomic instruction
//   or_     the same of `ldset`
#include <ptebits/ageing.hpp>
#include <ptebits/formats/aarch64.hpp>

using namespace ptebits;

constexpr auto stage1 = aarch64_stage1<aarch64_stage1_features{}>;
constexpr auto by_fault = aarch64_stage1<aarch64_stage1_features{.access_flag = false, .dirty_state = false}>;
constexpr auto of_64k = aarch64_stage1<aarch64_stage1_features{.granule = 16, .large_addresses = true}>;
constexpr auto el2 = aarch64_el2<aarch64_el2_features{}>;
constexpr auto stage2 = aarch64_stage2<aarch64_stage2_features{}>;
constexpr auto stage2_by_fault = aarch64_stage2<aarch64_stage2_features{.access_flag = false, .dirty_state = false}>;
using at_run_time = runtime_format<aarch64_stage2_description>;

extern "C" {

bool and_age(std::uint64_t& s) { return age(s, stage1); }
bool and_age_by_fault(std::uint64_t& s) { return age(s, by_fault); }
bool and_age_64k(std::uint64_t& s) { return age(s, of_64k); }
bool and_age_el2(std::uint64_t& s) { return age(s, el2); }
bool and_age_stage2(std::uint64_t& s) { return age(s, stage2); }
bool and_age_run_time(std::uint64_t& s, const at_run_time& f) { return age(s, f); }
bool and_write_protect(std::uint64_t& s) { return write_protect(s, stage2_by_fault); }
bool or_write_protect(std::uint64_t& s) { return write_protect(s, by_fault); }
}
