# Compiles riscv.cpp at -O2 for RISC-V and looks for atomic instructions.
#   cmake -DCXX=compiler -DFLAGS=flags -DINCLUDE=dir -DWORK=dir -P riscv.cmake
cmake_minimum_required(VERSION 3.24)

execute_process(
  COMMAND ${CXX} ${FLAGS} -std=c++20 -O2 -fno-exceptions -I ${INCLUDE} -S ${CMAKE_CURRENT_LIST_DIR}/riscv.cpp -o
          ${WORK}/riscv.s
  COMMAND_ERROR_IS_FATAL ANY
)
file(READ ${WORK}/riscv.s text)
string(REPLACE ";" "\n" text "${text}")  # GCC has a fence and the instruction in one line
string(REGEX REPLACE "[][]" "" text "${text}")
string(REPLACE "\n" ";" lines "${text}")

set(functions 0)
set(failures 0)
set(name "")
foreach(line IN LISTS lines)
  if(line MATCHES "^(and|or)_([a-z0-9_]+):")
    set(name ${CMAKE_MATCH_1}_${CMAKE_MATCH_2})
    set(word ${CMAKE_MATCH_1})
    set(atomics "")
  elseif(line MATCHES "^[ \t]+(amo[a-z]+|lr|sc)\\.([wd])")
    string(APPEND atomics "${CMAKE_MATCH_1}.${CMAKE_MATCH_2} ")
  elseif(NOT name STREQUAL "" AND line MATCHES "^[ \t]+\\.size[ \t]+${name},")
    math(EXPR functions "${functions} + 1")
    set(size d)
    if(name MATCHES "sv32")
      set(size w)
    endif()
    if(NOT atomics STREQUAL "amo${word}.${size} ")
      message("${name}: '${atomics}', not amo${word}.${size} alone")
      math(EXPR failures "${failures} + 1")
    endif()
    set(name "")
  endif()
endforeach()
if(NOT functions EQUAL 9 OR NOT failures EQUAL 0)
  message(FATAL_ERROR "${functions} functions of 9, ${failures} failed")
endif()
