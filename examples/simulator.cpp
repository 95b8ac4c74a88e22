// SPDX-License-Identifier: BSL-1.0
// simulator: the MMU of a simulated machine with a guest in it, as a machine simulator has
// it: formats by a config file, a nested walk, a TLB in front, and faults as the guest or
// its hypervisor would see them. A script of loads, stores and fetches drives it.
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ptebits/ept.hpp>
#include <ptebits/npt.hpp>
#include <ptebits/shadow.hpp>
#include <ptebits/text.hpp>
#include <ptebits/walk.hpp>

#include "features.hpp"

namespace {

using namespace ptebits;

constexpr std::string_view usage =
    "usage: simulator CONFIG [SCRIPT]   run a script, or standard input\n"
    "       simulator --help\n"
    "\n"
    "CONFIG has lines KEY = VALUE; # begins a comment.\n"
    "  memory = PAGES          of 4 Kbytes, 16 to 65536\n"
    "  tlb = ENTRIES           1 to 4096\n"
    "  guest = paging | none   the guest's own format; none: its paging is off\n"
    "  host = ept | npt        the host's\n"
    "  guest.FEATURE, host.FEATURE = VALUE   members of the format's features, as levels, physical_bits,\n"
    "                          execute_disable, accessed_dirty, execute_only; on, off or a number\n"
    "  guest.tables = ADDRESS  where the guest keeps its tables (guest-physical; the first is the root)\n"
    "  cpu.CONTROL = VALUE     write_protect, smep, smap, user_keys, pkru, ...\n"
    "\n"
    "A script has one command a line; numbers are hexadecimal, accesses are of 8 bytes.\n"
    "  map host GUEST-PHYSICAL PHYSICAL SIZE RIGHTS    SIZE is 4K, 2M, 4M or 1G, RIGHTS of rwxu or -\n"
    "  map guest LINEAR GUEST-PHYSICAL SIZE RIGHTS     u: user mode; with mode-based execute, its execution\n"
    "  entry host|guest LEVEL ADDRESS VALUE            writes an entry on the way to an address, as it is\n"
    "  show host|guest ADDRESS                         the entries on the way\n"
    "  load ADDRESS, store ADDRESS VALUE, fetch ADDRESS\n"
    "  user, kernel                                    the mode of what follows\n"
    "  cpu CONTROL VALUE\n"
    "  invlpg ADDRESS, flush                           the TLB is told of changes by these alone\n"
    "\n"
    "Exit status: 0, or 2 if the config, the script or the command line is wrong. Faults are no error.\n";

// ---- input

/// What is wrong with a line; the caller knows which.
struct bad_input : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::uint64_t number(std::string_view text, int base)
{
    std::string_view digits = text;
    if (digits.starts_with("0x")) {
        digits.remove_prefix(2);
        base = 16;
    }
    std::uint64_t value = 0;
    const auto [stop, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (problem != std::errc{} || stop != digits.data() + digits.size()) {
        throw bad_input("'" + std::string(text) + "' is not a number");
    }
    return value;
}

std::uint64_t number(std::string_view text, int base, std::uint64_t least, std::uint64_t most)
{
    const std::uint64_t value = number(text, base);
    if (value < least || value > most) throw bad_input("'" + std::string(text) + "' is out of range");
    return value;
}

bool on_off(std::string_view text)
{
    if (text != "on" && text != "off") throw bad_input("'" + std::string(text) + "' is neither on nor off");
    return text == "on";
}

std::string hex(std::uint64_t value)
{
    std::array<char, 16> digits;
    return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value, 16).ptr};
}

