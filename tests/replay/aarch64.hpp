// SPDX-License-Identifier: BSL-1.0
// Recorded accesses of an AArch64 CPU, through one stage and through two: one access, the entries that it met, how it
// ended, and the entries after it; and which values of VTCR_EL2 work. The library's outcome must be the recorded one
// exactly. What QEMU does otherwise than the manual are rules here: each says what becomes of an outcome, or how the
// walk itself differs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <ptebits/aarch64.hpp>
#include <ptebits/aarch64_registers.hpp>

#include "image.hpp"
#include "report.hpp"

namespace replay::on_aarch64 {

using namespace ptebits;

/// The recorded entries, by physical address; zeros elsewhere below the end, and none beyond.
class memory {
public:
    static constexpr std::uint64_t end = std::uint64_t{1} << 40;

    void put(std::uint64_t physical, std::uint64_t entry) { words_[physical] = entry; }
    [[nodiscard]] const std::map<std::uint64_t, std::uint64_t>& words() const { return words_; }

    std::uint64_t* operator()(std::uint64_t physical)
    {
        if (physical >= end) return nullptr;
        const auto found = words_.find(physical);
        if (found != words_.end()) return &found->second;
        elsewhere_ = 0;
        return &elsewhere_;
    }
    /// The same with bits of all entries cleared.
    [[nodiscard]] memory without(std::uint64_t mask) const
    {
        memory m = *this;
        for (auto& [at, entry] : m.words_) entry &= ~mask;
        return m;
    }
    /// What differs from before, by address.
    [[nodiscard]] std::map<std::uint64_t, std::uint64_t> flips(const memory& before) const
    {
        std::map<std::uint64_t, std::uint64_t> all;
        for (const auto& [at, entry] : words_) {
            if (entry != before.words_.at(at)) all[at] = entry ^ before.words_.at(at);
        }
        return all;
    }

private:
    std::map<std::uint64_t, std::uint64_t> words_;
    std::uint64_t elsewhere_ = 0;
};

/// How an access ended.
struct ending {
    aarch64_abort abort;  ///< none: it came to the address
    std::uint64_t address = 0;
    bool address_known = true;
    std::map<std::uint64_t, std::uint64_t> flips;  ///< bits of entries that changed, by the entries' addresses

    [[nodiscard]] std::string words() const
    {
        using ptimg::hex;
        std::string text = abort ? "fault fsc=" + hex(abort.status) + " far=" + hex(abort.address) +
                                       " tgt=" + (abort.stage2 ? "2" : "1") + " hpfar=" + hex(abort.hpfar) +
                                       (abort.stage1_walk ? " s1ptw" : "") + (abort.write ? " wnr" : "")
                                 : "ok pa=" + hex(address);
        for (const auto& [at, bits] : flips) text += ' ' + hex(at) + '^' + hex(bits);
        return text;
    }
    /// Whether the library's ending is the recorded one.
    [[nodiscard]] bool is(const ending& recorded) const
    {
        constexpr std::uint64_t access_flag = 1 << 10;
        if (bool{abort} != bool{recorded.abort}) return false;
        if (!abort) return flips == recorded.flips && (!recorded.address_known || address == recorded.address);
        // After a fault AF may have been set, or not, in entries that the walk met.
        const auto but_af = [](std::map<std::uint64_t, std::uint64_t> all) {
            for (auto at = all.begin(); at != all.end();) {
                at->second &= ~access_flag;
                at = at->second == 0 ? all.erase(at) : std::next(at);
            }
            return all;
        };
        const bool hpfar_counts = abort.stage2 && (abort.stage1_walk || abort.status >> 2 != 3);
        const bool write_counts = !abort.fetch && !abort.stage1_walk;
        return abort.status == recorded.abort.status && abort.address == recorded.abort.address &&
               abort.stage2 == recorded.abort.stage2 && abort.stage1_walk == recorded.abort.stage1_walk &&
               (!hpfar_counts || abort.hpfar == recorded.abort.hpfar) &&
               (!write_counts || abort.write == recorded.abort.write) && but_af(flips) == but_af(recorded.flips);
    }
};

/// One line.
struct recorded_case {
    std::map<std::string, std::string, std::less<>> said;
    aarch64_access what;
    aarch64_controls controls;
    std::uint64_t address = 0;
    memory entries;
    ending ended;
};

class vector_file {
public:
    vector_file(const std::string& file, report& to) : file_(file), report_(to) {}

    /// Whether a file is one of these.
    [[nodiscard]] static bool is_one(const std::string& file)
    {
        std::ifstream in(file);
        std::string first;
        return std::getline(in, first) && first.starts_with("# aarch64 ");
    }

