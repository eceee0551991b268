package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// Names of findings of a node that the operator's side goes on to work with.
const (
	// CheckClock has as its message the node's time, RFC 3339: only who asked can judge it (JudgeClock).
	CheckClock = "clock"
	CheckLink  = "link"
)

// selfTestTimeout bounds the start of Python and of a worker.
const selfTestTimeout = 2 * time.Minute

// NodeOptions say how to look at the node of this machine.
type NodeOptions struct {
	Home string // the node's folder, or the operator's own
	// Own says that Home is the operator's: its agent is a service beside the controller, not an installation.
	Own  bool
	OS   string // runtime.GOOS where it is empty
	Tool Tool   // RunTool where it is nil
	// Python looks at the environment of workers and says what it is; SelfTest has a worker answer. Where nil they are
	// not looked at. SelfTest is not asked where Python fails: a worker would install an environment first.
	Python, SelfTest func(ctx context.Context) (string, error)
}

// Node looks at the node of this machine: for a host's side that was asked by an operator, and for the operator's own.
// The order of findings is fixed.
func Node(ctx context.Context, o NodeOptions) []plan.Finding {
	if o.OS == "" {
		o.OS = runtime.GOOS
	}
	if o.Tool == nil {
		o.Tool = RunTool
	}
	var checks []Check
	add := func(name string, limit time.Duration, run func(context.Context) []plan.Finding) {
		checks = append(checks, Check{Name: name, Timeout: limit, Run: run})
	}
	if !o.Own {
		add("unit", 0, func(context.Context) []plan.Finding { return unit(o.Home, o.OS) })
		add("version", 0, func(context.Context) []plan.Finding { return installed(o.Home) })
		add(CheckLink, 0, func(context.Context) []plan.Finding { return link(o.Home) })
		add(CheckClock, 0, func(context.Context) []plan.Finding { return one(ok("%s", time.Now().UTC().Format(time.RFC3339Nano))) })
		add("disk", 0, func(context.Context) []plan.Finding { return Disk(o.Home) })
	}
	add("python", selfTestTimeout, func(ctx context.Context) []plan.Finding { return workers(ctx, o) })
	if o.OS == "darwin" {
		add("wired-limit", 0, func(ctx context.Context) []plan.Finding { return wiredLimit(ctx, o.Tool) })
		add("power", 0, func(ctx context.Context) []plan.Finding { return power(ctx, o.Tool) })
	}
	var out []plan.Finding
	for _, r := range Run(ctx, checks, len(checks)) {
		out = append(out, r.Findings...)
	}
	return out
}

// JudgeClock replaces the time that a node told by what is to be said of it.
func JudgeClock(findings []plan.Finding, asked, answered time.Time) []plan.Finding {
	out := make([]plan.Finding, 0, len(findings))
	for _, f := range findings {
		if there, err := time.Parse(time.RFC3339Nano, f.Message); f.Check == CheckClock && err == nil {
			f = Clock(there, asked, answered)
			f.Check = CheckClock
		}
		out = append(out, f)
	}
	return out
}

// unit says whether the agent runs.
func unit(home, system string) []plan.Finding {
	if _, err := os.Stat(filepath.Join(home, "node.json")); errors.Is(err, fs.ErrNotExist) {
		return one(fail("mlxctl up", "no agent is installed in %s", home))
	}
	l, err := readLink(home)
	if err != nil {
		return one(fail("mlxctl up", "the agent was never started: %v", err))
	}
	log := filepath.Join(home, "log", "agent.log")
	if !alive(l.PID) {
		why := "the agent is not running; it ran last at " + l.At.UTC().Format(time.RFC3339)
		if line := lastLine(log); line != "" {
			why += "; its log ends with: " + line
		}
		fix := "mlxctl up   # starts it again"
		if system == "darwin" {
			fix += "; on that Mac: tail -n 50 " + quote(log)
		}
		return one(fail(fix, "%s", why))
	}
	return one(ok("the agent runs, process %d", l.PID))
}

// installed compares the version that is installed with the one that runs.
func installed(home string) []plan.Finding {
	target, err := os.Readlink(filepath.Join(home, "current"))
	if err != nil {
		return one(fail("mlxctl up", "no version is installed in %s", home))
	}
	id := filepath.Base(target)
	if _, err := os.Stat(filepath.Join(home, "versions", id, "mlxctl")); err != nil {
		return one(fail("mlxctl up", "version %s is not whole: %v", id, err))
	}
	l, err := readLink(home)
	if err == nil && alive(l.PID) && l.Version != "" && !strings.HasPrefix(id, l.Version) {
		return one(warn("mlxctl up", "version %s is installed and %s runs", id, l.Version))
	}
	return one(ok("%s", id))
}

// link says how the agent and its controller stand.
func link(home string) []plan.Finding {
	l, err := readLink(home)
	if err != nil {
		return one(skip("the agent has not said how it stands"))
	}
	if !alive(l.PID) {
		return one(skip("the agent does not run"))
	}
	switch l.State {
	case plan.LinkConnected:
		if l.Reverse {
			return one(warn("there: System Settings → Privacy & Security → Local Network: switch mlxctl on; or sudo, as a system service needs no permission",
				"connected, but it may dial nobody on the local network: the controller dials it"))
		}
		return one(ok("connected to %s", l.URL))
	case plan.LinkDenied:
		return one(fail("System Settings → Privacy & Security → Local Network: switch mlxctl on; or run `mlxctl up` with a user that may sudo: "+
			"a system service needs no permission", "macOS lets the agent reach nobody on the local network: %s", cmp.Or(l.Error, "no route to host")))
	case plan.LinkRefused:
		return one(fail("mlxctl up   # signs its key again", "the controller does not believe this node: %s", cmp.Or(l.Error, "its credentials are not valid")))
	case plan.LinkConnecting:
	}
	return one(fail("mlxctl doctor   # on the controller's Mac: is the controller up, does a firewall block it?",
		"the agent has not reached its controller since %s: %s", l.At.UTC().Format(time.RFC3339), cmp.Or(l.Error, "no answer")))
}

func readLink(home string) (plan.Link, error) {
	var l plan.Link
	data, err := os.ReadFile(filepath.Join(home, "run", "link.json"))
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	return l, err
}

func alive(pid int) bool {
	err := unix.Kill(pid, 0)
	return pid > 0 && (err == nil || errors.Is(err, unix.EPERM))
}

// workers looks at the environment of workers and then has one answer.
func workers(ctx context.Context, o NodeOptions) []plan.Finding {
	var out []plan.Finding
	for _, step := range []struct {
		name string
		run  func(context.Context) (string, error)
	}{{"python", o.Python}, {"worker", o.SelfTest}} {
		if step.run == nil {
			continue
		}
		said, err := step.run(ctx)
		if err != nil {
			return append(out, Failure(step.name, "mlxctl up   # makes what is missing", err))
		}
		f := ok("%s", said)
		f.Check = step.name
		out = append(out, f)
	}
	return out
}

// lastLine is the end of a log, no more of it than fits into a line.
func lastLine(path string) string {
	const most = 4 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, most)
	n, _ := f.ReadAt(buf, max(0, info.Size()-most)) // short where the log is
	lines := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
	line := lines[len(lines)-1]
	return line[:min(len(line), 300)]
}
