// SPDX-License-Identifier: BSL-1.0
// How a hart walks its tables: accesses, the controls that they are judged by, rights; what a trap tells, and the way
// back from it to the access. For one stage, and for the G-stage below a guest's.
#pragma once

#include <cstdint>

#include <ptebits/formats/riscv.hpp>
#include <ptebits/nested_walk.hpp>

namespace ptebits {

/// What an access does, as far as tables judge it.
enum class riscv_operation : std::uint8_t {
    load,          ///< LR and HLV too
    store,         ///< SC, AMO, HSV and cbo.zero too: W, A and D
    fetch,         ///< X
    execute_load,  ///< HLVX: a load that needs X
    manage,        ///< cbo.clean, cbo.flush, cbo.inval: R or W, and A; told as a store
};

/// One access to memory.
struct riscv_access {
    riscv_operation what = riscv_operation::load;
    bool user = false;      ///< made in U or VU; the G-stage takes every access for a user's
    bool implicit = false;  ///< G-stage: made by the walk of the VS-stage, so that MXR does not count

    [[nodiscard]] constexpr bool writes() const noexcept { return what == riscv_operation::store; }
    [[nodiscard]] constexpr bool operator==(const riscv_access&) const = default;
};

/// The controls of one stage. Of the VS-stage SUM is vsstatus's, and MXR is set if vsstatus or sstatus has it; the
/// G-stage has sstatus.MXR alone. riscv_registers.hpp takes them out of the registers.
struct riscv_controls {
    bool sum = false;  ///< the supervisor may load and store in pages of user mode
    bool mxr = false;  ///< what may be executed may be loaded

    [[nodiscard]] constexpr bool operator==(const riscv_controls&) const = default;
};

/// What a trap's cause says of a fault.
enum class riscv_trap_kind : std::uint8_t {
    none,
    access,      ///< no memory where an entry or the page is
    page,        ///< of satp's or vsatp's tables
    guest_page,  ///< of hgatp's
};

[[nodiscard]] constexpr const char* name(riscv_trap_kind k) noexcept
{
    constexpr const char* names[] = {"no fault", "access fault", "page fault", "guest-page fault"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(riscv_trap_kind::guest_page) + 1);
    return detail::word_of(names, static_cast<unsigned>(k));
}

namespace detail {

/// Causes, by the kind of trap, of fetches, loads and stores. RISC-V ISA manual, volume II, "Machine Cause (mcause)".
inline constexpr unsigned riscv_causes[][3] = {{0, 0, 0}, {1, 5, 7}, {12, 13, 15}, {20, 21, 23}};

/// Whether permissions, with MXR, are those that an operation needs.
[[nodiscard]] PTEBITS_INLINE constexpr bool riscv_allows(const permissions& p, riscv_operation what, bool mxr) noexcept
{
    switch (what) {
    case riscv_operation::load:
        return p.read || (mxr && p.execute);
    case riscv_operation::store:
        return p.write;
    case riscv_operation::fetch:
    case riscv_operation::execute_load:
        return p.execute;
    case riscv_operation::manage:
        break;
    }
    return p.read || p.write;
}

/// What a walk's fault is told as.
[[nodiscard]] constexpr riscv_trap_kind riscv_trap_of(fault_kind f, riscv_trap_kind own) noexcept
{
    if (f == fault_kind::none || f == fault_kind::not_a_root || f == fault_kind::second_stage) return {};
    return f == fault_kind::memory_absent ? riscv_trap_kind::access : own;
}

[[nodiscard]] constexpr reported_code riscv_cause(riscv_trap_kind k, riscv_operation what) noexcept
{
    const bool stores = what == riscv_operation::store || what == riscv_operation::manage;
    const unsigned column = stores ? 2 : what == riscv_operation::fetch ? 0 : 1;
    return {riscv_causes[static_cast<unsigned>(k)][column], k != riscv_trap_kind::none};
}

}  // namespace detail

/// The walk of satp's and vsatp's tables. RISC-V ISA manual, volume II, "Virtual Address Translation Process".
struct riscv_paging {
    using access = riscv_access;
    using controls = riscv_controls;

