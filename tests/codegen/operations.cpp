// What check.cmake looks for in the disassembly, by the first word of a function's name:
//   bit_    one `lock btr` or `lock bts`, no loop
//   mask_   one `lock and` or `lock or` (or btr, bts), no loop
//   swap_   one `lock cmpxchg`, no loop
//   loop_   one `lock cmpxchg`, tried again where it fails
//   xchg_   one `xchg` with memory, no loop
//   load_   neither
#include <ptebits/ptebits.hpp>

#include "../stages.hpp"

using namespace ptebits;

constexpr auto ept_ad = ept<ept_features{}>;
constexpr auto ept_none = ept<ept_features{.accessed_dirty = false}>;
constexpr auto ept_8 = ept<ept_features{.accessed_dirty = false, .software_accessed = 8}>;
constexpr auto ept_63 = ept<ept_features{.accessed_dirty = false, .software_accessed = 63}>;
constexpr auto ept_ve = ept<ept_features{.suppress_ve = true}>;
constexpr auto ept_ve_none = ept<ept_features{.accessed_dirty = false, .suppress_ve = true}>;
constexpr auto ept_leaks = ept<ept_features{.accessed_dirty = false, .memory_bits = 40}>;
constexpr auto ept_46 = ept<ept_features{.physical_bits = 46}>;
constexpr auto npt_long = npt<npt_features{}>;
constexpr auto shadow_long = shadow<shadow_features{}>;
constexpr auto shadow_pae = shadow<shadow_features{.levels = 3}>;
constexpr auto shadow_two = shadow<shadow_features{.levels = 2}>;
constexpr auto start_up = masks_of<mask_values{.present = 0x7, .accessed = std::uint64_t{1} << 63}>;
constexpr auto shadow_46 = shadow<shadow_features{.physical_bits = 46}>;
constexpr auto shadow_cet = shadow<shadow_features{.shadow_stacks = true}>;
using ept_at_run_time = runtime_format<ept_description>;
using riscv_at_run_time = runtime_format<riscv_description>;
using npt_at_run_time = runtime_format<npt_description>;
using ept_at_boot = boot_format<ept_description, ept_features{.physical_bits = 46}>;

