package agent_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func logFile(t *testing.T, home, name string) (path string, add func(text string)) {
	t.Helper()
	dir := filepath.Join(home, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, name)
	return path, func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// lines reads all lines of a log that is not followed.
func lines(t *testing.T, c *controller, q bus.LogsRequest) ([]string, error) {
	t.Helper()
	stream, err := c.open(bus.VerbLogs, q)
	if err != nil {
		return nil, err
	}
	var out []string
	for {
		var l bus.LogLine
		err := stream.Next(t.Context(), &l)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, l.Text)
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{}, nil)
	_, older := logFile(t, r.home, "agent.log.1")
	older("a\nb\n")
	_, add := logFile(t, r.home, "agent.log")
	add("c\n\nd \x1b\xff\nhalf")
	_, worker := logFile(t, r.home, "worker-org--m.log")
	worker("from the worker\n")
	long := strings.Repeat("x", 70<<10)
	_, other := logFile(t, r.home, "worker-tiny.log")
	other(long + "\n")
	for _, test := range []struct {
		q    bus.LogsRequest
		want []string
	}{
		{bus.LogsRequest{}, []string{"a", "b", "c", "", "d \x1b\uFFFD", "half"}},
		{bus.LogsRequest{Source: "agent", Tail: 3}, []string{"", "d \x1b\uFFFD", "half"}},
		{bus.LogsRequest{Source: "agent", Tail: 5}, []string{"b", "c", "", "d \x1b\uFFFD", "half"}},
		{bus.LogsRequest{Source: "agent", Tail: 1}, []string{"half"}},
		{bus.LogsRequest{Source: "agent", Tail: 1 << 62}, []string{"a", "b", "c", "", "d \x1b\uFFFD", "half"}},
		{bus.LogsRequest{Source: "worker-org/m"}, []string{"from the worker"}},
		{bus.LogsRequest{Source: "worker-org--m"}, []string{"from the worker"}},
		{bus.LogsRequest{Source: "worker-tiny"}, []string{long[:64<<10], long[64<<10:]}},
	} {
		got, err := lines(t, c, test.q)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%+v: got %.200q, %v", test.q, got, err)
		}
	}
}

func TestLogsFollow(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{}, nil)
	path, add := logFile(t, r.home, "agent.log")
	add("1\n2\n3\npar")
	stream, err := c.open(bus.VerbLogs, bus.LogsRequest{Follow: true, Tail: 2})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		var l bus.LogLine
		if err := stream.Next(t.Context(), &l); err != nil || l.Text != want {
			t.Fatalf("got %q, %v, want %q", l.Text, err, want)
		}
	}
	expect("3")
	add("t\n")
	expect("part")
	// What is written between the last look and a rotation is told, and then what the new file has.
	add("before\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add("after\n")
	expect("before")
	expect("after")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	add("new\n")
	expect("new")
}

func TestLogsFollowWaitsForTheFile(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{}, nil)
	_, add := logFile(t, r.home, "worker-tiny.log")
	stream, err := c.open(bus.VerbLogs, bus.LogsRequest{Source: "worker-tiny", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	add("here\n")
	var l bus.LogLine
	if err := stream.Next(t.Context(), &l); err != nil || l.Text != "here" {
		t.Errorf("got %q, %v", l.Text, err)
	}
}

func TestLogsOfNothing(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{}, nil)
	_, err := lines(t, c, bus.LogsRequest{})
	code(t, err, cluster.CodeInternal, "open logs")
	_, add := logFile(t, r.home, "agent.log")
	add("x\n")
	_, err = lines(t, c, bus.LogsRequest{Source: "worker-tiny"})
	code(t, err, cluster.CodeInvalid, "worker-tiny", "there are: agent")
	_, err = lines(t, c, bus.LogsRequest{Tail: -1})
	code(t, err, cluster.CodeInvalid, "tail")
}

func TestLogsStayInTheirFolder(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{}, nil)
	path, add := logFile(t, r.home, "agent.log")
	add("fine\n")
	for _, name := range []string{"controller.log", "keeper.log", ".log", "agent.log.log"} {
		_, other := logFile(t, r.home, name)
		other("not of the agent\n")
	}
	secret := filepath.Join(r.home, "secret.log")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(filepath.Dir(path), "worker-link.log")); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{
		"../secret", "worker-../secret", "worker-../../secret", "/etc/passwd", "worker-link", "controller", "keeper",
		"agent\x00", "agent/../../secret", "agent.log", "worker-", ".", "agent\n", strings.Repeat("worker-a", 100),
	} {
		got, err := lines(t, c, bus.LogsRequest{Source: source})
		if err == nil || len(got) > 0 {
			t.Errorf("%q: got %q, %v", source, got, err)
		}
	}
}

// A worker's log is named after its model.
func TestLogNames(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"":                    "agent",
		"worker-tiny":         "worker-tiny",
		"worker-org/Name_4.1": "worker-org--Name_4.1",
		"worker-a b":          "worker-a_b",
		// The mark is the begin of the sha256 of the path.
		"worker-/data/my model": "worker-my_model-5c0e68b3",
	} {
		got, err := agent.LogOf(source)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", source, got, err, want)
		}
	}
}