    [[nodiscard]] static constexpr fault_kind fault_of(rule, unsigned, const auto&) noexcept
    {
        return fault_kind::reserved_bits;
    }
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(const walk_result& r, std::uint64_t, const access& a,
                                                              const controls& c, const auto&) noexcept
    {
        const bool in_mode = a.user ? r.allowed.user : !r.allowed.user || (c.sum && a.what != riscv_operation::fetch);
        return in_mode && detail::riscv_allows(r.allowed, a.what, c.mxr);
    }
    /// The cause of a page fault or, where an entry has no memory, of an access fault.
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls&,
                                                            const auto&) noexcept
    {
        return detail::riscv_cause(detail::riscv_trap_of(r.fault, riscv_trap_kind::page), a.what);
    }
};

/// The walk of hgatp's tables. Every access is a user's. RISC-V ISA manual, volume II, "Guest Physical Address
/// Translation".
struct gstage_paging : riscv_paging {
    [[nodiscard]] PTEBITS_INLINE static constexpr bool allows(const walk_result& r, std::uint64_t, const access& a,
                                                              const controls& c, const auto&) noexcept
    {
        return detail::riscv_allows(r.allowed, a.what, c.mxr && !a.implicit);
    }
    [[nodiscard]] static constexpr reported_code fault_code(const walk_result& r, const access& a, const controls&,
                                                            const auto&) noexcept
    {
        return detail::riscv_cause(detail::riscv_trap_of(r.fault, riscv_trap_kind::guest_page), a.what);
    }

    /// The access to an entry of the VS-stage: a load; to set A or D in it a store.
    [[nodiscard]] static constexpr access table_access(const auto&, bool update) noexcept
    {
        return {.what = update ? riscv_operation::store : riscv_operation::load, .user = true, .implicit = true};
    }
    [[nodiscard]] static constexpr bool updates_may_fault(const auto&) noexcept { return true; }
    /// The cause is that of the guest's access, also where its walk was refused.
    [[nodiscard]] static constexpr access told_access(const access&, const access& of_guest) noexcept
    {
        return of_guest;
    }
};

// ---- traps

/// What a trap leaves in the registers of the mode that takes it: cause; xtval; htval or mtval2; htinst or mtinst; GVA.
struct riscv_trap {
    std::uint64_t cause = 0;
    std::uint64_t tval = 0;   ///< the virtual address
    std::uint64_t tval2 = 0;  ///< guest-page faults: the guest-physical address, right by 2
    std::uint64_t tinst = 0;  ///< the pseudoinstruction of an implicit access; else 0, where hardware may tell more
    bool gva = false;         ///< tval is an address of a guest
    bool exists = false;      ///< the walk faulted

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return exists; }
    [[nodiscard]] constexpr bool operator==(const riscv_trap&) const = default;
};

/// The pseudoinstruction of a refused access to an entry of the VS-stage. `update`: to set A or D. RISC-V ISA manual,
/// volume II, "Transformed Instruction or Pseudoinstruction for mtinst or htinst".
[[nodiscard]] constexpr std::uint64_t riscv_pseudoinstruction(unsigned entry_bits, bool update) noexcept
{
    return (entry_bits == 64 ? 0x3000U : 0x2000U) | (update ? 0x20U : 0U);
}

/// The trap of a walk of one stage to an address (bytes). `virtualized`: of a guest (V=1).
template <walkable_format F>
[[nodiscard]] constexpr riscv_trap trap_of(const walk_result& r, std::uint64_t address, const riscv_access& a,
                                           const F& format, bool virtualized = false) noexcept
{
    const reported_code code = regime_of<F>::fault_code(r, a, {}, format);
    if (!code) return {};
    return {code.value, address, 0, 0, virtualized, true};
}
/// The same of a walk of both stages.
template <class Guest, walkable_format Host>
[[nodiscard]] constexpr riscv_trap trap_of(const nested_result<riscv_access>& r, std::uint64_t address,
                                           const riscv_access& a, [[maybe_unused]] const Guest& guest,
                                           const Host& host) noexcept
{
    if constexpr (walkable_format<Guest>) {
        if (r.where == dimension::guest) return trap_of(r.guest, address, a, guest, true);
    }
    riscv_trap t = trap_of(r.host, address, a, host, true);
    if (!t || r.host.fault == fault_kind::memory_absent) return t;
    t.tval2 = r.guest_physical >> 2;
    if constexpr (walkable_format<Guest>) {
        if (r.host_access.implicit)
            t.tinst = riscv_pseudoinstruction(guest->shape().entry_bits, r.host_access.writes());
    }
    return t;
}