    void replay()
    {
        for_each_line(file_, [this](std::string_view text, std::size_t line) {
            if (text.starts_with('#')) return take_header(text);
            words w(file_, line, text);
            ++cases_;
            recorded_case c = read(w);
            if (mode_ == "s2setup") return take_setup(w, c, text, line);
            take_case(w, c, text, line);
        });
        if (cases_ == 0) malformed(file_, 1, "no case in the file");
    }

private:
    void take_header(std::string_view text)
    {
        const auto after = [text](std::string_view key) {
            const std::size_t at = text.find(key);
            return at == text.npos ? std::string_view{} : text.substr(at + key.size());
        };
        if (const std::string_view m = after("mode="); !m.empty()) {
            mode_ = m.substr(0, m.find(' '));
            cpu_.lpa2 = !after("lpa2=1").empty();
        }
        if (const std::string_view id = after("id_aa64mmfr1="); !id.empty()) {
            const std::string_view number = id.substr(0, id.find(' '));
            const auto mmfr1 = numbers::parse<std::uint64_t>(number, 16);
            cpu_.hardware_access = mmfr1.value_or(0) % 16 >= 1;
            cpu_.hardware_dirty = mmfr1.value_or(0) % 16 >= 2;
            cpu_.execute_by_level = (mmfr1.value_or(0) >> 28) % 16 != 0;
        }
        if (const std::string_view bits = after("pa_bits="); !bits.empty()) {
            cpu_.physical_bits = numbers::parse<unsigned>(bits.substr(0, 2), 10).value_or(0);
            cpu_.large_addresses = cpu_.physical_bits == 52;
            // Only `max` has these.
            cpu_.small_tables = cpu_.granule_16k = cpu_.physical_bits == 52;
        }
    }

    // ---- a line

    [[nodiscard]] static std::uint64_t number(const words& w, const recorded_case& c, std::string_view key)
    {
        const auto found = c.said.find(key);
        if (found == c.said.end()) w.fail("no " + std::string(key));
        return w.hexadecimal(found->second);
    }
    [[nodiscard]] static std::string_view text_of(const recorded_case& c, std::string_view key)
    {
        const auto found = c.said.find(key);
        return found == c.said.end() ? std::string_view{} : std::string_view(found->second);
    }
    [[nodiscard]] static bool flag(const recorded_case& c, std::string_view key) { return text_of(c, key) == "1"; }

    [[nodiscard]] recorded_case read(words w) const
    {
        recorded_case c;
        for (std::string_view word = w.word(); !word.empty(); word = w.word()) {
            if (word == "->") {
                c.said["outcome"] = w.word();
                continue;
            }
            const std::size_t equals = word.find('=');
            if (equals == word.npos) w.fail("no value");
            c.said[std::string(word.substr(0, equals))] = std::string(word.substr(equals + 1));
        }
        const std::string_view how = text_of(c, "outcome");
        if (how != "ok" && how != "fault") w.fail("no such outcome");
        if (mode_ == "s2setup") return c;
        const std::string_view letter = text_of(c, "acc");
        using enum aarch64_operation;
        if (letter != "R" && letter != "W" && letter != "X") w.fail("no such access");
        c.what.what = letter == "R" ? aarch64_operation::read : letter == "W" ? write : fetch;
        c.what.user = text_of(c, "el") == "0";
        c.controls = {.privileged_never = flag(c, "pan"), .write_execute_never = flag(c, "wxn")};
        c.address = number(w, c, mode_ == "s2" ? "ipa" : "va");
        read_ending(w, c);
        return c;
    }
    static void read_ending(const words& w, recorded_case& c)
    {
        ending& e = c.ended;
        if (text_of(c, "outcome") == "ok") {
            e.address_known = text_of(c, "pa") != "?";
            if (e.address_known) e.address = number(w, c, "pa");
            return;
        }
        const std::uint64_t esr = number(w, c, "esr");
        using fields = aarch64_syndrome_fields;
        e.abort = {.status = static_cast<unsigned>(number(w, c, "fsc")),
                   .fetch = c.what.fetches(),
                   .write = !c.what.fetches() && fields::write.get(esr) != 0,
                   .stage2 = text_of(c, "tgt") == "2",
                   .stage1_walk = text_of(c, "tgt") == "2" && fields::stage1_walk.get(esr) != 0,
                   .address = number(w, c, "far"),
                   .hpfar = text_of(c, "hpfar").empty() ? 0 : number(w, c, "hpfar"),
                   .exists = true};
        if (fields::status.get(esr) != e.abort.status) w.fail("ESR and status differ");
    }

