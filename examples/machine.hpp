// SPDX-License-Identifier: BSL-1.0
// A simulated machine: memory, a TLB, and the MMU of a guest on a host. Commands drive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <istream>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/nested_walk.hpp>
#include <ptebits/text_stream.hpp>
#include <ptebits/x86.hpp>

#include "machine_config.hpp"
#include "translation_cache.hpp"

namespace simulated {

inline constexpr unsigned base_page_shift = 12;

// ---- memory

/// Physical memory, in x86's byte order. Slots of either size, and data.
class physical_memory {
public:
    explicit physical_memory(std::uint64_t pages) : bytes_(pages << base_page_shift) {}

    template <slot_word Word>
    [[nodiscard]] Word* operator()(std::uint64_t physical, std::type_identity<Word>)
    {
        if (!holds(physical) || physical % sizeof(Word) != 0) return nullptr;
        return reinterpret_cast<Word*>(bytes_.data() + physical);
    }
    [[nodiscard]] bool holds(std::uint64_t physical) const noexcept { return physical < bytes_.size(); }

    /// 8 bytes of data. Precondition: aligned, and in memory.
    [[nodiscard]] std::uint64_t load(std::uint64_t physical) const
    {
        std::uint64_t value = 0;
        for (unsigned i = 8; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(bytes_[physical + i]);
        return value;
    }
    void store(std::uint64_t physical, std::uint64_t value)
    {
        for (unsigned i = 0; i < 8; ++i) bytes_[physical + i] = static_cast<std::byte>(value >> 8 * i);
    }

private:
    std::vector<std::byte> bytes_;
};

// One thread alone uses memory, on a host of either byte order.
inline constexpr little_endian_access<plain_access> how{};

// ---- the machine

/// What the TLB remembers of a page: where it is, and what both walks allow. Rights are
/// judged at each use, since the mode, the controls and PKRU change without a flush.
struct translation {
    std::uint64_t linear = 0;                ///< of the 4-Kbyte page
    std::uint64_t physical = 0;              ///< the same
    unsigned guest_shift = base_page_shift;  ///< log2 of the guest's page, which INVLPG drops as a whole
    permissions guest;
    permissions host;
    unsigned key = 0;      ///< protection key
    bool written = false;  ///< D is set, in both formats
};

template <class Guest, class Host>
class machine {
public:
    machine(const config& c, Guest guest, Host host, std::ostream& out)
        : out_(out),
          guest_(std::move(guest)),
          host_(std::move(host)),
          memory_(c.memory_pages),
          tlb_(c.tlb_entries),
          cpu_(c.cpu)
    {
        if (c.translation_cache) cache_.emplace();
        // The host's tables come from the end of memory, down.
        next_host_table_ = c.memory_pages << base_page_shift;
        host_root_ = take_host_table();
        guest_root_ = next_guest_table_ = c.guest_tables;
        take_guest_table();
    }

    void command(const std::vector<std::string>& words)
    {
        const std::string& verb = words[0];
        const auto is = [&](std::string_view name, std::size_t count) {
            if (verb != name) return false;
            if (words.size() != count + 1) throw bad_input("wrong number of words for " + verb);
            return true;
        };
        if (is("load", 1)) return use(operation::read, verb, data_address(words[1]));
        if (is("store", 2)) return use(operation::write, verb, data_address(words[1]), number(words[2], 16));
        if (is("fetch", 1)) return use(operation::fetch, verb, data_address(words[1]));
        if (is("map", 5)) return map(in_guest(words[1]), words);
        if (is("entry", 4)) return write_entry(in_guest(words[1]), words);
        if (is("show", 2)) return show(in_guest(words[1]), number(words[2], 16));
        if (is("cpu", 2)) return set_named(cpu_, controls, words[1], words[2]);
        if (is("invlpg", 1)) return drop(number(words[1], 16));
        if (is("flush", 0)) return flush();
        if (is("user", 0) || is("kernel", 0)) {
            user_ = verb == "user";
            return;
        }
        throw bad_input("unknown command '" + verb + "'");
    }

    /// How often the translation cache did not suffice, if there is one.
    void tell_counts() const
    {
        if (!cache_) return;
        const cache_counts& n = cache_->counts();
        out_ << "translation cache: " << n.walks << " walks; " << n.guest_walks << " from the guest's root, "
             << n.host_walks << " of the host's tables, " << n.full_walks << " in full\n";
    }

private:
    static constexpr bool paged = !std::is_same_v<Guest, unpaged>;
    static constexpr bool extended = std::is_same_v<regime_of<Host>, extended_paging>;
    using reached = nested_result<memory_access>;

    // ---- accesses

