package lab_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// spaces lists the namespaces of a process that are not this one's.
func spaces(t *testing.T, pid int) []string {
	t.Helper()
	var all []string
	for _, kind := range []string{"net", "mnt", "uts", "pid"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		if ns == own {
			t.Errorf("process %d shares %s with this machine", pid, kind)
		}
		all = append(all, ns)
	}
	return all
}

// inhabited says which of the namespaces still have a process.
func inhabited(all []string) []string {
	var left []string
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	for _, p := range paths {
		if ns, err := os.Readlink(p); err == nil && slices.Contains(all, ns) {
			left = append(left, p)
		}
	}
	return left
}

func interfaces(t *testing.T) []string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return names
}

// clean checks that nothing is left of a lab.
func clean(t *testing.T, dir string, all []string) {
	t.Helper()
	eventually(t, "namespaces are empty", func() bool { return len(inhabited(all)) == 0 })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("a mount is left, or none can be listed: %v", err)
	}
	if left, _ := filepath.Glob(dir + "*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// Labs do not see each other, and nothing is left of them.
func TestTwoLabsAndNothingLeft(t *testing.T) {
	t.Parallel()
	before := interfaces(t)
	labs := make([]*lab.Lab, 2)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range labs {
		wg.Go(func() { labs[i], errs[i] = lab.Start(t.Context(), lab.Options{Hosts: 1}) })
	}
	wg.Wait()
	var dirs []string
	var all [][]string
	for i, l := range labs {
		if errs[i] != nil {
			if err := lab.Available(t.Context()); err != nil {
				lab.New(t, lab.Options{}) // skips
			}
			t.Fatal(errs[i])
		}
		var own []string
		for _, h := range l.All() {
			own = append(own, spaces(t, h.PID())...)
		}
		dirs, all = append(dirs, l.Dir()), append(all, own)
		eventually(t, "adverts of its two hosts", func() bool {
			return len(browse(t, l.Operator, "_ssh._tcp", 1e9)) == 2
		})
	}
	if got := interfaces(t); !slices.Equal(got, before) {
		t.Errorf("this machine has %q, had %q", got, before)
	}
	// Same addresses, other machines.
	name := func(l *lab.Lab) string {
		out, err := l.SSH(t.Context(), l.Hosts[0], "cat /etc/machine-id")
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if labs[0].Hosts[0].IP() != labs[1].Hosts[0].IP() || name(labs[0]) == name(labs[1]) {
		t.Error("two labs are one")
	}
	if err := labs[0].Close(); err != nil {
		t.Error(err)
	}
	clean(t, dirs[0], all[0])
	name(labs[1])
	if err := labs[1].Close(); err != nil {
		t.Error(err)
	}
	clean(t, dirs[1], all[1])
	if err := labs[1].Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

// abandoned has another process make a lab and leave it in some way.
func abandoned(t *testing.T, how string) (cmd *exec.Cmd, dir string, all []string) {
	t.Helper()
	if err := lab.Available(t.Context()); err != nil {
		lab.New(t, lab.Options{}) // skips
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), self, "-test.run=^$")
	cmd.Env = append(os.Environ(), abandon+"="+how)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("it did not say where its lab is: %v", err)
	}
	pids := [2]int{}
	if _, err := fmt.Sscan(line, &dir, &pids[0], &pids[1]); err != nil {
		t.Fatalf("it said %q", line)
	}
	if how != "panic" { // else they may be gone
		all = append(spaces(t, pids[0]), spaces(t, pids[1])...)
	}
	return cmd, dir, all
}

func TestLabOfTheDead(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"killed", "panic"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			cmd, dir, all := abandoned(t, how)
			if how == "killed" {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); err == nil {
				t.Error("it ended well")
			}
			eventually(t, "namespaces are empty", func() bool { return len(inhabited(all)) == 0 })
			if err := lab.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			clean(t, dir, all)
		})
	}
}

func TestStandingLab(t *testing.T) {
	t.Parallel()
	cmd, dir, all := abandoned(t, "standing")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := lab.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(inhabited(all)) == 0 {
		t.Error("it does not stand")
	}
	gone, err := lab.Remove(t.Context(), dir)
	if err != nil || !slices.Equal(gone, []string{dir}) {
		t.Errorf("removed %q, %v", gone, err)
	}
	clean(t, dir, all)
}