    /// The entries of one stage, put where the manual has them: nothing here asks the library.
    template <class Features>
    static void place_entries(const words& w, recorded_case& c, const Features& f, std::uint64_t root, int start)
    {
        const unsigned g = f.granule;
        const auto shift = [g](int level) { return g + static_cast<unsigned>(3 - level) * (g - 3); };
        std::uint64_t table = root;
        for (int level = start; level <= 3; ++level) {
            const std::string name = level < 0 ? "m1" : std::to_string(level);
            const std::string_view before = text_of(c, "e" + name);
            if (before.empty() || before == "-") break;
            const std::uint64_t low = c.address >> shift(level);
            const unsigned index_bits =
                level == start ? (f.input_bits > shift(level) ? f.input_bits - shift(level) : 1) : g - 3;
            const std::uint64_t at = table + 8 * (low & ones(index_bits - 1, 0));
            const std::uint64_t entry = w.hexadecimal(before);
            c.entries.put(at, entry);
            const std::uint64_t after = number(w, c, "a" + name);
            if (after != entry) c.ended.flips[at] = after ^ entry;
            table = entry & ones(f.large_addresses && g != 16 ? 49 : 47, g);
            // The emulator placed the next one by bits 51:48 or 51:50 only where output addresses have them.
            if (f.physical_bits == 52) table |= g == 16 ? (entry & ones(15, 12)) << 36 : (entry & ones(9, 8)) << 42;
        }
    }

    /// A list of numbers joined by colons, itself joined by commas; - is an empty one. Calls with the last two of each.
    template <class Call>
    static void for_each_pair(const words& w, std::string_view list, Call call)
    {
        while (!list.empty() && list != "-") {
            const std::string_view item = list.substr(0, list.find(','));
            list.remove_prefix(item.size() == list.size() ? item.size() : item.size() + 1);
            const std::size_t second = item.rfind(':');
            if (second == item.npos) w.fail("no pair");
            const std::size_t first = item.substr(0, second).rfind(':');
            const std::size_t begin = first == item.npos ? 0 : first + 1;
            call(w.hexadecimal(item.substr(begin, second - begin)), w.hexadecimal(item.substr(second + 1)));
        }
    }

    // ---- the library

    /// A walk of one stage, by a format known at run time and, if it is compiled, by constants.
    template <class Features, class Controls>
    [[nodiscard]] ending walked(const recorded_case& c, const Features& f, std::uint64_t root, const Controls& controls,
                                const memory& met)
    {
        ending e = one_walk(format_for(f), c, root, controls, met, reached_);
        twin_ = false;
        with_constants(f, [&](const auto& constant) {
            walk_result other;
            const ending twin = one_walk(constant, c, root, controls, met, other);
            const bool same = reached_.fault == other.fault && reached_.steps == other.steps &&
                              reached_.allowed == other.allowed && reached_.bits == other.bits &&
                              reached_.page_shift == other.page_shift && e.words() == twin.words();
            twin_ = true;
            if (!same) e.address = ~std::uint64_t{0}, e.abort = {}, e.address_known = false;
        });
        return e;
    }
    template <class Format, class Controls>
    [[nodiscard]] static ending one_walk(const Format& format, const recorded_case& c, std::uint64_t root,
                                         const Controls& controls, const memory& met, walk_result& r)
    {
        memory own = met;
        ending e;
        r = walk(format, root, c.address, c.what, controls, own);
        e.abort = abort_of(r, c.address, c.what, format);
        e.address = r.address;
        e.flips = own.flips(met);
        return e;
    }
    template <class Call>
    static void with_constants(const aarch64_stage1_features& f, Call call)
    {
        using features = aarch64_stage1_features;
        constexpr features by_fault{.access_flag = false, .dirty_state = false};
        constexpr features of_16k{.granule = 14, .input_bits = 47, .access_flag = false, .dirty_state = false};
        constexpr features of_64k{
            .granule = 16, .physical_bits = 52, .access_flag = false, .dirty_state = false, .large_addresses = true};
        constexpr features lpa2{
            .input_bits = 52, .physical_bits = 52, .access_flag = false, .dirty_state = false, .large_addresses = true};
        call_if<aarch64_stage1<features{}>>(f, call);
        call_if<aarch64_stage1<by_fault>>(f, call);
        call_if<aarch64_stage1<of_16k>>(f, call);
        call_if<aarch64_stage1<of_64k>>(f, call);
        call_if<aarch64_stage1<lpa2>>(f, call);
    }
    template <class Call>
    static void with_constants(const aarch64_el2_features& f, Call call)
    {
        call_if<aarch64_el2<aarch64_el2_features{}>>(f, call);
        call_if<aarch64_el2<aarch64_el2_features{.access_flag = false, .dirty_state = false}>>(f, call);
    }
    template <class Call>
    static void with_constants(const aarch64_stage2_features& f, Call call)
    {
        using features = aarch64_stage2_features;
        constexpr features by_fault{.levels = 3, .input_bits = 40, .access_flag = false, .dirty_state = false};
        constexpr features of_64k{.granule = 16,
                                  .levels = 2,
                                  .input_bits = 45,
                                  .access_flag = false,
                                  .dirty_state = false,
                                  .large_addresses = true};
        call_if<aarch64_stage2<features{.levels = 3, .input_bits = 40}>>(f, call);
        call_if<aarch64_stage2<by_fault>>(f, call);
        call_if<aarch64_stage2<of_64k>>(f, call);
    }
    template <auto& Constant, class Features, class Call>
    static void call_if(const Features& f, Call call)
    {
        if (Constant->features() == f) call(Constant);
    }

