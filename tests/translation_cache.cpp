// SPDX-License-Identifier: BSL-1.0
// The simulator's translation cache: as no cache at all to those who flush, and otherwise never more than a TLB may
// hold. Intel SDM volume 3, "Caching Translation Information"; AMD APM volume 2, "Translation-Lookaside Buffer".
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ptebits/nested_walk.hpp>
#include <ptebits/ptebits.hpp>
#include <translation_cache.hpp>
#include <vector>

#include "walking.hpp"

using namespace walking;

namespace {

using simulated::cache_counts;
using simulated::translation_cache;

constexpr std::size_t contexts = 2;
constexpr word blocks = 2;
constexpr word guest_tables_end = 16;  ///< guest-physical pages below hold tables, from here up data
constexpr word guest_pages = 24;
constexpr word frames = 48;  ///< of the host's memory, from first_frame up
constexpr word first_frame = 8;

/// What a guest or a host forgets to flush after it has changed something.
enum class forgets : std::uint8_t { nothing, invlpg, new_root, shared_tables, host };

/// An entry's place, and what it is when it is right.
struct slot_and_value {
    word at = 0;
    word value = 0;
    std::size_t owner = 0;  ///< of a guest's: whose tables
};

/// A write of a kernel or a hypervisor.
struct change {
    enum class sort : std::uint8_t { entry_of_guest, new_root, entry_of_host } is = sort::entry_of_guest;
    std::size_t context = 0;
    word at = 0;
    word entry = 0;
    bool all_contexts = false;  ///< those have the table, too
};

/// The tables of a guest with two address spaces, and of its host. All tables of a guest lie in its pages 0 up; an
/// address space has a table of each level, and two of level 1.
template <class Guest, class Host>
class world {
public:
    world(const Guest& guest, const Host& host, dice& d)
        : guest_(guest), host_(host), d_(d), memory_(0, first_frame + frames)
    {
        word table = 0;
        host_root_ = 0;
        for (unsigned level = host->shape().levels; level > 1; --level, table += page_bytes) {
            host_slots_.push_back({host->shape().slot_address(table, 0, level),
                                   encode(kind::table, level, table + page_bytes, {}, host).entry});
        }
        REQUIRE(table / page_bytes < first_frame);
        for (word p = 0; p < guest_pages; ++p) {
            frame_of_.push_back(first_frame + p);
            host_slots_.push_back({host->shape().slot_address(table, p * page_bytes, 1), leaf_of(p)});
        }
        for (const slot_and_value& s : host_slots_) put_entry(memory_, s.at, s.value, host->shape().entry_bits);

        const unsigned top = guest->shape().levels;
        word next = 0;
        for (std::size_t c = 0; c < contexts; ++c) {
            roots_.push_back(next);
            for (unsigned level = top; level > 1; --level, next += page_bytes) {
                for (word b = 0; b < (level == 2 ? blocks : 1); ++b) {
                    const word below = next + (1 + b) * page_bytes;
                    add_guest_slot({guest->shape().slot_address(next, linear(b, 0), level),
                                    encode(kind::table, level, below, {}, guest).entry, c});
                }
            }
            for (word b = 0; b < blocks; ++b, next += page_bytes) {
                for (word p = 0; p < 4; ++p) {
                    const word to = d.one_in(16) ? d.below(guest_pages)
                                                 : guest_tables_end + d.below(guest_pages - guest_tables_end);
                    add_guest_slot({guest->shape().slot_address(next, linear(b, p), 1),
                                    encode(kind::leaf, 1, to * page_bytes, {}, guest).entry, c});
                }
            }
        }
        REQUIRE(next <= guest_tables_end * page_bytes);
        present_roots_ = roots_;
    }

    [[nodiscard]] word linear(word block, word page) const
    {
        return block << guest_->shape().page_shift(2) | page * page_bytes;
    }
    [[nodiscard]] word root(std::size_t context) const { return present_roots_[context]; }
    [[nodiscard]] word host_root() const { return host_root_; }
    [[nodiscard]] arena& memory() { return memory_; }
    [[nodiscard]] word physical_of(word guest_physical) const
    {
        return frame_of_[guest_physical / page_bytes] * page_bytes + guest_physical % page_bytes;
    }
    [[nodiscard]] auto guest_memory()
    {
        return [this]<slot_word Word>(word at, std::type_identity<Word> size) {
            return at < guest_pages * page_bytes ? memory_(physical_of(at), size) : nullptr;
        };
    }

