package unit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// runit is a service of a runsvdir: the machine's, which takes sudo, or one of the user's own.
type runit struct {
	Spec
	dir    string // of the service
	asRoot bool   // the folder of services is not ours to write
	seen   change // by the last Status
	ended  int
}

// change is one change of what a service does, as its supervisor notes it.
type change struct {
	at  string // raw, as it is only compared
	pid int
}

var _ Driver = (*runit)(nil)

func newRunit(s Spec) *runit {
	return &runit{Spec: s, dir: filepath.Join(s.ServiceDir, s.name()), asRoot: !ours(s.ServiceDir)}
}

func (r *runit) Kind() plan.UnitKind { return plan.UnitRunit }

func (r *runit) available(ctx context.Context) error {
	if info, err := os.Stat(r.ServiceDir); err != nil || !info.IsDir() {
		return fmt.Errorf("no folder %s", r.ServiceDir)
	}
	if _, err := exec.LookPath("sv"); err != nil {
		return fmt.Errorf("no runit: %w", err)
	}
	if !isWatched(r.ServiceDir) {
		return fmt.Errorf("no runsvdir runs for %s", r.ServiceDir)
	}
	if r.asRoot {
		return r.mayRoot(ctx)
	}
	return nil
}

// isWatched says that a runsvdir runs for a folder: a machine that merely has the package installed has the folder too.
func isWatched(dir string) bool {
	want, err := os.Stat(dir)
	if err != nil {
		return false
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	for _, path := range lines {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		args := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		if filepath.Base(args[0]) != "runsvdir" {
			continue
		}
		for _, arg := range args[1:] {
			if info, err := os.Stat(arg); err == nil && os.SameFile(info, want) {
				return true
			}
		}
	}
	return false
}

// control runs a command that changes or asks a service; even to ask takes the right to.
func (r *runit) control(ctx context.Context, args ...string) error {
	_, err := r.ask(ctx, args...)
	return err
}

func (r *runit) ask(ctx context.Context, args ...string) (string, error) {
	return r.askWith(ctx, "", args...)
}

func (r *runit) askWith(ctx context.Context, stdin string, args ...string) (string, error) {
	if r.asRoot {
		return r.rootWith(ctx, stdin, args...)
	}
	return command(ctx, stdin, args...)
}

func (r *runit) Text() ([]byte, error) {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# mlxctl's; see `mlxctl nodes`\n")
	for _, v := range r.environment() {
		fmt.Fprintf(&b, "export %s=%s\n", v.Name, quote(v.Value))
	}
	b.WriteString("cd \"$HOME\" || exit 1\nulimit -n 65536 2>/dev/null || :\n")
	// What was never committed is taken away while its unit stays, which may take sudo: then there is nothing to run, and
	// runit would try it once a second.
	run := `umask 077; [ -x "$MLXCTL_HOME/current/mlxctl" ] || exec sleep 5; mkdir -p "$MLXCTL_HOME/log"; exec "$MLXCTL_HOME/current/mlxctl" agent >>"$MLXCTL_HOME/log/agent.log" 2>&1`
	if r.asRoot || (r.euid == 0 && r.UID != 0) {
		fmt.Fprintf(&b, "exec chpst -u %s sh -c '%s'\n", quote(r.User), run)
	} else {
		b.WriteString(run + "\n")
	}
	return []byte(b.String()), nil
}

func (r *runit) Installed() ([]byte, error) { return readFile(filepath.Join(r.dir, "run")) }

func (r *runit) Install(ctx context.Context, text []byte) error {
	// A service is picked up as soon as its folder is there, so the folder comes whole, and down.
	folder := r.dir
	if _, err := os.Stat(r.dir); err != nil {
		folder = filepath.Join(r.ServiceDir, "."+r.name()+".new")
		for _, args := range [][]string{{"rm", "-rf", folder}, {"mkdir", "-m", "0755", folder}, {"touch", filepath.Join(folder, "down")}} {
			if err := r.control(ctx, args...); err != nil {
				return fmt.Errorf("install unit: %w", err)
			}
		}
	}
	run := func(stdin string, args ...string) error {
		_, err := r.askWith(ctx, stdin, args...)
		return err
	}
	if err := put(run, filepath.Join(folder, "run"), "0755", "", text); err != nil {
		return fmt.Errorf("install unit: %w", err)
	}
	if folder == r.dir {
		return nil
	}
	if err := r.control(ctx, "mv", folder, r.dir); err != nil {
		return fmt.Errorf("install unit: %w", err)
	}
	return nil
}

func (r *runit) Start(ctx context.Context) error {
	err := await(ctx, startWait, "runit did not pick the service up", func() (bool, error) {
		s, err := r.Status(ctx)
		return s.Loaded, err
	})
	if err != nil {
		return err
	}
	if err := r.end(ctx); err != nil {
		return fmt.Errorf("start unit: %w", err)
	}
	if err := r.control(ctx, "rm", "-f", filepath.Join(r.dir, "down")); err != nil {
		return fmt.Errorf("start unit: %w", err)
	}
	// A word that comes while the service still changes can be lost.
	err = await(ctx, startWait, "runit did not start the service", func() (bool, error) {
		if err := r.control(ctx, "sv", "up", r.dir); err != nil {
			return false, fmt.Errorf("start unit: %w", err)
		}
		out, err := r.status(ctx, r.dir)
		return strings.Contains(out, ", want up") || (strings.HasPrefix(out, "run: ") && !strings.Contains(out, ", want down")), err
	})
	r.seen, r.ended = r.lastChange(ctx), 0
	return err
}

// end has the process go, and waits until it is gone.
func (r *runit) end(ctx context.Context) error {
	return await(ctx, endWait, "the service did not end", func() (bool, error) {
		out, err := r.status(ctx, r.dir)
		if err != nil || (strings.HasPrefix(out, "down: ") && !strings.Contains(out, ", want up")) {
			return true, err
		}
		return false, r.control(ctx, "sv", "-w", endSeconds, "force-stop", r.dir)
	})
}

func (r *runit) Stop(ctx context.Context) error {
	if _, err := os.Stat(r.dir); err != nil {
		return nil
	}
	if err := r.control(ctx, "touch", filepath.Join(r.dir, "down")); err != nil { // else it is back after the next start of the machine
		return fmt.Errorf("stop unit: %w", err)
	}
	s, err := r.Status(ctx)
	if err != nil || !s.Loaded {
		return err
	}
	if err := r.end(ctx); err != nil {
		return fmt.Errorf("stop unit: %w", err)
	}
	return nil
}

func (r *runit) Remove(ctx context.Context) error {
	if err := r.Stop(ctx); err != nil {
		return err
	}
	// Out of runsvdir's sight first, which else would start its runsv again.
	gone := filepath.Join(r.ServiceDir, "."+r.name()+".gone")
	_, err := os.Lstat(r.dir)
	if err == nil {
		if err = r.control(ctx, "rm", "-rf", gone); err == nil {
			err = r.control(ctx, "mv", r.dir, gone)
		}
		if err != nil {
			return fmt.Errorf("remove unit: %w", err)
		}
	} else if _, err := os.Lstat(gone); err != nil {
		return nil
	}
	err = await(ctx, startWait, "runit did not let go of the service", func() (bool, error) {
		_ = r.control(ctx, "sv", "-w", "1", "exit", gone) // it may have noticed by itself
		out, err := r.status(ctx, gone)
		return !isLoaded(out), err
	})
	if err == nil {
		err = r.control(ctx, "rm", "-rf", gone)
	}
	if err != nil {
		return fmt.Errorf("remove unit: %w", err)
	}
	return nil
}

var runitPID = regexp.MustCompile(`^run: .*\(pid (\d+)\)`)

func (r *runit) Status(ctx context.Context) (Status, error) {
	if _, err := os.Stat(r.dir); err != nil {
		return Status{}, nil
	}
	out, err := r.status(ctx, r.dir)
	if err != nil {
		return Status{}, err
	}
	s := Status{Loaded: isLoaded(out)}
	_, err = os.Stat(filepath.Join(r.dir, "down"))
	s.Wanted = err != nil
	if m := runitPID.FindStringSubmatch(out); m != nil {
		s.Running = true
		s.PID, _ = strconv.Atoi(m[1]) // it is all digits
	}
	if s.Wanted {
		s.Ended = r.countEnds(r.lastChange(ctx))
	}
	return s, nil
}

// countEnds compares with what the last look saw: whatever ran then and does not now has ended, and so has what ran in between.
func (r *runit) countEnds(now change) int {
	before := r.seen
	if now.at == "" || now == before {
		return r.ended
	}
	r.seen = now
	if before.at != "" && (before.pid != 0 || now.pid == 0) {
		r.ended++
	}
	return r.ended
}

// lastChange reads what runsv notes for sv: a moment of 12 bytes, the process, and more. runsv rests for a second after one
// that did not even last so long, so that each such end is there to be seen. It is zero where it cannot be read.
func (r *runit) lastChange(ctx context.Context) change {
	const most = 16
	path := filepath.Join(r.dir, "supervise", "status")
	var data string
	if r.asRoot {
		data, _ = r.rootOutput(ctx, "cat", path)
	} else {
		raw, _ := os.ReadFile(path)
		data = string(raw)
	}
	if len(data) < most {
		return change{}
	}
	return change{data[:12], int(binary.LittleEndian.Uint32([]byte(data[12:most])))}
}

// isLoaded says that a runsv answered.
func isLoaded(status string) bool {
	return strings.HasPrefix(status, "run: ") || strings.HasPrefix(status, "down: ") || strings.HasPrefix(status, "finish: ")
}

// status is what sv says of a service. Its exit code says no more.
func (r *runit) status(ctx context.Context, dir string) (string, error) {
	out, err := r.ask(ctx, "sv", "status", dir)
	if f, ok := errors.AsType[*failed](err); ok && f.code < 0 {
		return "", cluster.Errorf(cluster.CodeInternal, "look at unit: %v", err)
	}
	return out, nil
}

// ours says that this user may write in a folder.
func ours(dir string) bool { return unix.Access(dir, unix.W_OK) == nil }
