// SPDX-License-Identifier: BSL-1.0
// static_checks: the masks of a hypervisor, written by hand as such headers are, held
// against the manuals by the compiler. It builds, so they hold; running it shows nothing.
#include <cstdint>

#include <ptebits/ageing.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/masks.hpp>

// ---- as found

namespace theirs {

using u64 = std::uint64_t;

// AMD nested page tables
constexpr u64 npt_present = 1ULL << 0;
constexpr u64 npt_write = 1ULL << 1;
constexpr u64 npt_user = 1ULL << 2;
constexpr u64 npt_write_through = 1ULL << 3;
constexpr u64 npt_cache_disable = 1ULL << 4;
constexpr u64 npt_accessed = 1ULL << 5;
constexpr u64 npt_dirty = 1ULL << 6;
constexpr u64 npt_large = 1ULL << 7;
constexpr u64 npt_execute_disable = 1ULL << 63;
constexpr u64 npt_address = 0x0000'ffff'ffff'f000;
constexpr u64 npt_address_2m = 0x0000'ffff'ffe0'0000;

// Intel extended page tables
constexpr u64 ept_read = 0x1;
constexpr u64 ept_write = 0x2;
constexpr u64 ept_execute = 0x4;
constexpr unsigned ept_memory_type_shift = 3;
constexpr u64 ept_memory_type = 7ULL << ept_memory_type_shift;
constexpr u64 ept_ignore_pat = 1ULL << 6;
constexpr u64 ept_large = 1ULL << 7;
constexpr u64 ept_accessed = 1ULL << 8;
constexpr u64 ept_dirty = 1ULL << 9;
constexpr u64 ept_suppress_ve = 1ULL << 63;
constexpr u64 ept_reserved_table = 0xf8;  // levels 4 and 5
constexpr u64 ept_reserved_2m = 0x1f'f000;
constexpr u64 ept_device_page = 0x7;                      // uncacheable, all rights
constexpr u64 ept_ram_page = 0x7 | 6 << 3 | ept_dirty;    // write-back, born dirty
constexpr u64 ept_mmio_marker = ept_write | ept_execute;  // a misconfiguration, on purpose

// Shadow page tables
constexpr u64 pt_present = 1ULL << 0;
constexpr u64 pt_write = 1ULL << 1;
constexpr u64 pt_user = 1ULL << 2;
constexpr u64 pt_accessed = 1ULL << 5;
constexpr u64 pt_dirty = 1ULL << 6;
constexpr u64 pt_page_size = 1ULL << 7;
constexpr u64 pt_pat = 1ULL << 7;
constexpr u64 pt_pat_large = 1ULL << 12;
constexpr u64 pt_global = 1ULL << 8;
constexpr u64 pt_protection_key = 0xfULL << 59;
constexpr u64 pt_execute_disable = 1ULL << 63;
constexpr unsigned pt_accessed_shift = 5;

// Software bits, in entries of all three
constexpr u64 host_writable = 1ULL << 57;
constexpr u64 mmu_writable = 1ULL << 58;
constexpr unsigned saved_rights_shift = 54;
constexpr u64 removed_npt = 0x5a0;                               // an entry that is being zapped
constexpr u64 removed_ept = 1ULL << 58 | 5ULL << 3 | 1ULL << 6;  // the same

}  // namespace theirs

// ---- against the manuals

using namespace ptebits;

// Features as their machines have them.
constexpr auto npt48 = npt<npt_features{.physical_bits = 48}>;
constexpr auto ept46 = ept<ept_features{.physical_bits = 46}>;
constexpr auto ept_without_flags = ept<ept_features{.physical_bits = 46, .accessed_dirty = false}>;
constexpr auto ept_with_ve = ept<ept_features{.physical_bits = 46, .suppress_ve = true}>;
constexpr auto paging = shadow<shadow_features{.physical_bits = 46, .user_keys = true}>;

// Each mask is the field of that name, or there is none.
static_assert(npt48->present == field_of(theirs::npt_present));
static_assert(npt48->write == field_of(theirs::npt_write));
static_assert(npt48->user == field_of(theirs::npt_user));
static_assert(npt48->write_through == field_of(theirs::npt_write_through));
static_assert(npt48->cache_disable == field_of(theirs::npt_cache_disable));
static_assert(npt48->accessed == field_of(theirs::npt_accessed));
static_assert(npt48->dirty == field_of(theirs::npt_dirty));
static_assert(npt48->page_size == field_of(theirs::npt_large));
static_assert(npt48->execute_disable == field_of(theirs::npt_execute_disable));
static_assert(!npt48->global.exists(), "nested tables have no global pages");

