package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is keeper and children too: its first argument says which.
func TestMain(m *testing.M) {
	if home := os.Getenv("SERVICE_TEST_HOME"); home != "" && len(os.Args) > 1 {
		os.Exit(role(home, os.Args[1], os.Args[2:]))
	}
	os.Exit(m.Run())
}

func role(home, name string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	o := options(home)
	switch name {
	case "keep":
		if len(args) == 2 {
			o.Inherit = args[1]
		}
		o.Version, o.Settings = os.Getenv("SERVICE_TEST_VERSION"), os.Getenv("SERVICE_TEST_SETTINGS")
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		if err := Keep(ctx, o); err != nil && !errors.Is(err, ErrRunning) {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		ctx = context.Background()
	case "crash":
		return 3
	}
	flags := flag.NewFlagSet("child", flag.ContinueOnError)
	lifeline, socket := flags.Int(LifelineFlag, 0, ""), flags.Int(SocketFlag, 0, "")
	if flags.Parse(args) != nil {
		return 4
	}
	ctx, finish, err := Watch(ctx, o, *lifeline)
	if err != nil {
		return 4
	}
	l, err := Listener(*socket)
	if err != nil {
		return 4
	}
	if l != nil {
		greet(ctx, finish, l)
		return 0
	}
	// A grandchild in a group of its own, as a worker is, that only the session still ties to the keeper.
	worker := exec.Command("sleep", "1000")
	worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if worker.Start() != nil {
		return 5
	}
	<-ctx.Done()
	return 0
}

// patience ends what hangs; it says nothing about how long anything may take.
const patience = time.Minute

func options(home string) Options {
	exe, _ := os.Executable()
	kind := os.Getenv("SERVICE_TEST_CHILD")
	if kind == "" {
		kind = "child"
	}
	listen := os.Getenv("SERVICE_TEST_LISTEN")
	return Options{
		Listen: listen, Home: home, Exe: exe, Versions: os.Getenv("SERVICE_TEST_VERSIONS"), Arg0: "service.test", KeepArgs: []string{"keep"},
		Children: []Child{{Name: "one", Args: []string{kind}, Listens: listen != ""}, {Name: "two", Args: []string{kind}}},
		Version:  "v1", Settings: "s1", Grace: time.Second,
		Log: slog.New(slog.DiscardHandler),
	}
}

// newHome prepares a home whose services are gone when the test ends.
func newHome(t *testing.T, child string) Options {
	t.Helper()
	home := t.TempDir()
	t.Setenv("SERVICE_TEST_HOME", home)
	t.Setenv("SERVICE_TEST_VERSION", "v1")
	t.Setenv("SERVICE_TEST_SETTINGS", "s1")
	t.Setenv("SERVICE_TEST_CHILD", child)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	o := options(home)
	t.Cleanup(func() {
		if err := Stop(context.Background(), o); err != nil {
			t.Error(err)
		}
	})
	return o
}

func start(t *testing.T, o Options) Status {
	t.Helper()
	if _, err := Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return running(t, o, nil)
}

// running waits until keeper and both children run, all with other pids than before, and each has its grandchild.
func running(t *testing.T, o Options, before []int) Status {
	t.Helper()
	var s Status
	eventually(t, "keeper and children run", func() bool {
		var err error
		if s, err = Read(o); err != nil || !s.Running || len(s.Children) != 2 {
			return false
		}
		for _, c := range s.Children {
			if c.PID == 0 || slices.Contains(before, c.PID) {
				return false
			}
		}
		return len(sessionMembers(s.Keeper.PID)) == 5
	})
	return s
}

func pids(s Status) []int {
	out := []int{s.Keeper.PID}
	for _, c := range s.Children {
		out = append(out, c.PID)
	}
	return append(out, sessionMembers(s.Keeper.PID)...)
}

func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if _, ok := startOf(pid); ok {
			t.Errorf("pid %d is left", pid)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !waitUntil(t.Context(), patience, ok) {
		t.Fatalf("never: %s", what)
	}
}

func nothingLeft(t *testing.T, o Options) {
	t.Helper()
	for _, f := range []string{"desired", "keeper.json"} {
		if _, err := os.Stat(o.run(f)); err == nil {
			t.Errorf("%s is left", f)
		}
	}
	if held, err := isHeld(o.run("keeper.lock")); held || err != nil {
		t.Errorf("keeper.lock held: %v, %v", held, err)
	}
}

func TestStartStop(t *testing.T) {
	o := newHome(t, "child")
	first := start(t, o)
	changed, err := Start(t.Context(), o)
	if err != nil || changed {
		t.Errorf("second start: changed %v, %v", changed, err)
	}
	second, _ := Read(o)
	if second.Keeper.PID != first.Keeper.PID || second.Children[0].PID != first.Children[0].PID {
		t.Errorf("second start replaced processes: %+v, then %+v", first, second)
	}
	all := pids(first)
	if err := Stop(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	gone(t, all)
	nothingLeft(t, o)
	if err := Stop(t.Context(), o); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestReplacedWhenVersionOrSettingsChange(t *testing.T) {
	o := newHome(t, "child")
	before := start(t, o)
	t.Setenv("SERVICE_TEST_VERSION", "v2")
	o.Version = "v2"
	changed, err := Start(t.Context(), o)
	if err != nil || !changed {
		t.Fatalf("new version: changed %v, %v", changed, err)
	}
	after := running(t, o, pids(before))
	gone(t, pids(before))
	t.Setenv("SERVICE_TEST_SETTINGS", "s2")
	o.Settings = "s2"
	if changed, err := Start(t.Context(), o); err != nil || !changed {
		t.Fatalf("new settings: changed %v, %v", changed, err)
	}
	running(t, o, pids(after))
}

func TestKilledChildIsStartedAgain(t *testing.T) {
	o := newHome(t, "child")
	before := start(t, o)
	_ = syscall.Kill(before.Children[0].PID, kill)
	eventually(t, "the child is back", func() bool {
		s, _ := Read(o)
		return s.Children[0].PID != 0 && s.Children[0].PID != before.Children[0].PID
	})
	s, _ := Read(o)
	if s.Keeper.PID != before.Keeper.PID || s.Children[1].PID != before.Children[1].PID ||
		s.Children[0].Restarts != 1 || s.Children[0].LastExit != "signal: killed" {
		t.Errorf("status %+v", s)
	}
}

func TestCrashLoopBacksOff(t *testing.T) {
	o := newHome(t, "crash")
	began := time.Now()
	if _, err := Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three restarts", func() bool {
		s, _ := Read(o)
		return len(s.Children) == 2 && s.Children[0].Restarts >= 3
	})
	if d := time.Since(began); d < 500*time.Millisecond {
		t.Errorf("three restarts in %v", d)
	}
	s, _ := Read(o)
	if s.Children[0].LastExit != "exit status 3" {
		t.Errorf("last exit %q", s.Children[0].LastExit)
	}
}

func TestKilledKeeperComesBackWithoutOrphans(t *testing.T) {
	o := newHome(t, "child")
	before := start(t, o)
	old := pids(before)
	_ = syscall.Kill(before.Keeper.PID, kill)
	after := running(t, o, old)
	if after.Keeper.PID == before.Keeper.PID {
		t.Error("same keeper")
	}
	gone(t, old)
}

func TestStopAfterEverythingWasKilled(t *testing.T) {
	for _, c := range []struct {
		name  string
		child string
		do    func(s Status)
	}{
		{"keeper", "child", func(s Status) { _ = syscall.Kill(s.Keeper.PID, kill) }},
		{"children", "child", func(s Status) {
			_ = syscall.Kill(s.Children[0].PID, kill)
			_ = syscall.Kill(s.Children[1].PID, kill)
		}},
		{"all", "child", func(s Status) {
			for _, p := range []int{s.Keeper.PID, s.Children[0].PID, s.Children[1].PID} {
				_ = syscall.Kill(p, kill)
			}
		}},
		{"keeper stopped", "child", func(s Status) { _ = syscall.Kill(s.Keeper.PID, syscall.SIGSTOP) }},
		{"children stopped", "child", func(s Status) {
			_ = syscall.Kill(s.Children[0].PID, syscall.SIGSTOP)
			_ = syscall.Kill(s.Children[1].PID, syscall.SIGSTOP)
		}},
		{"stubborn children", "stubborn", func(Status) {}},
		{"stubborn children, keeper killed", "stubborn", func(s Status) { _ = syscall.Kill(s.Keeper.PID, kill) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newHome(t, c.child)
			s := start(t, o)
			all := pids(s)
			c.do(s)
			if err := Stop(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			gone(t, all)
			nothingLeft(t, o)
		})
	}
}

// The record of a keeper that died long ago may name a pid that somebody else has now.
func TestStaleRecordHarmsNobody(t *testing.T) {
	o := newHome(t, "child")
	stranger := exec.Command("sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stranger.Process.Kill(); _ = stranger.Wait() })
	stale := fmt.Sprintf(`{"process":{"pid":%d,"started":%q},"version":"v1","settings":"s1"}`, stranger.Process.Pid, bootOf(self().Started)+"/1")
	for _, text := range []string{stale, "{", "", `{"process":{"pid":1,"started":"x"}}`, `{"process":{"pid":-1}}`} {
		if err := o.makeDirs(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(o.run("keeper.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Read(o); err != nil || s.Running {
			t.Errorf("%q: status %+v, %v", text, s, err)
		}
		changed, err := Start(t.Context(), o)
		if err != nil || !changed {
			t.Fatalf("%q: start: changed %v, %v", text, changed, err)
		}
		s := running(t, o, nil)
		if err := Stop(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		gone(t, pids(s))
	}
	if _, ok := startOf(stranger.Process.Pid); !ok {
		t.Error("the stranger was killed")
	}
}

// A keeper that lives writes its record anew; until then nobody starts another one beside it.
func TestDamagedRecordOfALivingKeeper(t *testing.T) {
	o := newHome(t, "child")
	first := start(t, o)
	for _, text := range []string{"{", "", `{"process":{"pid":-1}}`} {
		if err := os.WriteFile(o.run("keeper.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Settled(t.Context(), o)
		if err != nil || !s.Running || s.Keeper.PID != first.Keeper.PID {
			t.Errorf("%q: status %+v, %v", text, s, err)
		}
		if changed, err := Start(t.Context(), o); err != nil || changed {
			t.Errorf("%q: start: changed %v, %v", text, changed, err)
		}
	}
	if err := os.Remove(o.run("keeper.json")); err != nil {
		t.Fatal(err)
	}
	if err := Stop(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	gone(t, pids(first))
	nothingLeft(t, o)
}

func TestManyStartsAtOnceMakeOneKeeper(t *testing.T) {
	o := newHome(t, "child")
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			release, err := Acquire(context.Background(), o)
			if err == nil {
				_, err = Start(context.Background(), o)
				release()
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	s := running(t, o, nil)
	log, err := os.ReadFile(LogPath(o.Home, "keeper"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "child started"); n != 2 {
		t.Errorf("%d children were started:\n%s", n, log)
	}
	// Keepers that nobody's lock held back: the home's own lock does.
	for range 3 {
		ended, err := Spawn(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("surplus keeper: %v", err)
		}
	}
	if again, _ := Read(o); again.Keeper.PID != s.Keeper.PID || again.Children[0].PID != s.Children[0].PID {
		t.Errorf("replaced: %+v, then %+v", s, again)
	}
}

func TestKeeperEndsWithItsHome(t *testing.T) {
	o := newHome(t, "child")
	s := start(t, o)
	all := pids(s)
	if err := os.RemoveAll(filepath.Join(o.Home, "run")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are gone", func() bool {
		return !slices.ContainsFunc(all, func(pid int) bool { _, ok := startOf(pid); return ok })
	})
}

func TestKeeperThatCannotStart(t *testing.T) {
	o := newHome(t, "child")
	o.KeepArgs = []string{"crash"}
	_, err := Start(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "ended at once (exit status 3)") {
		t.Errorf("got %v", err)
	}
}

func TestLogRotates(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.log")
	l, err := openLog(path, 100, func(*os.File) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 39) + "\n"
	for range 7 {
		if _, err := io.WriteString(l, line); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for file, lines := range map[string]int{path: 1, path + ".1": 2} {
		data, err := os.ReadFile(file)
		if err != nil || string(data) != strings.Repeat(line, lines) {
			t.Errorf("%s: %q, %v", file, data, err)
		}
	}
}
