// SPDX-License-Identifier: BSL-1.0
// Recorded walks of RISC-V, by one stage and by two: one access, the entries that it met, how it ended and what
// changed. The library's outcome must be the recorded one exactly. What QEMU does otherwise than the manual are rules
// here: each says what becomes of an outcome, or how the walk itself differs.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ptebits/riscv.hpp>
#include <ptebits/riscv_registers.hpp>

#include "image.hpp"
#include "report.hpp"

namespace replay::on_riscv {

using namespace ptebits;

/// How QEMU's walk of two stages differs; for the walk by deviating_gstage.
struct deviations {
    static inline bool vs_ad_unchecked = false;  ///< A and D of a VS-stage entry are set without asking the G-stage
    static inline bool mxr_implicit = false;     ///< MXR counts for implicit accesses
};
struct deviating_paging : gstage_paging {
    [[nodiscard]] static bool allows(const walk_result& r, std::uint64_t leaf, access a, const controls& c,
                                     const auto& f)
    {
        a.implicit = a.implicit && !deviations::mxr_implicit;
        return gstage_paging::allows(r, leaf, a, c, f);
    }
    [[nodiscard]] static access table_access(const auto& f, bool update)
    {
        return gstage_paging::table_access(f, update && !deviations::vs_ad_unchecked);
    }
};
struct deviating_gstage : gstage_description {
    using regime = deviating_paging;
};

/// Features that are compiled, too.
inline constexpr riscv_features compiled[] = {
    {.levels = 2},
    {.levels = 2, .svadu = true},
    {.levels = 3},
    {.levels = 3, .svadu = true},
    {.levels = 3, .svnapot = true, .svpbmt = true},
    {.levels = 3, .svnapot = true, .svpbmt = true, .svadu = true},
    {.levels = 4, .svnapot = true, .svpbmt = true, .svadu = true},
    {.levels = 5, .svnapot = true},
    {.levels = 5, .svnapot = true, .svpbmt = true, .svadu = true},
};

/// Calls with the constant format of these features, if it is compiled.
template <class Call>
void with_constants(const riscv_features& f, Call call)
{
    [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        ((compiled[Index] == f ? call(riscv<compiled[Index]>) : void()), ...);
    }(std::make_index_sequence<std::size(compiled)>{});
}

/// The recorded entries; zeros elsewhere in RAM, and none beyond. Entries of 32 bits lie in the low half of a word.
class memory {
public:
    std::uint64_t end = 0;

    template <class Word>
    Word* operator()(std::uint64_t physical, std::type_identity<Word>)
    {
        if (!holds(physical)) return nullptr;
        for (slot& s : slots_) {
            if (s.address == physical) return s.in(std::type_identity<Word>{});
        }
        slots_.push_back({physical, 0, 0, 0});
        return slots_.back().in(std::type_identity<Word>{});
    }
    [[nodiscard]] bool holds(std::uint64_t physical) const { return physical >= 0x8000'0000 && physical < end; }
    void put(std::uint64_t physical, std::uint64_t entry)
    {
        slots_.push_back({physical, entry, entry, static_cast<std::uint32_t>(entry)});
    }
    void reserve() { slots_.reserve(64); }  // pointers to slots stay valid

    /// What differs from before, by address.
    [[nodiscard]] std::map<std::uint64_t, std::uint64_t> changed() const
    {
        std::map<std::uint64_t, std::uint64_t> all;
        for (const slot& s : slots_) {
            const std::uint64_t now = narrow ? s.low : s.wide;
            if (now != s.before) all[s.address] = now;
        }
        return all;
    }

    bool narrow = false;

private:
    struct slot {
        std::uint64_t address;
        std::uint64_t before;
        std::uint64_t wide;
        std::uint32_t low;

        std::uint64_t* in(std::type_identity<std::uint64_t>) { return &wide; }
        std::uint32_t* in(std::type_identity<std::uint32_t>) { return &low; }
    };
    std::vector<slot> slots_;
};

/// How an access ended.
struct ending {
    bool other = false;  ///< neither a translation nor a fault of one: no code was found where it was fetched
    riscv_trap trap;     ///< none: it came to the address
    std::uint64_t address = 0;
    bool address_known = true;
    std::map<std::uint64_t, std::uint64_t> changed;

