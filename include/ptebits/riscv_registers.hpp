// SPDX-License-Identifier: BSL-1.0
// The registers that hold the roots of RISC-V's tables, and the bits of others that tables are judged by: satp, vsatp,
// hgatp; SUM, MXR, ADUE, PBMTE.
#pragma once

#include <cstdint>
#include <type_traits>

#include <ptebits/riscv.hpp>

namespace ptebits {

/// The general-purpose registers' width, and so the form of satp, vsatp and hgatp.
enum class riscv_xlen : std::uint8_t { rv32, rv64 };

/// Why a register gives no root.
enum class atp_error : std::uint8_t {
    none,
    no_tables,  ///< the format is wrong, and so has no tables
    bare,       ///< no translation, and the other bits are 0
    bare_bits,  ///< no translation, and other bits are set: the manual leaves open what that does
    mode,       ///< a mode that is reserved or custom
    levels,     ///< a mode that is not the format's
    reserved,   ///< bits above the VMID that are read as 0
    root,       ///< hgatp: not on 16 Kbytes; or a root for a new value that is misaligned or too wide
    asid,       ///< an ASID or VMID for a new value that is too wide
};

[[nodiscard]] constexpr const char* name(atp_error e) noexcept
{
    constexpr const char* names[] = {"no error",
                                     "the format has no tables",
                                     "no translation (Bare)",
                                     "no translation (Bare), but other bits set",
                                     "the mode is reserved",
                                     "the mode is another format's",
                                     "bits set that are read as 0",
                                     "the root is misaligned or too wide",
                                     "the ASID or VMID is too wide"};
    static_assert(sizeof names / sizeof *names == static_cast<unsigned>(atp_error::asid) + 1);
    return detail::word_of(names, static_cast<unsigned>(e));
}

/// The fields of satp, vsatp and hgatp. RISC-V ISA manual, volume II, "Supervisor Address Translation and Protection
/// (satp) Register", "Hypervisor Guest Address Translation and Protection (hgatp) Register".
struct atp_fields {
    field mode;
    field id;  ///< ASID or VMID
    field reserved;
    field ppn;
};
inline constexpr atp_fields satp_fields = {bits(63, 60), bits(59, 44), {}, bits(43, 0)};
inline constexpr atp_fields satp_fields_rv32 = {bit(31), bits(30, 22), {}, bits(21, 0)};
inline constexpr atp_fields hgatp_fields = {bits(63, 60), bits(57, 44), bits(59, 58), bits(43, 0)};
inline constexpr atp_fields hgatp_fields_rv32 = {bit(31), bits(28, 22), bits(30, 29), bits(21, 0)};

/// What satp, vsatp or hgatp says, or why there is no root.
struct atp_root {
    std::uint64_t root = 0;  ///< physical address of the top table in bytes; of vsatp guest-physical; 0 with an error
    atp_error error = atp_error::none;
    unsigned levels = 0;   ///< of the mode, by which features are chosen; 0: no mode with tables
    std::uint16_t id = 0;  ///< ASID, or hgatp's VMID

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == atp_error::none; }
};

namespace detail {

/// Levels of a mode; 0: none.
[[nodiscard]] constexpr unsigned levels_of_mode(std::uint64_t mode, riscv_xlen xlen) noexcept
{
    if (xlen == riscv_xlen::rv32) return mode == 1 ? 2 : 0;
    return mode >= 8 && mode <= 10 ? static_cast<unsigned>(mode) - 5 : 0;
}

[[nodiscard]] constexpr atp_root read_atp(std::uint64_t value, const atp_fields& in, riscv_xlen xlen) noexcept
{
    const std::uint64_t mode = in.mode.get(value);
    const std::uint64_t rest = value & ~in.mode.mask();
    atp_root r;
    r.id = static_cast<std::uint16_t>(in.id.get(value));
    r.levels = levels_of_mode(mode, xlen);
    const bool too_wide = xlen == riscv_xlen::rv32 && value >> 32 != 0;
    if (mode == 0 && !too_wide) {
        r.error = rest == 0 ? atp_error::bare : atp_error::bare_bits;
    } else if (r.levels == 0 && !too_wide) {
        r.error = atp_error::mode;
    } else if (too_wide || (value & in.reserved.mask()) != 0) {
        r.error = atp_error::reserved;
    } else {
        r.root = in.ppn.get(value) << 12;
    }
    return r;
}

template <entry_format F>
inline constexpr bool is_gstage = std::is_same_v<typename F::description, gstage_description>;

/// Holds what a register says against a format.
template <entry_format F>
[[nodiscard]] constexpr atp_root root_for(atp_root r, const F& format) noexcept
{
    if (!r) return r;
    if (format->shape().levels == 0) {
        r.error = atp_error::no_tables;
    } else if (r.levels != format->shape().levels) {
        r.error = atp_error::levels;
    } else if (!is_root(r.root, format)) {
        r.error = atp_error::root;
    }
    if (!r) r.root = 0;
    return r;
}

}  // namespace detail

