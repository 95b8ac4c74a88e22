# SPDX-License-Identifier: BSL-1.0
# Compiles SOURCE twice: as it is, which must fail with the text of its first line
# ("// expect: TEXT"), and with PTEBITS_CONTROL, which must succeed without a warning, so
# that the failure is for the reason named.
#
#     cmake -DCXX=<compiler> -DINCLUDE=<include directory> -DSOURCE=<file> -P compile_fail.cmake

foreach(variable CXX INCLUDE SOURCE)
  if(NOT DEFINED ${variable})
    message(FATAL_ERROR "${variable} is not set")
  endif()
endforeach()

file(STRINGS "${SOURCE}" first_line LIMIT_COUNT 1 ENCODING UTF-8)
if(NOT first_line MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${SOURCE}: the first line must be \"// expect: TEXT\"")
endif()
set(expected "${CMAKE_MATCH_1}")

# The text is looked for as the compiler writes it, in English.
set(ENV{LC_ALL} C)
set(compile "${CXX}" -std=c++20 -fsyntax-only "-I${INCLUDE}")

execute_process(
  COMMAND ${compile} "${SOURCE}"
  RESULT_VARIABLE result
  OUTPUT_VARIABLE output
  ERROR_VARIABLE output
)
if(result EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles. Expected: ${expected}")
endif()
string(FIND "${output}" "${expected}" position)
if(position EQUAL -1)
  message(FATAL_ERROR "${SOURCE} fails for another reason. Expected: ${expected}\n${output}")
endif()

execute_process(
  COMMAND ${compile} -Wall -Wextra -DPTEBITS_CONTROL "${SOURCE}"
  RESULT_VARIABLE result
  OUTPUT_VARIABLE output
  ERROR_VARIABLE output
)
if(NOT result EQUAL 0 OR NOT output STREQUAL "")
  message(FATAL_ERROR "${SOURCE} must compile without a warning under PTEBITS_CONTROL\n${output}")
endif()