    /// Something that a kernel or a hypervisor may do, drawn at random: it makes an entry wrong, or right again.
    [[nodiscard]] change some_change()
    {
        if (d_.one_in(8)) {
            return {.is = change::sort::new_root, .context = d_.below(contexts), .entry = roots_[d_.below(contexts)]};
        }
        const bool mend = !wrong_.empty() && !d_.one_in(3);
        const place p = mend ? wrong_.back() : some_place();
        if (mend) {
            wrong_.pop_back();
        } else {
            wrong_.push_back(p);
        }
        const slot_and_value& s = p.of_host ? host_slots_[p.index] : guest_slots_[p.index];
        const unsigned bits = p.of_host ? host_->shape().entry_bits : guest_->shape().entry_bits;
        change c{.is = p.of_host ? change::sort::entry_of_host : change::sort::entry_of_guest,
                 .context = s.owner,
                 .at = s.at,
                 .entry = s.value};
        if (!mend && d_.one_in(3)) {  // another page or table: of the same address space; of the host, where data is
            const std::size_t own = guest_slots_.size() / contexts;
            c.entry = p.of_host ? leaf_of(guest_tables_end + d_.below(guest_pages - guest_tables_end))
                                : guest_slots_[d_.below(own) + s.owner * own].value;
        } else if (!mend) {
            constexpr word changed[] = {0, 1, 2, 5, 6, 7, 8, 9, 10, 57, 58, 59, 60, 63};
            c.entry = entry_at(memory_, p.of_host ? s.at : physical_of(s.at), bits) ^
                      word { 1 } << changed[d_.below(std::size(changed))];
        }
        c.entry &= ones(bits - 1, 0);
        // Who shares tables tells all address spaces of a change.
        c.all_contexts = root(0) == root(1) || root(s.owner) != roots_[s.owner];
        return c;
    }

    void make(const change& c)
    {
        if (c.is == change::sort::new_root) {
            present_roots_[c.context] = c.entry;
        } else if (c.is == change::sort::entry_of_guest) {
            put_entry(memory_, physical_of(c.at), c.entry, guest_->shape().entry_bits);
        } else {
            put_entry(memory_, c.at, c.entry, host_->shape().entry_bits);
        }
    }

    /// The hypervisor moves a page of the guest, with its content.
    void move(word page, word frame)
    {
        const auto content = [&](word of) {
            return memory_.words().begin() + static_cast<std::ptrdiff_t>(of * page_bytes / 8);
        };
        std::copy_n(content(frame_of_[page]), page_bytes / 8, content(frame));
        std::fill_n(content(frame_of_[page]), page_bytes / 8, word{0});
        frame_of_[page] = frame;
        slot_and_value& leaf = host_slots_[host_->shape().levels - 1 + page];
        leaf.value = leaf_of(page);
        put_entry(memory_, leaf.at, leaf.value, host_->shape().entry_bits);
    }

private:
    struct place {
        bool of_host = false;
        std::size_t index = 0;
    };

    [[nodiscard]] place some_place()
    {
        const bool of_host = d_.one_in(3);
        return {of_host, d_.below(of_host ? host_slots_.size() : guest_slots_.size())};
    }
    [[nodiscard]] word leaf_of(word page) const
    {
        field_values write_back;
        if constexpr (std::is_same_v<regime_of<Host>, extended_paging>) write_back = host_->memory_type(6);
        return encode(kind::leaf, 1, frame_of_[page] * page_bytes, {}, host_, write_back).entry;
    }
    void add_guest_slot(const slot_and_value& s)
    {
        guest_slots_.push_back(s);
        put_entry(memory_, physical_of(s.at), s.value, guest_->shape().entry_bits);
    }

