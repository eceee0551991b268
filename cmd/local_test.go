package cmd

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/freeport"
)

func occupied(t *testing.T) (addr string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String(), l.Addr().(*net.TCPAddr).Port
}

func TestPorts(t *testing.T) {
	t.Parallel()
	taken, port := occupied(t)
	free := func() string { return freeport.Addr(t) }
	cfg := &config.Config{HTTPAddr: taken, Name: "n"}
	_, err := planServices(cfg, nil, false)
	e := cluster.AsError(err)
	if e == nil || e.Code != cluster.CodeConflict || e.Message != taken+" is in use by another process" || !strings.Contains(e.Hint, strconv.Itoa(port)) {
		t.Errorf("asked for and taken: %v", err)
	}
	// A port that was only remembered gives way; the other service gets another one.
	l, err := planServices(&config.Config{}, &localSettings{Name: "n", HTTPAddr: taken, NATSAddr: taken}, false)
	if err != nil {
		t.Fatal(err)
	}
	if l.HTTPAddr == taken || l.NATSAddr == taken || l.HTTPAddr == l.NATSAddr {
		t.Errorf("taken: %+v", l)
	}
	// The services' own ports are theirs while they run.
	l, err = planServices(&config.Config{}, &localSettings{HTTPAddr: taken, NATSAddr: taken}, true)
	if err != nil || l.HTTPAddr != taken || l.NATSAddr != taken {
		t.Errorf("running: %+v, %v", l, err)
	}
	l, err = planServices(&config.Config{HTTPAddr: "127.0.0.1:0", NATSAddr: "127.0.0.1:0"}, &localSettings{HTTPAddr: taken, NATSAddr: taken}, true)
	if err != nil || l.HTTPAddr != taken || l.NATSAddr != taken {
		t.Errorf("running on any port: %+v, %v", l, err)
	}
	was := free()
	l, err = planServices(&config.Config{}, &localSettings{HTTPAddr: was, NATSAddr: free()}, false)
	if err != nil || l.HTTPAddr != was {
		t.Errorf("remembered and free: %+v, %v", l, err)
	}
	l, err = planServices(&config.Config{HTTPAddr: "127.0.0.1:0", NATSAddr: "localhost:0"}, nil, false)
	if err != nil || strings.HasSuffix(l.HTTPAddr, ":0") || !strings.HasPrefix(l.NATSAddr, "localhost:") || strings.HasSuffix(l.NATSAddr, ":0") {
		t.Errorf("any port: %+v, %v", l, err)
	}
	if _, err = planServices(&config.Config{HTTPAddr: "192.0.2.1:80"}, nil, false); cluster.CodeOf(err) != cluster.CodeConflict || strings.Contains(err.Error(), "\n") {
		t.Errorf("not an address of this machine: %v", err)
	}
	l, err = planServices(&config.Config{NATSURL: "tls://h:1", HTTPAddr: free()}, nil, false)
	if err != nil || l.NATSAddr != "" || l.NATSURL != "tls://h:1" {
		t.Errorf("a NATS of one's own: %+v, %v", l, err)
	}
}

func TestLocalSettings(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if l, _, err := readLocal(home); l != nil || err != nil {
		t.Errorf("none: %+v, %v", l, err)
	}
	want := localSettings{Name: "n", HTTPAddr: "a", Deadlines: config.Deadlines{Gap: time.Second}, Models: config.Models{MemoryBytes: 5}}
	if err := want.write(home); err != nil {
		t.Fatal(err)
	}
	_, first, err := readLocal(home)
	if err != nil {
		t.Fatal(err)
	}
	want.LogLevel = "debug"
	if err := want.write(home); err != nil {
		t.Fatal(err)
	}
	got, second, err := readLocal(home)
	if err != nil || got.Deadlines != want.Deadlines || got.Models.MemoryBytes != 5 || first == second {
		t.Errorf("%+v, %q then %q, %v", got, first, second, err)
	}
	if err := config.WriteFile(localPath(home), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readLocal(home); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("damaged: %v", err)
	}
}

func TestFailureIsToldOnce(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if err := writeFailure(home, "agent", cluster.Errorf(cluster.CodeBadModel, "no").WithHint("h")); err != nil {
		t.Fatal(err)
	}
	if err := readFailure(home, "agent", time.Now().Add(time.Hour)); err != nil {
		t.Errorf("old failure: %v", err)
	}
	if e := cluster.AsError(readFailure(home, "agent", time.Now().Add(-time.Hour))); e == nil || e.Code != cluster.CodeBadModel || e.Hint != "h" {
		t.Errorf("fresh failure: %v", e)
	}
	if err := readFailure(home, "controller", time.Time{}); err != nil {
		t.Errorf("no failure: %v", err)
	}
}
