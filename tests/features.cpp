// SPDX-License-Identifier: BSL-1.0
// A feature that nothing obeys is a fault: each must change some answer, or be refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <features.hpp>
#include <ptebits/nested_walk.hpp>
#include <ptebits/ptebits.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "walking.hpp"

using namespace walking;

namespace {

/// Converts to the type of any member.
struct anything {
    template <class T>
    constexpr operator T() const;
};

/// Number of members of an aggregate.
template <class T, class... Members>
consteval std::size_t member_count()
{
    if constexpr (requires { T{Members{}..., anything{}}; }) {
        return member_count<T, Members..., anything>();
    } else {
        return sizeof...(Members);
    }
}

/// Answers of a format to many questions, and what its operations do, as numbers and texts.
template <class Features>
class answers {
public:
    explicit answers(const Features& f) : format_(format_for(f))
    {
        add(static_cast<word>(format_->wrong().what));
        if (format_->wrong().what != defect::none) return;
        std::vector<word> entries{0, 5, ~word{0}};
        for (const word base :
             {word{0x5067}, word{0x5037}, word{0x20'00e7}, word{0x20'00b7}, word{0x7}, word{0x5065}, word{0x5000}}) {
            for (unsigned index = 0; index < format_->shape().entry_bits; ++index) {
                const bool any_address_bit = index > 13 && index < 44 && index != 21;
                if (!any_address_bit) entries.push_back(base ^ word{1} << index);
            }
            entries.push_back(base);
        }
        for (word& e : entries) e &= ones(format_->shape().entry_bits - 1, 0);
        for (unsigned level = 1; level <= max_levels; ++level) {
            for (const word e : entries) ask(e, level);
            for (const kind k : {kind::table, kind::leaf}) {
                for (unsigned p = 0; p < 32; ++p) {
                    const permissions grant{.read = (p & 1) != 0,
                                            .write = (p & 2) != 0,
                                            .execute = (p & 4) != 0,
                                            .user = (p & 8) != 0,
                                            .user_execute = (p & 16) != 0};
                    const encoded made = encode(k, level, 0x4000'0000, grant, format_);
                    add(made.entry, static_cast<word>(made.error));
                }
            }
        }
        for (const word e : entries) {
            if (format_->shape().entry_bits == 64) change(e);
            walk_over(e);
        }
    }

    [[nodiscard]] bool refused() const { return format_->wrong().what != defect::none; }
    [[nodiscard]] bool operator==(const answers& other) const
    {
        return numbers_ == other.numbers_ && texts_ == other.texts_;
    }

private:
    template <class... Values>
    void add(Values... values)
    {
        (numbers_.push_back(static_cast<word>(values)), ...);
    }

    void ask(word entry, unsigned level)
    {
        const finding found = diagnose(entry, level, format_);
        const permissions p = permissions_of(entry, level, format_);
        add(kind_of(entry, level, format_), found.broken, found.bits, address_of(entry, level, format_), p.read,
            p.write, p.execute, p.user, p.user_execute, check_absent(entry, format_));
        char text[200];
        static_cast<void>(describe(entry, level, format_, text));
        texts_ += text;
    }

    void change(word entry)
    {
        const auto after = [&](auto operation) {
            word slot = entry;
            add(operation(slot), slot);
        };
        if (format_->accessed.exists()) after([&](word& slot) { return age(slot, format_); });
        after([&](word& slot) { return mark_accessed(slot, format_); });
        after([&](word& slot) { return mark_dirty(slot, format_); });
        after([&](word& slot) { return write_protect(slot, format_); });
        after([&](word& slot) { return harvest_dirty(slot, format_); });
        after([&](word& slot) { return unmap(slot, format_); });
        word parts[512];
        after([&](word& slot) { return split_live(slot, 2, parts, 0x7000, format_); });
        add(needs_atomic_update(entry, format_), needs_flush(entry, entry & ~word{2}, format_));
    }

    /// Walks in a page that is all tables, whose first entries are this one or lead on.
    void walk_over(word leaf)
    {
        const unsigned bits = format_->shape().entry_bits;
        arena memory(0x1000, 5);
        const unsigned levels = format_->shape().levels;
        for (unsigned level = levels; level > 1; --level) {
            const word table = 0x1000 + (word{levels} - level) * 0x1000;
            word entry = encode(kind::table, level, table + 0x1000, {}, format_).entry;
            if constexpr (requires { format_->restart; }) entry |= leaf & format_->restart.mask();
            put_entry(memory, table, entry, bits);
        }
        put_entry(memory, 0x1000 + (word{levels} - 1) * 0x1000, leaf, bits);
        const std::vector<word> before = memory.words();
        const cpu_controls cpu{.pkru = 0x5555'5555, .pkrs = 0xaaaa'aaaa, .sub_page_table = 0x4000};
        for (const operation what : {operation::read, operation::write, operation::fetch}) {
            for (unsigned n = 0; n < 8; ++n) {
                const asked a{.what = what,
                              .user = (n & 1) != 0,
                              .shadow_stack = (n & 2) != 0,
                              .guest_table = (n & 4) != 0,
                              .paging_writable = false};
                const walk_result r = walk(format_, 0x1000, 0x123, a, cpu, memory);
                const reported_code code = fault_code(r, a, cpu, format_);
                add(r.fault, r.address, code.value, code.exists);
                if constexpr (std::is_same_v<regime_of<runtime_format<typename Features::description>>,
                                             extended_paging>) {
                    add(raises_ve(r, false, format_));
                }
                numbers_.insert(numbers_.end(), memory.words().begin(), memory.words().begin() + 1);
                memory.words() = before;
            }
        }
        // And as a host's, below a guest's table.
        if constexpr (!std::is_same_v<Features, shadow_features>) {
            const auto r =
                nested_walk(shadow<shadow_features{}>, 0, format_, 0x1000, 0x123, supervisor_read, {}, memory);
            add(r.where, r.host.fault, r.guest.fault);
            memory.words() = before;
        }
    }

    runtime_format<typename Features::description> format_;
    std::vector<word> numbers_;
    std::string texts_;
};

template <class Features>
void check(const std::vector<Features>& bases)
{
    const auto all = named::features_of(Features{});
    CHECK(all.size() == member_count<Features>());
    for (const auto& feature : all) {
        CAPTURE(std::string(feature.name));
        bool matters = false;
        for (const Features& base : bases) {
            if (matters) break;
            Features changed = base;
            std::visit(
                [&](auto member) {
                    auto& value = changed.*member;
                    using type = std::remove_reference_t<decltype(value)>;
                    if constexpr (std::is_same_v<type, bool>) {
                        value = !value;
                    } else if constexpr (std::is_same_v<type, optional_bits>) {
                        value = feature.name == "software_accessed" ? optional_bits(62)
                                                                    : optional_bits(base.physical_bits - 1);
                    } else {
                        value = value == 0 ? base.physical_bits - 1 : value - 1;
                    }
                },
                feature.member);
            const answers<Features> with(changed), without(base);
            CHECK(!without.refused());
            // One that is refused here may matter elsewhere: all others must.
            matters = !with.refused() && !(with == without);
        }
        CHECK(matters);
    }
}

}  // namespace

TEST_CASE("each feature of ordinary paging changes some answer")
{
    check<shadow_features>({{.physical_bits = 46},
                            {.levels = 5, .physical_bits = 46},
                            {.levels = 2, .physical_bits = 40},
                            {.levels = 3, .physical_bits = 46},
                            {.levels = 4, .physical_bits = 46, .user_keys = true, .supervisor_keys = true}});
}
TEST_CASE("each feature of nested paging changes some answer")
{
    check<npt_features>(
        {{.physical_bits = 46}, {.levels = 5, .physical_bits = 46}, {.levels = 2, .physical_bits = 40}});
}
TEST_CASE("each feature of EPT changes some answer")
{
    check<ept_features>({{.physical_bits = 46},
                         {.levels = 5, .physical_bits = 46},
                         {.physical_bits = 46, .accessed_dirty = false},
                         {.physical_bits = 46, .verify_guest_paging = true}});
}

/// The same of RISC-V's formats, whose only width is 56 bits.
template <class Features>
void check_riscv()
{
    const auto all = named::features_of(Features{});
    CHECK(all.size() == member_count<Features>());
    const auto answers_of = [](const Features& f) {
        const auto format = format_for(f);
        REQUIRE(format->wrong().what == defect::none);
        std::vector<word> found{format->shape().levels, format->caches_absent(),
                                static_cast<word>(format->accessed_by()), format->global.mask()};
        for (unsigned index = 0; index < 64; ++index) {
            const word entry = 0x2000'20df ^ word { 1 } << index;
            found.push_back(static_cast<word>(kind_of(entry, 1, format)));
            found.push_back(diagnose(entry, 1, format).bits);
        }
        return found;
    };
    for (const auto& feature : all) {
        CAPTURE(std::string(feature.name));
        Features changed;
        if (const auto* flag = std::get_if<bool Features::*>(&feature.member)) changed.** flag = !(changed.**flag);
        if (const auto* number = std::get_if<unsigned Features::*>(&feature.member)) ++(changed.**number);
        if (feature.name == "physical_bits") {
            CHECK(format_for(changed)->wrong().what == defect::physical_bits);
        } else {
            CHECK(answers_of(changed) != answers_of(Features{}));
        }
    }
}
TEST_CASE("each feature of RISC-V's formats changes some answer")
{
    check_riscv<riscv_features>();
    check_riscv<gstage_features>();
}

/// The same of IOMMUs' formats: of entries that differ from one by a bit, at all levels.
template <class Features>
void check_iommu(const Features& base, word entry)
{
    const auto all = named::features_of(Features{});
    CHECK(all.size() == member_count<Features>());
    const auto answers_of = [entry](const Features& f) {
        const auto format = format_for(f);
        std::vector<word> found{static_cast<word>(format->wrong().what), format->shape().levels,
                                format->caches_absent(), static_cast<word>(format->accessed_by()),
                                format->dirty.mask()};
        for (unsigned level = 1; level <= format->shape().levels; ++level) {
            for (unsigned index = 0; index < 64; ++index) {
                found.push_back(static_cast<word>(kind_of(entry ^ word{1} << index, level, format)));
                found.push_back(diagnose(entry ^ word{1} << index, level, format).bits);
            }
        }
        walk_result r;
        r.fault = fault_kind::not_present;
        found.push_back(fault_code(r, device_access{}, {}, format).value);
        return found;
    };
    for (const auto& feature : all) {
        CAPTURE(std::string(feature.name));
        Features changed = base;
        if (const auto* flag = std::get_if<bool Features::*>(&feature.member)) changed.** flag = !(changed.**flag);
        if (const auto* number = std::get_if<unsigned Features::*>(&feature.member)) --(changed.**number);
        CHECK(answers_of(changed) != answers_of(base));
    }
}
TEST_CASE("each feature of the IOMMUs' formats changes some answer")
{
    check_iommu(vtd_second_features{.levels = 5, .scalable = true, .accessed_dirty = true}, 0x4020'0083);
    check_iommu(vtd_first_features{.levels = 5}, 0x4020'0087);
    check_iommu(amdvi_host_features{.levels = 6, .accessed_bits = true}, 0x6000'0000'0000'0e01);
    check_iommu(amdvi_guest_features{.levels = 5}, 0x4020'0087);
}