// ---- the way back

/// What a trap tells of the access that was refused.
struct riscv_told {
    riscv_trap_kind kind = riscv_trap_kind::none;  ///< none: no fault of a walk has this cause
    riscv_operation what = riscv_operation::load;  ///< of the instruction; manage is told as a store
    riscv_access refused;              ///< by the tables: the same access, or that to an entry of the VS-stage
    bool address_known = false;        ///< a guest-page fault, and tval2 is not 0
    std::uint64_t guest_physical = 0;  ///< where it is known, in bytes; of an entry, or of the access

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return kind != riscv_trap_kind::none; }
};

namespace detail {

/// Whether a transformed instruction is HLVX.HU or HLVX.WU, which are loads that need X.
[[nodiscard]] constexpr bool is_hlvx(std::uint64_t tinst) noexcept
{
    constexpr std::uint64_t hlvx_hu = 0x6430'4073, hlvx_wu = 0x6830'4073;
    const std::uint64_t fixed = tinst & ~(ones(19, 15) | ones(11, 7));
    return fixed == hlvx_hu || fixed == hlvx_wu;
}

}  // namespace detail

/// What cause, xtval, htval and htinst (or M's) tell. `user`: the trap came from U or VU, or an HLV acted as VU. Where
/// a guest-page fault has no address (htval is 0), the tables must be walked. A cause with bit 63 or 31 set is an
/// interrupt's.
[[nodiscard]] constexpr riscv_told told_by(const riscv_trap& t, bool user = false) noexcept
{
    using enum riscv_operation;
    riscv_told told;
    for (unsigned k = 1; k <= static_cast<unsigned>(riscv_trap_kind::guest_page); ++k) {
        for (const riscv_operation o : {load, store, fetch}) {
            const auto trap = static_cast<riscv_trap_kind>(k);
            if (detail::riscv_cause(trap, o).value != t.cause) continue;
            told.kind = trap;
            told.what = o;
        }
    }
    if (!told) return told;
    if (told.what == load && detail::is_hlvx(t.tinst)) told.what = execute_load;
    told.refused = {.what = told.what, .user = user};
    if (told.kind != riscv_trap_kind::guest_page) return told;
    const std::uint64_t without_update = t.tinst & ~std::uint64_t{0x20};
    if (without_update == riscv_pseudoinstruction(64, false) || without_update == riscv_pseudoinstruction(32, false)) {
        told.refused = gstage_paging::table_access(0, t.tinst != without_update);
    }
    told.address_known = t.tval2 != 0;
    if (told.address_known) told.guest_physical = t.tval2 << 2 | (told.refused.implicit ? 0 : t.tval & 3);
    return told;
}

// ---- A and D by software

/// What a fault handler does about a walk without Svadu: sets bits of the leaf, refuses, or only fences.
struct riscv_repair {
    std::uint64_t set = 0;  ///< A, and D of a store: bits to set in the leaf, by an exchange of what was judged
    bool refused = false;   ///< a fault for who made the access

    /// The entries allow the access as they are: another hart was faster, or a TLB held the entry before.
    [[nodiscard]] constexpr bool nothing_wrong() const noexcept { return set == 0 && !refused; }
};

/// What a page-fault handler does after a walk of the access that faulted. Flush: after bits were set, or where nothing
/// was wrong, sfence.vma of the address on this hart, unless hardware has no old entry in its TLB.
template <walkable_format F>
[[nodiscard]] constexpr riscv_repair repair_of(const walk_result& r, const riscv_access& a, const riscv_controls& c,
                                               const F& format) noexcept
{
    if (r) return {};
    const bool allowed = r.fault == fault_kind::access_flag && regime_of<F>::allows(r, r.last_entry(), a, c, format);
    if (!allowed) return {0, true};
    const layout& page = format->layout_at(1, kind::leaf);
    const std::uint64_t needed = page.mask(role::accessed) | (a.writes() ? page.mask(role::dirty) : 0);
    return {needed & ~r.last_entry(), false};
}

}  // namespace ptebits