    void take_case(const words& w, recorded_case& c, std::string_view text, std::size_t line)
    {
        if (mode_ == "s12") return take_both(w, c, text, line);
        if (mode_ == "s2") {
            const auto vtcr = read_vtcr_el2(number(w, c, "vtcr"), cpu_);
            const auto top = static_cast<int>(4 - vtcr.features.levels);
            return take_one(w, c, vtcr.features, vtcr.error, number(w, c, "vttbr"), aarch64_stage2_paging::controls{},
                            top, text, line);
        }
        if (mode_ == "el2") {
            const auto tcr = read_tcr_el2(number(w, c, "tcr"), cpu_);
            return take_one(w, c, tcr.features, tcr.error, number(w, c, "ttbr"), c.controls, start_of(tcr.features),
                            text, line);
        }
        const auto tcr = read_tcr_el1(number(w, c, "tcr"), false, cpu_);
        take_one(w, c, tcr.features, tcr.error, number(w, c, "ttbr"), c.controls, start_of(tcr.features), text, line);
    }
    /// Where stage 1 starts, as the manual has it.
    template <class Features>
    [[nodiscard]] static int start_of(const Features& f)
    {
        return 3 - static_cast<int>((f.input_bits - 1 - f.granule) / (f.granule - 3));
    }

    template <class Features, class Controls>
    void take_one(const words& w, recorded_case& c, const Features& f, aarch64_register_error error, std::uint64_t ttbr,
                  const Controls& controls, int start, std::string_view text, std::size_t line)
    {
        if (error != aarch64_register_error::none) {
            ending e;
            e.abort = c.ended.abort;
            e.abort.status = 4;
            e.abort.exists = true;
            return judge(c, e, text, line, [](auto) { return std::pair<std::string_view, std::optional<ending>>{}; });
        }
        const std::uint64_t root = aarch64_root(ttbr, f);
        place_entries(w, c, f, root, start);
        const ending e = walked(c, f, root, controls, c.entries);
        const walk_result r = reached_;
        report_.twins += twin_;
        judge(c, e, text, line, [&](unsigned n) -> std::pair<std::string_view, std::optional<ending>> {
            const std::uint64_t last = r.steps == 0 ? 0 : r.last_entry();
            Features other = f;
            switch (n) {
            case 0:  // open in the manual: bits 51:48 where output addresses are narrower
                if (f.granule != 16 || r.fault != fault_kind::address_size) return {};
                return {"64k-bits15-12", walked(c, f, root, controls, c.entries.without(ones(15, 12)))};
            case 1:  // bits 51:50 of LPA2's addresses are not looked at
                if (f.granule == 16 || !f.large_addresses || r.fault != fault_kind::address_size) return {};
                return {"lpa2-bits9-8", walked(c, f, root, controls, c.entries.without(ones(9, 8)))};
            case 2:  // of a fetch the dirty state does not count
                if (!c.what.fetches() || !f.dirty_state || r.fault != fault_kind::protection) return {};
                other.dirty_state = false;
                return {"dbm-fetch", walked(c, other, root, controls, c.entries)};
            case 3: {  // address bits below a block, above the output size
                const std::uint64_t below = ones(f.granule + (r.level == 0 ? 0 : r.level - 1) * (f.granule - 3) - 1, 0);
                if (r.level < 2 || (last & below & ~ones(f.physical_bits - 1, 0) & ones(47, 0)) == 0) return {};
                ending told = e;
                told.abort = c.ended.abort;
                told.abort.status = static_cast<unsigned>(4 - r.level);
                told.abort.exists = true;
                told.flips.clear();
                return {"block-low-bits", told};
            }
            default:
                return {"", {}};
            }
        });
    }

