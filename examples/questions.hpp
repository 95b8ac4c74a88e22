// SPDX-License-Identifier: BSL-1.0
// The questions that inspect answers beside the summary.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ptebits/nested_walk.hpp>
#include <ptebits/text_stream.hpp>
#include <ptebits/x86.hpp>

#include "colours.hpp"
#include "dump.hpp"
#include "image.hpp"
#include "pages.hpp"
#include "progress.hpp"
#include "registers.hpp"
#include "summary.hpp"

namespace dump {

/// Calls a function with the format of an input's tables.
template <class Function>
void with_format(const input& from, const Function& call)
{
    std::visit([&](const auto& features) { call(ptebits::format_for(features)); }, from.found().features);
}

// ---- where an address leads

namespace path {

/// One line for each entry of a walk, from the top.
template <class Format>
void print(std::ostream& out, const ptebits::walk_result& r, const Format& format, const std::uint64_t* slots = nullptr)
{
    for (unsigned i = 0; i < r.steps; ++i) {
        const unsigned level = r.level_of(i);
        out << " L" << format->manual_level(level) << ' ';
        const std::uint64_t slot = slots != nullptr ? slots[i] : r.path[i].slot_address;
        out << (slot == ptebits::no_slot ? "(register)      " : hex16(slot)) << ' ' << hex16(r.path[i].entry) << ' '
            << ptebits::in_words(r.path[i].entry, level, format) << '\n';
    }
}

/// What a walk came to, or why it did not.
template <class Format>
void print_end(std::ostream& out, const ptebits::walk_result& r, const Format& format, std::uint64_t pat,
               const ptebits::reported_code& code, const colours& paint)
{
    using namespace ptebits;
    if (r) {
        const mapped_page page{0, r.address, r.level, r.page_shift, r.last_entry(), r.allowed};
        out << "-> " << hex16(r.address) << ", in a page of " << size_of_page(r.page_shift) << ", "
            << rights_in_letters(r.allowed) << ' ' << memory_type_of(page, format, pat) << '\n';
        return;
    }
    out << paint.alarm << "-> fault: " << name(r.fault);
    if (r.steps != 0) out << " at level " << format->manual_level(r.level);
    if (r.broken != rule::none) {
        if (r.broken != rule::reserved_bits) out << ", " << name(r.broken);
        out << " (bits " << bit_numbers(r.bits) << ')';
    }
    if (r.fault == fault_kind::protection) out << ", the tables allow " << rights_in_letters(r.allowed);
    if (r.fault == fault_kind::memory_absent) out << ": the table is not in the dump";
    if (code) out << "; error code " << ptimg::hex(code.value);
    out << paint.off << '\n';
    if (r.broken == rule::reserved_bits && only_of_wider_addresses(r.bits, format)) {
        out << "   these bits are of an address, if --physical-bits is larger\n";
    }
}

/// PAE's top entries as the CPU holds them: an emulator may have set their accessed bit since, which is reserved.
template <class Format>
std::optional<ptebits::pdpte_registers> registers_of(input& from, const Format& format)
{
    if (format->shape().levels != 3) return std::nullopt;
    ptebits::pdpte_registers r;
    const std::uint64_t accessed = format->layout_at(1, ptebits::kind::leaf).mask(ptebits::role::accessed);
    for (std::size_t i = 0; i < std::size(r.entries); ++i) {
        const std::uint64_t* const slot =
            from.memory()(from.found().root + i * sizeof(std::uint64_t), std::type_identity<std::uint64_t>{});
        if (slot == nullptr) return std::nullopt;
        r.entries[i] = slot_order::load(*slot) & ~accessed;
    }
    return r;
}

template <class Format, class Root>
void print_one_stage(std::ostream& out, input& from, const Format& format, const Root& root, std::uint64_t address,
                     const ptebits::memory_access& a, std::uint64_t pat, const colours& paint)
{
    const tables& t = from.found();
    const ptebits::walk_result r =
        ptebits::walk(format, root, address, a, t.controls, from.memory(), ptebits::update_flags::no, slot_order{});
    print(out, r, format);
    print_end(out, r, format, pat, fault_code(r, a, t.controls, format), paint);
}

template <class Guest, class Host>
void print_two_stages(std::ostream& out, input& from, const Guest& guest, const Host& host, std::uint64_t address,
                      const ptebits::memory_access& a, std::uint64_t pat, const colours& paint)
{
    using namespace ptebits;
    const nested_controls<Guest, Host> cpu{from.found().controls, from.host()->controls};
    const auto r = nested_walk(guest, from.found().root, host, from.host()->root, address, a, cpu, from.host_memory(),
                               update_flags::no, slot_order{});
    out << "guest, slots by host-physical address:\n";
    print(out, r.guest, guest, r.guest_slots);
    print_end(out, r.guest, guest, pat, {}, paint);
    if (r.host.steps != 0) {
        out << "host, of guest-physical " << hex16(r.guest_physical) << ":\n";
        print(out, r.host, host);
        print_end(out, r.host, host, pat, {}, paint);
    }
    if (const reported_code code = fault_code(r, a, cpu, guest, host); !r && code) {
        out << (r.where == dimension::guest ? "the guest's error code " : "the host's code ") << ptimg::hex(code.value)
            << '\n';
    }
}

}  // namespace path

inline void print_path(std::ostream& out, input& from, std::uint64_t address, const ptebits::memory_access& a,
                       std::uint64_t pat, const colours& paint = {})
{
    static constexpr const char* words[] = {"read", "write", "fetch", "read and write"};
    out << hex16(address) << ": " << words[static_cast<unsigned>(a.what)] << " in " << (a.user ? "user" : "supervisor")
        << " mode\n";
    with_format(from, [&](const auto& format) {
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(format->features())>, ptebits::shadow_features>) {
            if (from.host()) {
                return std::visit(
                    [&](const auto& of_host) {
                        if constexpr (!std::is_same_v<std::remove_cvref_t<decltype(of_host)>,
                                                      ptebits::shadow_features>) {
                            path::print_two_stages(out, from, format, ptebits::format_for(of_host), address, a, pat,
                                                   paint);
                        }
                    },
                    from.host()->features);
            }
            if (const auto held = path::registers_of(from, format)) {
                return path::print_one_stage(out, from, format, *held, address, a, pat, paint);
            }
        }
        path::print_one_stage(out, from, format, from.found().root, address, a, pat, paint);
    });
}