    [[nodiscard]] bool operator==(const ending& o) const
    {
        return other == o.other && trap == o.trap && changed == o.changed &&
               (!address_known || !o.address_known || address == o.address);
    }
    [[nodiscard]] std::string words() const
    {
        using ptimg::hex;
        std::string text = trap ? "fault cause=" + hex(trap.cause) + " tval=" + hex(trap.tval) +
                                      " tval2=" + hex(trap.tval2) + " tinst=" + hex(trap.tinst)
                                : "ok pa=" + hex(address);
        for (const auto& [at, now] : changed) text += ' ' + hex(at) + ':' + hex(now);
        return text;
    }
};

/// One line.
struct recorded_case {
    riscv_access what;
    char letter = 0;
    bool two_stages = false;
    riscv_features features;  ///< of satp's or vsatp's tables
    gstage_features host_features;
    riscv_controls controls;
    riscv_controls host_controls;
    std::uint64_t satp = 0;
    std::uint64_t hgatp = 0;
    std::uint64_t address = 0;
    memory entries;
    ending ended;
};

/// What the library makes of a line: how it ended, and what rules look at.
struct outcome {
    ending ended;
    nested_result<riscv_access> walks;  ///< with one stage `guest` alone
    std::uint64_t beyond = 0;           ///< the address that the walk came to, where no memory holds it
};

class vector_file {
public:
    vector_file(const std::string& file, report& to) : file_(file), report_(to) {}

    /// Whether a file is one of these.
    [[nodiscard]] static bool is_one(const std::string& file)
    {
        std::ifstream in(file);
        std::string first;
        return std::getline(in, first) && first.starts_with("# riscv ");
    }

    void replay()
    {
        for_each_line(file_, [this](std::string_view text, std::size_t line) {
            if (text.starts_with('#')) return take_header(text);
            words w(file_, line, text);
            ++cases_;
            if (text.starts_with("cpu=")) return take_register(w, text, line);
            take_case(w, text, line);
        });
        if (cases_ == 0) malformed(file_, 1, "no case in the file");
    }

private:
    void take_header(std::string_view text)
    {
        const auto says = [text](std::string_view word) { return text.find(word) != text.npos; };
        if (says("emulator=")) {
            qemu_ = says("QEMU");
            narrow_ = says("rv32");
        }
        if (says("svnapot=1")) svnapot_ = true;
    }

    // ---- a line

    [[nodiscard]] recorded_case read_case(words& w) const
    {
        recorded_case c;
        const std::string_view letter = w.value("acc=");
        if (letter.size() != 1) w.fail("no such access");
        c.letter = letter[0];
        switch (c.letter) {
        case 'R':
            c.what.what = riscv_operation::load;
            break;
        case 'W':
        case 'A':
            c.what.what = riscv_operation::store;
            break;
        case 'X':
            c.what.what = riscv_operation::fetch;
            break;
        default:
            w.fail("no such access");
        }
        const std::string_view mode = w.value("priv=");
        c.two_stages = mode.starts_with('V');
        c.what.user = mode.ends_with('U');
        if (c.two_stages) static_cast<void>(w.value("via="));
        c.controls.sum = w.flag("sum=");
        c.controls.mxr = w.flag("mxr=");
        if (c.two_stages) {
            c.host_controls.mxr = c.controls.mxr;
            c.controls.sum = w.flag("vsum=");
            c.controls.mxr = w.flag("vmxr=") || c.controls.mxr;
        }
        c.features.svadu = w.flag("adue=");
        c.features.svpbmt = w.flag("pbmte=");
        c.features.svnapot = c.host_features.svnapot = svnapot_;
        if (c.two_stages) {
            c.host_features.svadu = c.features.svadu;
            c.host_features.svpbmt = c.features.svpbmt;
            c.features.svadu = w.flag("hadue=");
            c.features.svpbmt = w.flag("hpbmte=");
            c.satp = w.number("vsatp=");
            c.hgatp = w.number("hgatp=");
        } else {
            c.satp = w.number("satp=");
        }
        c.address = w.number("va=");
        c.entries.end = narrow_ ? 0x3'0000'0000 : 0x8'8000'0000;
        c.entries.narrow = narrow_;
        c.entries.reserve();
        c.two_stages ? read_two_stages(w, c) : read_one_stage(w, c);
        return c;
    }

