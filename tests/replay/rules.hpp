// SPDX-License-Identifier: BSL-1.0
// Where a recorded outcome need not be the library's: the emulator departs from the manuals,
// or the manuals leave something open. Each is a rule over both outcomes, with a count of its
// own. It changes what its text says and nothing else, and is tried only after the outcomes
// were found to differ.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "outcomes.hpp"

namespace replay {

// Bits by the manuals' figures.
inline constexpr std::uint64_t pdpte_reserved_low = 0x1e6;
inline constexpr std::uint64_t pdpte_bit_5 = 0x20;
inline constexpr std::uint64_t code_bit_p = 0x1;
inline constexpr std::uint64_t code_bit_w = 0x2;
inline constexpr std::uint64_t code_bit_rsvd = 0x8;
inline constexpr std::uint64_t code_bit_fetch = 0x10;
inline constexpr std::uint64_t code_bit_pk = 0x20;
inline constexpr std::uint64_t qualification_6 = 0x40;
inline constexpr std::uint64_t qualification_9_to_11 = 0xe00;
inline constexpr std::uint64_t qualification_13 = 0x2000;
inline constexpr std::uint64_t qualification_14 = 0x4000;

/// Both sides of a comparison, as the rules see and change them.
struct comparison {
    const header& head;
    const vector_case& c;
    outcome recorded;
    walked library;
    vector_case emulated;       ///< the case as the emulator took it
    bool pdpte_faults = false;  ///< reserved bits of a PDPTE are a #PF to the emulator
    /// Bochs: a read-modify-write of a shadow stack's token that faulted as the read that it begins with.
    const bool faulted_reading = !head.qemu && c.what.shadow_stack && c.what.what == operation::read_write &&
                                 recorded.how == ending::page_fault && (recorded.code & code_bit_w) == 0;
};

/// One rule: returns whether it applies, after changing one side accordingly. A changed `emulated`
/// makes the library walk again.
struct tolerance {
    const char* name;
    bool apart;  ///< counted on its own: the manuals leave it open, or both emulators do it
    bool (*apply)(comparison&);
};

inline bool is_fault(const outcome& o) { return o.how != ending::ok && o.how != ending::other; }
inline bool is_fault_with_code(const outcome& o)
{
    return o.how == ending::page_fault || o.how == ending::nested_fault;
}
inline bool is_violation(const outcome& o)
{
    return o.how == ending::violation || o.how == ending::virtualization_exception;
}
inline bool both_end_by(const comparison& x, ending how) { return x.recorded.how == how && x.library.ended.how == how; }

/// Takes the bits of a mask in the recorded code from the library's. Whether that changed any.
inline bool take_code_bits(comparison& x, std::uint64_t mask)
{
    const std::uint64_t different = (x.recorded.code ^ x.library.ended.code) & mask;
    x.recorded.code ^= different;
    return different != 0;
}

/// Whether the library has a bit set in its code that the record lacks.
inline bool lacks_code_bit(const comparison& x, std::uint64_t bit)
{
    return (x.library.ended.code & bit) != 0 && (x.recorded.code & bit) == 0;
}

/// How the emulator's data access in 4- and 5-level paging meets protection keys: the page that it came to,
/// and the bits of the page's key in PKRU or PKRS that refuse the access.
struct key_check {
    bool applies = false;
    bool user_page = false;
    std::uint32_t access_disable = 0;
    std::uint32_t write_disable = 0;  ///< 0 where the access is no write, or CR0.WP lets it pass

