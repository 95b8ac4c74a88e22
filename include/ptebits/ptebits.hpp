// SPDX-License-Identifier: BSL-1.0
// All of ptebits but text_stream.hpp, which needs a hosted standard library.
#pragma once

#include <ptebits/ageing.hpp>
#include <ptebits/config.hpp>
#include <ptebits/entries.hpp>
#include <ptebits/entry.hpp>
#include <ptebits/field.hpp>
#include <ptebits/format.hpp>
#include <ptebits/formats/ept.hpp>
#include <ptebits/formats/npt.hpp>
#include <ptebits/formats/shadow.hpp>
#include <ptebits/formats/x86_fields.hpp>
#include <ptebits/layout.hpp>
#include <ptebits/masks.hpp>
#include <ptebits/memory.hpp>
#include <ptebits/nested_walk.hpp>
#include <ptebits/permissions.hpp>
#include <ptebits/range.hpp>
#include <ptebits/shape.hpp>
#include <ptebits/slot.hpp>
#include <ptebits/split.hpp>
#include <ptebits/table.hpp>
#include <ptebits/text.hpp>
#include <ptebits/visit.hpp>
#include <ptebits/walk.hpp>
#include <ptebits/x86.hpp>
