# Compiles operations.cpp at -O2 and counts locked instructions and backward jumps in what
# objdump prints of each function.
#   cmake -DCXX=compiler -DOBJDUMP=objdump -DINCLUDE=dir -DWORK=dir -P check.cmake
cmake_minimum_required(VERSION 3.24)

set(object ${WORK}/operations.o)
execute_process(
  COMMAND ${CXX} -std=c++20 -O2 -fno-exceptions -I ${INCLUDE} -c ${CMAKE_CURRENT_LIST_DIR}/operations.cpp -o ${object}
  COMMAND_ERROR_IS_FATAL ANY
)
execute_process(
  COMMAND ${OBJDUMP} -d --no-show-raw-insn ${object}
  OUTPUT_VARIABLE listing
  COMMAND_ERROR_IS_FATAL ANY
)
string(REPLACE ";" "," listing "${listing}")
string(REGEX REPLACE "[][]" "" listing "${listing}")
string(REPLACE "\n" ";" lines "${listing}")

set(functions 0)
set(failures 0)
set(name "")

macro(judge)
  if(NOT name STREQUAL "" AND NOT name MATCHES "cold")
    math(EXPR functions "${functions} + 1")
    if(name MATCHES "^bit_")
      set(wanted "^bt[rs][lq]?$")
    elseif(name MATCHES "^mask_")
      set(wanted "^(and|or|bt[rs])[lq]?$")
    elseif(name MATCHES "^swap_")
      set(wanted "^cmpxchg$")
    else()
      set(wanted "^$")
    endif()
    list(LENGTH locked count)
    if(NOT count EQUAL 1 OR NOT locked MATCHES "${wanted}" OR loops GREATER 0)
      math(EXPR failures "${failures} + 1")
      message("${name}: locked instructions '${locked}', backward jumps ${loops}\n${body}")
    endif()
  endif()
endmacro()

foreach(line IN LISTS lines)
  if(line MATCHES "^[0-9a-f]+ <([^>]+)>:")
    set(next "${CMAKE_MATCH_1}")
    judge()
    set(name "${next}")
    set(locked "")
    set(loops 0)
    set(body "")
  elseif(line MATCHES "^ *([0-9a-f]+):[ \t]+(.*)$")
    set(address "0x${CMAKE_MATCH_1}")
    set(text "${CMAKE_MATCH_2}")
    string(APPEND body "  ${text}\n")
    if(text MATCHES "^lock ([a-z]+)")
      list(APPEND locked "${CMAKE_MATCH_1}")
    elseif(text MATCHES "^j[a-z]+ +([0-9a-f]+) ")
      math(EXPR ahead "0x${CMAKE_MATCH_1} - ${address}")
      if(ahead LESS 0)
        math(EXPR loops "${loops} + 1")
      endif()
    endif()
  endif()
endforeach()
judge()

file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/operations.cpp declared REGEX "^(bool|void) (bit|mask|swap)_")
list(LENGTH declared expected)
if(NOT functions EQUAL expected)
  message(FATAL_ERROR "${functions} functions in the listing, ${expected} in operations.cpp")
endif()
if(failures GREATER 0)
  message(FATAL_ERROR "${failures} of ${functions} functions are not one locked instruction")
endif()
message("${functions} functions, each one locked instruction and no loop: ${CXX}")
