// SPDX-License-Identifier: BSL-1.0
// An entry in words for hosted programs: an inserter, and a formatter where the standard
// library has std::format. Not part of ptebits.hpp: it needs a heap.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <version>
#ifdef __cpp_lib_format
#include <format>
#endif

#include <ptebits/text.hpp>

namespace ptebits {

/// An entry to be put into words. Keeps a reference to the format.
template <described_format F>
class in_words {
public:
    constexpr in_words(std::uint64_t entry, unsigned level, const F& format) noexcept
        : entry_(entry), level_(level), format_(format)
    {
    }

    /// As describe() has it.
    [[nodiscard]] std::string line() const
    {
        std::string text(describe(entry_, level_, format_, nullptr, 0).needed, '\0');
        describe(entry_, level_, format_, text.data(), text.size() + 1);
        return text;
    }

    /// As describe_fields() has it.
    [[nodiscard]] std::string fields() const
    {
        std::string text(describe_fields(entry_, level_, format_, nullptr, 0).needed, '\0');
        describe_fields(entry_, level_, format_, text.data(), text.size() + 1);
        return text;
    }

    friend std::ostream& operator<<(std::ostream& out, const in_words& words) { return out << words.line(); }

private:
    std::uint64_t entry_;
    unsigned level_;
    const F& format_;
};

}  // namespace ptebits

#ifdef __cpp_lib_format
/// Takes what std::formatter of a string takes: "{:>60}".
template <class F>
struct std::formatter<ptebits::in_words<F>, char> : std::formatter<std::string, char> {
    template <class Context>
    auto format(const ptebits::in_words<F>& words, Context& context) const
    {
        return std::formatter<std::string, char>::format(words.line(), context);
    }
};
#endif
