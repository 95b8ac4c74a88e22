// SPDX-License-Identifier: BSL-1.0
// How far a program is, for people who wait.
#pragma once

#include <chrono>
#include <cstdint>
#include <iostream>
#include <string>

#include "terminal.hpp"

/// A line on standard error, where that is a terminal, from the third second on. It is gone at the end.
class progress {
public:
    progress() = default;
    progress(const progress&) = delete;
    progress& operator=(const progress&) = delete;
    ~progress()
    {
        if (!shown_.empty()) std::cerr << "\r\033[K" << std::flush;
    }

    void show(const std::string& text)
    {
        if (!terminal_ || text == shown_ || std::chrono::steady_clock::now() - start_ < std::chrono::seconds(2)) return;
        std::cerr << "\r\033[K" << text << std::flush;
        shown_ = text;
    }

    /// One more of what is counted. Cheap: most calls only count.
    void step(const char* what)
    {
        if (++steps_ % 65536 == 0) show(std::to_string(steps_) + ' ' + what + " so far");
    }

private:
    bool terminal_ = is_terminal(stream::errors);
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    std::string shown_;
    std::uint64_t steps_ = 0;
};
