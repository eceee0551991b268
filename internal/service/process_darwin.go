package service

import (
	"strconv"

	"golang.org/x/sys/unix"
)

const zombie = 5 // SZOMB of sys/proc.h

// startOf reads when a process started; ok is false when there is none, or only a zombie. The time is absolute, so it
// needs no boot beside it.
func startOf(pid int) (started string, ok bool) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(info.Proc.P_pid) != pid || info.Proc.P_stat == zombie {
		return "", false
	}
	t := info.Proc.P_starttime
	return strconv.FormatInt(t.Sec, 10) + "." + strconv.FormatInt(int64(t.Usec), 10), true
}

func bootOf(string) string { return "" }

// sessionMembers lists the living processes of a session.
func sessionMembers(session int) []int {
	all, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil
	}
	var out []int
	for i := range all {
		pid := int(all[i].Proc.P_pid)
		if all[i].Proc.P_stat == zombie {
			continue
		}
		if sid, err := unix.Getsid(pid); err == nil && sid == session {
			out = append(out, pid)
		}
	}
	return out
}