    const Guest& guest_;
    const Host& host_;
    dice& d_;
    arena memory_;
    word host_root_ = 0;
    std::vector<word> frame_of_;
    std::vector<word> roots_;
    std::vector<word> present_roots_;
    std::vector<place> wrong_;
    std::vector<slot_and_value> guest_slots_;
    std::vector<slot_and_value> host_slots_;  ///< those of upper levels from the top, then a leaf for each guest page
};

struct access_of_guest {
    std::size_t context = 0;
    word address = 0;
    asked a;
    cpu_controls cpu;
};

template <class Guest, class Host>
access_of_guest some_access(const world<Guest, Host>& w, const Guest& guest, dice& d)
{
    access_of_guest x{.context = d.below(contexts),
                      .address = w.linear(d.below(blocks), d.below(4)) | (d.bits() & 0xff8),
                      .a = random_access(d),
                      .cpu = {}};
    x.a.guest_table = false;
    if (!d.one_in(3)) {  // or hardly anything would be allowed
        x.a.implicit = x.a.shadow_stack = false;
        return x;
    }
    x.cpu = random_controls(d);
    if (guest->shape().above == extension::sign && d.one_in(2)) {
        x.cpu.lass = d.one_in(4);
        x.cpu.lam_u48 = d.one_in(2);
        x.cpu.lam_u57 = d.one_in(2);
        x.address |= d.bits() & ones(62, 47);
    }
    return x;
}

/// Whether the paths of two walks that fault are the same, but for A and D that a walk by what was kept has set before.
template <class Guest>
bool same_way(const walk_result& a, const walk_result& b, const Guest& guest)
{
    const word flags = guest->accessed.mask() | guest->dirty.mask();
    bool same = a.steps == b.steps;
    for (unsigned i = 0; i < a.steps && same; ++i) {
        same = a.path[i].slot_address == b.path[i].slot_address && ((a.path[i].entry ^ b.path[i].entry) & ~flags) == 0;
    }
    return same;
}

/// Whether two walks came to the same, path and slots of the guest's upper levels aside.
template <class Guest, class Host>
bool same(const nested_result<asked>& a, const nested_result<asked>& b, const access_of_guest& x, const Guest& guest,
          const Host& host)
{
    if (a.where != b.where || a.last().fault != b.last().fault || a.guest_physical != b.guest_physical) return false;
    if (!a) {
        return same_outcome(a.guest, b.guest) && same_outcome(a.host, b.host) && same_way(a.guest, b.guest, guest) &&
               fault_code(a, x.a, x.cpu, guest, host) == fault_code(b, x.a, x.cpu, guest, host);
    }
    return a.address() == b.address() && a.page_shift() == b.page_shift() && a.guest.allowed == b.guest.allowed &&
           a.guest.level == b.guest.level && a.guest.last_entry() == b.guest.last_entry() &&
           a.guest_slots[a.guest.steps - 1] == b.guest_slots[b.guest.steps - 1] && a.host.allowed == b.host.allowed &&
           a.host_access == b.host_access && a.host.memory_type() == b.host.memory_type();
}

/// Plays one script on a machine with a cache and on one without. Returns after how many steps they differ; 0: never.
template <class Cache, class Guest, class Host>
unsigned first_difference(const Guest& guest, const Host& host, unsigned seed, forgets what, Cache& cache,
                          unsigned& reached, unsigned steps = 300)
{
    dice d(seed);
    const word apart = seed % 2 == 0 ? 1 : 64;  // of PCIDs: in places of their own, or in the same
    dice same_dice(seed + 1);
    dice same_again(seed + 1);
    world with(guest, host, same_dice);
    world without(guest, host, same_again);
    using enum change::sort;
    std::vector<word> free_frames;
    for (word f = guest_pages; f < frames; ++f) free_frames.push_back(first_frame + f);

    for (unsigned n = 1; n <= steps; ++n) {
        if (d.one_in(50)) {
            const word page = d.below(guest_pages);
            const word frame = free_frames[d.below(free_frames.size())];
            std::erase(free_frames, frame);
            free_frames.push_back(with.physical_of(page * page_bytes) / page_bytes);
            with.move(page, frame);
            without.move(page, frame);
            if (what != forgets::host) cache.flush_host();
        } else if (d.one_in(12)) {
            const change c = with.some_change();
            static_cast<void>(without.some_change());  // for the dice
            with.make(c);
            without.make(c);
            if (c.is == entry_of_host) {
                if (what != forgets::host) cache.flush_host();
            } else if (c.is == new_root) {
                if (what != forgets::new_root) cache.flush_guest(flush_scope::context, c.context * apart);
            } else if (c.all_contexts) {
                if (what != forgets::shared_tables) {
                    cache.flush_guest(flush_scope::everything);
                } else {
                    cache.flush_guest(flush_scope::context, c.context * apart);
                }
            } else if (what != forgets::invlpg) {
                cache.flush_guest(flush_scope::addresses, c.context * apart);
            }
        } else {
            const access_of_guest x = some_access(with, guest, d);
            const auto a = cache.walk(guest, with.root(x.context), host, with.host_root(), x.address, x.a, {x.cpu},
                                      with.memory(), x.context * apart, plain_access{});
            const auto b = nested_walk(guest, without.root(x.context), host, without.host_root(), x.address, x.a, x.cpu,
                                       without.memory(), update_flags::yes, plain_access{});
            if (a) ++reached;
            if (!same(a, b, x, guest, host) || with.memory().words() != without.memory().words()) return n;
        }
    }
    return 0;
}

/// What a CPU's TLBs may hold: what was so at some time since the last flush that takes it.
template <class Guest, class Host>
class may_hold {
public:
    may_hold(world<Guest, Host>& w, const Guest& guest, const Host& host)
        : w_(w), guest_(guest), host_(host), tables_(contexts * blocks), pages_(guest_pages)
    {
        note_host();
    }

