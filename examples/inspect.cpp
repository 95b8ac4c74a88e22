// SPDX-License-Identifier: BSL-1.0
// inspect: what is in page-table images, and what is in one entry.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <variant>
#include <vector>

#include <ptebits/ageing.hpp>
#include <ptebits/text.hpp>
#include <ptebits/visit.hpp>

#include "image.hpp"

namespace {

using namespace ptebits;
using ptimg::hex;

constexpr std::string_view usage =
    "usage: inspect FILE...                    count the entries of page-table images, and age their pages\n"
    "       inspect --entry FORMAT LEVEL HEX   explain one entry; FORMAT is shadow, x86, npt or ept\n"
    "       inspect --help\n"
    "\n"
    "--entry takes the widest format: 4 levels or, at level 5, 5; 52-bit physical addresses; EFER.NXE,\n"
    "CR4.PGE, 1-Gbyte pages, EPT accessed and dirty bits and execute-only pages on; all else off.\n"
    "\n"
    "Exit status: 0, or 2 if a file is not an image or the command line is wrong.\n";

/// Of the formats that can be asked for.
constexpr unsigned highest_level = 5;

/// The size of the pages of a level: 4K, 2M, 1G.
std::string page_size(const shape& s, unsigned level)
{
    const unsigned shift = s.page_shift(level);
    return std::to_string(1U << shift % 10) + "BKMGT"[shift / 10];
}

/// The numbers of the bits in a mask.
std::string bit_numbers(std::uint64_t mask)
{
    std::string numbers;
    for (unsigned index = 0; index < 64; ++index) {
        if ((mask & bit(index).mask()) == 0) continue;
        if (!numbers.empty()) numbers += ' ';
        numbers += std::to_string(index);
    }
    return numbers.empty() ? "-" : numbers;
}

/// Bits as manuals write them: 5:3, or 6.
std::string bit_range(field bits)
{
    char text[8];
    text_writer(text, sizeof text).bit_range(bits).end();
    return text;
}

using text_table = std::vector<std::vector<std::string>>;

/// Prints rows of equal length in columns, numbers and short words to the right, the last to the left.
void print(const text_table& rows)
{
    std::vector<std::size_t> widths(rows.front().size());
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    for (const auto& row : rows) {
        for (std::size_t i = 0; i + 1 < row.size(); ++i) {
            std::cout << "  " << std::string(widths[i] - row[i].size(), ' ') << row[i];
        }
        std::cout << "  " << row.back() << '\n';
    }
}

std::string on_off(bool on) { return on ? "on" : "off"; }

std::string c_bit(optional_bits at) { return at.given ? ", encryption bit " + std::to_string(at.bits().shift()) : ""; }

std::string describe(const shadow_features& f)
{
    return "execute disable " + on_off(f.execute_disable) + ", global pages " + on_off(f.global_pages) +
           ", protection keys " + on_off(f.protection_keys) + c_bit(f.encryption_bit);
}

std::string describe(const npt_features& f)
{
    return "execute disable taken as on, the host's EFER is not recorded" + c_bit(f.encryption_bit);
}

std::string describe(const ept_features& f)
{
    return "accessed and dirty bits " + on_off(f.accessed_dirty) +
           (f.accessed_dirty ? "" : ", the host tracks accesses in bits 54 and 56");
}

/// KVM's tracking of accesses where EPT has no accessed bits.
using kvm_tracking = access_tracking<runtime_format<ept_description>, 54>;

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
    std::uint64_t tables[max_levels + 1] = {};
    tally tallies[max_levels + 1][kind_count];  ///< by level and kind
    std::map<std::tuple<unsigned, kind, rule, std::uint64_t>, breach, std::greater<>> breaches;
    std::uint64_t pages = 0;      ///< leaves that map a page, tracked ones too
    std::uint64_t young[2] = {};  ///< pages, by ageing pass
};

template <class By>
bool is_tracked_by(const By& by, std::uint64_t entry)
{
    if constexpr (std::is_same_v<By, kvm_tracking>) return is_tracked(entry, by);
    return false;
}

/// What an entry is, or was before the host tracked it.
template <class Format, class By>
kind kind_by(const By& by, std::uint64_t entry, unsigned level, const Format& format)
{
    if constexpr (std::is_same_v<By, kvm_tracking>) {
        if (is_tracked(entry, by)) entry = by.restored(entry);
    }
    return kind_of(entry, level, format);
}

