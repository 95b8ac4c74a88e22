// SPDX-License-Identifier: BSL-1.0
// AMD nested paging: the host's own paging format, and what differs from it.
#pragma once

#include <ptebits/shadow.hpp>

namespace ptebits {

struct npt_description;

/// What an AMD CPU and its host's control registers make of a nested entry.
struct npt_features {
    using description = npt_description;

    unsigned levels = 4;                   ///< the host's: 2: 32-bit entries, 3: PAE, 4, 5: long mode
    unsigned physical_bits = 52;           ///< CPUID 8000_0008h EAX[7:0], 32 to 52
    bool execute_disable = true;           ///< the host's EFER.NXE
    bool gigabyte_pages = true;            ///< CPUID 8000_0001h EDX[26]; long mode only
    bool large_pages = true;               ///< the host's CR4.PSE; 32-bit entries only
    bool pse36 = true;                     ///< CPUID 1 EDX[17]; 32-bit entries only
    bool reserved_bit_8 = true;            ///< bit 8 of level 4 and 5 entries is reserved
    bool guest_mode_execute_trap = false;  ///< GMET: U/S takes part in execute permission instead
    optional_bit encryption_bit = {};      ///< SME and SEV C-bit, CPUID 8000_001Fh EBX[5:0]
};

/// AMD APM volume 2, "Secure Virtual Machine", nested paging.
struct npt_description : shadow_description {
    using features = npt_features;

    // The nested tables have no global pages, no protection keys and no HLAT.
    static constexpr shadow_features row_features(const features& f)
    {
        return {.levels = f.levels,
                .physical_bits = f.physical_bits,
                .execute_disable = f.execute_disable,
                .gigabyte_pages = f.gigabyte_pages,
                .large_pages = f.large_pages,
                .pse36 = f.pse36,
                .global_pages = false,
                .protection_keys = false,
                .hlat = false,
                .reserved_bit_8 = f.reserved_bit_8,
                .encryption_bit = f.encryption_bit};
    }

    static constexpr regime walked_as = regime::nested;

    static constexpr shape shape_of(const features& f)
    {
        shape hosts = shadow_description::shape_of(row_features(f));
        hosts.canonical = false;  // guest-physical addresses
        return hosts;
    }
    static constexpr entries entries_of(const features& f) { return shadow_description::entries_of(row_features(f)); }
    static constexpr defect contradiction(const features& f)
    {
        return shadow_description::contradiction(row_features(f));
    }

    // Every nested access is a user access.
    static constexpr user_rule user_bit(const features& f)
    {
        return f.guest_mode_execute_trap ? user_rule::traps_supervisor_fetch : user_rule::required;
    }
};

/// Nested paging under features known at compile time.
template <npt_features Features>
struct npt : static_format<npt_description, Features>, x86_names<static_format<npt_description, Features>> {};

static_assert(entry_format<npt<npt_features{}>> && entry_format<runtime_format<npt_description>>);
static_assert(well_formed<npt<npt_features{.levels = 5, .encryption_bit = 51}>>);

}  // namespace ptebits
