package cmd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
)

func writeLog(t *testing.T, home, name, text string) {
	t.Helper()
	if err := config.WriteFile(filepath.Join(home, "log", name+".log"), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	now := time.Now()
	old, recent := now.Add(-time.Hour).Format(time.RFC3339Nano), now.Format(time.RFC3339Nano)
	writeLog(t, home, "controller", "time="+old+" msg=a req=01R9\n\ttrace\ntime="+recent+" msg=b req=01R9\n\tmore\x1b[2J\n")
	writeLog(t, home, "agent", "one\ntwo\nhalf")
	rotated := filepath.Join(home, "log", "agent.log.1")
	if err := os.WriteFile(rotated, []byte("zero\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeLog(t, home, "worker-small", "w\n")
	env := map[string]string{"MLXCTL_HOME": home}
	for _, c := range []struct {
		name string
		args []string
		want result
	}{
		{"one service", []string{"agent"}, result{0, "zero\none\ntwo\nhalf\n", ""}},
		{"tail", []string{"agent", "-n", "1"}, result{0, "half\n", ""}},
		{"worker", []string{"worker-small"}, result{0, "w\n", ""}},
		{"both", []string{"-n", "1"}, result{0, "controller |     more?[2J\nagent      | half\n", ""}},
		{"since", []string{"controller", "--since", "10m"}, result{0, "time=" + recent + " msg=b req=01R9\n    more?[2J\n", ""}},
		{"a request", []string{"01R9", "-n", "1"}, result{0, "controller | time=" + recent + " msg=b req=01R9\n", ""}},
		{"a node", []string{"studio", "--source", "worker-tiny", "-n", "7"}, result{0, "time=2026-11-24T09:00:00Z msg=hello\n", ""}},
		{"a request that the cluster remembers", []string{"r-known"}, result{0, "controller | time=2026-11-24T09:00:01Z msg=\"request answered\" req=r-known\n", ""}},
		{"nothing of that name", []string{"nosuch"}, result{6, "", "mlxctl: logs: no service, node or request \"nosuch\"\nhint: services here: agent, controller, worker-small\n"}},
		{"negative", []string{"-n", "-1"}, result{2, "", "mlxctl: logs: --tail and --since must not be negative\nhint: see `mlxctl logs --help`\n"}},
	} {
		f := &fakeCluster{state: twoMacs()}
		if got := (invocation{cluster: f, env: env}).run(t, append([]string{"logs"}, c.args...)...); got != c.want {
			t.Errorf("%s: %+v", c.name, got)
		}
		if c.name == "a node" && f.logged != (logQuery{Node: "n-studio", Source: "worker-tiny", Tail: 7}) {
			t.Errorf("asked %+v", f.logged)
		}
	}
}

// followed runs what follows logs, and gives what it prints.
func followed(t *testing.T, do func(context.Context, *logsOptions, *linePrinter) error) (next func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	lines, done := make(chan string), make(chan error)
	p := &linePrinter{keep: true, out: func(s string) error {
		select {
		case lines <- s:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	go func() { done <- do(ctx, &logsOptions{follow: true, tail: 1}, p) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("following ended with %v", err)
		}
	})
	return func() string { return <-lines }
}

// Logs that are followed go on through their rotation, each under its name.
func TestLogsFollow(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	writeLog(t, home, "controller", "a\n")
	writeLog(t, home, "agent", "1\n2\n")
	agent := filepath.Join(home, "log", "agent.log")
	next := followed(t, func(ctx context.Context, opts *logsOptions, p *linePrinter) error {
		return opts.showLocal(ctx, home, []string{"controller", "agent"}, true, p)
	})
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := next(); got != w {
				t.Errorf("got %q, want %q", got, w)
			}
		}
	}
	expect("controller | a", "agent      | 2")
	appendTo(t, agent, "3\n")
	if err := os.Rename(agent, agent+".1"); err != nil {
		t.Fatal(err)
	}
	appendTo(t, agent, "4\n")
	expect("agent      | 3", "agent      | 4")
	appendTo(t, filepath.Join(home, "log", "controller.log"), "b\n")
	expect("controller | b")
}

// What a request's logs get while what was found is still being shown is shown after it.
func TestLogsFollowARequest(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	writeLog(t, home, "agent", "x req=01R9\ny\nz req=01R9\n")
	next := followed(t, func(ctx context.Context, opts *logsOptions, p *linePrinter) error {
		p.only = "01R9"
		show := p.out
		p.out = func(s string) error {
			if strings.Contains(s, "z ") {
				appendTo(t, filepath.Join(home, "log", "agent.log"), "other\nlate req=01R9\n")
			}
			return show(s)
		}
		_, err := opts.search(ctx, home, []string{"agent"}, false, p)
		return err
	})
	for _, want := range []string{"agent      | z req=01R9", "agent      | late req=01R9"} {
		if got := next(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := f.WriteString(text); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// A request that only the controller knows is followed in the logs of this machine.
func TestLogsFollowARequestThatOnlyTheControllerKnows(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	writeLog(t, home, "agent", "other\n")
	next := followed(t, func(ctx context.Context, opts *logsOptions, p *linePrinter) error {
		opts.what = "r-known"
		opts.deps = &deps{
			env: func(name string) (string, bool) {
				return home, name == "MLXCTL_HOME" || name == "MLXCTL_CACHE" || name == "HOME"
			},
			dial: func(context.Context, *config.Config) (clusterClient, error) {
				return &fakeCluster{state: twoMacs()}, nil
			},
		}
		return opts.showRemote(ctx, home, []string{"agent"}, p)
	})
	if got, want := next(), `controller | time=2026-11-24T09:00:01Z msg="request answered" req=r-known`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	appendTo(t, filepath.Join(home, "log", "agent.log"), "late req=r-known\n")
	if got, want := next(), "agent      | late req=r-known"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What cannot be known is not said to be nothing.
func TestLogsOfWhatCannotBeTold(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	writeLog(t, home, "agent", "x req=r-here\n")
	env := map[string]string{"MLXCTL_HOME": home}
	twins := twoMacs()
	twins.Nodes[0].Name = "studio"
	away := &fakeCluster{stateErr: cluster.Errorf(cluster.CodeUnreachable, "nobody answers as the controller")}
	for _, c := range []struct {
		name    string
		cluster *fakeCluster
		args    []string
		want    result
	}{
		{
			"two nodes of one name", &fakeCluster{state: twins},
			[]string{"studio"},
			result{2, "", "mlxctl: logs: 2 nodes are called \"studio\"; say which by its id: n-mini n-studio\nhint: see `mlxctl logs --help`\n"},
		},
		{
			"the controller is away", away,
			[]string{"studio"},
			result{7, "", "mlxctl: logs: ask the cluster about \"studio\", which is no service here: nobody answers as the controller\n"},
		},
		{"the controller is away, and the request was here", away, []string{"r-here"}, result{0, "agent      | x req=r-here\n", ""}},
	} {
		if got := (invocation{cluster: c.cluster, env: env}).run(t, append([]string{"logs"}, c.args...)...); got != c.want {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	nothingHere := invocation{cluster: &fakeCluster{state: twoMacs()}}.run(t, "logs", "-f", "r-known")
	if nothingHere.code != 2 || !strings.Contains(nothingHere.err, "no logs to follow") || !strings.Contains(nothingHere.out, "request answered") {
		t.Errorf("followed where there is no log: %+v", nothingHere)
	}
}
