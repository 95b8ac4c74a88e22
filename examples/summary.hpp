// SPDX-License-Identifier: BSL-1.0
// Tables counted: entries by level and kind, which rules they break, and what the ageing of a copy finds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <ostream>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ptebits/ageing.hpp>
#include <ptebits/text.hpp>
#include <ptebits/visit.hpp>

#include "colours.hpp"
#include "dump.hpp"
#include "image.hpp"
#include "pages.hpp"
#include "physical_memory.hpp"
#include "progress.hpp"

namespace dump {

/// KVM's tracking of accesses where EPT has no accessed bits.
using kvm_tracking = ptebits::access_tracking<ptebits::runtime_format<ptebits::ept_description>, 54>;

/// Tables by address and level, each once.
using table_list = std::set<std::pair<std::uint64_t, unsigned>>;

/// Shows `look` every entry that is not 0, each table once, and returns how the visit went. Entries are followed
/// also where they break a rule.
template <class Format, class Memory, class Look>
ptebits::visit_summary visit_tables(const Format& format, std::uint64_t root, Memory& memory, table_list& seen,
                                    const Look& look)
{
    using namespace ptebits;
    seen = {{root, format->shape().levels}};
    return visit(
        format, root, {}, memory,
        [&](const auto& e) {
            look(e);
            if (e.is != kind::table) return visit_next::over;
            const std::uint64_t table = address_of(e.entry, e.level, format);
            return seen.emplace(table, format->level_below(e.entry, e.level)).second ? visit_next::into
                                                                                     : visit_next::over;
        },
        nullptr, slot_order{});
}

/// What is counted among the entries of one level and kind; tracked ones count as the kind that
/// they will be again. Young, dirty and software count where no rule is broken: elsewhere these
/// bits have no meaning.
struct tally {
    std::uint64_t present = 0;
    std::uint64_t young = 0;
    std::uint64_t dirty = 0;
    std::uint64_t not_present = 0;  ///< but not 0 either
    std::uint64_t tracked = 0;      ///< of these, the ones whose permissions the host keeps aside
    std::uint64_t broken = 0;
    std::uint64_t software = 0;  ///< software bits in use
};

/// Entries that break the same rule in the same bits.
struct breach {
    std::uint64_t count = 0;
    std::uint64_t address = 0;  ///< of the first
    std::uint64_t entry = 0;
};

struct counts {
    std::uint64_t tables[ptebits::max_levels + 1] = {};
    tally tallies[ptebits::max_levels + 1][ptebits::kind_count];  ///< by level and kind
    std::map<std::tuple<unsigned, ptebits::kind, ptebits::rule, std::uint64_t>, breach, std::greater<>> breaches;
    std::uint64_t missing = 0;  ///< slots that are not in memory
};

template <class By>
bool is_tracked_by(const By& by, std::uint64_t entry)
{
    if constexpr (std::is_same_v<By, kvm_tracking>) return is_tracked(entry, by);
    return false;
}

/// What an entry is, or was before the host tracked it.
template <class Format, class By>
ptebits::kind kind_by(const By& by, std::uint64_t entry, unsigned level, const Format& format)
{
    if constexpr (std::is_same_v<By, kvm_tracking>) {
        if (is_tracked(entry, by)) entry = by.restored(entry);
    }
    return kind_of(entry, level, format);
}

/// `by` is what age() takes: the format, or kvm_tracking.
template <class Format, class By>
counts count(const Format& format, std::uint64_t root, physical_memory& memory, const By& by)
{
    using namespace ptebits;
    counts c;
    table_list seen;
    progress line;
    c.missing = visit_tables(format, root, memory, seen, [&](const auto& e) {
                    line.step("entries");
                    const std::uint64_t entry = e.entry;
                    const kind is = kind_by(by, entry, e.level, format);
                    const layout& l = format->layout_at(e.level, is);
                    tally& n = c.tallies[e.level][static_cast<unsigned>(is)];
                    const bool tracked = is_tracked_by(by, entry);
                    n.tracked += tracked;
                    if (present(entry, format)) {
                        ++n.present;
                    } else {
                        ++n.not_present;
                        if (!tracked) return;
                    }
                    if (const finding found = diagnose(entry, e.level, format)) {
                        ++n.broken;
                        breach& b = c.breaches[{e.level, is, found.broken, found.bits & entry}];
                        if (b.count++ == 0 || e.slot_address < b.address) {
                            b.address = e.slot_address;
                            b.entry = entry;
                        }
                        return;
                    }
                    n.young += (entry & l.mask(role::accessed)) != 0;
                    n.dirty += (entry & l.mask(role::dirty)) != 0;
                    n.software |= entry & l.mask(role::software);
                }).missing;
    for (const auto& [address, level] : seen) ++c.tables[level];
    return c;
}

/// Calls a function with what age() takes for a format.
template <class Format, class Function>
void with_ageing(const Format& format, const Function& call)
{
    if constexpr (requires { format->ignore_pat; }) {
        if (!format->accessed.exists()) return call(ptebits::track_accesses<54>(format));
    }
    call(format);
}

/// The numbers of the bits in a mask.
inline std::string bit_numbers(std::uint64_t mask)
{
    std::string numbers;
    for (unsigned index = 0; index < 64; ++index) {
        if ((mask & ptebits::bit(index).mask()) == 0) continue;
        if (!numbers.empty()) numbers += ' ';
        numbers += std::to_string(index);
    }
    return numbers.empty() ? "-" : numbers;
}

using text_table = std::vector<std::vector<std::string>>;

/// Prints rows of equal length in columns, numbers and short words to the right, the last to the left.
inline void print(std::ostream& out, const text_table& rows)
{
    std::vector<std::size_t> widths(rows.front().size());
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    for (const auto& row : rows) {
        for (std::size_t i = 0; i + 1 < row.size(); ++i) {
            out << "  " << std::string(widths[i] - row[i].size(), ' ') << row[i];
        }
        out << "  " << row.back() << '\n';
    }
}

inline std::string on_off(bool on) { return on ? "on" : "off"; }

inline std::string c_bit(ptebits::optional_bits at)
{
    return at.given ? ", encryption bit " + std::to_string(at.bits().shift()) : "";
}

inline std::string in_words(const ptebits::shadow_features& f)
{
    return "execute disable " + on_off(f.execute_disable) + ", global pages " + on_off(f.global_pages) +
           ", protection keys " + on_off(f.user_keys || f.supervisor_keys) + c_bit(f.encryption_bit);
}

inline std::string in_words(const ptebits::npt_features& f)
{
    return "execute disable taken as on, the host's EFER is not recorded" + c_bit(f.encryption_bit);
}

inline std::string in_words(const ptebits::ept_features& f)
{
    return "accessed and dirty bits " + on_off(f.accessed_dirty) +
           (f.accessed_dirty ? "" : ", the host tracks accesses in bits 54 and 56");
}

inline const char* name_of(const ptebits::shadow_features&) { return "x86"; }
inline const char* name_of(const ptebits::npt_features&) { return "npt"; }
inline const char* name_of(const ptebits::ept_features&) { return "ept"; }

/// Whether bits are some, and all of them such that an address has them where MAXPHYADDR is the widest.
template <class Format>
bool only_of_wider_addresses(std::uint64_t bits, const Format& format)
{
    using features = std::remove_cvref_t<decltype(format->features())>;
    return bits != 0 && (bits & ~ptebits::format_for(features{})->address_mask(1, ptebits::kind::leaf)) == 0;
}

/// What an entry that breaks a rule most likely is, if it is known; else "".
template <class Format>
const char* most_likely(unsigned level, ptebits::kind k, ptebits::rule broken, std::uint64_t bits, const Format& format)
{
    using namespace ptebits;
    // QEMU marks PDPTEs as used, as it does other entries.
    const std::uint64_t accessed = format->layout_at(1, kind::leaf).mask(role::accessed);
    if (format->shape().levels == 3 && level == 3 && bits == accessed) return "an emulator's accessed bit";
    // A page that must fault, and keeps which device is there: by address bits that no CPU has, or rights that none
    // takes.
    const bool marked = only_of_wider_addresses(bits, format) || broken == rule::write_without_read;
    return k == kind::leaf && marked ? "a hypervisor's mark of an emulated device" : "";
}

/// Prints what the tables of an input hold.
template <class Features>
void print_summary(std::ostream& out, input& from, const Features& features, const colours& paint)
{
    using namespace ptebits;
    const auto format = format_for(features);
    with_ageing(format, [&]<class By>(const By& by) {
        const counts c = count(format, from.found().root, from.memory(), by);
        constexpr bool tracks = std::is_same_v<By, kvm_tracking>;
        text_table rows{{"level", "kind", "page", "present", "young", "dirty", "not present"}};
        if (tracks) rows.back().emplace_back("tracked");
        rows.back().insert(rows.back().end(), {"broken", "software bits"});
        out << "tables:";
        for (unsigned level = format->shape().levels; level > 0; --level) {
            out << ' ' << c.tables[level] << " at level " << level << (level > 1 ? "," : "\n");
            for (const kind k : {kind::table, kind::leaf, kind::none}) {
                const tally& n = c.tallies[level][static_cast<unsigned>(k)];
                if (n.present + n.not_present == 0) continue;
                const layout& l = format->layout_at(level, k);
                const auto if_any = [&](role r, std::uint64_t number) {
                    return l.mask(r) != 0 ? std::to_string(number) : "-";
                };
                rows.push_back({std::to_string(level), name(k),
                                k == kind::leaf ? size_of_page(format->shape().page_shift(level)) : "-",
                                std::to_string(n.present), if_any(role::accessed, n.young),
                                if_any(role::dirty, n.dirty), std::to_string(n.not_present)});
                if (tracks) rows.back().push_back(std::to_string(n.tracked));
                rows.back().insert(rows.back().end(), {std::to_string(n.broken), bit_numbers(n.software)});
            }
        }
        print(out, rows);
        for (const auto& [key, b] : c.breaches) {
            const auto& [level, k, broken, bits] = key;
            out << paint.alarm << "broken:" << paint.off << " level " << level << ", " << name(k) << ", "
                << name(broken) << " (" << bit_numbers(bits) << "): " << b.count << ", the first "
                << ptimg::hex(b.entry) << " at " << ptimg::hex(b.address);
            const std::string likely = most_likely(level, k, broken, bits, format);
            out << (likely.empty() ? "" : "; most likely " + likely) << '\n';
        }
        if constexpr (std::is_same_v<Features, shadow_features>) {
            std::uint64_t kept = 0;
            for (const auto& of_level : c.tallies) kept += of_level[static_cast<unsigned>(kind::none)].not_present;
            if (kept != 0) out << "not present: " << kept << " hold something; most likely swapped or guarded pages\n";
        }
        if (c.missing != 0)
            out << paint.alarm << "missing:" << paint.off << ' ' << c.missing
                << " slots of tables lie outside the memory\n";
    });
}

inline void print_summary(std::ostream& out, input& from, const colours& paint = {})
{
    std::visit(
        [&](const auto& features) {
            out << paint.head << from.name() << paint.off << ": "
                << (from.image() ? from.image()->fact("format", "") : name_of(features)) << ", " << features.levels
                << " levels, root " << ptimg::hex(from.found().root) << ", " << features.physical_bits
                << "-bit physical addresses\n"
                << "features: " << in_words(features) << '\n';
            for (const std::string& reason : from.reasons()) out << "by: " << reason << '\n';
            if (from.image()) {
                std::string recorded;
                for (const char* key : {"guest_mode", "stage", "kernel", "emulator", "cpu"}) {
                    const std::string_view value = from.image()->fact(key, "");
                    if (!value.empty()) recorded += std::string(" ") + key + '=' + std::string(value);
                }
                if (!recorded.empty()) out << "recorded:" << recorded << '\n';
            }
            out.flush();  // before progress is shown
            print_summary(out, from, features, paint);
        },
        from.found().features);
}

/// Ages the pages of a copy, twice, and prints how many were young. The input is not changed.
inline void print_ageing(std::ostream& out, input& from)
{
    using namespace ptebits;
    const auto age_copy = [&](const auto& features) {
        const auto format = format_for(features);
        kept_memory copy;
        table_list seen;
        const std::uint64_t root = from.found().root;
        copy.add(root);
        visit_tables(format, root, from.memory(), seen, [&](const auto& e) {
            using word = std::remove_cvref_t<decltype(*e.slot)>;
            copy.add(e.slot_address);
            *copy(e.slot_address, std::type_identity<word>{}) = *e.slot;
        });
        for (const auto& [table, level] : seen) copy.add(table);
        with_ageing(format, [&](const auto& by) {
            // Ageing leaves alone what is not present, but for what the host tracks, and what breaks a rule.
            std::uint64_t pages = 0;
            std::uint64_t young = 0;
            const auto pass = [&](const auto& e) {
                if (kind_by(by, e.entry, e.level, format) != kind::leaf || !legal(e.entry, e.level, format)) return;
                ++pages;
                young += age(*e.slot, by, slot_order{});
            };
            visit_tables(format, root, copy, seen, pass);
            out << "ageing: " << pages << " pages, " << young << " young in the first pass, ";
            young = 0;
            visit_tables(format, root, copy, seen, pass);
            out << young << " in the second\n";
        });
    };
    std::visit(age_copy, from.found().features);
}

}  // namespace dump
