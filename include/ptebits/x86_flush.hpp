// SPDX-License-Identifier: BSL-1.0
// What x86's invalidation instructions take, from the items of a flush list: INVLPG, INVPCID, INVEPT, INVVPID, and
// AMD's INVLPGA and TLB_CONTROL; and what to do about a list: nothing, single addresses, a whole context, everything.
//
// Nothing here executes an instruction. Each of them acts on one CPU: all that may hold the translations must execute
// it, or be out of the guest and flush before they enter again.
//
//     const auto what = choose_invlpg(list, format, {.global = false});
//     if (what.scope == flush_scope::addresses) {
//         for (const flush_item& item : list)
//             for (const std::uint64_t address : invlpg_addresses(item, format, {.global = false})) invlpg(address);
//     }
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <ptebits/field.hpp>
#include <ptebits/flush.hpp>
#include <ptebits/format.hpp>
#include <ptebits/x86_registers.hpp>

namespace ptebits {

struct nested_paging;  // the regimes of guest-physical addresses: x86.hpp
struct extended_paging;

/// What decides how a list is flushed. The defaults are right for every CPU, and flush most.
struct flush_controls {
    std::uint64_t threshold = 32;  ///< more addresses than these: the whole context. No manual has a number: measure
    bool global = true;            ///< some of the translations may be global
    bool pcide = true;             ///< CR4.PCIDE may be set
    bool tce = true;               ///< AMD's EFER.TCE may be set; Intel has none
    bool flush_by_asid = false;    ///< AMD: the CPU can flush one ASID, CPUID 8000_000Ah EDX[6]
};

namespace detail {

template <class F>
inline constexpr bool takes_linear_addresses = true;
template <class F>
    requires requires { typename F::description::regime; }
inline constexpr bool takes_linear_addresses<F> = !std::same_as<typename F::description::regime, nested_paging> &&
                                                  !std::same_as<typename F::description::regime, extended_paging>;

/// Refuses formats of guest-physical addresses.
template <entry_format F>
constexpr void require_linear_addresses() noexcept
{
    static_assert(takes_linear_addresses<F>,
                  "ptebits: this instruction takes linear addresses, EPT and NPT translate guest-physical ones "
                  "(choose_invept, choose_npt)");
}

/// Whether the tables translate an address: whether it is canonical. No address with a format that is wrong.
template <entry_format F>
[[nodiscard]] constexpr bool may_be_flushed(std::uint64_t address, const F& format) noexcept
{
    require_linear_addresses<F>();
    return format->shape().levels != 0 && format->shape().translates(address);
}

/// The addresses of an item. `each_upper`: an address flushes only those entries that refer to tables which lead to
/// it, so that each table of the lowest level needs one.
template <entry_format F>
[[nodiscard]] constexpr flush_addresses addresses_of(const flush_item& item, const F& format, unsigned stride_shift,
                                                     bool each_upper) noexcept
{
    require_linear_addresses<F>();
    const shape& s = format->shape();
    const bool lowest_tables = each_upper && item.upper && s.levels >= 2 && stride_shift > s.page_shift(2);
    return {s, {item.first, item.last}, lowest_tables ? s.page_shift(2) : stride_shift};
}

}  // namespace detail

/// The operands of INVLPG for an item: an address for each of the smallest translations. They flush those of the
/// current PCID, and global ones. A page's address takes all TLB entries of the page. `upper` needs no operand more:
/// INVLPG takes all entries of the paging-structure caches of the current PCID. It could be done more finely: INVPCID
/// takes only those that lead to the address. So does INVLPG with AMD's EFER.TCE; then (controls.tce) there is an
/// address for each table of the lowest level at least. Intel SDM volume 3, "Operations that Invalidate TLBs and
/// Paging-Structure Caches"; AMD APM volume 2, "TLB Management", "Extended Feature Enable Register (EFER)".
template <entry_format F>
[[nodiscard]] constexpr flush_addresses invlpg_addresses(const flush_item& item, const F& format,
                                                         const flush_controls& controls = {}) noexcept
{
    return detail::addresses_of(item, format, item.page_shift, controls.tce);
}

/// The addresses for INVPCID's type individual_address, one for each of the smallest translations, and for each table
/// of the lowest level at least where `upper` is set. They do not flush global translations. A page's address takes
/// all TLB entries of the page. Intel SDM volume 2, "INVPCID"; volume 3, "Operations that Invalidate TLBs and
/// Paging-Structure Caches".
template <entry_format F>
[[nodiscard]] constexpr flush_addresses invpcid_addresses(const flush_item& item, const F& format) noexcept
{
    return detail::addresses_of(item, format, item.page_shift, true);
}

/// The addresses for INVVPID's type individual_address, with which it flushes global translations too, of all PCIDs:
/// one for each smallest page. The manual does not say that one address takes all TLB entries of a large page, as it
/// does of INVLPG. Intel SDM volume 3, "INVVPID", "Operations that Invalidate Cached Mappings".
template <entry_format F>
[[nodiscard]] constexpr flush_addresses invvpid_addresses(const flush_item& item, const F& format) noexcept
{
    return detail::addresses_of(item, format, 0, false);
}

/// The addresses for INVLPGA: one for each smallest page, as for INVVPID. Whether it takes other entries that refer
/// to tables than those that lead to the address is up to the CPU. AMD APM volume 2, "TLB Management".
template <entry_format F>
[[nodiscard]] constexpr flush_addresses invlpga_addresses(const flush_item& item, const F& format) noexcept
{
    return detail::addresses_of(item, format, 0, false);
}

// ---- operands

/// Why an instruction would refuse its operands.
enum class flush_error : std::uint8_t {
    none,
    type,     ///< no such type, or the CPU lacks it
    address,  ///< not canonical
    pcid,     ///< wider than 12 bits, or not 0 without CR4.PCIDE
    vpid,     ///< 0, which is the host's
    eptp,     ///< VM entry would refuse the EPT pointer: check_eptp() says why
};

[[nodiscard]] constexpr const char* name(flush_error e) noexcept
{
    constexpr const char* names[] = {"no error", "no such type", "the address is not canonical",
                                     "PCID",     "VPID 0",       "EPT pointer"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(flush_error::eptp) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// The operand in memory of INVPCID, INVEPT and INVVPID: 128 bits, aligned to any byte.
struct flush_descriptor {
    std::uint64_t low = 0;   ///< bits 63:0
    std::uint64_t high = 0;  ///< bits 127:64

    [[nodiscard]] constexpr bool operator==(const flush_descriptor&) const = default;
};
static_assert(sizeof(flush_descriptor) == 16);

/// Both operands of INVPCID, INVEPT or INVVPID, or why there are none.
template <class Type>
struct flush_operands {
    flush_descriptor descriptor;
    Type type{};
    flush_error error = flush_error::none;

    /// The operand in a register.
    [[nodiscard]] constexpr std::uint64_t number() const noexcept { return static_cast<std::uint64_t>(type); }
    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == flush_error::none; }
};

/// What INVPCID flushes. Intel SDM volume 2, "INVPCID"; AMD APM volume 3, "INVPCID".
enum class invpcid_type : std::uint8_t {
    individual_address = 0,        ///< of one PCID and address; not global translations
    single_context = 1,            ///< of one PCID; not global translations
    all_contexts_and_globals = 2,  ///< everything
    all_contexts = 3,              ///< of all PCIDs; not global translations
};

[[nodiscard]] constexpr const char* name(invpcid_type t) noexcept
{
    constexpr const char* names[] = {"individual address", "single context", "all contexts and globals",
                                     "all contexts"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(invpcid_type::all_contexts) + 1);
    return detail::word_of(names, static_cast<unsigned>(t));
}

/// The operands of INVPCID. The address counts with type individual_address only, the PCID with that and with
/// single_context. Flush: paging-structure caches with them; no global translations but with
/// all_contexts_and_globals. Errors: type, address, pcid: what the CPU answers with #GP. Intel SDM volume 2,
/// "INVPCID".
template <entry_format F>
[[nodiscard]] constexpr flush_operands<invpcid_type> invpcid_for(invpcid_type type, const F& format,
                                                                 std::uint64_t pcid = 0, std::uint64_t address = 0,
                                                                 const cr3_controls& cpu = {}) noexcept
{
    if (type > invpcid_type::all_contexts) return {{}, type, flush_error::type};
    const bool by_address = type == invpcid_type::individual_address;
    const bool by_pcid = by_address || type == invpcid_type::single_context;
    if ((pcid & ~cr3_fields::pcid.mask()) != 0 || (by_pcid && !cpu.pcide && pcid != 0)) {
        return {{}, type, flush_error::pcid};
    }
    if (by_address && !detail::may_be_flushed(address, format)) return {{}, type, flush_error::address};
    return {{by_pcid ? pcid : 0, by_address ? address : 0}, type};
}

/// The bits of IA32_VMX_EPT_VPID_CAP that say what can be flushed. Intel SDM volume 3, "VPID and EPT Capabilities".
struct vmx_flush_capabilities {
    static constexpr field invept = bit(20);
    static constexpr field invept_types = bits(26, 25);  ///< a bit for each type, from 1 up
    static constexpr field invvpid = bit(32);
    static constexpr field invvpid_types = bits(43, 40);  ///< a bit for each type, from 0 up
};

/// What INVEPT flushes. Intel SDM volume 3, "INVEPT".
enum class invept_type : std::uint8_t {
    single_context = 1,  ///< what was derived from one EPT root
    all_contexts = 2,    ///< what was derived from any
};

[[nodiscard]] constexpr const char* name(invept_type t) noexcept
{
    constexpr const char* names[] = {"unknown", "single context", "all contexts"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(invept_type::all_contexts) + 1);
    return detail::word_of(names, static_cast<unsigned>(t));
}

/// Whether a CPU with this IA32_VMX_EPT_VPID_CAP has a type of INVEPT.
[[nodiscard]] constexpr bool supported(invept_type type, std::uint64_t capabilities) noexcept
{
    if (type < invept_type::single_context || type > invept_type::all_contexts) return false;
    using has = vmx_flush_capabilities;
    const unsigned index = static_cast<unsigned>(type) - static_cast<unsigned>(invept_type::single_context);
    return has::invept.get(capabilities) != 0 && (has::invept_types.get(capabilities) >> index & 1) != 0;
}

/// The operands of INVEPT. The EPT pointer counts with type single_context only. Flush: guest-physical translations
/// and what was combined from both stages, for all VPIDs and PCIDs, with the paging-structure caches; the guest's
/// INVLPG and INVVPID leave guest-physical ones. There is no INVEPT by address. Errors: type, eptp. Intel SDM volume
/// 3, "INVEPT", "Operations that Invalidate Cached Mappings".
[[nodiscard]] constexpr flush_operands<invept_type> invept_for(invept_type type, std::uint64_t eptp,
                                                               std::uint64_t capabilities,
                                                               unsigned physical_bits) noexcept
{
    if (!supported(type, capabilities)) return {{}, type, flush_error::type};
    if (type == invept_type::all_contexts) return {{}, type};
    if (check_eptp(eptp, capabilities, physical_bits) != eptp_error::none) return {{}, type, flush_error::eptp};
    return {{eptp, 0}, type};
}

/// What INVVPID flushes. Intel SDM volume 3, "INVVPID".
enum class invvpid_type : std::uint8_t {
    individual_address = 0,         ///< of one VPID and address
    single_context = 1,             ///< of one VPID
    all_contexts = 2,               ///< of all VPIDs but 0
    single_context_no_globals = 3,  ///< of one VPID, but not global translations
};

[[nodiscard]] constexpr const char* name(invvpid_type t) noexcept
{
    constexpr const char* names[] = {"individual address", "single context", "all contexts",
                                     "single context without globals"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(invvpid_type::single_context_no_globals) + 1);
    return detail::word_of(names, static_cast<unsigned>(t));
}

/// Whether a CPU with this IA32_VMX_EPT_VPID_CAP has a type of INVVPID.
[[nodiscard]] constexpr bool supported(invvpid_type type, std::uint64_t capabilities) noexcept
{
    if (type > invvpid_type::single_context_no_globals) return false;
    using has = vmx_flush_capabilities;
    const auto index = static_cast<unsigned>(type);
    return has::invvpid.get(capabilities) != 0 && (has::invvpid_types.get(capabilities) >> index & 1) != 0;
}

/// The operands of INVVPID. The address counts with type individual_address only; the VPID with all but all_contexts.
/// `format`: of the tables that CR3 points to while the guest runs. Flush: what was derived from them, for all PCIDs;
/// not guest-physical translations. Errors: type, vpid, address: what makes INVVPID fail. Intel SDM volume 3,
/// "INVVPID", "Operations that Invalidate Cached Mappings".
template <entry_format F>
[[nodiscard]] constexpr flush_operands<invvpid_type> invvpid_for(invvpid_type type, const F& format,
                                                                 std::uint64_t capabilities, std::uint16_t vpid = 0,
                                                                 std::uint64_t address = 0) noexcept
{
    if (!supported(type, capabilities)) return {{}, type, flush_error::type};
    if (type == invvpid_type::all_contexts) return {{}, type};
    if (vpid == 0) return {{}, type, flush_error::vpid};
    if (type != invvpid_type::individual_address) return {{vpid, 0}, type};
    if (!detail::may_be_flushed(address, format)) return {{}, type, flush_error::address};
    return {{vpid, address}, type};
}

/// The operands of INVLPGA, or why there are none.
struct invlpga_operands {
    std::uint64_t rax = 0;  ///< a linear address
    std::uint32_t ecx = 0;  ///< the ASID
    flush_error error = flush_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == flush_error::none; }
};

/// The operands of INVLPGA, which flushes an address of the guest's linear addresses under an ASID; ASID 0 is the
/// host's. `format`: of the tables that CR3 points to while the guest runs, the shadow page tables. It is of no use
/// for NPT. Errors: address, where no translation can be. AMD APM volume 2, "Invalidate Page, Alternate ASID".
template <entry_format F>
[[nodiscard]] constexpr invlpga_operands invlpga_for(const F& format, std::uint32_t asid,
                                                     std::uint64_t address) noexcept
{
    if (!detail::may_be_flushed(address, format)) return {0, 0, flush_error::address};
    return {address, asid};
}

/// TLB_CONTROL, the byte of a VMCB that says what the next VMRUN flushes. VMRUN does not clear it. The last two are
/// of CPUs with FlushByAsid only. AMD APM volume 2, "TLB Flush" under "TLB Control".
enum class tlb_control : std::uint8_t {
    nothing = 0,
    entire_tlb = 1,        ///< of all ASIDs
    guest = 3,             ///< of this guest's ASID
    guest_no_globals = 7,  ///< of this guest's ASID, but not global translations
};

[[nodiscard]] constexpr const char* name(tlb_control t) noexcept
{
    constexpr const char* names[] = {"nothing",  "entire TLB", "reserved", "this guest",
                                     "reserved", "reserved",   "reserved", "this guest without globals"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(tlb_control::guest_no_globals) + 1);
    return detail::word_of(names, static_cast<unsigned>(t));
}

// ---- what to do

/// What to do about the current address space: INVLPG of invlpg_addresses(), or what INVPCID with `type` does. A MOV
/// to CR3 flushes a context as well, and a change of CR4.PGE everything. A context is flushed where global
/// translations need not be. Everything, if tables of global translations were removed and CR4.PCIDE is set: the
/// paging-structure caches of other PCIDs may refer to them, which INVLPG leaves. Flush: of an address space with
/// several PCIDs each needs its own (choose_invpcid). Intel SDM volume 3, "Operations that Invalidate TLBs and
/// Paging-Structure Caches".
template <flush_source What, entry_format F>
[[nodiscard]] constexpr flush_choice<invpcid_type> choose_invlpg(const What& what, const F& format,
                                                                 const flush_controls& controls = {}) noexcept
{
    const auto d = detail::demand_of(what, format, controls.threshold,
                                     [&](const flush_item& item) { return invlpg_addresses(item, format, controls); });
    if (d.nothing()) return {};
    const bool of_others = d.upper && controls.global && controls.pcide;
    if (!d.whole && !of_others) return {flush_scope::addresses, invpcid_type::individual_address, d.addresses};
    if (controls.global) return {flush_scope::everything, invpcid_type::all_contexts_and_globals};
    return {flush_scope::context, invpcid_type::single_context};
}

/// What to do about one PCID, current or not: INVPCID with `type`, of invpcid_addresses() if by address. Everything,
/// if translations may be global, since no other type flushes these; INVLPG does (choose_invlpg), for the current
/// PCID. Intel SDM volume 2, "INVPCID".
template <flush_source What, entry_format F>
[[nodiscard]] constexpr flush_choice<invpcid_type> choose_invpcid(const What& what, const F& format,
                                                                  const flush_controls& controls = {}) noexcept
{
    const auto d = detail::demand_of(what, format, controls.threshold,
                                     [&](const flush_item& item) { return invpcid_addresses(item, format); });
    if (d.nothing()) return {};
    if (controls.global) return {flush_scope::everything, invpcid_type::all_contexts_and_globals};
    if (d.whole) return {flush_scope::context, invpcid_type::single_context};
    return {flush_scope::addresses, invpcid_type::individual_address, d.addresses};
}

/// What to do about a tree of EPT: INVEPT with `type`, for its EPT pointer; the whole tree, whatever the items say.
/// `capabilities`: IA32_VMX_EPT_VPID_CAP; everything, if the CPU lacks single_context. Intel SDM volume 3,
/// "Guidelines for Use of the INVEPT Instruction".
template <flush_source What>
[[nodiscard]] constexpr flush_choice<invept_type> choose_invept(const What& what, std::uint64_t capabilities) noexcept
{
    if (detail::asks_for_nothing(what)) return {};
    if (supported(invept_type::single_context, capabilities)) {
        return {flush_scope::context, invept_type::single_context};
    }
    return {flush_scope::everything, invept_type::all_contexts};
}

/// What to do about the linear addresses of one VPID, whose translations come from the tables of `format`, such as
/// shadow page tables: INVVPID with `type`, of invvpid_addresses() if by address. `capabilities`:
/// IA32_VMX_EPT_VPID_CAP; types that the CPU lacks are not chosen, unless it has none that suffices. Intel SDM volume
/// 3, "Guidelines for Use of the INVVPID Instruction".
template <flush_source What, entry_format F>
[[nodiscard]] constexpr flush_choice<invvpid_type> choose_invvpid(const What& what, const F& format,
                                                                  std::uint64_t capabilities,
                                                                  const flush_controls& controls = {}) noexcept
{
    using enum invvpid_type;
    const auto d = detail::demand_of(what, format, controls.threshold,
                                     [&](const flush_item& item) { return invvpid_addresses(item, format); });
    if (d.nothing()) return {};
    if (!d.whole && supported(individual_address, capabilities)) {
        return {flush_scope::addresses, individual_address, d.addresses};
    }
    if (!controls.global && supported(single_context_no_globals, capabilities)) {
        return {flush_scope::context, single_context_no_globals};
    }
    if (supported(single_context, capabilities)) return {flush_scope::context, single_context};
    return {flush_scope::everything, all_contexts};
}

/// What to do about a tree of NPT: TLB_CONTROL in the VMCB of each virtual CPU that uses it. The manual asks for the
/// commands 011b or 001b where a nested entry allows less, is no longer present or has another address, and says that
/// INVLPGA does not invalidate nested translations by guest-physical address. A new ASID does the same as `guest`
/// where the CPU cannot flush by ASID. AMD APM volume 2, "TLB Flush", "Invalidate Page, Alternate ASID".
template <flush_source What>
[[nodiscard]] constexpr flush_choice<tlb_control> choose_npt(const What& what,
                                                             const flush_controls& controls = {}) noexcept
{
    if (detail::asks_for_nothing(what)) return {};
    if (controls.flush_by_asid) return {flush_scope::context, tlb_control::guest};
    return {flush_scope::everything, tlb_control::entire_tlb};
}

/// What to do about the linear addresses of one ASID, whose translations come from shadow page tables: INVLPGA of
/// invlpga_addresses(), else TLB_CONTROL. The manual does not say that guest_no_globals takes entries that refer to
/// tables, so it is not chosen where tables were removed. AMD APM volume 2, "TLB Control".
template <flush_source What, entry_format F>
[[nodiscard]] constexpr flush_choice<tlb_control> choose_invlpga(const What& what, const F& format,
                                                                 const flush_controls& controls = {}) noexcept
{
    const auto d = detail::demand_of(what, format, controls.threshold,
                                     [&](const flush_item& item) { return invlpga_addresses(item, format); });
    if (d.nothing()) return {};
    if (!d.whole) return {flush_scope::addresses, tlb_control::nothing, d.addresses};
    if (!controls.flush_by_asid) return {flush_scope::everything, tlb_control::entire_tlb};
    const bool all = controls.global || d.upper;
    return {flush_scope::context, all ? tlb_control::guest : tlb_control::guest_no_globals};
}

}  // namespace ptebits
