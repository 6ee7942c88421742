/* The host engine, as its module sees it (shmm/_host.pyx): no rooms, only this machine's own kernel.
 *
 *   host/raw.h       system calls without a C library       host/place.h    address spaces: fork, exec, exit
 *   host/state.h     the shared area                        host/run.h      programs, processes, threads
 *   host/access.h    loads, stores, fetches, signals        host/zygote.h   the process that they are forks of
 *   host/execute.h   system calls, meetings, control */
#ifndef SHMM_ARCH_HOST_H
#define SHMM_ARCH_HOST_H

#include <sys/personality.h>

#include "host/zygote.h"

#endif
