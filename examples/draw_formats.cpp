// SPDX-License-Identifier: BSL-1.0
// draw_formats: writes docs/formats.md and its diagrams from the rows of the formats, or
// compares the files that are there with what it would write.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <ptebits/formats/aarch64.hpp>
#include <ptebits/formats/amdvi.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/riscv.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/formats/vtd.hpp>
#include <ptebits/text.hpp>

#include "features.hpp"

namespace {

using namespace ptebits;
using files = std::map<std::string, std::string>;  ///< contents by path

/// Drawn for this width, which the diagrams of x86's formats call M.
constexpr unsigned width_m = 46;

/// A part of an entry as it is drawn.
struct cell {
    field bits;
    role is = role::none;
    std::string mnemonic = {};
    std::uint64_t value = 0;     ///< of bits that have one value
    bool denies = false;         ///< a permission that is denied by a set bit
    unsigned address_bit = 0;    ///< address bits that stand elsewhere: the lowest of them
    std::string only_with = {};  ///< of a part that a feature switches
    role otherwise = role::none;

    bool operator==(const cell&) const = default;
};

/// Entries that are the same at several levels.
struct drawing {
    std::vector<unsigned> levels;  ///< descending
    kind in = kind::leaf;
    std::vector<cell> cells;  ///< from bit 0 up
    bool has_m = true;        ///< the physical-address width is called M
};

template <class Format>
role role_of_bit(unsigned index, unsigned level, kind k, const Format& format)
{
    return part_at(index, level, k, format).is;
}

/// The same features with another value of one of them: a switch turned, a number that is 0 where
/// there is none taken away. Features of which that cannot be said stay.
template <class Features, class Member>
Features with_another(Features features, const Member& named)
{
    if (const auto* flag = std::get_if<bool Features::*>(&named)) features.** flag = !(features.**flag);
    if (const auto* number = std::get_if<unsigned Features::*>(&named)) features.** number = 0;
    return features;
}

/// The parts of an entry. A part is switched by a feature if it changes role with any.
template <class Features>
std::vector<cell> cells_of(unsigned level, kind k, const Features& features)
{
    const auto format = format_for(features);
    std::vector<cell> cells;
    for (unsigned low = 0; low < format->shape().entry_bits;) {
        const auto part = part_at(low, level, k, format);
        const layout& l = format->layout_at(level, k);
        cell c{.bits = part.bits, .is = part.is, .mnemonic = part.name()};
        if (part.is == role::fixed || part.is == role::written) c.value = part.bits.get(l.value);
        c.denies = (l.denying & part.bits.mask()) != 0;
        if (part.is == role::address && part.from->address_shift != 0) {
            c.address_bit = part.from->address_shift + part.bits.shift() - part.from->bits.shift();
        }
        for (const auto& f : named::features_of(features)) {
            const auto switched = format_for(with_another(features, f.member));
            const bool exists = switched.exists(level, k) || (k == kind::none && switched.wrong().what == defect::none);
            if (!exists || role_of_bit(low, level, k, switched) == part.is) continue;
            c.only_with = part.from != nullptr ? part.from->when.text : '`' + std::string(f.name) + '`';
            c.otherwise = role_of_bit(low, level, k, switched);
        }
        low += part.bits.width();
        // Neighbours without a name are told apart by their role alone.
        const auto plain = [](const cell& x) {
            return x.mnemonic.empty() && x.only_with.empty() && x.address_bit == 0;
        };
        if (!cells.empty() && plain(c) && plain(cells.back()) && c.is == cells.back().is) {
            cells.back().bits = field{c.bits | cells.back().bits};
        } else {
            cells.push_back(c);
        }
    }
    return cells;
}

/// All entries of a format, tables first, from the top level down; then the absent ones, which are
/// the same at every level.
template <class Features>
std::vector<drawing> drawings_of(const Features& features)
{
    const auto format = format_for(features);
    std::vector<drawing> all;
    for (const kind k : {kind::table, kind::leaf, kind::run}) {
        for (unsigned level = format->shape().levels; level > 0; --level) {
            if (!format->exists(level, k)) continue;
            std::vector<cell> cells = cells_of(level, k, features);
            const bool same = !all.empty() && all.back().in == k && all.back().cells == cells;
            if (same && k == kind::table) {
                all.back().levels.push_back(level);
            } else {
                all.push_back({{level}, k, std::move(cells), features.physical_bits == width_m});
            }
        }
    }
    all.push_back({{1}, kind::none, cells_of(1, kind::none, features), features.physical_bits == width_m});
    return all;
}

// ---- words

/// A bit number, or M for the physical-address width.
std::string bit_number(unsigned index, bool upper_end, bool has_m)
{
    if (!has_m) return std::to_string(index);
    if (upper_end && index + 1 == width_m) return "M-1";
    if (!upper_end && index == width_m) return "M";
    return std::to_string(index);
}

unsigned high(field f) { return f.shift() + f.width() - 1; }

std::string bit_numbers(field f, bool has_m)
{
    if (f.width() == 1) return std::to_string(f.shift());
    return bit_number(high(f), true, has_m) + ':' + bit_number(f.shift(), false, has_m);
}

std::string role_name(const cell& c, kind k)
{
    std::string text = c.denies ? "denies " : "";
    text += name(c.is);
    if (c.is == role::fixed || c.is == role::written) text += ": " + std::to_string(c.value);
    if (c.is == role::address && k == kind::none) text += " outside memory";
    if (c.address_bit != 0) {
        text += " bits " + std::to_string(c.address_bit + c.bits.width() - 1) + ':' + std::to_string(c.address_bit);
    }
    return text;
}

std::string page_size(unsigned page_shift)
{
    char buffer[8];
    text_writer(buffer, sizeof buffer).page_size(page_shift).end();
    return buffer;
}

template <class Format>
std::string title_of(const drawing& d, const Format& format)
{
    if (d.in == kind::none) return "Absent entries";
    static constexpr const char* entry_names[max_levels + 1] = {"", "PTE", "PDE", "PDPTE", "PML4E", "PML5E"};
    // For entries of all levels.
    const bool one_name = format->manual_level(1) != 1 || format->uses(role::next_level);
    std::string names = !one_name ? "" : format->uses(role::next_level) && d.in == kind::table ? "PDE" : "PTE";
    std::string numbers;
    for (const unsigned level : d.levels) {
        if (!one_name) names += (names.empty() ? "" : ", ") + std::string(entry_names[level]);
        numbers += (numbers.empty() ? "" : ", ") + std::to_string(format->manual_level(level));
    }
    const std::string size = page_size(format->shape().page_shift(d.levels.front(), d.in));
    return names + (d.levels.size() > 1 ? " (levels " : " (level ") + numbers + "): " +
           (d.in == kind::table ? "refers to a table"
            : d.in == kind::run ? (format->uses_sizes() ? "one of those that map a page of a coded size"
                                                        : "one of a run that maps " + size)
                                : "maps a " + size + " page");
}

// ---- diagrams

/// Neutral colours: cells bring their own background, and what stands outside is grey.
const char* fill_of(role r)
{
    switch (r) {
    case role::fixed:
    case role::written:
        return "#86cfc6";
    case role::read:
    case role::write:
    case role::execute:
    case role::user_execute:
    case role::user:
        return "#b9e2bd";
    case role::address:
        return "#bcd7f6";
    case role::memory_type:
        return "#f5dca6";
    case role::next_level:
    case role::attribute:
        return "#dccdf1";
    case role::accessed:
    case role::dirty:
    case role::dirty_modifier:
        return "#f7c1b9";
    case role::software:
        return "#eceff2";
    case role::none:
    case role::reserved:
    case role::beyond:
        break;
    }
    return "#a3a9b1";
}

constexpr unsigned cell_width = 28;
constexpr unsigned cell_height = 36;
constexpr unsigned margin = 8;
constexpr unsigned label_height = 16;
constexpr unsigned line_height = label_height + cell_height + 12;
constexpr unsigned line_bits = 32;

/// Widths of a character, in tenths of a pixel.
constexpr std::size_t name_width = 75;
constexpr std::size_t narrow_width = 63;

/// What stands in a box: the mnemonic or the role if it fits, else the value that the bits must
/// have, 0 for reserved ones too, and - for software.
std::string label_of(const cell& c, kind k, unsigned box_width)
{
    if (!c.mnemonic.empty()) return c.mnemonic;
    std::string text = role_name(c, k);
    if (text.size() * narrow_width <= std::size_t{box_width} * 10) return text;
    return c.is == role::software ? "-" : std::to_string(c.value);
}

void draw_text(std::ostream& out, unsigned x, unsigned y, const char* style, std::string_view anchor,
               std::string_view text)
{
    out << "<text x=\"" << x << "\" y=\"" << y << "\" class=\"" << style << "\" text-anchor=\"" << anchor << "\">"
        << text << "</text>\n";
}

void draw_rectangle(std::ostream& out, unsigned x, unsigned y, unsigned width, unsigned height, const char* fill)
{
    out << "<rect x=\"" << x << "\" y=\"" << y << "\" width=\"" << width << "\" height=\"" << height << "\" fill=\""
        << fill << "\" stroke=\"#6e7681\"/>\n";
}

/// The sign of a cell that is switched: dashes along its upper and lower edge.
void draw_dashes(std::ostream& out, unsigned x, unsigned y, unsigned width, unsigned height)
{
    for (const unsigned at : {y + 4, y + height - 4}) {
        out << "<path d=\"M" << x + 4 << ' ' << at << 'h' << width - 8
            << "\" stroke=\"#16191d\" stroke-width=\"1.5\" stroke-dasharray=\"4 4\"/>\n";
    }
}

void draw_box(std::ostream& out, unsigned x, unsigned y, unsigned width, const cell& c, kind k)
{
    draw_rectangle(out, x, y, width, cell_height, fill_of(c.is));
    if (!c.only_with.empty()) draw_dashes(out, x, y, width, cell_height);
    const std::string label = label_of(c, k, width);
    draw_text(out, x + width / 2, y + cell_height / 2 + 4,
              label.size() * name_width > std::size_t{width} * 10 ? "narrow" : "name", "middle", label);
}

std::string svg_begin(unsigned width, unsigned height, std::string_view title)
{
    std::ostringstream out;
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width << "\" height=\"" << height
        << "\" viewBox=\"0 0 " << width << ' ' << height << "\" role=\"img\">\n<title>" << title
        << "</title>\n<style>\n"
           "text { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; }\n"
           ".name { font-size: 12px; fill: #16191d; }\n"
           ".narrow { font-size: 10px; fill: #16191d; }\n"
           ".bit { font-size: 11px; fill: #7a818b; }\n"
           ".word { font-size: 12px; fill: #7a818b; }\n"
           "</style>\n";
    return out.str();
}

/// The diagram of one entry: lines of 32 bits, the high ones first.
std::string svg_of(const drawing& d, unsigned entry_bits, std::string_view title)
{
    const unsigned lines = entry_bits / line_bits;
    std::ostringstream out;
    out << svg_begin(line_bits * cell_width + 2 * margin, lines * line_height, title);
    for (unsigned line = 0; line < lines; ++line) {
        const unsigned first = (lines - 1 - line) * line_bits;  // the lowest bit of the line
        const unsigned top = line * line_height + label_height;
        for (auto c = d.cells.rbegin(); c != d.cells.rend(); ++c) {
            const field here{c->bits.mask() & ones(first + line_bits - 1, first)};
            if (!here.exists()) continue;
            const unsigned left = margin + (first + line_bits - 1 - high(here)) * cell_width;
            const unsigned width = here.width() * cell_width;
            draw_box(out, left, top, width, *c, d.in);
            if (here.width() == 1) {
                draw_text(out, left + width / 2, top - 4, "bit", "middle", bit_number(here.shift(), false, d.has_m));
            } else {
                draw_text(out, left + 2, top - 4, "bit", "start", bit_number(high(here), true, d.has_m));
                draw_text(out, left + width - 2, top - 4, "bit", "end", bit_number(here.shift(), false, d.has_m));
            }
        }
    }
    out << "</svg>\n";
    return out.str();
}

/// What the colours and the dashes mean.
std::string svg_legend()
{
    static constexpr struct {
        role is;
        const char* text;
    } entries[] = {
        {role::fixed, "fixed or written: one value"},
        {role::read, "permissions"},
        {role::address, "address"},
        {role::memory_type, "memory type"},
        {role::attribute, "attributes"},
        {role::accessed, "accessed, dirty"},
        {role::software, "-: software, ignored"},
        {role::reserved, "0: reserved"},
    };
    constexpr unsigned columns = 3;
    constexpr unsigned column_width = 300;
    constexpr unsigned row_height = 28;
    std::ostringstream out;
    out << svg_begin(line_bits * cell_width + 2 * margin, 3 * row_height + margin, "The colours of the diagrams");
    unsigned n = 0;
    const auto swatch = [&](role r, const char* text) {
        const unsigned x = margin + n % columns * column_width;
        const unsigned y = margin + n / columns * row_height;
        draw_rectangle(out, x, y, 28, 18, fill_of(r));
        draw_text(out, x + 36, y + 13, "word", "start", text);
        if (n++ == std::size(entries)) draw_dashes(out, x, y, 28, 18);
    };
    for (const auto& e : entries) swatch(e.is, e.text);
    swatch(role::software, "dashes: by a feature");
    out << "</svg>\n";
    return out.str();
}

// ---- the document

void write_table(std::ostream& out, const drawing& d)
{
    out << "| bits | name | role | only with | else |\n|---:|---|---|---|---|\n";
    for (const cell& c : d.cells) {
        out << "| " << bit_numbers(c.bits, d.has_m) << " | " << c.mnemonic << " | " << role_name(c, d.in) << " | "
            << c.only_with << " | " << (c.only_with.empty() ? "" : name(c.otherwise)) << " |\n";
    }
}

/// Each entry of a format: heading, diagram, table.
template <class Features>
void write_entries(std::ostream& out, files& all, const std::string& prefix, const Features& features)
{
    const auto format = format_for(features);
    for (const drawing& d : drawings_of(features)) {
        std::string file = "formats/" + prefix;
        if (d.in != kind::none) {
            for (const unsigned level : d.levels) file += '-' + std::to_string(format->manual_level(level));
        }
        file += std::string("-") + name(d.in) + ".svg";
        const std::string title = title_of(d, format);
        all[file] = svg_of(d, format->shape().entry_bits, title);
        out << "### " << title << "\n\n![" << title << "](" << file << ")\n\n";
        write_table(out, d);
        out << '\n';
    }
}

template <class Features>
void write_features(std::ostream& out, const char* type)
{
    const Features defaults;
    out << "Members of `" << type << "`, with what they are if not given:";
    const char* separator = " ";
    for (const auto& f : named::features_of(defaults)) {
        out << separator << '`' << f.name << "` ";
        separator = ", ";
        if (const auto* number = std::get_if<unsigned Features::*>(&f.member)) out << defaults.**number;
        if (const auto* flag = std::get_if<bool Features::*>(&f.member)) out << (defaults.**flag ? "true" : "false");
        if (std::holds_alternative<optional_bits Features::*>(f.member)) out << "none";
    }
    out << ".\n\n";
}

/// Bits whose role in nested entries is not the one that they have in ordinary ones.
template <class Ordinary, class Nested>
void write_differences(std::ostream& out, const Ordinary& ordinary_features, const Nested& nested_features,
                       const char* heads)
{
    struct difference {
        field bits;
        role was, is;
        bool operator==(const difference&) const = default;
    };
    const auto ordinary = format_for(ordinary_features);
    const auto nested = format_for(nested_features);
    out << "| entry | bits | " << heads << " |\n|---|---:|---|---|\n";
    for (const drawing& d : drawings_of(ordinary_features)) {
        std::vector<std::pair<std::vector<unsigned>, std::vector<difference>>> groups;
        for (const unsigned level : d.levels) {
            std::vector<difference> found;
            for (unsigned low = 0; low < 64;) {
                const auto a = part_at(low, level, d.in, ordinary);
                const auto b = part_at(low, level, d.in, nested);
                const field here{a.bits.mask() & b.bits.mask()};
                if (a.is != b.is) found.push_back({here, a.is, b.is});
                low += here.width();
            }
            if (groups.empty() || groups.back().second != found) groups.push_back({{}, found});
            groups.back().first.push_back(level);
        }
        for (const auto& [levels, found] : groups) {
            for (const difference& f : found) {
                out << "| " << title_of({levels, d.in, {}}, ordinary) << " | " << bit_numbers(f.bits, d.has_m) << " | "
                    << name(f.was) << " | " << name(f.is) << " |\n";
            }
        }
    }
    out << '\n';
}

/// The mnemonic of a named field.
template <class Description>
const char* mnemonic_of(entry_field Description::fields::* named)
{
    for (const auto& r : Description::rows) {
        if (r.member == named) return r.name;
    }
    return "";
}

template <class Description>
void write_forbidden(std::ostream& out)
{
    out << "| in | combination | only with | rule |\n|---|---|---|---|\n";
    for (const auto& f : Description::forbidden) {
        out << "| "
            << (f.in == every    ? "every entry"
                : f.in == leaves ? "leaves"
                                 : "leaves of the lowest level")
            << " | " << mnemonic_of<Description>(f.which) << " = " << f.value;
        if (f.without != nullptr) out << ", " << mnemonic_of<Description>(f.without) << " = 0";
        out << " | " << f.when.text << " | " << name(f.breaks) << " |\n";
    }
    out << '\n';
}

void write_values(std::ostream& out, const char* head, const char* (*text)(unsigned))
{
    out << "| " << head << " | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |\n|---|---|---|---|---|---|---|---|---|\n| type |";
    for (unsigned value = 0; value < 8; ++value) {
        out << ' ' << (*text(value) != '\0' ? text(value) : "illegal") << " |";
    }
    out << "\n\n";
}

files draw()
{
    constexpr unsigned memory_bits = width_m - 1;  // so that absent entries must not point there
    const shadow_features long_mode{.levels = 5,
                                    .physical_bits = width_m,
                                    .user_keys = true,
                                    .hlat = true,
                                    .reserved_bit_8 = false,
                                    .memory_bits = memory_bits};
    const shadow_features pae{.levels = 3, .physical_bits = width_m, .memory_bits = memory_bits};
    const shadow_features two_levels{.levels = 2, .physical_bits = width_m, .memory_bits = 31};
    const npt_features nested{.levels = 5, .physical_bits = width_m};
    const ept_features extended{.levels = 5,
                                .physical_bits = width_m,
                                .mode_based_execute = true,
                                .verify_guest_paging = true,
                                .paging_write = true,
                                .supervisor_shadow_stack = true,
                                .sub_page_write = true,
                                .suppress_ve = true,
                                .memory_bits = memory_bits};
    const riscv_features hart{.levels = 5, .svnapot = true, .svpbmt = true, .svrsw60t59b = true};
    const gstage_features hosts_hart{.levels = 5, .svnapot = true, .svpbmt = true, .svrsw60t59b = true};
    const vtd_second_features remapped{
        .levels = 5, .physical_bits = width_m, .scalable = true, .accessed_dirty = true, .transient = true};
    const vtd_first_features first_stage{.levels = 5, .physical_bits = width_m, .execute_disable = true};
    const amdvi_host_features host_tables{
        .levels = 6, .physical_bits = width_m, .accessed_bits = true, .dirty_bits = true};
    const amdvi_guest_features guest_tables{.levels = 5, .physical_bits = width_m};
    const aarch64_stage1_features el1{};
    const aarch64_stage1_features el1_ds{.input_bits = 52, .physical_bits = 52, .large_addresses = true};
    const aarch64_el2_features el2{};
    const aarch64_stage2_features second_stage{};
    files all;
    std::ostringstream out;
    out << "<!-- Made by examples/draw_formats.cpp from the rows in include/ptebits/formats. Change those. -->\n"
           "# Formats\n"
           "\n"
           "Every entry of every format, drawn from the rows that the library computes with. M is the\n"
           "physical-address width (the feature `physical_bits`). All features that give a bit a meaning are\n"
           "on; dashes mark the bits that one of them switches: the tables tell which, and what the bit is without.\n"
           "*Fixed* bits have one value in every entry of the kind: by them the MMU tells what an entry is.\n"
           "*Software* bits are ignored by the MMU; *reserved* bits must be 0 in a present entry. *Written* bits\n"
           "are ignored too, but software must write one value. A bit that *denies* a permission takes it if set.\n"
           "\n"
           "Of an absent entry the MMU takes no notice, so all but what makes it one is software's. There are two\n"
           "exceptions: with `suppress_ve` bit 63 must be 1, or an access may raise #VE in the guest; and on\n"
           "a CPU with L1TF (`memory_bits`) the address bits must be 0 or point past the memory, since the CPU may\n"
           "load what is there and leak it.\n"
           "\n"
           "![The colours of the diagrams](formats/legend.svg)\n"
           "\n"
           "- [Long mode](#long-mode), [PAE](#pae), [two levels](#two-levels): ordinary paging, formats/shadow.hpp\n"
           "- [Nested paging](#nested-paging): formats/npt.hpp\n"
           "- [Extended page tables](#extended-page-tables): formats/ept.hpp\n"
           "- [RISC-V](#risc-v), [Sv32](#sv32), [G-stage](#g-stage): formats/riscv.hpp\n"
           "- [AArch64, stage 1](#aarch64-stage-1), [16 and 64 Kbytes](#aarch64-16-and-64-kbytes), "
           "[EL2](#aarch64-el2),\n"
           "  [stage 2](#aarch64-stage-2): formats/aarch64.hpp\n"
           "- [VT-d, second stage](#vt-d-second-stage), [first stage](#vt-d-first-stage): formats/vtd.hpp\n"
           "- [AMD-Vi, host tables](#amd-vi-host-tables), [guest tables](#amd-vi-guest-tables): formats/amdvi.hpp\n"
           "\n"
           "## Long mode\n"
           "\n"
           "Four or five levels of 512 entries. Present = P. Intel SDM volume 3, \"Paging\"; AMD APM volume 2,\n"
           "\"Page Translation and Protection\". With `encryption_bit` that bit is an attribute, C, and the\n"
           "address bits above it are reserved; with `key_id_bits` these are an attribute, KEYID; with\n"
           "`shared_bit` that bit, SHARED, is the highest of the address.\n"
           "\n";
    write_features<shadow_features>(out, "shadow_features");
    write_entries(out, all, "long", long_mode);
    out << "PWT, PCD and PAT are an index into the PAT, of 1, 2 and 4. After reset it holds:\n\n";
    write_values(out, "index", pat_type_after_reset);
    out << "## PAE\n"
           "\n"
           "`levels = 3`: four entries at the top level, which are loaded into registers and checked with CR3.\n"
           "\n";
    write_entries(out, all, "pae", pae);
    out << "## Two levels\n"
           "\n"
           "`levels = 2`: 32-bit entries, 1024 a table. Of the address bits of a 4M page above 31 those from M\n"
           "up are reserved.\n"
           "\n";
    write_entries(out, all, "two", two_levels);
    out << "## Nested paging\n"
           "\n"
           "AMD's nested tables are the host's own paging format, with two to five levels. AMD APM volume 2,\n"
           "\"Secure Virtual Machine\". Every nested access is a user access, so U/S must be 1 in every entry;\n"
           "with `guest_mode_execute_trap` it forbids supervisor fetches instead. These bits have another role\n"
           "than in the drawings of long mode:\n"
           "\n";
    write_differences(out, long_mode, nested, "ordinary | nested");
    write_features<npt_features>(out, "npt_features");
    out << "## Extended page tables\n"
           "\n"
           "Four or five levels of 512 entries. Present = any of R, W, X, and XU where it is not software's.\n"
           "Intel SDM volume 3, \"VMX Support for Address Translation\". With `software_accessed` that software\n"
           "bit of a leaf is the accessed bit, A, which software keeps.\n"
           "\n";
    write_features<ept_features>(out, "ept_features");
    write_entries(out, all, "ept", extended);
    out << "MT, the memory type:\n\n";
    write_values(out, "MT", [](unsigned value) { return ept_fields::meaning(&ept_fields::memory_type, value); });
    out << "A present entry is misconfigured if a reserved bit is set, or by one of these combinations:\n\n";
    write_forbidden<ept_description>(out);
    out << "## RISC-V\n"
           "\n"
           "Sv39, Sv48 and Sv57: three, four and five levels of 512 entries. The manual counts them from 0, and so\n"
           "do these headings. Present = V. RISC-V ISA manual, volume II, \"Addressing and Memory Protection\". An\n"
           "entry with no right refers to a table. An entry of a run of 64 Kbytes has 1000 in the lowest bits of\n"
           "PPN. Address bits that no memory has are no rule: the access to them faults.\n"
           "\n";
    write_features<riscv_features>(out, "riscv_features");
    write_entries(out, all, "riscv", hart);
    out << "PBMT is 0 PMA (as the memory's attributes say), 1 NC (not cached), 2 IO. A present entry faults if a\n"
           "reserved bit is set, or by one of these combinations:\n"
           "\n";
    write_forbidden<riscv_description>(out);
    out << "## Sv32\n"
           "\n"
           "`levels = 2`: 32-bit entries, 1024 a table, physical addresses of 34 bits.\n"
           "\n";
    write_entries(out, all, "sv32", riscv_features{.levels = 2});
    out << "## G-stage\n"
           "\n"
           "The tables of hgatp are those above with 2 more index bits at the top: the root has 16 Kbytes. Every "
           "access\n"
           "is a user's, so U must be 1 in every leaf. \"Guest Physical Address Translation\". These bits have "
           "another\n"
           "role than in the drawings above:\n"
           "\n";
    write_differences(out, hart, hosts_hart, "satp, vsatp | hgatp");
    write_features<gstage_features>(out, "gstage_features");
    out << "## AArch64, stage 1\n"
           "\n"
           "Of EL1&0, by a granule of 4 Kbytes: tables of 512 entries. The manual counts levels down from 0, with\n"
           "`large_addresses` from -1, to 3, that of pages, and so do these headings. Present = bit 0; an entry is of "
           "no\n"
           "kind, and faults as an absent one, where it is neither a table, a block nor a page of its level. Address "
           "bits\n"
           "above the output size are no reserved bits, but an address size fault. Arm Architecture Reference Manual,\n"
           "\"VMSAv8-64 translation table format descriptors\".\n"
           "\n";
    write_features<aarch64_stage1_features>(out, "aarch64_stage1_features");
    write_entries(out, all, "aarch64", el1);
    out << "With `large_addresses` (FEAT_LPA2, DS):\n\n";
    write_differences(out, el1, el1_ds, "without | with");
    out << "## AArch64, 16 and 64 Kbytes\n"
           "\n"
           "Bits other than those of the address are as above.\n"
           "\n";
    write_entries(out, all, "aarch64-16k", aarch64_stage1_features{.granule = 14});
    write_entries(
        out, all, "aarch64-64k",
        aarch64_stage1_features{.granule = 16, .input_bits = 52, .physical_bits = 52, .large_addresses = true});
    out << "## AArch64, EL2\n"
           "\n"
           "EL2's own addresses, without E2H. These bits have another role than in the drawings of stage 1:\n"
           "\n";
    write_differences(out, el1, el2, "EL1&0 | EL2");
    write_features<aarch64_el2_features>(out, "aarch64_el2_features");
    out << "## AArch64, stage 2\n"
           "\n"
           "The top table is up to 16 tables side by side. XN[1:0] is a code: 0 executable, 1 at EL0 alone, 2 not, 3 "
           "at\n"
           "EL1 alone; without `execute_by_level` XN[1] alone counts.\n"
           "\n";
    write_features<aarch64_stage2_features>(out, "aarch64_stage2_features");
    write_entries(out, all, "aarch64-stage2", second_stage);
    out << "## VT-d, second stage\n"
           "\n"
           "Intel's IOMMU. Three to five levels of 512 entries. Present = R or W. Intel VT-d specification,\n"
           "\"Second-Stage Translation\". In entries that refer to tables, revisions read bits 62 and 11 differently:\n"
           "here they are reserved.\n"
           "\n";
    write_features<vtd_second_features>(out, "vtd_second_features");
    write_entries(out, all, "vtd", remapped);
    out << "## VT-d, first stage\n"
           "\n"
           "The CPU's own format, with four or five levels. \"First-Stage Translation\". These bits have another role\n"
           "than in the drawings of long mode:\n"
           "\n";
    write_differences(out, long_mode, first_stage, "ordinary | first stage");
    write_features<vtd_first_features>(out, "vtd_first_features");
    out << "## AMD-Vi, host tables\n"
           "\n"
           "One to six levels of 512 entries, 128 at level 6, which has no pages. Present = PR. An entry may refer to "
           "a\n"
           "table of any lower level, if the address bits of those between are 0. AMD IOMMU specification, \"I/O Page\n"
           "Tables for Host Translations\". A page of a coded size has 2^(k+1) bytes if bit k is the lowest zero of\n"
           "bits 51:12, and all entries that it covers in the table hold the same; those of its bits that are ones at\n"
           "each such level are drawn as fixed.\n"
           "\n";
    write_features<amdvi_host_features>(out, "amdvi_host_features");
    write_entries(out, all, "amdvi", host_tables);
    out << "## AMD-Vi, guest tables\n"
           "\n"
           "The CPU's own format, with four or five levels. \"Guest Page Tables\". These bits have another role than "
           "in\n"
           "the drawings of long mode:\n"
           "\n";
    write_differences(out, long_mode, guest_tables, "ordinary | guest");
    write_features<amdvi_guest_features>(out, "amdvi_guest_features");
    std::string document = out.str();
    document.pop_back();  // the blank line at the end
    all["formats.md"] = std::move(document);
    all["formats/legend.svg"] = svg_legend();
    return all;
}

// ---- the command line

std::string content_of(const std::filesystem::path& file)
{
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

int write(const std::filesystem::path& directory)
{
    std::filesystem::create_directories(directory / "formats");
    for (const auto& [file, content] : draw()) {
        std::ofstream out(directory / file, std::ios::binary);
        if (!(out << content).flush()) {
            std::cerr << (directory / file).string() << ": cannot be written\n";
            return 2;
        }
    }
    return 0;
}

int check(const std::filesystem::path& directory)
{
    const files all = draw();
    int status = 0;
    for (const auto& [file, content] : all) {
        if (content_of(directory / file) == content) continue;
        std::cerr << (directory / file).string() << ": not what the rows give; run draw_formats\n";
        status = 1;
    }
    for (const auto& entry : std::filesystem::directory_iterator(directory / "formats")) {
        if (all.contains("formats/" + entry.path().filename().string())) continue;
        std::cerr << entry.path().string() << ": no such diagram any more\n";
        status = 1;
    }
    return status;
}

}  // namespace

int main(int argc, char** argv)
{
    const std::vector<std::string_view> words(argv + 1, argv + argc);
    try {
        if (words.size() == 1 && !words[0].starts_with('-')) return write(words[0]);
        if (words.size() == 2 && words[0] == "--check") return check(words[1]);
    } catch (const std::filesystem::filesystem_error& e) {
        std::cerr << "draw_formats: " << e.what() << '\n';
        return 2;
    }
    std::cerr << "usage: draw_formats DOCS            write DOCS/formats.md and DOCS/formats/*.svg\n"
                 "       draw_formats --check DOCS    compare them with what would be written\n";
    return 2;
}
