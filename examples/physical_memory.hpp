// SPDX-License-Identifier: BSL-1.0
// Physical memory for walks and visits: that of a dump, read a page at a time, or pages that are kept.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <ptebits/slot.hpp>

#include "file.hpp"

namespace dump {

/// Log2 of the bytes that are read at once: no table is larger.
inline constexpr unsigned frame_shift = 12;
inline constexpr std::uint64_t page_bytes = std::uint64_t{1} << frame_shift;

/// How slots are read: as x86 memory has them.
using slot_order = ptebits::little_endian_access<ptebits::plain_access>;

/// A page as slots of both sizes.
struct page {
    std::uint64_t words[page_bytes / sizeof(std::uint64_t)] = {};
    std::uint32_t halves[page_bytes / sizeof(std::uint32_t)] = {};

    template <class Word>
    [[nodiscard]] Word* slots()
    {
        if constexpr (sizeof(Word) == sizeof(std::uint32_t)) {
            return halves;
        } else {
            return words;
        }
    }
};

/// A slot is valid until the next one is asked for.
class physical_memory {
public:
    physical_memory() = default;
    physical_memory(const physical_memory&) = delete;
    physical_memory& operator=(const physical_memory&) = delete;
    virtual ~physical_memory() = default;

    /// The slot at an address; null where there is no memory. Throws error if the file cannot be read.
    template <class Word>
    [[nodiscard]] const Word* operator()(std::uint64_t physical, std::type_identity<Word> /*size*/)
    {
        if (physical % sizeof(Word) != 0) return nullptr;
        page* const found = page_at(physical >> frame_shift);
        return found == nullptr ? nullptr : found->slots<Word>() + physical % page_bytes / sizeof(Word);
    }

    /// A page by its number; null where there is none.
    virtual page* page_at(std::uint64_t number) = 0;
};

/// Bytes of a file that are memory.
struct segment {
    std::uint64_t physical = 0;
    std::uint64_t bytes = 0;
    std::uint64_t offset = 0;  ///< in the file
};

/// The memory in a file. Keeps some pages and the list of segments, no more.
class file_memory : public physical_memory {
public:
    /// Segments may overlap, as those of a dump by virtual addresses do: of two that have a page, either will do.
    /// Precondition: they lie in the file, and no address wraps round.
    file_memory(file& from, std::vector<segment> segments) : file_(from), segments_(std::move(segments))
    {
        std::sort(segments_.begin(), segments_.end(), [](const segment& a, const segment& b) {
            return a.physical != b.physical ? a.physical < b.physical : a.offset < b.offset;
        });
        std::uint64_t end = 0;
        std::size_t kept = 0;
        for (segment s : segments_) {
            const std::uint64_t known = end > s.physical ? std::min(end - s.physical, s.bytes) : 0;
            s = {s.physical + known, s.bytes - known, s.offset + known};
            if (s.bytes == 0) continue;
            end = s.physical + s.bytes;
            segments_[kept++] = s;
        }
        segments_.resize(kept);
    }

    [[nodiscard]] const std::vector<segment>& segments() const noexcept { return segments_; }

    page* page_at(std::uint64_t number) override
    {
        place& p = (*places_)[number % kept_pages];
        if (!p.full || p.number != number) {
            p.full = false;  // reading may throw
            p.exists = read(number << frame_shift, p.content);
            p.number = number;
            p.full = true;
        }
        return p.exists ? &p.content : nullptr;
    }

private:
    static constexpr std::size_t kept_pages = 64;

    struct place {
        std::uint64_t number = 0;
        bool full = false;
        bool exists = false;
        page content;
    };

    /// Reads a page of one or more segments. Returns whether they have all of it.
    bool read(std::uint64_t physical, page& to)
    {
        auto next = std::upper_bound(segments_.begin(), segments_.end(), physical,
                                     [](std::uint64_t a, const segment& s) { return a < s.physical; });
        if (next == segments_.begin()) return false;
        --next;
        auto* const bytes = reinterpret_cast<char*>(to.words);
        for (std::size_t done = 0; done < page_bytes; ++next) {
            const std::uint64_t at = physical + done;
            if (next == segments_.end() || at < next->physical || at - next->physical >= next->bytes) return false;
            const std::uint64_t inside = at - next->physical;
            const std::uint64_t part = std::min(next->bytes - inside, page_bytes - done);
            file_.read(next->offset + inside, bytes + done, part);
            done += part;
        }
        std::memcpy(to.halves, to.words, sizeof to.words);
        return true;
    }

    file& file_;
    std::vector<segment> segments_;
    std::unique_ptr<std::array<place, kept_pages>> places_ = std::make_unique<std::array<place, kept_pages>>();
};

/// Pages that are kept, and may be changed.
class kept_memory : public physical_memory {
public:
    /// Adds a page of zeros if it is not there yet.
    page& add(std::uint64_t physical) { return pages_[physical >> frame_shift]; }

    template <class Word>
    [[nodiscard]] Word* operator()(std::uint64_t physical, std::type_identity<Word> /*size*/)
    {
        page* const found = physical % sizeof(Word) == 0 ? page_at(physical >> frame_shift) : nullptr;
        return found == nullptr ? nullptr : found->slots<Word>() + physical % page_bytes / sizeof(Word);
    }

    page* page_at(std::uint64_t number) override
    {
        const auto found = pages_.find(number);
        return found == pages_.end() ? nullptr : &found->second;
    }

private:
    std::map<std::uint64_t, page> pages_;
};

}  // namespace dump