/// Shows `look` every entry that is not 0, each table once. Entries are followed also where
/// they break a rule, as the reader of images does.
template <class Format, class Look>
void visit_all(ptimg::image& image, const Format& format, const Look& look)
{
    std::vector<std::uint64_t> words(2 * image.tables.size());
    table_set once(words.data(), words.size());
    const auto show = [&](const auto& e) {
        look(e);
        return visit_next::into;
    };
    visit(format, image.root, {}, image, show, &once);
}

/// `by` is what age() takes: the format, or kvm_tracking.
template <class Format, class By>
counts count(ptimg::image& image, const Format& format, const By& by)
{
    counts c;
    for (const auto& [page, t] : image.tables) ++c.tables[t.level];
    // Ageing leaves alone what is not present, but for what the host tracks, and what breaks a rule.
    const auto is_page = [&](const auto& e) {
        return kind_by(by, e.entry, e.level, format) == kind::leaf && legal(e.entry, e.level, format);
    };
    visit_all(image, format, [&](const auto& e) {
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
        c.pages += is_page(e);
    });
    for (std::uint64_t& pass : c.young) {
        visit_all(image, format, [&](const auto& e) { pass += is_page(e) && age(*e.slot, by); });
    }
    return c;
}

template <class Format, class By>
void report(ptimg::image& image, const Format& format, const By& by)
{
    const counts c = count(image, format, by);
    text_table rows{
        {"level", "kind", "page", "present", "young", "dirty", "not present", "tracked", "broken", "software bits"}};
    std::cout << "tables:";
    for (unsigned level = format->shape().levels; level > 0; --level) {
        std::cout << ' ' << c.tables[level] << " at level " << level << (level > 1 ? "," : "\n");
        for (const kind k : {kind::table, kind::leaf, kind::none}) {
            const tally& n = c.tallies[level][static_cast<unsigned>(k)];
            if (n.present + n.not_present == 0) continue;
            const layout& l = format->layout_at(level, k);
            const auto if_any = [&](role r, std::uint64_t count) {
                return l.mask(r) != 0 ? std::to_string(count) : "-";
            };
            rows.push_back({std::to_string(level), name(k), k == kind::leaf ? page_size(format->shape(), level) : "-",
                            std::to_string(n.present), if_any(role::accessed, n.young), if_any(role::dirty, n.dirty),
                            std::to_string(n.not_present),
                            std::is_same_v<By, kvm_tracking> ? std::to_string(n.tracked) : "-",
                            std::to_string(n.broken), bit_numbers(n.software)});
        }
    }
    print(rows);

    for (const auto& [key, b] : c.breaches) {
        const auto& [level, k, broken, bits] = key;
        std::cout << "broken: level " << level << ", " << name(k) << ", " << name(broken) << " (" << bit_numbers(bits)
                  << "): " << b.count << ", the first " << hex(b.entry) << " at " << hex(b.address) << '\n';
    }

    std::cout << "ageing: " << c.pages << " pages, " << c.young[0] << " young in the first pass, " << c.young[1]
              << " in the second\n";
}

template <class Features>
void report(ptimg::image& image, const Features& features)
{
    std::cout << "features: " << describe(features) << '\n';
    std::cout << "recorded:";
    for (const char* key : {"guest_mode", "stage", "kernel", "emulator", "cpu"}) {
        if (image.facts.contains(key)) std::cout << ' ' << key << '=' << image.fact(key, "");
    }
    std::cout << '\n';
    const auto format = format_for(features);
    if constexpr (std::is_same_v<Features, ept_features>) {
        if (!format->accessed.exists()) return report(image, format, track_accesses<54>(format));
    }
    report(image, format, format);
}

void report(const std::string& file, ptimg::image& image)
{
    std::cout << file << ": " << image.fact("format", "") << ", " << image.fact("levels", "") << " levels, root "
              << hex(image.root) << ", " << image.fact("maxphyaddr", "") << "-bit physical addresses\n";
    std::visit([&](const auto& features) { report(image, features); }, image.features);
}

/// One line: a word and what it says.
void say(std::string_view what, std::string_view text)
{
    std::cout << what << ':' << std::string(16 - what.size(), ' ') << text << '\n';
}

