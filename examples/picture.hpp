// SPDX-License-Identifier: BSL-1.0
// The address space as a picture: a row for each table that maps pages, a cell for each of its entries.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "dump.hpp"
#include "pages.hpp"
#include "progress.hpp"
#include "summary.hpp"

namespace dump {

/// What a cell shows. Of several pages in one cell the highest.
enum class cell : std::uint8_t { absent, old, young, dirty, large_old, large_young, large_dirty };

struct picture_row {
    std::uint64_t first = 0;  ///< address
    unsigned level = 0;
    std::vector<cell> cells;
    std::uint64_t tables = 1;

    [[nodiscard]] bool like(const picture_row& other) const { return level == other.level && cells == other.cells; }
};

/// At most so many rows: neighbours are drawn over each other where there are more.
inline constexpr std::size_t most_rows = 160;

/// The tables that map pages, in the order of addresses; neighbours that look alike are one row.
template <class Format>
std::vector<picture_row> picture_rows(input& from, const Format& format)
{
    using namespace ptebits;
    const shape& s = format->shape();
    std::map<std::pair<std::uint64_t, unsigned>, std::vector<cell>> by_table;
    progress line;
    for_each_page(format, from.found().root, {}, from.memory(), [&](const mapped_page& page) {
        line.step("pages");
        const std::uint64_t first = page.address & ~ones(s.page_shift(page.level + 1) - 1, 0);
        auto& cells = by_table[{first, s.levels - page.level}];
        cells.resize(std::size_t{1} << s.index_bits_at(page.level));
        const unsigned used = has(role::dirty, page, format) ? 2 : has(role::accessed, page, format) ? 1 : 0;
        const auto state =
            static_cast<cell>(used + static_cast<unsigned>(page.level > 1 ? cell::large_old : cell::old));
        cells[s.index(page.address, page.level)] = state;
        return true;
    });
    std::vector<picture_row> rows;
    for (auto& [at, cells] : by_table) {
        picture_row row{at.first, s.levels - at.second, std::move(cells)};
        if (!rows.empty() && rows.back().like(row)) {
            ++rows.back().tables;
        } else {
            rows.push_back(std::move(row));
        }
    }
    const std::size_t together = (rows.size() + most_rows - 1) / most_rows;
    if (together <= 1) return rows;
    std::vector<picture_row> folded;
    std::size_t in_last = 0;
    for (picture_row& row : rows) {
        if (in_last == together || folded.empty() || folded.back().level != row.level) {
            folded.push_back(std::move(row));
            in_last = 1;
            continue;
        }
        picture_row& last = folded.back();
        for (std::size_t i = 0; i < row.cells.size(); ++i) last.cells[i] = std::max(last.cells[i], row.cells[i]);
        last.tables += row.tables;
        ++in_last;
    }
    return folded;
}

/// Draws the address space of an input as SVG, in colours for light and dark backgrounds.
inline void draw(std::ostream& out, input& from)
{
    struct colour {
        cell of;
        char name;
        const char* light;
        const char* dark;
        const char* words;
    };
    static constexpr std::array<colour, 6> colours{{
        {cell::old, 'o', "#b0b0b0", "#6b6b6b", "4K, not used"},
        {cell::young, 'y', "#4a90d9", "#4a90d9", "4K, accessed"},
        {cell::dirty, 'd', "#d9822b", "#e09a4f", "4K, written"},
        {cell::large_old, 'p', "#c9b8dd", "#5f5275", "large, not used"},
        {cell::large_young, 'q', "#58b368", "#4c9f5b", "large, accessed"},
        {cell::large_dirty, 'r', "#b0398d", "#d063b0", "large, written"},
    }};
    constexpr unsigned left = 148, width = 768, height = 9, step = 12, top = 66;

    std::visit(
        [&](const auto& features) {
            const auto format = ptebits::format_for(features);
            const std::vector<picture_row> rows = picture_rows(from, format);
            const std::size_t bottom = top + rows.size() * step + 12;
            out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1060\" height=\"" << bottom
                << "\" viewBox=\"0 0 1060 " << bottom << "\">\n<style>\n"
                << ".b{fill:#fff}text{fill:#333;font:11px monospace}.e{fill:#eee}\n";
            for (const colour& c : colours) out << '.' << c.name << "{fill:" << c.light << "}";
            out << "\n@media(prefers-color-scheme:dark){.b{fill:#161616}text{fill:#ccc}.e{fill:#2a2a2a}";
            for (const colour& c : colours) out << '.' << c.name << "{fill:" << c.dark << "}";
            out << "}\n</style>\n<rect class=\"b\" width=\"100%\" height=\"100%\"/>\n"
                << "<text x=\"8\" y=\"18\">" << name_of(features) << ", " << features.levels << " levels, root "
                << ptimg::hex(from.found().root)
                << ": a row for each table that maps pages, by its first address, a cell "
                << "for each entry</text>\n";
            unsigned x = 8;
            for (const colour& c : colours) {
                out << "<path class=\"" << c.name << "\" d=\"M" << x << " 32h10v10h-10z\"/><text x=\"" << x + 15
                    << "\" y=\"41\">" << c.words << "</text>\n";
                x += 136;
            }
            unsigned y = top;
            for (const picture_row& row : rows) {
                const auto cells = static_cast<unsigned>(row.cells.size());
                const auto at = [&](unsigned index) { return left + index * width / cells; };
                out << "<text x=\"8\" y=\"" << y + height - 1 << "\">" << hex16(row.first)
                    << "</text><path class=\"e\" d=\"M" << left << ' ' << y << 'h' << width << 'v' << height << "H"
                    << left << "z\"/>";
                for (const colour& c : colours) {
                    std::string runs;
                    for (unsigned i = 0; i < cells; ++i) {
                        if (row.cells[i] != c.of) continue;
                        const unsigned first = i;
                        while (i + 1 < cells && row.cells[i + 1] == c.of) ++i;
                        const unsigned wide = std::max(at(i + 1) - at(first), 1U);
                        runs += 'M' + std::to_string(at(first)) + ' ' + std::to_string(y) + 'h' + std::to_string(wide) +
                                'v' + std::to_string(height) + 'h' + std::to_string(-static_cast<int>(wide)) + 'z';
                    }
                    if (!runs.empty()) out << "<path class=\"" << c.name << "\" d=\"" << runs << "\"/>";
                }
                out << "<text x=\"" << left + width + 8 << "\" y=\"" << y + height - 1 << "\">"
                    << size_of_page(format->shape().page_shift(row.level));
                if (row.tables > 1) out << ", " << row.tables << " tables";
                out << "</text>\n";
                y += step;
            }
            out << "</svg>\n";
        },
        from.found().features);
}

}  // namespace dump
