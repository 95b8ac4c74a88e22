// Something of every header that a kernel may include, with features known at compile time
// and at run time: for the checks that compile all of the library as others would.
#pragma once

#include <ptebits/ptebits.hpp>

namespace use {

using namespace ptebits;

inline constexpr auto ept_constant = ept<ept_features{.physical_bits = 46}>;
inline constexpr auto tracked = track_accesses<54>(ept<ept_features{.accessed_dirty = false}>);

// Six tables of 64-bit entries from physical address 0x1000 up, and one of 32-bit entries behind them.
inline constexpr std::uint64_t first_table = 0x1000;
alignas(4096) inline std::uint64_t wide[6][512];
alignas(4096) inline std::uint32_t narrow[1024];

struct memory {
    std::uint64_t* operator()(std::uint64_t physical) const
    {
        const std::uint64_t at = physical - first_table;
        return at < sizeof(wide) ? &wide[at / 4096][at % 4096 / 8] : nullptr;
    }
};
struct memory_of_both {
    std::uint64_t* operator()(std::uint64_t physical, std::type_identity<std::uint64_t>) const
    {
        return memory{}(physical);
    }
    std::uint32_t* operator()(std::uint64_t physical, std::type_identity<std::uint32_t>) const
    {
        const std::uint64_t at = physical - first_table - sizeof(wide);
        return at < sizeof(narrow) ? &narrow[at / 4] : nullptr;
    }
};

/// Tables from a root down, one after the other; the lowest maps its 512 pages to `page` up.
template <class Format>
bool map(const Format& format, std::uint64_t root, std::uint64_t page)
{
    std::uint64_t at = root;
    for (unsigned level = format->shape().levels; level > 1; --level, at += 4096) {
        const encoded entry = encode(kind::table, level, at + 4096, {}, format);
        if (!entry) return false;
        store(*memory{}(at), entry.entry);
    }
    for (std::uint64_t i = 0; i < 512; ++i) {
        const encoded entry = encode(kind::leaf, 1, page + i * 4096, {}, format);
        if (!entry || !legal(entry.entry, 1, format)) return false;
        store(*memory{}(at + i * 8), entry.entry);
    }
    return true;
}

template <class Format>
unsigned formats(const Format& format)
{
    const std::uint64_t leaf = encode(kind::leaf, 1, 0x7000, {.write = false}, format).entry;
    if (address_of(leaf, 1, format) != 0x7000 || writable(leaf, format) || !readable(leaf, format)) return 1;
    if (diagnose(leaf | std::uint64_t{1} << 51, 1, format).broken != rule::reserved_bits) return 2;
    if (!available(format, std::uint64_t{1} << 58)) return 3;
    if (!needs_flush(leaf, 0, format) || needs_atomic_update(0, format)) return 4;

    char text[400];
    if (describe(leaf, 1, format, text).truncated() || describe_fields(leaf, 1, format, text).needed == 0) return 5;
    const char* const words = name(encode(kind::leaf, 9, 0, {}, format).error);
    if (words == nullptr || *words == '\0') return 6;
    return 0;
}

template <class Format>
unsigned slots(const Format& format)
{
    std::uint64_t slot = encode(kind::leaf, 1, 0x7000, {}, format).entry;
    std::uint64_t* const mapped_by[] = {&slot};
    if (age(slot, format) || !mark_accessed(slot, format) || !young_any(mapped_by, format)) return 1;
    if (!age_all(mapped_by, format) || !write_protect(slot, format)) return 2;
    set(slot, format->dirty);
    if (!clear_dirty(slot, format) || harvest_dirty(slot, format)) return 3;
    if (!translates(slot, format) || is_empty(slot, format) || !is_empty(format->empty(), format)) return 6;
    const auto frozen = frozen_marker(std::uint64_t{1} << 60, format);
    std::uint64_t expected = load(slot);
    if (!freeze(slot, expected, frozen) || !is_frozen(slot, frozen)) return 4;
    return unmap(slot, format) != 0 ? 0 : 5;
}

template <class Format>
unsigned tables_of(const Format& format)
{
    constexpr std::uint64_t root = first_table;
    if (!map(format, root, 0x10'0000)) return 1;
    auto& lowest = wide[format->shape().levels - 1];

    const walk_result r = walk(format, root, 0x3123, {.what = operation::write, .user = true}, {}, memory{});
    if (!r || r.address != 0x10'3123 || !dirty(lowest[3], format)) return 2;
    const std::uint64_t addresses[] = {0x0, 0x5000, 0x20'0000};
    walk_result results[3];
    walk_batch(format, root, addresses, 3, {.user = true}, {}, memory{}, results);
    if (!results[0] || !results[1] || results[2]) return 3;
    if (results[2].fault != fault_kind::not_present) return 4;
    static_cast<void>(fault_code(results[2], {}, {}, format));

    const nested_result n = nested_walk(unpaged{}, 0, format, root, 0x6000, {.user = true}, {}, memory{});
    if (!n || n.address() != 0x10'6000) return 5;

    std::uint64_t words[16];
    table_set seen(words, 16);
    unsigned visited = 0;
    const auto count = [&](const auto& e) {
        visited += e.level == 1;
        return visit_next::into;
    };
    if (visit(format, root, {}, memory{}, count, &seen).stopped || visited != 512) return 6;
    unsigned mappings = 0;
    for_each_mapping(format, root, {}, memory{}, [&](const mapping&) { ++mappings; });
    if (mappings != 1) return 7;

    std::uint64_t young_pages = 0;
    const auto report = [&](std::uint64_t, std::uint64_t size) { young_pages += size / 4096; };
    static_cast<void>(age_range(format, root, {}, memory{}, report));
    if (young_pages != 4) return 8;
    static_cast<void>(harvest_range(format, root, {}, memory{}, report));
    if (young_pages != 5) return 9;

    set(lowest[70], format->accessed);
    if (young_in(lowest, format).count() != 1) return 10;
    if (!age_table(lowest, format).test(70) || harvest_dirty(lowest, format).any()) return 11;
    if (write_protect_table(lowest, format).count() != 512) return 12;
    return 0;
}

template <class Format>
unsigned resizing(const Format& format)
{
    std::uint64_t large = encode(kind::leaf, 2, 0x20'0000, {}, format).entry;
    std::uint64_t(&small)[512] = wide[5];
    if (split_live(large, 2, small, 0x6000, format) != split_error::none) return 1;
    const resized whole = merge(small, large, 2, format);
    if (!whole || address_of(whole.entry, 2, format) != 0x20'0000) return 2;
    const auto merging = begin_merge(large, 2, format);
    if (!merging || finish_merge(large, merging, 2, small, format) != split_error::none) return 3;
    const auto splitting = begin_split(large, 2, format);
    if (!splitting || finish_split(large, splitting, 2, small, 0x6000, format) != split_error::none) return 4;
    return kind_of(large, 2, format) == kind::table ? 0 : 5;
}

struct table_allocator {
    unsigned* used;

    [[nodiscard]] optional_address allocate(unsigned /*level*/) const
    {
        if (*used == 6) return {};
        return first_table + std::uint64_t{(*used)++} * 4096;
    }
    void release(std::uint64_t /*address*/, unsigned /*level*/) const { --*used; }
};
struct flushing_memory : memory {
    void flush(const flush_item& /*item*/) const {}
};
struct readers {
    void enter() const {}
    void leave() const {}
    void wait() const {}
};

template <class Tree>
unsigned change(Tree& t, unsigned& used)
{
    flush_list_of<8, 8> list;
    if (clear_root(t) != tree_end::done) return 1;
    used = 1;
    if (!ptebits::map(t, {0x20'0000, 0x3f'ffff}, 0x80'0000, {}, list) || used != 3) return 2;
    if (!protect(t, {0x20'1000, 0x20'1fff}, {.write = false}, list, {.ends = range_end::split})) return 3;
    if (!split_pages(t, {}, 12, list) || used != 4) return 4;
    if constexpr (std::is_same_v<typename Tree::sharing_type, exclusive>) {
        if (!protect(t, {0x20'0000, 0x3f'ffff}, {}, list) || !merge_pages(t, {}, 30, list) || used != 3) return 5;
    }
    if (!find_slot(t, 0x20'0000, 2)) return 6;
    if (!unmap(t, {0, (std::uint64_t{1} << 39) - 1}, list) || list.due() != flush_due::items) return 7;
    if (choose_invept(list, 0).scope != flush_scope::everything) return 9;
    flushed(t, list);
    return prune(t, {}, list).end == tree_end::done && used == 1 ? 0 : 8;
}

/// By one thread with a format of constants, by several with one known at run time.
template <class Format>
unsigned trees(const Format& format)
{
    unsigned used = 0;
    if constexpr (constant_masks<Format>) {
        tree alone{format, first_table, flushing_memory{}, table_allocator{&used}};
        return change(alone, used);
    } else {
        tree together{format, first_table, flushing_memory{}, table_allocator{&used},
                      shared{frozen_marker(std::uint64_t{1} << 60, format), readers{}}};
        return change(together, used);
    }
}

/// A private page made a shared one, and a page without access.
inline unsigned changing()
{
    constexpr auto guest = shadow<shadow_features{.shared_bit = 47}>;
    std::uint64_t slot = 0x1067;
    if (!convert_to_shared(slot, 1, guest) || is_private(slot, 1, guest)) return 1;
    if (!convert_to_private(slot, 1, guest) || to_shared(slot, 1, guest) == slot) return 2;
    const auto kept = keep_without_access<9>(guest);
    const no_access_entry e = take_access(slot, 1, kept);
    if (!e || !is_no_access(e.entry, kept)) return 3;
    return give_access(e.entry, kept) == slot ? 0 : 4;
}

/// RISC-V's registers, traps and fences, with one hart's features known at run time.
inline unsigned on_riscv(bool svadu)
{
    const auto first = format_for(riscv_features{.svadu = svadu});
    const auto second = format_for(gstage_features{.svadu = svadu});
    const atp_root root = root_of_satp(atp_for(0x8000'1000, first, 5).value, first);
    if (!root || root.root != 0x8000'1000 || root_of_hgatp(atp_for(0x8000'1000, second).value, second)) return 1;
    walk_result r;
    r.fault = fault_kind::not_present;
    const riscv_trap trap = trap_of(r, 0x1000, {}, second, true);
    if (trap.cause != 21 || told_by(trap).kind != riscv_trap_kind::guest_page) return 2;
    const fence_operands gvma = fence_for({.by_address = true}, second, 0x4000);
    return gvma && gvma.rs1 == 0x1000 && fence_after(0x2000'00df, 0, first) == fence_due::by_address ? 0 : 3;
}

/// The number of what went wrong, 0 if nothing did.
inline unsigned all()
{
    // Through volatile, so that nothing here is decided by the compiler.
    volatile unsigned asked_bits = 46;
    const unsigned physical_bits = asked_bits;
    const auto ept_runtime = format_for(ept_features{.physical_bits = physical_bits});
    const auto npt_runtime = format_for(npt_features{.physical_bits = physical_bits});
    const auto guest = format_for(shadow_features{.physical_bits = physical_bits});
    const auto two_levels = format_for(shadow_features{.levels = 2});

    unsigned failed = 0;
    unsigned part = 0;
    const auto note = [&](unsigned what) {
        ++part;
        if (failed == 0 && what != 0) failed = 16 * part + what;
    };
    note(formats(ept_constant));
    note(formats(guest));
    note(slots(ept_constant));
    note(slots(npt_runtime));
    note(tables_of(ept_constant));
    note(tables_of(guest));
    note(resizing(ept_constant));
    note(resizing(npt_runtime));
    note(trees(ept_constant));
    note(trees(npt_runtime));
    note(on_riscv(physical_bits == 46));

    std::uint64_t slot = 0x1007;
    note(!age(slot, tracked) || !restore(slot, tracked));
    const masks m = masks::from({.present = 0x7, .accessed = ept_runtime->accessed.mask()});
    set(slot, m.accessed);
    const bool first_pass = age(slot, m);
    const bool second_pass = age(slot, m);
    note(!first_pass || second_pass);

    // A guest of two levels over EPT.
    if (!map(ept_runtime, first_table, 0)) note(1);
    for (unsigned i = 0; i < 512; ++i) narrow[i] = i << 22 | 0x87U;
    const nested_result n = nested_walk(two_levels, first_table + sizeof(wide), ept_runtime, first_table, 0x40'0000, {},
                                        {}, memory_of_both{});
    note(n.where != dimension::host || n.guest.address != 0x40'0000);

    // A shadow of a guest's page, and registers.
    note(combine(n, two_levels, ept_runtime, guest).error != combine_error::second_walk);
    note(effective_type(pat_type(pat_after_reset, 1), memory_type::wb, vendor::amd) != memory_type::wt);
    note(root_of_cr3(first_table | 0x18, guest).root != first_table);
    const encoded_eptp eptp = eptp_for(first_table, ept_runtime);
    note(root_of_eptp(eptp.eptp, ept_runtime).root != first_table);
    note(changing());
    return failed;
}

}  // namespace use