    void take_both(const words& w, recorded_case& c, std::string_view text, std::size_t line)
    {
        const auto tcr = read_tcr_el1(number(w, c, "tcr"), false, cpu_);
        const auto vtcr = read_vtcr_el2(number(w, c, "vtcr"), cpu_);
        if (!tcr || !vtcr) w.fail("a register that no walk goes by");
        for (const std::string_view list : {"s1", "s2"}) {
            for_each_pair(w, text_of(c, list),
                          [&](std::uint64_t at, std::uint64_t entry) { c.entries.put(at, entry); });
        }
        for_each_pair(w, text_of(c, "ch"), [&](std::uint64_t at, std::uint64_t entry) {
            if (!c.entries.words().contains(at)) w.fail("an entry changed that was not there");
            c.ended.flips[at] = entry ^ c.entries.words().at(at);
        });
        const auto by = [&](const aarch64_stage1_features& first, const aarch64_stage2_features& second) {
            memory own = c.entries;
            const auto guest = format_for(first);
            const auto host = format_for(second);
            ending e;
            both_ = nested_walk(guest, aarch64_root(number(w, c, "ttbr"), first), host,
                                aarch64_root(number(w, c, "vttbr"), second), c.address, c.what, {c.controls, {}}, own);
            e.abort = abort_of(both_, c.address, c.what, guest, host);
            e.address = both_.address();
            e.flips = own.flips(c.entries);
            return e;
        };
        const ending e = by(tcr.features, vtcr.features);
        judge(c, e, text, line, [&](unsigned n) -> std::pair<std::string_view, std::optional<ending>> {
            if (n == 0 && c.what.fetches() && tcr.features.dirty_state) {
                aarch64_stage1_features other = tcr.features;
                other.dirty_state = false;
                return {"dbm-fetch", by(other, vtcr.features)};
            }
            if (n <= 1) return {};
            return {"", {}};
        });
    }

    void take_setup(const words& w, const recorded_case& c, std::string_view text, std::size_t line)
    {
        const auto r = read_vtcr_el2(number(w, c, "vtcr"), cpu_);
        if (!cpu_.granule_16k && text_of(c, "gran") == "16") return report_.tolerate("16k-not-there");
        const bool ok = text_of(c, "outcome") == "ok";
        const std::string start = std::to_string(4 - static_cast<int>(r.features.levels));
        if (ok == bool{r} && (!ok || text_of(c, "start") == start)) return report_.pass();
        // Constrained unpredictable: sizes out of range translate.
        if (ok && r.error == aarch64_register_error::input_size) return report_.tolerate("setup-t0sz-open");
        // The emulator goes by PS where the CPU's PARange counts.
        aarch64_cpu narrow = cpu_;
        if (r.features.physical_bits < narrow.physical_bits) narrow.physical_bits = r.features.physical_bits;
        const auto by_ps = read_vtcr_el2(number(w, c, "vtcr"), narrow);
        if (!ok && r && by_ps.error == aarch64_register_error::input_size) return report_.tolerate("setup-ipa-size");
        // Of top tables larger than 64 Kbytes the first entry was found absent.
        const shape s(aarch64_description::shape_of(aarch64_features::of(aarch64_stage::second, r.features)));
        const bool absent = !ok && number(w, c, "fsc") == 8 - r.features.levels;
        if (r && absent && s.table_shift(s.levels) > 16) return report_.tolerate("setup-start-level");
        report_.fail(file_, line, text, r ? "ok start=" + start : std::string(name(r.error)));
    }

    /// Compares, with the rules that apply. `rule(n)`: the name of a rule and the ending by it; no name and no ending
    /// where it does not apply, an empty name with none left.
    template <class Rule>
    void judge(const recorded_case& c, const ending& e, std::string_view text, std::size_t line, Rule rule)
    {
        if (e.is(c.ended)) return report_.pass();
        for (unsigned n = 0; n < 8; ++n) {
            const auto [name, by_rule] = rule(n);
            if (by_rule && by_rule->is(c.ended)) return report_.tolerate(name);
        }
        report_.fail(file_, line, text, e.words());
    }

    const std::string& file_;
    report& report_;
    std::string mode_;
    aarch64_cpu cpu_;
    std::uint64_t cases_ = 0;
    walk_result reached_;
    bool twin_ = false;
    nested_result<aarch64_access> both_;
};

}  // namespace replay::on_aarch64
