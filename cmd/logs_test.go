package cmd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

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
	writeLog(t, home, "worker-small", "w\n")
	env := map[string]string{"MLXCTL_HOME": home}
	for _, c := range []struct {
		name string
		args []string
		want result
	}{
		{"one service", []string{"agent"}, result{0, "one\ntwo\n", ""}},
		{"tail", []string{"agent", "-n", "1"}, result{0, "two\n", ""}},
		{"worker", []string{"worker-small"}, result{0, "w\n", ""}},
		{"both", []string{"-n", "1"}, result{0, "controller |     more?[2J\nagent      | two\n", ""}},
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

// A log that is followed goes on through its rotation, and a line that comes in two pieces is one line.
func TestLogTailFollowsRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.log")
	tail := &logTail{path: path}
	var got []string
	p := &linePrinter{keep: true, out: func(s string) error { got = append(got, s); return nil }}
	steps := []struct {
		do   func() error
		want string
	}{
		{func() error { return nil }, ""},
		{func() error { return os.WriteFile(path, []byte("a\nb"), 0o600) }, "a"},
		{func() error { return appendTo(path, "c\nd\n") }, "bc"},
		{func() error { return nil }, "d"},
		{func() error {
			if err := os.Rename(path, path+".1"); err != nil {
				return err
			}
			return os.WriteFile(path, []byte("e\n"), 0o600)
		}, "e"},
	}
	var want []string
	for i, s := range steps {
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		if err := tail.more(p); err != nil {
			t.Fatal(err)
		}
		if s.want != "" {
			want = append(want, s.want)
		}
		if i >= 3 && len(got) != len(want) {
			t.Fatalf("step %d: %q, want %q", i, got, want)
		}
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d: %q, want %q", i, got[i], want[i])
		}
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}