    void use(operation what, const std::string& verb, std::uint64_t linear, std::uint64_t value = 0)
    {
        out_ << verb << ' ' << hex(linear) << ": ";
        const memory_access a{.what = what, .user = user_};
        std::optional<translation>& known = entry_of(linear);
        const bool hit = known && covers(*known, linear) && usable(*known, a);
        if (!hit) {
            known.reset();  // a fault, too, drops what the TLB has of the page
            const reached r = walk_for(a, linear);
            if (!r) return tell_fault(r, a, linear);
            known = remember(r, a, linear);
        }
        const std::uint64_t physical = known->physical | (linear & ones(base_page_shift - 1, 0));
        if (!memory_.holds(physical)) {
            out_ << "no memory at physical " << hex(physical) << '\n';
            return;
        }
        if (what == operation::write) memory_.store(physical, value);
        out_ << hex(memory_.load(physical)) << " at physical " << hex(physical) << (hit ? ", TLB\n" : ", walk\n");
    }

    [[nodiscard]] reached walk_for(const memory_access& a, std::uint64_t linear)
    {
        if (cache_) return cache_->walk(guest_, guest_root_, host_, host_root_, linear, a, {cpu_}, memory_, 0, how);
        return nested_walk(guest_, guest_root_, host_, host_root_, linear, a, cpu_, memory_, update_flags::yes, how);
    }

    [[nodiscard]] std::optional<translation>& entry_of(std::uint64_t linear)
    {
        return tlb_[(linear >> base_page_shift) % tlb_.size()];
    }

    [[nodiscard]] static bool covers(const translation& t, std::uint64_t linear)
    {
        return t.linear == (linear & ~ones(base_page_shift - 1, 0));
    }

    /// Whether an access may go by the TLB. If not a walk decides: it faults, or sets D.
    [[nodiscard]] bool usable(const translation& t, const memory_access& a) const
    {
        memory_access of_host = a;
        if constexpr (paged) {
            if (key_denies(t.key, t.guest, a, cpu_, guest_) || !ordinary_paging::allows(t.guest, a, cpu_)) return false;
            if constexpr (extended) of_host.user = t.guest.user;
        }
        walk_result in_host;
        in_host.allowed = t.host;
        return regime_of<Host>::allows(in_host, 0, of_host, {}, host_) && (!a.writes() || t.written);
    }

    [[nodiscard]] translation remember(const reached& r, const memory_access& a, std::uint64_t linear) const
    {
        const std::uint64_t in_page = ones(base_page_shift - 1, 0);
        translation t;
        t.linear = linear & ~in_page;
        t.physical = r.address() & ~in_page;
        t.host = r.host.allowed;
        t.written = a.writes();
        if constexpr (paged) {
            t.guest_shift = r.guest.page_shift;
            t.guest = r.guest.allowed;
            t.key = static_cast<unsigned>(guest_->protection_key.get(r.guest.path[r.guest.steps - 1].entry));
        }
        return t;
    }

    /// INVLPG: all entries of the guest's page, however small the TLB's pieces of it are.
    void drop(std::uint64_t linear)
    {
        for (auto& t : tlb_) {
            if (t && (t->linear ^ linear) >> t->guest_shift == 0) t.reset();
        }
        if (cache_) cache_->flush_guest(flush_scope::addresses);
    }

    /// INVEPT, TLB_CONTROL.
    void flush()
    {
        tlb_.assign(tlb_.size(), {});
        if (cache_) cache_->flush_host();
    }

    // ---- faults

    struct code_bit {
        unsigned index;
        const char* name;
    };
    static constexpr code_bit page_fault_bits[] = {{0, "P"},   {1, "W"},  {2, "U"},      {3, "RSVD"},
                                                   {4, "I/D"}, {5, "PK"}, {32, "final"}, {33, "guest table"}};
    static constexpr code_bit qualification_bits[] = {{0, "read"},       {1, "write"},     {2, "fetch"},
                                                      {3, "R allowed"},  {4, "W allowed"}, {5, "X allowed"},
                                                      {6, "XU allowed"}, {7, "linear"},    {8, "final"}};

    template <std::size_t Count>
    [[nodiscard]] static std::string in_words(std::uint64_t code, const code_bit (&names)[Count])
    {
        std::string text;
        for (const code_bit& b : names) {
            if ((code >> b.index & 1) != 0) text += (text.empty() ? " (" : ", ") + std::string(b.name);
        }
        return hex(code) + (text.empty() ? "" : text + ')');
    }