    explicit key_check(const comparison& x)
    {
        const walk_result& r = x.library.result;
        const ptebits::memory_access& a = x.c.what;
        applies = x.head.over == header::tables::ordinary && x.head.levels >= 4 && r.page_shift != 0 && !a.fetches() &&
                  (r.fault == fault_kind::none || r.fault == fault_kind::protection);
        if (!applies) return;
        user_page = r.allowed.user;
        access_disable = std::uint32_t{1} << 2 * (r.last_entry() >> 59 & 15);
        const bool writes = a.writes() && !x.faulted_reading && (a.user || x.c.cpu.write_protect);
        write_disable = writes ? access_disable << 1 : 0;
    }
    [[nodiscard]] std::uint32_t refusing(std::uint32_t rights) const
    {
        return rights & (access_disable | write_disable);
    }
};

inline constexpr tolerance tolerances[] = {
    // After a fault A may or may not be set, in the entries that were read; D never.
    {"a-after-fault", true,
     [](comparison& x) {
         if (!is_fault(x.recorded) || !is_fault(x.library.ended)) return false;
         const std::uint64_t a = x.head.over != header::tables::extended ? 0x20 : x.head.accessed_dirty ? 0x100 : 0;
         bool changed = false;
         for (unsigned i = 0; i < x.library.result.steps; ++i) {
             const unsigned level = x.library.result.level_of(i);
             auto& theirs = x.recorded.after[level];
             const auto& ours = x.library.ended.after[level];
             if (!theirs || !ours || *theirs == *ours || *theirs != (*ours | a)) continue;
             theirs = ours;
             changed = true;
         }
         return changed;
     }},
    // EXITINFO1's fetch bit with the host's NXE off.
    {"fetch-bit-without-nxe", true,
     [](comparison& x) {
         if (!both_end_by(x, ending::nested_fault) || x.c.on.nxe || x.c.letter != 'X') return false;
         return take_code_bits(x, code_bit_fetch);
     }},
    // The read bit of a read-modify-write's qualification.
    {"M-bit-0", true,
     [](comparison& x) {
         if (!both_end_by(x, ending::violation) && !both_end_by(x, ending::virtualization_exception)) return false;
         return x.c.letter == 'M' && take_code_bits(x, 1);
     }},
    // Qualification bits that have a meaning only under a control, for a final access, or where the walk came
    // to a page.
    {"undefined-qual", true,
     [](comparison& x) {
         if (!both_end_by(x, ending::violation) && !both_end_by(x, ending::virtualization_exception)) return false;
         const bool absent = x.library.result.fault == fault_kind::not_present;
         return take_code_bits(x, (x.c.on.mode_based_execute ? 0 : qualification_6) |
                                      (x.c.what.guest_table ? qualification_9_to_11 : 0) |
                                      (!x.c.on.supervisor_shadow_stack || absent ? qualification_14 : 0));
     }},
    // Bochs: a read-modify-write of a shadow stack's token faults as the read that it begins with. Bit 1 is not
    // told; nor is, of a page of the access's mode, a key that refuses writes only.
    {"rmw-w-bit", false,
     [](comparison& x) {
         if (!x.faulted_reading || !both_end_by(x, ending::page_fault) || !lacks_code_bit(x, code_bit_w)) return false;
         const key_check k(x);
         const std::uint32_t rights = x.c.what.user ? x.c.cpu.pkru : x.c.cpu.pkrs;
         const bool key_refuses_writes = k.applies && k.user_page == x.c.what.user &&
                                         (rights & k.access_disable) == 0 && lacks_code_bit(x, code_bit_pk);
         return take_code_bits(x, code_bit_w | (key_refuses_writes ? code_bit_pk : 0));
     }},
    // QEMU: a fault for reserved bits has P = 0.
    {"rsvd-p0", false,
     [](comparison& x) {
         if (!x.head.qemu || !is_fault_with_code(x.recorded)) return false;
         if ((x.recorded.code & (code_bit_rsvd | code_bit_p)) != code_bit_rsvd) return false;
         x.recorded.code |= code_bit_p;
         return true;
     }},
    // QEMU: 1-Gbyte leaves also where the CPU has none.
    {"gigabyte-leaf", false,
     [](comparison& x) {
         const walk_result& r = x.library.result;
         const bool applies = x.head.qemu && !x.emulated.on.gigabyte_pages && r.fault == fault_kind::reserved_bits &&
                              r.level == 3 && (r.bits & 0x80) != 0;
         if (applies) x.emulated.on.gigabyte_pages = true;
         return applies;
     }},
    // QEMU sets bit 5 in PAE's top entries, and knows no #GP for their reserved bits: it
    // ignores the low ones, the high ones are a page fault to it.
    {"pdpte", false,
     [](comparison& x) {
         if (!x.head.qemu || x.head.over != header::tables::ordinary || x.head.levels != 3) return false;
         if (x.library.ended.how == ending::general_protection && x.emulated.ignored[3] == 0) {
             x.emulated.ignored[3] = pdpte_reserved_low;
             return true;
         }
         if (x.library.ended.how == ending::general_protection && !x.pdpte_faults) {
             x.pdpte_faults = true;
             return true;
         }
         auto& theirs = x.recorded.after[3];
         const auto& ours = x.library.ended.after[3];
         if (!theirs || !ours || *theirs == *ours || *theirs != (*ours | pdpte_bit_5)) return false;
         theirs = ours;
         return true;
     }},
    // Both accept bit 8 of level 4 and 5 on AMD models.
    {"amd-bit-8", true,
     [](comparison& x) {
         const walk_result& r = x.library.result;
         const bool applies =
             x.head.amd && r.fault == fault_kind::reserved_bits && r.level >= 4 && (r.bits & 0x100) != 0;
         if (applies) x.emulated.ignored[r.level] |= 0x100;
         return applies;
     }},
    // Bochs: bit 12 of a large EPT leaf is not reserved.
    {"leaf-bit-12", false,
     [](comparison& x) {
         const walk_result& r = x.library.result;
         const bool large = r.steps != 0 && (r.level == 2 || r.level == 3) && (r.last_entry() & 0x80) != 0;
         const bool applies = !x.head.qemu && r.fault == fault_kind::misconfiguration && large &&
                              r.broken == rule::reserved_bits && (r.bits & 0x1000) != 0;
         if (applies) x.emulated.ignored[r.level] |= 0x1000;
         return applies;
     }},
    // Bochs: an access to a guest's table with EPT A/D is a write only.
    {"T-bit-0", false,
     [](comparison& x) {
         const bool applies = !x.head.qemu && is_violation(x.recorded) && x.c.letter == 'T' && x.head.accessed_dirty &&
                              (x.recorded.code & 3) == 2;
         if (applies) x.recorded.code |= 1;
         return applies;
     }},
    // Bochs: the user-mode execute permission is told in bit 13 in place of bit 6, except of a fetch.
    {"mbe-qual-6-13", false,
     [](comparison& x) {
         const bool applies = !x.head.qemu && is_violation(x.recorded) && is_violation(x.library.ended) &&
                              x.c.on.mode_based_execute && !x.c.what.fetches() && lacks_code_bit(x, qualification_6) &&
                              (x.recorded.code & qualification_13) != 0;
         if (!applies) return false;
         x.recorded.code |= qualification_6;
         if (!x.c.what.shadow_stack) x.recorded.code &= ~qualification_13;
         return true;
     }},
    // Bochs: access disable of PKRU holds for user accesses only, and so does write disable where the
    // read of a read-modify-write is judged.
    {"pku-ad-supervisor", false,
     [](comparison& x) {
         const key_check k(x);
         const std::uint32_t write_disable = x.faulted_reading ? k.access_disable << 1 : 0;
         const std::uint32_t dropped = x.emulated.cpu.pkru & (k.access_disable | write_disable);
         const bool applies =
             !x.head.qemu && k.applies && k.user_page && !x.c.what.user && x.c.on.user_keys && dropped != 0;
         if (applies) x.emulated.cpu.pkru &= ~dropped;
         return applies;
     }},
    // Bochs: PKRU forbids writes to supervisor pages, too.
    {"pku-supervisor-page", false,
     [](comparison& x) {
         const key_check k(x);
         const std::uint32_t added = x.c.cpu.pkru & k.write_disable;
         const std::uint32_t pkrs = x.emulated.on.supervisor_keys ? x.emulated.cpu.pkrs : 0;
         const bool applies =
             !x.head.qemu && k.applies && !k.user_page && !x.c.what.user && x.c.on.user_keys && (added & ~pkrs) != 0;
         if (!applies) return false;
         x.emulated.on.supervisor_keys = true;
         x.emulated.cpu.pkrs = pkrs | added;
         return true;
     }},
    // Bochs: PKRS governs all pages in supervisor accesses.
    {"pks-user-page", false,
     [](comparison& x) {
         const key_check k(x);
         const std::uint32_t added = k.refusing(x.c.cpu.pkrs);
         const std::uint32_t pkru = x.emulated.on.user_keys ? x.emulated.cpu.pkru : 0;
         const bool applies = !x.head.qemu && k.applies && k.user_page && !x.c.what.user && x.c.on.supervisor_keys &&
                              (added & ~pkru) != 0;
         if (!applies) return false;
         x.emulated.on.user_keys = true;
         x.emulated.cpu.pkru = pkru | added;
         return true;
     }},
    // Bochs: of a user access to a supervisor page PKRU's key is told, which does not count there.
    {"pku-bit5-supervisor-page", false,
     [](comparison& x) {
         const key_check k(x);
         const bool applies = !x.head.qemu && k.applies && !k.user_page && x.c.what.user && x.c.on.user_keys &&
                              both_end_by(x, ending::page_fault) && k.refusing(x.c.cpu.pkru) != 0 &&
                              (x.recorded.code & code_bit_pk) != 0;
         return applies && take_code_bits(x, code_bit_pk);
     }},
    // A user access to a supervisor page whose key PKRS refuses: the key is not told, beside the mode.
    // The manuals may be read so, too.
    {"open-pks-bit5", false,
     [](comparison& x) {
         const key_check k(x);
         const bool applies = k.applies && !k.user_page && x.c.what.user && x.c.on.supervisor_keys &&
                              both_end_by(x, ending::page_fault) && lacks_code_bit(x, code_bit_pk);
         return applies && take_code_bits(x, code_bit_pk);
     }},
    // Bochs: EFLAGS.AC exempts implicit accesses, too.
    {"implicit-ac", false,
     [](comparison& x) {
         const bool applies =
             !x.head.qemu && x.emulated.what.implicit && x.c.cpu.alignment_check && is_fault(x.library.ended);
         if (applies) x.emulated.what.implicit = false;
         return applies;
     }},
};

/// Rules by their place in `tolerances`.
using rule_set = std::bitset<std::size(tolerances)>;

/// A PDPTE's reserved bits as the emulator reports them that knows no #GP for them.
inline void report_page_fault(comparison& x)
{
    const vector_case& c = x.c;
    x.library.ended.how = ending::page_fault;
    x.library.ended.address = c.address;
    x.library.ended.code = code_bit_p | code_bit_rsvd | (c.what.writes() ? code_bit_w : 0) | (c.what.user ? 4U : 0U) |
                           (c.what.fetches() && (c.on.nxe || c.cpu.smep) ? code_bit_fetch : 0);
}

/// Applies rules until both outcomes are the same; returns those that were needed. Where outcomes are still
/// different, no rule applies.
template <class Walker>
[[nodiscard]] rule_set reconcile(comparison& x, Walker& by)
{
    rule_set used;
    // Each rule applies a few times at most: each time it removes one difference.
    for (bool any = true; any && x.recorded != x.library.ended;) {
        any = false;
        for (std::size_t i = 0; i < used.size(); ++i) {
            if (x.recorded == x.library.ended || !tolerances[i].apply(x)) continue;
            any = true;
            used.set(i);
            x.library = by.run_time(x.emulated);
            if (x.pdpte_faults && x.library.ended.how == ending::general_protection) report_page_fault(x);
        }
    }
    return used;
}

}  // namespace replay