static_assert(ept46->read == field_of(theirs::ept_read));
static_assert(ept46->write == field_of(theirs::ept_write));
static_assert(ept46->execute == field_of(theirs::ept_execute));
static_assert(ept46->memory_type == field_of(theirs::ept_memory_type));
static_assert(ept46->memory_type.shift() == theirs::ept_memory_type_shift);
static_assert(ept46->ignore_pat == field_of(theirs::ept_ignore_pat));
static_assert(ept46->page_size == field_of(theirs::ept_large));
static_assert(ept46->accessed == field_of(theirs::ept_accessed));
static_assert(ept46->dirty == field_of(theirs::ept_dirty));
static_assert(!ept_without_flags->accessed.exists(), "without EPTP bit 6 bits 8 and 9 are software's");
static_assert(ept_with_ve->suppress_ve == field_of(theirs::ept_suppress_ve));

static_assert(paging->present == field_of(theirs::pt_present));
static_assert(paging->write == field_of(theirs::pt_write));
static_assert(paging->user == field_of(theirs::pt_user));
static_assert(paging->accessed == field_of(theirs::pt_accessed));
static_assert(paging->accessed.shift() == theirs::pt_accessed_shift);
static_assert(paging->dirty == field_of(theirs::pt_dirty));
static_assert(paging->page_size == field_of(theirs::pt_page_size));
static_assert(paging->pat == field_of(theirs::pt_pat) && paging->pat_large == field_of(theirs::pt_pat_large));
static_assert(paging->global == field_of(theirs::pt_global));
static_assert(paging->protection_key == field_of(theirs::pt_protection_key));
static_assert(paging->execute_disable == field_of(theirs::pt_execute_disable));

// Masks of one entry that share no bit: one slip of a digit shows here.
static_assert(disjoint(theirs::npt_present, theirs::npt_write, theirs::npt_user, theirs::npt_write_through,
                       theirs::npt_cache_disable, theirs::npt_accessed, theirs::npt_dirty, theirs::npt_large,
                       theirs::npt_execute_disable, theirs::npt_address));
static_assert(disjoint(theirs::ept_read, theirs::ept_write, theirs::ept_execute, theirs::ept_memory_type,
                       theirs::ept_ignore_pat, theirs::ept_large, theirs::ept_accessed, theirs::ept_dirty,
                       theirs::ept_suppress_ve, theirs::host_writable, theirs::mmu_writable));

// Address and reserved bits, which depend on the level and on the machine.
static_assert(npt48->address_mask(1, kind::leaf) == theirs::npt_address);
static_assert(npt48->address_mask(2, kind::leaf) == theirs::npt_address_2m);
static_assert((ept46->reserved_mask(4, kind::table) & 0xfff) == theirs::ept_reserved_table);
static_assert((ept46->reserved_mask(2, kind::leaf) & ones(20, 0)) == theirs::ept_reserved_2m);

// Whole entries: what they write the MMU takes, and where they want a misconfiguration it is one.
static_assert(legal(theirs::ept_device_page, 1, ept46) && legal(theirs::ept_ram_page, 1, ept46));
static_assert(diagnose(theirs::ept_mmio_marker, 1, ept46).broken == rule::write_without_read);

// The masks that their MMU is set up with at start-up fit each other.
constexpr auto ept_setup = masks_of<mask_values{.present = theirs::ept_read | theirs::ept_write | theirs::ept_execute,
                                                .accessed = theirs::ept_accessed,
                                                .dirty = theirs::ept_dirty,
                                                .execute = theirs::ept_execute}>;
static_assert(ept_setup->present_mask() == ept46->present_mask() && ept_setup->accessed == ept46->accessed);

// Software bits are software's, at every level and under the features in use.
static_assert(available(npt48, theirs::host_writable | theirs::mmu_writable));
static_assert(available(ept46, theirs::host_writable | theirs::mmu_writable));
static_assert(!available(paging, theirs::pt_protection_key), "protection keys take bits 62:59 of leaves");
static_assert(available(ept46, theirs::ept_suppress_ve) && !available(ept_with_ve, theirs::ept_suppress_ve));
constexpr auto tracking = track_accesses<theirs::saved_rights_shift>(ept_without_flags);
static_assert(disjoint(tracking.saved_mask(), theirs::host_writable, theirs::mmu_writable));

// A marker of entries that are being zapped must look like none. One of theirs looks
// accessed, so ageing would change it; the other passes.
static_assert(check_marker(theirs::removed_npt, npt48) == marker_error::looks_accessed);
static_assert(check_marker(theirs::removed_ept, ept46) == marker_error::none);

int main() {}