    /// After a change of the host's tables.
    void note_host()
    {
        for (word p = 0; p < guest_pages; ++p) {
            const walk_result r = ptebits::walk(host_, w_.host_root(), p * page_bytes, {.user = true}, {}, w_.memory(),
                                                update_flags::no, plain_access{});
            if (r.page_shift != 0) pages_[p].push_back({r.address, r.allowed});
        }
    }
    void flush_guest(flush_scope scope, std::size_t context)
    {
        for (std::size_t c = 0; c < contexts; ++c) {
            if (scope == flush_scope::everything || c == context) forget(c);
        }
    }
    void flush_host()
    {
        flush_guest(flush_scope::everything, 0);
        for (auto& p : pages_) p.clear();
        note_host();
    }

    /// Whether all of a result may come from what is held and from what is in memory. The guest's tables as they are
    /// now, read by any of the host's translations, are among what is held.
    [[nodiscard]] bool allows(const nested_result<asked>& r, const access_of_guest& x)
    {
        const word block = x.address >> guest_->shape().page_shift(2) & (blocks - 1);
        auto& held = tables_[x.context * blocks + block];
        note_tables(held, guest_->shape().levels, w_.root(x.context), {}, w_.linear(block, 0));
        const walk_step leaf = r.guest.path[r.guest.steps - 1];
        const word flags = guest_->accessed.mask() | guest_->dirty.mask();
        const word now = entry_at(w_.memory(), r.guest_slots[r.guest.steps - 1], guest_->shape().entry_bits);
        if (((now ^ leaf.entry) & ~flags) != 0) return false;
        const permissions own = permissions_of(leaf.entry, r.guest.level, guest_);
        const bool from_table = std::any_of(held.begin(), held.end(), [&](const above& t) {
            const unsigned level = r.guest.level;
            return t.level == level && (t.allowed & own) == r.guest.allowed &&
                   guest_->shape().slot_address(t.table, x.address, level) == leaf.slot_address;
        });
        const auto reads = [&](word guest_physical, word physical, const permissions* allowed) {
            if (guest_physical / page_bytes >= guest_pages) return false;
            const auto& there = pages_[guest_physical / page_bytes];
            return std::any_of(there.begin(), there.end(), [&](const page& p) {
                return p.address == physical - guest_physical % page_bytes &&
                       (allowed == nullptr || p.allowed == *allowed);
            });
        };
        const bool leads =
            address_of(leaf.entry, r.guest.level, guest_) == (r.guest_physical & ~ones(r.guest.page_shift - 1U, 0));
        return from_table && leads && reads(leaf.slot_address, r.guest_slots[r.guest.steps - 1], nullptr) &&
               reads(r.guest_physical, r.address(), &r.host.allowed);
    }

private:
    struct above {
        word table = 0;
        unsigned level = 0;
        permissions allowed;
    };
    struct page {
        word address = 0;
        permissions allowed;
    };

    void forget(std::size_t context)
    {
        for (word b = 0; b < blocks; ++b) tables_[context * blocks + b].clear();
    }
    /// Adds the tables in which a walk may look for a leaf: by each translation of the tables above.
    // NOLINTNEXTLINE(misc-no-recursion): no deeper than the tables
    void note_tables(std::vector<above>& to, unsigned level, word table, const permissions& allowed, word linear)
    {
        to.push_back({table, level, allowed});
        if (level == 1 || table / page_bytes >= guest_pages) return;
        const word slot = guest_->shape().slot_address(table, linear, level);
        word last = 0;
        for (const page& p : pages_[slot / page_bytes]) {
            if (p.address == last) continue;
            last = p.address;
            const word entry = entry_at(w_.memory(), p.address + slot % page_bytes, guest_->shape().entry_bits);
            if (kind_of(entry, level, guest_) != kind::table) continue;
            note_tables(to, level - 1, address_of(entry, level, guest_), allowed & permissions_of(entry, level, guest_),
                        linear);
        }
    }