    /// The entries of one stage, put where the manual has them: nothing here asks the library.
    void read_one_stage(words& w, recorded_case& c) const
    {
        std::uint64_t table = (c.satp & (narrow_ ? ones(21, 0) : ones(43, 0))) << 12;
        std::vector<std::pair<unsigned, std::uint64_t>> places;
        for (unsigned level = narrow_ ? 2 : static_cast<unsigned>(c.satp >> 60) - 5; level-- > 0;) {
            const std::string_view text = w.value("e" + std::to_string(level) + "=");
            if (text == "-") continue;
            const std::uint64_t entry = w.hexadecimal(text);
            const unsigned index_bits = narrow_ ? 10 : 9;
            const std::uint64_t index = c.address >> (12 + index_bits * level) & ones(index_bits - 1, 0);
            places.emplace_back(level, table + index * (narrow_ ? 4 : 8));
            c.entries.put(places.back().second, entry);
            before_.push_back(entry);
            table = (entry & ones(53, 10)) << 2;
        }
        read_ending(w, c);
        for (std::size_t n = 0; n < places.size();) {
            const std::string_view text = w.word();
            const std::string key = "a" + std::to_string(places[n].first) + "=";
            if (!text.starts_with(key)) {
                if (text.size() < 4 || text.substr(2) != "=-") w.fail("entries before and after do not match");
                continue;
            }
            const std::uint64_t after = w.hexadecimal(text.substr(key.size()));
            if (after != before_[n]) c.ended.changed[places[n].second] = after;
            ++n;
        }
        before_.clear();
    }

    /// A list of numbers joined by colons, itself joined by commas; - is an empty one. Calls with each.
    template <std::size_t Count, class Call>
    static void for_each_item(const words& w, std::string_view list, Call call)
    {
        while (!list.empty() && list != "-") {
            std::string_view item = list.substr(0, list.find(','));
            list.remove_prefix(item.size() == list.size() ? item.size() : item.size() + 1);
            std::array<std::uint64_t, Count> numbers{};
            bool all = true;
            for (std::size_t n = 0; n < Count; ++n) {
                const std::string_view one = item.substr(0, item.find(':'));
                item.remove_prefix(one.size() == item.size() ? one.size() : one.size() + 1);
                all = all && one != "-";
                if (one != "-") numbers[n] = w.hexadecimal(one);
            }
            if (all) call(numbers);
        }
    }
    void read_two_stages(words& w, recorded_case& c) const
    {
        for_each_item<4>(w, w.value("s1="), [&](const auto& n) { c.entries.put(n[2], n[3]); });
        for_each_item<2>(w, w.value("g="), [&](const auto& n) { c.entries.put(n[0], n[1]); });
        read_ending(w, c);
        for_each_item<2>(w, w.value("ch="), [&](const auto& n) { c.ended.changed[n[0]] = n[1]; });
    }

    static void read_ending(words& w, recorded_case& c)
    {
        if (w.word() != "->") w.fail("no -> behind the entries");
        const std::string_view how = w.word();
        ending& e = c.ended;
        if (how == "ok") {
            const std::string_view address = w.value("pa=");
            e.address_known = address != "?";
            if (e.address_known) e.address = w.hexadecimal(address);
        } else if (how == "fault") {
            e.trap.exists = true;
            e.trap.cause = w.number("cause=");
            e.trap.tval = w.number("tval=");
            if (!c.two_stages) return;
            e.trap.tval2 = w.number("tval2=");
            const std::uint64_t told = w.number("tinst=");
            // Else the manual allows the transformed instruction as well as 0.
            const std::uint64_t kind = told & ~std::uint64_t{0x20};
            e.trap.tinst = kind == 0x2000 || kind == 0x3000 ? told : 0;
            e.trap.gva = w.flag("gva=");
        } else if (how == "other") {
            e.other = true;
            static_cast<void>(w.number("cause="));
            static_cast<void>(w.number("tval="));
            static_cast<void>(w.number("epc="));
        } else {
            w.fail("no such outcome");
        }
    }

    // ---- the library