// ---- pages

/// A line a page, as `info tlb` of QEMU's monitor.
inline void print_pages(std::ostream& out, input& from)
{
    with_format(from, [&](const auto& format) {
        for_each_page(format, from.found().root, {}, from.memory(), [&](const mapped_page& page) {
            out << hex16(page.address) << ": " << hex16(page.physical) << ' ' << flags_of(page, format) << '\n';
            return bool(out);
        });
    });
}

/// Joins pages that follow each other and are alike in what `key` makes of them, and shows each run: the first page,
/// the last address, what is counted.
template <class Key>
struct page_run {
    std::uint64_t first = 0;
    std::uint64_t last = 0;
    Key key{};
    std::uint64_t pages = 0;
    std::uint64_t young = 0;
    std::uint64_t dirty = 0;
};

template <class Format, class KeyOf, class Show>
void for_each_run(input& from, const Format& format, ptebits::inclusive_range range, const KeyOf& key_of,
                  const Show& show)
{
    using key = std::invoke_result_t<KeyOf, const mapped_page&>;
    page_run<key> run;
    for_each_page(format, from.found().root, range, from.memory(), [&](const mapped_page& page) {
        key is = key_of(page);
        if (run.pages != 0 && (page.address != run.last + 1 || !(is == run.key))) {
            show(run);
            run = {};
        }
        if (run.pages++ == 0) run = {page.address, 0, std::move(is), 1, 0, 0};
        run.last = page.last();
        run.young += has(ptebits::role::accessed, page, format);
        run.dirty += has(ptebits::role::dirty, page, format);
        return true;
    });
    if (run.pages != 0) show(run);
}

