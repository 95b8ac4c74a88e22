// SPDX-License-Identifier: BSL-1.0
// How the MMU walks AArch64's tables: accesses, the controls that they are judged by, rights; what an exception tells,
// and the way back from it to the access. For one stage, and for stage 1 above stage 2.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/formats/aarch64.hpp>
#include <ptebits/nested_walk.hpp>

namespace ptebits {

/// What an access does, as far as tables judge it.
enum class aarch64_operation : std::uint8_t { read, write, fetch };

/// One access to memory.
struct aarch64_access {
    aarch64_operation what = aarch64_operation::read;  ///< atomics that write are writes
    bool user = false;                                 ///< made at EL0
    bool stage1_walk = false;                          ///< stage 2: made by the walk of stage 1 (S1PTW)

    [[nodiscard]] constexpr bool writes() const noexcept { return what == aarch64_operation::write; }
    [[nodiscard]] constexpr bool fetches() const noexcept { return what == aarch64_operation::fetch; }
    [[nodiscard]] constexpr bool operator==(const aarch64_access&) const = default;
};

/// The controls of stage 1. EL2 without E2H has write_execute_never alone.
struct aarch64_controls {
    bool privileged_never = false;           ///< PSTATE.PAN: EL1 does not reach what EL0 may
    bool enhanced_privileged_never = false;  ///< SCTLR.EPAN: nor what EL0 may execute. By the manual, not recorded
    bool write_execute_never = false;        ///< SCTLR.WXN: what is writable is not executed

    [[nodiscard]] constexpr bool operator==(const aarch64_controls&) const = default;
};

namespace detail {

/// DFSC or IFSC of a walk's fault at level 0, to which others are added, and at level -1. Arm Architecture Reference
/// Manual, "ESR_ELx", Data Abort.
struct aarch64_status_row {
    fault_kind fault;
    std::uint8_t code;
    std::uint8_t at_level_minus_1;
};
inline constexpr aarch64_status_row aarch64_statuses[] = {{fault_kind::address_size, 0x00, 0x29},
                                                          {fault_kind::not_present, 0x04, 0x2b},
                                                          {fault_kind::access_flag, 0x08, 0x08},
                                                          {fault_kind::protection, 0x0c, 0x0c},
                                                          {fault_kind::memory_absent, 0x14, 0x13}};

/// What the architecture calls a fault: a root or an address beyond what there is has the status of an entry.
[[nodiscard]] constexpr fault_kind aarch64_fault_of(fault_kind f) noexcept
{
    if (f == fault_kind::not_a_root) return fault_kind::address_size;
    return f == fault_kind::address_too_wide ? fault_kind::not_present : f;
}

/// The status code of a walk's fault, with its level.
[[nodiscard]] constexpr reported_code aarch64_status(const walk_result& r, const auto& format) noexcept
{
    for (const aarch64_status_row& row : aarch64_statuses) {
        if (row.fault != aarch64_fault_of(r.fault)) continue;
        const int level = r.level == 0 ? 0 : format->manual_level(r.level);  // 0 too before the first entry
        return {level < 0 ? std::uint64_t{row.at_level_minus_1} : row.code + static_cast<unsigned>(level), true};
    }
    return {};
}

}  // namespace detail

/// The walk of stage 1. Arm Architecture Reference Manual, "Memory access control".
struct aarch64_stage1_paging {
    using access = aarch64_access;
    using controls = aarch64_controls;

    [[nodiscard]] static constexpr fault_kind fault_of(rule r, unsigned, const auto&) noexcept
    {
        return r == rule::beyond_the_width ? fault_kind::address_size : fault_kind::not_present;
    }
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(const walk_result& r, std::uint64_t, const access& a,
                                                              const controls& c, const auto& format) noexcept
    {
        const permissions& p = r.allowed;
        // EL2 without E2H has no EL0.
        const bool has_user = format->layout_at(1, kind::leaf).mask(role::user) != 0;
        const bool of_user = has_user && p.user;
        const bool writable = p.write && (of_user || !a.user);
        if (a.fetches()) {
            return (a.user ? p.user_execute : p.execute) && !(c.write_execute_never && writable);
        }
        if (a.user && !of_user) return false;
        const bool kept_out = of_user || (has_user && c.enhanced_privileged_never && p.user_execute);
        if (!a.user && c.privileged_never && kept_out) return false;
        return !a.writes() || writable;
    }
    /// DFSC or IFSC, with the level.
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access&, const controls&,
                                                            const auto& format) noexcept
    {
        return detail::aarch64_status(r, format);
    }
};

/// The walk of stage 2. Arm Architecture Reference Manual, "Stage 2 permissions".
struct aarch64_stage2_paging {
    using access = aarch64_access;
    struct controls {
        [[nodiscard]] constexpr bool operator==(const controls&) const = default;
    };

    [[nodiscard]] static constexpr fault_kind fault_of(rule r, unsigned level, const auto& format) noexcept
    {
        return aarch64_stage1_paging::fault_of(r, level, format);
    }
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(const walk_result& r, std::uint64_t, const access& a,
                                                              const controls&, const auto&) noexcept
    {
        if (a.fetches()) return a.user ? r.allowed.user_execute : r.allowed.execute;
        return a.writes() ? r.allowed.write : r.allowed.read;
    }
    /// DFSC or IFSC, with the level.
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access&, const controls&,
                                                            const auto& format) noexcept
    {
        return detail::aarch64_status(r, format);
    }

    /// The access to an entry of stage 1: a read; to set AF or the dirty state in it a write.
    [[nodiscard]] static constexpr access table_access(const auto&, bool update) noexcept
    {
        return {.what = update ? aarch64_operation::write : aarch64_operation::read, .stage1_walk = true};
    }
    [[nodiscard]] static constexpr bool updates_may_fault(const auto&) noexcept { return true; }
};

