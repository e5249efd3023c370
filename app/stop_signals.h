// The signals that ask a run to stop: SIGTERM and SIGUSR1, which batch systems send ahead of a time
// limit and launchers pass on to every rank. A handler only sets a flag that app/stop looks at
// between steps, so that a signal at any moment, a second one, or one during a save does no harm.
//
// Signal handlers are the process's, and so is the flag: the one global of the program.
#pragma once

namespace pg::app {

// From here on the two signals no longer end the process. Called before MPI starts, so that none is
// lost while it does, and again after it: an MPI may set handlers of its own. System calls that one
// interrupts go on (SA_RESTART).
void catch_stop_signals();

// The number of the last of them that came; 0: none.
int stop_signal();
// Forgets it: a process may train more than once (tests do).
void clear_stop_signal();

}  // namespace pg::app