/// What satp or vsatp says, whatever the format: the levels of its mode, the ASID, the root.
[[nodiscard]] constexpr atp_root read_satp(std::uint64_t satp, riscv_xlen xlen = riscv_xlen::rv64) noexcept
{
    return detail::read_atp(satp, xlen == riscv_xlen::rv64 ? satp_fields : satp_fields_rv32, xlen);
}
/// The same of hgatp, with the VMID. A root that is not on 16 Kbytes is refused.
[[nodiscard]] constexpr atp_root read_hgatp(std::uint64_t hgatp, riscv_xlen xlen = riscv_xlen::rv64) noexcept
{
    atp_root r = detail::read_atp(hgatp, xlen == riscv_xlen::rv64 ? hgatp_fields : hgatp_fields_rv32, xlen);
    if (r && (r.root & ones(13, 0)) != 0) {
        r.root = 0;
        r.error = atp_error::root;
    }
    return r;
}

/// The root in satp or vsatp of a format's tables. Errors: as read_satp(); no_tables; levels.
template <entry_format F>
[[nodiscard]] constexpr atp_root root_of_satp(std::uint64_t satp, const F& format) noexcept
{
    static_assert(std::is_same_v<typename F::description, riscv_description>,
                  "ptebits: satp and vsatp hold the root of a riscv format, not of a gstage format (root_of_hgatp)");
    return detail::root_for(read_satp(satp, format->shape().entry_bits == 32 ? riscv_xlen::rv32 : riscv_xlen::rv64),
                            format);
}
/// The root in hgatp. Errors: as read_hgatp(); no_tables; levels.
template <entry_format F>
[[nodiscard]] constexpr atp_root root_of_hgatp(std::uint64_t hgatp, const F& format) noexcept
{
    static_assert(detail::is_gstage<F>, "ptebits: hgatp holds the root of a gstage format");
    return detail::root_for(read_hgatp(hgatp, format->shape().entry_bits == 32 ? riscv_xlen::rv32 : riscv_xlen::rv64),
                            format);
}

/// A value of satp, vsatp or hgatp, or why there is none (then 0).
struct encoded_atp {
    std::uint64_t value = 0;
    atp_error error = atp_error::none;

    [[nodiscard]] constexpr explicit operator bool() const noexcept { return error == atp_error::none; }
};

/// The value of satp or vsatp, or of hgatp for a gstage format, for a root (bytes) and an ASID or VMID. How many bits
/// of these the hart has is found by writing ones and reading back.
template <entry_format F>
[[nodiscard]] constexpr encoded_atp atp_for(std::uint64_t root, const F& format, std::uint16_t id = 0) noexcept
{
    static_assert(detail::is_gstage<F> || std::is_same_v<typename F::description, riscv_description>,
                  "ptebits: satp, vsatp and hgatp hold the roots of riscv and gstage formats");
    const unsigned levels = format->shape().levels;
    if (levels == 0) return {0, atp_error::no_tables};
    const bool wide = format->shape().entry_bits == 64;
    const atp_fields& in =
        detail::is_gstage<F> ? (wide ? hgatp_fields : hgatp_fields_rv32) : (wide ? satp_fields : satp_fields_rv32);
    if (!is_root(root, format)) return {0, atp_error::root};
    if (id >> in.id.width() != 0) return {0, atp_error::asid};
    return {in.mode(wide ? levels + 5 : 1) | in.id(id) | in.ppn(root >> 12)};
}

// ---- the bits by which tables are judged

/// Bits of mstatus, sstatus and vsstatus; of menvcfg and henvcfg, on RV32 in two halves. RISC-V ISA manual, volume II,
/// "Memory Privilege in mstatus Register", "Machine Environment Configuration (menvcfg) Register".
struct riscv_status_fields {
    static constexpr field sum = bit(18);
    static constexpr field mxr = bit(19);
};
struct riscv_envcfg_fields {
    static constexpr field adue = bit(61);
    static constexpr field pbmte = bit(62);
};

/// The controls of satp's tables.
[[nodiscard]] constexpr riscv_controls controls_in(std::uint64_t sstatus) noexcept
{
    return {riscv_status_fields::sum.get(sstatus) != 0, riscv_status_fields::mxr.get(sstatus) != 0};
}
/// The controls of both stages, under V=1 and for HLV and HSV: SUM of the guest's, MXR of either for the guest's
/// tables.
template <class Guest, walkable_format Host>
[[nodiscard]] constexpr nested_controls<Guest, Host> controls_in(std::uint64_t vsstatus, std::uint64_t sstatus,
                                                                 const Guest&, const Host&) noexcept
{
    const riscv_controls hosts = controls_in(sstatus);
    riscv_controls guests = controls_in(vsstatus);
    guests.mxr = guests.mxr || hosts.mxr;
    return {guests, {.mxr = hosts.mxr}};
}

/// The features with what menvcfg (of satp's and hgatp's tables) or henvcfg (of vsatp's) turns off.
template <class Features>
[[nodiscard]] constexpr Features under_envcfg(Features has, std::uint64_t envcfg) noexcept
{
    has.svpbmt = has.svpbmt && riscv_envcfg_fields::pbmte.get(envcfg) != 0;
    has.svadu = has.svadu && riscv_envcfg_fields::adue.get(envcfg) != 0;
    return has;
}

}  // namespace ptebits
