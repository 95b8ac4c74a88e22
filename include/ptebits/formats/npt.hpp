// SPDX-License-Identifier: BSL-1.0
// AMD nested paging: the host's own paging format, and what differs from it.
#pragma once

#include <ptebits/formats/shadow.hpp>

namespace ptebits {

struct npt_description;
struct nested_paging;  // how the MMU walks it: x86.hpp

/// What an AMD CPU and its host's control registers make of a nested entry.
struct npt_features {
    using description = npt_description;

    unsigned levels = 4;                   ///< the host's: 2: 32-bit entries, 3: PAE, 4, 5: long mode
    unsigned physical_bits = 52;           ///< CPUID 8000_0008h EAX[7:0], 32 to 52; less with memory encryption
    bool execute_disable = true;           ///< the host's EFER.NXE
    bool gigabyte_pages = true;            ///< CPUID 8000_0001h EDX[26]; long mode only
    bool large_pages = true;               ///< 32-bit entries: the host's CR4.PSE; all others have them
    bool pse36 = true;                     ///< CPUID 1 EDX[17]; 32-bit entries only
    bool break_before_resize = false;      ///< AMD erratum 383: see split.hpp
    bool reserved_bit_8 = true;            ///< bit 8 of level 4 and 5 entries is reserved
    bool guest_mode_execute_trap = false;  ///< GMET: U/S takes part in execute permission instead
    bool supervisor_shadow_stack = false;  ///< VMCB 90h bit 4: supervisor shadow stacks lie in pages with NX, not U/S
    bool read_only_guest_tables = false;   ///< VMCB 90h bit 6: guest tables are read, and written to set A and D
    optional_bits encryption_bit = {};     ///< SME, SEV: the C-bit; see with_memory_encryption()

    [[nodiscard]] constexpr bool operator==(const npt_features&) const = default;
};

/// What makes nested paging of the rows of ordinary paging. AMD APM volume 2, "Secure Virtual Machine", nested paging.
struct npt_description : shadow_description {
    using features = npt_features;
    using regime = nested_paging;

    // The nested tables have no global pages, no protection keys, no HLAT and no L1TF.
    // clang-format off
    static constexpr shadow_features row_features(const features& f)
    {
        return {.levels = f.levels, .physical_bits = f.physical_bits, .execute_disable = f.execute_disable,
                .gigabyte_pages = f.gigabyte_pages, .large_pages = f.large_pages, .pse36 = f.pse36,
                .global_pages = false, .break_before_resize = f.break_before_resize, .reserved_bit_8 = f.reserved_bit_8,
                .encryption_bit = f.encryption_bit};
    }
    // clang-format on

    /// What may be known at boot only.
    static constexpr features at_boot(features constants, const features& given)
    {
        constants.physical_bits = given.physical_bits;
        constants.encryption_bit = given.encryption_bit;
        return constants;
    }

    static constexpr dimensions shape_of(const shadow_features& f)
    {
        dimensions hosts = shadow_description::shape_of(f);
        hosts.above = extension::zeros;  // guest-physical addresses
        return hosts;
    }

    // Pages of supervisor shadow stacks have NX; others may.
    static constexpr std::uint64_t other_writes(const features& f, const fields& named)
    {
        return f.supervisor_shadow_stack ? named.execute_disable.mask() : 0;
    }

    // Every nested access is a user access. With GMET, U/S set in all entries denies execution
    // in supervisor mode instead, so an entry that refers to a table leaves it to the leaf.
    static constexpr bool modes_apart(const features& f) { return f.guest_mode_execute_trap; }
    static constexpr permissions allowed(permissions p, kind k, const features& f)
    {
        if (!f.guest_mode_execute_trap && !p.user) return no_permissions;
        const bool trapped = f.guest_mode_execute_trap && k != kind::table && p.user;
        return {p.read, p.write, p.execute && !trapped, true, p.execute};
    }
    static constexpr permissions roles_for(permissions p, kind k, const features& f)
    {
        const bool any_execute = p.execute || (f.guest_mode_execute_trap && p.user_execute);
        const bool user = !f.guest_mode_execute_trap || k == kind::table || (any_execute && !p.execute);
        return {p.read, p.write, any_execute, user, true};
    }
    static constexpr const char* meaning(entry_field fields::* named, std::uint64_t value, kind k, const features& f)
    {
        if (named != &fields::user) return fields::meaning(named, value);
        if (f.guest_mode_execute_trap)
            return value == 0 ? "supervisor execute" : k == kind::table ? "left to the leaf" : "no supervisor execute";
        return value != 0 ? "user, as every nested access is" : "no access, every nested access is a user's";
    }
};

/// Nested paging under features known at compile time.
template <npt_features Features>
inline constexpr constant_format<npt_description, Features> npt{};

}  // namespace ptebits
