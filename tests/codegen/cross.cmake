# Compiles riscv.cpp or aarch64.cpp at -O2 for that machine and looks for atomic instructions.
#   cmake -DMACHINE=riscv|aarch64 -DCOUNT=functions -DCXX=compiler -DFLAGS=flags -DINCLUDE=dir -DWORK=dir -P cross.cmake
cmake_minimum_required(VERSION 3.24)

execute_process(
  COMMAND ${CXX} ${FLAGS} -std=c++20 -O2 -fno-exceptions -I ${INCLUDE} -S ${CMAKE_CURRENT_LIST_DIR}/${MACHINE}.cpp -o
          ${WORK}/${MACHINE}.s
  COMMAND_ERROR_IS_FATAL ANY
)
file(READ ${WORK}/${MACHINE}.s text)
string(REPLACE ";" "\n" text "${text}")  # GCC has a fence and the instruction in one line
string(REGEX REPLACE "[][]" "" text "${text}")
string(REPLACE "\n" ";" lines "${text}")

if(MACHINE STREQUAL "riscv")
  set(atomic "((amo[a-z]+|lr|sc)\\.[wd])")
  set(and "amoand.d ")
  set(or "amoor.d ")
  set(and_sv32 "amoand.w ")
else()
  # Orders follow the name: a, l, al.
  set(atomic "(ldclr|ldset|ldadd|ldeor|swp|cas|ldxr|ldaxr|stxr|stlxr)")
  set(and "ldclr ")
  set(or "ldset ")
endif()

set(functions 0)
set(failures 0)
set(name "")
foreach(line IN LISTS lines)
  if(line MATCHES "^(and|or)_([a-z0-9_]+):")
    set(name ${CMAKE_MATCH_1}_${CMAKE_MATCH_2})
    set(wanted "${${CMAKE_MATCH_1}}")
    set(atomics "")
    if(name MATCHES "sv32")
      set(wanted "${and_sv32}")
    endif()
  elseif(line MATCHES "^[ \t]+${atomic}")
    # Once, also where the compiler has it at the end of two ways.
    set(found "${CMAKE_MATCH_1} ")
    if(NOT atomics MATCHES "${found}")
      string(APPEND atomics "${found}")
    endif()
  elseif(NOT name STREQUAL "" AND line MATCHES "^[ \t]+\\.size[ \t]+${name},")
    math(EXPR functions "${functions} + 1")
    if(NOT atomics STREQUAL wanted)
      message("${name}: '${atomics}', not '${wanted}' alone")
      math(EXPR failures "${failures} + 1")
    endif()
    set(name "")
  endif()
endforeach()
if(NOT functions EQUAL COUNT OR NOT failures EQUAL 0)
  message(FATAL_ERROR "${functions} functions of ${COUNT}, ${failures} failed")
endif()
