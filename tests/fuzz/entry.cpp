// SPDX-License-Identifier: BSL-1.0
// Values of entries, of any format, level, kind, address and permissions: what encode()
// makes is legal and reads back, what it refuses nobody could make; rules, fields, flush
// rules, splitting and merging, ageing and masks keep what their headers promise.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "input.hpp"

using namespace ptebits;
using namespace fuzz;

namespace {

constexpr plain_access plainly{};

// ---- encode

/// The permissions as an entry can tell them: user_execute counts only where it is granted apart.
template <class Format>
permissions as_told(permissions p, const Format& format)
{
    if (!format->modes_apart()) p.user_execute = p.execute && p.user;
    return p;
}

/// Whether any setting of the permission bits makes a legal entry of this kind that grants just this.
template <class Format>
bool can_grant(std::uint64_t other_bits, kind k, unsigned level, permissions grant, const Format& format)
{
    const bool nested = !std::is_same_v<regime_of<Format>, ordinary_paging>;
    if (nested && !grant.user) return false;  // every access is a user's
    std::uint64_t free = 0;
    for (const role r : permission_roles) free |= format->layout_at(level, k).mask(r);
    std::uint64_t set = 0;
    do {
        const std::uint64_t entry = other_bits | set;
        const bool grants = permissions_of(entry, level, format) == as_told(grant, format);
        if (kind_of(entry, level, format) == k && grants && legal(entry, level, format)) return true;
        set = (set - free) & free;  // the next subset
    } while (set != 0);
    return false;
}

template <class Format>
void try_encode(const Format& format, kind k, unsigned level, std::uint64_t physical, permissions grant)
{
    const encoded made = encode(k, level, physical, grant, format);
    const layout& l = format->layout_at(level, k);
    const bool exists = format->exists(level, k);
    const unsigned align = k == kind::leaf && exists ? format->shape().page_shift(level) : 12;
    if (made) {
        require(exists && present(made.entry, format) && legal(made.entry, level, format));
        require(kind_of(made.entry, level, format) == k);
        require(address_of(made.entry, level, format) == physical);
        require(permissions_of(made.entry, level, format) == as_told(grant, format));
        require((made.entry & (l.mask(role::accessed) | l.mask(role::dirty) | l.mask(role::software))) == 0);
        require(format->address(level, physical, k) == l.address_bits(physical));
        return;
    }
    require(made.entry == 0);
    switch (made.error) {
    case encode_error::none:
        require(false);
        break;
    case encode_error::no_such_entry:
        require(!exists);
        break;
    case encode_error::address_misaligned:
        require(exists && (physical & ones(align - 1, 0)) != 0);
        break;
    case encode_error::address_too_wide:
        // Another bit of it could not be given back, whatever the address bits are.
        require(exists && (physical & ~l.address_in(l.mask(role::address))) != 0);
        break;
    case encode_error::permission_not_offered:
        require(exists && !can_grant(l.address_bits(physical) | l.value, k, level, grant, format));
        break;
    case encode_error::no_such_field:
    case encode_error::value_not_legal:
        require(false);  // no field was asked for
        break;
    }
}

/// The same entry with one named field more: it has the field, or is refused for it.
template <class Format>
void try_encode_field(const Format& format, kind k, unsigned level, std::uint64_t physical, unsigned which,
                      std::uint64_t value)
{
    constexpr auto& rows = Format::description::rows;
    const auto member = rows[which % std::size(rows)].member;
    if (member == nullptr) return;
    const entry_field& f = format->fields().*member;
    const encoded bare = encode(k, level, physical, {}, format);
    if (!bare || !f.exists()) return;
    const std::uint64_t fits = value & ones(f.width() - 1, 0);
    const encoded made = encode(k, level, physical, {}, format, f(fits));
    const std::uint64_t whole = bare.entry | static_cast<std::uint64_t>(f(fits));
    const layout& l = format->layout_at(level, k);
    if (made) {
        require(made.entry == whole && legal(whole, level, format) && kind_of(whole, level, format) == k);
        if (fits != 0) require(f.get(whole) == fits && f.in().contains(level, k));
        // A shared bit is both a field and part of the address.
        const std::uint64_t named = l.address_in(f(fits) & l.mask(role::address));
        require(address_of(whole, level, format) == (physical | named));
        require(permissions_of(whole, level, format) == permissions_of(bare.entry, level, format));
    } else if (made.error == encode_error::no_such_field) {
        require(!f.in().contains(level, k));
    } else {
        require(made.error == encode_error::value_not_legal && f.in().contains(level, k));
        const std::uint64_t given = l.permission_mask() | l.mask(role::fixed) | l.mask(role::address);
        require((f.mask() & given) != 0 || !legal(whole, level, format));
    }
}

// ---- rules

/// The forbidden combinations of EPT, in the words of the manual.
bool breaks_more(std::uint64_t entry, kind k, const ept_features& f)
{
    const auto has = [entry](unsigned index) { return (entry >> index & 1) != 0; };
    if (!has(0) && has(1)) return true;
    if (!has(0) && !f.execute_only && (has(2) || (f.mode_based_execute && has(10)))) return true;
    if (k == kind::leaf && f.paging_write && !has(0) && has(58)) return true;
    const std::uint64_t type = entry >> 3 & 7;
    return k == kind::leaf && (type == 2 || type == 3 || type == 7);
}
template <class Features>
bool breaks_more(std::uint64_t, kind, const Features&)
{
    return false;
}

template <class Format>
void try_rules(const Format& format, std::uint64_t entry, unsigned level)
{
    const finding found = diagnose(entry, level, format);
    const bool exists = level >= 1 && level <= format->shape().levels;
    require((found.broken == rule::no_such_level) == !exists);
    if (!exists) return;
    const kind k = kind_of(entry, level, format);
    const layout& l = format->layout_at(level, k);
    require(&l == &layout_of(entry, level, format));
    const permissions p = permissions_of(entry, level, format);
    if (!present(entry, format)) {
        require(!found && p == permissions{false, false, false, false, false});
        return;
    }
    const std::uint64_t wrong = entry & (~l.all | l.mask(role::reserved));
    require(static_cast<bool>(found) == (wrong != 0 || breaks_more(entry, k, format->features())));
    if (wrong != 0) require(found.bits != 0 && (found.bits & ~wrong) == 0);
    if (wrong == 0 && found) require((found.bits & entry) != 0);
    // Bits that the MMU ignores change nothing.
    const std::uint64_t other = entry ^ (l.mask(role::software) & entry << 1);
    if (kind_of(other, level, format) != k) return;
    require(diagnose(other, level, format) == found && permissions_of(other, level, format) == p);
    require(address_of(other, level, format) == address_of(entry, level, format));
}

template <class Format>
void try_fields(const Format& format, std::uint64_t entry, std::uint64_t value)
{
    for (const auto& row : Format::description::rows) {
        if (row.member == nullptr) continue;
        const field f = format.*row.member;
        require(f == field{f.mask()} && f.exists() == (f.width() != 0));
        if (!f.exists()) {
            require(f.get(entry) == 0 && f.put(entry, 0) == entry);
            continue;
        }
        require(f.mask() == ones(f.shift() + f.width() - 1, f.shift()));
        const std::uint64_t fits = value & ones(f.width() - 1, 0);
        const std::uint64_t put = f.put(entry, fits);
        require(f.get(put) == fits && ((put ^ entry) & ~f.mask()) == 0 && f.put(put, f.get(entry)) == entry);
    }
    require(find_flaw(format).what == format->wrong().what);
}

/// Entries of kernels are not random: this one has no reserved bits set.
std::uint64_t mended(std::uint64_t entry, const layout& l)
{
    entry &= l.all & ~(l.mask(role::reserved) | l.mask(role::fixed));
    return entry | l.value;
}

// ---- flushes

template <class Format>
void try_flush(const Format& format, std::uint64_t before, std::uint64_t after, unsigned level)
{
    require(!needs_flush(before, before, format, level));
    const bool translated = present(before, format) && legal(before, level, format);
    const bool flush = needs_flush(before, after, format, level);
    if (!translated) {
        require(!flush);
        return;
    }
    require(needs_flush(before, 0, format, level));
    const kind k = kind_of(before, level, format);
    const layout& l = format->layout_at(level, k);
    // Setting A or D, or what the MMU ignores, never calls for a flush; clearing D does.
    const std::uint64_t silent = l.mask(role::accessed) | l.mask(role::dirty) | l.mask(role::software);
    require(!needs_flush(before, before | (silent & after), format, level));
    require(!needs_flush(before, before & ~(l.mask(role::accessed) & after), format, level));
    if ((before & l.mask(role::dirty)) != 0) require(needs_flush(before, before ^ l.mask(role::dirty), format, level));
    if (flush) return;
    require(present(after, format) && legal(after, level, format) && kind_of(after, level, format) == k);
    require(address_of(before, level, format) == address_of(after, level, format));
    require(((before ^ after) & l.mask(role::memory_type)) == 0);
    const permissions had = permissions_of(before, level, format);
    const permissions has = permissions_of(after, level, format);
    require(has.read >= had.read && has.write >= had.write && has.user >= had.user);
    require(has.execute >= had.execute && has.user_execute >= had.user_execute);
}

// ---- sizes

template <class Format>
void try_sizes(const Format& format, std::uint64_t entry, unsigned from, unsigned to, unsigned index)
{
    const resized other = detail::resize_leaf(entry, from, to, format);
    const bool is_leaf = from >= 1 && from <= format->shape().levels && present(entry, format) &&
                         legal(entry, from, format) && kind_of(entry, from, format) == kind::leaf;
    require((other.error == split_error::not_a_leaf) == !is_leaf);
    if (other) {
        require(detail::resize_leaf(other.entry, to, from, format).error == split_error::none);
        require(permissions_of(other.entry, to, format) == permissions_of(entry, from, format));
    } else {
        require(other.entry == 0);
        // Bits that have one role in both sizes are no reason.
        const layout& old = format->layout_at(from, kind::leaf);
        const layout& wanted = format->layout_at(to, kind::leaf);
        std::uint64_t keep = old.mask(role::address) | old.mask(role::fixed);
        for (unsigned r = 0; r < role_count; ++r) keep |= old.masks[r] & wanted.masks[r];
        require(!is_leaf || !format->exists(to, kind::leaf) || (entry & ~keep) != 0);
    }

    const resized part = split(entry, from, index, format);
    const unsigned small = from - 1;
    if (!part) {
        require(part.entry == 0);
        if (!detail::resize_leaf(entry, from, small, format)) return;
        const layout& l = format->layout_at(small, kind::leaf);
        const std::uint64_t physical =
            address_of(entry, from, format) + (std::uint64_t{index} << format->shape().page_shift(small));
        require(l.address_in(l.address_bits(physical)) != physical);
        return;
    }
    require(is_leaf && present(part.entry, format) && legal(part.entry, small, format));
    require(kind_of(part.entry, small, format) == kind::leaf);
    require(address_of(part.entry, small, format) ==
            address_of(entry, from, format) + (std::uint64_t{index} << format->shape().page_shift(small)));
    require(permissions_of(part.entry, small, format) == permissions_of(entry, from, format));
    const auto same = [&](role r) {
        return (part.entry & format->layout_at(small, kind::leaf).mask(r)) ==
               (entry & format->layout_at(from, kind::leaf).mask(r));
    };
    require(same(role::accessed) && same(role::dirty) && same(role::software) && same(role::attribute));
    if constexpr (std::is_same_v<typename Format::description::fields, x86_fields>) {
        require(pat_index(part.entry, format->layout_at(small, kind::leaf), format->fields()) ==
                pat_index(entry, format->layout_at(from, kind::leaf), format->fields()));
    } else {
        require(same(role::memory_type));
    }
}

/// All parts of a page, one of them changed, together again.
template <class Format>
void try_merge(const Format& format, std::uint64_t leaf, unsigned level, std::uint64_t change, unsigned at,
               std::uint64_t above)
{
    if (!split(leaf, level, 0, format)) return;
    const std::uint64_t granting = encode(kind::table, level, 0, {}, format).entry;
    const auto go = [&]<class Word>(std::type_identity<Word>) {
        std::vector<Word> parts;
        for (unsigned i = 0; i < 1U << format->shape().index_bits_at(level - 1); ++i) {
            parts.push_back(static_cast<Word>(split(leaf, level, i, format).entry));
        }
        require(merge(parts.data(), granting, level, format).entry == leaf);

        Word& one = parts[at % parts.size()];
        one ^= static_cast<Word>(change);
        const resized whole = merge(parts.data(), above, level, format);
        // All entries of a walk must grant, and none takes away what the leaf has.
        const permissions alone = permissions_of(parts[0], level - 1, format);
        bool above_grants = kind_of(above, level, format) == kind::table && legal(above, level, format) &&
                            (permissions_of(above, level, format) & alone) == alone;
        if constexpr (requires { format->features().guest_mode_execute_trap; }) {
            // With GMET, U/S clear above lets the supervisor execute what the leaf denies it.
            const bool left_open = alone.user_execute && !alone.execute && (above & format->user.mask()) == 0;
            if (format->modes_apart() && format->layout_at(level, kind::table).mask(role::user) != 0) {
                above_grants = above_grants && !left_open;
            }
        }
        // Writes that need no write permission of the page go by that of the entries above.
        if constexpr (requires { format->paging_write; }) {
            const std::uint64_t otherwise =
                format->paging_write.mask() | format->supervisor_shadow_stack.mask() | format->sub_page_write.mask();
            const bool by_those_above = (parts[0] & otherwise) != 0;
            above_grants = above_grants && (!by_those_above || (above & format->write.mask()) != 0);
        }
        // HLAT paging ends at an entry with restart, so that the leaves below are not its.
        if constexpr (requires { format->restart; })
            above_grants = above_grants && (above & format->restart.mask()) == 0;
        const layout& l = format->layout_at(level, kind::leaf);
        const std::uint64_t flags = l.mask(role::accessed) | l.mask(role::dirty);
        if (!whole) {
            require(whole.entry == 0 && (!above_grants || (static_cast<Word>(change) & ~flags) != 0));
            return;
        }
        // The first one decides, so the others are as it is; where it was the one that was changed, by A and D only.
        require(above_grants);
        require(present(whole.entry, format) && legal(whole.entry, level, format));
        require(kind_of(whole.entry, level, format) == kind::leaf);
        // A and D of any, the rest of all.
        std::uint64_t any = 0;
        for (const Word part : parts) any |= part & flags;
        require(whole.entry == ((leaf & ~flags) | any));
    };
    if (format->shape().entry_bits == 64) {
        go(std::type_identity<std::uint64_t>{});
    } else {
        go(std::type_identity<std::uint32_t>{});
    }
}

// ---- live entries, by one thread

template <class Word, class Masks>
void try_slot(const Masks& by, Word entry)
{
    const bool is_page = translates(entry, by);
    Word slot = entry;
    if (by->accessed.exists()) {
        const bool was = is_page && (entry & by->accessed.mask()) != 0;
        require(age(slot, by, plainly) == was);
        require(slot == (was ? static_cast<Word>(entry & ~by->accessed.mask()) : entry));
        require(!age(slot, by, plainly));
    }
    slot = entry;
    const bool marks = is_page && by->accessed.exists() && (entry & by->accessed.mask()) == 0;
    require(mark_accessed(slot, by, plainly) == marks);
    require(slot == (marks ? static_cast<Word>(entry | by->accessed.mask()) : entry));
    slot = entry;
    if (by->dirty.exists()) {
        const bool was = is_page && (entry & by->dirty.mask()) != 0;
        require(clear_dirty(slot, by, plainly) == was);
        require(slot == (was ? static_cast<Word>(entry & ~by->dirty.mask()) : entry));
    }
    // Of a page with a place for it: set now, and found again. A shadow stack's page is none.
    slot = entry;
    if (mark_dirty(slot, by, plainly)) {
        require(is_page && slot == static_cast<Word>(entry | by->dirty.mask()) && slot != entry);
        require(clear_dirty(slot, by, plainly) && slot == entry);
    } else {
        require(slot == entry);
    }
    slot = entry;
    require(unmap(slot, by, plainly) == entry && slot == static_cast<Word>(by->empty()));
    require(!present(slot, by) && check_absent(slot, by) == absent_error::none);
    if (check_absent(entry, by) == absent_error::none)
        require(unmap(slot, by, entry, plainly) == by->empty() && slot == entry);
    if (check_marker(entry, by) != marker_error::none) return;
    // A marker is left alone by all of them.
    slot = entry;
    if (by->accessed.exists()) require(!age(slot, by, plainly));
    if (by->dirty.exists()) require(!clear_dirty(slot, by, plainly));
    require(!mark_accessed(slot, by, plainly) && slot == entry && entry != 0);
}

template <class Format>
void try_tracking(const Format& format, std::uint64_t entry)
{
    constexpr unsigned shift = 54;
    const std::uint64_t from = format->present_mask() & ~format->layout_at(1, kind::leaf).mask(role::write);
    const std::uint64_t to = from << shift;
    std::uint64_t kept = to;
    // A record of writes, where D does not stay in the entry: the lowest bit that no permission takes.
    const bool records = !format->dirty.exists() || format->shadow_stacks();
    const std::uint64_t record = records ? ~to & (to + (std::uint64_t{1} << shift)) : 0;
    kept |= record;
    bool free = from != 0 && to >> shift == from;
    if constexpr (requires { format->features().suppress_ve; }) {
        // #VE is suppressed in absent entries, so a leaf's bit is kept above the permissions.
        const unsigned above = format->features().mode_based_execute ? shift + 11 : shift + 3;
        free = free && (!format->features().suppress_ve || above < 64);
        if (free && format->features().suppress_ve) kept |= std::uint64_t{1} << above;
    }
    if constexpr (requires { format->features().memory_bits; }) {
        // An address past the memory is needed; one bit of it may be taken for encryption.
        unsigned end = format->features().physical_bits;
        if constexpr (requires { format->features().encryption_bit; }) {
            const optional_bits& encryption = format->features().encryption_bit;
            if (encryption.given && encryption.low < end) end = encryption.low;
        }
        free = free && format->features().memory_bits < end;
    }
    for (unsigned level = 1; level <= max_levels; ++level) {
        if (format->exists(level, kind::leaf)) {
            free = free && (kept & ~format->layout_at(level, kind::leaf).mask(role::software)) == 0;
        }
    }
    require((access_tracking<Format, shift>::free_in(format)) == free);
    if (!free) return;
    const auto by = track_accesses<shift>(format);
    const std::uint64_t write = format->layout_at(1, kind::leaf).mask(role::write);
    std::uint64_t slot = entry;
    switch (track(slot, by, plainly)) {
    case track_result::tracked:
    case track_result::tracked_writable:
        require(translates(entry, format) && is_tracked(slot, by) && !present(slot, format) && (slot & write) == 0);
        require(!needs_flush(entry, slot, by) || (entry & (write | format->revocable_writes())) != 0 ||
                !legal(entry, 1, format));
        require(check_absent(slot & ~(format->accessed | format->dirty), format) == absent_error::none);
        require(!age(slot, by, plainly) && restore(slot, by, plainly));
        require((slot & ~record) == (entry & ~(write | record | format->revocable_writes())));
        require(dirty(slot, by) == dirty(entry, by) && harvest_dirty(slot, by, plainly) == dirty(entry, by));
        require(!harvest_dirty(slot, by, plainly));
        break;
    case track_result::tracked_already:
        require(slot == entry && !present(entry, format) && restore(slot, by, plainly) && present(slot, format));
        break;
    case track_result::not_present:
    case track_result::saved_bits_in_use:
        require(slot == entry && !is_tracked(entry, by) && !restore(slot, by, plainly) && slot == entry);
        break;
    case track_result::changed:
        require(false);
    }
}

void try_masks(input& in)
{
    mask_values v;
    std::uint64_t* const all[] = {&v.present, &v.user, &v.accessed, &v.dirty, &v.no_execute, &v.execute};
    for (std::uint64_t* mask : all) {
        switch (in.byte() % 4) {
        case 0:
            break;
        case 1:
            *mask = in.number(8);
            break;
        default:
            *mask = std::uint64_t{1} << in.byte() % 64;
        }
    }
    const masks m = masks::from(v);
    const auto several = [](std::uint64_t mask) {
        unsigned bits = 0;
        for (; mask != 0; mask >>= 1) bits += mask & 1;
        return bits > 1;
    };
    bool overlap = (v.present & (v.accessed | v.dirty | v.no_execute)) != 0;
    for (std::size_t i = 1; i < std::size(all); ++i) {
        for (std::size_t k = i + 1; k < std::size(all); ++k) overlap = overlap || (*all[i] & *all[k]) != 0;
    }
    const bool good = v.present != 0 && !several(v.accessed) && !several(v.dirty) && !several(v.no_execute) &&
                      !overlap && (v.no_execute == 0 || v.execute == 0);
    require(m.valid() == good && m.error() == check(v));
    require(m.accessed.mask() == (good ? v.accessed : 0) && m.dirty.mask() == (good ? v.dirty : 0));
    require(m.present_mask() == (good ? v.present : 0));
    if (m.has_accessed()) require(std::uint64_t{1} << m.accessed_shift() == v.accessed);
    for (int i = 0; i < 4; ++i) {
        const std::uint64_t entry = in.number(8);
        try_slot(m, entry);
        require(good || !present(entry, m));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    input in(data, size);
    if (in.byte() % 8 == 0) {
        try_masks(in);
        return 0;
    }
    with_format_from(in, [&](const auto& format) {
        do {
            const unsigned chosen = in.byte();
            const unsigned level = chosen < 250 ? chosen % 6 : static_cast<unsigned>(in.number(4));
            const unsigned other = in.byte() % 7;
            const unsigned any = in.byte();
            const kind k = any < 120 ? kind::leaf : any < 240 ? kind::table : static_cast<kind>(any % kind_count);
            const layout& l = format->layout_at(level, k);

            const unsigned bits = in.byte();
            std::uint64_t physical = in.number(8);
            if ((bits & 32) != 0) physical &= l.address_in(l.mask(role::address));
            const auto granted = [bits](unsigned index) { return (bits >> index & 1) != 0; };
            try_encode(format, k, level, physical, {granted(0), granted(1), granted(2), granted(3), granted(4)});
            try_encode_field(format, k, level, physical, chosen, physical >> 3);

            std::uint64_t entry = in.number(8);
            if ((bits & 64) != 0) entry = mended(entry, l);
            std::uint64_t changed = in.number(8);
            if ((bits & 128) != 0) changed = entry ^ (std::uint64_t{1} << changed % 64);
            try_rules(format, entry, level);
            try_fields(format, entry, changed);
            try_flush(format, entry, changed, level);
            const bool has_parts = level >= 2 && level <= format->shape().levels;
            const unsigned parts = has_parts ? 1U << format->shape().index_bits_at(level - 1) : 1;
            try_sizes(format, entry, level, other, static_cast<unsigned>(changed % parts));
            if (has_parts && in.byte() % 16 == 0) {
                const std::uint64_t above = in.flag() ? in.number(8) : encode(kind::table, level, 0, {}, format).entry;
                try_merge(format, entry, level, std::uint64_t{1} << other << in.byte() % 58,
                          static_cast<unsigned>(physical >> 12), above);
            }
            if (format->shape().entry_bits == 64) {
                try_slot(format, entry);
                try_tracking(format, entry);
            } else {
                try_slot(format, static_cast<std::uint32_t>(entry));
            }
        } while (!in.empty());
    });
    return 0;
}