// ---- exceptions

/// What an abort leaves in ESR_ELx, FAR_ELx and HPFAR_EL2, as far as a walk tells it.
struct aarch64_abort {
    unsigned status = 0;        ///< DFSC or IFSC
    bool fetch = false;         ///< an Instruction Abort
    bool write = false;         ///< WnR; not told for fetches and for S1PTW
    bool stage2 = false;        ///< taken to EL2 because of stage 2
    bool stage1_walk = false;   ///< S1PTW: of an access to an entry of stage 1
    std::uint64_t address = 0;  ///< FAR
    std::uint64_t hpfar = 0;    ///< HPFAR_EL2, of faults of stage 2; unknown for permission faults without S1PTW
    bool exists = false;        ///< the walk faulted

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return exists; }
    [[nodiscard]] constexpr bool operator==(const aarch64_abort&) const = default;
};

/// Fields of ESR_ELx that walks tell. Arm Architecture Reference Manual, "ESR_ELx".
struct aarch64_syndrome_fields {
    static constexpr field status = bits(5, 0);          ///< DFSC, IFSC
    static constexpr field write = bit(6);               ///< WnR
    static constexpr field stage1_walk = bit(7);         ///< S1PTW
    static constexpr field not_valid_address = bit(10);  ///< FnV
    static constexpr field exception_class = bits(31, 26);
    static constexpr std::uint64_t fetch_lower = 0x20, fetch_same = 0x21, data_lower = 0x24, data_same = 0x25;
};

/// HPFAR_EL2: IPA[51:12] in bits 43:4.
inline constexpr field aarch64_hpfar_ipa = bits(43, 4);

/// The abort of a walk of one stage to an address (bytes); of stage 2 alone as with stage 1 switched off.
template <walkable_format F>
[[nodiscard]] constexpr aarch64_abort abort_of(const walk_result& r, std::uint64_t address, const aarch64_access& a,
                                               const F& format) noexcept
{
    const reported_code code = regime_of<F>::fault_code(r, a, {}, format);
    if (!code) return {};
    aarch64_abort told{.status = static_cast<unsigned>(code.value),
                       .fetch = a.fetches(),
                       .write = a.writes(),
                       .address = address,
                       .exists = true};
    if constexpr (std::is_same_v<regime_of<F>, aarch64_stage2_paging>) {
        told.stage2 = true;
        told.stage1_walk = a.stage1_walk;
        told.hpfar = aarch64_hpfar_ipa(address >> 12);
    }
    return told;
}
/// The same of a walk of both stages.
template <class Guest, walkable_format Host>
[[nodiscard]] constexpr aarch64_abort abort_of(const nested_result<aarch64_access>& r, std::uint64_t address,
                                               const aarch64_access& a, [[maybe_unused]] const Guest& guest,
                                               const Host& host) noexcept
{
    if constexpr (walkable_format<Guest>) {
        if (r.where == dimension::guest) return abort_of(r.guest, address, a, guest);
    }
    aarch64_abort told = abort_of(r.host, r.guest_physical, r.host_access, host);
    told.fetch = told && a.fetches();
    told.address = told ? address : 0;
    return told;
}

// ---- the way back

/// What an abort tells of the access that was refused.
struct aarch64_told {
    fault_kind fault = fault_kind::none;  ///< none: no fault of a walk has this status
    int level = 0;                        ///< as the manual counts
    aarch64_access refused;               ///< by the tables: the same access, or that to an entry of stage 1
    bool address_known = false;           ///< HPFAR_EL2 is valid
    std::uint64_t guest_physical = 0;     ///< where it is known: of the page, or the entry's page; bytes

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return fault != fault_kind::none; }
};

/// What ESR_EL2 (or ESR_EL1) and HPFAR_EL2 tell. `user`: the exception came from EL0. Where a permission fault of stage
/// 2 has no address, stage 1's tables must be walked (AT S1E1R). WnR of S1PTW tells the original access, not that to
/// the entry, which reads unless AF or the dirty state was to be set: it counts as a read.
[[nodiscard]] constexpr aarch64_told told_by(std::uint64_t esr, std::uint64_t hpfar, bool user = false) noexcept
{
    using fields = aarch64_syndrome_fields;
    aarch64_told told;
    const std::uint64_t what = fields::exception_class.get(esr);
    const bool fetch = what == fields::fetch_lower || what == fields::fetch_same;
    if (!fetch && what != fields::data_lower && what != fields::data_same) return told;
    const std::uint64_t status = fields::status.get(esr);
    for (const detail::aarch64_status_row& row : detail::aarch64_statuses) {
        if (row.at_level_minus_1 != row.code && status == row.at_level_minus_1) {
            told.fault = row.fault;
            told.level = -1;
        } else if ((status & ~std::uint64_t{3}) == row.code) {
            told.fault = row.fault;
            told.level = static_cast<int>(status & 3);
        }
    }
    if (!told) return told;
    told.refused = {.what = fetch                         ? aarch64_operation::fetch
                            : fields::write.get(esr) != 0 ? aarch64_operation::write
                                                          : aarch64_operation::read,
                    .user = user};
    const bool of_entry = fields::stage1_walk.get(esr) != 0;
    if (of_entry) told.refused = aarch64_stage2_paging::table_access(0, false);
    told.address_known = told.fault != fault_kind::protection || of_entry;
    if (told.address_known) told.guest_physical = aarch64_hpfar_ipa.get(hpfar) << 12;
    return told;
}

}  // namespace ptebits