    void tell_fault(const reached& r, const memory_access& a, std::uint64_t linear) const
    {
        if (r.where == dimension::host) {
            tell_host_fault(r);
        } else if constexpr (paged) {
            switch (r.guest.fault) {
            case fault_kind::not_canonical:
                out_ << "#GP, the address is not canonical\n";
                break;
            case fault_kind::pdpte_reserved:  // a CPU finds it when CR3 is loaded
                out_ << "#GP, reserved bits " << hex(r.guest.bits) << " in a PDPTE\n";
                break;
            case fault_kind::address_too_wide:
                out_ << "the address has more bits than the guest's tables translate\n";
                break;
            case fault_kind::memory_absent:
                out_ << "no memory behind the guest's table of level " << r.guest.level << '\n';
                break;
            default:
                if (const reported_code code = fault_code(r, a, cpu_, guest_, host_)) {
                    out_ << "#PF, error code " << in_words(code.value, page_fault_bits) << ", CR2 " << hex(linear)
                         << '\n';
                } else {
                    out_ << "the walk ends: " << name(r.guest.fault) << '\n';
                }
            }
        }
    }

    void tell_host_fault(const reached& r) const
    {
        if (r.host.fault == fault_kind::memory_absent) {
            out_ << "no memory behind the host's table of level " << r.host.level << '\n';
            return;
        }
        const reported_code reported = fault_code(r.host, r.host_access, {}, host_);
        if (!reported) {
            out_ << "the host's walk ends: " << name(r.host.fault) << '\n';
            return;
        }
        const std::uint64_t code = reported.value;
        if constexpr (!extended) {
            out_ << "#NPF, EXITINFO1 " << in_words(code, page_fault_bits) << ", EXITINFO2 " << hex(r.guest_physical)
                 << '\n';
        } else if (r.host.fault == fault_kind::misconfiguration) {
            out_ << "EPT misconfiguration, guest-physical address " << hex(r.guest_physical) << ", level "
                 << r.host.level << ": " << name(r.host.broken) << '\n';
        } else {
            out_ << "EPT violation, qualification " << in_words(code, qualification_bits) << ", guest-physical address "
                 << hex(r.guest_physical) << '\n';
        }
    }

    // ---- tables, as the guest's kernel and the hypervisor write them

    [[nodiscard]] static bool in_guest(const std::string& word)
    {
        if (word != "host" && word != "guest") throw bad_input("'" + word + "' is neither host nor guest");
        if (word == "guest" && !paged) throw bad_input("the guest has no tables");
        return word == "guest";
    }

    [[nodiscard]] static std::uint64_t data_address(const std::string& word)
    {
        const std::uint64_t address = number(word, 16);
        if (address % 8 != 0) throw bad_input("'" + word + "' is not aligned to 8 bytes");
        return address;
    }

    std::uint64_t take_host_table()
    {
        if (next_host_table_ == 0) throw bad_input("no memory is left for a table of the host");
        return next_host_table_ -= std::uint64_t{1} << base_page_shift;
    }
    std::uint64_t take_guest_table()
    {
        return std::exchange(next_guest_table_, next_guest_table_ + (std::uint64_t{1} << base_page_shift));
    }

    /// Guest-physical memory as the guest's kernel sees it, without a trace in A and D.
    [[nodiscard]] auto guest_memory()
    {
        return [this]<slot_word Word>(std::uint64_t guest_physical, std::type_identity<Word> size) {
            const walk_result r =
                walk(host_, host_root_, guest_physical, {.user = true}, {}, memory_, update_flags::no, how);
            if (!r) throw bad_input("the host does not map guest-physical " + hex(guest_physical));
            return memory_(r.address, size);
        };
    }

    void map(bool of_guest, const std::vector<std::string>& words)
    {
        const mapping m{number(words[2], 16), number(words[3], 16), words[4], words[5]};
        if (!of_guest) {
            map(host_, host_root_, memory_, m, [this] { return take_host_table(); });
        } else if constexpr (paged) {
            map(guest_, guest_root_, guest_memory(), m, [this] { return take_guest_table(); });
        }
    }

    struct mapping {
        std::uint64_t from;
        std::uint64_t to;
        std::string_view size;
        std::string_view rights;
    };

    template <class F, class Memory, class Allocate>
    static void map(const F& format, std::uint64_t root, Memory&& memory, const mapping& m, Allocate new_table)
    {
        const unsigned target = level_of(format, m.size);
        field_values write_back;
        if constexpr (std::is_same_v<regime_of<F>, extended_paging>) write_back = format->memory_type(6);
        const std::uint64_t entry =
            checked(encode(kind::leaf, target, m.to, rights_of(format, m.rights), format, write_back));
        with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
            std::uint64_t table = root;
            for (unsigned level = format->shape().levels;; --level) {
                Word* const slot = slot_in<Word>(memory, format->shape().slot_address(table, m.from, level));
                if (slot == nullptr) throw bad_input("no memory behind a table of level " + std::to_string(level));
                if (level == target) return store(*slot, static_cast<Word>(entry), how);
                Word upper = load(*slot, how);
                if (!present(upper, format)) {
                    upper = static_cast<Word>(checked(encode(kind::table, level, new_table(), {}, format)));
                    store(*slot, upper, how);
                }
                if (kind_of(upper, level, format) == kind::leaf) throw bad_input("a larger page is mapped there");
                table = address_of(upper, level, format);
            }
        });
    }

