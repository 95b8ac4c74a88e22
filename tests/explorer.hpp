// Runs two or three short programs of slot operations in every order of their steps.
//
// A step is one atomic access. Each program runs on a thread of its own, but only one at
// a time: before every access it waits for its turn. The orders are enumerated depth
// first, by running the programs anew with the next untried choice.
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
    void wait()
    {
        arrived_.release();
        go_.acquire();
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
};

/// Access policy: every access is one step, as hardware would make it.
struct stepping_access : ptebits::plain_access {
    turnstile* at;

    explicit stepping_access(turnstile& t) : at(&t) {}

    template <class Word>
    [[nodiscard]] Word load(const Word& slot) const
    {
        at->wait();
        return plain_access::load(slot);
    }
    template <class Word>
    void store(Word& slot, Word value) const
    {
        at->wait();
        plain_access::store(slot, value);
    }
    template <class Word>
    Word exchange(Word& slot, Word value) const
    {
        at->wait();
        return plain_access::exchange(slot, value);
    }
    template <class Word>
    bool compare_exchange(Word& slot, Word& expected, Word desired) const
    {
        at->wait();
        return plain_access::compare_exchange(slot, expected, desired);
    }
    template <class Word>
    Word fetch_or(Word& slot, Word mask) const
    {
        at->wait();
        return plain_access::fetch_or(slot, mask);
    }
    template <class Word>
    Word fetch_and(Word& slot, Word mask) const
    {
        at->wait();
        return plain_access::fetch_and(slot, mask);
    }
    template <class Word>
    bool test_and_set(Word& slot, unsigned shift) const
    {
        at->wait();
        return plain_access::test_and_set(slot, shift);
    }
    template <class Word>
    bool test_and_clear(Word& slot, unsigned shift) const
    {
        at->wait();
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

inline exploration explore(const std::function<void()>& start,
                           const std::vector<std::function<void(turnstile&)>>& programs,
                           const std::function<bool()>& holds)
{
    struct decision {
        std::size_t choice;
        std::size_t options;
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
        for (std::size_t depth = 0; !waiting.empty(); ++depth) {
            if (depth == path.size()) path.push_back({0, waiting.size()});
            const std::size_t choice = path[depth].choice;
            turnstile& t = *turnstiles[waiting[choice]];
            t.go();
            if (!t.ready()) waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(choice));
        }
        for (std::thread& thread : threads) thread.join();
        ++result.orders;
        if (!holds()) ++result.violations;

        while (!path.empty() && path.back().choice + 1 == path.back().options) path.pop_back();
        if (!path.empty()) ++path.back().choice;
    } while (!path.empty());
    return result;
}
