package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PIDs lists the host's processes, as this machine counts, whose command line contains all of these words; without any
// word, every process of it. The first process and runit's are only in the list without words.
func (h *Host) PIDs(words ...string) []int {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.PID()))
	if err != nil {
		return nil
	}
	entries, _ := filepath.Glob("/proc/[0-9]*/ns/pid") // the pattern is well formed
	var pids []int
	for _, e := range entries {
		if at, err := os.Readlink(e); err != nil || at != space {
			continue
		}
		dir := filepath.Dir(filepath.Dir(e))
		if matches(dir, words) {
			pid, _ := strconv.Atoi(filepath.Base(dir)) // the pattern has digits only, at least to begin with
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func matches(dir string, words []string) bool {
	if len(words) == 0 {
		return true
	}
	line, err := os.ReadFile(dir + "/cmdline")
	if err != nil || bytes.HasPrefix(line, []byte("runsv")) || bytes.Contains(line, []byte("/etc/lab/init\x00")) {
		return false
	}
	for _, w := range words {
		if !strings.Contains(string(line), w) {
			return false
		}
	}
	return true
}

// Kill kills the host's processes that PIDs finds, and says how many those were.
func (h *Host) Kill(words ...string) (int, error) {
	if len(words) == 0 {
		return 0, errors.New("kill what? PowerOff kills everything")
	}
	pids := h.PIDs(words...)
	errs := make([]error, 0, len(pids))
	for _, pid := range pids {
		errs = append(errs, kill(pid))
	}
	return len(pids), errors.Join(errs...)
}

// Freeze stops the host's processes that PIDs finds, and says how many those were; without words the whole host, as
// when the lid is closed. What they start meanwhile is stopped as well. It returns when all of them stand still.
func (h *Host) Freeze(ctx context.Context, words ...string) (int, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	after := time.After(stepTime)
	stopped := map[int]bool{}
	for {
		still := true
		for _, pid := range h.PIDs(words...) {
			if stateOf(pid) == 'T' {
				continue
			}
			still = false
			stopped[pid] = true
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
				return len(stopped), err
			}
		}
		if still {
			break
		}
		select {
		case <-ctx.Done():
			return len(stopped), ctx.Err()
		case <-after:
			return len(stopped), fmt.Errorf("processes of %s do not stop", h.Name)
		case <-tick.C:
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for pid := range stopped {
		h.frozen = append(h.frozen, pid)
	}
	return len(stopped), nil
}

// Thaw lets everything run again that Freeze stopped.
func (h *Host) Thaw() error {
	h.mu.Lock()
	pids := h.frozen
	h.frozen = nil
	h.mu.Unlock()
	var errs []error
	for _, pid := range pids {
		// nsenter stops itself when what it waits for stops; it leads that one's process group.
		if group, err := syscall.Getpgid(pid); err == nil && group > 1 {
			_ = syscall.Kill(-group, syscall.SIGCONT)
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stateOf is a process's state in the kernel's letters; those that are dying count as stopped.
func stateOf(pid int) byte {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 'T'
	}
	i := bytes.LastIndexByte(data, ')')
	if i < 0 || i+2 >= len(data) {
		return 'T'
	}
	switch c := data[i+2]; c {
	case 'Z', 'X', 't':
		return 'T'
	default:
		return c
	}
}