    /// A line walked by formats known at run time; Host is that of the G-stage.
    template <class Host>
    [[nodiscard]] static outcome walked(const recorded_case& c)
    {
        outcome o;
        memory own = c.entries;
        own.reserve();
        const auto hosts = runtime_format<Host>(host_features(c));
        const auto by_guest = format_for(guest_features(c));
        const nested_controls<runtime_format<riscv_description>, runtime_format<Host>> cpu(c.controls, c.host_controls);
        const bool wide = !c.entries.narrow;
        const atp_root host_root = read_hgatp(c.hgatp, wide ? riscv_xlen::rv64 : riscv_xlen::rv32);
        const atp_root guest_root = read_satp(c.satp, wide ? riscv_xlen::rv64 : riscv_xlen::rv32);
        if (guest_root && host_root) {
            o.walks = nested_walk(by_guest, guest_root.root, hosts, host_root.root, c.address, c.what, cpu, own);
            finish(o, c, own, trap_of(o.walks, c.address, c.what, by_guest, hosts), o.walks.address());
        } else if (host_root) {
            o.walks = nested_walk(unpaged{}, 0, hosts, host_root.root, c.address, c.what, {{}, c.host_controls}, own);
            finish(o, c, own, trap_of(o.walks, c.address, c.what, unpaged{}, hosts), o.walks.address());
        } else {
            o.walks.guest = walk(by_guest, guest_root.root, c.address, c.what, c.controls, own);
            o.walks.where = dimension::guest;
            finish(o, c, own, trap_of(o.walks.guest, c.address, c.what, by_guest, c.two_stages), o.walks.guest.address);
        }
        return o;
    }
    /// The outcome. The access to an address without memory is an access fault, too.
    static void finish(outcome& o, const recorded_case& c, const memory& after, const riscv_trap& trap,
                       std::uint64_t address)
    {
        o.ended.changed = after.changed();
        o.ended.trap = trap;
        if (trap) return;
        if (after.holds(address)) {
            o.ended.address = address;
            return;
        }
        o.beyond = address;
        const auto code = detail::riscv_cause(riscv_trap_kind::access, c.what.what);
        o.ended.trap = {code.value, c.address, 0, 0, c.two_stages, true};
    }
    [[nodiscard]] static riscv_features guest_features(const recorded_case& c)
    {
        riscv_features f = c.features;
        f.levels = c.entries.narrow ? 2 : static_cast<unsigned>(c.satp >> 60) - 5;
        if (c.satp >> (c.entries.narrow ? 31 : 60) == 0) f.levels = 3;  // bare
        return f;
    }
    [[nodiscard]] static gstage_features host_features(const recorded_case& c)
    {
        gstage_features f = c.host_features;
        f.levels = c.entries.narrow ? 2 : static_cast<unsigned>(c.hgatp >> 60) - 5;
        if (c.hgatp >> (c.entries.narrow ? 31 : 60) == 0) f.levels = 3;
        return f;
    }

    /// Whether constants give the same, if they are compiled.
    [[nodiscard]] static std::optional<bool> twin_agrees(const recorded_case& c, const outcome& first)
    {
        std::optional<bool> agrees;
        const auto same = [](const walk_result& a, const walk_result& b) {
            return a.fault == b.fault && a.address == b.address && a.level == b.level && a.bits == b.bits &&
                   a.allowed == b.allowed && a.steps == b.steps && a.page_shift == b.page_shift;
        };
        if (!c.two_stages) {
            with_constants(guest_features(c), [&](const auto& format) {
                memory own = c.entries;
                own.reserve();
                const std::uint64_t root = root_of_satp(c.satp, format).root;
                const walk_result r = walk(format, root, c.address, c.what, c.controls, own);
                const auto changed = own.changed();
                agrees = same(r, first.walks.guest) && changed == first.ended.changed;
            });
            return agrees;
        }
        constexpr auto guest = riscv<riscv_features{.levels = 4, .svadu = true}>;
        constexpr auto host = gstage<gstage_features{.levels = 3, .svadu = true}>;
        const bool ours = c.satp != 0 && c.hgatp != 0 && guest_features(c) == guest->features() &&
                          host_features(c) == host->features();
        if (!ours) return {};
        memory own = c.entries;
        own.reserve();
        const auto r = nested_walk(guest, root_of_satp(c.satp, guest).root, host, root_of_hgatp(c.hgatp, host).root,
                                   c.address, c.what, {c.controls, c.host_controls}, own);
        return r.where == first.walks.where && same(r.guest, first.walks.guest) && same(r.host, first.walks.host) &&
               own.changed() == first.ended.changed;
    }

