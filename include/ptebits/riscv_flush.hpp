// SPDX-License-Identifier: BSL-1.0
// What RISC-V's fences take, from the items of a flush list: sfence.vma, hfence.vvma, hfence.gvma and those of Svinval;
// which fence a change of an entry calls for.
//
// Nothing here executes an instruction. Each of them acts on one hart: the others execute it by an interrupt or SBI.
// sfence.vma acts on satp's tables, or on vsatp's in VS-mode; hfence.vvma on vsatp's under the VMID that hgatp holds
// now; hfence.gvma on hgatp's, and takes what was combined of both stages, too.
//
//     const auto what = choose_fence(list, format, {.global = false});
//     if (what.scope == flush_scope::addresses) {
//         for (const flush_item& item : list)
//             for (const std::uint64_t address : fence_addresses(item, format)) sfence_vma(address, asid);
//     }
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/ageing.hpp>
#include <ptebits/flush.hpp>
#include <ptebits/formats/riscv.hpp>

namespace ptebits {

// ---- operands

/// Which operands are registers other than x0, as rs1=x0 and rs2=x0 have meanings of their own. A register that holds
/// 0 is address 0, or ASID or VMID 0.
struct riscv_fence {
    bool by_address = false;  ///< rs1: leaf entries of one address alone; x0: all entries, of all levels
    bool by_id = false;       ///< rs2: one ASID or VMID, no global translations; x0: all of them