extern "C" {

bool bit_age_ept(std::uint64_t& s) { return age(s, ept_ad); }
bool bit_age_ept_8(std::uint64_t& s) { return age(s, ept_8); }
bool bit_age_ept_63(std::uint64_t& s) { return age(s, ept_63); }
bool bit_age_npt(std::uint64_t& s) { return age(s, npt_long); }
bool bit_age_shadow(std::uint64_t& s) { return age(s, shadow_long); }
bool bit_age_pae(std::uint64_t& s) { return age(s, shadow_pae); }
bool bit_age_two_level(std::uint32_t& s) { return age(s, shadow_two); }
bool bit_age_constant_masks(std::uint64_t& s) { return age(s, start_up); }
bool bit_age_masks(std::uint64_t& s, const masks& m) { return age(s, m); }
bool bit_age_run_time_ept(std::uint64_t& s, const ept_at_run_time& f) { return age(s, f); }
bool bit_age_run_time_npt(std::uint64_t& s, const npt_at_run_time& f) { return age(s, f); }
bool bit_age_at_boot(std::uint64_t& s, const ept_at_boot& f) { return age(s, f); }
bool bit_clear_dirty_at_boot(std::uint64_t& s, const ept_at_boot& f) { return clear_dirty(s, f); }
bool bit_write_protect_at_boot(std::uint64_t& s, const ept_at_boot& f) { return write_protect(s, f); }
bool bit_age_relaxed(std::uint64_t& s) { return age(s, ept_63, atomic_access<order::relaxed>{}); }

bool bit_clear_0(std::uint64_t& s) { return test_and_clear(s, bit(0)); }
bool bit_clear_5(std::uint64_t& s) { return test_and_clear(s, bit(5)); }
bool bit_clear_8(std::uint64_t& s) { return test_and_clear(s, bit(8)); }
bool bit_clear_32(std::uint64_t& s) { return test_and_clear(s, bit(32)); }
bool bit_clear_63(std::uint64_t& s) { return test_and_clear(s, bit(63)); }
bool bit_clear_31_of_32(std::uint32_t& s) { return test_and_clear(s, bit(31)); }
bool bit_clear_run_time(std::uint64_t& s, const field& f) { return test_and_clear(s, f); }
bool bit_set_0(std::uint64_t& s) { return test_and_set(s, bit(0)); }
bool bit_set_5(std::uint64_t& s) { return test_and_set(s, bit(5)); }
bool bit_set_9(std::uint64_t& s) { return test_and_set(s, bit(9)); }
bool bit_set_63(std::uint64_t& s) { return test_and_set(s, bit(63)); }
bool bit_set_31_of_32(std::uint32_t& s) { return test_and_set(s, bit(31)); }
bool bit_set_run_time(std::uint64_t& s, const field& f) { return test_and_set(s, f); }

bool bit_clear_dirty_ept(std::uint64_t& s) { return clear_dirty(s, ept_ad); }
bool bit_clear_dirty_npt(std::uint64_t& s) { return harvest_dirty(s, npt_long); }
bool bit_clear_dirty_run_time(std::uint64_t& s, const npt_at_run_time& f) { return clear_dirty(s, f); }
bool bit_write_protect_ept(std::uint64_t& s) { return write_protect(s, ept_63); }
bool bit_write_protect_harvest(std::uint64_t& s) { return harvest_dirty(s, ept_8); }

void mask_set_dirty(std::uint64_t& s) { set(s, ept_ad->dirty); }
void mask_set_63(std::uint64_t& s) { set(s, bit(63)); }
void mask_set_two(std::uint64_t& s) { set(s, ept_ad->accessed | ept_ad->dirty); }
void mask_set_run_time(std::uint64_t& s, std::uint64_t m) { set(s, m); }
void mask_clear_accessed(std::uint64_t& s) { clear(s, npt_long->accessed); }
void mask_clear_63(std::uint64_t& s) { clear(s, bit(63)); }
void mask_clear_run_time(std::uint64_t& s, std::uint64_t m) { clear(s, m); }
void mask_clear_31_of_32(std::uint32_t& s) { clear(s, bit(31)); }

bool swap_track(std::uint64_t& s) { return age(s, track_accesses<54>(ept_none)); }
bool swap_compare(std::uint64_t& s, std::uint64_t& e, std::uint64_t v) { return compare_exchange(s, e, v); }

bool bit_age_mode_based(std::uint64_t& s) { return age(s, ept<ept_features{.mode_based_execute = true}>); }
bool bit_age_five_levels(std::uint64_t& s) { return age(s, npt<npt_features{.levels = 5}>); }
std::uint64_t bit_clear_mask_63(std::uint64_t& s) { return test_and_clear(s, std::uint64_t{1} << 63); }
std::uint64_t bit_clear_mask_8(std::uint64_t& s) { return test_and_clear(s, ept_ad->accessed.mask()); }
std::uint64_t bit_set_mask_9(std::uint64_t& s) { return test_and_set(s, ept_ad->dirty.mask()); }
bool bit_clear_dirty_two_level(std::uint32_t& s) { return clear_dirty(s, shadow_two); }
bool bit_write_protect_pae(std::uint64_t& s) { return write_protect(s, shadow_pae); }

bool loop_mark_accessed(std::uint64_t& s) { return mark_accessed(s, ept_ad); }
bool loop_restore(std::uint64_t& s) { return restore(s, track_accesses<54>(ept_none)); }
bool swap_freeze(std::uint64_t& s, std::uint64_t& e)
{
    return freeze(s, e, frozen_marker<0x8000'0000'0000'0400>(ept_ad));
}
std::uint64_t xchg_unmap(std::uint64_t& s) { return unmap(s, ept_ad); }
std::uint64_t xchg_exchange(std::uint64_t& s, std::uint64_t v) { return exchange(s, v); }
void xchg_store_seq_cst(std::uint64_t& s, std::uint64_t v) { store(s, v, atomic_access<order::seq_cst>{}); }

bool bit_age_suppress_ve(std::uint64_t& s) { return age(s, ept_ve); }
bool bit_age_memory_bits(std::uint64_t& s) { return age(s, ept<ept_features{.memory_bits = 40}>); }
bool swap_track_suppress_ve(std::uint64_t& s) { return age(s, track_accesses<54>(ept_ve_none)); }
bool swap_track_memory_bits(std::uint64_t& s) { return age(s, track_accesses<54>(ept_leaks)); }
bool loop_restore_suppress_ve(std::uint64_t& s) { return restore(s, track_accesses<54>(ept_ve_none)); }
bool loop_restore_memory_bits(std::uint64_t& s) { return restore(s, track_accesses<54>(ept_leaks)); }
std::uint64_t xchg_unmap_suppress_ve(std::uint64_t& s) { return unmap(s, ept_ve); }
std::uint64_t xchg_unmap_run_time(std::uint64_t& s, const ept_at_run_time& f) { return unmap(s, f); }
bool bit_clear_dirty_by_modifier(std::uint64_t& s) { return clear_dirty(s, stages::first); }
bool bit_harvest_by_modifier(std::uint64_t& s) { return harvest_dirty(s, stages::first); }
bool loop_write_protect_modifier(std::uint64_t& s) { return write_protect(s, stages::first); }

bool bit_age_with_rules(std::uint64_t& s) { return age(s, ept_46); }
bool bit_age_at_level(std::uint64_t& s, unsigned level) { return age(s, ept_46, {}, level); }
bool bit_age_reserved_bits(std::uint64_t& s) { return age(s, shadow_46); }
bool bit_clear_dirty_with_rules(std::uint64_t& s) { return clear_dirty(s, ept_46); }
bool bit_write_protect_with_rules(std::uint64_t& s) { return write_protect(s, ept_46); }
bool bit_write_protect_run_time(std::uint64_t& s, const riscv_at_run_time& f) { return write_protect(s, f); }
bool bit_harvest_shadow_stacks(std::uint64_t& s) { return harvest_dirty(s, shadow_cet); }
bool loop_write_protect_shadow_stacks(std::uint64_t& s) { return write_protect(s, shadow_cet); }
bool loop_mark_dirty(std::uint64_t& s) { return mark_dirty(s, ept_46); }
bool loop_mark_dirty_shadow_stacks(std::uint64_t& s) { return mark_dirty(s, shadow_cet); }
bool loop_harvest_tracking(std::uint64_t& s) { return harvest_dirty(s, track_accesses<54>(ept_none)); }
bool swap_track_with_rules(std::uint64_t& s)
{
    return age(s, track_accesses<54>(ept<ept_features{.physical_bits = 46, .accessed_dirty = false}>));
}

std::uint64_t load_acquire(const std::uint64_t& s) { return load(s); }
void load_store_release(std::uint64_t& s, std::uint64_t v) { store(s, v); }
}
