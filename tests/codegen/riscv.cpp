// SPDX-License-Identifier: BSL-1.0
// What cross.cmake counts in RISC-V's code, by the first word of a function's name:
//   and_    one `amoand.d` (of Sv32 `amoand.w`), no other atomic instruction
//   or_     the same of `amoor`
#include <ptebits/ageing.hpp>
#include <ptebits/formats/riscv.hpp>

using namespace ptebits;

constexpr auto sv39 = riscv<riscv_features{.svadu = true}>;
constexpr auto by_software = riscv<riscv_features{.levels = 4, .svnapot = true, .svpbmt = true}>;
constexpr auto sv32 = riscv<riscv_features{.levels = 2, .svadu = true}>;
constexpr auto sv39x4 = gstage<gstage_features{.svadu = true}>;
using at_run_time = runtime_format<riscv_description>;

extern "C" {

bool and_age(std::uint64_t& s) { return age(s, sv39); }
bool and_age_by_software(std::uint64_t& s) { return age(s, by_software); }
bool and_age_sv32(std::uint32_t& s) { return age(s, sv32); }
bool and_age_sv39x4(std::uint64_t& s) { return age(s, sv39x4); }
bool and_age_run_time(std::uint64_t& s, const at_run_time& f) { return age(s, f); }
bool and_harvest(std::uint64_t& s) { return harvest_dirty(s, sv39); }
bool and_harvest_sv39x4(std::uint64_t& s) { return harvest_dirty(s, sv39x4); }
bool and_write_protect(std::uint64_t& s) { return write_protect(s, sv39x4); }
void or_set(std::uint64_t& s) { set(s, sv39->accessed | sv39->dirty); }
}
