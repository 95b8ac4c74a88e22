// The part of the measured program that is counted in one run.
#pragma once

/// Runs every operation once, and prints its name. Returns the program's status.
int run_operations();