// One setter for each kind of member.
template <class Struct>
void set_member(Struct& s, bool Struct::* member, std::string_view value)
{
    s.*member = on_off(value);
}
template <class Struct>
void set_member(Struct& s, std::uint32_t Struct::* member, std::string_view value)
{
    s.*member = static_cast<std::uint32_t>(number(value, 10, 0, 0xffff'ffff));
}
template <class Struct>
void set_member(Struct& s, optional_bit Struct::* member, std::string_view value)
{
    s.*member = static_cast<unsigned>(number(value, 10, 0, 63));
}

template <class Struct, class Members>
void set_named(Struct& s, const Members& members, std::string_view name, std::string_view value)
{
    for (const auto& m : members) {
        if (m.name == name) return std::visit([&](auto member) { set_member(s, member, value); }, m.member);
    }
    throw bad_input("there is no '" + std::string(name) + "'");
}

struct control {
    std::string_view name;
    std::variant<bool cpu_controls::*, std::uint32_t cpu_controls::*> member;
};
constexpr control controls[] = {
    {"write_protect", &cpu_controls::write_protect},
    {"smep", &cpu_controls::smep},
    {"smap", &cpu_controls::smap},
    {"alignment_check", &cpu_controls::alignment_check},
    {"user_keys", &cpu_controls::user_keys},
    {"supervisor_keys", &cpu_controls::supervisor_keys},
    {"pkru", &cpu_controls::pkru},
    {"pkrs", &cpu_controls::pkrs},
};

/// Lines of a file in words, comments left out. Errors carry the file's name and the line.
template <class Function>
void for_each_line(std::istream& in, const std::string& file, Function take)
{
    std::string line;
    for (unsigned number = 1; std::getline(in, line); ++number) {
        try {
            std::istringstream text(line.substr(0, line.find('#')));
            std::vector<std::string> words;
            for (std::string word; text >> word;) words.push_back(word);
            if (!words.empty()) take(words, number);
        } catch (const bad_input& e) {
            throw bad_input(file + ':' + std::to_string(number) + ": " + e.what());
        }
    }
    if (in.bad()) throw bad_input(file + ": cannot be read");
}

// ---- config

struct config {
    std::uint64_t memory_pages = 256;
    std::uint64_t tlb_entries = 16;
    std::uint64_t guest_tables = 0x10000;
    std::variant<shadow_features, unpaged> guest;
    std::variant<ept_features, npt_features> host;
    cpu_controls cpu;
};

/// Sets a feature of the one format that is in use.
template <class Variant>
void set_feature(Variant& format, std::string_view name, std::string_view value)
{
    std::visit(
        [&]<class Features>(Features& features) {
            if constexpr (std::is_same_v<Features, unpaged>) {
                throw bad_input("a guest without paging has no features");
            } else {
                set_named(features, named::features_of(features), name, value);
            }
        },
        format);
}

/// What contradicts itself in the features, as a reason.
template <class Variant>
void check_features(const Variant& format, const std::string& whose)
{
    std::visit(
        [&]<class Features>(const Features& features) {
            if constexpr (!std::is_same_v<Features, unpaged>) {
                const flaw wrong = format_for(features).wrong();
                if (wrong.what != defect::none) throw bad_input(whose + ": " + name(wrong.what));
            }
        },
        format);
}

config read_config(const std::string& file)
{
    std::ifstream in(file);
    if (!in) throw bad_input(file + ": cannot be opened");
    config c;
    std::map<std::string, unsigned> seen;  // key to line
    const auto take = [&](const std::vector<std::string>& words, unsigned line) {
        if (words.size() != 3 || words[1] != "=") throw bad_input("not KEY = VALUE");
        const std::string& key = words[0];
        const std::string& value = words[2];
        if (!seen.emplace(key, line).second) throw bad_input(key + " is given twice");
        if (key == "memory") {
            c.memory_pages = number(value, 10, 16, 65536);
        } else if (key == "tlb") {
            c.tlb_entries = number(value, 10, 1, 4096);
        } else if (key == "guest") {
            if (value != "paging" && value != "none") throw bad_input("guest is paging or none");
            if (value == "none") c.guest = unpaged{};
        } else if (key == "host") {
            if (value != "ept" && value != "npt") throw bad_input("host is ept or npt");
            if (value == "npt") c.host = npt_features{};
        } else if (key == "guest.tables") {
            c.guest_tables = number(value, 16);
            if (c.guest_tables % 4096 != 0) throw bad_input("guest.tables is not the address of a page");
        } else if (key.starts_with("guest.")) {
            if (!seen.contains("guest")) throw bad_input("guest must come before " + key);
            set_feature(c.guest, std::string_view(key).substr(6), value);
        } else if (key.starts_with("host.")) {
            if (!seen.contains("host")) throw bad_input("host must come before " + key);
            set_feature(c.host, std::string_view(key).substr(5), value);
        } else if (key.starts_with("cpu.")) {
            set_named(c.cpu, controls, std::string_view(key).substr(4), value);
        } else {
            throw bad_input("unknown key '" + key + "'");
        }
    };
    for_each_line(in, file, take);
    for (const char* key : {"guest", "host"}) {
        if (!seen.contains(key)) throw bad_input(file + ": " + key + " is missing");
    }
    const auto check = [&](const auto& format, const std::string& whose) {
        try {
            check_features(format, whose);
        } catch (const bad_input& e) {
            throw bad_input(file + ':' + std::to_string(seen.at(whose)) + ": " + e.what());
        }
    };
    check(c.guest, "guest");
    check(c.host, "host");
    return c;
}

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
constexpr little_endian_access<plain_access> how{};

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
    machine(const config& c, Guest guest, Host host)
        : guest_(std::move(guest)), host_(std::move(host)), memory_(c.memory_pages), tlb_(c.tlb_entries), cpu_(c.cpu)
    {
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
        if (is("flush", 0)) return tlb_.assign(tlb_.size(), {});
        if (is("user", 0) || is("kernel", 0)) {
            user_ = verb == "user";
            return;
        }
        throw bad_input("unknown command '" + verb + "'");
    }

private:
    static constexpr bool paged = !std::is_same_v<Guest, unpaged>;

    // ---- accesses

    void use(operation what, const std::string& verb, std::uint64_t linear, std::uint64_t value = 0)
    {
        std::cout << verb << ' ' << hex(linear) << ": ";
        const memory_access a{.what = what, .user = user_};
        std::optional<translation>& known = entry_of(linear);
        const bool hit = known && covers(*known, linear) && usable(*known, a);
        if (!hit) {
            known.reset();  // a fault, too, drops what the TLB has of the page
            const nested_result r =
                nested_walk(guest_, guest_root_, host_, host_root_, linear, a, cpu_, memory_, update_flags::yes, how);
            if (!r) return tell_fault(r, a, linear);
            known = remember(r, a, linear);
        }
        const std::uint64_t physical = known->physical | (linear & ones(base_page_shift - 1, 0));
        if (!memory_.holds(physical)) {
            std::cout << "no memory at physical " << hex(physical) << '\n';
            return;
        }
        if (what == operation::write) memory_.store(physical, value);
        std::cout << hex(memory_.load(physical)) << " at physical " << hex(physical) << (hit ? ", TLB\n" : ", walk\n");
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
            if (key_denies(t.key, t.guest, a, cpu_) || !allows(t.guest, a, cpu_, regime::ordinary)) return false;
            if (host_.walked_as() == regime::extended) of_host.user = t.guest.user;
        }
        return allows(t.host, of_host, {}, host_.walked_as()) && (!a.writes() || t.written);
    }

    [[nodiscard]] translation remember(const nested_result& r, const memory_access& a, std::uint64_t linear) const
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
            t.key = static_cast<unsigned>(guest_.protection_key.get(r.guest.path[r.guest.steps - 1].entry));
        }
        return t;
    }

    /// INVLPG: all entries of the guest's page, however small the TLB's pieces of it are.
    void drop(std::uint64_t linear)
    {
        for (auto& t : tlb_) {
            if (t && (t->linear ^ linear) >> t->guest_shift == 0) t.reset();
        }
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

    void tell_fault(const nested_result& r, const memory_access& a, std::uint64_t linear) const
    {
        if (r.where == dimension::host) {
            tell_host_fault(r);
        } else if constexpr (paged) {
            switch (r.guest.fault) {
            case fault_kind::not_canonical:
                std::cout << "#GP, the address is not canonical\n";
                break;
            case fault_kind::pdpte_reserved:  // a CPU finds it when CR3 is loaded
                std::cout << "#GP, reserved bits " << hex(r.guest.bits) << " in a PDPTE\n";
                break;
            case fault_kind::address_too_wide:
                std::cout << "the address has more bits than the guest's tables translate\n";
                break;
            case fault_kind::memory_absent:
                std::cout << "no memory behind the guest's table of level " << r.guest.level << '\n';
                break;
            default:
                std::cout << "#PF, error code " << in_words(fault_code(r.guest, a, cpu_, guest_), page_fault_bits)
                          << ", CR2 " << hex(linear) << '\n';
            }
        }
    }

    void tell_host_fault(const nested_result& r) const
    {
        if (r.host.fault == fault_kind::memory_absent) {
            std::cout << "no memory behind the host's table of level " << r.host.level << '\n';
            return;
        }
        const std::uint64_t code = fault_code(r.host, r.host_access, {}, host_);
        if (host_.walked_as() == regime::nested) {
            std::cout << "#NPF, EXITINFO1 " << in_words(code, page_fault_bits) << ", EXITINFO2 "
                      << hex(r.guest_physical) << '\n';
        } else if (r.host.fault == fault_kind::misconfiguration) {
            std::cout << "EPT misconfiguration, guest-physical address " << hex(r.guest_physical) << ", level "
                      << r.host.level << ": " << name(r.host.broken) << '\n';
        } else {
            std::cout << "EPT violation, qualification " << in_words(code, qualification_bits)
                      << ", guest-physical address " << hex(r.guest_physical) << '\n';
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
        std::uint64_t entry = checked(encode(kind::leaf, target, m.to, rights_of(format, m.rights), format));
        if constexpr (requires { format.ignore_pat; }) entry |= format.memory_type(6);  // EPT's write-back
        with_slots_of(format, memory, [&]<class Word>(std::type_identity<Word>) {
            std::uint64_t table = root;
            for (unsigned level = format.tables().levels;; --level) {
                const shape& t = format.tables();
                const std::uint64_t index = m.from >> t.page_shift(level) & ones(t.index_bits_at(level) - 1, 0);
                Word* const slot = slot_in<Word>(memory, table + index * sizeof(Word));
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
        for (unsigned level = 1; level <= format.tables().levels; ++level) {
            const unsigned shift = format.tables().page_shift(level);
            if (size == std::to_string(1U << shift % 10) + "BKMGT"[shift / 10]) return level;
        }
        throw bad_input("the format has no pages of '" + std::string(size) + "'");
    }

    template <class F>
    [[nodiscard]] static permissions rights_of(const F& format, std::string_view letters)
    {
        if (letters != "-" && letters.find_first_not_of("rwxu") != std::string_view::npos) {
            throw bad_input("rights are of rwxu, or -, not '" + std::string(letters) + "'");
        }
        const auto has = [&](char c) { return letters.find(c) != std::string_view::npos; };
        const bool ordinary = format.walked_as() == regime::ordinary;
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
            const std::uint64_t step = format.tables().levels - level;
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
        std::cout << (of_guest ? "guest " : "host ") << hex(address) << ":\n";
        const walk_result r = look(of_guest, address);
        const auto print = [&](const auto& format) {
            for (unsigned i = 0; i < r.steps; ++i) {
                const unsigned level = format.tables().levels - i;
                const std::uint64_t entry = r.path[i].entry;
                const layout& l = layout_of(entry, level, format);
                std::cout << "  level " << level << " at " << hex(r.path[i].slot_address) << ": " << hex(entry)
                          << ((entry & l.mask(role::accessed)) != 0 ? ", accessed" : "")
                          << ((entry & l.mask(role::dirty)) != 0 ? ", dirty" : "") << '\n';
            }
        };
        if (!of_guest) return print(host_);
        if constexpr (paged) print(guest_);
    }

    Guest guest_;
    Host host_;
    physical_memory memory_;
    std::vector<std::optional<translation>> tlb_;  // direct mapped
    cpu_controls cpu_;
    bool user_ = false;
    std::uint64_t guest_root_ = 0;  // CR3
    std::uint64_t host_root_ = 0;   // EPTP, nCR3
    std::uint64_t next_guest_table_ = 0;
    std::uint64_t next_host_table_ = 0;
};

auto format_or_none(const shadow_features& features) { return format_for(features); }
unpaged format_or_none(unpaged none) { return none; }

void run(const config& c, std::istream& script, const std::string& file)
{
    const auto start = [&](const auto& guest, const auto& host) {
        machine m(c, format_or_none(guest), format_for(host));
        for_each_line(script, file, [&](const auto& words, unsigned) { m.command(words); });
    };
    std::visit(start, c.guest, c.host);
}

int wrong(const std::string& problem)
{
    std::cerr << "simulator: " << problem << "; see simulator --help\n";
    return 2;
}

int start(const std::vector<std::string>& words)
{
    if (words.size() == 1 && words[0] == "--help") {
        std::cout << usage;
        return 0;
    }
    for (const std::string& word : words) {
        if (word.starts_with('-')) return wrong("unknown option '" + word + "'");
    }
    if (words.empty() || words.size() > 2) return wrong("it takes CONFIG and perhaps SCRIPT");
    try {
        const config c = read_config(words[0]);
        if (words.size() == 1) {
            run(c, std::cin, "standard input");
            return 0;
        }
        std::ifstream script(words[1]);
        if (!script) throw bad_input(words[1] + ": cannot be opened");
        run(c, script, words[1]);
    } catch (const bad_input& e) {
        std::cout.flush();
        std::cerr << e.what() << '\n';
        return 2;
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv)
{
    const int status = start({argv + 1, argv + argc});
    if (std::cout.flush()) return status;
    std::cerr << "simulator: cannot write the output\n";
    return 2;
}