    [[nodiscard]] constexpr bool operator==(const riscv_fence&) const = default;
};

/// Why a fence would not do what its operands say.
enum class fence_error : std::uint8_t {
    none,
    address,  ///< none that the tables translate: the fence has no effect
    id,       ///< wider than ASIDs (16 bits, 9 on RV32) or VMIDs (14, 7)
};

[[nodiscard]] constexpr const char* name(fence_error e) noexcept
{
    constexpr const char* names[] = {"no error", "the tables do not translate the address",
                                     "the ASID or VMID is too wide"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(fence_error::id) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// The registers' values.
struct fence_operands {
    std::uint64_t rs1 = 0;  ///< if by_address
    std::uint64_t rs2 = 0;  ///< if by_id
    riscv_fence fence;
    fence_error error = fence_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == fence_error::none; }
};

namespace detail {

template <entry_format F>
inline constexpr bool fences_guest_physical = std::is_same_v<typename F::description, gstage_description>;

template <entry_format F>
constexpr void require_riscv() noexcept
{
    static_assert(std::is_base_of_v<riscv_description, typename F::description>,
                  "ptebits: these fences are for riscv and gstage formats");
}

}  // namespace detail

/// The operands of sfence.vma and hfence.vvma for a riscv format, of hfence.gvma for a gstage format, whose rs1 is the
/// guest-physical address right by 2; the same for Svinval's. RISC-V ISA manual, volume II, "Supervisor
/// Memory-Management Fence Instruction", "Hypervisor Memory-Management Fence Instructions".
template <entry_format F>
[[nodiscard]] constexpr fence_operands fence_for(const riscv_fence& fence, const F& format, std::uint64_t address = 0,
                                                 std::uint64_t id = 0) noexcept
{
    detail::require_riscv<F>();
    constexpr bool guest_physical = detail::fences_guest_physical<F>;
    const bool wide = format->shape().entry_bits == 64;
    const unsigned id_bits = guest_physical ? (wide ? 14 : 7) : (wide ? 16 : 9);
    if (fence.by_id && id >> id_bits != 0) return {0, 0, fence, fence_error::id};
    if (fence.by_address && (format->shape().levels == 0 || !format->shape().translates(address))) {
        return {0, 0, fence, fence_error::address};
    }
    return {fence.by_address ? (guest_physical ? address >> 2 : address) : 0, fence.by_id ? id : 0, fence};
}

/// The instructions, without their registers: 32-bit words.
enum class fence_instruction : std::uint32_t {
    sfence_vma = 0x1200'0073,
    hfence_vvma = 0x2200'0073,
    hfence_gvma = 0x6200'0073,
    sinval_vma = 0x1600'0073,  ///< Svinval: between sfence.w.inval and sfence.inval.ir, which order them
    hinval_vvma = 0x2600'0073,
    hinval_gvma = 0x6600'0073,
    sfence_w_inval = 0x1800'0073,   ///< no registers
    sfence_inval_ir = 0x1810'0073,  ///< no registers
};

/// The word of an instruction with registers by number, x0 to x31: for an assembler that lacks it, or to tell it.
/// Precondition: both below 32.
[[nodiscard]] constexpr std::uint32_t encode_fence(fence_instruction what, unsigned rs1 = 0, unsigned rs2 = 0) noexcept
{
    return static_cast<std::uint32_t>(what) | rs1 << 15 | rs2 << 20;
}

// ---- a flush list

/// What decides how a list is flushed. The defaults are right for every hart, and flush most.
struct fence_controls {
    std::uint64_t threshold = 32;  ///< more addresses than these: rs1=x0. No manual has a number: measure
    bool global = true;            ///< some of the translations may be global: rs2=x0
};

/// The addresses of an item, one for each leaf: an item that changed what refers to tables needs rs1=x0 instead, see
/// choose_fence(). Of runs one for each of their entries, as the manual asks. RISC-V ISA manual, volume II, "Svnapot".
template <entry_format F>
[[nodiscard]] constexpr flush_addresses fence_addresses(const flush_item& item, const F& format) noexcept
{
    detail::require_riscv<F>();
    const shape& s = format->shape();
    const bool small = s.levels < 2 || item.page_shift < s.page_shift(2);
    return {s, {item.first, item.last}, small ? s.granule : item.page_shift};
}

/// What to do about a list or an item: fences of all its addresses, or one with rs1=x0 where there are too many or what
/// refers to tables was changed. A context is an ASID or VMID; with `global` all of them. No fence for a gstage format
/// is by ASID, and its translations are never global.
template <flush_source What, entry_format F>
[[nodiscard]] constexpr flush_choice<riscv_fence> choose_fence(const What& what, const F& format,
                                                               const fence_controls& controls = {}) noexcept
{
    const auto d = detail::demand_of(what, format, controls.threshold,
                                     [&](const flush_item& item) { return fence_addresses(item, format); });
    if (d.nothing()) return {};
    const bool by_id = detail::fences_guest_physical<F> || !controls.global;
    if (!d.whole && !d.upper) return {flush_scope::addresses, {true, by_id}, d.addresses};
    return {by_id ? flush_scope::context : flush_scope::everything, {false, by_id}};
}

// ---- one entry

/// Which fence a change of a live entry calls for, on all harts that may use it.
enum class fence_due : std::uint8_t {
    none,
    late,        ///< rs1=address, after a fault that finds nothing wrong: until then accesses may fault
    by_address,  ///< rs1=address, before the change is relied on
    all_levels,  ///< rs1=x0, before it is relied on
};

[[nodiscard]] constexpr const char* name(fence_due d) noexcept
{
    constexpr const char* names[] = {"none", "late, by address", "by address", "all levels"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(fence_due::all_levels) + 1);
    return detail::word_of(names, static_cast<unsigned>(d));
}

/// The fence after an entry of a level was changed. A that was cleared needs none: a page only looks older. Where G is
/// or was set here or above, rs2 is x0. Entries of a run count each. RISC-V ISA manual, volume II, "Supervisor
/// Memory-Management Fence Instruction"; "Svvptc"; "Svnapot".
template <entry_format F>
[[nodiscard]] constexpr fence_due fence_after(std::uint64_t before, std::uint64_t after, const F& format,
                                              unsigned level = 1) noexcept
{
    detail::require_riscv<F>();
    const auto used = [&](std::uint64_t entry) { return present(entry, format) && legal(entry, level, format); };
    const auto table = [&](std::uint64_t entry) { return used(entry) && kind_of(entry, level, format) == kind::table; };
    if (!used(before)) {
        if (!used(after) || !format->caches_absent()) return fence_due::none;
        return table(after) ? fence_due::all_levels : fence_due::late;
    }
    const bool narrows = needs_flush(before, after, format, level);
    if (table(before) || table(after)) return narrows ? fence_due::all_levels : fence_due::none;
    if (narrows) return fence_due::by_address;
    const std::uint64_t counts =
        ~(format->software_mask(level, kind_of(before, level, format)) | (before & ~after & format->accessed.mask()));
    return ((before ^ after) & counts) != 0 ? fence_due::late : fence_due::none;
}

}  // namespace ptebits
