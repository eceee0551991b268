package agent

import "golang.org/x/sys/unix"

const bootClock = unix.CLOCK_MONOTONIC // on macOS this one counts sleep