    // ---- what QEMU does otherwise

    /// The guest-physical address of an entry of the VS-stage that no memory holds.
    [[nodiscard]] static std::uint64_t absent_entry(const recorded_case& c, const walk_result& guest)
    {
        const unsigned level = guest.level - 1U;
        const std::uint64_t table =
            guest.steps == 0 ? (c.satp & ones(43, 0)) << 12 : (guest.last_entry() & ones(53, 10)) << 2;
        return table + 8 * (c.address >> (12 + 9 * level) & ones(8, 0));
    }
    /// The trap of an access fault tells in tval2 where it was.
    [[nodiscard]] static bool tell_access_fault(const recorded_case& c, outcome& o)
    {
        const bool guest_entry = o.walks.where == dimension::guest && o.walks.guest.fault == fault_kind::memory_absent;
        const bool host_entry = o.walks.where == dimension::host && o.walks.host.fault == fault_kind::memory_absent;
        if (!c.two_stages || c.hgatp == 0 || (!guest_entry && !host_entry)) return false;
        o.ended.trap.tval2 = (guest_entry ? absent_entry(c, o.walks.guest) : o.walks.guest_physical) >> 2;
        return true;
    }
    /// An entry of the G-stage without memory, on the way to a table of the VS-stage, is a guest-page fault.
    [[nodiscard]] static bool tell_guest_page_fault(const recorded_case& c, outcome& o)
    {
        const nested_result<riscv_access>& r = o.walks;
        if (!c.two_stages || r.where != dimension::host || r.host.fault != fault_kind::memory_absent ||
            !r.host_access.implicit) {
            return false;
        }
        o.ended.trap.cause = detail::riscv_cause(riscv_trap_kind::guest_page, c.what.what).value;
        o.ended.trap.tval2 = r.guest_physical >> 2;
        o.ended.trap.tinst = riscv_pseudoinstruction(64, r.host_access.writes());
        return true;
    }
    /// A leaf whose N breaks a rule is marked as used before it is refused.
    [[nodiscard]] static bool mark_refused_run(const recorded_case& c, outcome& o)
    {
        const bool guests = o.walks.where == dimension::guest;
        const walk_result& r = o.walks.last();
        if (r.broken != rule::reserved_bits || r.bits != std::uint64_t{1} << 63) return false;
        const bool writes = guests ? c.what.writes() : o.walks.host_access.writes();
        const walk_step& leaf = r.path[r.steps - 1];
        const std::uint64_t physical =
            guests && c.two_stages && c.hgatp != 0 ? o.walks.guest_slots[r.steps - 1] : leaf.slot_address;
        o.ended.changed[physical] = leaf.entry | 0x40 | (writes ? 0x80 : 0);
        return true;
    }
    /// Code above 4 Gbytes is not found on RV32; a fetch of what is beyond the machine's addresses is a page fault.
    [[nodiscard]] static bool find_no_code(const recorded_case& c, outcome& o)
    {
        if (c.letter != 'X' || c.two_stages) return false;
        if (c.entries.narrow && !o.ended.trap && o.ended.address >> 32 != 0) {
            o.ended.other = true;
            o.ended.address = 0;
            return true;
        }
        if (o.beyond >> 50 == 0) return false;
        o.ended.trap.cause = 12;
        o.ended.changed.clear();
        return true;
    }

    struct deviation {
        const char* name;
        bool (*become)(const recorded_case&, outcome&);
    };
    static constexpr deviation of_outcomes[] = {
        {"af-tval2", tell_access_fault},
        {"pte-no-memory", tell_guest_page_fault},
        {"napot-ad", mark_refused_run},
        {"no-code", find_no_code},
    };