/// Ranges that are alike: rights, memory type, page size, rule that is broken.
inline void print_map(std::ostream& out, input& from, ptebits::inclusive_range range, std::uint64_t pat)
{
    struct alike {
        ptebits::permissions allowed;
        std::string type;
        unsigned page_shift = 0;
        ptebits::rule broken = ptebits::rule::none;
        bool operator==(const alike&) const = default;
    };
    with_format(from, [&](const auto& format) {
        const ptebits::layout& l = format->layout_at(1, ptebits::kind::leaf);
        out << "first            last               size urwx type page  pages  young  dirty\n";
        const auto right = [](const std::string& text, std::size_t width) {
            return std::string(width - std::min(width, text.size()), ' ') + text;
        };
        const auto key = [&](const mapped_page& page) {
            return alike{page.allowed, memory_type_of(page, format, pat), page.page_shift,
                         diagnose(page.entry, page.level, format).broken};
        };
        for_each_run(from, format, range, key, [&](const page_run<alike>& run) {
            const auto count = [&](ptebits::role r, std::uint64_t n) {
                return right(l.mask(r) != 0 ? std::to_string(n) : "-", 7);
            };
            out << hex16(run.first) << '-' << hex16(run.last) << right(size_in_words(run.last - run.first + 1), 8)
                << "  " << rights_in_letters(run.key.allowed) << ' ' << right(run.key.type, 5)
                << right(size_of_page(run.key.page_shift), 6) << right(std::to_string(run.pages), 7)
                << count(ptebits::role::accessed, run.young) << count(ptebits::role::dirty, run.dirty);
            if (run.key.broken != ptebits::rule::none) out << "  broken: " << name(run.key.broken);
            out << '\n';
        });
    });
}

/// Ranges by user, read and write alone, as `info mem` of QEMU's monitor: the end is the first address behind.
inline void print_rights(std::ostream& out, input& from)
{
    using key = std::pair<bool, bool>;
    with_format(from, [&](const auto& format) {
        for_each_run(
            from, format, {}, [](const mapped_page& page) { return key{page.allowed.user, page.allowed.write}; },
            [&](const page_run<key>& run) {
                const std::uint64_t end = run.last + 1;
                out << hex16(run.first) << '-' << hex16(end) << ' ' << hex16(end - run.first) << ' '
                    << (run.key.first ? 'u' : '-') << 'r' << (run.key.second ? 'w' : '-') << '\n';
            });
    });
}

/// Who maps a physical address; and whether it lies in a table.
inline void print_mappings_of(std::ostream& out, input& from, std::uint64_t physical)
{
    with_format(from, [&](const auto& format) {
        std::uint64_t found = 0;
        for_each_page(format, from.found().root, {}, from.memory(), [&](const mapped_page& page) {
            const std::uint64_t offset = physical - page.physical;
            if (offset >> page.page_shift != 0) return true;
            ++found;
            out << hex16(page.address + offset) << ": a page of " << size_of_page(page.page_shift) << ", "
                << rights_in_letters(page.allowed) << "  " << hex16(page.entry) << "  "
                << ptebits::in_words(page.entry, page.level, format) << '\n';
            return true;
        });
        table_list seen;
        visit_tables(format, from.found().root, from.memory(), seen, [](const auto&) {});
        for (const auto& [table, level] : seen) {
            if (physical < table || (physical - table) >> format->shape().table_shift(level) != 0) continue;
            out << "it lies in a table of level " << format->manual_level(level) << '\n';
        }
        if (found == 0) out << "no page of these tables maps " << hex16(physical) << '\n';
    });
}

// ---- what changed

