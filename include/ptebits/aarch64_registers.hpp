// SPDX-License-Identifier: BSL-1.0
// The registers that shape a walk of AArch64's tables: TCR_EL1, TCR_EL2 and VTCR_EL2 checked and read, and the roots.
#pragma once

#include <cstdint>

#include <ptebits/formats/aarch64.hpp>

namespace ptebits {

/// What a CPU has, of its ID registers.
struct aarch64_cpu {
    unsigned physical_bits = 48;   ///< ID_AA64MMFR0_EL1.PARange
    bool granule_4k = true;        ///< TGran4
    bool granule_16k = true;       ///< TGran16
    bool granule_64k = true;       ///< TGran64
    bool large_addresses = false;  ///< FEAT_LPA and FEAT_LVA: 64 Kbytes
    bool lpa2 = false;             ///< FEAT_LPA2: DS counts
    bool small_tables = true;      ///< FEAT_TTST: addresses from 16 bits; else 25
    bool hardware_access = true;   ///< FEAT_HAFDBS: HA counts
    bool hardware_dirty = true;    ///< and HD
    bool execute_by_level = true;  ///< FEAT_XNX
    [[nodiscard]] constexpr bool operator==(const aarch64_cpu&) const = default;
};

/// What is wrong with a register's value: every access faults, at level 0.
enum class aarch64_register_error : std::uint8_t {
    none,
    granule,      ///< TG0, TG1: reserved, or a size that the CPU does not have
    input_size,   ///< T0SZ, T1SZ: out of the range of the granule. Constrained unpredictable: here a fault
    start_level,  ///< SL0, SL2: reserved, or one that the CPU does not have
    start_size,   ///< SL0 and T0SZ do not match: too few bits for the level, or more than 16 tables side by side
};

[[nodiscard]] constexpr const char* name(aarch64_register_error e) noexcept
{
    constexpr const char* names[] = {"no error", "no such granule", "no such size of addresses", "no such start level",
                                     "the start level does not match the size of addresses"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(aarch64_register_error::start_size) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// Features read from a register.
template <class Features>
struct aarch64_read {
    Features features{};
    aarch64_register_error error = aarch64_register_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == aarch64_register_error::none; }
};

/// Fields of TCR_EL1; of TCR_EL2 without E2H and VTCR_EL2 those that stand elsewhere. Arm Architecture Reference
/// Manual, "TCR_EL1", "TCR_EL2", "VTCR_EL2".
struct aarch64_tcr_fields {
    static constexpr field t0sz = bits(5, 0), t1sz = bits(21, 16);
    static constexpr field tg0 = bits(15, 14), tg1 = bits(31, 30);
    static constexpr field ips = bits(34, 32);
    static constexpr field ha = bit(39), hd = bit(40), hpd0 = bit(41), hpd1 = bit(42), ds = bit(59);
};
struct aarch64_tcr_el2_fields {
    static constexpr field t0sz = bits(5, 0), tg0 = bits(15, 14), ps = bits(18, 16);
    static constexpr field ha = bit(21), hd = bit(22), hpd = bit(24), ds = bit(32);
};
struct aarch64_vtcr_fields {
    static constexpr field t0sz = bits(5, 0), sl0 = bits(7, 6), tg0 = bits(15, 14), ps = bits(18, 16);
    static constexpr field ha = bit(21), hd = bit(22), ds = bit(32), sl2 = bit(33);
};

namespace detail {

/// What all three registers say, before it is known whose it is.
struct aarch64_sizes {
    unsigned granule = 0;
    unsigned input_bits = 0;
    unsigned physical_bits = 0;
    bool large_addresses = false;
    aarch64_register_error error = aarch64_register_error::none;
};

/// `granules`: log2 of the bytes by the value of TG. `size`: IPS or PS. `tsz`: T0SZ or T1SZ.
[[nodiscard]] constexpr aarch64_sizes aarch64_sizes_of(std::uint64_t tg, const std::uint8_t (&granules)[4],
                                                       std::uint64_t tsz, std::uint64_t size, bool ds,
                                                       const aarch64_cpu& cpu) noexcept
{
    constexpr std::uint8_t widths[] = {32, 36, 40, 42, 44, 48, 52, 52};
    aarch64_sizes s;
    s.granule = granules[tg];
    const bool has = s.granule == 12 ? cpu.granule_4k : s.granule == 14 ? cpu.granule_16k : cpu.granule_64k;
    if (s.granule == 0 || !has) {
        s.error = aarch64_register_error::granule;
        return s;
    }
    s.large_addresses = s.granule == 16 ? cpu.large_addresses : ds && cpu.lpa2;
    const unsigned most = s.large_addresses ? 52 : 48;
    s.physical_bits = widths[size];
    if (s.physical_bits > cpu.physical_bits) s.physical_bits = cpu.physical_bits;
    if (s.physical_bits > most) s.physical_bits = most;
    s.input_bits = 64 - static_cast<unsigned>(tsz);
    const unsigned least = !cpu.small_tables ? 25 : s.granule == 16 ? 17 : 16;
    if (s.input_bits < least || s.input_bits > most) s.error = aarch64_register_error::input_size;
    return s;
}

template <class Features>
constexpr void aarch64_take_sizes(aarch64_read<Features>& to, const aarch64_sizes& s, bool ha, bool hd,
                                  const aarch64_cpu& cpu) noexcept
{
    to.error = s.error;
    to.features.granule = s.granule;
    to.features.input_bits = s.input_bits;
    to.features.physical_bits = s.physical_bits;
    to.features.large_addresses = s.large_addresses;
    to.features.access_flag = ha && cpu.hardware_access;
    to.features.dirty_state = to.features.access_flag && hd && cpu.hardware_dirty;
}

inline constexpr std::uint8_t aarch64_tg0[] = {12, 16, 14, 0}, aarch64_tg1[] = {0, 14, 12, 16};

}  // namespace detail

/// The half of the addresses of EL1&0 that a value of TCR_EL1 (or of TCR_EL2 with E2H) shapes.
[[nodiscard]] constexpr aarch64_read<aarch64_stage1_features> read_tcr_el1(std::uint64_t tcr, bool upper_half,
                                                                           const aarch64_cpu& cpu) noexcept
{
    using fields = aarch64_tcr_fields;
    aarch64_read<aarch64_stage1_features> r;
    const bool ds = fields::ds.get(tcr) != 0;
    const std::uint64_t ips = fields::ips.get(tcr);
    const auto s =
        upper_half
            ? detail::aarch64_sizes_of(fields::tg1.get(tcr), detail::aarch64_tg1, fields::t1sz.get(tcr), ips, ds, cpu)
            : detail::aarch64_sizes_of(fields::tg0.get(tcr), detail::aarch64_tg0, fields::t0sz.get(tcr), ips, ds, cpu);
    detail::aarch64_take_sizes(r, s, fields::ha.get(tcr) != 0, fields::hd.get(tcr) != 0, cpu);
    r.features.hierarchical = (upper_half ? fields::hpd1 : fields::hpd0).get(tcr) == 0;
    r.features.upper_half = upper_half;
    return r;
}

/// EL2's own addresses, of a value of TCR_EL2 without E2H.
[[nodiscard]] constexpr aarch64_read<aarch64_el2_features> read_tcr_el2(std::uint64_t tcr,
                                                                        const aarch64_cpu& cpu) noexcept
{
    using fields = aarch64_tcr_el2_fields;
    aarch64_read<aarch64_el2_features> r;
    const auto s = detail::aarch64_sizes_of(fields::tg0.get(tcr), detail::aarch64_tg0, fields::t0sz.get(tcr),
                                            fields::ps.get(tcr), fields::ds.get(tcr) != 0, cpu);
    detail::aarch64_take_sizes(r, s, fields::ha.get(tcr) != 0, fields::hd.get(tcr) != 0, cpu);
    r.features.hierarchical = fields::hpd.get(tcr) == 0;
    return r;
}

/// Stage 2's addresses, of a value of VTCR_EL2. "VTCR_EL2.SL0"; "Concatenated translation tables".
[[nodiscard]] constexpr aarch64_read<aarch64_stage2_features> read_vtcr_el2(std::uint64_t vtcr,
                                                                            const aarch64_cpu& cpu) noexcept
{
    using fields = aarch64_vtcr_fields;
    using enum aarch64_register_error;
    aarch64_read<aarch64_stage2_features> r;
    const auto s = detail::aarch64_sizes_of(fields::tg0.get(vtcr), detail::aarch64_tg0, fields::t0sz.get(vtcr),
                                            fields::ps.get(vtcr), fields::ds.get(vtcr) != 0, cpu);
    detail::aarch64_take_sizes(r, s, fields::ha.get(vtcr) != 0, fields::hd.get(vtcr) != 0, cpu);
    r.features.execute_by_level = cpu.execute_by_level;
    if (r.error == granule) return r;
    const auto sl0 = static_cast<unsigned>(fields::sl0.get(vtcr));
    const bool ds = s.large_addresses && s.granule != 16;
    const bool sl2 = ds && s.granule == 12 && fields::sl2.get(vtcr) != 0;
    // Levels from the start down: of 4 Kbytes SL0 counts 2, 3, 4 and 1 of them, and SL2 makes 5.
    constexpr std::uint8_t levels_of_4k[] = {2, 3, 4, 1};
    r.features.levels = s.granule != 12 ? sl0 + 1 : sl2 ? 5 : levels_of_4k[sl0];
    const bool has_4k = r.features.levels != 4 || cpu.physical_bits >= 44;
    const bool has_16k = r.features.levels != 3 || cpu.physical_bits >= 42;
    const bool has_64k = r.features.levels != 3 || cpu.physical_bits >= 44;
    const bool there = s.granule == 12   ? has_4k && (!sl2 || sl0 == 0) && (sl0 != 3 || cpu.small_tables)
                       : s.granule == 14 ? has_16k && (sl0 != 3 || ds)
                                         : has_64k && sl0 != 3;
    if (!there && r) r.error = start_level;
    if (!r) return r;
    // No more than the CPU has.
    if (r.features.input_bits > cpu.physical_bits) r.error = input_size;
    const aarch64_features all = aarch64_features::of(aarch64_stage::second, r.features);
    const unsigned most = all.top_shift() + s.granule - 3 + 4;
    if (r && (s.input_bits <= all.top_shift() || s.input_bits > most)) r.error = start_size;
    return r;
}

/// Where the top table is, of a value of TTBR0_EL1, TTBR1_EL1, TTBR0_EL2 or VTTBR_EL2: physical, in bytes. Low bits
/// that the table's size, at least 64 bytes, leaves are ignored; with 52-bit addresses bits 5:2 are its bits 51:48.
template <class Features>
[[nodiscard]] constexpr std::uint64_t aarch64_root(std::uint64_t ttbr, const Features& features) noexcept
{
    const auto all = ptebits::row_features<typename Features::description>(features);
    const shape s(aarch64_description::shape_of(all));
    const unsigned size = s.table_shift(s.levels) < 6 ? 6 : s.table_shift(s.levels);
    const std::uint64_t low = ttbr & ones(47, 1) & ~ones(size - 1, 0);
    return all.large_addresses && all.physical_bits == 52 ? low | (ttbr & ones(5, 2)) << 46 : low;
}

}  // namespace ptebits