    /// The rules by which QEMU's outcome follows from the manual; empty: by none.
    [[nodiscard]] static std::string rules_for(const recorded_case& c)
    {
        for (const bool both : {false, true}) {
            for (unsigned walk_by = both ? 1 : 0; walk_by < 4; ++walk_by) {
                deviations::vs_ad_unchecked = (walk_by & 1) != 0;
                deviations::mxr_implicit = (walk_by & 2) != 0;
                std::string names = deviations::mxr_implicit ? "mxr-implicit" : "";
                if (deviations::vs_ad_unchecked) names += names.empty() ? "vs-ad-unchecked" : "+vs-ad-unchecked";
                const outcome plain = walked<deviating_gstage>(c);
                if (!both && !names.empty() && plain.ended == c.ended) return names;
                if (both == names.empty()) continue;
                for (const deviation& d : of_outcomes) {
                    outcome o = plain;
                    if (!d.become(c, o) || o.ended != c.ended) continue;
                    return names.empty() ? d.name : std::string(d.name) + '+' + names;
                }
            }
        }
        return "";
    }

    void take_case(words& w, std::string_view text, std::size_t line)
    {
        const recorded_case c = read_case(w);
        if (!w.rest().empty() && c.two_stages) w.end();
        const outcome first = walked<gstage_description>(c);
        if (const std::optional<bool> agrees = twin_agrees(c, first)) {
            ++report_.twins;
            if (!*agrees) return report_.fail(file_, line, text, "constant and run-time features disagree");
        }
        if (first.ended == c.ended) return report_.pass();
        const std::string rules = qemu_ ? rules_for(c) : "";
        if (rules.empty()) return report_.fail(file_, line, text, first.ended.words());
        report_.tolerate(rules);
        report_.pass();
    }

    // ---- what registers keep

    /// A value that satp, vsatp or hgatp kept is read as the manual reads it.
    void take_register(words& w, std::string_view text, std::size_t line)
    {
        const std::string cpu(w.value("cpu="));
        const std::string csr(w.value("csr="));
        while (!w.next_is("->")) static_cast<void>(w.word());
        static_cast<void>(w.word());
        const std::uint64_t value = w.number("read=");
        w.end();
        const bool hypervisors = csr == "hgatp";
        if (csr != "satp" && csr != "vsatp" && !hypervisors) {
            const riscv_features f = under_envcfg(riscv_features{.svpbmt = true, .svadu = true}, value);
            const bool right = f.svpbmt == ((value >> 62 & 1) != 0) && f.svadu == ((value >> 61 & 1) != 0);
            return right ? report_.pass() : report_.fail(file_, line, text, "PBMTE or ADUE");
        }
        const bool narrow = cpu.find("rv32") != cpu.npos || cpu.find("u34") != cpu.npos;
        const riscv_xlen xlen = narrow ? riscv_xlen::rv32 : riscv_xlen::rv64;
        const atp_root r = hypervisors ? read_hgatp(value, xlen) : read_satp(value, xlen);
        const std::uint64_t mode = narrow ? value >> 31 : value >> 60;
        const std::uint64_t page = value & (narrow ? ones(21, 0) : ones(43, 0));
        const std::uint64_t id_mask = hypervisors ? (narrow ? 0x7f : 0x3fff) : (narrow ? 0x1ff : 0xffff);
        const bool paged = narrow ? mode == 1 : mode >= 8 && mode <= 10;
        const bool misaligned = hypervisors && (page & 3) != 0;
        const bool beside = hypervisors && (value >> (narrow ? 29 : 58) & 3) != 0;
        atp_error expected = atp_error::none;
        if (mode == 0) {
            expected = value == 0 ? atp_error::bare : atp_error::bare_bits;
        } else if (!paged) {
            expected = atp_error::mode;
        } else if (beside) {
            expected = atp_error::reserved;
        } else if (misaligned) {
            expected = atp_error::root;
        }
        const bool right = r.error == expected && r.id == (value >> (narrow ? 22 : 44) & id_mask) &&
                           r.root == (expected == atp_error::none ? page << 12 : 0);
        if (!right) return report_.fail(file_, line, text, name(r.error));
        // The manual has the hart keep none of these: QEMU 7.2 does.
        if (expected == atp_error::mode) report_.tolerate("reserved-mode-kept");
        if (expected == atp_error::reserved) report_.tolerate("hgatp-reserved-kept");
        if (expected == atp_error::root) report_.tolerate("hgatp-ppn-kept");
        report_.pass();
    }

    const std::string& file_;
    report& report_;
    std::size_t cases_ = 0;
    bool qemu_ = false;
    bool narrow_ = false;
    bool svnapot_ = false;
    mutable std::vector<std::uint64_t> before_;  ///< entries of one stage, while a line is read
};

}  // namespace replay::on_riscv
