package cmd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// breaking is a cluster whose feed ends after one state.
type breaking struct {
	fakeCluster
	given  int
	closed bool
}

func (b *breaking) Watch(context.Context) (feed, error) { return b, nil }

func (b *breaking) Next(context.Context) (*cluster.Snapshot, []cluster.Event, error) {
	if b.given++; b.given > 1 {
		return nil, nil, errors.New("gone")
	}
	return b.state, nil, nil
}

func (b *breaking) Close() { b.closed = true }

func TestDashboardConnectsAnew(t *testing.T) {
	t.Parallel()
	var made []*breaking
	refuse := false
	f := &lastingFeed{connect: func(context.Context) (clusterClient, error) {
		if refuse {
			return nil, errors.New("nobody there")
		}
		made = append(made, &breaking{fakeCluster: fakeCluster{state: twoMacs()}})
		return made[len(made)-1], nil
	}}
	for i, want := range []bool{true, false, true, false} { // a state, the end, and so on over a new connection
		s, _, err := f.Next(t.Context())
		if (s != nil) != want || (err == nil) != want {
			t.Errorf("call %d: %v, %v", i, s, err)
		}
	}
	refuse = true
	if _, _, err := f.Next(t.Context()); err == nil {
		t.Error("no error though nobody is there")
	}
	refuse = false
	if s, _, err := f.Next(t.Context()); s == nil || err != nil {
		t.Errorf("after a refusal: %v, %v", s, err)
	}
	f.Close()
	for i, m := range made {
		if !m.closed {
			t.Errorf("connection %d is left open", i)
		}
	}
	if len(made) != 3 {
		t.Errorf("%d connections, want 3", len(made))
	}
}