/// Prints what became of the pages from one input to another: neighbours alike in one line.
inline void print_changes(std::ostream& out, input& before, input& after)
{
    /// A page, by what does not depend on its format.
    struct seen_page {
        mapped_page page;
        bool young = false;
        bool dirty = false;
    };
    const auto pages_of = [](input& from) {
        std::vector<seen_page> pages;
        progress line;
        with_format(from, [&](const auto& format) {
            for_each_page(format, from.found().root, {}, from.memory(), [&](const mapped_page& page) {
                line.step("pages");
                pages.push_back(
                    {page, has(ptebits::role::accessed, page, format), has(ptebits::role::dirty, page, format)});
                return true;
            });
        });
        return pages;
    };
    const std::vector<seen_page> old = pages_of(before);
    const std::vector<seen_page> now = pages_of(after);

    std::map<std::string, std::uint64_t> totals;
    struct {
        std::uint64_t first = 0, last = 0, pages = 0;
        std::string what;
    } run;
    const auto flush = [&] {
        if (run.pages != 0) {
            out << hex16(run.first) << '-' << hex16(run.last) << ' ' << run.what << ": " << run.pages
                << (run.pages == 1 ? " page\n" : " pages\n");
        }
        run.pages = 0;
    };
    const auto tell = [&](const mapped_page& page, const std::string& what) {
        totals[what] += 1;
        if (run.pages != 0 && (page.address != run.last + 1 || what != run.what)) flush();
        if (run.pages++ == 0) {
            run.first = page.address;
            run.what = what;
        }
        run.last = page.last();
    };
    const auto compare = [&](const seen_page& a, const seen_page& b) {
        std::string what;
        const auto add = [&](bool is, const char* word) {
            if (is) what += (what.empty() ? "" : ", ") + std::string(word);
        };
        add(a.page.physical != b.page.physical, "moved");
        const ptebits::permissions both = a.page.allowed & b.page.allowed;
        add(both != b.page.allowed, "wider rights");
        add(both != a.page.allowed, "narrower rights");
        add(!a.young && b.young, "became young");
        add(a.young && !b.young, "became old");
        add(!a.dirty && b.dirty, "became dirty");
        add(a.dirty && !b.dirty, "became clean");
        if (!what.empty()) tell(b.page, what);
    };
    // Pages of another size at the same address are other pages.
    const auto before_other = [](const mapped_page& a, const mapped_page& b) {
        return a.address != b.address ? a.address < b.address : a.page_shift > b.page_shift;
    };
    std::size_t i = 0;
    for (const seen_page& b : now) {
        for (; i < old.size() && before_other(old[i].page, b.page); ++i) tell(old[i].page, "unmapped");
        if (i < old.size() && !before_other(b.page, old[i].page)) {
            compare(old[i++], b);
        } else {
            tell(b.page, "mapped");
        }
    }
    for (; i < old.size(); ++i) tell(old[i].page, "unmapped");
    flush();
    out << "of " << old.size() << " and " << now.size() << " pages:";
    const char* separator = " ";
    for (const auto& [what, pages] : totals) {
        out << separator << what << ' ' << pages;
        separator = "; ";
    }
    out << (totals.empty() ? " no change\n" : "\n");
}

// ---- export

/// Writes the tables as a .ptimg. Throws error where that form cannot hold them.
inline void save(std::ostream& out, input& from)
{
    with_format(from, [&](const auto& format) {
        table_list seen;
        const ptebits::visit_summary s =
            visit_tables(format, from.found().root, from.memory(), seen, [](const auto&) {});
        if (s.missing != 0)
            throw error(from.name() + ": some tables lie outside the memory: a .ptimg holds all or none");
        const auto& features = format->features();
        out << "# format=" << name_of(features) << " levels=" << features.levels
            << " root=" << ptimg::hex(from.found().root) << " maxphyaddr=" << features.physical_bits
            << " tables=" << seen.size();
        if constexpr (requires { features.encryption_bit; }) {
            if (features.encryption_bit.given) out << " c_bit=" << features.encryption_bit.bits().shift();
        }
        out << '\n';
        if constexpr (requires { features.global_pages; }) {
            out << "# cr4=" << ptimg::hex(registers::cr4_of(features))
                << " efer=" << ptimg::hex(registers::efer_of(features)) << '\n';
        }
        if constexpr (requires { features.accessed_dirty; }) {
            out << "# eptp=" << ptimg::hex(ptebits::eptp_for(from.found().root, format).eptp) << '\n';
        }
        std::uint64_t last_page = ~std::uint64_t{0};
        for (const auto& [table, level] : seen) {
            if (ptimg::page_of(table) == last_page) {
                throw error(from.name() + ": table " + ptimg::hex(table) +
                            " is used at two levels, or shares its page: a .ptimg cannot hold it");
            }
            last_page = ptimg::page_of(table);
            const std::uint64_t end = table + (std::uint64_t{1} << format->shape().table_shift(level));
            for (std::uint64_t at = table; at < end; at += format->shape().entry_bytes()) {
                const auto write = [&](const auto* slot) {
                    if (slot == nullptr) return;
                    const std::uint64_t entry = slot_order::load(*slot);
                    if (entry != 0) out << hex16(at) << ' ' << hex16(entry) << '\n';
                };
                if (format->shape().entry_bytes() == sizeof(std::uint32_t)) {
                    write(from.memory()(at, std::type_identity<std::uint32_t>{}));
                } else {
                    write(from.memory()(at, std::type_identity<std::uint64_t>{}));
                }
            }
        }
    });
}

}  // namespace dump
