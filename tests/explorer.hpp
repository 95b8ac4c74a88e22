// Runs two or three short programs of slot operations in every order of their steps.
//
// A step is one atomic access. Each program runs on a thread of its own, but only one at
// a time: before every access it waits for its turn. The orders are enumerated depth
// first, by running the programs anew with the next untried choice. Where many orders differ
// only in steps that do not touch the same slot, one of them is enough: explore_different().
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <ptebits/slot.hpp>
#include <semaphore>
#include <thread>
#include <vector>

/// What a program waits at before each access.
class turnstile {
public:
    /// Before a step that may have to do with any other one.
    void wait() { wait_for(nullptr, true); }
    /// Before an access to a slot.
    void wait_for(const void* slot, bool writes)
    {
        slot_ = slot;
        writes_ = writes;
        arrived_.release();
        go_.acquire();
    }
    /// From the scheduler: whether two programs come to the same in both orders of their next steps.
    [[nodiscard]] bool commutes_with(const turnstile& other) const
    {
        if (slot_ == nullptr || other.slot_ == nullptr) return false;
        return slot_ != other.slot_ || (!writes_ && !other.writes_);
    }
    void finish()
    {
        finished_ = true;
        arrived_.release();
    }
    /// From the scheduler: waits until the program stands before an access or has finished.
    [[nodiscard]] bool ready()
    {
        arrived_.acquire();
        return !finished_;
    }
    void go() { go_.release(); }

private:
    std::binary_semaphore go_{0};
    std::binary_semaphore arrived_{0};
    bool finished_ = false;
    const void* slot_ = nullptr;
    bool writes_ = true;
};

/// Access policy: every access is one step, as hardware would make it.
struct stepping_access : ptebits::plain_access {
    turnstile* at;

    explicit stepping_access(turnstile& t) : at(&t) {}

    template <class Word>
    [[nodiscard]] Word load(const Word& slot) const
    {
        at->wait_for(&slot, false);
        return plain_access::load(slot);
    }
    template <class Word>
    void store(Word& slot, Word value) const
    {
        at->wait_for(&slot, true);
        plain_access::store(slot, value);
    }
    template <class Word>
    Word exchange(Word& slot, Word value) const
    {
        at->wait_for(&slot, true);
        return plain_access::exchange(slot, value);
    }
    template <class Word>
    bool compare_exchange(Word& slot, Word& expected, Word desired) const
    {
        at->wait_for(&slot, true);
        return plain_access::compare_exchange(slot, expected, desired);
    }
    template <class Word>
    Word fetch_or(Word& slot, Word mask) const
    {
        at->wait_for(&slot, true);
        return plain_access::fetch_or(slot, mask);
    }
    template <class Word>
    Word fetch_and(Word& slot, Word mask) const
    {
        at->wait_for(&slot, true);
        return plain_access::fetch_and(slot, mask);
    }
    template <class Word>
    bool test_and_set(Word& slot, unsigned shift) const
    {
        at->wait_for(&slot, true);
        return plain_access::test_and_set(slot, shift);
    }
    template <class Word>
    bool test_and_clear(Word& slot, unsigned shift) const
    {
        at->wait_for(&slot, true);
        return plain_access::test_and_clear(slot, shift);
    }
};

/// The bug to be found: every read-modify-write is a load, a change and a store.
struct torn_access : stepping_access {
    using stepping_access::stepping_access;

    template <class Word>
    Word exchange(Word& slot, Word value) const
    {
        const Word old = load(slot);
        store(slot, value);
        return old;
    }
    template <class Word>
    bool compare_exchange(Word& slot, Word& expected, Word desired) const
    {
        const Word old = load(slot);
        const bool same = old == expected;
        if (same) store(slot, desired);
        expected = old;
        return same;
    }
    template <class Word>
    bool test_and_clear(Word& slot, unsigned shift) const
    {
        const Word old = load(slot);
        store(slot, static_cast<Word>(old & ~(Word{1} << shift)));
        return (old >> shift & 1) != 0;
    }
};

/// Runs the programs in every order. `start` prepares the shared state before each run,
/// `holds` looks at it afterwards. Returns the number of orders, and of those after which
/// `holds` returned false.
struct exploration {
    std::size_t orders = 0;
    std::size_t violations = 0;
};

namespace explorer {

inline exploration run_all(const std::function<void()>& start,
                           const std::vector<std::function<void(turnstile&)>>& programs,
                           const std::function<bool()>& holds, bool all_orders)
{
    using program_set = unsigned;  // bit n: program n
    struct decision {
        std::vector<std::size_t> options;
        std::size_t choice;
        program_set tried;  // programs whose step, taken first here, leads to orders like those that were run
    };
    std::vector<decision> path;
    exploration result;
    do {
        start();
        std::vector<std::unique_ptr<turnstile>> turnstiles;
        std::vector<std::thread> threads;
        std::vector<std::size_t> waiting;
        for (std::size_t i = 0; i < programs.size(); ++i) {
            turnstiles.push_back(std::make_unique<turnstile>());
            threads.emplace_back([&program = programs[i], &t = *turnstiles[i]] {
                program(t);
                t.finish();
            });
            if (turnstiles[i]->ready()) waiting.push_back(i);
        }
        bool different = true;
        program_set tried = 0;
        for (std::size_t depth = 0; !waiting.empty(); ++depth) {
            if (different && depth == path.size()) {
                decision next{{}, 0, tried};
                for (const std::size_t i : waiting) {
                    if ((tried >> i & 1) == 0) next.options.push_back(i);
                }
                different = !next.options.empty();
                if (different) path.push_back(next);
            }
            std::size_t chosen = waiting.front();  // if there is nothing new in this order it is run to its end
            if (different) {
                const decision& here = path[depth];
                chosen = here.options[here.choice];
                program_set before = here.tried;
                for (std::size_t n = 0; n < here.choice; ++n) before |= program_set{1} << here.options[n];
                tried = 0;
                for (const std::size_t i : waiting) {
                    const bool asleep = (before >> i & 1) != 0 && turnstiles[i]->commutes_with(*turnstiles[chosen]);
                    if (asleep && !all_orders) tried |= program_set{1} << i;
                }
            }
            turnstile& t = *turnstiles[chosen];
            t.go();
            if (!t.ready()) std::erase(waiting, chosen);
        }
        for (std::thread& thread : threads) thread.join();
        if (different) {
            ++result.orders;
            if (!holds()) ++result.violations;
        }

        while (!path.empty() && path.back().choice + 1 == path.back().options.size()) path.pop_back();
        if (!path.empty()) ++path.back().choice;
    } while (!path.empty());
    return result;
}

}  // namespace explorer

inline exploration explore(const std::function<void()>& start,
                           const std::vector<std::function<void(turnstile&)>>& programs,
                           const std::function<bool()>& holds)
{
    return explorer::run_all(start, programs, holds, true);
}

/// The same without orders that differ only in where neighbouring steps stand that touch different slots, or read
/// one. What programs share beside slots they must change and look at after turnstile::wait().
/// Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", sleep sets.
inline exploration explore_different(const std::function<void()>& start,
                                     const std::vector<std::function<void(turnstile&)>>& programs,
                                     const std::function<bool()>& holds)
{
    return explorer::run_all(start, programs, holds, false);
}