    [[nodiscard]] static std::uint64_t checked(const encoded& e)
    {
        if (!e) throw bad_input(name(e.error));
        return e.entry;
    }

    template <class F>
    [[nodiscard]] static unsigned level_of(const F& format, std::string_view size)
    {
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            const unsigned shift = format->shape().page_shift(level);
            if (size == std::to_string(1U << shift % 10) + "BKMGT"[shift / 10]) return level;
        }
        throw bad_input("the format has no pages of '" + std::string(size) + "'");
    }

    template <class F>
    [[nodiscard]] static permissions rights_of(const F& /*format*/, std::string_view letters)
    {
        if (letters != "-" && letters.find_first_not_of("rwxu") != std::string_view::npos) {
            throw bad_input("rights are of rwxu, or -, not '" + std::string(letters) + "'");
        }
        const auto has = [&](char c) { return letters.find(c) != std::string_view::npos; };
        const bool ordinary = std::is_same_v<regime_of<F>, ordinary_paging>;
        return {.read = has('r'),
                .write = has('w'),
                .execute = has('x'),
                .user = !ordinary || has('u'),
                .user_execute = has('u') && (has('x') || !ordinary)};
    }

    // ---- single entries

    [[nodiscard]] walk_result look(bool of_guest, std::uint64_t address)
    {
        if constexpr (paged) {
            if (of_guest) return walk(guest_, guest_root_, address, {}, {}, guest_memory(), update_flags::no, how);
        }
        return walk(host_, host_root_, address, {.user = true}, {}, memory_, update_flags::no, how);
    }

    void write_entry(bool of_guest, const std::vector<std::string>& words)
    {
        const std::uint64_t level = number(words[2], 10);
        const std::uint64_t value = number(words[4], 16);
        const walk_result r = look(of_guest, number(words[3], 16));
        const auto put = [&](const auto& format, auto&& memory) {
            const std::uint64_t step = format->shape().levels - level;
            if (step >= r.steps) throw bad_input("no entry of level " + words[2] + " on the way");
            with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
                if (static_cast<Word>(value) != value) throw bad_input("the entry has fewer bits than " + words[4]);
                store(*slot_in<Word>(memory, r.path[step].slot_address), static_cast<Word>(value), how);
            });
        };
        if (!of_guest) return put(host_, memory_);
        if constexpr (paged) put(guest_, guest_memory());
    }

    void show(bool of_guest, std::uint64_t address)
    {
        out_ << (of_guest ? "guest " : "host ") << hex(address) << ":\n";
        const walk_result r = look(of_guest, address);
        const auto print = [&](const auto& format) {
            for (unsigned i = 0; i < r.steps; ++i) {
                const unsigned level = format->shape().levels - i;
                const std::uint64_t entry = r.path[i].entry;
                out_ << "  level " << level << " at " << hex(r.path[i].slot_address) << ": " << hex(entry) << ", "
                     << ptebits::in_words(entry, level, format) << '\n';
            }
        };
        if (!of_guest) return print(host_);
        if constexpr (paged) print(guest_);
    }

    std::ostream& out_;
    Guest guest_;
    Host host_;
    physical_memory memory_;
    std::vector<std::optional<translation>> tlb_;  // direct mapped
    std::optional<translation_cache<>> cache_;
    cpu_controls cpu_;
    bool user_ = false;
    std::uint64_t guest_root_ = 0;  // CR3
    std::uint64_t host_root_ = 0;   // EPTP, nCR3
    std::uint64_t next_guest_table_ = 0;
    std::uint64_t next_host_table_ = 0;
};

[[nodiscard]] inline auto format_or_none(const shadow_features& features) { return format_for(features); }
[[nodiscard]] inline unpaged format_or_none(unpaged none) { return none; }

/// Runs a script on a machine made by a config; `file` is what errors call the script. Throws
/// bad_input, of which the lines before have been run.
inline void run(const config& c, std::istream& script, const std::string& file, std::ostream& out)
{
    const auto start = [&](const auto& guest, const auto& host) {
        machine m(c, format_or_none(guest), format_for(host), out);
        for_each_line(script, file, [&](const auto& words, unsigned) { m.command(words); });
        m.tell_counts();
    };
    std::visit(start, c.guest, c.host);
}

}  // namespace simulated