std::string describe(const permissions& p)
{
    std::string text;
    const auto add = [&](bool granted, const char* word) {
        if (!granted) return;
        if (!text.empty()) text += ", ";
        text += word;
    };
    add(p.read, "read");
    add(p.write, "write");
    add(p.execute, "execute");
    add(p.user, "user");
    add(p.user_execute, "user execute");
    return text.empty() ? "none" : text;
}

/// Explains an entry by the rows of the format's description.
template <class Features>
void explain(std::uint64_t entry, unsigned level, const Features& features)
{
    const auto format = format_for(features);
    const kind k = kind_of(entry, level, format);
    const layout& l = format->layout_at(level, k);

    say("entry", hex(entry));
    switch (k) {
    case kind::table:
        say("kind", "refers to a table of level " + std::to_string(level - 1));
        break;
    case kind::leaf:
        say("kind", "leaf of level " + std::to_string(level) + ", " + page_size(format->shape(), level));
        break;
    default:
        say("kind", name(k));
    }
    say("present", present(entry, format) ? "yes" : "no, so the MMU looks at no other bit");
    say("address", hex(address_of(entry, level, format)));
    say("permissions", describe(permissions_of(entry, level, format)));
    const auto flag = [&](role r) {
        return l.mask(r) == 0 ? "has no such bit" : (entry & l.mask(r)) != 0 ? "yes" : "no";
    };
    say("accessed", flag(role::accessed));
    say("dirty", flag(role::dirty));
    say("software bits", bit_numbers(entry & l.mask(role::software)));
    const finding found = diagnose(entry, level, format);
    say("rule", found ? name(found.broken) + (": " + bit_numbers(found.bits & entry)) : "none broken");

    text_table rows{{"name", "bits", "value", "role"}};
    for (unsigned low = 0; low < 64;) {
        const auto part = part_at(low, level, k, format);
        low += part.bits.width();
        const std::uint64_t value = part.bits.get(entry);
        if (value == 0) continue;
        const bool denies = (l.denying & part.bits.mask()) != 0;
        rows.push_back({*part.name() != '\0' ? part.name() : "-", bit_range(part.bits), hex(value),
                        (denies ? "denies " : "") + std::string(name(part.is))});
    }
    print(rows);
}

int wrong(const std::string& problem)
{
    std::cerr << "inspect: " << problem << "; see inspect --help\n";
    return 2;
}

int explain(const std::vector<std::string>& words)
{
    if (words.size() != 4) return wrong("--entry takes FORMAT LEVEL HEX");
    const std::string& format = words[1];
    const auto level = ptimg::number<unsigned>(words[2], 10);
    const bool prefixed = words[3].starts_with("0x");
    const auto entry = ptimg::number<std::uint64_t>(std::string_view(words[3]).substr(prefixed ? 2 : 0), 16);
    if (!level || *level < 1 || *level > highest_level) return wrong("LEVEL is 1 to 5, not '" + words[2] + "'");
    if (!entry) return wrong("HEX is a hexadecimal number of 64 bits, not '" + words[3] + "'");
    const unsigned levels = std::max(*level, 4U);
    if (format == "shadow" || format == "x86") {
        explain(*entry, *level, shadow_features{.levels = levels});
    } else if (format == "npt") {
        explain(*entry, *level, npt_features{.levels = levels});
    } else if (format == "ept") {
        explain(*entry, *level, ept_features{.levels = levels});
    } else {
        return wrong("FORMAT is shadow, x86, npt or ept, not '" + format + "'");
    }
    return 0;
}

int report_files(const std::vector<std::string>& files)
{
    int status = 0;
    bool first = true;
    for (const std::string& file : files) {
        try {
            ptimg::image image = ptimg::read(file);
            if (!first) std::cout << '\n';
            first = false;
            report(file, image);
        } catch (const ptimg::error& e) {
            std::cerr << e.what() << '\n';
            status = 2;
        }
    }
    return status;
}

int run(const std::vector<std::string>& words)
{
    if (words.empty()) return wrong("no file given");
    if (words.front() == "--entry") return explain(words);
    if (words.front() == "--help" && words.size() == 1) {
        std::cout << usage;
        return 0;
    }
    for (const std::string& word : words) {
        if (word.starts_with('-')) return wrong("unknown option '" + word + "'");
    }
    return report_files(words);
}

}  // namespace

int main(int argc, char** argv)
{
    const int status = run({argv + 1, argv + argc});
    if (std::cout.flush()) return status;
    std::cerr << "inspect: cannot write the output\n";
    return 2;
}