    world<Guest, Host>& w_;
    const Guest& guest_;
    const Host& host_;
    std::vector<std::vector<above>> tables_;
    std::vector<std::vector<page>> pages_;
};

/// Plays a script whose guest and host flush late, or never; nobody flushes if `flushes` is false, but the model is
/// told that they do. Returns how many answers were none that a TLB gives.
template <class Guest, class Host>
unsigned wrong_answers(const Guest& guest, const Host& host, unsigned seed, bool flushes, unsigned& stale)
{
    dice d(seed);
    dice of_world(seed + 1);
    world w(guest, host, of_world);
    translation_cache<> cache;
    may_hold model(w, guest, host);
    unsigned wrong = 0;
    for (unsigned n = 0; n < 300; ++n) {
        if (d.one_in(10)) {
            const change c = w.some_change();
            w.make(c);
            if (c.is == change::sort::entry_of_host) model.note_host();
        } else if (d.one_in(10)) {
            const std::size_t context = d.below(contexts);
            const flush_scope scope = d.one_in(3) ? flush_scope::everything : flush_scope::context;
            const bool of_host = d.one_in(2);
            if (of_host) {
                model.flush_host();
                if (flushes) cache.flush_host();
            } else {
                model.flush_guest(scope, context);
                if (flushes) cache.flush_guest(scope, context);
            }
        } else {
            access_of_guest x = some_access(w, guest, d);
            x.cpu.lam_u48 = x.cpu.lam_u57 = false;
            const nested_result<asked> now = nested_walk(guest, w.root(x.context), host, w.host_root(), x.address, x.a,
                                                         x.cpu, w.memory(), update_flags::no, plain_access{});
            const auto r = cache.walk(guest, w.root(x.context), host, w.host_root(), x.address, x.a, {x.cpu},
                                      w.memory(), x.context, plain_access{});
            if (r && (!now || r.address() != now.address())) ++stale;
            if (r && !model.allows(r, x)) ++wrong;
        }
    }
    return wrong;
}

/// Calls a function with formats of both stages: all shapes of a guest's tables, all ways of a host's flags.
template <class Function>
void for_formats(Function call)
{
    const auto over = [&](const auto& host) {
        for (const unsigned levels : {2U, 3U, 4U, 5U}) {
            call(format_for(shadow_features{.levels = levels, .physical_bits = 40, .user_keys = levels >= 4}), host);
        }
    };
    over(format_for(ept_features{}));
    over(format_for(ept_features{.accessed_dirty = false}));
    over(format_for(ept_features{.mode_based_execute = true, .verify_guest_paging = true, .paging_write = true}));
    over(format_for(npt_features{}));
    over(format_for(npt_features{.guest_mode_execute_trap = true, .read_only_guest_tables = true}));
}

}  // namespace

TEST_CASE("translation cache: the same outcomes, addresses, codes and entries as without, for those who flush")
{
    cache_counts all;
    unsigned reached = 0, script = 0;
    for_formats([&](const auto& guest, const auto& host) {
        const auto play = [&](auto cache, unsigned seed) {
            CAPTURE(seed);
            CHECK(first_difference(guest, host, seed, forgets::nothing, cache, reached) == 0);
            all.walks += cache.counts().walks;
            all.guest_walks += cache.counts().guest_walks;
            all.host_walks += cache.counts().host_walks;
            all.full_walks += cache.counts().full_walks;
        };
        for (unsigned n = 0; n < 3; ++n) {
            play(translation_cache<>{}, ++script);
            play(translation_cache<2, 4>{}, script);  // where places are used for several addresses
        }
    });
    // It was used: entries were found, and translations.
    CHECK(all.guest_walks < all.walks * 3 / 4);
    CHECK(all.host_walks < all.walks * 2);
    CHECK(reached > all.walks / 2);
}

TEST_CASE("translation cache: each flush that is left out is noticed")
{
    for (const forgets what : {forgets::invlpg, forgets::new_root, forgets::shared_tables, forgets::host}) {
        unsigned noticed = 0, script = 0;
        for_formats([&](const auto& guest, const auto& host) {
            for (unsigned n = 0; n < 3; ++n) {
                translation_cache<> cache;
                unsigned reached = 0;
                script += 2;
                if (first_difference(guest, host, script, what, cache, reached, 600) != 0) ++noticed;
            }
        });
        CAPTURE(static_cast<unsigned>(what));
        CHECK(noticed > 4);
    }
}

TEST_CASE("translation cache: without flushes it gives nothing that a TLB may not hold")
{
    unsigned stale = 0, wrong = 0, script = 0;
    for_formats([&](const auto& guest, const auto& host) {
        for (unsigned n = 0; n < 3; ++n) {
            CAPTURE(++script);
            CHECK(wrong_answers(guest, host, script, true, stale) == 0);
        }
        unsigned of_no_interest = 0;
        wrong += wrong_answers(guest, host, script, false, of_no_interest);
    });
    CHECK(stale > 100);  // and yet it differs from a walk
    CHECK(wrong > 100);  // flushes that the cache does not hear of are noticed
}
