package service

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// startOf reads when a process started; ok is false when there is none, or only a zombie.
func startOf(pid int) (started string, ok bool) {
	fields := statOf(pid)
	// Counted from the third field of proc_pid_stat(5): state is 0, session 3, start time 19.
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", false
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = []byte("unknown")
	}
	return strings.TrimSpace(string(boot)) + "/" + fields[19], true
}

// bootOf is the part of a start that names the boot.
func bootOf(started string) string {
	boot, _, _ := strings.Cut(started, "/")
	return boot
}

// sessionMembers lists the living processes of a session.
func sessionMembers(session int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := statOf(pid); len(f) >= 20 && f[0] != "Z" && f[0] != "X" && f[3] == strconv.Itoa(session) {
			out = append(out, pid)
		}
	}
	return out
}

// statOf returns the fields after the command's name, which may itself hold spaces and brackets.
func statOf(pid int) []string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
}