func TestEndlessPromptIsRefused(t *testing.T) {
	t.Parallel()
	f := hello()
	for name, r := range map[string]result{
		"file":  invocation{cluster: f}.run(t, "run", "tiny", "-f", "/dev/zero"),
		"stdin": invocation{cluster: f, stdin: strings.Repeat("x", mostPrompt+1)}.run(t, "run", "tiny"),
	} {
		if r.code != exitUsage || !strings.Contains(r.err, "8 MiB") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if f.asked != nil {
		t.Error("it was sent")
	}
}

func TestDownIsForThisHome(t *testing.T) {
	t.Parallel()
	h := running(t)
	if r := h.run("context", "add", "other", "--home", t.TempDir()); r.code != 0 {
		t.Fatalf("context add: %+v", r)
	}
	for _, args := range [][]string{{"down", "--context", "other"}, {"down", "--purge", "--context", "other"}, {"down", "--context", "nope"}} {
		if r := h.run(args...); r.code == 0 {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := h.run("run", "tiny", countTo(3)); r.out != "1, 2, 3" {
		t.Errorf("afterwards: %+v", r)
	}
}

func TestRelativeHome(t *testing.T) {
	t.Parallel()
	enginetest.Environment(t)
	h := newHome(t)
	h.workDir = filepath.Dir(h.dir)
	h.env = append(h.env, "MLXCTL_HOME="+filepath.Base(h.dir))
	if r := h.run("up", "--local"); r.code != 0 {
		t.Fatalf("up: %+v\n%s", r, h.logs())
	}
	if r := h.run("run", "tiny", countTo(3)); r.out != "1, 2, 3" {
		t.Errorf("run: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(h.dir, filepath.Base(h.dir))); err == nil {
		t.Error("there is a home in the home")
	}
}

func TestUpMendsWhatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	h := running(t)
	if err := os.Remove(infoPath(h.dir)); err != nil {
		t.Fatal(err)
	}
	if r := h.run("up", "--local"); r.code != 0 || !strings.Contains(r.out, "is up") {
		t.Errorf("lost addresses: %+v", r)
	}
	pid := h.pid("controller")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.await("all of the controller to stand still", func() bool { return isStopped(t, pid) })
	if r := h.run("ps", "--timeout", "3s"); r.code != exitUnreachable || strings.Contains(r.err, "firewall") {
		t.Errorf("ps while the controller hangs: %+v", r)
	}
	if r := h.run("up", "--local"); r.code != 0 || !strings.Contains(r.out, "is up") {
		t.Errorf("hung controller: %+v", r)
	}
	if r := h.run("run", "tiny", countTo(3)); r.out != "1, 2, 3" {
		t.Errorf("run: %+v", r)
	}
}

// isStopped says whether no thread of a process runs: each stops when it is next looked at, not when the signal is sent.
func isStopped(t *testing.T, pid int) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ps", "-M", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	if runtime.GOOS == "linux" {
		out, err = exec.CommandContext(t.Context(), "ps", "-L", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	}
	if err != nil {
		t.Fatal(err)
	}
	states := strings.Fields(string(out))
	return len(states) > 0 && !slices.ContainsFunc(states, func(s string) bool { return !strings.HasPrefix(s, "T") })
}

func TestControllerThatCannotSayWhereItIsEnds(t *testing.T) {
	t.Parallel()
	enginetest.Environment(t)
	h := newHome(t)
	h.write("run/controller.json/in-the-way", "")
	r := h.run("up", "--local")
	if r.code != exitFailed || !strings.Contains(lastLines(r.err), "controller.json") {
		t.Errorf("up: %+v\n%s", r, h.logs())
	}
	if err := os.RemoveAll(infoPath(h.dir)); err != nil {
		t.Fatal(err)
	}
	h.await("the keeper to bring it up", func() bool { return h.run("run", "tiny", countTo(3)).out == "1, 2, 3" })
}

func TestAnotherPythonIsAnotherSetting(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.env = append(h.env, "MLXCTL_PYTHON=/bin/false")
	if r := h.run("up", "--local"); r.code != exitFailed || !strings.Contains(r.err, "MLXCTL_PYTHON") {
		t.Errorf("a Python that cannot do it: %+v", r)
	}
	if left := h.processes(); len(left) > 0 {
		t.Errorf("services were started: %v", left)
	}
}

func TestPurgeLeavesNothing(t *testing.T) {
	t.Parallel()
	h := running(t)
	h.write("config.yaml", "log_level: debug\n")
	if r := h.run("down", "--purge"); r.code != 0 || !strings.Contains(r.err, "stopped and purged; kept: "+enginetest.CacheDir(t)+"\n") {
		t.Errorf("purge: %+v", r)
	}
	if _, err := os.Stat(h.dir); !errors.Is(err, os.ErrNotExist) {
		left, _ := os.ReadDir(h.dir)
		t.Errorf("the home is left, with %v", left)
	}
	if r := h.run("down", "--purge"); r.code != 0 || strings.Contains(r.out+r.err, "purged") {
		t.Errorf("again: %+v", r)
	}
}

func TestLogsAreOfTheContextInUse(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	other := t.TempDir()
	h.write("log/controller.log", "time=2026-11-24T09:00:00Z msg=mine\n")
	if err := os.MkdirAll(filepath.Join(other, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "log", "controller.log"), []byte("time=2026-11-24T09:00:00Z msg=theirs\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := h.run("context", "add", "other", "--home", other); r.code != 0 {
		t.Fatalf("context add: %+v", r)
	}
	for _, c := range []struct {
		args []string
		want string
	}{{[]string{"logs"}, "mine"}, {[]string{"logs", "--context", "other"}, "theirs"}, {[]string{"logs", "controller", "--context", "other"}, "theirs"}} {
		if r := h.run(c.args...); r.code != 0 || !strings.Contains(r.out, c.want) {
			t.Errorf("%v: %+v, want %q", c.args, r, c.want)
		}
	}
}

func TestColourReachesTheDashboard(t *testing.T) {
	t.Parallel()
	for when, want := range map[string]string{"never": "TERM=x NO_COLOR=1", "always": "TERM=x"} {
		s, _, _, _ := iostreams.Test()
		s.SetColor(when)
		d := &deps{streams: s}
		if got := strings.Join(d.screenEnv([]string{"NO_COLOR=yes", "TERM=x"}), " "); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
}
